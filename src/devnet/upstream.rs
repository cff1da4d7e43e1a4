//! The node behind: anvil, asked over HTTP.

use std::time::Duration;

use serde_json::{Value, json};

use super::rules::{jsonrpc::RpcError, quantity};

const TIMEOUT: Duration = Duration::from_secs(30);

/// A cloneable handle.
#[derive(Debug, Clone)]
pub struct Upstream {
    http: reqwest::Client,
    url: String,
}

impl Upstream {
    /// Prepares a client; asks nothing yet.
    pub fn new(url: &str) -> Result<Self, reqwest::Error> {
        // The node is on this machine or beside it, never behind the proxy of a company.
        let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
        Ok(Upstream { http, url: url.to_owned() })
    }

    /// One call. The node's own error comes back as it is.
    pub async fn request(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        let answer = self.post(json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})).await?;
        outcome(answer)
    }

    /// Several calls at once, answered in their order; the first error is the error.
    pub async fn all<const N: usize>(&self, calls: [(&str, Value); N]) -> Result<[Value; N], RpcError> {
        let body = calls.into_iter().enumerate();
        let body: Value = body
            .map(|(id, (method, params))| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
            .collect();
        let Value::Array(mut answers) = self.post(body).await? else {
            return Err(no_answer("a batch was not answered by one"));
        };
        answers.sort_by_key(|answer| answer.get("id").and_then(Value::as_u64));
        let results: Vec<Value> = answers.into_iter().map(outcome).collect::<Result<_, _>>()?;
        results.try_into().map_err(|_| no_answer("a batch was answered in part"))
    }

    /// The number of the newest block.
    pub async fn head(&self) -> Result<u64, RpcError> {
        let number = self.request("eth_blockNumber", json!([])).await?;
        quantity(&number).ok_or_else(|| no_answer("the number of the newest block is none"))
    }

    async fn post(&self, body: Value) -> Result<Value, RpcError> {
        let sent = self.http.post(&self.url).json(&body).send().await;
        let answer = sent.and_then(reqwest::Response::error_for_status).map_err(|error| no_answer(&cause(&error)))?;
        answer.json().await.map_err(|error| no_answer(&cause(&error)))
    }
}

fn outcome(mut answer: Value) -> Result<Value, RpcError> {
    if let Some(error) = answer.get_mut("error") {
        let error = serde_json::from_value(error.take());
        return Err(error.unwrap_or_else(|_| no_answer("an error of another form than expected")));
    }
    answer.get_mut("result").map(Value::take).ok_or_else(|| no_answer("neither a result nor an error"))
}

fn no_answer(detail: &str) -> RpcError {
    RpcError::internal(format!("the node behind xdc-devnet did not answer as it should: {detail}"))
}

/// The innermost error: it says what happened, the outer ones quote the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
