//! Errors in the shape that OpenAI's clients know.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json};

/// Characters of what a client sent that an error repeats.
const MOST_REPEATED: usize = 100;
/// Code of a field that is not offered.
const UNSUPPORTED: &str = "unsupported_parameter";

/// `{"error": {"message", "type", "param", "code"}}` with its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAiError {
    pub status: StatusCode,
    pub body: ErrorBody,
    /// Seconds after which trying again makes sense.
    pub retry_after: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    pub message: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub param: Option<String>,
    pub code: Option<String>,
}

impl OpenAiError {
    fn new(status: StatusCode, kind: &'static str, code: Option<&str>, message: impl Into<String>) -> Self {
        let body = ErrorBody { message: message.into(), kind, param: None, code: code.map(str::to_owned) };
        OpenAiError { status, body, retry_after: None }
    }

    /// The client's doing, without a field to name.
    pub fn bad_request(code: Option<&str>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message)
    }

    /// A field that is missing, unknown or out of range.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        let mut error = Self::bad_request(None, message);
        error.body.param = Some(param.to_owned());
        error
    }

    pub fn missing(field: &str) -> Self {
        Self::invalid(field, format!("{field} is missing"))
    }

    /// A field that is unknown, or known and not offered here.
    pub fn unsupported(field: &str) -> Self {
        let field: String = field.chars().take(MOST_REPEATED).collect();
        let mut error = Self::invalid(&field, format!("{field} is not supported here, or not with that value"));
        error.body.code = Some(UNSUPPORTED.to_owned());
        error
    }

    /// Whether it is a field that nobody offers, rather than one with a wrong value.
    pub fn is_unsupported(&self) -> bool {
        self.body.code.as_deref() == Some(UNSUPPORTED)
    }

    pub fn unreadable(message: impl Into<String>) -> Self {
        Self::bad_request(None, message)
    }

    pub fn unauthorized() -> Self {
        let message = "this server wants an API key as a bearer token";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", Some("invalid_api_key"), message)
    }

    pub fn model_not_found(model: &str) -> Self {
        let model: String = model.chars().take(MOST_REPEATED).collect();
        let message = format!("the model {model:?} does not exist; GET /v1/models lists those that do");
        let mut error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("model_not_found"), message);
        error.body.param = Some("model".into());
        error
    }

    pub fn not_found() -> Self {
        let message = "the OpenAI API of this server has no such path";
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", None, message)
    }

    pub fn method_not_allowed() -> Self {
        let message = "this path takes another method; the header Allow names it";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", None, message)
    }

    /// The client, or this server for it, took longer than a request may take.
    pub fn too_slow(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "timeout_error", Some("deadline_exceeded"), message)
    }

    pub fn body_too_large() -> Self {
        let message = "the request's body is larger than this server takes";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", Some("body_too_large"), message)
    }

    /// Whoever computes has no place; `retry_after` in seconds.
    pub fn busy(message: &str, retry_after: u64) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("no_capacity"), message);
        OpenAiError { retry_after: Some(retry_after.max(1)), ..error }
    }

    /// Nobody can answer now; `code` says why.
    pub fn unavailable(code: &str, message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some(code), message);
        OpenAiError { retry_after: Some(10), ..error }
    }

    /// Somebody else, on whom the answer depends, failed.
    pub fn bad_gateway(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "server_error", Some(code), message)
    }

    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", None, "the server failed; its log says why")
    }

    /// The whole body.
    pub fn envelope(&self) -> Value {
        json!({ "error": self.body })
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.envelope())).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
