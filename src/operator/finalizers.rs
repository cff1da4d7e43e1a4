//! Finalizers with a deadline: an outside effect is undone before an object goes, but never at the price of an object that
//! cannot be deleted.

use std::time::Duration;

use jiff::Timestamp;
use kube::{
    Resource,
    runtime::{controller::Action, finalizer},
};

use super::{
    context::Context,
    error::{Error, is_not_found},
    gateway::GatewayError,
    write,
};
use crate::api::reasons::Reason;

/// Our own errors come back as they were; an object that is gone needs nothing any more.
pub fn unwrap(error: finalizer::Error<Error>) -> Result<Action, Error> {
    match error {
        finalizer::Error::ApplyFailed(error) | finalizer::Error::CleanupFailed(error) => Err(error),
        finalizer::Error::AddFinalizer(error) | finalizer::Error::RemoveFinalizer(error) if is_not_found(&error) => {
            Ok(Action::await_change())
        }
        finalizer::Error::AddFinalizer(error) | finalizer::Error::RemoveFinalizer(error) if changed(&error) => {
            Err(Error::Stale(error.to_string()))
        }
        error => Err(Error::Finalizer(error.to_string())),
    }
}

/// The patch names the finalizers that were read; the API server finds others (422), or another write was faster (409).
fn changed(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 409 | 422))
}

/// Whether an object has been waiting for its finalizers for `limit`.
pub fn deadline_passed<K: Resource>(object: &K, now: Timestamp, limit: Duration) -> bool {
    let Some(since) = &object.meta().deletion_timestamp else { return false };
    let waited = now.as_second().saturating_sub(since.0.as_second());
    waited >= i64::try_from(limit.as_secs()).unwrap_or(i64::MAX)
}

/// Done when the gateway has forgotten the object, or when it had its time.
pub async fn settle<K: Resource<DynamicType = ()>>(
    object: &K,
    outcome: Result<(), GatewayError>,
    limit: Duration,
    context: &Context,
) -> Result<Action, Error> {
    let Err(error) = outcome else { return Ok(Action::await_change()) };
    if !deadline_passed(object, (context.clock)(), limit) {
        return Err(error.into());
    }
    let reason = Reason::CleanupDeadlineExceeded.as_str();
    write::publish(context, object, &write::warning("Delete", reason, error.to_string())).await;
    Ok(Action::await_change())
}
