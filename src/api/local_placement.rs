//! What the pods of a Local job ask of Kubernetes. The same words as in a GridNode, for the same things.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    grid_node::{Accelerators, TolerationSpec, WorkerResources},
    refs::labels,
};

/// The pods of a Local job.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalPlacement {
    /// What they compute on; absent means the processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerators: Option<Accelerators>,
    /// Processor and memory of each pod, requested and limited alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<WorkerResources>,
    /// Labels of the Kubernetes nodes that may run them, for example `{zone: a}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "labels")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints that they tolerate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub tolerations: Option<Vec<TolerationSpec>>,
    /// RuntimeClass, for example `nvidia`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// PriorityClass, for example `batch-low`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Names of pull Secrets in the job's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub image_pull_secrets: Option<Vec<String>>,
    /// A volume that keeps model files from pod to pod. Without it every pod fetches the model into its scratch space.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_volume: Option<ModelVolume>,
}

/// An existing PersistentVolumeClaim in the job's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelVolume {
    /// Name of the claim. With several pods at once it must be ReadWriteMany, or all of them on one node.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
}
