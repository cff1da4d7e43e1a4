//! One to five JSON-RPC endpoints of the same chain behind [`ChainRpc`]. Reads go to the first that answers, a "there is no such
//! thing" is believed only when all say so, and raw transactions go to all.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use alloy::{
    primitives::{Address, B256, Bytes, U64, U128, U256},
    rpc::client::{ClientBuilder, RpcClient},
    transports::{RpcError, TransportError, TransportErrorKind, http::Http},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    error::ChainError,
    refusal::Refusal,
    rpc::{At, BlockRef, CallRequest, ChainRpc, RpcFuture, SendOutcome, TxReceipt},
};
use crate::api::ids::{NodeAddress, Wei};

const MAX_ENDPOINTS: usize = 5;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// What can be read out of a JSON-RPC result.
trait Answer: DeserializeOwned + std::fmt::Debug + Send + Sync + Unpin + 'static {}
impl<T: DeserializeOwned + std::fmt::Debug + Send + Sync + Unpin + 'static> Answer for T {}

/// Endpoints of one chain. Each must prove its chain id before it is asked anything else.
pub struct HttpEndpoints {
    chain_id: u64,
    endpoints: Vec<Endpoint>,
    /// Index of the endpoint that answered last.
    preferred: AtomicUsize,
}

struct Endpoint {
    /// Host and port. The rest of the URL may be a secret.
    label: String,
    client: RpcClient,
    verified: AtomicBool,
}

impl HttpEndpoints {
    /// Prepares clients for `urls`; asks nothing yet.
    pub fn new<S: AsRef<str>>(urls: &[S], chain_id: u64) -> Result<Self, ChainError> {
        if urls.is_empty() || urls.len() > MAX_ENDPOINTS {
            return Err(ChainError::InvalidEndpoint);
        }
        let http = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| ChainError::Unreachable {
                endpoint: "the RPC endpoints".to_owned(),
                detail: error.to_string(),
            })?;
        let endpoints = urls.iter().map(|url| Endpoint::new(url.as_ref(), &http)).collect::<Result<_, _>>()?;
        Ok(HttpEndpoints { chain_id, endpoints, preferred: AtomicUsize::new(0) })
    }

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
            match endpoint.verified_request(self.chain_id, method, &params).await {
                Ok(answer) if settles(&answer) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(answer) => unsettled = Some(answer),
                Err(refused @ ChainError::Refused(_)) => return Err(refused),
                Err(error) => failure = error,
            }
        }
        unsettled.ok_or(failure)
    }

    async fn ask_any<T: Answer>(&self, method: &'static str, params: Value) -> Result<T, ChainError> {
        self.ask(method, params, |_| true).await
    }

    async fn send_to_all(&self, raw: &[u8]) -> Result<SendOutcome, ChainError> {
        let params = json!([Bytes::copy_from_slice(raw)]);
        let answers = futures::future::join_all(
            self.endpoints
                .iter()
                .map(|endpoint| endpoint.verified_request::<B256>(self.chain_id, "eth_sendRawTransaction", &params)),
        )
        .await;
        let outcomes: Vec<_> = answers.into_iter().map(outcome_of_send).collect();
        // One pool that took it is enough; "no" from one node may only mean that it lags.
        [SendOutcome::Accepted, SendOutcome::AlreadyKnown, SendOutcome::NonceTooLow, SendOutcome::Underpriced]
            .into_iter()
            .find(|wanted| outcomes.contains(&Ok(*wanted)))
            .map_or_else(|| outcomes.into_iter().next().unwrap_or(Err(ChainError::InvalidEndpoint)), Ok)
    }
}

impl Endpoint {
    fn new(url: &str, http: &reqwest::Client) -> Result<Self, ChainError> {
        let url: reqwest::Url = url.parse().map_err(|_| ChainError::InvalidEndpoint)?;
        let (true, Some(host)) = (matches!(url.scheme(), "http" | "https"), url.host_str()) else {
            return Err(ChainError::InvalidEndpoint);
        };
        let label = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let client = ClientBuilder::default().transport(Http::with_client(http.clone(), url), false);
        Ok(Endpoint { label, client, verified: AtomicBool::new(false) })
    }

    async fn verified_request<T: Answer>(
        &self,
        chain_id: u64,
        method: &'static str,
        params: &Value,
    ) -> Result<T, ChainError> {
        if !self.verified.load(Ordering::Relaxed) {
            let found = self.request::<U64>("eth_chainId", &json!([])).await?.to::<u64>();
            if found != chain_id {
                return Err(ChainError::WrongChainId { endpoint: self.label.clone(), expected: chain_id, found });
            }
            self.verified.store(true, Ordering::Relaxed);
        }
        self.request(method, params).await
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

/// Nodes tell these apart by text only; the texts are those of go-ethereum's pool, which XDC's is made from, and of anvil.
fn outcome_of_send(answer: Result<B256, ChainError>) -> Result<SendOutcome, ChainError> {
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

fn tag(at: At) -> Value {
    match at {
        At::Latest => json!("latest"),
        At::Finalized => json!("finalized"),
        At::Number(number) => json!(U64::from(number)),
    }
}

fn call_params(request: &CallRequest) -> Value {
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

/// The few fields we use; XDC's extra ones do not matter.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawBlock {
    number: U64,
    hash: B256,
    timestamp: U64,
    #[serde(default)]
    base_fee_per_gas: Option<U128>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawReceipt {
    transaction_hash: B256,
    block_number: U64,
    block_hash: B256,
    status: U64,
    gas_used: U64,
    #[serde(default)]
    contract_address: Option<Address>,
}

impl From<RawReceipt> for TxReceipt {
    fn from(raw: RawReceipt) -> Self {
        TxReceipt {
            hash: raw.transaction_hash,
            block_number: raw.block_number.to(),
            block_hash: raw.block_hash,
            succeeded: raw.status == U64::from(1),
            gas_used: raw.gas_used.to(),
            contract: raw.contract_address.map(NodeAddress::from),
        }
    }
}

impl ChainRpc for HttpEndpoints {
    fn chain_id(&self) -> RpcFuture<'_, u64> {
        Box::pin(async { Ok(self.ask_any::<U64>("eth_chainId", json!([])).await?.to()) })
    }

    fn code(&self, account: NodeAddress) -> RpcFuture<'_, Bytes> {
        let params = json!([Address::from(account), "latest"]);
        Box::pin(self.ask("eth_getCode", params, |code: &Bytes| !code.is_empty()))
    }

    fn balance(&self, account: NodeAddress) -> RpcFuture<'_, Wei> {
        let params = json!([Address::from(account), "latest"]);
        Box::pin(async { Ok(Wei(self.ask_any::<U256>("eth_getBalance", params).await?.saturating_to())) })
    }

    fn nonce(&self, account: NodeAddress, at: At) -> RpcFuture<'_, u64> {
        let params = json!([Address::from(account), tag(at)]);
        Box::pin(async { Ok(self.ask_any::<U64>("eth_getTransactionCount", params).await?.to()) })
    }

    fn block(&self, at: At) -> RpcFuture<'_, BlockRef> {
        let params = json!([tag(at), false]);
        Box::pin(async {
            let raw: RawBlock = self.ask_any("eth_getBlockByNumber", params).await?;
            Ok(BlockRef {
                number: raw.number.to(),
                hash: raw.hash,
                timestamp: raw.timestamp.to(),
                base_fee: raw.base_fee_per_gas.map(|fee| Wei(fee.to())),
            })
        })
    }

    fn call<'a>(&'a self, request: &'a CallRequest, at: At) -> RpcFuture<'a, Bytes> {
        Box::pin(self.ask_any("eth_call", json!([call_params(request), tag(at)])))
    }

    fn estimate_gas<'a>(&'a self, request: &'a CallRequest) -> RpcFuture<'a, u64> {
        Box::pin(async { Ok(self.ask_any::<U64>("eth_estimateGas", json!([call_params(request)])).await?.to()) })
    }

    fn send_raw<'a>(&'a self, raw: &'a [u8]) -> RpcFuture<'a, SendOutcome> {
        Box::pin(self.send_to_all(raw))
    }

    fn knows(&self, hash: B256) -> RpcFuture<'_, bool> {
        Box::pin(async move {
            let found: Option<Value> = self.ask("eth_getTransactionByHash", json!([hash]), Option::is_some).await?;
            Ok(found.is_some())
        })
    }

    fn receipt(&self, hash: B256) -> RpcFuture<'_, Option<TxReceipt>> {
        Box::pin(async move {
            let found: Option<RawReceipt> =
                self.ask("eth_getTransactionReceipt", json!([hash]), Option::is_some).await?;
            Ok(found.map(TxReceipt::from))
        })
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

    #[test]
    fn an_endpoint_is_a_http_url_and_there_are_at_most_five() {
        assert!(HttpEndpoints::new(&["ftp://host"], 51).is_err());
        assert!(HttpEndpoints::new(&["not a url"], 51).is_err());
        assert!(HttpEndpoints::new::<&str>(&[], 51).is_err());
        assert!(HttpEndpoints::new(&["http://a"; 6], 51).is_err());
        let endpoints = HttpEndpoints::new(&["https://rpc.example:8443/v1/token"], 51).unwrap();
        assert_eq!(endpoints.endpoints[0].label, "rpc.example:8443");
    }
}
