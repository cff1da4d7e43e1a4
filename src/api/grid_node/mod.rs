//! GridNode: one grid identity and the worker behind it, in a pod (Managed) or on somebody's machine (External).

mod availability;
mod status;
mod worker;

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::refs::{NameRef, annotation_values, label_values, labels};

pub use availability::{Availability, AvailabilityStatus, AvailabilityWindow, Day};
pub use status::{
    CapabilityStatus, ContributionStatus, EvidenceStatus, GridNodeStatus, HardwareStatus, NodeColumns, NodeModelStatus,
    StakeStatus,
};
pub use worker::{
    Accelerators, CpuOnly, DraDevices, ExtendedResource, StorageSpec, TaintEffect, TolerationOperator, TolerationSpec,
    TopologySpread, WhenUnsatisfiable, WorkerResources,
};

/// Condition types of a GridNode.
pub mod condition {
    /// It takes part: every condition that applies to it holds.
    pub const READY: &str = "Ready";
    /// Managed: its pod is ready.
    pub const WORKER_AVAILABLE: &str = "WorkerAvailable";
    /// It is connected to the gateway and authenticated.
    pub const PEER_CONNECTED: &str = "PeerConnected";
    /// It is registered with a stake on chain, so its work is paid.
    pub const REGISTERED: &str = "Registered";
    /// Its compute was proven.
    pub const CAPABILITY_VERIFIED: &str = "CapabilityVerified";
    /// Its storage was proven.
    pub const STORAGE_VERIFIED: &str = "StorageVerified";
    /// Its contribution is reported up to the last epoch that is over.
    pub const REPORTING_CURRENT: &str = "ReportingCurrent";
    /// Abnormal: it is being emptied.
    pub const DRAINING: &str = "Draining";
    /// Abnormal: evidence against it holds back its work and pay.
    pub const QUARANTINED: &str = "Quarantined";
    /// The models that it is to serve are loaded and measured.
    pub const MODELS_READY: &str = "ModelsReady";
    /// Abnormal: its worker is about to be replaced by one of a newer revision, and takes no new work until then.
    pub const UPDATING: &str = "Updating";
    /// Abnormal: part of its stake is frozen for a slash case, or was taken by one.
    pub const SLASHED: &str = "Slashed";
    /// Abnormal: spec.rewards asks for another payout address than the contract pays.
    pub const PAYOUT_DIFFERS: &str = "PayoutDiffers";
    /// Abnormal (kstatus): on the way to what the spec says.
    pub const RECONCILING: &str = "Reconciling";
    /// Abnormal (kstatus): nothing goes on until somebody acts.
    pub const STALLED: &str = "Stalled";
}

/// What an admin says about a node.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "xdcgrid.io",
    version = "v1alpha1",
    kind = "GridNode",
    plural = "gridnodes",
    status = "GridNodeStatus",
    shortname = "gn",
    category = "grid",
    derive = "PartialEq",
    selectable = ".spec.networkRef.name",
    selectable = ".spec.mode",
    doc = "One grid identity and its worker: a pod of this cluster (Managed) or a machine anywhere (External).",
    validation = Rule::new("self.metadata.name.size() <= 44 && !self.metadata.name.contains('.')").message("the name may have at most 44 characters and no dots: the worker's pod is named after it"),
    printcolumn(name = "READY", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "REASON", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "GPU", type_ = "string", json_path = ".status.columns.gpu"),
    printcolumn(name = "TOK/S", type_ = "string", json_path = ".status.columns.tokensPerSecond"),
    printcolumn(name = "STORAGE", type_ = "string", json_path = ".status.columns.storage"),
    printcolumn(name = "SCORE", type_ = "string", json_path = ".status.columns.score"),
    printcolumn(name = "EARNED", type_ = "string", json_path = ".status.columns.earned"),
    printcolumn(name = "MODE", type_ = "string", json_path = ".spec.mode", priority = "1"),
    printcolumn(name = "PEER", type_ = "string", json_path = ".status.peerID", priority = "1"),
    printcolumn(name = "ADDRESS", type_ = "string", json_path = ".status.nodeAddress", priority = "1"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    // Fixed for life.
    validation = Rule::new("self.networkRef == oldSelf.networkRef && self.mode == oldSelf.mode").message("networkRef and mode are fixed when a node is created; make a new GridNode"),
    validation = Rule::new("has(self.storage) == has(oldSelf.storage) && (!has(self.storage) || self.storage == oldSelf.storage)").message("storage cannot change while the volume exists; make a new GridNode"),
    // What belongs to which mode.
    validation = Rule::new("self.mode == 'Managed' ? has(self.accelerators) : true").message("mode Managed needs accelerators: one of extendedResource, dra, cpuOnly"),
    validation = Rule::new("self.mode == 'Managed' ? !has(self.peerID) : true").message("peerID is for mode External; a Managed node gets a key of its own"),
    validation = Rule::new("self.mode == 'External' ? has(self.peerID) : true").message("mode External needs peerID, as printed by grid-worker on the machine"),
    validation = Rule::new("self.mode == 'External' ? !(has(self.accelerators) || has(self.nodeSelector) || has(self.tolerations) || has(self.resources) || has(self.storage)) : true").message("accelerators, nodeSelector, tolerations, resources and storage are for mode Managed"),
    validation = Rule::new("self.mode == 'External' ? !(has(self.runtimeClassName) || has(self.priorityClassName) || has(self.topologySpreadConstraints) || has(self.imagePullSecrets) || has(self.podLabels) || has(self.podAnnotations)) : true").message("runtimeClassName, priorityClassName, topologySpreadConstraints, imagePullSecrets, podLabels and podAnnotations are for mode Managed")
)]
pub struct GridNodeSpec {
    /// The GridNetwork that the node belongs to. Fixed for life. Example: `{name: main}`.
    pub network_ref: NameRef,
    /// Managed: the operator runs the worker in a pod of this cluster. External: its owner runs the worker anywhere. Fixed for
    /// life. Example: `Managed`.
    pub mode: NodeModeSpec,
    /// Managed: what the worker computes on, exactly one kind. Example: `{extendedResource: {name: nvidia.com/gpu, count: 1}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerators: Option<Accelerators>,
    /// Managed: labels that a Kubernetes node must have to run the worker. Example: `{gpu.example.com/model: l4}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "labels")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Managed: taints that the worker tolerates. Example: `[{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub tolerations: Option<Vec<TolerationSpec>>,
    /// Managed: processor and memory, requested and limited alike. Example: `{cpu: "4", memory: 16Gi}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<WorkerResources>,
    /// Managed: a volume for model files. Without it they live in the pod's scratch space and are fetched again after a restart.
    /// Fixed for life. Example: `{capacity: 50Gi}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,
    /// Managed: RuntimeClass of the worker's pod. Example: `nvidia`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// Managed: PriorityClass of the worker's pod. A low one lets other workloads push the worker aside. Example: `spare-capacity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Managed: how worker pods spread over the cluster. Counted are the workers of the same GridNodePool, or all workers for a
    /// node without a pool. Example: `[{topologyKey: kubernetes.io/hostname, maxSkew: 1, whenUnsatisfiable: ScheduleAnyway}]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["topologyKey".into()]))]
    pub topology_spread_constraints: Option<Vec<TopologySpread>>,
    /// Managed: Secrets in the operator's namespace with which the worker's image is pulled. Example: `[{name: registry}]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub image_pull_secrets: Option<Vec<NameRef>>,
    /// Managed: more labels for the worker's pod. Those of the operator and of Kubernetes itself cannot be set.
    /// Example: `{team: research}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "label_values")]
    #[x_kube(validation = Rule::new("self.all(key, !(key.startsWith('xdcgrid.io/') || key.startsWith('app.kubernetes.io/') || key.startsWith('apps.kubernetes.io/') || key.startsWith('statefulset.kubernetes.io/') || key == 'controller-revision-hash'))").message("podLabels may not have keys under xdcgrid.io/, app.kubernetes.io/, apps.kubernetes.io/ or statefulset.kubernetes.io/, nor controller-revision-hash: they belong to the operator and to Kubernetes"))]
    pub pod_labels: Option<BTreeMap<String, String>>,
    /// Managed: more annotations for the worker's pod, each value at most 1024 characters. Example: `{example.com/owner: anna}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "annotation_values")]
    #[x_kube(validation = Rule::new("self.all(key, !key.startsWith('xdcgrid.io/'))").message("podAnnotations may not have keys under xdcgrid.io/: they belong to the operator"))]
    pub pod_annotations: Option<BTreeMap<String, String>>,
    /// Managed: how a running worker is replaced when its pod is to change, for example by an upgrade of the operator. OnIdle
    /// takes new work away, waits until nothing runs, and replaces a quarter of the workers at once at most. Immediate restarts
    /// at once; what runs is computed again elsewhere. Example: `OnIdle`.
    #[serde(default)]
    pub update_policy: UpdatePolicy,
    /// External: the peer id that the worker prints when it starts. Fixed for life. Example:
    /// `16Uiu2HAmPRR6AWmKz5QVUMFbCaByyGZHNbePs3QPaLCBx7ctVnB6`.
    #[serde(default, rename = "peerID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = "^16Uiu2HA[1-9A-HJ-NP-Za-km-z]{40,48}$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("peerID is the node's identity and never changes; make a new GridNode"))]
    pub peer_id: Option<String>,
    /// Names of the GridModels that the node is to serve. Example: `[smollm2-135m-instruct]`.
    #[serde(default)]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub models: Vec<String>,
    /// What the node does on the grid. Compute answers requests, Verify checks the answers of others (Managed nodes only are
    /// believed), Storage holds model files and proves it. Example: `[Compute, Storage]`.
    #[serde(default = "compute")]
    #[schemars(length(min = 1, max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub roles: Vec<Role>,
    /// How much of the machine the grid may use. Example: `{maxRequests: 2}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<NodeLimits>,
    /// When the node takes work. Absent means always. Outside its windows it is given nothing and asked to prove nothing, and that
    /// counts against it in no way. Example: `{windows: [{days: [Saturday, Sunday], start: "08:00", end: "20:00", timeZone: Europe/Berlin}]}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability: Option<Availability>,
    /// The stake, and where earnings go. A Managed node is registered with these by the operator, and without them works unpaid.
    /// An External node is registered by its owner (`grid-worker register`); given here, they are what the admin asks of that
    /// registration. Example: `{payoutAddress: "0x00000000000000000000000000000000000aaaa1"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewards: Option<NodeRewards>,
    /// Cordon: takes no new work; what runs is finished. Example: `true`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unschedulable: bool,
    /// An admin's consent to the node's taking part. Absent means yes for a Managed node and no for an External one.
    /// Example: `true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<bool>,
    /// How the node leaves when it is deleted. Example: `{deadlineSeconds: 600}`.
    #[serde(default)]
    pub drain: DrainSpec,
}

/// Who runs the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeModeSpec {
    Managed,
    External,
}

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Role {
    Compute,
    Verify,
    Storage,
}

fn compute() -> Vec<Role> {
    vec![Role::Compute]
}

/// When a running worker is replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UpdatePolicy {
    #[default]
    OnIdle,
    Immediate,
}

/// Bounds on what the grid may use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeLimits {
    /// Requests that the node works on at once, at most; the worker may offer fewer. Absent means as many as it offers.
    /// Example: `2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub max_requests: Option<i32>,
}

/// Stake and payout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeRewards {
    /// Account that claims are paid to, `0x…` or `xdc…`. The contract keeps the one that the node was registered with and has no way
    /// to change it: a change here takes effect only for a node that is not registered yet. Example:
    /// `0x00000000000000000000000000000000000aaaa1`.
    #[schemars(length(max = 43), regex(pattern = r"^(0x|xdc)[0-9a-fA-F]{40}$"))]
    pub payout_address: String,
    /// Stake in wei (10⁻¹⁸ XDC), at least 1 XDC. For a Managed node the reporter account pays it, and gets it back when the node
    /// leaves. Example: `"1000000000000000000"`.
    #[serde(default = "stake")]
    #[schemars(length(max = 29), regex(pattern = r"^(0|[1-9][0-9]{0,28})$"))]
    #[x_kube(validation = Rule::new("self.size() >= 19").message("stakeWei must be at least 1 XDC (1000000000000000000 wei)"))]
    pub stake_wei: String,
}

fn stake() -> String {
    "1000000000000000000".into()
}

/// Leaving.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrainSpec {
    /// Seconds that a deleted node may take to finish its work, to have it reported and to leave the contract. Then it is removed
    /// anyway, and an Event says what was left. Example: `600`.
    #[serde(default = "drain_deadline")]
    #[schemars(range(min = 0, max = 86_400))]
    pub deadline_seconds: i64,
}

impl Default for DrainSpec {
    fn default() -> Self {
        DrainSpec { deadline_seconds: drain_deadline() }
    }
}

fn drain_deadline() -> i64 {
    600
}
