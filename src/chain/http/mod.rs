//! One to five JSON-RPC endpoints of the same chain behind [`ChainRpc`]. Plain reads go to the first that answers, a "there is no
//! such thing" is believed only when all say so and none of them lags, raw transactions go to all, and what decides about money is
//! read through [`ChainRpc::agreed`].

mod agreed;
mod endpoint;
mod wire;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy::primitives::{B256, Bytes, U64, U256};
use futures::future::join_all;
use serde_json::{Value, json};

use super::{
    error::ChainError,
    rpc::{At, BlockRef, CallRequest, ChainRpc, LogEntry, LogFilter, RpcFuture, SendOutcome, SentCall, TxReceipt},
};
use crate::api::ids::{NodeAddress, Wei};
use agreed::Agreed;
use endpoint::{Answer, Endpoint};
use wire::{RawLog, RawReceipt, RawTransaction, outcome_of_send};

const MAX_ENDPOINTS: usize = 5;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// A head this many blocks below the newest one that any endpoint ever showed is too old for its "no" to count. Honest nodes
/// differ by a few blocks.
const MAX_LAG: u64 = 10;

/// Endpoints of one chain. Each must prove its chain id before it is asked anything else.
pub struct HttpEndpoints {
    pool: Arc<Pool>,
    agreed: Agreed,
}

struct Pool {
    chain_id: u64,
    endpoints: Vec<Endpoint>,
    /// Index of the endpoint that answered last.
    preferred: AtomicUsize,
    /// The newest block number that any endpoint ever showed.
    newest: AtomicU64,
    /// The newest final block number that any endpoint ever showed.
    newest_final: AtomicU64,
}

/// The chain that an endpoint says it serves, for somebody who was told nothing but its URL.
pub async fn chain_id_of(url: &str) -> Result<u64, ChainError> {
    Endpoint::new(url, &client()?)?.chain_id().await
}

fn client() -> Result<reqwest::Client, ChainError> {
    reqwest::Client::builder()
        .timeout(REQUEST_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| ChainError::Unreachable {
            endpoint: "the RPC endpoints".to_owned(),
            detail: error.to_string(),
        })
}

impl HttpEndpoints {
    /// Prepares clients for `urls`; asks nothing yet.
    pub fn new<S: AsRef<str>>(urls: &[S], chain_id: u64) -> Result<Self, ChainError> {
        if urls.is_empty() || urls.len() > MAX_ENDPOINTS {
            return Err(ChainError::InvalidEndpoint);
        }
        let http = client()?;
        let endpoints = urls.iter().map(|url| Endpoint::new(url.as_ref(), &http)).collect::<Result<_, _>>()?;
        let pool = Arc::new(Pool {
            chain_id,
            endpoints,
            preferred: AtomicUsize::new(0),
            newest: AtomicU64::new(0),
            newest_final: AtomicU64::new(0),
        });
        Ok(HttpEndpoints { agreed: Agreed { pool: pool.clone() }, pool })
    }
}

impl Pool {
    /// Asks one endpoint after the other, beginning with the one that answered last, until one gives an answer that `settles`.
    async fn ask<T: Answer>(
        &self,
        method: &'static str,
        params: Value,
        settles: impl Fn(&T) -> bool,
    ) -> Result<T, ChainError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut unsettled = None;
        let mut failure = ChainError::InvalidEndpoint;
        for offset in 0..self.endpoints.len() {
            let index = (first + offset) % self.endpoints.len();
            let Some(endpoint) = self.endpoints.get(index) else { continue };
            match endpoint.ask(self.chain_id, method, &params).await {
                Ok(answer) if settles(&answer) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(answer) => unsettled = Some((answer, endpoint)),
                Err(refused @ ChainError::Refused(_)) => return Err(refused),
                Err(error) => failure = error,
            }
        }
        match unsettled {
            Some((no, endpoint)) => self.not_behind(endpoint, method).await.map(|()| no),
            None => Err(failure),
        }
    }

    /// A "no" of an endpoint that has not seen the newest blocks says nothing.
    async fn not_behind(&self, endpoint: &Endpoint, method: &'static str) -> Result<(), ChainError> {
        let head: u64 = endpoint.ask::<U64>(self.chain_id, "eth_blockNumber", &json!([])).await?.to();
        let newest = self.newest.fetch_max(head, Ordering::Relaxed);
        if head.saturating_add(MAX_LAG) < newest {
            return Err(ChainError::Behind { endpoint: endpoint.label.clone(), method, head, newest });
        }
        Ok(())
    }

    async fn ask_any<T: Answer>(&self, method: &'static str, params: Value) -> Result<T, ChainError> {
        self.ask(method, params, |_| true).await
    }

    async fn ask_all<T: Answer>(&self, method: &'static str, params: &Value) -> Vec<Result<T, ChainError>> {
        join_all(self.endpoints.iter().map(|endpoint| endpoint.ask(self.chain_id, method, params))).await
    }

    async fn block(&self, at: At) -> Result<BlockRef, ChainError> {
        if at == At::Finalized {
            return self.final_block().await;
        }
        let (method, params) = wire::block_question(at);
        let block: BlockRef = self.ask_any::<wire::RawBlock>(method, params).await?.into();
        self.newest.fetch_max(block.number, Ordering::Relaxed);
        Ok(block)
    }

    /// Finality never goes back, but a node that was restarted does not remember it: then another one is asked.
    async fn final_block(&self) -> Result<BlockRef, ChainError> {
        let known = self.newest_final.load(Ordering::Relaxed);
        let mut lower: Option<BlockRef> = None;
        let mut failure = ChainError::InvalidEndpoint;
        for endpoint in &self.endpoints {
            match endpoint.final_block(self.chain_id).await {
                Ok(block) if block.number >= known => {
                    self.newest_final.fetch_max(block.number, Ordering::Relaxed);
                    return Ok(block);
                }
                Ok(block) => lower = lower.filter(|other| other.number >= block.number).or(Some(block)),
                Err(error) => failure = error,
            }
        }
        lower.ok_or(failure)
    }

    async fn estimate_gas(&self, request: &CallRequest) -> Result<u64, ChainError> {
        Ok(self.ask_any::<U64>("eth_estimateGas", json!([wire::call_params(request)])).await?.to())
    }

    async fn send_to_all(&self, raw: &[u8]) -> Result<SendOutcome, ChainError> {
        let params = json!([Bytes::copy_from_slice(raw)]);
        let answers = self.ask_all::<B256>("eth_sendRawTransaction", &params).await;
        let outcomes: Vec<_> = answers.into_iter().map(outcome_of_send).collect();
        // One pool that took it is enough; "no" from one node may only mean that it lags.
        [SendOutcome::Accepted, SendOutcome::AlreadyKnown, SendOutcome::NonceTooLow, SendOutcome::Underpriced]
            .into_iter()
            .find(|wanted| outcomes.contains(&Ok(*wanted)))
            .map_or_else(|| outcomes.into_iter().next().unwrap_or(Err(ChainError::InvalidEndpoint)), Ok)
    }
}

impl ChainRpc for HttpEndpoints {
    fn agreed(&self) -> &dyn ChainRpc {
        &self.agreed
    }

    fn chain_id(&self) -> RpcFuture<'_, u64> {
        Box::pin(async { Ok(self.pool.ask_any::<U64>("eth_chainId", json!([])).await?.to()) })
    }

    fn code(&self, account: NodeAddress) -> RpcFuture<'_, Bytes> {
        let params = wire::account_question(account, At::Latest);
        Box::pin(self.pool.ask("eth_getCode", params, |code: &Bytes| !code.is_empty()))
    }

    fn balance(&self, account: NodeAddress) -> RpcFuture<'_, Wei> {
        let params = wire::account_question(account, At::Latest);
        Box::pin(async { Ok(Wei(self.pool.ask_any::<U256>("eth_getBalance", params).await?.saturating_to())) })
    }

    fn nonce(&self, account: NodeAddress, at: At) -> RpcFuture<'_, u64> {
        let params = wire::account_question(account, at);
        Box::pin(async { Ok(self.pool.ask_any::<U64>("eth_getTransactionCount", params).await?.to()) })
    }

    fn block(&self, at: At) -> RpcFuture<'_, BlockRef> {
        Box::pin(self.pool.block(at))
    }

    fn call<'a>(&'a self, request: &'a CallRequest, at: At) -> RpcFuture<'a, Bytes> {
        Box::pin(self.pool.ask_any("eth_call", json!([wire::call_params(request), wire::state(at)])))
    }

    fn estimate_gas<'a>(&'a self, request: &'a CallRequest) -> RpcFuture<'a, u64> {
        Box::pin(self.pool.estimate_gas(request))
    }

    fn send_raw<'a>(&'a self, raw: &'a [u8]) -> RpcFuture<'a, SendOutcome> {
        Box::pin(self.pool.send_to_all(raw))
    }

    fn receipt(&self, hash: B256) -> RpcFuture<'_, Option<TxReceipt>> {
        Box::pin(async move {
            let question = self.pool.ask("eth_getTransactionReceipt", json!([hash]), Option::is_some);
            let found: Option<RawReceipt> = question.await?;
            Ok(found.map(TxReceipt::from))
        })
    }

    fn transaction(&self, hash: B256) -> RpcFuture<'_, Option<SentCall>> {
        Box::pin(async move {
            let question = self.pool.ask("eth_getTransactionByHash", json!([hash]), Option::is_some);
            let found: Option<RawTransaction> = question.await?;
            Ok(found.map(SentCall::from))
        })
    }

    fn logs<'a>(&'a self, filter: &'a LogFilter) -> RpcFuture<'a, Vec<LogEntry>> {
        Box::pin(async {
            let found: Vec<RawLog> = self.pool.ask_any("eth_getLogs", wire::filter_params(filter)).await?;
            Ok(found.into_iter().filter_map(RawLog::read).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_http_url_and_there_are_at_most_five() {
        assert!(HttpEndpoints::new(&["ftp://host"], 51).is_err());
        assert!(HttpEndpoints::new(&["not a url"], 51).is_err());
        assert!(HttpEndpoints::new::<&str>(&[], 51).is_err());
        assert!(HttpEndpoints::new(&["http://a"; 6], 51).is_err());
        let endpoints = HttpEndpoints::new(&["https://rpc.example:8443/v1/token"], 51).unwrap();
        assert_eq!(endpoints.pool.endpoints[0].label, "rpc.example:8443");
    }
}
