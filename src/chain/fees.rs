//! What a transaction may cost. XDC has a constant base fee, dearer calldata than Ethereum, and nodes that refuse expensive
//! transactions; all of it is known before signing.

use crate::api::ids::Wei;

/// XDC's base fee and the least price its pool accepts.
pub const MIN_GAS_PRICE: Wei = Wei(12_500_000_000);
/// The ladder of replacements ends here.
pub const MAX_GAS_PRICE: Wei = Wei(62_500_000_000);
/// Osaka caps a transaction at 2²⁴ gas (EIP-7825). XDC plans it, and nothing we send needs more.
pub const MAX_GAS_LIMIT: u64 = 16_000_000;
/// XDC's pool refuses longer transactions.
pub const MAX_TRANSACTION_BYTES: usize = 64 << 10;
/// XDC nodes refuse over RPC what could cost more than this in fees.
pub const MAX_FEE: Wei = Wei::XDC;

const TRANSACTION_GAS: u64 = 21_000;
const CREATION_GAS: u64 = 53_000;
const INITCODE_WORD_GAS: u64 = 2;
/// EIP-2028, which made calldata cheaper elsewhere, was never enabled on XDC.
const NON_ZERO_BYTE_GAS: u64 = 68;
const ZERO_BYTE_GAS: u64 = 4;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeeError {
    #[error("the transaction needs {gas} gas, more than the {MAX_GAS_LIMIT} that one transaction may use")]
    GasTooHigh { gas: u64 },
    #[error("the transaction has {bytes} bytes; XDC nodes refuse more than {MAX_TRANSACTION_BYTES}")]
    TooLong { bytes: usize },
    #[error("the transaction could cost {} XDC in fees; XDC nodes refuse more than 1 XDC", fee.to_xdc())]
    FeeTooHigh { fee: Wei },
}

/// How much to pay per gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeePolicy {
    /// A network's own floor, should it ask for more than XDC's.
    pub floor: Wei,
}

impl Default for FeePolicy {
    fn default() -> Self {
        FeePolicy { floor: MIN_GAS_PRICE }
    }
}

impl FeePolicy {
    /// The price of a first attempt.
    pub fn gas_price(&self) -> Wei {
        self.floor.max(MIN_GAS_PRICE)
    }
}

/// The price of a replacement: an eighth more (XDC's pool wants a tenth), or `None` at the end of the ladder.
pub fn replacement_price(price: Wei) -> Option<Wei> {
    let next = Wei(price.0.saturating_add(price.0.div_ceil(8)));
    (next <= MAX_GAS_PRICE).then_some(next)
}

/// The gas that XDC takes before the first instruction. A node that counts calldata as Ethereum does would estimate less.
pub fn intrinsic_gas(data: &[u8], creates_contract: bool) -> u64 {
    let zeros = data.iter().filter(|byte| **byte == 0).count() as u64;
    let others = data.len() as u64 - zeros;
    let base = if creates_contract {
        CREATION_GAS + INITCODE_WORD_GAS * (data.len() as u64).div_ceil(32)
    } else {
        TRANSACTION_GAS
    };
    base + NON_ZERO_BYTE_GAS * others + ZERO_BYTE_GAS * zeros
}

/// The limit to sign: a quarter above the node's estimate and never below what XDC takes up front.
pub fn gas_limit(estimate: u64, data: &[u8], creates_contract: bool) -> Result<u64, FeeError> {
    let gas = estimate.saturating_add(estimate / 4).max(intrinsic_gas(data, creates_contract));
    if gas > MAX_GAS_LIMIT { Err(FeeError::GasTooHigh { gas }) } else { Ok(gas) }
}

/// The most a transaction can cost in fees; refuses what XDC nodes would refuse.
pub fn checked_fee(gas_limit: u64, gas_price: Wei) -> Result<Wei, FeeError> {
    let fee = Wei(u128::from(gas_limit).saturating_mul(gas_price.0));
    if fee > MAX_FEE { Err(FeeError::FeeTooHigh { fee }) } else { Ok(fee) }
}

/// Refuses a signed transaction that XDC's pool would refuse.
pub fn checked_size(bytes: usize) -> Result<(), FeeError> {
    if bytes > MAX_TRANSACTION_BYTES { Err(FeeError::TooLong { bytes }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calldata_costs_what_xdc_charges() {
        assert_eq!(intrinsic_gas(&[], false), 21_000);
        assert_eq!(intrinsic_gas(&[0, 1, 2, 0], false), 21_000 + 2 * 68 + 2 * 4);
        assert_eq!(intrinsic_gas(&[1; 33], true), 53_000 + 4 + 33 * 68);
    }

    #[test]
    fn a_limit_is_above_the_estimate_and_above_the_calldata() {
        assert_eq!(gas_limit(100_000, &[], false), Ok(125_000));
        let big = vec![1; 64 * 1024];
        assert_eq!(gas_limit(1_100_000, &big, false), Ok(21_000 + 68 * 65_536));
        assert_eq!(gas_limit(14_000_000, &[], false), Err(FeeError::GasTooHigh { gas: 17_500_000 }));
    }

    #[test]
    fn a_fee_above_one_xdc_is_refused() {
        assert!(checked_fee(16_000_000, MIN_GAS_PRICE).is_ok());
        let fee = Wei(1_000_000_000_016_000_000);
        assert_eq!(checked_fee(16_000_000, Wei(62_500_000_001)), Err(FeeError::FeeTooHigh { fee }));
    }

    #[test]
    fn a_transaction_that_the_pool_would_refuse_is_refused_before_it_is_sent() {
        assert!(checked_size(65_536).is_ok());
        assert_eq!(checked_size(65_537), Err(FeeError::TooLong { bytes: 65_537 }));
    }

    #[test]
    fn replacements_rise_by_an_eighth_until_the_ladder_ends() {
        let mut price = FeePolicy::default().gas_price();
        let mut steps = 0;
        while let Some(next) = replacement_price(price) {
            assert!(next.0 * 10 >= price.0 * 11, "XDC's pool wants a tenth more");
            price = next;
            steps += 1;
        }
        assert_eq!(steps, 13);
    }

    #[test]
    fn the_price_is_never_below_what_the_pool_accepts() {
        assert_eq!(FeePolicy { floor: Wei(1) }.gas_price(), MIN_GAS_PRICE);
        assert_eq!(FeePolicy { floor: Wei(20_000_000_000) }.gas_price(), Wei(20_000_000_000));
    }
}
