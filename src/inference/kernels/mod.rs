//! The arithmetic of the engine, specified to the bit.
//!
//! Every result is defined by a fixed sequence of IEEE-754 single precision operations (no fused multiply-add, no
//! reassociation, no library `exp`) or by exact integer sums, one output element at a time. What a row yields therefore
//! depends neither on the rows beside it, nor on the number of threads, nor on the instruction set: a verifier can replay
//! an answer on another machine and compare bits. Each algorithm is written once over [`Lanes`], eight floats that are
//! an array, an AVX2 register or two NEON registers, and the instances are compared in the tests, on x86 and, by
//! `make check-arm`, on ARM. Integer sums, which have no order, use whatever is fastest.
//!
//! The bits of a NaN are not part of the definition: processors differ in them. That a result is NaN is.

mod attention;
mod dense;
#[cfg(test)]
mod instances;
mod lanes;
mod matmul;
mod quant;
mod rows;

pub use attention::{AttentionShape, Blocks, Stored, attend};
pub use dense::DenseMatrix;
#[cfg(target_arch = "aarch64")]
pub use lanes::NeonPair;
pub use lanes::{Lanes, Portable};
pub use matmul::{Activations, matmul_column};
pub use quant::{BLOCK, COLUMNS, F16_MAX, Q4Tile, Q8Tile, Tiles, f16_to_f32, f32_to_f16, f32_to_finite_f16};
pub use rows::{geglu, gelu, layer_norm, log_sum_exp, rms_norm, rotate_halves, rotate_pairs, swiglu};

/// The name of this arithmetic. It changes whenever any result may change by a bit.
pub const KERNEL_PROFILE: &str = "cpu-q8_0-exact2";

/// As [`KERNEL_PROFILE`], with keys and values that are rounded to half precision. The difference stands in the name of the arithmetic and not
/// behind a plus sign, because every answer depends on it.
pub const HALF_KV_PROFILE: &str = "cpu-q8_0-kvf16-exact2";

/// As [`KERNEL_PROFILE`], of models that are computed in single precision throughout.
pub const DENSE_PROFILE: &str = "cpu-f32-exact1";

/// Instruction sets that a kernel instance exists for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Simd {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX2, and AVX-512 with VNNI for the products of integers.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// NEON with the instruction for the products of 8-bit integers.
    #[cfg(target_arch = "aarch64")]
    NeonDot,
}

impl Simd {
    /// The fastest instance that this CPU can run. The results are the same for all.
    pub fn detect() -> Self {
        Self::available().pop().unwrap_or(Self::Portable)
    }

    /// All instances that this CPU can run, the fastest last.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
            all.push(Self::Avx2);
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Self::Avx512);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            all.push(Self::Neon);
            if std::arch::is_aarch64_feature_detected!("dotprod") {
                all.push(Self::NeonDot);
            }
        }
        all
    }

    /// Whether eight rows of sums fit into registers beside the weights.
    fn has_many_registers(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => true,
            #[cfg(target_arch = "aarch64")]
            Self::Neon | Self::NeonDot => true,
            _ => false,
        }
    }
}

/// Asks for `bytes` from `start` on ahead of their use. Changes no result, and any address may be asked for.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn prefetch(start: *const i8, bytes: usize) {
    use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    const LINE: usize = 64;
    for line in 0..bytes.div_ceil(LINE) {
        // SAFETY: a prefetch is a hint and never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line * LINE)) };
    }
}

/// Calls a generic kernel with the lanes of the instruction set, inside a function that has its features enabled so that
/// the intrinsics are inlined.
macro_rules! dispatch {
    ($simd:expr, $generic:ident ( $($arg:ident : $ty:ty),* $(,)? ) $(-> $ret:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,f16c")]
        #[allow(clippy::too_many_arguments)]
        fn with_avx2($($arg: $ty),*) $(-> $ret)? {
            $generic::<core::arch::x86_64::__m256>($($arg),*)
        }
        #[cfg(target_arch = "aarch64")]
        #[target_feature(enable = "neon")]
        #[allow(clippy::too_many_arguments)]
        fn with_neon($($arg: $ty),*) $(-> $ret)? {
            $generic::<$crate::kernels::NeonPair>($($arg),*)
        }
        match $simd {
            // SAFETY, here and in the next: `Simd::available` has seen that the CPU has these features.
            #[cfg(target_arch = "x86_64")]
            $crate::kernels::Simd::Avx2 | $crate::kernels::Simd::Avx512 => unsafe {
                with_avx2($($arg),*)
            },
            #[cfg(target_arch = "aarch64")]
            $crate::kernels::Simd::Neon | $crate::kernels::Simd::NeonDot => unsafe {
                with_neon($($arg),*)
            },
            $crate::kernels::Simd::Portable => {
                $generic::<$crate::kernels::Portable>($($arg),*)
            }
        }
    }};
}
use dispatch;
