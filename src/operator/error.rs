//! Errors that end a reconcile. What a user can correct is not an error but a condition; what ends up here is retried.

use super::gateway::GatewayError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("API server: {0}")]
    Kube(Box<kube::Error>),
    #[error("gateway: {0}")]
    Gateway(#[from] GatewayError),
    /// Something outside is not done yet; looked at again soon.
    #[error("{0}")]
    Waiting(String),
    #[error("finalizer: {0}")]
    Finalizer(String),
    /// A shard of a Local job; somebody deleted it.
    #[error("ConfigMap {0} with a shard is gone")]
    ShardMissing(String),
    /// The finalizers were not what they were when the object was read.
    #[error("the object's finalizers changed meanwhile: {0}")]
    Stale(String),
    #[error("cannot serialise: {0}")]
    Serialize(#[from] serde_json::Error),
    #[error("an object without {0}")]
    Incomplete(&'static str),
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Error::Kube(Box::new(error))
    }
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Back off and try again.
    Transient,
    /// Somebody wrote between our read and our write: look at what is there now. No failure, and nobody's fault.
    Conflict,
    /// Wait until the object changes.
    Permanent,
}

impl Error {
    /// The one place that decides between backing off and waiting for a change.
    pub fn class(&self) -> Class {
        match self {
            // The API server found our request wrong; sending it again cannot help.
            Error::Kube(error) => match error.as_ref() {
                kube::Error::Api(status) if matches!(status.code, 400 | 413 | 422) => Class::Permanent,
                kube::Error::Api(status) if status.code == 409 => Class::Conflict,
                _ => Class::Transient,
            },
            Error::Stale(_) => Class::Conflict,
            Error::Gateway(_) | Error::Finalizer(_) | Error::Waiting(_) | Error::ShardMissing(_) => Class::Transient,
            Error::Serialize(_) | Error::Incomplete(_) => Class::Permanent,
        }
    }

    /// Label for metrics: never a name, never a message.
    pub fn label(&self) -> &'static str {
        match self {
            Error::Kube(error) => match error.as_ref() {
                kube::Error::Api(status) if status.code == 403 => "kube_forbidden",
                kube::Error::Api(status) if status.code == 409 => "kube_conflict",
                kube::Error::Api(_) => "kube_refused",
                _ => "kube_unavailable",
            },
            Error::Gateway(GatewayError::Unavailable(_)) => "gateway_unavailable",
            Error::Gateway(_) => "gateway_refused",
            Error::Waiting(_) => "waiting",
            Error::ShardMissing(_) => "shard_missing",
            Error::Finalizer(_) => "finalizer",
            Error::Stale(_) => "kube_conflict",
            Error::Serialize(_) => "serialize",
            Error::Incomplete(_) => "incomplete",
        }
    }
}

/// True for a write or read that RBAC does not allow.
pub fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

/// True for an object that is gone.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// True when the API server says that there is no object of this name. A kind that is not served is "not found" as well, and says
/// nothing about its objects.
pub fn says_gone(error: &kube::Error, name: &str) -> bool {
    match error {
        kube::Error::Api(status) if status.code == 404 => {
            status.details.as_ref().is_some_and(|details| details.name == name)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use kube::core::{Status, response::StatusDetails};

    use super::*;

    fn refused(code: u16) -> Error {
        kube::Error::Api(Box::new(Status { code, ..Status::default() })).into()
    }

    #[test]
    fn only_an_answer_about_the_object_itself_says_that_it_is_gone() {
        let answer = |code, name: &str| {
            let details: StatusDetails = serde_json::from_value(serde_json::json!({"name": name})).unwrap();
            kube::Error::Api(Box::new(Status { code, details: Some(details), ..Status::default() }))
        };
        assert!(says_gone(&answer(404, "j"), "j"));
        assert!(!says_gone(&answer(404, ""), "j"), "its kind is not served");
        assert!(!says_gone(&answer(503, "j"), "j"));
    }

    #[test]
    fn a_conflict_is_no_failure_a_wrong_request_is_not_repeated_and_everything_else_is() {
        assert_eq!(refused(409).class(), Class::Conflict);
        assert_eq!(Error::Stale(String::new()).class(), Class::Conflict);
        assert_eq!(refused(422).class(), Class::Permanent);
        for code in [403, 410, 429, 500, 503] {
            assert_eq!(refused(code).class(), Class::Transient, "{code}");
        }
    }
}
