//! Kernel profiles: names of arithmetic, under which answers are compared.

/// How the names of profiles begin whose results depend on the device, its driver and what else is in the batch. Two machines that both have
/// such a profile need not agree to the bit, nor one machine with itself.
pub const INEXACT: &str = "candle-";

/// Whether machines with this profile compute the same bits, so that an answer can be compared with its replay exactly.
pub fn is_exact(profile: &str) -> bool {
    !profile.is_empty() && !profile.starts_with(INEXACT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_exact_arithmetic_is_compared_to_the_bit() {
        assert!(is_exact("cpu-q8_0-exact2") && is_exact("cpu-f32-exact1"));
        assert!(!is_exact("candle-cuda/qmatmul1") && !is_exact("candle-cpu/qmatmul1") && !is_exact(""));
    }
}
