//! The frame around every controller: waiting for its CRD, malformed objects, backoff, metrics, one log line per outcome.

use std::{
    borrow::Cow,
    fmt::Debug,
    future::Future,
    hash::Hash,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource, ResourceExt,
    api::ListParams,
    core::{DeserializeGuard, PartialObjectMeta, error_boundary::InvalidObject},
    runtime::{
        Controller, WatchStreamExt,
        controller::{Action, Config},
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use super::{
    context::Context,
    error::{Class, Error, is_not_found},
    watches, write,
};
use crate::{api::reasons::Reason, telemetry::readiness::Readiness};

/// Looked at again even when nothing was heard: the last net under every missed event.
const RESYNC: Duration = Duration::from_secs(300);
const CRD_POLL: Duration = Duration::from_secs(2);
/// A conflict that comes again and again for this long is worth a warning.
const CONFLICTS_SEEM_STRANGE: Duration = Duration::from_secs(2);

/// What `kubectl apply` leaves on an object: all of it once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A kind as the controllers watch it: a malformed object is an element of the stream, not its end. Who wrote which field, most
/// of an object's size, is dropped on arrival: nothing here reads it, and caches would hold it for every object.
#[derive(Debug, Clone)]
pub struct Guarded<K>(pub Result<K, InvalidObject>);

impl<'de, K: Resource + Deserialize<'de>> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = DeserializeGuard::<K>::deserialize(deserializer)?;
        let metadata = found.meta_mut();
        metadata.managed_fields = None;
        if let Some(annotations) = &mut metadata.annotations {
            annotations.remove(LAST_APPLIED);
        }
        Ok(Guarded(found.0))
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dynamic)
    }

    fn group(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dynamic)
    }

    fn version(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dynamic)
    }

    fn plural(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|invalid| &invalid.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|invalid| &mut invalid.metadata, K::meta_mut)
    }
}

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
    let (reader, writer) = reflector::store();
    let applied = watches::events(api, watcher::Config::default()).reflect(writer).applied_objects();
    framed(Controller::for_stream(applied, reader), context)
}

/// The metadata that is kept of an object of which only some facts are kept: what names it, and when it is to go. All else may be as large as
/// the object.
pub fn named(metadata: ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        resource_version: metadata.resource_version,
        deletion_timestamp: metadata.deletion_timestamp,
        ..ObjectMeta::default()
    }
}

/// What a reconcile says of an object of which only its own watch can bring news: it is not looked at again before, and no timer is
/// kept for it.
pub fn at_rest() -> Action {
    Action::requeue(Duration::MAX)
}

/// Gives a controller what all have in common.
pub fn framed<K>(controller: Controller<K>, context: &Context) -> Controller<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Eq + Hash + Clone,
{
    let config = Config::default().concurrency(context.config.concurrency).debounce(Duration::from_millis(50));
    controller.with_config(config).trigger_backoff(watches::NoPause)
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
        Err(_) => return Ok(left_alone(object.as_ref(), &context).await),
    };
    let key = format!("{kind}/{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    let started = Instant::now();
    match reconcile(object, context.clone()).await {
        Ok(action) => {
            context.backoffs.succeeded(&key);
            context.metrics.reconciled(&kind, started.elapsed());
            context.metrics.recovered(context.backoffs.len());
            tracing::debug!(key, took_ms = started.elapsed().as_millis(), "reconciled");
            Ok(rhythm(action))
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

/// When an object is looked at again after a look that went well.
fn rhythm(action: Action) -> Action {
    if action == Action::await_change() {
        Action::requeue(RESYNC)
    } else if action == at_rest() {
        Action::await_change()
    } else {
        action
    }
}

/// Tells of a malformed object, for which nothing else can be done.
pub async fn left_alone<K>(object: &Guarded<K>, context: &Context) -> Action
where
    K: Resource<DynamicType = ()>,
{
    let Err(invalid) = &object.0 else { return Action::await_change() };
    let kind = K::kind(&());
    context.metrics.malformed(&kind);
    tracing::warn!(%kind, name = ?invalid.metadata.name, error = invalid.error, "a malformed object is left alone");
    let event = write::warning("Read", Reason::InvalidObject.as_str(), invalid.error.clone());
    write::publish(context, object, &event).await;
    Action::await_change()
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

/// Makes a type with a field `metadata`, which keeps a few facts of an object, a resource of that object's kind.
macro_rules! stands_for {
    ($facts:ty, $object:ty) => {
        impl kube::Resource for $facts {
            type DynamicType = ();
            type Scope = <$object as kube::Resource>::Scope;

            fn kind(_: &()) -> std::borrow::Cow<'_, str> {
                <$object as kube::Resource>::kind(&())
            }

            fn group(_: &()) -> std::borrow::Cow<'_, str> {
                <$object as kube::Resource>::group(&())
            }

            fn version(_: &()) -> std::borrow::Cow<'_, str> {
                <$object as kube::Resource>::version(&())
            }

            fn plural(_: &()) -> std::borrow::Cow<'_, str> {
                <$object as kube::Resource>::plural(&())
            }

            fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
pub(in crate::operator) use stands_for;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::grid_model::GridModel;

    fn model(sha256: serde_json::Value) -> Guarded<GridModel> {
        let metadata = json!({
            "name": "m", "annotations": {LAST_APPLIED: "{}", "kept": "x"},
            "managedFields": [{"manager": "kubectl", "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}],
        });
        let spec = json!({"source": {"url": "http://models/m.gguf"}, "sha256": sha256});
        let object =
            json!({"apiVersion": "xdcgrid.io/v1alpha1", "kind": "GridModel", "metadata": metadata, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn an_object_is_looked_at_again_unless_it_is_at_rest() {
        assert_eq!(rhythm(Action::await_change()), Action::requeue(RESYNC));
        assert_eq!(rhythm(Action::requeue(Duration::from_secs(3))), Action::requeue(Duration::from_secs(3)));
        assert_eq!(rhythm(at_rest()), Action::await_change());
    }

    #[test]
    fn what_nobody_reads_is_dropped_from_sound_and_malformed_objects_alike() {
        for (object, sound) in [(model(json!("11".repeat(32))), true), (model(json!(7)), false)] {
            assert_eq!(object.0.is_ok(), sound);
            assert_eq!(object.meta().managed_fields, None);
            let annotations: Vec<_> = object.annotations().keys().cloned().collect();
            assert_eq!(annotations, ["kept"]);
            assert_eq!(object.name_any(), "m");
        }
    }
}
