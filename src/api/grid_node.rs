//! GridNode: one grid identity and the worker behind it, in a pod (Managed) or on somebody's machine (External).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    conditions::Condition,
    refs::{NameRef, TransactionStatus, labels, quantity},
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
    /// Abnormal: nothing goes on until somebody acts.
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
    validation = Rule::new("self.networkRef == oldSelf.networkRef && self.mode == oldSelf.mode").message("networkRef and mode are fixed when a node is created; make a new GridNode"),
    validation = Rule::new("self.mode == 'Managed' ? has(self.accelerators) : true").message("mode Managed needs accelerators: one of extendedResource, dra, cpuOnly"),
    validation = Rule::new("self.mode == 'Managed' ? !has(self.peerID) : true").message("peerID is for mode External; a Managed node gets a key of its own"),
    validation = Rule::new("self.mode == 'External' ? has(self.peerID) : true").message("mode External needs peerID, as printed by grid-worker on the machine"),
    validation = Rule::new("self.mode == 'External' ? !(has(self.accelerators) || has(self.nodeSelector) || has(self.tolerations) || has(self.resources) || has(self.storage)) : true").message("accelerators, nodeSelector, tolerations, resources and storage are for mode Managed"),
    validation = Rule::new("has(self.storage) == has(oldSelf.storage) && (!has(self.storage) || self.storage == oldSelf.storage)").message("storage cannot change while the volume exists; make a new GridNode")
)]
pub struct GridNodeSpec {
    /// The grid that it belongs to.
    pub network_ref: NameRef,
    /// Managed: the operator runs its worker in a pod. External: its owner runs the worker anywhere.
    pub mode: NodeModeSpec,
    /// Managed: what the worker computes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerators: Option<Accelerators>,
    /// Managed: labels of the Kubernetes nodes that may run the worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "labels")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Managed: taints that the worker tolerates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub tolerations: Option<Vec<TolerationSpec>>,
    /// Managed: processor and memory, requested and limited alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<WorkerResources>,
    /// Managed: a volume for model files. Without it they live in the pod's scratch space and are fetched again after a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,
    /// External: the peer id that the worker prints when it starts (`16Uiu2HA…`).
    #[serde(default, rename = "peerID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = "^16Uiu2HA[1-9A-HJ-NP-Za-km-z]{40,48}$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("peerID is the node's identity and never changes; make a new GridNode"))]
    pub peer_id: Option<String>,
    /// Names of the GridModels that it is to serve.
    #[serde(default)]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub models: Vec<String>,
    /// What it does on the grid.
    #[serde(default = "compute")]
    #[schemars(length(min = 1, max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub roles: Vec<Role>,
    /// The stake, and where earnings go. A Managed node is registered with these by the operator, and without them works unpaid.
    /// An External node is registered by its owner (`grid-worker register`); given here, they are what the admin asks of that
    /// registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewards: Option<NodeRewards>,
    /// Takes no new work; what runs is finished.
    #[serde(default)]
    pub unschedulable: bool,
    /// An admin's consent. Absent means yes for a Managed node and no for an External one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<bool>,
    /// How it leaves.
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

/// Exactly one kind of hardware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.extendedResource), has(self.dra), has(self.cpuOnly)].exists_one(given, given)").message("accelerators must name exactly one of extendedResource, dra, cpuOnly"))]
pub struct Accelerators {
    /// A device plugin's resource, such as `nvidia.com/gpu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_resource: Option<ExtendedResource>,
    /// Devices of a DeviceClass (dynamic resource allocation).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dra: Option<DraDevices>,
    /// No accelerator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_only: Option<CpuOnly>,
}

/// Devices counted by a device plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExtendedResource {
    /// Name of the resource.
    #[schemars(length(max = 253), regex(pattern = r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$"))]
    pub name: String,
    /// How many.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 16))]
    pub count: i32,
}

/// Devices claimed from a DeviceClass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DraDevices {
    /// Name of the DeviceClass.
    #[schemars(length(min = 1, max = 253))]
    pub device_class_name: String,
    /// How many.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 16))]
    pub count: i32,
}

fn one() -> i32 {
    1
}

/// Says that the processor does the work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CpuOnly {}

/// A taint that is tolerated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TolerationSpec {
    /// Key of the taint; absent with operator Exists tolerates every taint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 316))]
    pub key: Option<String>,
    /// Equal (the default) or Exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,
    /// Value of the taint, for operator Equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// Effect of the taint; absent tolerates every effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
}

/// How a taint is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TolerationOperator {
    Equal,
    Exists,
}

/// What a taint does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    NoSchedule,
    PreferNoSchedule,
    NoExecute,
}

/// Requests and limits alike.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerResources {
    /// Processor cores.
    #[serde(default = "cpu")]
    #[schemars(schema_with = "quantity")]
    pub cpu: Quantity,
    /// Memory: the model, its cache, and about 256 MiB.
    #[serde(default = "memory")]
    #[schemars(schema_with = "quantity")]
    pub memory: Quantity,
}

impl Default for WorkerResources {
    fn default() -> Self {
        WorkerResources { cpu: cpu(), memory: memory() }
    }
}

fn cpu() -> Quantity {
    Quantity("1".into())
}

fn memory() -> Quantity {
    Quantity("1Gi".into())
}

/// A persistent volume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StorageSpec {
    /// Size of the volume.
    #[schemars(schema_with = "quantity")]
    pub capacity: Quantity,
    /// StorageClass of the volume; absent means the cluster's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
}

/// Stake and payout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeRewards {
    /// Account that claims are paid to, `0x…` or `xdc…`. The contract keeps the one that the node was registered with.
    #[schemars(length(max = 43), regex(pattern = r"^(0x|xdc)[0-9a-fA-F]{40}$"))]
    pub payout_address: String,
    /// Stake in wei, at least 1 XDC. For a Managed node the reporter account pays it, and gets it back when the node leaves.
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
    /// How long a deleted node may take to finish its work and to leave the contract. Then it is removed anyway.
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

/// What the operator found. Load and heartbeats are not here: ask the gateway (`kubectl grid nodes`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GridNodeStatus {
    /// Generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// libp2p peer id of the node's key.
    #[serde(rename = "peerID", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub peer_id: Option<String>,
    /// Chain address of the same key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 43))]
    pub node_address: Option<String>,
    /// What the worker runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware: Option<HardwareStatus>,
    /// Models and how fast they run here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub models: Vec<NodeModelStatus>,
    /// What was proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capability: Option<CapabilityStatus>,
    /// What audits found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceStatus>,
    /// What the contract knows about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stake: Option<StakeStatus>,
    /// The transaction that registers it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registration: Option<TransactionStatus>,
    /// The transaction by which it leaves the contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<TransactionStatus>,
    /// Work in the last epoch that is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_epoch: Option<ContributionStatus>,
    /// Everything it ever earned by activated reports, in wei.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub earned_wei: Option<String>,
    /// What of that was paid out, in wei.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub claimed_wei: Option<String>,
    /// Text for `kubectl get`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<NodeColumns>,
    /// See docs/reasons.md.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Hardware as the worker states it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HardwareStatus {
    /// Processor model.
    #[schemars(length(max = 128))]
    pub processor: String,
    /// Compute threads.
    pub threads: i64,
    /// Memory in bytes.
    pub memory_bytes: i64,
    /// Accelerators.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 128)))]
    pub accelerators: Vec<String>,
    /// Version of the worker.
    #[schemars(length(max = 64))]
    pub software: String,
}

/// One model on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeModelStatus {
    /// sha256 of the file.
    #[schemars(length(max = 64))]
    pub digest: String,
    /// Ready, Fetching, Loading, Measuring, or why it failed.
    #[schemars(length(max = 64))]
    pub state: String,
    /// More about a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// Measured prompt tokens per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub prefill_tokens_per_second: Option<String>,
    /// Measured output tokens per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub decode_tokens_per_second: Option<String>,
}

/// What challenges proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CapabilityStatus {
    /// Exact-integer multiply-adds per millisecond in the last compute challenge.
    pub gemm_units: i64,
    /// Bytes proven to be stored.
    pub proven_bytes: i64,
}

/// What audits found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceStatus {
    /// Audits that agreed.
    pub passed: i64,
    /// Audits that did not agree.
    pub failed: i64,
    /// Audits that could not decide; they never count against the node.
    pub inconclusive: i64,
    /// log10 of the e-value against the node. 3 and more quarantines it.
    #[schemars(length(max = 32))]
    pub log10_e: String,
}

/// The node's record in the contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StakeStatus {
    /// Who paid the stake and gets it back.
    #[schemars(length(max = 43))]
    pub owner: String,
    /// Where claims are paid.
    #[schemars(length(max = 43))]
    pub payout_address: String,
    /// Stake in wei.
    #[schemars(length(max = 40))]
    pub stake_wei: String,
    /// Compute units it was registered with.
    pub computing_power: i64,
    /// Storage it was registered with, in GiB.
    #[serde(rename = "storageGiB")]
    pub storage_gib: i64,
}

/// Work of one epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContributionStatus {
    /// Number of the epoch.
    pub epoch: i64,
    /// Requests answered.
    pub requests: i64,
    /// Prompt tokens read.
    pub prompt_tokens: i64,
    /// Tokens written.
    pub output_tokens: i64,
    /// Reward units.
    #[schemars(length(max = 40))]
    pub units: String,
}

/// Printable summaries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeColumns {
    /// First accelerator, or `cpu`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub gpu: Option<String>,
    /// Output tokens per second of its fastest model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub tokens_per_second: Option<String>,
    /// Storage proven.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub storage: Option<String>,
    /// Audits that agreed, out of those that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub score: Option<String>,
    /// Earned so far, in XDC.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub earned: Option<String>,
}
