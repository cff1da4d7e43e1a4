//! Pure: what a Local job asks of Kubernetes, checked.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Toleration, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{Resource, ResourceExt};

use super::{QUEUE_PREFIX, child_name, observe::Seen};
use crate::{
    api::{
        conditions::Finding,
        grid_model::{GridModel, ModelSourceSpec},
        grid_node::WorkerResources,
        inference_job::InferenceJob,
        kueue::QUEUE_LABEL,
    },
    operator::{
        grid_model::validate::{chat_template, place},
        grid_node::validate::{Hardware, hardware, toleration},
    },
    protocol::place::ModelPlace,
};

/// Pods at once when the job says nothing.
const PARALLELISM: u32 = 16;

/// Where its pods get the model's file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelFrom {
    /// A place that is open to everybody.
    Place(String),
    /// What takes a Secret, a volume or members of the grid, only the gateway can read.
    Gateway,
}

/// A Local job whose every value is known to be sound.
#[derive(Debug, Clone)]
pub struct LocalJob {
    pub namespace: String,
    /// Name of the child Job, and start of all other names.
    pub name: String,
    pub owner: Option<OwnerReference>,
    /// Labels for the queue, as the InferenceJob has them.
    pub queue_labels: BTreeMap<String, String>,
    pub hardware: Hardware,
    pub resources: WorkerResources,
    pub node_selector: BTreeMap<String, String>,
    pub tolerations: Vec<Toleration>,
    pub runtime_class_name: Option<String>,
    pub priority_class_name: Option<String>,
    pub image_pull_secrets: Vec<String>,
    /// Claim of the volume that keeps model files.
    pub model_claim: Option<String>,
    /// Absent when the GridModel is gone; then nothing new can be started.
    pub model_from: Option<ModelFrom>,
    /// Template of chats; empty: the file's own.
    pub chat_template: String,
    pub context_length: Option<u32>,
    pub shard_size: u32,
    /// Pods at once.
    pub parallelism: u32,
    /// Tries of one shard, and of one request within a try.
    pub max_attempts: u32,
    /// One failed request ends the job.
    pub no_failure_allowed: bool,
    pub suspend: bool,
    /// What is known of the child; absent before it is made.
    pub seen: Option<Seen>,
}

impl LocalJob {
    /// Whether `suspend` of the child belongs to a queue.
    pub fn is_queued(&self) -> bool {
        self.queue_labels.contains_key(QUEUE_LABEL)
    }
}

pub fn validate(job: &InferenceJob, model: Option<&GridModel>, seen: Option<Seen>) -> Result<LocalJob, Finding> {
    let spec = job.spec.placement.local.clone().unwrap_or_default();
    let hardware = match &spec.accelerators {
        Some(accelerators) => hardware(Some(accelerators))?,
        None => Hardware::CpuOnly,
    };
    let queue_labels = job.labels().iter().filter(|(key, _)| key.starts_with(QUEUE_PREFIX));
    Ok(LocalJob {
        namespace: job.namespace().unwrap_or_default(),
        name: child_name(&job.name_any(), &job.uid().unwrap_or_default()),
        owner: job.controller_owner_ref(&()),
        queue_labels: queue_labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
        hardware,
        resources: spec.resources.unwrap_or_default(),
        node_selector: spec.node_selector.unwrap_or_default(),
        tolerations: spec.tolerations.iter().flatten().map(toleration).collect(),
        runtime_class_name: spec.runtime_class_name,
        priority_class_name: spec.priority_class_name,
        image_pull_secrets: spec.image_pull_secrets.unwrap_or_default(),
        model_claim: spec.model_volume.map(|volume| volume.claim_name),
        model_from: model.and_then(|model| model_from(&model.spec.source)),
        chat_template: model.map(|model| chat_template(&model.spec)).unwrap_or_default(),
        context_length: model.and_then(|model| model.spec.context_length).map(i32::unsigned_abs),
        shard_size: job.spec.workload.shard_size.unsigned_abs().max(1),
        parallelism: job.spec.parallelism.map_or(PARALLELISM, i32::unsigned_abs),
        max_attempts: job.spec.retry.max_attempts.unsigned_abs().max(1),
        no_failure_allowed: job.spec.max_failed_requests == Some(0),
        suspend: job.spec.suspend,
        seen,
    })
}

fn model_from(source: &ModelSourceSpec) -> Option<ModelFrom> {
    let (place, lock) = place(source).ok()?;
    let open = lock.is_none() && matches!(place, ModelPlace::Web(_) | ModelPlace::Registry(_));
    Some(if open { ModelFrom::Place(place.to_string()) } else { ModelFrom::Gateway })
}

#[cfg(test)]
pub(in crate::operator) mod tests {
    use super::*;

    pub(in crate::operator) fn job(more: &str) -> InferenceJob {
        serde_yaml::from_str(&format!(
            r#"
apiVersion: xdcgrid.io/v1alpha1
kind: InferenceJob
metadata: {{name: hello, namespace: team-a, uid: u1, generation: 1}}
spec:
  workload:
    modelRef: {{name: m}}
    input: {{format: Lines, inline: a}}
    output: {{configMap: {{name: out}}}}
  placement: {{target: Local}}
{more}"#
        ))
        .unwrap()
    }

    pub(in crate::operator) fn model() -> GridModel {
        serde_yaml::from_str(&format!(
            "{{apiVersion: xdcgrid.io/v1alpha1, kind: GridModel, metadata: {{name: m}}, spec: {{source: {{url: 'http://models/m.gguf'}}, sha256: '{}'}}}}",
            "11".repeat(32)
        ))
        .unwrap()
    }

    #[test]
    fn a_job_that_says_nothing_computes_on_the_processor() {
        let local = validate(&job(""), Some(&model()), None).unwrap();
        assert_eq!((local.hardware.clone(), local.parallelism, local.shard_size), (Hardware::CpuOnly, 16, 200));
        assert_eq!(local.model_from, Some(ModelFrom::Place("http://models/m.gguf".into())));
        assert!(!local.is_queued());
    }

    #[test]
    fn what_is_not_open_to_everybody_comes_from_the_gateway() {
        let from = |yaml: &str| model_from(&serde_yaml::from_str(yaml).unwrap());
        let open = "{oci: {repository: ghcr.io/you/m}}";
        assert_eq!(from(open), Some(ModelFrom::Place("oci://ghcr.io/you/m".into())));
        for closed in [
            "{oci: {repository: ghcr.io/you/m, secretRef: {name: s}}}",
            "{s3: {uri: 's3://models/m', secretRef: {name: s}}}",
            "{pvc: {claimName: c, path: m}}",
            "{blob: {}}",
        ] {
            assert_eq!(from(closed), Some(ModelFrom::Gateway), "{closed}");
        }
    }

    #[test]
    fn only_labels_of_the_queue_are_passed_on() {
        let mut job = job("");
        job.metadata.labels =
            Some([(QUEUE_LABEL.to_owned(), "q".to_owned()), ("team".to_owned(), "a".to_owned())].into());
        let local = validate(&job, Some(&model()), None).unwrap();
        assert!(local.is_queued());
        assert_eq!(local.queue_labels.len(), 1);
    }
}
