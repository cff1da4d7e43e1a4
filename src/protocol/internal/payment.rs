//! How a job is paid, between operator and gateway: the price that it was taken with, what it has spent, and what became of its
//! escrow on chain. The chain's word is the operator's to bring; the gateway never asks the chain.

use alloy::primitives::U256;
use serde::{Deserialize, Serialize};

use crate::api::ids::{EscrowId, NodeAddress, Wei};

/// Prices are for so many tokens.
const PRICED_TOKENS: u64 = 1_000_000;

/// What users pay for a model's tokens, in wei for a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TokenPrice {
    pub prompt: Wei,
    pub output: Wei,
}

impl TokenPrice {
    /// What so many tokens cost, rounded down to the wei. Rounded once for a whole job, so that the order of its answers changes
    /// nothing.
    pub fn of(self, prompt_tokens: u64, output_tokens: u64) -> Wei {
        let cost = |price: Wei, tokens: u64| U256::from(price.0) * U256::from(tokens);
        let sum = cost(self.prompt, prompt_tokens) + cost(self.output, output_tokens);
        Wei((sum / U256::from(PRICED_TOKENS)).saturating_to())
    }
}

/// From what and how far a job is paid. Part of the job's spec: it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobPayment {
    /// Id of the job in GridJobEscrow. An escrow pays one job.
    pub escrow: EscrowId,
    pub max_spend: Wei,
    /// Unix seconds from which nothing can be settled with the escrow any more.
    pub deadline: u64,
    pub price: TokenPrice,
}

impl JobPayment {
    /// What a job with so many tokens owes: never more than it may spend.
    pub fn charge(&self, prompt_tokens: u64, output_tokens: u64) -> Wei {
        self.price.of(prompt_tokens, output_tokens).min(self.max_spend)
    }

    /// True when a job with so many tokens has spent all that it may.
    pub fn is_used_up(&self, prompt_tokens: u64, output_tokens: u64) -> bool {
        self.price.of(prompt_tokens, output_tokens) >= self.max_spend
    }
}

/// How far the pay of a job is, in its report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spend {
    pub payment: JobPayment,
    /// For the answers that were taken and not rejected, by workers that were registered and proven.
    pub spent: Wei,
    /// Nothing new is started for it: it has spent all that it may.
    pub used_up: bool,
    /// What was taken from the escrow in a final block; absent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<SettledPayment>,
}

/// A job that is over and whose escrow is not settled yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenPayment {
    /// uid of the job.
    pub job: String,
    pub payment: JobPayment,
    pub spent: Wei,
    /// Unix milliseconds; 0 for a job that was deleted before it began.
    pub finished_at_ms: u64,
}

/// What the chain says about an escrow, for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SettledPayment {
    /// Taken from the escrow; 0 when the payer has taken it back or nothing was spent.
    pub spent: Wei,
    /// Part of it that the network kept, in 1/10 000.
    pub fee_bps: u16,
}

/// A paid job in the totals of the epoch that counts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaidJobTotals {
    pub escrow: EscrowId,
    /// As settled.
    pub spent: Wei,
    pub fee_bps: u16,
    /// Sorted by address.
    pub served: Vec<ServedUnits>,
}

/// What one node did for a paid job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServedUnits {
    pub address: NodeAddress,
    /// Verified reward units, decimal.
    pub units: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn payment(prompt: u128, output: u128, max: u128) -> JobPayment {
        JobPayment {
            escrow: EscrowId([1; 32]),
            max_spend: Wei(max),
            deadline: 0,
            price: TokenPrice { prompt: Wei(prompt), output: Wei(output) },
        }
    }

    #[test]
    fn tokens_cost_their_price_rounded_down_once() {
        let price = TokenPrice { prompt: Wei(1_000_000), output: Wei(8_500_000) };
        assert_eq!(price.of(10, 3), Wei(10 + 25));
        assert_eq!(TokenPrice { prompt: Wei(999_999), output: Wei(1) }.of(1, 0), Wei(0));
        assert_eq!(TokenPrice { prompt: Wei(999_999), output: Wei(1) }.of(1, 1), Wei(1));
        let largest = TokenPrice { prompt: Wei(u128::MAX), output: Wei(u128::MAX) };
        assert_eq!(largest.of(u64::MAX, u64::MAX), Wei(u128::MAX), "saturates");
    }

    #[test]
    fn a_job_is_used_up_from_the_wei_on_that_it_may_spend() {
        let paid = payment(0, 1_000_000, 5);
        assert!(!paid.is_used_up(9, 4) && paid.is_used_up(9, 5) && paid.is_used_up(9, 6));
        assert_eq!((paid.charge(9, 4), paid.charge(9, 6)), (Wei(4), Wei(5)));
        assert!(!payment(0, 0, 5).is_used_up(u64::MAX, u64::MAX), "what is free is never used up");
    }

    proptest! {
        #[test]
        fn no_number_of_tokens_costs_more_than_the_job_may_spend(
            (prompt, output, max) in (0..u128::MAX, 0..u128::MAX, 1..u128::MAX),
            (read, made) in (any::<u64>(), any::<u64>()),
        ) {
            let paid = payment(prompt, output, max);
            let charge = paid.charge(read, made);
            prop_assert!(charge <= paid.max_spend);
            prop_assert_eq!(paid.is_used_up(read, made), charge == paid.max_spend);
            prop_assert!(charge <= paid.charge(read, made.saturating_add(1)), "more work never costs less");
        }
    }
}
