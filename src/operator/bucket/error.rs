//! What can go wrong with a bucket, in words that are fit for a condition. Bodies of answers are never repeated: a job may
//! point at anything, and its author need not see what that says.

use object_store::{Error, client::HttpError};

use super::Location;
use crate::{
    api::reasons::Reason,
    operator::dial::{cause, refusal},
};

#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The credentials cannot be had.
    #[error("{message}")]
    Secret { reason: Reason, message: String },
    /// Jobs may not call that address.
    #[error("{0}")]
    Address(String),
    #[error("{0}")]
    NotFound(String),
    /// The credentials do not do.
    #[error("{0}")]
    Denied(String),
    /// Nothing is known; it may answer later.
    #[error("{0}")]
    Unreachable(String),
    /// What is there is somebody else's.
    #[error("{0}")]
    Foreign(String),
    #[error("API server: {0}")]
    Kube(Box<kube::Error>),
}

impl BucketError {
    pub(super) fn address(message: String) -> Self {
        BucketError::Address(message)
    }

    pub(super) fn of(error: Error, location: &Location) -> Self {
        if let Some(refused) = refusal(&error) {
            return BucketError::Address(refused.to_string());
        }
        let at = location.endpoint.as_deref().unwrap_or("Amazon S3");
        let message = format!("{} at {at}: {}", location.uri, describe(&error));
        match error {
            Error::NotFound { .. } => BucketError::NotFound(message),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => BucketError::Denied(message),
            _ => BucketError::Unreachable(message),
        }
    }

    /// As the reason why an input cannot be read.
    pub fn input_reason(&self) -> Reason {
        match self {
            BucketError::Secret { reason, .. } => *reason,
            BucketError::Address(_) => Reason::AddressRefused,
            BucketError::NotFound(_) => Reason::InputNotFound,
            BucketError::Denied(_) | BucketError::Foreign(_) => Reason::InputForbidden,
            BucketError::Unreachable(_) | BucketError::Kube(_) => Reason::InputUnreachable,
        }
    }

    /// As the reason why an output cannot be written.
    pub fn output_reason(&self) -> Reason {
        match self {
            BucketError::Secret { reason, .. } => *reason,
            BucketError::Address(_) => Reason::AddressRefused,
            BucketError::Foreign(_) => Reason::OutputConflict,
            BucketError::NotFound(_) | BucketError::Denied(_) => Reason::OutputForbidden,
            BucketError::Unreachable(_) | BucketError::Kube(_) => Reason::OutputUnreachable,
        }
    }
}

/// The status and S3's own code; for a connection that failed, why.
fn describe(error: &Error) -> String {
    let transport = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source())
        .find_map(|error| error.downcast_ref::<HttpError>());
    if let Some(transport) = transport {
        return cause(transport);
    }
    let text = error.to_string();
    let status = text.split_once("status code: ").and_then(|(_, rest)| rest.get(..3)).filter(|status| is_word(status));
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    match (status, code.filter(|code| code.len() <= 64 && is_word(code))) {
        (Some(status), Some(code)) => format!("HTTP {status} {code}"),
        (Some(status), None) => format!("HTTP {status}"),
        (None, Some(code)) => code.to_owned(),
        (None, None) => "no answer that S3 would give".to_owned(),
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::{
        super::location::{Location, tests::s3},
        *,
    };

    fn error(text: &str) -> Error {
        Error::Generic { store: "S3", source: text.into() }
    }

    #[test]
    fn an_answer_is_told_by_its_status_and_code_and_never_repeated() {
        let body = "Server returned non-2xx status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch</Code>secret</Error>";
        assert_eq!(describe(&error(body)), "HTTP 403 SignatureDoesNotMatch");
        assert_eq!(describe(&error("Server returned non-2xx status code: 500: top secret")), "HTTP 500");
        assert_eq!(describe(&error("<Code>what a secret</Code>")), "no answer that S3 would give");
    }

    #[test]
    fn the_same_trouble_has_its_name_on_either_side() {
        let location = Location::object(&s3("s3://in/x")).unwrap();
        let missing = BucketError::of(Error::NotFound { path: "x".into(), source: "no".into() }, &location);
        assert_eq!((missing.input_reason(), missing.output_reason()), (Reason::InputNotFound, Reason::OutputForbidden));
        assert!(missing.to_string().contains("s3://in/x at http://s3:8333"), "{missing}");
        let away = BucketError::of(error("connection refused"), &location);
        assert_eq!((away.input_reason(), away.output_reason()), (Reason::InputUnreachable, Reason::OutputUnreachable));
    }
}
