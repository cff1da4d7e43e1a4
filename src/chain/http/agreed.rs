//! The same endpoints, for questions that decide about money: an answer counts once two of them have given it. One endpoint alone
//! is believed only where no other is configured.

use std::sync::Arc;

use alloy::primitives::{B256, Bytes, U64, U256};
use serde_json::{Value, json};

use super::{
    Pool,
    endpoint::Answer,
    wire::{self, RawBlock, RawLog, RawReceipt, RawTransaction},
};
use crate::{
    api::ids::{NodeAddress, Wei},
    chain::{
        error::ChainError,
        rpc::{At, BlockRef, CallRequest, ChainRpc, LogEntry, LogFilter, RpcFuture, SendOutcome, SentCall, TxReceipt},
    },
};

/// How many endpoints must say the same.
const QUORUM: usize = 2;

pub(super) struct Agreed {
    pub(super) pool: Arc<Pool>,
}

impl Agreed {
    fn quorum(&self) -> usize {
        self.pool.endpoints.len().min(QUORUM)
    }

    async fn ask<T: Answer + PartialEq>(&self, method: &'static str, params: Value) -> Result<T, ChainError> {
        agree(self.pool.ask_all(method, &params).await, self.quorum(), method)
    }

    /// The newest block that enough endpoints call final, if they have the same block there.
    async fn final_block(&self) -> Result<BlockRef, ChainError> {
        let pool = &self.pool;
        if self.quorum() < QUORUM {
            return pool.final_block().await;
        }
        let answers =
            futures::future::join_all(pool.endpoints.iter().map(|endpoint| endpoint.final_block(pool.chain_id))).await;
        let number = common_final(&answers, self.quorum())
            .ok_or_else(|| answers.into_iter().find_map(Result::err).unwrap_or(ChainError::InvalidEndpoint))?;
        self.block_by(At::Number(number)).await
    }

    async fn block_by(&self, at: At) -> Result<BlockRef, ChainError> {
        let (method, params) = wire::block_question(at);
        Ok(self.ask::<RawBlock>(method, params).await?.into())
    }
}

/// The highest number that `quorum` endpoints have reached.
fn common_final(answers: &[Result<BlockRef, ChainError>], quorum: usize) -> Option<u64> {
    let mut numbers: Vec<u64> = answers.iter().flatten().map(|block| block.number).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers.get(quorum.saturating_sub(1)).copied()
}

/// The one answer that enough endpoints gave. What the contract refuses is an answer as well; an endpoint that failed gave none.
fn agree<T: PartialEq>(
    answers: Vec<Result<T, ChainError>>,
    quorum: usize,
    method: &'static str,
) -> Result<T, ChainError> {
    let is_answer = |answer: &Result<T, ChainError>| matches!(answer, Ok(_) | Err(ChainError::Refused(_)));
    let (given, failed): (Vec<_>, Vec<_>) = answers.into_iter().partition(is_answer);
    if given.len() < quorum {
        return Err(failed.into_iter().find_map(Result::err).unwrap_or(ChainError::InvalidEndpoint));
    }
    let mut groups: Vec<(Result<T, ChainError>, usize)> = Vec::new();
    for answer in given {
        match groups.iter_mut().find(|(known, _)| *known == answer) {
            Some((_, count)) => *count += 1,
            None => groups.push((answer, 1)),
        }
    }
    let mut enough = groups.into_iter().filter(|(_, count)| *count >= quorum);
    match (enough.next(), enough.next()) {
        (Some((answer, _)), None) => answer,
        _ => Err(ChainError::Disagreement { method }),
    }
}

/// Latest heads differ between honest endpoints: ask about final blocks, by number or hash.
impl ChainRpc for Agreed {
    fn agreed(&self) -> &dyn ChainRpc {
        self
    }

    fn chain_id(&self) -> RpcFuture<'_, u64> {
        Box::pin(async { Ok(self.ask::<U64>("eth_chainId", json!([])).await?.to()) })
    }

    fn code(&self, account: NodeAddress) -> RpcFuture<'_, Bytes> {
        Box::pin(self.ask("eth_getCode", wire::account_question(account, At::Latest)))
    }

    fn balance(&self, account: NodeAddress) -> RpcFuture<'_, Wei> {
        let params = wire::account_question(account, At::Latest);
        Box::pin(async { Ok(Wei(self.ask::<U256>("eth_getBalance", params).await?.saturating_to())) })
    }

    fn nonce(&self, account: NodeAddress, at: At) -> RpcFuture<'_, u64> {
        let params = wire::account_question(account, at);
        Box::pin(async { Ok(self.ask::<U64>("eth_getTransactionCount", params).await?.to()) })
    }

    fn block(&self, at: At) -> RpcFuture<'_, BlockRef> {
        Box::pin(async move {
            match at {
                At::Finalized => self.final_block().await,
                other => self.block_by(other).await,
            }
        })
    }

    fn call<'a>(&'a self, request: &'a CallRequest, at: At) -> RpcFuture<'a, Bytes> {
        Box::pin(self.ask("eth_call", json!([wire::call_params(request), wire::state(at)])))
    }

    fn estimate_gas<'a>(&'a self, request: &'a CallRequest) -> RpcFuture<'a, u64> {
        Box::pin(self.pool.estimate_gas(request))
    }

    fn send_raw<'a>(&'a self, raw: &'a [u8]) -> RpcFuture<'a, SendOutcome> {
        Box::pin(self.pool.send_to_all(raw))
    }

    fn receipt(&self, hash: B256) -> RpcFuture<'_, Option<TxReceipt>> {
        Box::pin(async move {
            let found: Option<RawReceipt> = self.ask("eth_getTransactionReceipt", json!([hash])).await?;
            Ok(found.map(TxReceipt::from))
        })
    }

    fn transaction(&self, hash: B256) -> RpcFuture<'_, Option<SentCall>> {
        Box::pin(async move {
            let found: Option<RawTransaction> = self.ask("eth_getTransactionByHash", json!([hash])).await?;
            Ok(found.map(SentCall::from))
        })
    }

    fn logs<'a>(&'a self, filter: &'a LogFilter) -> RpcFuture<'a, Vec<LogEntry>> {
        Box::pin(async {
            let found: Vec<RawLog> = self.ask("eth_getLogs", wire::filter_params(filter)).await?;
            Ok(found.into_iter().filter_map(RawLog::read).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::refusal::Refusal;

    fn gone<T>() -> Result<T, ChainError> {
        Err(ChainError::Unreachable { endpoint: "a".into(), detail: "cut".into() })
    }

    #[test]
    fn one_endpoint_alone_decides_nothing_where_there_are_two() {
        assert_eq!(agree(vec![Ok(1), Ok(1)], 2, "m"), Ok(1));
        assert_eq!(agree(vec![Ok(1)], 1, "m"), Ok(1), "only one is configured");
        assert_eq!(agree(vec![Ok(1), gone()], 2, "m"), gone());
        assert_eq!(agree(vec![Ok(1), Ok(2)], 2, "m"), Err(ChainError::Disagreement { method: "m" }));
        assert_eq!(agree(vec![Ok(1), Ok(2), Ok(1)], 2, "m"), Ok(1), "a liar is outvoted");
        assert_eq!(agree(vec![Ok(1), Ok(2), Ok(1), Ok(2)], 2, "m"), Err(ChainError::Disagreement { method: "m" }));
        let refused = || Err(ChainError::Refused(Refusal::new("WrongEpoch", "no")));
        assert_eq!(agree::<u8>(vec![refused(), refused(), gone()], 2, "m"), refused());
    }

    #[test]
    fn final_is_what_two_endpoints_have_reached() {
        let at = |number| Ok(BlockRef { number, hash: B256::ZERO, timestamp: 0, base_fee: None });
        assert_eq!(common_final(&[at(9), at(7), at(8)], 2), Some(8), "one may run ahead, or lie");
        assert_eq!(common_final(&[at(9), gone()], 2), None);
        assert_eq!(common_final(&[at(9)], 1), Some(9));
    }
}
