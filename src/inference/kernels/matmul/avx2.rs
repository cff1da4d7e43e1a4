//! The products with AVX2.

use core::arch::x86_64::*;

use super::*;

#[target_feature(enable = "avx2,f16c")]
pub(super) fn quantize_blocks(x: &[f32], blocks: Blocks) {
    let Blocks { q, scale, total } = blocks;
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(q).zip(scale).zip(total);
    let magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fff_ffff));
    let infinity = _mm256_set1_ps(f32::INFINITY);
    for (((x, q), scale), total) in blocks {
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
        let lanes =
            _mm256_add_epi32(_mm256_add_epi32(rounded[0], rounded[1]), _mm256_add_epi32(rounded[2], rounded[3]));
        let mut totals = [0i32; 8];
        // SAFETY: eight integers, then 32 bytes.
        unsafe {
            _mm256_storeu_si256(totals.as_mut_ptr().cast(), lanes);
            let low = _mm256_packs_epi32(rounded[0], rounded[1]);
            let high = _mm256_packs_epi32(rounded[2], rounded[3]);
            // The packs interleave 128-bit halves; the permutation puts the eight quads back in order.
            let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
            _mm256_storeu_si256(q.as_mut_ptr().cast(), bytes);
        }
        (*scale, *total) = (step, totals.iter().sum());
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

#[target_feature(enable = "avx2,f16c")]
pub(super) fn q8_rows<const N: usize>(tiles: &[Q8Tile], a: &Activations, row: usize, out: &mut [[f32; COLUMNS]; ROWS]) {
    let ones = _mm256_set1_epi16(1);
    let mut y = [[_mm256_setzero_ps(); 2]; N];
    let q: [&[[i32; 8]]; N] = row_blocks(a, &a.q, row);
    let scales: [&[f32]; N] = row_blocks(a, &a.scale, row);
    for (b, tile) in tiles.iter().enumerate() {
        if N == 1 {
            ask_ahead(tiles, b);
        }
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
pub(super) fn q4_rows<const N: usize>(tiles: &[Q4Tile], a: &Activations, row: usize, out: &mut [[f32; COLUMNS]; ROWS]) {
    let ones = _mm256_set1_epi16(1);
    let mask = _mm256_set1_epi8(15);
    let mut y = [[_mm256_setzero_ps(); 2]; N];
    let q: [&[[i32; 8]]; N] = row_blocks(a, &a.q, row);
    let scales: [&[f32]; N] = row_blocks(a, &a.scale, row);
    let totals: [&[i32]; N] = row_blocks(a, &a.total, row);
    for (b, tile) in tiles.iter().enumerate() {
        if N == 1 {
            ask_ahead(tiles, b);
        }
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
            let (step, shift) = (_mm256_set1_ps(scales[i][b]), _mm256_set1_ps(scales[i][b] * totals[i][b] as f32));
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

#[inline]
#[target_feature(enable = "avx2")]
fn store<const N: usize>(y: &[[__m256; 2]; N], out: &mut [[f32; COLUMNS]; ROWS]) {
    for (y, out) in y.iter().zip(out) {
        // SAFETY: sixteen floats in two halves.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), y[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), y[1]);
        }
    }
}
