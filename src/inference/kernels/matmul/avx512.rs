//! The products with AVX-512 and its instruction for sums of 8-bit products (VNNI). One register holds four inputs of all 16
//! outputs of a tile, and one instruction adds their products; the sums are the same integers as everywhere else.

use core::arch::x86_64::*;

use super::*;

#[inline]
#[target_feature(enable = "avx512f")]
fn load(bytes: &[[u8; 32]; 2]) -> __m512i {
    // SAFETY: exactly the 64 bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Scales or offsets of all outputs.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(bits: &[u16; COLUMNS]) -> __m512 {
    // SAFETY: exactly the 32 bytes.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bits.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store<const N: usize>(y: &[__m512; N], out: &mut [[f32; COLUMNS]; ROWS]) {
    for (y, out) in y.iter().zip(out) {
        // SAFETY: sixteen floats.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *y) };
    }
}

/// The instruction multiplies unsigned with signed bytes, so 128 is added to each weight (by flipping its sign bit) and 128
/// times the block's total is taken away again.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn q8_rows<const N: usize>(tiles: &[Q8Tile], a: &Activations, row: usize, out: &mut [[f32; COLUMNS]; ROWS]) {
    let flip = _mm512_set1_epi8(i8::MIN);
    let q: [&[[i32; 8]]; N] = row_blocks(a, &a.q, row);
    let scales: [&[f32]; N] = row_blocks(a, &a.scale, row);
    let totals: [&[i32]; N] = row_blocks(a, &a.total, row);
    let mut y = [_mm512_setzero_ps(); N];
    for (b, tile) in tiles.iter().enumerate() {
        if N == 1 {
            ask_ahead(tiles, b);
        }
        let mut sum = [_mm512_setzero_si512(); N];
        for i in 0..N {
            sum[i] = _mm512_set1_epi32(-128 * totals[i][b]);
        }
        for (group, w) in tile.q.iter().enumerate() {
            let w = _mm512_xor_si512(load(w), flip);
            for i in 0..N {
                sum[i] = _mm512_dpbusd_epi32(sum[i], w, _mm512_set1_epi32(q[i][b][group]));
            }
        }
        let scale = halves(&tile.scale);
        for i in 0..N {
            let step = _mm512_mul_ps(scale, _mm512_set1_ps(scales[i][b]));
            y[i] = _mm512_add_ps(y[i], _mm512_mul_ps(_mm512_cvtepi32_ps(sum[i]), step));
        }
    }
    store(&y, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn q4_rows<const N: usize>(tiles: &[Q4Tile], a: &Activations, row: usize, out: &mut [[f32; COLUMNS]; ROWS]) {
    let mask = _mm512_set1_epi8(15);
    let q: [&[[i32; 8]]; N] = row_blocks(a, &a.q, row);
    let scales: [&[f32]; N] = row_blocks(a, &a.scale, row);
    let totals: [&[i32]; N] = row_blocks(a, &a.total, row);
    let mut y = [_mm512_setzero_ps(); N];
    for (b, tile) in tiles.iter().enumerate() {
        if N == 1 {
            ask_ahead(tiles, b);
        }
        let mut sum = [_mm512_setzero_si512(); N];
        for (group, w) in tile.q.iter().enumerate() {
            let both = load(w);
            let low = _mm512_and_si512(both, mask);
            let high = _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask);
            for i in 0..N {
                let [first, second] = pairs_of(&q[i][b])[group];
                sum[i] = _mm512_dpbusd_epi32(sum[i], low, _mm512_set1_epi32(first));
                sum[i] = _mm512_dpbusd_epi32(sum[i], high, _mm512_set1_epi32(second));
            }
        }
        let (scale, offset) = (halves(&tile.scale), halves(&tile.offset));
        for i in 0..N {
            let step = _mm512_set1_ps(scales[i][b]);
            let product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum[i]), _mm512_mul_ps(scale, step));
            let shift = _mm512_mul_ps(offset, _mm512_set1_ps(scales[i][b] * totals[i][b] as f32));
            y[i] = _mm512_add_ps(_mm512_add_ps(y[i], product), shift);
        }
    }
    store(&y, out);
}
