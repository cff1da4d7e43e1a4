//! What XDC does differently from anvil, as plain functions: no client, no clock, no file. The numbers and messages are those of XDPoSChain
//! (2.7.0 and its development branch); they are stated here on their own and not taken from `chain`, so that a wrong number there meets a
//! right one here.

pub mod account;
pub mod admission;
pub mod answers;
pub mod faults;
pub mod jsonrpc;
pub mod questions;
pub mod transaction;
pub mod view;

use serde_json::Value;

use crate::api::ids::Wei;

/// Every block's base fee, and the least price that the pool accepts.
pub const BASE_FEE: Wei = Wei(12_500_000_000);
/// Blocks between the head and the last one that consensus has committed, when all is well.
pub const FINALITY_DEPTH: u64 = 2;
/// Gas of a block.
pub const BLOCK_GAS_LIMIT: u64 = 420_000_000;
/// A non-zero byte of calldata costs 68 gas on XDC and 16 on anvil.
pub const SURCHARGE: u64 = 52;

/// Gas that anvil does not ask for and XDC does.
pub fn calldata_surcharge(data: &[u8]) -> u64 {
    SURCHARGE.saturating_mul(non_zero(data))
}

fn non_zero(data: &[u8]) -> u64 {
    data.iter().filter(|byte| **byte != 0).count() as u64
}

/// A number as JSON-RPC writes it.
pub fn hex_of(number: u64) -> Value {
    Value::String(format!("{number:#x}"))
}

/// Reads a number as JSON-RPC writes it.
pub fn quantity(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_non_zero_bytes_are_dearer() {
        assert_eq!(calldata_surcharge(&[0, 1, 0, 255]), 104);
        assert_eq!(calldata_surcharge(&[]), 0);
    }

    #[test]
    fn quantities_are_hex_with_a_prefix() {
        assert_eq!(quantity(&json!("0x1f")), Some(31));
        assert_eq!(quantity(&hex_of(31)), Some(31));
        assert_eq!([json!("31"), json!(31), json!("0x"), json!("latest")].map(|value| quantity(&value)), [None; 4]);
    }
}
