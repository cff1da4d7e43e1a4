//! Products of quantized activations with weight tiles.
//!
//! For output `n` and blocks `b` in order: `y = y + float(Σ q_w·q_a) · (scale_w · scale_a)`, where the inner sum is an exact
//! integer; 4-bit tiles then add `offset_w · (scale_a · Σ q_a)`. Nothing else is ever added, so a row's result is the same
//! alone, in a batch, and on every instruction set.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_dot;

use super::Simd;
use super::quant::{BLOCK, COLUMNS, Q4Tile, Q8Tile, Tiles, f16_to_f32};
use crate::pool::{Disjoint, ThreadPool};

/// Rows of activations in 8 bits: `x ≈ scale · q` in blocks of 32 inputs.
pub struct Activations {
    rows: usize,
    /// Blocks in a row.
    blocks: usize,
    /// From -127 to 127, four in an integer (little endian), as the kernels broadcast them.
    q: Vec<[i32; BLOCK / 4]>,
    scale: Vec<f32>,
    /// `Σ q` of each block.
    total: Vec<i32>,
}

/// Where quantized blocks go.
struct Blocks<'a> {
    q: &'a mut [[i32; BLOCK / 4]],
    scale: &'a mut [f32],
    total: &'a mut [i32],
}

/// Rows that are computed at once at most.
const ROWS: usize = 8;

/// Tiles that one row alone asks for ahead of their use, 4 to 6.5 KiB: it waits for memory. Several rows have more to do with a tile.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 12;

/// Asks for the tile that lies [`AHEAD`] of tile `b`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn ask_ahead<T>(tiles: &[T], b: usize) {
    // The next column follows in memory, so the end of this one is no reason to stop.
    super::prefetch(tiles.as_ptr().wrapping_add(b + AHEAD).cast(), size_of::<T>());
}

impl Activations {
    /// Quantizes the rows of `x`, each of `inputs` elements (a multiple of 32).
    pub fn quantize(simd: Simd, pool: &ThreadPool, x: &[f32], inputs: usize) -> Self {
        let count = x.len() / BLOCK;
        let (mut q, mut scale, mut total) = (vec![[0; BLOCK / 4]; count], vec![0.0; count], vec![0; count]);
        let parts = (Disjoint::new(&mut q), Disjoint::new(&mut scale), Disjoint::new(&mut total));
        // A block takes some 20 ns, so less than a few hundred of them are not worth waking anyone.
        let part = count.div_ceil(pool.threads()).max(256);
        pool.run(count.div_ceil(part), |index| {
            let (first, count) = (index * part, part.min(count - index * part));
            let x = &x[first * BLOCK..(first + count) * BLOCK];
            // SAFETY: parts of different indices do not overlap.
            let (q, scale, total) =
                unsafe { (parts.0.slice(first, count), parts.1.slice(first, count), parts.2.slice(first, count)) };
            quantize_blocks(simd, x, Blocks { q, scale, total });
        });
        Self { rows: x.len() / inputs, blocks: inputs / BLOCK, q, scale, total }
    }
}

/// Quantizes whole blocks. The step is the largest magnitude / 127 and rounding is to the nearest, ties to even. A block
/// with a number that is not finite gets a scale that is not a number, so that the damage shows in the logits.
fn quantize_blocks(simd: Simd, x: &[f32], blocks: Blocks) {
    match simd {
        // SAFETY, here and in the next: `Simd::available` has seen that the CPU has the features.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 | Simd::Avx512 => unsafe { avx2::quantize_blocks(x, blocks) },
        #[cfg(target_arch = "aarch64")]
        Simd::Neon | Simd::NeonDot => unsafe { neon::quantize_blocks(x, blocks) },
        Simd::Portable => {
            let Blocks { q, scale, total } = blocks;
            for (((x, q), scale), total) in x.chunks_exact(BLOCK).zip(q).zip(scale).zip(total) {
                let largest = x.iter().fold(0f32, |most, x| if x.abs() > most { x.abs() } else { most });
                let finite = x.iter().all(|x| x.is_finite());
                let (step, inverse) = step(largest, finite);
                (*scale, *total) = (step, 0);
                for (x, q) in x.chunks_exact(4).zip(q) {
                    let rounded: [i32; 4] =
                        std::array::from_fn(|i| if finite { round_ties_even(x[i] * inverse) } else { 0 });
                    *q = i32::from_le_bytes(rounded.map(|q| q as i8 as u8));
                    *total += rounded.iter().sum::<i32>();
                }
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
        Tiles::Q8(tiles) => all_rows(simd, &tiles[range], a, emit),
        Tiles::Q4(tiles) => all_rows(simd, &tiles[range], a, emit),
    }
}

/// Several rows at a time, so that weights that were loaded are used for each.
fn all_rows<T: Tile>(simd: Simd, tiles: &[T], a: &Activations, mut emit: impl FnMut(usize, &[f32; COLUMNS])) {
    let mut row = 0;
    while row < a.rows {
        let mut out = [[0.0; COLUMNS]; ROWS];
        let count = match a.rows - row {
            8.. if simd.has_many_registers() => T::rows::<8>(simd, tiles, a, row, &mut out),
            4.. => T::rows::<4>(simd, tiles, a, row, &mut out),
            3 => T::rows::<3>(simd, tiles, a, row, &mut out),
            2 => T::rows::<2>(simd, tiles, a, row, &mut out),
            _ => T::rows::<1>(simd, tiles, a, row, &mut out),
        };
        out[..count].iter().enumerate().for_each(|(i, out)| emit(row + i, out));
        row += count;
    }
}

trait Tile: Sized {
    /// Computes the outputs of one column of tiles for `N` rows from `row` on; returns `N`.
    fn rows<const N: usize>(
        simd: Simd,
        tiles: &[Self],
        a: &Activations,
        row: usize,
        out: &mut [[f32; COLUMNS]; ROWS],
    ) -> usize;
}

impl Tile for Q8Tile {
    fn rows<const N: usize>(
        simd: Simd,
        tiles: &[Self],
        a: &Activations,
        row: usize,
        out: &mut [[f32; COLUMNS]; ROWS],
    ) -> usize {
        match simd {
            // SAFETY, here and in the next: `Simd::available` has seen that the CPU has the features.
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => unsafe { avx512::q8_rows::<N>(tiles, a, row, out) },
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => unsafe { avx2::q8_rows::<N>(tiles, a, row, out) },
            #[cfg(target_arch = "aarch64")]
            Simd::NeonDot => unsafe { neon_dot::q8_rows::<N>(tiles, a, row, out) },
            #[cfg(target_arch = "aarch64")]
            Simd::Neon => unsafe { neon::q8_rows::<N>(tiles, a, row, out) },
            Simd::Portable => portable_rows::<N, Self>(tiles, a, row, out),
        }
        N
    }
}

impl Tile for Q4Tile {
    fn rows<const N: usize>(
        simd: Simd,
        tiles: &[Self],
        a: &Activations,
        row: usize,
        out: &mut [[f32; COLUMNS]; ROWS],
    ) -> usize {
        match simd {
            // SAFETY, here and in the next: `Simd::available` has seen that the CPU has the features.
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => unsafe { avx512::q4_rows::<N>(tiles, a, row, out) },
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => unsafe { avx2::q4_rows::<N>(tiles, a, row, out) },
            #[cfg(target_arch = "aarch64")]
            Simd::NeonDot => unsafe { neon_dot::q4_rows::<N>(tiles, a, row, out) },
            #[cfg(target_arch = "aarch64")]
            Simd::Neon => unsafe { neon::q4_rows::<N>(tiles, a, row, out) },
            Simd::Portable => portable_rows::<N, Self>(tiles, a, row, out),
        }
        N
    }
}

/// The blocks of `N` rows: quantized inputs, scales or totals.
#[inline(always)]
fn row_blocks<'a, const N: usize, T>(a: &Activations, all: &'a [T], row: usize) -> [&'a [T]; N] {
    std::array::from_fn(|i| &all[(row + i) * a.blocks..][..a.blocks])
}

/// The two groups that share the bytes of a 4-bit tile.
#[inline(always)]
fn pairs_of(q: &[i32; 8]) -> &[[i32; 2]; 4] {
    // SAFETY: the same 32 bytes.
    unsafe { &*std::ptr::from_ref(q).cast() }
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
    out: &mut [[f32; COLUMNS]; ROWS],
) {
    for (i, out) in out.iter_mut().enumerate().take(N) {
        for (b, tile) in tiles.iter().enumerate() {
            let block = (row + i) * a.blocks + b;
            let q: [i8; BLOCK] = std::array::from_fn(|i| a.q[block][i / 4].to_le_bytes()[i % 4] as i8);
            for (output, y) in out.iter_mut().enumerate() {
                *y += tile.dot(output, &q) as f32 * (tile.scale(output) * a.scale[block]);
                if let Some(offset) = tile.offset(output) {
                    *y += offset * (a.scale[block] * a.total[block] as f32);
                }
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
            for rows in 1..=17 {
                let mut x = floats(rows as u64, rows * blocks * BLOCK);
                // Full-scale activations of one sign: the largest possible integer sums.
                x[..BLOCK].fill(if rows % 2 == 0 { -3.0 } else { 3.0 });
                let portable = outputs(Simd::Portable, &tiles, columns, &x, rows, blocks * BLOCK);
                for simd in Simd::available() {
                    let fast = outputs(simd, &tiles, columns, &x, rows, blocks * BLOCK);
                    assert_eq!(portable, fast, "{rows} rows with {simd:?}");
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        let (blocks, rows) = (4, 15);
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
        assert_eq!(p.total, d.total);
        assert!(p.scale[1].is_nan() && p.scale[2].is_nan() && p.scale[0] == 0.0);
    }
}
