//! Makes blocks, each with XDC's base fee, and replaces them. Callers hold the chain still meanwhile.

use alloy::{eips::eip2718::Encodable2718, primitives::Bytes};
use serde_json::{Value, json};

use super::{
    rules::{
        BASE_FEE,
        faults::{Fate, Reorg},
        hex_of,
        jsonrpc::RpcError,
        quantity,
    },
    upstream::Upstream,
};

/// Blocks that one request makes.
pub const MAX_BLOCKS: u64 = 10_000;

/// The only maker of blocks.
#[derive(Debug, Clone)]
pub struct Blocks {
    upstream: Upstream,
}

/// A block that a reorganisation replaces.
struct Replaced {
    timestamp: u64,
    /// Encoded, in the order of the block.
    transactions: Vec<Bytes>,
}

impl Blocks {
    /// Takes over from the node's own miner.
    pub async fn take_over(upstream: Upstream) -> Result<Self, RpcError> {
        let blocks = Blocks { upstream };
        blocks.upstream.request("evm_setAutomine", json!([false])).await?;
        blocks.upstream.request("evm_setIntervalMining", json!([0])).await?;
        blocks.steady_fee().await?;
        Ok(blocks)
    }

    /// Anvil lets the base fee of the next block follow how full the last one was; XDC's is a constant.
    pub async fn steady_fee(&self) -> Result<(), RpcError> {
        let fee = format!("{:#x}", BASE_FEE.0);
        self.upstream.request("anvil_setNextBlockBaseFeePerGas", json!([fee])).await.map(drop)
    }

    /// Makes `count` blocks, with `seconds` of chain time between them where given, and returns the number of the newest.
    pub async fn mine(&self, count: u64, seconds: Option<u64>) -> Result<u64, RpcError> {
        if count > MAX_BLOCKS {
            return Err(RpcError::invalid_params(format!(
                "{count} blocks were asked for, at most {MAX_BLOCKS} are made at once"
            )));
        }
        let params = seconds.map_or_else(|| json!([1]), |seconds| json!([1, seconds]));
        for _ in 0..count {
            self.steady_fee().await?;
            self.upstream.request("anvil_mine", params.clone()).await?;
        }
        self.steady_fee().await?;
        self.upstream.head().await
    }

    /// Replaces the newest blocks by others of the same numbers, and returns the number of the newest.
    pub async fn reorganise(&self, reorg: Reorg) -> Result<u64, RpcError> {
        let head = self.upstream.head().await?;
        let first = head.saturating_sub(reorg.depth) + 1;
        let mut replaced = Vec::new();
        for number in first..=head {
            replaced.push(self.read(number).await?);
        }
        // What the next block's time would have been: the newest of the new ones gets it, so that the chain's clock goes on.
        let now = self.timestamp("pending").await?;
        self.upstream.request("anvil_rollback", json!([reorg.depth])).await?;
        for (index, old) in replaced.iter().enumerate() {
            if reorg.transactions == Fate::Mined {
                self.offer(&old.transactions).await;
            }
            let is_newest = index + 1 == replaced.len();
            let timestamp = if is_newest { now.max(old.timestamp + 1) } else { old.timestamp + 1 };
            self.steady_fee().await?;
            self.upstream.request("evm_setNextBlockTimestamp", json!([timestamp])).await?;
            self.upstream.request("evm_mine", json!([])).await?;
        }
        if reorg.transactions == Fate::Pooled {
            for old in &replaced {
                self.offer(&old.transactions).await;
            }
        }
        self.steady_fee().await?;
        self.upstream.head().await
    }

    async fn read(&self, number: u64) -> Result<Replaced, RpcError> {
        let block = self.upstream.request("eth_getBlockByNumber", json!([hex_of(number), true])).await?;
        let timestamp = block.get("timestamp").and_then(quantity).ok_or_else(|| unreadable(number))?;
        let listed = block.get("transactions").cloned().unwrap_or_default();
        let transactions: Vec<alloy::rpc::types::Transaction> =
            serde_json::from_value(listed).map_err(|_| unreadable(number))?;
        let transactions = transactions.iter().map(|transaction| transaction.inner.encoded_2718().into()).collect();
        Ok(Replaced { timestamp, transactions })
    }

    async fn timestamp(&self, tag: &str) -> Result<u64, RpcError> {
        let block = self.upstream.request("eth_getBlockByNumber", json!([tag, false])).await?;
        block.get("timestamp").and_then(quantity).ok_or_else(|| RpcError::internal("the next block has no time"))
    }

    /// Back into the pool. One that it does not take is lost, as on a real chain.
    async fn offer(&self, transactions: &[Bytes]) {
        for raw in transactions {
            if let Err(error) = self.upstream.request("eth_sendRawTransaction", json!([raw])).await {
                tracing::warn!(%error, "a transaction of a replaced block did not come back");
            }
        }
    }
}

fn unreadable(number: u64) -> RpcError {
    RpcError::internal(format!("block {number} cannot be read, and was not replaced"))
}

/// The parameters of `anvil_mine` and of the methods that mean the same: how many blocks, and seconds between them.
pub fn mining_params(method: &str, params: &[Value]) -> Option<(u64, Option<u64>)> {
    let number = |index: usize| params.get(index).and_then(|value| value.as_u64().or_else(|| quantity(value)));
    match method {
        "anvil_mine" | "hardhat_mine" => Some((number(0).unwrap_or(1), number(1))),
        // With a parameter it makes one block at a time of its choice.
        "evm_mine" if params.is_empty() => Some((1, None)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_asked_for_in_several_ways() {
        assert_eq!(mining_params("anvil_mine", &[]), Some((1, None)));
        assert_eq!(mining_params("anvil_mine", &[json!(3), json!(2)]), Some((3, Some(2))));
        assert_eq!(mining_params("hardhat_mine", &[json!("0xa")]), Some((10, None)));
        assert_eq!(mining_params("evm_mine", &[]), Some((1, None)));
        assert_eq!(mining_params("evm_mine", &[json!({"timestamp": 4})]), None);
        assert_eq!(mining_params("eth_call", &[]), None);
    }
}
