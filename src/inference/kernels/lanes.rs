//! Eight floats at a time: an array, an AVX2 register, or two NEON registers. All do the same IEEE-754 operations in the same
//! order.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
pub use neon::NeonPair;

use super::f16_to_f32;

/// Eight single precision lanes. All operations are lane by lane and correctly rounded.
pub trait Lanes: Copy {
    fn splat(x: f32) -> Self;
    /// Reads the first eight elements; the caller guarantees that there are as many.
    fn load(from: &[f32]) -> Self;
    /// Writes the first eight elements.
    fn store(self, to: &mut [f32]);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    /// `self > other ? self : other`, which gives `other` where either is not a number.
    fn max(self, other: Self) -> Self;
    /// `self < other ? self : other`.
    fn min(self, other: Self) -> Self;
    /// 2 to the power of each lane, which must hold an integer from -126 to 127.
    fn exp2_of_integer(self) -> Self;

    fn zero() -> Self {
        Self::splat(0.0)
    }

    /// Reads the first eight half precision numbers, exactly; the caller guarantees that there are as many.
    #[inline(always)]
    fn load_half(from: &[u16]) -> Self {
        Self::load(&std::array::from_fn::<f32, 8, _>(|i| f16_to_f32(from[i])))
    }

    /// The sum of the lanes in one fixed order: halves, then quarters, then eighths.
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut x = [0.0; 8];
        self.store(&mut x);
        let [a, b, c, d] = [x[0] + x[4], x[1] + x[5], x[2] + x[6], x[3] + x[7]];
        (a + c) + (b + d)
    }

    /// Asks for memory ahead of its use. Nothing depends on it, so an instance need not do anything.
    #[inline(always)]
    fn prefetch<T>(_: &[T]) {}

    /// The largest lane.
    #[inline(always)]
    fn largest(self) -> f32 {
        let mut x = [0.0; 8];
        self.store(&mut x);
        x.into_iter().fold(f32::NEG_INFINITY, |most, x| if x > most { x } else { most })
    }

    /// e to the power of each lane, after Cephes' `expf`: range reduction by ln 2 in two parts and a polynomial of
    /// degree 5. Relative error below 2e-7; results below e^-87 are rounded up to it, above e^88 down.
    #[inline(always)]
    fn exp(self) -> Self {
        /// 1.5 · 2^23: adding and subtracting it rounds to the nearest integer, ties to even.
        const ROUND: f32 = 12_582_912.0;
        const POLYNOMIAL: [f32; 6] =
            [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
        let x = self.max(Self::splat(-87.0)).min(Self::splat(88.0));
        let n = x.mul(Self::splat(std::f32::consts::LOG2_E)).add(Self::splat(ROUND)).sub(Self::splat(ROUND));
        let r = x.sub(n.mul(Self::splat(0.693_359_4))).sub(n.mul(Self::splat(-2.121_944_4e-4)));
        let mut p = Self::splat(POLYNOMIAL[0]);
        p = p.mul(r).add(Self::splat(POLYNOMIAL[1]));
        p = p.mul(r).add(Self::splat(POLYNOMIAL[2]));
        p = p.mul(r).add(Self::splat(POLYNOMIAL[3]));
        p = p.mul(r).add(Self::splat(POLYNOMIAL[4]));
        p = p.mul(r).add(Self::splat(POLYNOMIAL[5]));
        let p = p.mul(r.mul(r)).add(r).add(Self::splat(1.0));
        p.mul(n.exp2_of_integer())
    }
}

/// Eight floats in an array: the reference, and what runs where there is no faster instance.
#[derive(Clone, Copy)]
pub struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Lanes for Portable {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; 8])
    }
    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Self(std::array::from_fn(|i| from[i]))
    }
    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        to[..8].copy_from_slice(&self.0);
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn exp2_of_integer(self) -> Self {
        Self(self.0.map(|x| f32::from_bits(((x as i32 + 127) as u32) << 23)))
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::Lanes;
    use core::arch::x86_64::*;

    // SAFETY, for every block below: this type is only used inside functions with `target_feature(enable = "avx2,f16c")`,
    // reached through `dispatch!` after the CPU was asked. Loads and stores are unaligned and bounds are asserted.
    impl Lanes for __m256 {
        #[inline(always)]
        fn prefetch<T>(memory: &[T]) {
            crate::kernels::prefetch(memory.as_ptr().cast(), size_of_val(memory));
        }
        #[inline(always)]
        fn splat(x: f32) -> Self {
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        fn load(from: &[f32]) -> Self {
            assert!(from.len() >= 8);
            unsafe { _mm256_loadu_ps(from.as_ptr()) }
        }
        #[inline(always)]
        fn load_half(from: &[u16]) -> Self {
            assert!(from.len() >= 8);
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) }
        }
        #[inline(always)]
        fn store(self, to: &mut [f32]) {
            assert!(to.len() >= 8);
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), self) }
        }
        #[inline(always)]
        fn add(self, other: Self) -> Self {
            unsafe { _mm256_add_ps(self, other) }
        }
        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            unsafe { _mm256_sub_ps(self, other) }
        }
        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            unsafe { _mm256_mul_ps(self, other) }
        }
        #[inline(always)]
        fn div(self, other: Self) -> Self {
            unsafe { _mm256_div_ps(self, other) }
        }
        #[inline(always)]
        fn max(self, other: Self) -> Self {
            unsafe { _mm256_max_ps(self, other) }
        }
        #[inline(always)]
        fn min(self, other: Self) -> Self {
            unsafe { _mm256_min_ps(self, other) }
        }
        #[inline(always)]
        fn exp2_of_integer(self) -> Self {
            unsafe {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(self), _mm256_set1_epi32(127));
                _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Simd, dispatch};
    use super::*;

    #[inline(always)]
    fn widen_generic<V: Lanes>(halves: &[u16], out: &mut [f32]) {
        for (halves, out) in halves.chunks_exact(8).zip(out.chunks_exact_mut(8)) {
            V::load_half(halves).store(out);
        }
    }

    fn widen(simd: Simd, halves: &[u16], out: &mut [f32]) {
        dispatch!(simd, widen_generic(halves: &[u16], out: &mut [f32]))
    }

    #[test]
    fn every_half_precision_number_is_widened_exactly_by_all_instances() {
        let halves: Vec<u16> = (0..=u16::MAX).collect();
        for simd in Simd::available() {
            let mut wide = vec![0.0; halves.len()];
            widen(simd, &halves, &mut wide);
            for (half, wide) in halves.iter().zip(wide) {
                let expected = f16_to_f32(*half);
                assert!(
                    wide.to_bits() == expected.to_bits() || wide.is_nan() && expected.is_nan(),
                    "{simd:?} {half:#x}"
                );
            }
        }
    }

    #[test]
    fn exp_is_close_to_the_real_one() {
        for i in -8_000..8_000 {
            let x = i as f32 / 100.0;
            let mut out = [0.0; 8];
            Portable::splat(x).exp().store(&mut out);
            let exact = (x as f64).exp();
            assert!(((out[0] as f64 - exact) / exact).abs() < 3e-7, "exp({x}) = {} but {exact}", out[0]);
        }
    }

    #[test]
    fn exp_is_bounded_at_both_ends() {
        let mut out = [0.0; 8];
        Portable::splat(-1e30).exp().store(&mut out);
        assert!(out[0] >= 0.0 && out[0] < 2e-38);
        Portable::splat(1e30).exp().store(&mut out);
        assert!(out[0].is_finite());
    }
}
