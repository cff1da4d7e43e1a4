//! The products with NEON alone, as every 64-bit ARM processor has it. One register holds four inputs of four outputs, a
//! quarter of a group of inputs of a tile; the quarters are computed one after the other.

use core::arch::aarch64::*;

use super::*;

/// Registers that hold the outputs of a tile.
pub(super) const QUARTERS: usize = COLUMNS / 4;

#[target_feature(enable = "neon")]
pub(super) fn quantize_blocks(x: &[f32], blocks: Blocks) {
    let Blocks { q, scale, total } = blocks;
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(q).zip(scale).zip(total);
    for (((x, q), scale), total) in blocks {
        // SAFETY: a block has 32 floats; loads are unaligned.
        let x: [float32x4_t; BLOCK / 4] = std::array::from_fn(|i| unsafe { vld1q_f32(x.as_ptr().add(4 * i)) });
        // This maximum is NaN where one of its operands is.
        let largest = vmaxvq_f32(x.iter().fold(vdupq_n_f32(0.0), |most, x| vmaxq_f32(most, vabsq_f32(*x))));
        let (step, inverse) = step(largest, largest < f32::INFINITY);
        // Where the block is not finite, `inverse` is zero and products are zero or NaN. Both become the integer 0.
        let rounded = x.map(|x| vcvtnq_s32_f32(vmulq_n_f32(x, inverse)));
        let bytes = |first: usize| {
            let low = vcombine_s16(vmovn_s32(rounded[first]), vmovn_s32(rounded[first + 1]));
            let high = vcombine_s16(vmovn_s32(rounded[first + 2]), vmovn_s32(rounded[first + 3]));
            vcombine_s8(vmovn_s16(low), vmovn_s16(high))
        };
        let to: *mut i8 = q.as_mut_ptr().cast();
        // SAFETY: 32 bytes in two halves.
        unsafe {
            vst1q_s8(to, bytes(0));
            vst1q_s8(to.add(16), bytes(4));
        }
        (*scale, *total) = (step, vaddvq_s32(rounded.iter().fold(vdupq_n_s32(0), |sum, q| vaddq_s32(sum, *q))));
    }
}

/// The bytes of a group of inputs for four outputs.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load(group: &[[u8; 32]; 2], quarter: usize) -> int8x16_t {
    let bytes = &group[quarter / 2][quarter % 2 * 16..][..16];
    // SAFETY: exactly the 16 bytes.
    unsafe { vld1q_s8(bytes.as_ptr().cast()) }
}

/// The 4-bit numbers in the low and in the high halves of bytes.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn nibbles(bytes: int8x16_t) -> [int8x16_t; 2] {
    let high = vshrq_n_u8::<4>(vreinterpretq_u8_s8(bytes));
    [vandq_s8(bytes, vdupq_n_s8(15)), vreinterpretq_s8_u8(high)]
}

/// Scales or offsets of four outputs.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn halves(bits: &[u16; COLUMNS], quarter: usize) -> float32x4_t {
    let bits = &bits[4 * quarter..][..4];
    // SAFETY: exactly the four numbers.
    vcvt_f32_f16(vreinterpret_f16_u16(unsafe { vld1_u16(bits.as_ptr()) }))
}

/// `y + sum · (scale · step)`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn add_product(y: float32x4_t, sum: int32x4_t, scale: float32x4_t, step: f32) -> float32x4_t {
    vaddq_f32(y, vmulq_f32(vcvtq_f32_s32(sum), vmulq_n_f32(scale, step)))
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn store<const N: usize>(y: &[[float32x4_t; N]; QUARTERS], out: &mut [[f32; COLUMNS]; ROWS]) {
    for (quarter, y) in y.iter().enumerate() {
        for (y, out) in y.iter().zip(out.iter_mut()) {
            // SAFETY: exactly the four floats.
            unsafe { vst1q_f32(out[4 * quarter..][..4].as_mut_ptr(), *y) };
        }
    }
}

/// Four inputs of a row, twice.
#[inline]
#[target_feature(enable = "neon")]
fn broadcast(q: i32) -> int8x8_t {
    vreinterpret_s8_s32(vdup_n_s32(q))
}

/// The sums of four outputs over a block. Two products of at most 127² fit 16 bits, three would not.
#[inline]
#[target_feature(enable = "neon")]
fn q8_sums<const N: usize>(tile: &Q8Tile, quarter: usize, q: &[&[[i32; 2]; 4]; N]) -> [int32x4_t; N] {
    let mut sums = [[vdupq_n_s32(0); 2]; N];
    for (pair, groups) in tile.q.as_chunks::<2>().0.iter().enumerate() {
        let w = [load(&groups[0], quarter), load(&groups[1], quarter)];
        for i in 0..N {
            let a = [broadcast(q[i][pair][0]), broadcast(q[i][pair][1])];
            let low = vmlal_s8(vmull_s8(vget_low_s8(w[0]), a[0]), vget_low_s8(w[1]), a[1]);
            let high = vmlal_s8(vmull_s8(vget_high_s8(w[0]), a[0]), vget_high_s8(w[1]), a[1]);
            sums[i] = [vpadalq_s16(sums[i][0], low), vpadalq_s16(sums[i][1], high)];
        }
    }
    sums.map(|[low, high]| vpaddq_s32(low, high))
}

/// The sums of four outputs over a block, in 16 bits: at most 8·15·127 in a lane, and pairs of lanes fit, too.
#[inline]
#[target_feature(enable = "neon")]
fn q4_sums<const N: usize>(tile: &Q4Tile, quarter: usize, q: &[&[[i32; 2]; 4]; N]) -> [int32x4_t; N] {
    let mut sums = [[vdupq_n_s16(0); 2]; N];
    for (pair, group) in tile.q.iter().enumerate() {
        let w = nibbles(load(group, quarter));
        for i in 0..N {
            for (w, q) in w.iter().zip(q[i][pair]) {
                let a = broadcast(q);
                sums[i][0] = vmlal_s8(sums[i][0], vget_low_s8(*w), a);
                sums[i][1] = vmlal_s8(sums[i][1], vget_high_s8(*w), a);
            }
        }
    }
    sums.map(|[low, high]| vpaddlq_s16(vpaddq_s16(low, high)))
}

#[target_feature(enable = "neon")]
pub(super) fn q8_rows<const N: usize>(tiles: &[Q8Tile], a: &Activations, row: usize, out: &mut [[f32; COLUMNS]; ROWS]) {
    let q: [&[[i32; 8]]; N] = row_blocks(a, &a.q, row);
    let scales: [&[f32]; N] = row_blocks(a, &a.scale, row);
    let mut y = [[vdupq_n_f32(0.0); N]; QUARTERS];
    for (b, tile) in tiles.iter().enumerate() {
        let q: [&[[i32; 2]; 4]; N] = std::array::from_fn(|i| pairs_of(&q[i][b]));
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

#[target_feature(enable = "neon")]
pub(super) fn q4_rows<const N: usize>(tiles: &[Q4Tile], a: &Activations, row: usize, out: &mut [[f32; COLUMNS]; ROWS]) {
    let q: [&[[i32; 8]]; N] = row_blocks(a, &a.q, row);
    let scales: [&[f32]; N] = row_blocks(a, &a.scale, row);
    let totals: [&[i32]; N] = row_blocks(a, &a.total, row);
    let mut y = [[vdupq_n_f32(0.0); N]; QUARTERS];
    for (b, tile) in tiles.iter().enumerate() {
        let q: [&[[i32; 2]; 4]; N] = std::array::from_fn(|i| pairs_of(&q[i][b]));
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
