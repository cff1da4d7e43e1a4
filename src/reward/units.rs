//! What a verified response is worth before any money is known.

use std::{fmt, iter::Sum};

use serde::{Deserialize, Serialize};

/// A decoded token counts as this many prefilled ones: reading a prompt is paid a prompt's price, otherwise long prompts with
/// one-token answers would be the best-paid work on the grid.
///
/// On our CPU engine prefill was measured 3.9 times as fast as decoding, and replaying a whole answer 2.6 to 3.0 times as fast as
/// writing it (`docs/benchmarks.md`). Where prefill is bound by arithmetic and decoding by memory, as on GPUs, the ratio is
/// larger; it was not measured here. The weight is above the measured one on purpose: too low a weight invites padded
/// prompts, too high a one only makes long prompts less sought after. To be set anew once a GPU engine is measured.
pub const DECODE_WEIGHT: u128 = 8;

/// What one prefilled token of a model costs, in MFLOP. A property of the model that the network computes or measures; never
/// what a node says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenCost(pub u64);

impl TokenCost {
    /// Two floating-point operations per parameter and token, the usual estimate for a dense transformer; at least 1.
    pub fn of_parameters(parameters: u64) -> Self {
        TokenCost((parameters / 500_000).max(1))
    }
}

/// Verified work: Σ cost × (8 × output tokens + prompt tokens). An embedding has prompt tokens only. Decimal string in serialised form, since it outgrows 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct ComputeUnits(pub u128);

impl ComputeUnits {
    /// The units of one verified response. Cannot overflow: 64 + 4 + 32 bits.
    pub fn of_response(cost: TokenCost, prompt_tokens: u32, output_tokens: u32) -> Self {
        let tokens = DECODE_WEIGHT * u128::from(output_tokens) + u128::from(prompt_tokens);
        ComputeUnits(u128::from(cost.0) * tokens)
    }

    /// The units of a response whose first `prefix_tokens` an earlier worker had made: those were read, like the prompt.
    pub fn of_continuation(cost: TokenCost, prompt_tokens: u32, output_tokens: u32, prefix_tokens: u32) -> Self {
        let read = prompt_tokens.saturating_add(prefix_tokens);
        ComputeUnits::of_response(cost, read, output_tokens.saturating_sub(prefix_tokens))
    }
}

impl fmt::Display for ComputeUnits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for ComputeUnits {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ComputeUnits {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(ComputeUnits).map_err(serde::de::Error::custom)
    }
}

impl Sum for ComputeUnits {
    /// Saturates; 2²⁸ of the largest possible responses would have to meet in one sum.
    fn sum<I: Iterator<Item = Self>>(units: I) -> Self {
        ComputeUnits(units.fold(0, |sum, unit| sum.saturating_add(unit.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decoded_token_is_worth_eight_prefilled_ones() {
        let cost = TokenCost::of_parameters(135_000_000);
        assert_eq!(cost, TokenCost(270));
        assert_eq!(ComputeUnits::of_response(cost, 10, 5), ComputeUnits(270 * 50));
        assert_eq!(ComputeUnits::of_response(cost, 8, 0), ComputeUnits::of_response(cost, 0, 1));
        let continued = ComputeUnits::of_continuation(cost, 10, 5, 4);
        assert_eq!(continued, ComputeUnits::of_response(cost, 14, 1), "what an earlier worker made was only read");
    }

    #[test]
    fn the_largest_response_does_not_overflow() {
        let units = ComputeUnits::of_response(TokenCost(u64::MAX), u32::MAX, u32::MAX);
        assert_eq!(units.0, u128::from(u64::MAX) * 9 * u128::from(u32::MAX));
        assert_eq!([units, ComputeUnits(u128::MAX)].into_iter().sum::<ComputeUnits>(), ComputeUnits(u128::MAX));
    }

    #[test]
    fn units_are_written_as_decimal_strings() {
        let text = serde_json::to_string(&ComputeUnits(u128::MAX)).unwrap();
        assert_eq!(text, format!("\"{}\"", u128::MAX));
        assert_eq!(serde_json::from_str::<ComputeUnits>(&text).unwrap(), ComputeUnits(u128::MAX));
    }
}
