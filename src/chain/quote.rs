//! What a transaction will cost, told before anything is signed.

use std::fmt;

use super::{
    error::ChainError,
    fees::{FeePolicy, checked_fee, gas_limit},
    outbox::Intent,
    rpc::ChainRpc,
};
use crate::api::ids::{NodeAddress, Wei};

/// One transaction, or the sum of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quote {
    /// What the node expects it to use.
    pub gas: u64,
    /// What it may use at most.
    pub gas_limit: u64,
    /// Wei per gas.
    pub gas_price: Wei,
    /// What goes with it: a stake, a deposit.
    pub value: Wei,
}

impl Quote {
    /// Asks the node; a contract that would refuse says so here ([`ChainError::Refused`]), and nothing is lost.
    pub async fn of(rpc: &dyn ChainRpc, from: NodeAddress, intent: &Intent) -> Result<Self, ChainError> {
        let call = &intent.call;
        let gas = rpc.estimate_gas(&call.request(from)).await?;
        let gas_limit = gas_limit(gas, &call.data, call.to.is_none())?;
        let gas_price = FeePolicy::default().gas_price();
        checked_fee(gas_limit, gas_price)?;
        Ok(Quote { gas, gas_limit, gas_price, value: call.value })
    }

    /// With another one after it. `gas` stands for a transaction that cannot be asked about yet, since it needs the one before.
    pub fn and_later(self, gas: u64, value: Wei) -> Self {
        Quote {
            gas: self.gas.saturating_add(gas),
            gas_limit: self.gas_limit.saturating_add(gas.saturating_add(gas / 4)),
            value: Wei(self.value.0.saturating_add(value.0)),
            ..self
        }
    }

    /// The fee that is expected.
    pub fn fee(&self) -> Wei {
        Wei(u128::from(self.gas).saturating_mul(self.gas_price.0))
    }

    /// The fee at most, at this price.
    pub fn fee_limit(&self) -> Wei {
        Wei(u128::from(self.gas_limit).saturating_mul(self.gas_price.0))
    }
}

impl fmt::Display for Quote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gwei = self.gas_price.0 as f64 / 1e9;
        write!(
            f,
            "about {} gas at {gwei} gwei: {} XDC, at most {} XDC",
            self.gas,
            self.fee().to_xdc(),
            self.fee_limit().to_xdc()
        )?;
        if self.value.0 > 0 {
            write!(f, ", and {} XDC sent along", self.value.to_xdc())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_says_gas_price_fee_and_what_goes_along() {
        let quote =
            Quote { gas: 80_000, gas_limit: 100_000, gas_price: Wei(12_500_000_000), value: Wei(2 * Wei::XDC.0) };
        assert_eq!(
            quote.to_string(),
            "about 80000 gas at 12.5 gwei: 0.0010 XDC, at most 0.0012 XDC, and 2.0000 XDC sent along"
        );
        let both = quote.and_later(40_000, Wei(1));
        assert_eq!((both.gas, both.gas_limit, both.value), (120_000, 150_000, Wei(2 * Wei::XDC.0 + 1)));
    }
}
