//! One JSON-RPC endpoint: proves its chain once, and puts what it says into our words.

use std::sync::atomic::{AtomicBool, Ordering};

use alloy::{
    primitives::U64,
    rpc::client::{ClientBuilder, RpcClient},
    transports::{RpcError, TransportError, TransportErrorKind, http::Http},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::wire::RawBlock;
use crate::chain::{
    error::ChainError,
    refusal::Refusal,
    rpc::{At, BlockRef},
};

/// What can be read out of a JSON-RPC result.
pub(super) trait Answer: DeserializeOwned + std::fmt::Debug + Send + Sync + Unpin + 'static {}
impl<T: DeserializeOwned + std::fmt::Debug + Send + Sync + Unpin + 'static> Answer for T {}

/// Blocks behind the head that count as final where an endpoint does not know the tag. XDC finalises at head − 2 when all is
/// well; this many rounds without a commit have not been seen.
const UNTAGGED_FINALITY: u64 = 20;

pub(super) struct Endpoint {
    /// Host and port. The rest of the URL may be a secret.
    pub(super) label: String,
    client: RpcClient,
    verified: AtomicBool,
}

impl Endpoint {
    pub(super) fn new(url: &str, http: &reqwest::Client) -> Result<Self, ChainError> {
        let url: reqwest::Url = url.parse().map_err(|_| ChainError::InvalidEndpoint)?;
        let (true, Some(host)) = (matches!(url.scheme(), "http" | "https"), url.host_str()) else {
            return Err(ChainError::InvalidEndpoint);
        };
        let label = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let client = ClientBuilder::default().transport(Http::with_client(http.clone(), url), false);
        Ok(Endpoint { label, client, verified: AtomicBool::new(false) })
    }

    /// Asks, after the endpoint has shown once that it serves `chain_id`.
    pub(super) async fn ask<T: Answer>(
        &self,
        chain_id: u64,
        method: &'static str,
        params: &Value,
    ) -> Result<T, ChainError> {
        if !self.verified.load(Ordering::Relaxed) {
            let found = self.chain_id().await?;
            if found != chain_id {
                return Err(ChainError::WrongChainId { endpoint: self.label.clone(), expected: chain_id, found });
            }
            self.verified.store(true, Ordering::Relaxed);
        }
        self.request(method, params).await
    }

    /// The chain that it says it serves.
    pub(super) async fn chain_id(&self) -> Result<u64, ChainError> {
        Ok(self.request::<U64>("eth_chainId", &json!([])).await?.to())
    }

    /// The newest block that this endpoint calls final. A node that does not know the tag is asked for one far below its head; any
    /// other error stands: a node that was just restarted has none yet.
    pub(super) async fn final_block(&self, chain_id: u64) -> Result<BlockRef, ChainError> {
        match self.block(chain_id, At::Finalized).await {
            Err(ChainError::Rpc { message, .. }) if does_not_know_the_tag(&message) => {
                let head = self.block(chain_id, At::Latest).await?;
                self.block(chain_id, At::Number(head.number.saturating_sub(UNTAGGED_FINALITY))).await
            }
            other => other,
        }
    }

    pub(super) async fn block(&self, chain_id: u64, at: At) -> Result<BlockRef, ChainError> {
        let (method, params) = super::wire::block_question(at);
        Ok(self.ask::<RawBlock>(chain_id, method, &params).await?.into())
    }

    async fn request<T: Answer>(&self, method: &'static str, params: &Value) -> Result<T, ChainError> {
        let call = self.client.request::<_, T>(method, params.clone());
        call.await.map_err(|error| self.explain(method, error))
    }

    fn explain(&self, method: &'static str, error: TransportError) -> ChainError {
        let endpoint = self.label.clone();
        match error {
            RpcError::ErrorResp(payload) => match payload.as_revert_data() {
                Some(data) => ChainError::Refused(Refusal::decode(&data)),
                None if payload.message.contains("execution reverted") => {
                    ChainError::Refused(Refusal::without_reason(&payload.message))
                }
                None => ChainError::Rpc { endpoint, method, message: shortened(&payload.message) },
            },
            RpcError::Transport(TransportErrorKind::HttpError(http)) => {
                ChainError::Unreachable { endpoint, detail: format!("HTTP status {}", http.status) }
            }
            RpcError::DeserError { err, .. } => ChainError::Rpc {
                endpoint,
                method,
                message: format!("an answer of another form than expected ({})", shortened(&err.to_string())),
            },
            other => ChainError::Unreachable { endpoint, detail: without_urls(&other) },
        }
    }
}

/// The words of go-ethereum, from which XDC's node is made, and of other clients for a block tag that they do not have.
fn does_not_know_the_tag(message: &str) -> bool {
    let message = message.to_lowercase();
    ["without 0x prefix", "invalid block", "unknown block tag", "unknown variant", "unsupported block"]
        .iter()
        .any(|text| message.contains(text))
}

/// The HTTP client's errors quote the whole URL; the cause below says what happened.
fn without_urls(error: &TransportError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    if text.contains("://") { "the request failed".to_owned() } else { shortened(&text) }
}

fn shortened(text: &str) -> String {
    text.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_the_tag_is_told_from_one_that_lost_it() {
        assert!(does_not_know_the_tag("invalid argument 0: hex string without 0x prefix"));
        assert!(!does_not_know_the_tag("method handler crashed"), "a node after a restart: nil is dereferenced");
        assert!(!does_not_know_the_tag("finalized block not found"));
    }
}
