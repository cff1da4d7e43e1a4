//! Eight floats in two NEON registers.

use core::arch::aarch64::*;

use super::Lanes;

/// Lanes 0 to 3, and 4 to 7.
#[derive(Clone, Copy)]
pub struct NeonPair(float32x4_t, float32x4_t);

impl NeonPair {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Self {
        Self(f(self.0, other.0), f(self.1, other.1))
    }
}

// SAFETY, for every block below: this type is only used inside functions with `target_feature(enable = "neon")`, reached
// through `dispatch!` after the CPU was asked. Loads and stores are unaligned and bounds are asserted.
impl Lanes for NeonPair {
    #[inline(always)]
    fn splat(x: f32) -> Self {
        let x = unsafe { vdupq_n_f32(x) };
        Self(x, x)
    }
    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        assert!(from.len() >= 8);
        unsafe { Self(vld1q_f32(from.as_ptr()), vld1q_f32(from.as_ptr().add(4))) }
    }
    #[inline(always)]
    fn load_half(from: &[u16]) -> Self {
        assert!(from.len() >= 8);
        let wide = |at: usize| unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from.as_ptr().add(at)))) };
        Self(wide(0), wide(4))
    }
    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        assert!(to.len() >= 8);
        unsafe {
            vst1q_f32(to.as_mut_ptr(), self.0);
            vst1q_f32(to.as_mut_ptr().add(4), self.1);
        }
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vaddq_f32(a, b) })
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vsubq_f32(a, b) })
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vmulq_f32(a, b) })
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vdivq_f32(a, b) })
    }
    /// NEON's own maximum would be NaN where either is, and 0 of 0 and -0 in either order.
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| unsafe { vbslq_f32(vcltq_f32(a, b), a, b) })
    }
    #[inline(always)]
    fn exp2_of_integer(self) -> Self {
        let power = |x| unsafe {
            let exponent = vaddq_s32(vcvtnq_s32_f32(x), vdupq_n_s32(127));
            vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))
        };
        Self(power(self.0), power(self.1))
    }
}
