//! What the pool knows about a sender.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, U256};
use serde::Deserialize;
use serde_json::Value;

use super::jsonrpc::RpcError;
use crate::api::ids::Wei;

/// A transaction that waits for a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pooled {
    pub hash: B256,
    pub fee_cap: Wei,
    pub tip_cap: Wei,
    /// The most it can take from its sender, in wei.
    pub cost: U256,
}

/// A sender at the head of the chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// The next nonce that a block takes.
    pub nonce: u64,
    /// In wei.
    pub balance: U256,
    /// What waits, by nonce.
    pub pooled: BTreeMap<u64, Pooled>,
}

/// A transaction in the answer to `txpool_content`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    hash: B256,
    nonce: alloy::primitives::U64,
    gas: U256,
    value: U256,
    #[serde(default)]
    gas_price: Option<U256>,
    #[serde(default)]
    max_fee_per_gas: Option<U256>,
    #[serde(default)]
    max_priority_fee_per_gas: Option<U256>,
}

impl From<Listed> for Pooled {
    fn from(listed: Listed) -> Self {
        let price = listed.gas_price.unwrap_or_default();
        let fee_cap = listed.max_fee_per_gas.unwrap_or(price);
        let tip_cap = listed.max_priority_fee_per_gas.unwrap_or(price);
        Pooled {
            hash: listed.hash,
            fee_cap: Wei(fee_cap.saturating_to()),
            tip_cap: Wei(tip_cap.saturating_to()),
            cost: listed.gas.saturating_mul(fee_cap).saturating_add(listed.value),
        }
    }
}

impl Account {
    /// From the node's answers: `nonce` and `balance` at the head, `content` of `txpool_content`.
    pub fn read(sender: Address, nonce: &Value, balance: &Value, content: &Value) -> Result<Self, RpcError> {
        let unreadable = || RpcError::internal("the node behind describes an account in a way that is not understood");
        let balance = serde_json::from_value(balance.clone()).map_err(|_| unreadable())?;
        let mut account =
            Account { nonce: super::quantity(nonce).ok_or_else(unreadable)?, balance, pooled: BTreeMap::new() };
        for part in ["pending", "queued"] {
            let Some(senders) = content.get(part).and_then(Value::as_object) else { continue };
            let own = senders.iter().filter(|(address, _)| address.parse().ok() == Some(sender));
            for transaction in own.filter_map(|(_, listed)| listed.as_object()).flat_map(|listed| listed.values()) {
                let listed: Listed = serde_json::from_value(transaction.clone()).map_err(|_| unreadable())?;
                account.pooled.insert(listed.nonce.to(), listed.into());
            }
        }
        Ok(account)
    }

    /// The first nonce that neither a block nor the pool has.
    pub fn pending_nonce(&self) -> u64 {
        let mut next = self.nonce;
        while self.pooled.contains_key(&next) {
            next += 1;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_account_is_read_from_the_nodes_answers() {
        let sender = Address::repeat_byte(0xab);
        let hash = B256::repeat_byte(1);
        let legacy = json!({"hash": hash, "nonce": "0x5", "gas": "0x5208", "value": "0x1", "gasPrice": "0x2"});
        let dynamic = json!({"hash": hash, "nonce": "0x7", "gas": "0x1", "value": "0x0", "gasPrice": "0x9", "maxFeePerGas": "0x4",
                             "maxPriorityFeePerGas": "0x3"});
        let content = json!({
            "pending": {sender.to_string(): {"5": legacy}, Address::ZERO.to_string(): {"0": legacy}},
            "queued": {sender.to_string(): {"7": dynamic}},
        });
        let account = Account::read(sender, &json!("0x5"), &json!("0x10"), &content).unwrap();
        assert_eq!((account.nonce, account.balance, account.pooled.len()), (5, U256::from(16), 2));
        assert_eq!(account.pooled[&5], Pooled { hash, fee_cap: Wei(2), tip_cap: Wei(2), cost: U256::from(42_001) });
        assert_eq!(account.pooled[&7], Pooled { hash, fee_cap: Wei(4), tip_cap: Wei(3), cost: U256::from(4) });
        assert_eq!(account.pending_nonce(), 6, "7 waits for 6");
    }

    #[test]
    fn answers_of_another_form_are_an_error() {
        assert!(Account::read(Address::ZERO, &json!(5), &json!("0x0"), &json!({})).is_err());
        assert!(Account::read(Address::ZERO, &json!("0x0"), &json!([]), &json!({})).is_err());
    }
}
