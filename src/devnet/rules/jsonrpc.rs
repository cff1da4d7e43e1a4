//! JSON-RPC 2.0 as go-ethereum's server, from which XDC's comes, reads and writes it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Calls in one batch; go-ethereum's default.
pub const MAX_BATCH: usize = 1_000;

/// An error of the protocol. The codes are those of go-ethereum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct RpcError {
    pub code: i64,
    pub message: String,
    /// Revert data, as the node sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
}

impl RpcError {
    fn new(code: i64, message: impl Into<String>) -> Self {
        RpcError { code, message: message.into(), data: None }
    }

    /// The node understood and refuses.
    pub fn refused(message: impl Into<String>) -> Self {
        RpcError::new(-32000, message)
    }

    pub fn invalid_params(message: impl Into<String>) -> Self {
        RpcError::new(-32602, message)
    }

    pub fn invalid_request(message: impl Into<String>) -> Self {
        RpcError::new(-32600, message)
    }

    pub fn unknown_method(method: &str) -> Self {
        let shown: String = method.chars().take(80).collect();
        RpcError::new(-32601, format!("the method {shown} does not exist/is not available"))
    }

    /// Something broke inside the node.
    pub fn internal(message: impl Into<String>) -> Self {
        RpcError::new(-32603, message)
    }

    fn unreadable(detail: impl std::fmt::Display) -> Self {
        RpcError::new(-32700, format!("parse error: {detail}"))
    }
}

/// One call of a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// None for a notification, which nobody answers.
    pub id: Option<Value>,
    pub method: String,
    pub params: Vec<Value>,
}

/// A call that is none, and what to say to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    pub id: Value,
    pub error: RpcError,
}

/// What a request's body holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    One(Result<Call, Box<Rejected>>),
    Many(Vec<Result<Call, Box<Rejected>>>),
}

/// Reads a body. JSON that nests deeper than 128 levels is a parse error, as is everything that is no JSON.
pub fn parse(body: &[u8]) -> Result<Body, RpcError> {
    let value: Value = serde_json::from_slice(body).map_err(RpcError::unreadable)?;
    match value {
        Value::Array(calls) if calls.is_empty() => Err(RpcError::invalid_request("empty batch")),
        Value::Array(calls) if calls.len() > MAX_BATCH => Err(RpcError::invalid_request("batch too large")),
        Value::Array(calls) => Ok(Body::Many(calls.into_iter().map(read).collect())),
        other => Ok(Body::One(read(other))),
    }
}

fn read(value: Value) -> Result<Call, Box<Rejected>> {
    let Value::Object(mut fields) = value else {
        return Err(Box::new(Rejected { id: Value::Null, error: RpcError::invalid_request("invalid request") }));
    };
    let id = fields.remove("id");
    let rejected = |error: RpcError| Box::new(Rejected { id: id.clone().unwrap_or(Value::Null), error });
    if matches!(id, Some(Value::Object(_) | Value::Array(_))) {
        return Err(Box::new(Rejected { id: Value::Null, error: RpcError::invalid_request("invalid request") }));
    }
    let (Some(Value::String(version)), Some(Value::String(method))) =
        (fields.remove("jsonrpc"), fields.remove("method"))
    else {
        return Err(rejected(RpcError::invalid_request("invalid request")));
    };
    if version != "2.0" {
        return Err(rejected(RpcError::invalid_request("invalid request")));
    }
    let params = match fields.remove("params") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(params)) => params,
        Some(_) => return Err(rejected(RpcError::invalid_params("non-array args"))),
    };
    Ok(Call { id, method, params })
}

/// The answer to a call.
pub fn answer(id: Value, outcome: Result<Value, RpcError>) -> Value {
    match outcome {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(error) => json!({"jsonrpc": "2.0", "id": id, "error": error}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Call, Box<Rejected>> {
        match parse(text.as_bytes()).unwrap() {
            Body::One(call) => call,
            Body::Many(_) => panic!("a batch"),
        }
    }

    #[test]
    fn a_call_keeps_the_form_of_its_id() {
        let call = one(r#"{"jsonrpc":"2.0","id":"a","method":"eth_chainId"}"#).unwrap();
        assert_eq!(call, Call { id: Some(json!("a")), method: "eth_chainId".to_owned(), params: Vec::new() });
        assert_eq!(one(r#"{"jsonrpc":"2.0","method":"x","params":null}"#).unwrap().id, None);
    }

    #[test]
    fn what_is_no_call_is_an_invalid_request() {
        for text in [
            "1",
            "{}",
            r#"{"jsonrpc":"1.0","id":1,"method":"x"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":2}"#,
            r#"{"jsonrpc":"2.0","id":{},"method":"x"}"#,
        ] {
            assert_eq!(one(text).unwrap_err().error.code, -32600, "{text}");
        }
        assert_eq!(one(r#"{"jsonrpc":"2.0","id":7,"method":"x","params":{}}"#).unwrap_err().error.code, -32602);
        assert_eq!(one(r#"{"jsonrpc":"1.0","id":7,"method":"x"}"#).unwrap_err().id, json!(7));
    }

    #[test]
    fn what_is_no_json_and_what_nests_too_deep_is_a_parse_error() {
        for text in ["", "{", "\u{0}", "[".repeat(1_000_000).as_str(), "{\"a\":".repeat(10_000).as_str()] {
            assert_eq!(parse(text.as_bytes()).unwrap_err().code, -32700);
        }
        assert_eq!(parse(&[0xff, 0xfe]).unwrap_err().code, -32700);
    }

    #[test]
    fn batches_have_an_end() {
        assert_eq!(parse(b"[]").unwrap_err().message, "empty batch");
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#;
        let batch = |count: usize| format!("[{}]", vec![call; count].join(","));
        assert!(matches!(parse(batch(MAX_BATCH).as_bytes()), Ok(Body::Many(calls)) if calls.len() == MAX_BATCH));
        assert_eq!(parse(batch(MAX_BATCH + 1).as_bytes()).unwrap_err().message, "batch too large");
    }

    #[test]
    fn names_of_unknown_methods_are_cut() {
        assert!(RpcError::unknown_method(&"m".repeat(10_000)).message.len() < 200);
    }
}
