//! `xdc-devnet` in front of a real anvil, asked by alloy's own provider and by hand: XDC's rules, the faults, what strangers may send, and the
//! program's start and end.

mod faults;
mod program;
mod rules;
mod strangers;

use alloy::{
    consensus::{SignableTransaction, TxEnvelope, TxLegacy},
    eips::eip2718::Encodable2718,
    primitives::{Address, B256, Bytes, TxKind, U256, keccak256},
    providers::{Provider, ProviderBuilder},
    signers::{SignerSync, local::PrivateKeySigner},
};
use serde_json::{Value, json};

use crate::support::devnet::{CHAIN_ID, TestNet, number};

const BASE_FEE: u128 = 12_500_000_000;

/// Anvil's first account: its key is public.
fn signer() -> PrivateKeySigner {
    "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80".parse().unwrap()
}

/// A signed transfer of 1 wei to nobody, changed as the caller likes.
fn signed(change: impl FnOnce(&mut TxLegacy)) -> Bytes {
    let mut transaction = TxLegacy {
        chain_id: Some(CHAIN_ID),
        nonce: 0,
        gas_price: BASE_FEE,
        gas_limit: 21_000,
        to: TxKind::Call(Address::repeat_byte(9)),
        value: U256::from(1),
        input: Bytes::new(),
    };
    change(&mut transaction);
    let signature = signer().sign_hash_sync(&transaction.signature_hash()).unwrap();
    TxEnvelope::from(transaction.into_signed(signature)).encoded_2718().into()
}

/// alloy's provider, as a user's program has it.
fn provider(net: &TestNet) -> impl Provider {
    ProviderBuilder::new().disable_recommended_fillers().connect_http(net.url.parse().unwrap())
}

impl TestNet {
    async fn send(&self, raw: &Bytes) -> Result<Value, String> {
        let answer = self.call("eth_sendRawTransaction", json!([raw])).await;
        answer.map_err(|error| error["message"].as_str().unwrap().to_owned())
    }

    async fn receipt(&self, raw: &Bytes) -> Value {
        self.request("eth_getTransactionReceipt", json!([keccak256(raw)])).await
    }

    async fn block_of(&self, raw: &Bytes) -> u64 {
        number(&self.receipt(raw).await["blockNumber"])
    }

    async fn hash_of_block(&self, number: u64) -> B256 {
        let block = self.request("eth_getBlockByNumber", json!([format!("{number:#x}"), false])).await;
        block["hash"].as_str().unwrap().parse().unwrap()
    }
}
