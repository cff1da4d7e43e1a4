//! Errors in the shape that OpenAI's clients know.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::gateway::reasons::is_about_the_request;

/// `{"error": {"message", "type", "param", "code"}}` with its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OpenAiError {
    pub status: StatusCode,
    pub body: ErrorBody,
    /// Seconds after which trying again makes sense.
    pub retry_after: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct ErrorBody {
    pub message: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub param: Option<String>,
    pub code: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Envelope<'a> {
    pub error: &'a ErrorBody,
}

impl OpenAiError {
    fn new(status: StatusCode, kind: &'static str, code: Option<&str>, message: impl Into<String>) -> Self {
        let body = ErrorBody { message: message.into(), kind, param: None, code: code.map(str::to_owned) };
        OpenAiError { status, body, retry_after: None }
    }

    /// A field that is missing, unknown or out of range.
    pub(super) fn invalid(param: &str, message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", None, message);
        error.body.param = Some(param.to_owned());
        error
    }

    pub(super) fn unreadable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", None, message)
    }

    pub(super) fn unauthorized() -> Self {
        let message = "this gateway wants an API key as a bearer token";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", Some("invalid_api_key"), message)
    }

    pub(super) fn model_not_found(model: &str) -> Self {
        let model: String = model.chars().take(100).collect();
        let message = format!("the model {model:?} does not exist; GET /v1/models lists those that do");
        let mut error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("model_not_found"), message);
        error.body.param = Some("model".into());
        error
    }

    pub(super) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            None,
            "the OpenAI API of this gateway has no such path",
        )
    }

    /// All workers are busy.
    pub(super) fn busy(retry_after: u64) -> Self {
        let message = "all workers are busy; try again in a moment";
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("no_capacity"), message);
        OpenAiError { retry_after: Some(retry_after.max(1)), ..error }
    }

    /// Nobody serves the model now.
    pub(super) fn no_worker(message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("no_worker"), message);
        OpenAiError { retry_after: Some(10), ..error }
    }

    pub(super) fn failed(reason: &str, message: impl Into<String>) -> Self {
        let code = if reason == "ContextExceeded" { "context_length_exceeded" } else { reason };
        match is_about_the_request(reason) {
            true => Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", Some(code), message),
            false => Self::new(StatusCode::BAD_GATEWAY, "server_error", Some(code), message),
        }
    }

    pub(super) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", None, "the gateway failed; its log says why")
    }

    pub(super) fn envelope(&self) -> Envelope<'_> {
        Envelope { error: &self.body }
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
