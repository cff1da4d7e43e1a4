//! Products of quantized activations with weight tiles.
//!
//! For output `n` and blocks `b` in order: `y = y + float(Σ q_w·q_a) · (scale_w · scale_a)`, where the inner sum is an exact
//! integer; 4-bit tiles then add `offset_w · (scale_a · Σ q_a)`. Nothing else is ever added, so a row's result is the same
//! alone, in a batch, and on every instruction set.

use super::Simd;
use super::quant::{BLOCK, COLUMNS, Q4Tile, Q8Tile, Tiles, f16_to_f32};
use crate::inference::pool::{Disjoint, ThreadPool};

/// Rows of activations in 8 bits: `x ≈ scale · q` in blocks of 32 inputs.
pub struct Activations {
    rows: usize,
    /// Blocks in a row.
    blocks: usize,
    /// From -127 to 127, four in an integer (little endian), as the kernels broadcast them.
    q: Vec<[i32; BLOCK / 4]>,
    scale: Vec<f32>,
    /// `scale · Σ q` of each block.
    sum: Vec<f32>,
}

impl Activations {
    /// Quantizes the rows of `x`, each of `inputs` elements (a multiple of 32).
    pub fn quantize(simd: Simd, pool: &ThreadPool, x: &[f32], inputs: usize) -> Self {
        let total = x.len() / BLOCK;
        let (mut q, mut scale, mut sum) = (vec![[0; BLOCK / 4]; total], vec![0.0; total], vec![0.0; total]);
        let parts = (Disjoint::new(&mut q), Disjoint::new(&mut scale), Disjoint::new(&mut sum));
        // A block takes some 20 ns, so less than a few hundred of them are not worth waking anyone.
        let part = total.div_ceil(pool.threads()).max(256);
        pool.run(total.div_ceil(part), |index| {
            let (first, count) = (index * part, part.min(total - index * part));
            let x = &x[first * BLOCK..(first + count) * BLOCK];
            // SAFETY: parts of different indices do not overlap.
            let (q, scale, sum) =
                unsafe { (parts.0.slice(first, count), parts.1.slice(first, count), parts.2.slice(first, count)) };
            quantize_blocks(simd, x, q, scale, sum);
        });
        Self { rows: x.len() / inputs, blocks: inputs / BLOCK, q, scale, sum }
    }
}

/// Quantizes whole blocks. The step is the largest magnitude / 127 and rounding is to the nearest, ties to even. A block
/// with a number that is not finite gets a scale that is not a number, so that the damage shows in the logits.
fn quantize_blocks(simd: Simd, x: &[f32], q: &mut [[i32; BLOCK / 4]], scale: &mut [f32], sum: &mut [f32]) {
    match simd {
        // SAFETY: `Simd::detect` has seen that the CPU has AVX2.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => unsafe { avx2::quantize_blocks(x, q, scale, sum) },
        Simd::Portable => {
            let blocks = x.chunks_exact(BLOCK).zip(q).zip(scale).zip(sum);
            for (((x, q), scale), sum) in blocks {
                let largest = x.iter().fold(0f32, |most, x| if x.abs() > most { x.abs() } else { most });
                let finite = x.iter().all(|x| x.is_finite());
                let (step, inverse) = step(largest, finite);
                let mut total = 0i32;
                for (x, q) in x.chunks_exact(4).zip(q) {
                    let rounded: [i32; 4] =
                        std::array::from_fn(|i| if finite { round_ties_even(x[i] * inverse) } else { 0 });
                    *q = i32::from_le_bytes(rounded.map(|q| q as i8 as u8));
                    total += rounded.iter().sum::<i32>();
                }
                (*scale, *sum) = (step, step * total as f32);
            }
        }
    }
}

/// The scale of a block and the factor that maps it to ±127. Blocks too small for the factor to be finite become zero.
#[inline(always)]
fn step(largest: f32, finite: bool) -> (f32, f32) {
    if !finite {
        (f32::NAN, 0.0)
    } else if largest < 1e-30 {
        (0.0, 0.0)
    } else {
        (largest / 127.0, 127.0 / largest)
    }
}

/// Rounds |x| < 2^22 to the nearest integer, ties to even, without a call to the C library.
#[inline(always)]
fn round_ties_even(x: f32) -> i32 {
    const ROUND: f32 = 12_582_912.0;
    ((x + ROUND) - ROUND) as i32
}

/// Computes 16 neighbouring outputs (`column` counts groups of 16) of every row. `emit` receives the row and its outputs.
pub fn matmul_column(
    simd: Simd,
    tiles: &Tiles,
    column: usize,
    a: &Activations,
    emit: impl FnMut(usize, &[f32; COLUMNS]),
) {
    let range = column * a.blocks..(column + 1) * a.blocks;
    match tiles {
        Tiles::Q8(tiles) => rows_in_fours(simd, &tiles[range], a, emit),
        Tiles::Q4(tiles) => rows_in_fours(simd, &tiles[range], a, emit),
    }
}

fn rows_in_fours<T: Tile>(simd: Simd, tiles: &[T], a: &Activations, mut emit: impl FnMut(usize, &[f32; COLUMNS])) {
    let mut row = 0;
    while row < a.rows {
        let count = (a.rows - row).min(4);
        let mut out = [[0.0; COLUMNS]; 4];
        match count {
            4 => T::rows::<4>(simd, tiles, a, row, &mut out),
            3 => T::rows::<3>(simd, tiles, a, row, &mut out),
            2 => T::rows::<2>(simd, tiles, a, row, &mut out),
            _ => T::rows::<1>(simd, tiles, a, row, &mut out),
        }
        out[..count].iter().enumerate().for_each(|(i, out)| emit(row + i, out));
        row += count;
    }
}

trait Tile: Sized {
    /// Computes the outputs of one column of tiles for `N` rows from `row` on.
    fn rows<const N: usize>(simd: Simd, tiles: &[Self], a: &Activations, row: usize, out: &mut [[f32; COLUMNS]; 4]);
}

impl Tile for Q8Tile {
    fn rows<const N: usize>(simd: Simd, tiles: &[Self], a: &Activations, row: usize, out: &mut [[f32; COLUMNS]; 4]) {
        match simd {
            // SAFETY: `Simd::detect` has seen that the CPU has the features.
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => unsafe { avx2::q8_rows::<N>(tiles, a, row, out) },
            Simd::Portable => portable_rows::<N, Self>(tiles, a, row, out),
        }
    }
}

impl Tile for Q4Tile {
    fn rows<const N: usize>(simd: Simd, tiles: &[Self], a: &Activations, row: usize, out: &mut [[f32; COLUMNS]; 4]) {
        match simd {
            // SAFETY: `Simd::detect` has seen that the CPU has the features.
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => unsafe { avx2::q4_rows::<N>(tiles, a, row, out) },
            Simd::Portable => portable_rows::<N, Self>(tiles, a, row, out),
        }
    }
}

/// What the definition needs of a tile.
trait Definition {
    fn dot(&self, output: usize, q: &[i8; BLOCK]) -> i32;
    fn scale(&self, output: usize) -> f32;
    fn offset(&self, output: usize) -> Option<f32>;
}

impl Definition for Q8Tile {
    fn dot(&self, output: usize, q: &[i8; BLOCK]) -> i32 {
        self.q(output).iter().zip(q).map(|(w, a)| i32::from(*w) * i32::from(*a)).sum()
    }
    fn scale(&self, output: usize) -> f32 {
        f16_to_f32(self.scale[output])
    }
    fn offset(&self, _: usize) -> Option<f32> {
        None
    }
}

impl Definition for Q4Tile {
    fn dot(&self, output: usize, q: &[i8; BLOCK]) -> i32 {
        self.q(output).iter().zip(q).map(|(w, a)| i32::from(*w) * i32::from(*a)).sum()
    }
    fn scale(&self, output: usize) -> f32 {
        f16_to_f32(self.scale[output])
    }
    fn offset(&self, output: usize) -> Option<f32> {
        Some(f16_to_f32(self.offset[output]))
    }
}

/// The definition itself, in plain Rust.
fn portable_rows<const N: usize, T: Definition>(
    tiles: &[T],
    a: &Activations,
    row: usize,
    out: &mut [[f32; COLUMNS]; 4],
) {
    for (i, out) in out.iter_mut().enumerate().take(N) {
        for (b, tile) in tiles.iter().enumerate() {
            let block = (row + i) * a.blocks + b;
            let q: [i8; BLOCK] = std::array::from_fn(|i| a.q[block][i / 4].to_le_bytes()[i % 4] as i8);
            for (output, y) in out.iter_mut().enumerate() {
                *y += tile.dot(output, &q) as f32 * (tile.scale(output) * a.scale[block]);
                if let Some(offset) = tile.offset(output) {
                    *y += offset * a.sum[block];
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::*;
    use core::arch::x86_64::*;

    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn quantize_blocks(x: &[f32], q: &mut [[i32; BLOCK / 4]], scale: &mut [f32], sum: &mut [f32]) {
        let blocks = x.as_chunks::<BLOCK>().0.iter().zip(q).zip(scale).zip(sum);
        let magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff));
        let infinity = _mm256_set1_ps(f32::INFINITY);
        for (((x, q), scale), sum) in blocks {
            // SAFETY: a block has 32 floats; loads are unaligned.
            let x: [__m256; 4] = std::array::from_fn(|i| unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) });
            let absolute = x.map(|x| _mm256_and_ps(x, magnitude));
            let finite = absolute.iter().all(|x| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(*x, infinity)) == 0xff);
            let pairs = [_mm256_max_ps(absolute[0], absolute[1]), _mm256_max_ps(absolute[2], absolute[3])];
            let mut lanes = [0.0f32; 8];
            // SAFETY: eight floats.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_max_ps(pairs[0], pairs[1])) };
            let largest = lanes.iter().fold(0f32, |most, x| if *x > most { *x } else { most });
            let (step, inverse) = step(largest, finite);
            let inverse = _mm256_set1_ps(inverse);
            let rounded = x.map(|x| {
                let q = _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse));
                if finite { q } else { _mm256_setzero_si256() }
            });
            let total =
                _mm256_add_epi32(_mm256_add_epi32(rounded[0], rounded[1]), _mm256_add_epi32(rounded[2], rounded[3]));
            let mut totals = [0i32; 8];
            // SAFETY: eight integers, then 32 bytes.
            unsafe {
                _mm256_storeu_si256(totals.as_mut_ptr().cast(), total);
                let low = _mm256_packs_epi32(rounded[0], rounded[1]);
                let high = _mm256_packs_epi32(rounded[2], rounded[3]);
                // The packs interleave 128-bit halves; the permutation puts the eight quads back in order.
                let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
                _mm256_storeu_si256(q.as_mut_ptr().cast(), bytes);
            }
            (*scale, *sum) = (step, step * totals.iter().sum::<i32>() as f32);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(bytes: &[u8; 32]) -> __m256i {
        // SAFETY: exactly the 32 bytes.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    }

    /// Scales or offsets of all outputs, in two halves.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    fn halves(bits: &[u16; COLUMNS]) -> [__m256; 2] {
        // SAFETY: exactly the 32 bytes.
        let both = unsafe { _mm256_loadu_si256(bits.as_ptr().cast()) };
        [_mm256_cvtph_ps(_mm256_castsi256_si128(both)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(both))]
    }

    /// The blocks of `N` rows: quantized inputs, scales and sums.
    #[inline]
    fn row_blocks<'a, const N: usize, T>(a: &Activations, all: &'a [T], row: usize) -> [&'a [T]; N] {
        std::array::from_fn(|i| &all[(row + i) * a.blocks..][..a.blocks])
    }

    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn q8_rows<const N: usize>(
        tiles: &[Q8Tile],
        a: &Activations,
        row: usize,
        out: &mut [[f32; COLUMNS]; 4],
    ) {
        let ones = _mm256_set1_epi16(1);
        let mut y = [[_mm256_setzero_ps(); 2]; N];
        let q: [&[[i32; 8]]; N] = row_blocks(a, &a.q, row);
        let scales: [&[f32]; N] = row_blocks(a, &a.scale, row);
        for (b, tile) in tiles.iter().enumerate() {
            let q: [&[i32; 8]; N] = std::array::from_fn(|i| &q[i][b]);
            let mut sum = [[_mm256_setzero_si256(); 2]; N];
            for (group, w) in tile.q.iter().enumerate() {
                let w = [load(&w[0]), load(&w[1])];
                for (q, sum) in q.iter().zip(&mut sum) {
                    let a = _mm256_set1_epi32(q[group]);
                    let magnitude = _mm256_abs_epi8(a);
                    for (w, sum) in w.iter().zip(sum) {
                        // |a|·(w·sign a): pairs stay below 2·127², which fits 16 bits.
                        let pairs = _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(*w, a));
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones));
                    }
                }
            }
            let scale = halves(&tile.scale);
            for i in 0..N {
                let step = _mm256_set1_ps(scales[i][b]);
                for half in 0..2 {
                    let product = _mm256_mul_ps(_mm256_cvtepi32_ps(sum[i][half]), _mm256_mul_ps(scale[half], step));
                    y[i][half] = _mm256_add_ps(y[i][half], product);
                }
            }
        }
        store(&y, out);
    }

    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn q4_rows<const N: usize>(
        tiles: &[Q4Tile],
        a: &Activations,
        row: usize,
        out: &mut [[f32; COLUMNS]; 4],
    ) {
        let ones = _mm256_set1_epi16(1);
        let mask = _mm256_set1_epi8(15);
        let mut y = [[_mm256_setzero_ps(); 2]; N];
        let q: [&[[i32; 8]]; N] = row_blocks(a, &a.q, row);
        let scales: [&[f32]; N] = row_blocks(a, &a.scale, row);
        let sums: [&[f32]; N] = row_blocks(a, &a.sum, row);
        for (b, tile) in tiles.iter().enumerate() {
            let q: [&[[i32; 2]; 4]; N] = std::array::from_fn(|i| pairs_of(&q[i][b]));
            // 16-bit sums of 8 pairs: at most 8·2·15·127, which fits.
            let mut sum = [[_mm256_setzero_si256(); 2]; N];
            for (group, w) in tile.q.iter().enumerate() {
                let both = [load(&w[0]), load(&w[1])];
                let low = both.map(|w| _mm256_and_si256(w, mask));
                let high = both.map(|w| _mm256_and_si256(_mm256_srli_epi16::<4>(w), mask));
                for (q, sum) in q.iter().zip(&mut sum) {
                    let a = [_mm256_set1_epi32(q[group][0]), _mm256_set1_epi32(q[group][1])];
                    for half in 0..2 {
                        let first = _mm256_maddubs_epi16(low[half], a[0]);
                        let second = _mm256_maddubs_epi16(high[half], a[1]);
                        sum[half] = _mm256_add_epi16(sum[half], _mm256_add_epi16(first, second));
                    }
                }
            }
            let (scale, offset) = (halves(&tile.scale), halves(&tile.offset));
            for i in 0..N {
                let (step, shift) = (_mm256_set1_ps(scales[i][b]), _mm256_set1_ps(sums[i][b]));
                for half in 0..2 {
                    let total = _mm256_cvtepi32_ps(_mm256_madd_epi16(sum[i][half], ones));
                    let product = _mm256_mul_ps(total, _mm256_mul_ps(scale[half], step));
                    let shift = _mm256_mul_ps(offset[half], shift);
                    y[i][half] = _mm256_add_ps(_mm256_add_ps(y[i][half], product), shift);
                }
            }
        }
        store(&y, out);
    }

    /// The two groups that share the bytes of a 4-bit tile.
    #[inline]
    fn pairs_of(q: &[i32; 8]) -> &[[i32; 2]; 4] {
        // SAFETY: the same 32 bytes.
        unsafe { &*std::ptr::from_ref(q).cast() }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store<const N: usize>(y: &[[__m256; 2]; N], out: &mut [[f32; COLUMNS]; 4]) {
        for (y, out) in y.iter().zip(out) {
            // SAFETY: sixteen floats in two halves.
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), y[0]);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), y[1]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator, so that tests need no randomness of the machine.
    fn noise(seed: u64) -> impl FnMut() -> u32 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32
        }
    }

    fn floats(seed: u64, count: usize) -> Vec<f32> {
        let mut next = noise(seed);
        (0..count).map(|_| (next() as f32 / (1u32 << 30) as f32 - 1.0) * 4.0).collect()
    }

    fn q8(seed: u64, count: usize) -> Vec<Q8Tile> {
        let mut next = noise(seed);
        let mut tile = || {
            let mut tile = Q8Tile::ZERO;
            for output in 0..COLUMNS {
                let q = std::array::from_fn(|i| if i == 3 { 127 } else { (next() % 255) as i32 as i8 });
                tile.set(output, 0x2000 + (next() % 4096) as u16, &q);
            }
            tile
        };
        (0..count).map(|_| tile()).collect()
    }

    fn q4(seed: u64, count: usize) -> Vec<Q4Tile> {
        let mut next = noise(seed);
        let mut tile = || {
            let mut tile = Q4Tile::ZERO;
            for output in 0..COLUMNS {
                let q = std::array::from_fn(|i| if i < 16 { 15 } else { (next() % 16) as u8 });
                tile.set(output, 0x2000 + (next() % 4096) as u16, 0xa000 + (next() % 4096) as u16, &q);
            }
            tile
        };
        (0..count).map(|_| tile()).collect()
    }

    fn outputs(simd: Simd, tiles: &Tiles, columns: usize, x: &[f32], rows: usize, inputs: usize) -> Vec<u32> {
        let pool = ThreadPool::new(2).unwrap();
        let a = Activations::quantize(simd, &pool, x, inputs);
        let mut out = vec![0u32; rows * columns * COLUMNS];
        for column in 0..columns {
            matmul_column(simd, tiles, column, &a, |row, y| {
                let at = (row * columns + column) * COLUMNS;
                out[at..at + COLUMNS].iter_mut().zip(y).for_each(|(to, y)| *to = y.to_bits());
            });
        }
        out
    }

    #[test]
    fn all_instances_agree_to_the_bit_for_every_number_of_rows() {
        let (blocks, columns) = (6, 3);
        for tiles in [Tiles::Q8(q8(1, blocks * columns)), Tiles::Q4(q4(2, blocks * columns))] {
            for rows in 1..=9 {
                let mut x = floats(rows as u64, rows * blocks * BLOCK);
                // Full-scale activations of one sign: the largest possible integer sums.
                x[..BLOCK].fill(if rows % 2 == 0 { -3.0 } else { 3.0 });
                let portable = outputs(Simd::Portable, &tiles, columns, &x, rows, blocks * BLOCK);
                assert_eq!(portable, outputs(Simd::detect(), &tiles, columns, &x, rows, blocks * BLOCK), "{rows} rows");
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let (blocks, rows) = (4, 7);
        let tiles = Tiles::Q8(q8(3, blocks));
        let x = floats(4, rows * blocks * BLOCK);
        let together = outputs(Simd::detect(), &tiles, 1, &x, rows, blocks * BLOCK);
        for (row, x) in x.chunks_exact(blocks * BLOCK).enumerate() {
            let alone = outputs(Simd::detect(), &tiles, 1, x, 1, blocks * BLOCK);
            assert_eq!(alone, together[row * COLUMNS..(row + 1) * COLUMNS]);
        }
    }

    #[test]
    fn the_product_is_close_to_the_exact_one() {
        let blocks = 5;
        for tiles in [Tiles::Q8(q8(5, blocks)), Tiles::Q4(q4(6, blocks))] {
            let x = floats(7, blocks * BLOCK);
            let y = outputs(Simd::detect(), &tiles, 1, &x, 1, blocks * BLOCK);
            for (output, y) in y.iter().enumerate() {
                let weights: Vec<f32> = match &tiles {
                    Tiles::Q8(tiles) => tiles.iter().flat_map(|t| t.weights(output)).collect(),
                    Tiles::Q4(tiles) => tiles.iter().flat_map(|t| t.weights(output)).collect(),
                };
                let exact: f64 = weights.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                let size: f64 = weights.iter().zip(&x).map(|(w, x)| (f64::from(*w) * f64::from(*x)).abs()).sum();
                assert!((f64::from(f32::from_bits(*y)) - exact).abs() < 0.01 * size);
            }
        }
    }

    #[test]
    fn odd_blocks_are_quantized_alike_on_all_instances() {
        let mut x = vec![0f32; 5 * BLOCK];
        x[3] = 1e-35;
        x[BLOCK] = f32::NAN;
        x[2 * BLOCK + 31] = f32::INFINITY;
        x[3 * BLOCK..4 * BLOCK].iter_mut().enumerate().for_each(|(i, x)| *x = i as f32 - 0.5);
        x[4 * BLOCK] = f32::MAX;
        let [p, d] = [Simd::Portable, Simd::detect()]
            .map(|simd| Activations::quantize(simd, &ThreadPool::new(1).unwrap(), &x, x.len()));
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(p.q, d.q);
        assert_eq!(bits(&p.scale), bits(&d.scale));
        assert_eq!(bits(&p.sum), bits(&d.sum));
        assert!(p.scale[1].is_nan() && p.scale[2].is_nan() && p.scale[0] == 0.0);
    }
}
