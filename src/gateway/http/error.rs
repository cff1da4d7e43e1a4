//! Errors of the internal API: a status, a stable reason, a sentence.

use axum::{
    Json,
    extract::{FromRequest, Request, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;

use crate::{gateway::GatewayError, protocol::internal::ApiError};

/// An error on its way to the operator.
#[derive(Debug)]
pub(super) struct ApiFailure {
    pub status: StatusCode,
    pub body: ApiError,
}

impl ApiFailure {
    pub(super) fn new(status: StatusCode, reason: &str, message: impl Into<String>) -> Self {
        ApiFailure { status, body: ApiError { reason: reason.to_owned(), message: message.into() } }
    }

    pub(super) fn invalid(reason: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason, message)
    }

    pub(super) fn unauthorized() -> Self {
        let message = "the internal API needs the token of --internal-token-file as a bearer token";
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }
}

impl IntoResponse for ApiFailure {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

impl From<GatewayError> for ApiFailure {
    fn from(error: GatewayError) -> Self {
        let message = error.to_string();
        match error {
            GatewayError::NotFound { reason, .. } => Self::new(StatusCode::NOT_FOUND, reason, message),
            GatewayError::Invalid { reason, .. } => Self::new(StatusCode::BAD_REQUEST, reason, message),
            GatewayError::Conflict { reason, .. } => Self::new(StatusCode::CONFLICT, reason, message),
            GatewayError::TooLarge { reason, .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, reason, message),
            GatewayError::Full { reason, .. } => Self::new(StatusCode::INSUFFICIENT_STORAGE, reason, message),
            GatewayError::TooEarly { reason, .. } => Self::new(StatusCode::TOO_EARLY, reason, message),
            GatewayError::Ledger(_) | GatewayError::Key(_) | GatewayError::Io { .. } => {
                tracing::error!("{message}");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "GatewayFailed", message)
            }
        }
    }
}

impl From<crate::store::LedgerError> for ApiFailure {
    fn from(error: crate::store::LedgerError) -> Self {
        GatewayError::from(error).into()
    }
}

/// A JSON body whose errors are `ApiError`s too.
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiFailure;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiFailure> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(body)) => Ok(Body(body)),
            Err(JsonRejection::BytesRejection(error)) => {
                Err(ApiFailure::new(error.status(), "BodyUnreadable", error.body_text()))
            }
            Err(error) => Err(ApiFailure::invalid("InvalidBody", error.body_text())),
        }
    }
}
