//! The token of the internal API. Those of the OpenAI API are looked at by `openai::check_key`.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::error::ApiFailure;
use crate::openai::Tokens;

/// Middleware of the internal API.
pub(super) async fn internal(State(tokens): State<Tokens>, request: Request, next: Next) -> Response {
    if tokens.admits(request.headers()) {
        return next.run(request).await;
    }
    ApiFailure::unauthorized().into_response()
}
