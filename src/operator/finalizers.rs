//! Finalizers with a deadline: an outside effect is undone before an object goes, but never at the price of an object that
//! cannot be deleted.

use std::{fmt::Debug, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{controller::Action, finalizer},
};
use serde::de::DeserializeOwned;
use serde_json::json;

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

/// Takes `finalizer` off, so that the object can go.
pub async fn release<K>(api: &Api<K>, object: &K, finalizer: &str) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let left: Vec<_> = object.finalizers().iter().filter(|held| *held != finalizer).collect();
    // With the version that was read: a finalizer that somebody else added meanwhile must not be lost.
    let patch = json!({"metadata": {"resourceVersion": object.resource_version(), "finalizers": left}});
    match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
        Err(error) if changed(&error) => Err(Error::Stale(error.to_string())),
        Err(error) if !is_not_found(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

pub fn holds(metadata: &ObjectMeta, finalizer: &str) -> bool {
    metadata.finalizers.iter().flatten().any(|held| held == finalizer)
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
