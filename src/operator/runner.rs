//! The frame around every controller: waiting for its CRD, malformed objects, backoff, metrics, one log line per outcome.

use std::{
    fmt::Debug,
    future::Future,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use kube::{
    Api, Resource, ResourceExt,
    api::ListParams,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        Controller,
        controller::{Action, Config},
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;

use super::{
    context::Context,
    error::{Class, Error, is_not_found},
    write,
};
use crate::{api::reasons::Reason, telemetry::readiness::Readiness};

/// Looked at again even when nothing was heard: the last net under every missed event.
const RESYNC: Duration = Duration::from_secs(300);
const CRD_POLL: Duration = Duration::from_secs(2);
/// A conflict that comes again and again for this long is worth a warning.
const CONFLICTS_SEEM_STRANGE: Duration = Duration::from_secs(2);

/// A kind as the controllers watch it: a malformed object is an element of the stream, not its end.
pub type Guarded<K> = DeserializeGuard<K>;

/// Returns once the kind is served. Until then the process lives and says on `/readyz` what is missing.
pub async fn wait_for_crd<K>(api: &Api<PartialObjectMeta<K>>, context: &Context, readiness: &Readiness)
where
    K: Resource<DynamicType = ()> + Debug + Clone,
{
    let kind = K::kind(&()).into_owned();
    let part = format!("crd/{kind}");
    loop {
        match api.list_metadata(&ListParams::default().limit(1)).await {
            Ok(_) => break,
            Err(error) if is_not_found(&error) => {
                context.metrics.missing_crds.with_label_values(&[&kind]).set(1);
                readiness.waiting(&part, format!("{kind} is not installed; apply the files in crds/"));
            }
            Err(error) => readiness.waiting(&part, error.to_string()),
        }
        tokio::time::sleep(CRD_POLL).await;
    }
    context.metrics.missing_crds.with_label_values(&[&kind]).set(0);
    readiness.ready(&part);
}

/// A controller over `api` that survives malformed objects.
pub fn controller<K>(api: Api<Guarded<K>>, context: &Context) -> Controller<Guarded<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let config = Config::default().concurrency(context.config.concurrency).debounce(Duration::from_millis(50));
    Controller::new(api, watcher::Config::default()).with_config(config)
}

/// Runs `controller` until `stop` resolves, with `reconcile` for every well-formed object.
pub async fn run<K, F>(
    controller: Controller<Guarded<K>>,
    context: Arc<Context>,
    stop: tokio_util::sync::CancellationToken,
    reconcile: fn(Arc<K>, Arc<Context>) -> F,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    F: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let guarded = move |object: Arc<Guarded<K>>, context: Arc<Context>| observed(object, context, reconcile);
    controller
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(guarded, requeue, context)
        .for_each(|outcome| async move {
            // Failures of a reconcile are logged where they happen; what is left are watches.
            if let Err(kube::runtime::controller::Error::QueueError(error)) = outcome {
                tracing::warn!(kind = %K::kind(&()), %error, "a watch failed and is started again");
            }
        })
        .await;
}

/// An error with the time to wait before the object's next turn.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
struct Failed {
    error: Error,
    again: Option<Duration>,
}

fn requeue<K>(_: Arc<Guarded<K>>, failed: &Failed, _: Arc<Context>) -> Action {
    failed.again.map_or_else(Action::await_change, Action::requeue)
}

async fn observed<K, F>(
    object: Arc<Guarded<K>>,
    context: Arc<Context>,
    reconcile: fn(Arc<K>, Arc<Context>) -> F,
) -> Result<Action, Failed>
where
    K: Resource<DynamicType = ()> + Clone + Debug,
    F: Future<Output = Result<Action, Error>>,
{
    let kind = K::kind(&());
    let object = match &object.0 {
        Ok(object) => Arc::new(object.clone()),
        Err(invalid) => {
            context.metrics.malformed(&kind);
            tracing::warn!(%kind, name = ?invalid.metadata.name, error = invalid.error, "a malformed object is left alone");
            let event = write::warning("Read", Reason::InvalidObject.as_str(), invalid.error.clone());
            write::publish(&context, object.as_ref(), &event).await;
            return Ok(Action::await_change());
        }
    };
    let key = format!("{kind}/{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    let started = Instant::now();
    match reconcile(object, context.clone()).await {
        Ok(action) => {
            context.backoffs.succeeded(&key);
            context.metrics.reconciled(&kind, started.elapsed());
            context.metrics.recovered(context.backoffs.len());
            tracing::debug!(key, took_ms = started.elapsed().as_millis(), "reconciled");
            Ok(if action == Action::await_change() { Action::requeue(RESYNC) } else { action })
        }
        // Not done yet is no failure: no backoff, no warning.
        Err(Error::Waiting(why)) => {
            tracing::debug!(key, why, "waits");
            Err(Failed { error: Error::Waiting(why), again: Some(context.config.chain_poll()) })
        }
        // The watch is about to bring the newer object. The pause only keeps a conflict that stays from spinning.
        Err(error) if error.class() == Class::Conflict => {
            let again = context.backoffs.failed(&key) / 16;
            context.metrics.conflicted(&kind);
            if again < CONFLICTS_SEEM_STRANGE {
                tracing::debug!(key, %error, ?again, "the object changed meanwhile");
            } else {
                tracing::warn!(key, %error, ?again, "the object changes faster than it can be looked at");
            }
            Err(Failed { error, again: Some(again) })
        }
        Err(error) => {
            let again = match error.class() {
                Class::Transient | Class::Conflict => Some(context.backoffs.failed(&key)),
                Class::Permanent => None,
            };
            context.metrics.failed(&kind, error.label(), context.backoffs.len());
            tracing::warn!(key, %error, ?again, "reconcile failed");
            Err(Failed { error, again })
        }
    }
}

/// References to the objects in `store` that satisfy `pick`; malformed ones are passed over.
pub fn select<K>(store: &Store<Guarded<K>>, pick: impl Fn(&K) -> bool) -> Vec<ObjectRef<Guarded<K>>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + 'static,
    K::DynamicType: Hash + Eq,
{
    let state = store.state();
    let matching = state.iter().filter(|object| object.0.as_ref().is_ok_and(&pick));
    matching.map(|object| ObjectRef::from_obj(object.as_ref())).collect()
}
