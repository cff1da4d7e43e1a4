//! GridNodePool: so many GridNodes of one kind, more or fewer as somebody or an autoscaler says. Namespaced, because that is what
//! a HorizontalPodAutoscaler can scale (docs/adr/0011-pools-are-namespaced.md); its nodes are cluster-scoped like all others.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{
    conditions::Condition,
    grid_node::GridNodeSpec,
    refs::{annotation_values, label_values},
};

/// Condition types of a GridNodePool.
pub mod condition {
    /// As many nodes are Ready as there are to be.
    pub const READY: &str = "Ready";
    /// Abnormal (kstatus): on the way to what the spec says.
    pub const RECONCILING: &str = "Reconciling";
    /// Abnormal (kstatus): nothing goes on until somebody acts.
    pub const STALLED: &str = "Stalled";
}

/// What an admin says about a pool.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "xdcgrid.io",
    version = "v1alpha1",
    kind = "GridNodePool",
    plural = "gridnodepools",
    namespaced,
    status = "GridNodePoolStatus",
    shortname = "gnp",
    category = "grid",
    derive = "PartialEq",
    doc = "A number of Managed GridNodes made from one template. Lives in the operator's namespace.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    validation = Rule::new("self.metadata.name.size() <= 39 && !self.metadata.name.contains('.')").message("the name may have at most 39 characters and no dots: GridNodes and worker pods are named after it"),
    printcolumn(name = "DESIRED", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "CURRENT", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "READY", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "REASON", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "NETWORK", type_ = "string", json_path = ".spec.template.spec.networkRef.name", priority = "1"),
    printcolumn(name = "DRAINING", type_ = "integer", json_path = ".status.drainingReplicas", priority = "1"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GridNodePoolSpec {
    /// How many nodes there are to be; what `kubectl scale` and autoscalers set. Example: `3`.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// What each node is made from. A change reaches the nodes there are, which replace their workers as their updatePolicy says.
    /// Example: `{spec: {networkRef: {name: main}, mode: Managed, accelerators: {cpuOnly: {}}}}`.
    pub template: GridNodeTemplate,
}

fn one() -> i32 {
    1
}

/// A GridNode without a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GridNodeTemplate {
    /// Labels and annotations of the nodes. Example: `{labels: {team: research}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TemplateMetadata>,
    /// As in GridNode; mode Managed only, since an External node stands for one machine. Example:
    /// `{networkRef: {name: main}, mode: Managed, accelerators: {cpuOnly: {}}}`.
    #[x_kube(validation = Rule::new("self.mode == 'Managed'").message("a pool makes Managed nodes; an External node stands for one machine and needs a GridNode of its own"))]
    pub spec: GridNodeSpec,
}

/// Labels and annotations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateMetadata {
    /// Labels of the GridNodes. Keys under xdcgrid.io/ are the operator's. Example: `{team: research}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "label_values")]
    #[x_kube(validation = Rule::new("self.all(key, !key.startsWith('xdcgrid.io/'))").message("labels may not have keys under xdcgrid.io/: they belong to the operator"))]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations of the GridNodes, each value at most 1024 characters. Keys under xdcgrid.io/ are the operator's. Example:
    /// `{example.com/owner: anna}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "annotation_values")]
    #[x_kube(validation = Rule::new("self.all(key, !key.startsWith('xdcgrid.io/'))").message("annotations may not have keys under xdcgrid.io/: they belong to the operator"))]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// What the operator found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GridNodePoolStatus {
    /// Generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Nodes that there are, without those that are leaving.
    #[serde(default)]
    pub replicas: i32,
    /// Those of them that are Ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Nodes that are leaving: they finish their work.
    #[serde(default)]
    pub draining_replicas: i32,
    /// Label selector of the pool's nodes and of their worker pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub selector: Option<String>,
    /// See docs/reasons.md.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
