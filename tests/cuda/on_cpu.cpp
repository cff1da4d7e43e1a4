// The CUDA kernels of src/inference/accelerator on the CPU, for tests: a shared library with one function, `launch`.
//
// Blocks run one after the other; a block's threads are coroutines that change over where they wait for each other. Between two places where all
// wait, one warp runs to its end before the next begins, in an order that is drawn anew each time, so that a kernel that forgets to wait reads
// what is not there yet, or no more. Shared memory is NaN at first, exactly as large as was asked for, and what stands behind it cannot be touched.

#include <setjmp.h>
#include <ucontext.h>

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#define __device__ static
#define __global__
#define __launch_bounds__(threads)
#define __restrict__
#define SHARED(type, name) type *name = reinterpret_cast<type *>(shared_memory)

struct dim3 {
    unsigned x, y, z;
};
struct float2 {
    float x, y;
};
struct float4 {
    float x, y, z, w;
};
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
using std::max;
using std::min;
using __half = _Float16;
struct __half2 {
    __half x, y;
};
static float2 __half22float2(__half2 x) { return {(float)x.x, (float)x.y}; }
static __half __float2half_rn(float x) { return (__half)x; }

dim3 blockIdx, blockDim, threadIdx;
char *shared_memory;

namespace on_cpu {

constexpr unsigned LANES = 32;
constexpr size_t STACK = 64 << 10;

enum class Wait { No, Block, Warp, Done };

// A thread begins by a context, which costs calls to the kernel, and changes over by jumps, which cost none.
struct Thread {
    ucontext_t begin;
    jmp_buf place;
    bool begun;
    std::unique_ptr<char[]> stack;
    Wait wait;
};

struct Block {
    std::vector<Thread> threads;
    std::vector<float> exchanged;
    ucontext_t idle;
    jmp_buf scheduler;
    unsigned running = 0;
    void (*kernel)(const void *) = nullptr;
    const void *arguments = nullptr;
};

Block block;

// Not inlined: what a kernel read of the threads' numbers must be read again after it.
__attribute__((noinline)) void wait(Wait what) {
    Thread &thread = block.threads[block.running];
    thread.wait = what;
    if (_setjmp(thread.place) == 0) _longjmp(block.scheduler, 1);
}

// Lets a thread run until it waits.
__attribute__((noinline)) void resume(unsigned which) {
    Thread &thread = block.threads[which];
    block.running = which;
    threadIdx = {which, 0, 0};
    if (_setjmp(block.scheduler) != 0) return;
    if (thread.begun) _longjmp(thread.place, 1);
    thread.begun = true;
    swapcontext(&block.idle, &thread.begin);
}

void body() {
    block.kernel(block.arguments);
    wait(Wait::Done);
}

bool all_wait(unsigned first, unsigned count, Wait what) {
    for (unsigned t = first; t < first + count; t++) {
        if (block.threads[t].wait != what) return false;
    }
    return true;
}

void release(unsigned first, unsigned count, Wait from) {
    for (unsigned t = first; t < first + count; t++) {
        if (block.threads[t].wait == from) block.threads[t].wait = Wait::No;
    }
}

// Runs a warp until all of it waits for the block, is done, or waits for lanes that never come.
void run_warp(unsigned first) {
    for (;;) {
        bool any = false;
        for (unsigned t = first; t < first + LANES; t++) {
            if (block.threads[t].wait != Wait::No) continue;
            any = true;
            resume(t);
        }
        if (all_wait(first, LANES, Wait::Warp)) {
            release(first, LANES, Wait::Warp);
        } else if (!any) {
            return;
        }
    }
}

// Runs one block. False: some threads wait for others that never come.
bool run(unsigned count, std::mt19937_64 &random) {
    for (Thread &thread : block.threads) {
        getcontext(&thread.begin);
        thread.begin.uc_stack.ss_sp = thread.stack.get();
        thread.begin.uc_stack.ss_size = STACK;
        thread.begin.uc_link = nullptr;
        makecontext(&thread.begin, body, 0);
        thread.begun = false;
        thread.wait = Wait::No;
    }
    std::vector<unsigned> warps;
    for (unsigned first = 0; first < count; first += LANES) warps.push_back(first);
    while (!all_wait(0, count, Wait::Done)) {
        // One warp runs as far as it can before the next begins, in an order that is drawn anew whenever all have met.
        std::shuffle(warps.begin(), warps.end(), random);
        for (unsigned first : warps) run_warp(first);
        if (!all_wait(0, count, Wait::Block) && !all_wait(0, count, Wait::Done)) return false;
        release(0, count, Wait::Block);
    }
    return true;
}

// Memory of which the last byte is followed by a page that must not be touched.
struct Guarded {
    char *pages;
    size_t bytes;
    char *start;

    explicit Guarded(size_t size) {
        const size_t page = sysconf(_SC_PAGESIZE);
        bytes = (size + page - 1) / page * page + page;
        pages = static_cast<char *>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        if (pages == MAP_FAILED) std::abort();
        mprotect(pages + bytes - page, page, PROT_NONE);
        start = pages + bytes - page - size;
    }
    ~Guarded() { munmap(pages, bytes); }
};

} // namespace on_cpu

static void __syncthreads() { on_cpu::wait(on_cpu::Wait::Block); }

static float __shfl_xor_sync(unsigned, float x, unsigned other) {
    using namespace on_cpu;
    const unsigned self = block.running;
    block.exchanged[self] = x;
    wait(Wait::Warp);
    const float got = block.exchanged[self ^ other];
    wait(Wait::Warp);
    return got;
}

#include "../../src/inference/accelerator/attention/fused/attention.cu"

// Runs a kernel. Returns 0, 1 where there is no such kernel, 2 where its threads wait for each other for ever, 3 where a block is not whole warps.
extern "C" int launch(const char *name, unsigned grid_x, unsigned grid_y, unsigned threads, unsigned shared_bytes, const void *arguments,
                      uint64_t seed) {
    on_cpu::Block &block = on_cpu::block;
    struct Kernel {
        const char *name;
        void (*run)(const void *);
    };
#define ENTRY(kernel) {#kernel, [](const void *a) { kernel(*static_cast<const Arguments *>(a)); }}
    static const Kernel kernels[] = {
        ENTRY(place_f32),      ENTRY(place_f16),      ENTRY(attend_64_f32),  ENTRY(attend_64_f16), ENTRY(attend_128_f32),
        ENTRY(attend_128_f16), ENTRY(attend_256_f32), ENTRY(attend_256_f16), ENTRY(merge_8),       ENTRY(merge_16),
    };
    block.kernel = nullptr;
    for (const Kernel &kernel : kernels) {
        if (std::string(kernel.name) == name) block.kernel = kernel.run;
    }
    if (block.kernel == nullptr) return 1;
    if (threads == 0 || threads % on_cpu::LANES != 0) return 3;
    std::mt19937_64 random(seed);
    on_cpu::Guarded memory(shared_bytes);
    shared_memory = memory.start;
    blockDim = {threads, 1, 1};
    block.arguments = arguments;
    block.exchanged.assign(threads, 0.0f);
    while (block.threads.size() < threads) block.threads.push_back({{}, {}, false, std::make_unique<char[]>(on_cpu::STACK), on_cpu::Wait::No});
    block.threads.resize(threads);
    for (unsigned y = 0; y < grid_y; y++) {
        for (unsigned x = 0; x < grid_x; x++) {
            blockIdx = {x, y, 0};
            // All ones are a NaN.
            memset(shared_memory, 0xff, shared_bytes);
            if (!on_cpu::run(threads, random)) return 2;
        }
    }
    return 0;
}
