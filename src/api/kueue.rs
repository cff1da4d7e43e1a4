//! What is read of Kueue (`kueue.x-k8s.io/v1beta1`): why a Workload has no quota yet, and which queue it waits in. Only the fields
//! that say so are known here; Kueue itself is neither needed nor told anything.

use kube::{
    ResourceExt,
    core::{ApiResource, GroupVersionKind, Object},
};
use serde::{Deserialize, Serialize};

use super::conditions::{self, Condition, Truth};

const GROUP: &str = "kueue.x-k8s.io";
const VERSION: &str = "v1beta1";

/// The label that hands a Job to a LocalQueue of its namespace.
pub const QUEUE_LABEL: &str = "kueue.x-k8s.io/queue-name";
/// On every Workload of a Job: the Job's uid.
pub const JOB_UID_LABEL: &str = "kueue.x-k8s.io/job-uid";

/// Kueue's words in a message of ours, in characters.
const MAX_WORDS: usize = 512;

/// One request for quota; Kueue makes one for each Job in a queue.
pub type Workload = Object<WorkloadSpec, WorkloadStatus>;
/// Where a namespace asks for quota.
pub type LocalQueue = Object<LocalQueueSpec, LocalQueueStatus>;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSpec {
    /// The LocalQueue.
    #[serde(default)]
    pub queue_name: String,
    /// False: somebody, or Kueue after too many tries, took it out of the queue.
    #[serde(default)]
    pub active: Option<bool>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// Present once quota is reserved.
    #[serde(default)]
    pub admission: Option<Admission>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Admission {
    /// Whose quota it is.
    #[serde(default)]
    pub cluster_queue: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalQueueSpec {
    /// Whose quota it gives out.
    #[serde(default)]
    pub cluster_queue: String,
}

/// Nothing of it is read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LocalQueueStatus {}

pub fn workloads() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, "Workload"), "workloads")
}

pub fn local_queues() -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, "LocalQueue"), "localqueues")
}

/// What a Workload waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Room in the quota.
    Quota,
    /// Checks that its ClusterQueue asks for, such as a machine that is being made; its quota is reserved.
    Checks,
    /// Somebody to activate it.
    Activation,
}

/// What it waits for, and a sentence about it. `None`: it may run. `queue` is the LocalQueue that it names, where that may be read.
pub fn waits_for(workload: &Workload, queue: Option<&LocalQueue>) -> Option<(Wait, String)> {
    let status = workload.status.clone().unwrap_or_default();
    if conditions::is_true(&status.conditions, "Admitted") {
        return None;
    }
    let words = |type_: &str| {
        let found = conditions::find(&status.conditions, type_).filter(|found| found.status == Truth::False);
        let words = found.map(|found| found.message.chars().take(MAX_WORDS).collect::<String>());
        words.filter(|words| !words.is_empty())
    };
    let place = place(workload, &status, queue);
    if workload.spec.active == Some(false) {
        let name = workload.name_any();
        let why = words("QuotaReserved").map(|words| format!(": {words}")).unwrap_or_default();
        return Some((Wait::Activation, format!("Workload {name} was deactivated (spec.active is false){why}")));
    }
    if conditions::is_true(&status.conditions, "QuotaReserved") {
        let why = words("Admitted").unwrap_or_else(|| "not all checks are ready".into());
        return Some((Wait::Checks, format!("quota in {place} is reserved; waiting for its admission checks: {why}")));
    }
    let why = words("QuotaReserved").unwrap_or_else(|| "Kueue has not yet looked at it".into());
    Some((Wait::Quota, format!("waiting for quota in {place}: {why}")))
}

/// The ClusterQueue where it is known, else the LocalQueue.
fn place(workload: &Workload, status: &WorkloadStatus, queue: Option<&LocalQueue>) -> String {
    let reserved = status.admission.as_ref().map(|admission| admission.cluster_queue.as_str());
    let named = queue.map(|queue| queue.spec.cluster_queue.as_str());
    match reserved.or(named).filter(|name| !name.is_empty()) {
        Some(cluster_queue) => format!("ClusterQueue {cluster_queue}"),
        None => format!("LocalQueue {}", workload.spec.queue_name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(spec: &str, status: &str) -> Workload {
        let text = format!(
            "{{apiVersion: kueue.x-k8s.io/v1beta1, kind: Workload, metadata: {{name: job-hello-1a2b}}, spec: {{queueName: team, {spec}}}, status: {status}}}"
        );
        serde_yaml::from_str(&text).unwrap()
    }

    fn condition(type_: &str, status: &str, message: &str) -> String {
        format!(
            "{{type: {type_}, status: '{status}', reason: R, message: '{message}', lastTransitionTime: '2026-11-27T00:00:00Z', observedGeneration: 1}}"
        )
    }

    fn queue() -> LocalQueue {
        serde_yaml::from_str("{metadata: {name: team}, spec: {clusterQueue: gpus}}").unwrap()
    }

    #[test]
    fn a_workload_without_quota_says_in_which_queue_and_in_kueues_words() {
        let waits =
            condition("QuotaReserved", "False", "insufficient unused quota for cpu in flavor default, 1 more needed");
        let waiting = workload("podSets: [{name: main}]", &format!("{{conditions: [{waits}]}}"));
        let (wait, message) = waits_for(&waiting, Some(&queue())).unwrap();
        assert_eq!(wait, Wait::Quota);
        assert_eq!(
            message,
            "waiting for quota in ClusterQueue gpus: insufficient unused quota for cpu in flavor default, 1 more needed"
        );
        let (_, message) = waits_for(&waiting, None).unwrap();
        assert!(message.starts_with("waiting for quota in LocalQueue team: insufficient"), "{message}");
        let (wait, message) = waits_for(&workload("active: true", "{}"), None).unwrap();
        assert_eq!(
            (wait, message.as_str()),
            (Wait::Quota, "waiting for quota in LocalQueue team: Kueue has not yet looked at it")
        );
    }

    #[test]
    fn checks_and_deactivation_are_told_apart_from_quota_and_an_admitted_one_waits_for_nothing() {
        let reserved = condition("QuotaReserved", "True", "Quota reserved in ClusterQueue gpus");
        let checking =
            format!("{{conditions: [{reserved}], admission: {{clusterQueue: gpus, podSetAssignments: []}}}}");
        let (wait, message) = waits_for(&workload("active: true", &checking), None).unwrap();
        assert_eq!(wait, Wait::Checks);
        assert!(message.starts_with("quota in ClusterQueue gpus is reserved"), "{message}");
        let (wait, message) = waits_for(&workload("active: false", "{}"), None).unwrap();
        assert_eq!(wait, Wait::Activation);
        assert!(message.contains("job-hello-1a2b"), "{message}");
        let admitted = condition("Admitted", "True", "The workload is admitted");
        let running = format!("{{conditions: [{reserved}, {admitted}]}}");
        assert_eq!(waits_for(&workload("active: true", &running), None), None);
    }

    #[test]
    fn kueues_words_are_cut_to_what_a_condition_takes() {
        let long = condition("QuotaReserved", "False", &"x".repeat(5_000));
        let (_, message) = waits_for(&workload("active: true", &format!("{{conditions: [{long}]}}")), None).unwrap();
        assert!(message.len() < 700, "{}", message.len());
    }
}
