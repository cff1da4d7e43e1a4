//! `placement.target: Local`: an InferenceJob as one Indexed batch/v1 Job of worker pods in the job's own namespace. Takes the
//! place of the gateway in the pipeline of its parent: `dereference` and `observe` give the same report of progress, `apply`
//! submits and steers, `results` reads what the pods handed back. Talks to the API server only.
//!
//! Everything it makes for a job is owned by the InferenceJob, so deleting that deletes all of it. Shards are ConfigMaps
//! (`docs/adr/0007-local-results.md`); the one shard of a brief job is carried by its pod (`docs/adr/0017-brief-local-jobs.md`).

pub mod access;
pub mod apply;
pub mod carried;
pub mod dereference;
pub mod identity;
pub mod job;
pub mod make;
pub mod observe;
pub mod queue;
pub mod results;
pub mod shards;
pub mod validate;

use std::collections::BTreeMap;

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    core::PartialObjectMeta,
    runtime::{Controller, reflector::ObjectRef, watcher},
};

use super::{
    super::{context::Context, runner::Guarded, watches},
    known::{JobRef, KnownJob},
};
use crate::api::inference_job::{InferenceJob, Target};

/// Uid of the InferenceJob, on everything that belongs to it.
pub const UID_LABEL: &str = crate::protocol::shard::JOB_UID_LABEL;
/// Its name, which may be too long for a label.
pub const NAME_ANNOTATION: &str = "xdcgrid.io/job-name";
/// Labels that queues read; they pass from the InferenceJob to its Job.
pub const QUEUE_PREFIX: &str = "kueue.x-k8s.io/";

/// Longest part of the InferenceJob's name in the names of what belongs to it: a pod's host name has at most 63 characters.
const MAX_NAME: usize = 40;

pub fn is_local(job: &InferenceJob) -> bool {
    job.spec.placement.target == Target::Local
}

/// Name of the child Job and start of all other names. Unique for each uid, so a job of the same name never meets what its
/// predecessor left.
pub fn child_name(name: &str, uid: &str) -> String {
    // A label, not a subdomain: pods are named after it.
    let stem: String = name.chars().take(MAX_NAME).map(|c| if c == '.' { '-' } else { c }).collect();
    let hash = blake3::hash(uid.as_bytes()).to_hex();
    format!("{}-{}", stem.trim_end_matches('-'), &hash[..10])
}

/// Labels of everything that belongs to a job.
pub fn labels(uid: &str) -> BTreeMap<String, String> {
    let pairs = [
        ("app.kubernetes.io/name", "xdc-grid"),
        ("app.kubernetes.io/component", "job-worker"),
        ("app.kubernetes.io/managed-by", "xdc-grid-operator"),
        (UID_LABEL, uid),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Reconciles an InferenceJob when its Job or one of its pods changes.
pub fn watch(controller: Controller<Guarded<KnownJob>>, context: &Context) -> Controller<Guarded<KnownJob>> {
    if !context.config.local_jobs {
        return controller;
    }
    let ours = watcher::Config::default().labels(UID_LABEL);
    // Metadata only: twenty thousand pods pass by here.
    let jobs = Api::<PartialObjectMeta<Job>>::all(context.client.clone());
    let pods = Api::<PartialObjectMeta<Pod>>::all(context.client.clone());
    let controller = controller
        .watches_stream(watches::touched(jobs, ours.clone()), |job| owner(&job))
        .watches_stream(watches::touched(pods, ours), |pod| owner(&pod));
    if context.config.kueue { queue::watch(controller, context) } else { controller }
}

fn owner<K: ResourceExt>(object: &K) -> Option<JobRef> {
    let name = object.annotations().get(NAME_ANNOTATION)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_host_names_and_are_told_apart_by_uid() {
        let name = child_name(&format!("a.long-name-{}", "x".repeat(240)), "u1");
        assert!(name.len() <= 51 && !name.contains('.'), "{name}");
        assert!(format!("{name}-9999").len() <= 63);
        assert_ne!(child_name("hello", "u1"), child_name("hello", "u2"));
        assert!(child_name("hello", "u1").starts_with("hello-"));
    }
}
