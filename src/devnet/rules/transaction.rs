//! A signed transaction as a client offers it to the pool.

use alloy::{
    consensus::{Transaction, TxEnvelope, transaction::SignerRecoverable},
    eips::eip2718::Decodable2718,
    primitives::{Address, B256, Bytes, U256, keccak256},
};

use super::jsonrpc::RpcError;
use crate::api::ids::Wei;

/// What the pool looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    pub hash: B256,
    pub sender: Address,
    /// None where anybody could play the transaction again on another chain.
    pub chain_id: Option<u64>,
    pub nonce: u64,
    /// None for the creation of a contract.
    pub to: Option<Address>,
    pub value: U256,
    pub input: Bytes,
    pub gas_limit: u64,
    /// The most it pays per gas; of a legacy transaction its price.
    pub fee_cap: Wei,
    /// The most it pays per gas above the base fee; of a legacy transaction its price.
    pub tip_cap: Wei,
    /// Addresses and storage keys of the access list.
    pub listed: (u64, u64),
    /// Length of its encoding.
    pub bytes: usize,
}

impl Offered {
    /// Reads an EIP-2718 envelope of type 0, 1 or 2 and recovers its sender. Blobs (type 3) and set-code transactions (type 4, which XDC's
    /// mainnet has not enabled) are refused.
    pub fn decode(raw: &[u8]) -> Result<Self, RpcError> {
        if let Some(kind @ 3..=0x7f) = raw.first().copied() {
            return Err(RpcError::refused(format!(
                "transaction type not supported: tx type {kind} not supported by this pool"
            )));
        }
        let envelope = TxEnvelope::decode_2718_exact(raw)
            .map_err(|error| RpcError::refused(format!("the transaction cannot be decoded: {error}")))?;
        let sender = envelope.recover_signer().map_err(|_| RpcError::refused("invalid sender"))?;
        let listed = envelope
            .access_list()
            .map_or((0, 0), |list| (list.len() as u64, list.iter().map(|item| item.storage_keys.len() as u64).sum()));
        Ok(Offered {
            hash: keccak256(raw),
            sender,
            chain_id: envelope.chain_id(),
            nonce: envelope.nonce(),
            to: envelope.to(),
            value: envelope.value(),
            input: envelope.input().clone(),
            gas_limit: envelope.gas_limit(),
            fee_cap: Wei(envelope.max_fee_per_gas()),
            tip_cap: Wei(envelope.priority_fee_or_price()),
            listed,
            bytes: raw.len(),
        })
    }

    /// The most it can take from its sender, in wei.
    pub fn cost(&self) -> U256 {
        U256::from(self.gas_limit).saturating_mul(U256::from(self.fee_cap.0)).saturating_add(self.value)
    }
}

#[cfg(test)]
pub mod testing {
    use alloy::{
        consensus::{SignableTransaction, TxEip1559, TxLegacy},
        eips::eip2718::Encodable2718,
        primitives::TxKind,
        signers::{SignerSync, local::PrivateKeySigner},
    };

    use super::*;

    pub fn signer() -> PrivateKeySigner {
        PrivateKeySigner::from_slice(&[7; 32]).unwrap()
    }

    pub fn legacy(change: impl FnOnce(&mut TxLegacy)) -> Vec<u8> {
        let mut transaction = TxLegacy {
            chain_id: Some(51),
            nonce: 5,
            gas_price: 12_500_000_000,
            gas_limit: 21_000,
            to: TxKind::Call(Address::repeat_byte(9)),
            value: U256::from(1),
            input: Bytes::new(),
        };
        change(&mut transaction);
        sign(transaction)
    }

    pub fn dynamic(change: impl FnOnce(&mut TxEip1559)) -> Vec<u8> {
        let mut transaction = TxEip1559 {
            chain_id: 51,
            nonce: 5,
            gas_limit: 21_000,
            max_fee_per_gas: 25_000_000_000,
            max_priority_fee_per_gas: 1,
            to: TxKind::Call(Address::repeat_byte(9)),
            ..TxEip1559::default()
        };
        change(&mut transaction);
        sign(transaction)
    }

    fn sign<T: SignableTransaction<alloy::primitives::Signature>>(transaction: T) -> Vec<u8>
    where
        TxEnvelope: From<alloy::consensus::Signed<T>>,
    {
        let signature = signer().sign_hash_sync(&transaction.signature_hash()).unwrap();
        TxEnvelope::from(transaction.into_signed(signature)).encoded_2718()
    }

    #[test]
    fn a_legacy_transaction_pays_its_price_as_cap_and_as_tip() {
        let raw = legacy(|_| ());
        let offered = Offered::decode(&raw).unwrap();
        assert_eq!((offered.sender, offered.nonce, offered.bytes), (signer().address(), 5, raw.len()));
        assert_eq!((offered.fee_cap, offered.tip_cap), (Wei(12_500_000_000), Wei(12_500_000_000)));
        assert_eq!(offered.cost(), U256::from(21_000u64 * 12_500_000_000 + 1));
    }

    #[test]
    fn a_dynamic_transaction_has_both() {
        let offered = Offered::decode(&dynamic(|_| ())).unwrap();
        assert_eq!((offered.fee_cap, offered.tip_cap), (Wei(25_000_000_000), Wei(1)));
    }

    #[test]
    fn blobs_set_code_and_what_is_none_are_refused() {
        for (kind, raw) in [(3, vec![3, 0xc0]), (4, vec![4, 0xc0]), (5, vec![5])] {
            let message = Offered::decode(&raw).unwrap_err().message;
            assert!(message.starts_with("transaction type not supported"), "{kind}: {message}");
        }
        for raw in [vec![], vec![0x02], vec![0xc0], vec![0xff; 40], [legacy(|_| ()), vec![0]].concat()] {
            assert!(Offered::decode(&raw).is_err(), "{raw:?}");
        }
    }
}
