//! The products with NEON and its instruction for sums of 8-bit products (SDOT), which processors have from ARMv8.4 on and some
//! before. The sums are the same integers as everywhere else.

use core::arch::aarch64::*;
use core::arch::asm;

use super::neon::{QUARTERS, add_product, halves, load, nibbles, store};
use super::*;

/// Adds the products of four inputs of four outputs with the four bytes in lane `LANE` of `a`. The intrinsic `vdotq_laneq_s32`
/// is not in stable Rust yet (rust-lang/rust#117224).
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot<const LANE: i32>(mut sum: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
    // SAFETY: touches nothing but these registers, and the CPU has the instruction.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {a:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            a = in(vreg) a,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Adds the products of 16 inputs.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot_16(sum: int32x4_t, w: [int8x16_t; 4], a: int8x16_t) -> int32x4_t {
    let sum = dot::<1>(dot::<0>(sum, w[0], a), w[1], a);
    dot::<3>(dot::<2>(sum, w[2], a), w[3], a)
}

/// The inputs of a row in a block, in two registers.
#[inline]
#[target_feature(enable = "neon")]
fn inputs(q: &[i32; 8]) -> [int8x16_t; 2] {
    let from: *const i8 = q.as_ptr().cast();
    // SAFETY: 32 bytes in two halves.
    unsafe { [vld1q_s8(from), vld1q_s8(from.add(16))] }
}

/// The sums of four outputs over a block.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn q8_sums<const N: usize>(tile: &Q8Tile, quarter: usize, q: &[[int8x16_t; 2]; N]) -> [int32x4_t; N] {
    let mut sums = [vdupq_n_s32(0); N];
    for (half, groups) in tile.q.as_chunks::<4>().0.iter().enumerate() {
        let [w0, w1, w2, w3] = groups;
        let w = [load(w0, quarter), load(w1, quarter), load(w2, quarter), load(w3, quarter)];
        for i in 0..N {
            sums[i] = dot_16(sums[i], w, q[i][half]);
        }
    }
    sums
}

/// The sums of four outputs over a block.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn q4_sums<const N: usize>(tile: &Q4Tile, quarter: usize, q: &[[int8x16_t; 2]; N]) -> [int32x4_t; N] {
    let mut sums = [vdupq_n_s32(0); N];
    for (half, groups) in tile.q.as_chunks::<2>().0.iter().enumerate() {
        let [first, second] = [nibbles(load(&groups[0], quarter)), nibbles(load(&groups[1], quarter))];
        let w = [first[0], first[1], second[0], second[1]];
        for i in 0..N {
            sums[i] = dot_16(sums[i], w, q[i][half]);
        }
    }
    sums
}

#[target_feature(enable = "neon,dotprod")]
pub(super) fn q8_rows<const N: usize>(tiles: &[Q8Tile], a: &Activations, row: usize, out: &mut [[f32; COLUMNS]; ROWS]) {
    let blocks: [&[[i32; 8]]; N] = row_blocks(a, &a.q, row);
    let scales: [&[f32]; N] = row_blocks(a, &a.scale, row);
    let mut y = [[vdupq_n_f32(0.0); N]; QUARTERS];
    for (b, tile) in tiles.iter().enumerate() {
        let mut q = [[vdupq_n_s8(0); 2]; N];
        for i in 0..N {
            q[i] = inputs(&blocks[i][b]);
        }
        for (quarter, y) in y.iter_mut().enumerate() {
            let sums = q8_sums(tile, quarter, &q);
            let scale = halves(&tile.scale, quarter);
            for i in 0..N {
                y[i] = add_product(y[i], sums[i], scale, scales[i][b]);
            }
        }
    }
    store(&y, out);
}

#[target_feature(enable = "neon,dotprod")]
pub(super) fn q4_rows<const N: usize>(tiles: &[Q4Tile], a: &Activations, row: usize, out: &mut [[f32; COLUMNS]; ROWS]) {
    let blocks: [&[[i32; 8]]; N] = row_blocks(a, &a.q, row);
    let scales: [&[f32]; N] = row_blocks(a, &a.scale, row);
    let totals: [&[i32]; N] = row_blocks(a, &a.total, row);
    let mut y = [[vdupq_n_f32(0.0); N]; QUARTERS];
    for (b, tile) in tiles.iter().enumerate() {
        let mut q = [[vdupq_n_s8(0); 2]; N];
        for i in 0..N {
            q[i] = inputs(&blocks[i][b]);
        }
        for (quarter, y) in y.iter_mut().enumerate() {
            let sums = q4_sums(tile, quarter, &q);
            let (scale, offset) = (halves(&tile.scale, quarter), halves(&tile.offset, quarter));
            for i in 0..N {
                let product = add_product(y[i], sums[i], scale, scales[i][b]);
                let shift = vmulq_n_f32(offset, scales[i][b] * totals[i][b] as f32);
                y[i] = vaddq_f32(product, shift);
            }
        }
    }
    store(&y, out);
}
