// Attention of a ragged batch in three launches a layer: `place` turns queries and keys by their positions and stores keys and values, `attend`
// computes each item of the plan (plan.rs), `merge` puts together what several items found for the same queries. All sums are in single
// precision and in an order that depends on a sequence's own rows alone, whatever else is in the batch.
//
// The softmax is computed along the way, as FlashAttention does (Dao et al. 2022, arXiv 2205.14135, algorithm 1), and long contexts are split
// between blocks when there are few queries (Flash-Decoding, Dao et al. 2023).
//
// The same source is compiled for the CPU by tests/cuda/on_cpu.cpp, which is how it is tested where there is no GPU.

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define SHARED(type, name) extern __shared__ __align__(16) type name[]
#endif

// As in launch.rs and plan.rs, in the same order.
struct Row {
    // Address of the sequence's keys and values: layers × 2 × kv heads × room × head_dim.
    long long kv;
    long long room;
    long long position;
};

// Queries of one sequence that share keys: for each of its rows, in order, the heads of a group. `count` of them from `first` on look at the
// positions from `begin` to before `end`.
struct Item {
    // The sequence's first row in the batch.
    long long row;
    long long first;
    long long count;
    long long begin;
    long long end;
    // Tokens that a row sees, itself included; 0: all.
    long long window;
    // Where the result goes: a number among the parts, or −1 for the output.
    long long part;
};

// The parts of one item's queries.
struct Merge {
    long long row;
    long long first;
    long long count;
    long long part;
    long long parts;
};

struct Arguments {
    // rows × heads × head_dim, rows × kv heads × head_dim twice.
    const float *queries;
    const float *keys;
    const float *values;
    // rows × head_dim / 2.
    const float *cosines;
    const float *sines;
    const Row *rows;
    const Item *items;
    const Merge *merges;
    // As `queries`.
    float *turned;
    // Of each part, kv head and query: head_dim sums, the largest score, the sum of the weights.
    float *parts;
    // As `queries`.
    float *out;
    int heads;
    int kv_heads;
    int head_dim;
    int layer;
    // Whether a pair's numbers stand next to each other, or half a head apart.
    int neighbours;
    float scale;
};

namespace {

constexpr int LANES = 32;
constexpr int WARPS = 4;
// Positions that a block looks at at once: one a lane.
constexpr int POSITIONS = LANES;
// What half precision holds; beyond is stored as this.
constexpr float HALF_MAX = 65504.0f;

__device__ void store(float *place, float x) { *place = x; }
__device__ void store(__half *place, float x) { *place = __float2half_rn(fminf(fmaxf(x, -HALF_MAX), HALF_MAX)); }

__device__ float4 load4(const float *place) { return *reinterpret_cast<const float4 *>(place); }
__device__ float4 load4(const __half *place) {
    const float2 a = __half22float2(reinterpret_cast<const __half2 *>(place)[0]);
    const float2 b = __half22float2(reinterpret_cast<const __half2 *>(place)[1]);
    return make_float4(a.x, a.y, b.x, b.y);
}

__device__ float warp_max(float x) {
    for (int other = LANES / 2; other > 0; other /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, other));
    return x;
}

__device__ float warp_sum(float x) {
    for (int other = LANES / 2; other > 0; other /= 2) x += __shfl_xor_sync(0xffffffffu, x, other);
    return x;
}

// One head's keys (`which` 0) or values (1) in this layer.
template <typename Stored>
__device__ Stored *head_of(const Arguments &a, const Row &row, int which, int head) {
    const long long index = ((long long)a.layer * 2 + which) * a.kv_heads + head;
    return reinterpret_cast<Stored *>(row.kv) + index * row.room * a.head_dim;
}

// Where a query's numbers begin in `turned` and `out`: of all rows from `row` on, the heads that share the keys of `kv_head`, counted through.
__device__ long long head_at(const Arguments &a, int row, int kv_head, int query) {
    const int group = a.heads / a.kv_heads;
    return ((long long)(row + query / group) * a.heads + kv_head * group + query % group) * a.head_dim;
}

// Grid: rows × (heads + 2 kv heads).
template <typename Stored>
__device__ void place(const Arguments &a) {
    const int row = blockIdx.x, pairs = a.head_dim / 2;
    const bool is_query = (int)blockIdx.y < a.heads;
    const bool is_key = !is_query && (int)blockIdx.y < a.heads + a.kv_heads;
    const int head = blockIdx.y - (is_query ? 0 : is_key ? a.heads : a.heads + a.kv_heads);
    const float *of = is_query ? a.queries : is_key ? a.keys : a.values;
    const float *x = of + ((long long)row * (is_query ? a.heads : a.kv_heads) + head) * a.head_dim;
    float *turned = a.turned + ((long long)row * a.heads + head) * a.head_dim;
    Stored *stored = nullptr;
    if (!is_query) stored = head_of<Stored>(a, a.rows[row], is_key ? 0 : 1, head) + a.rows[row].position * a.head_dim;
    for (int pair = threadIdx.x; pair < pairs; pair += blockDim.x) {
        const int i = a.neighbours ? 2 * pair : pair, j = a.neighbours ? i + 1 : pair + pairs;
        float p = x[i], q = x[j];
        if (is_query || is_key) {
            const float cosine = a.cosines[(long long)row * pairs + pair], sine = a.sines[(long long)row * pairs + pair];
            const float turned_p = p * cosine - q * sine;
            q = p * sine + q * cosine;
            p = turned_p;
        }
        if (is_query) {
            turned[i] = p * a.scale;
            turned[j] = q * a.scale;
        } else {
            store(stored + i, p);
            store(stored + j, q);
        }
    }
}

// Fills a tile of POSITIONS × `WIDTH + 4` with the positions from `begin` to before `end`, zeros behind them and behind head_dim.
template <typename Stored, int WIDTH>
__device__ void fill(float *tile, const Stored *stored, int begin, int end, int head_dim) {
    constexpr int FOURS = WIDTH / 4;
    for (int i = threadIdx.x; i < POSITIONS * FOURS; i += WARPS * LANES) {
        const int position = i / FOURS, d = i % FOURS * 4;
        float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (begin + position < end && d < head_dim) four = load4(stored + (long long)(begin + position) * head_dim + d);
        float *to = tile + position * (WIDTH + 4) + d;
        to[0] = four.x;
        to[1] = four.y;
        to[2] = four.z;
        to[3] = four.w;
    }
}

// Grid: items × kv heads. WIDTH: head_dim or the next size. QUERIES: the most that an item has. Warp w has the queries w, w + WARPS, …
// In scores a lane is a position, in outputs every LANES-th number of a head.
template <typename Stored, int WIDTH, int QUERIES>
__device__ void attend(const Arguments &a) {
    constexpr int EACH = QUERIES / WARPS, COLUMNS = WIDTH / LANES, STRIDE = WIDTH + 4;
    SHARED(float, shared);
    float *tile = shared, *queries = tile + POSITIONS * STRIDE, *weights = queries + QUERIES * WIDTH;
    const Item &item = a.items[blockIdx.x];
    const int row = (int)item.row, first = (int)item.first, count = (int)item.count, end = (int)item.end, window = (int)item.window;
    const int kv_head = blockIdx.y, group = a.heads / a.kv_heads, head_dim = a.head_dim;
    const int warp = threadIdx.x / LANES, lane = threadIdx.x % LANES;
    const Stored *keys = head_of<Stored>(a, a.rows[row], 0, kv_head), *values = head_of<Stored>(a, a.rows[row], 1, kv_head);

    for (int i = threadIdx.x; i < QUERIES * WIDTH; i += WARPS * LANES) {
        const int query = i / WIDTH, d = i % WIDTH;
        queries[i] = query < count && d < head_dim ? a.turned[head_at(a, row, kv_head, first + query) + d] : 0.0f;
    }

    // What each query sees: from `from[e]` to before `to[e]`; nothing where there is no such query.
    int from[EACH], to[EACH];
    float largest[EACH], sum[EACH], out[EACH][COLUMNS];
#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const int query = warp + e * WARPS, after = (int)a.rows[row].position + (first + query) / group + 1;
        to[e] = query < count ? min(after, end) : 0;
        from[e] = window > 0 ? max(after - window, 0) : 0;
        largest[e] = -INFINITY;
        sum[e] = 0.0f;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) out[e][c] = 0.0f;
    }

    for (int begin = (int)item.begin; begin < end; begin += POSITIONS) {
        __syncthreads();
        fill<Stored, WIDTH>(tile, keys, begin, end, head_dim);
        __syncthreads();
        float score[EACH];
#pragma unroll
        for (int e = 0; e < EACH; e++) score[e] = 0.0f;
        for (int d = 0; d < WIDTH; d += 4) {
            const float4 key = load4(tile + lane * STRIDE + d);
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                const float4 query = load4(queries + (warp + e * WARPS) * WIDTH + d);
                score[e] += query.x * key.x + query.y * key.y + query.z * key.z + query.w * key.w;
            }
        }
        const int position = begin + lane;
#pragma unroll
        for (int e = 0; e < EACH; e++) {
            const bool seen = position >= from[e] && position < to[e];
            const float before = largest[e];
            largest[e] = fmaxf(before, warp_max(seen ? score[e] : -INFINITY));
            const float weight = seen ? expf(score[e] - largest[e]) : 0.0f;
            // Before anything was seen there is nothing to correct, and −∞ less −∞ is no number.
            const float correction = before == -INFINITY ? 0.0f : expf(before - largest[e]);
            sum[e] = sum[e] * correction + warp_sum(weight);
            weights[(warp + e * WARPS) * POSITIONS + lane] = weight;
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) out[e][c] *= correction;
        }
        __syncthreads();
        fill<Stored, WIDTH>(tile, values, begin, end, head_dim);
        __syncthreads();
#pragma unroll 4
        for (int p = 0; p < POSITIONS; p++) {
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                const float value = tile[p * STRIDE + c * LANES + lane];
#pragma unroll
                for (int e = 0; e < EACH; e++) out[e][c] += weights[(warp + e * WARPS) * POSITIONS + p] * value;
            }
        }
    }

#pragma unroll
    for (int e = 0; e < EACH; e++) {
        const int query = warp + e * WARPS;
        if (query >= count) continue;
        float *place = a.out + head_at(a, row, kv_head, first + query);
        float divisor = sum[e];
        if (item.part >= 0) {
            place = a.parts + ((item.part * a.kv_heads + kv_head) * QUERIES + query) * (head_dim + 2);
            divisor = 1.0f;
            if (lane == 0) {
                place[head_dim] = largest[e];
                place[head_dim + 1] = sum[e];
            }
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            if (c * LANES + lane < head_dim) place[c * LANES + lane] = out[e][c] / divisor;
        }
    }
}

// Grid: merges × kv heads. A part of which a query sees nothing has −∞ as its largest score, and counts nothing; its own token every query sees.
template <int QUERIES>
__device__ void merge(const Arguments &a) {
    const Merge item = a.merges[blockIdx.x];
    const int kv_head = blockIdx.y, head_dim = a.head_dim;
    const long long next = (long long)a.kv_heads * QUERIES * (head_dim + 2);
    for (int query = 0; query < item.count; query++) {
        const float *first = a.parts + ((item.part * a.kv_heads + kv_head) * QUERIES + query) * (head_dim + 2);
        float *out = a.out + head_at(a, (int)item.row, kv_head, (int)item.first + query);
        float largest = -INFINITY, sum = 0.0f;
        for (long long p = 0; p < item.parts; p++) largest = fmaxf(largest, first[p * next + head_dim]);
        for (long long p = 0; p < item.parts; p++) {
            sum += first[p * next + head_dim + 1] * expf(first[p * next + head_dim] - largest);
        }
        for (int d = threadIdx.x; d < head_dim; d += blockDim.x) {
            float x = 0.0f;
            for (long long p = 0; p < item.parts; p++) x += first[p * next + d] * expf(first[p * next + head_dim] - largest);
            out[d] = x / sum;
        }
    }
}

} // namespace

#define KERNEL(name, ...) \
    extern "C" __global__ void __launch_bounds__(WARPS * LANES) name(const Arguments arguments) { __VA_ARGS__(arguments); }

KERNEL(place_f32, place<float>)
KERNEL(place_f16, place<__half>)
KERNEL(attend_64_f32, attend<float, 64, 16>)
KERNEL(attend_64_f16, attend<__half, 64, 16>)
KERNEL(attend_128_f32, attend<float, 128, 16>)
KERNEL(attend_128_f16, attend<__half, 128, 16>)
KERNEL(attend_256_f32, attend<float, 256, 8>)
KERNEL(attend_256_f16, attend<__half, 256, 8>)
KERNEL(merge_8, merge<8>)
KERNEL(merge_16, merge<16>)
