//! Reading a request's body: bounded in size by the router's limit and in time by the caller.

use std::time::Duration;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::StatusCode,
};
use tokio::time::timeout;

use super::{OpenAiError, Parsed};

/// The whole body, if it comes `within` the time.
pub async fn read(request: Request, within: Duration) -> Parsed<Bytes> {
    match timeout(within, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(refused)) if refused.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(OpenAiError::body_too_large()),
        Ok(Err(refused)) => Err(OpenAiError::unreadable(refused.body_text())),
        Err(_) => {
            let message = format!("the request's body did not come within {} s", within.as_secs());
            Err(OpenAiError::too_slow(message))
        }
    }
}
