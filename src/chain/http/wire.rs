//! The JSON of the few questions that we ask, and of the answers that XDC's nodes give. Their blocks have fields that others lack
//! and lack some that others have, and a node can be told to write addresses as `xdc…`: only what is used is read, and both
//! spellings are.

use alloy::primitives::{Address, B256, Bytes, U64, U128, U256};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api::ids::NodeAddress,
    chain::{
        error::ChainError,
        rpc::{At, BlockRef, CallRequest, LogEntry, LogFilter, SendOutcome, SentCall, TxReceipt},
    },
};

/// The state as the last parameter of a question about an account. By hash it is an EIP-1898 object: a node on another branch
/// refuses instead of answering about its own block of that number.
pub(super) fn state(at: At) -> Value {
    match at {
        At::Latest => json!("latest"),
        At::Finalized => json!("finalized"),
        At::Number(number) => json!(U64::from(number)),
        At::Hash(hash) => json!({"blockHash": hash, "requireCanonical": true}),
    }
}

pub(super) fn block_question(at: At) -> (&'static str, Value) {
    match at {
        At::Hash(hash) => ("eth_getBlockByHash", json!([hash, false])),
        other => ("eth_getBlockByNumber", json!([state(other), false])),
    }
}

pub(super) fn account_question(account: NodeAddress, at: At) -> Value {
    json!([Address::from(account), state(at)])
}

pub(super) fn call_params(request: &CallRequest) -> Value {
    let mut object = json!({
        "from": Address::from(request.from),
        "value": U256::from(request.value.0),
        "data": request.data,
    });
    if let (Some(to), Some(object)) = (request.to, object.as_object_mut()) {
        object.insert("to".to_owned(), json!(Address::from(to)));
    }
    object
}

pub(super) fn filter_params(filter: &LogFilter) -> Value {
    json!([{
        "address": Address::from(filter.address),
        "fromBlock": U64::from(filter.from_block),
        "toBlock": U64::from(filter.to_block),
        "topics": [filter.topic],
    }])
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawBlock {
    number: U64,
    hash: B256,
    timestamp: U64,
    #[serde(default)]
    base_fee_per_gas: Option<U128>,
}

impl From<RawBlock> for BlockRef {
    fn from(raw: RawBlock) -> Self {
        BlockRef {
            number: raw.number.to(),
            hash: raw.hash,
            timestamp: raw.timestamp.to(),
            base_fee: raw.base_fee_per_gas.map(|fee| crate::api::ids::Wei(fee.to())),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawReceipt {
    transaction_hash: B256,
    block_number: U64,
    block_hash: B256,
    status: U64,
    gas_used: U64,
    #[serde(default)]
    contract_address: Option<NodeAddress>,
}

impl From<RawReceipt> for TxReceipt {
    fn from(raw: RawReceipt) -> Self {
        TxReceipt {
            hash: raw.transaction_hash,
            block_number: raw.block_number.to(),
            block_hash: raw.block_hash,
            succeeded: raw.status == U64::from(1),
            gas_used: raw.gas_used.to(),
            contract: raw.contract_address,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawTransaction {
    from: NodeAddress,
    #[serde(default)]
    to: Option<NodeAddress>,
    input: Bytes,
}

impl From<RawTransaction> for SentCall {
    fn from(raw: RawTransaction) -> Self {
        SentCall { from: raw.from, to: raw.to, data: raw.input }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawLog {
    transaction_hash: B256,
    block_number: U64,
    log_index: U64,
    topics: Vec<B256>,
    data: Bytes,
    #[serde(default)]
    removed: bool,
}

impl RawLog {
    /// `None` for a log that a reorganisation took back.
    pub(super) fn read(self) -> Option<LogEntry> {
        (!self.removed).then(|| LogEntry {
            transaction: self.transaction_hash,
            block_number: self.block_number.to(),
            index: self.log_index.to(),
            topics: self.topics,
            data: self.data,
        })
    }
}

/// Nodes tell these apart by text only; the texts are those of go-ethereum's pool, which XDC's is made from, and of anvil.
pub(super) fn outcome_of_send(answer: Result<B256, ChainError>) -> Result<SendOutcome, ChainError> {
    let error = match answer {
        Ok(_) => return Ok(SendOutcome::Accepted),
        Err(error) => error,
    };
    let ChainError::Rpc { message, .. } = &error else { return Err(error) };
    let message = message.to_lowercase();
    let says = |texts: &[&str]| texts.iter().any(|text| message.contains(text));
    if says(&["already known", "already imported", "known transaction"]) {
        Ok(SendOutcome::AlreadyKnown)
    } else if says(&["nonce too low"]) {
        Ok(SendOutcome::NonceTooLow)
    } else if says(&["underpriced"]) {
        Ok(SendOutcome::Underpriced)
    } else {
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rpc(message: &str) -> Result<B256, ChainError> {
        Err(ChainError::Rpc { endpoint: String::new(), method: "eth_sendRawTransaction", message: message.to_owned() })
    }

    #[test]
    fn sending_the_same_bytes_again_is_not_an_error() {
        assert_eq!(outcome_of_send(rpc("already known")), Ok(SendOutcome::AlreadyKnown));
        assert_eq!(outcome_of_send(rpc("transaction already imported")), Ok(SendOutcome::AlreadyKnown));
        assert_eq!(outcome_of_send(rpc("nonce too low")), Ok(SendOutcome::NonceTooLow));
        assert_eq!(outcome_of_send(rpc("replacement transaction underpriced")), Ok(SendOutcome::Underpriced));
        assert!(outcome_of_send(rpc("insufficient funds for gas * price + value")).is_err());
    }

    /// As XDC's nodes answer: header fields of their own, none of the newer ones, addresses in either spelling.
    #[test]
    fn blocks_and_receipts_of_xdc_are_read() {
        let hash = |byte: &str| format!("0x{}", byte.repeat(32));
        let block = json!({
            "number": "0x5e3a11", "hash": hash("ab"), "parentHash": hash("cd"), "timestamp": "0x68f0c1d2",
            "miner": "xdc0000000000000000000000000000000000000000", "difficulty": "0x1", "totalDifficulty": "0x5e3a12",
            "validators": "0x", "validator": "0xf8", "penalties": "0x", "transactions": [hash("01")], "uncles": [],
        });
        let block = BlockRef::from(serde_json::from_value::<RawBlock>(block).unwrap());
        assert_eq!((block.number, block.base_fee), (0x5e_3a11, None));

        let receipt = json!({
            "transactionHash": hash("11"), "blockNumber": "0x10", "blockHash": hash("22"), "status": "0x1",
            "gasUsed": "0x5208", "cumulativeGasUsed": "0x5208", "from": "xdc1111111111111111111111111111111111111111",
            "to": null, "contractAddress": "xdcaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "logs": [], "logsBloom": "0x00",
        });
        let receipt = TxReceipt::from(serde_json::from_value::<RawReceipt>(receipt).unwrap());
        assert_eq!(receipt.contract, Some(NodeAddress([0xaa; 20])));
        assert!(receipt.succeeded, "no effectiveGasPrice, and none is needed");

        let sent =
            json!({"from": "xdc1111111111111111111111111111111111111111", "to": null, "input": "0x01", "nonce": "0x0"});
        let sent = SentCall::from(serde_json::from_value::<RawTransaction>(sent).unwrap());
        assert_eq!(sent.from, NodeAddress([0x11; 20]));
    }

    #[test]
    fn we_send_addresses_as_0x_whatever_the_config_says() {
        let contract: NodeAddress = "xdcaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".parse().unwrap();
        let request =
            CallRequest { from: contract, to: Some(contract), value: crate::api::ids::Wei(0), data: Bytes::new() };
        let question = call_params(&request).to_string().to_lowercase();
        assert!(!question.contains("xdc") && question.contains("0xaaaa"), "{question}");
    }
}
