//! GridNode: one grid identity and the worker behind it, in a pod (Managed) or on somebody's machine (External).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    conditions::Condition,
    refs::{NameRef, TransactionStatus, annotation_values, label_values, labels, quantity},
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

/// When a node takes work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Availability {
    /// The node takes work while any of these is open; an empty list means always. Example:
    /// `[{start: "20:00", end: "07:00", timeZone: Asia/Singapore}]`.
    #[serde(default)]
    #[schemars(length(max = 14))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub windows: Vec<AvailabilityWindow>,
}

/// A time of day on some days of the week.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.start != self.end").message("a window that ends when it starts is empty; the whole day is 00:00 to 24:00"))]
pub struct AvailabilityWindow {
    /// Days on which the window opens. Absent means every day. Example: `[Monday, Friday]`.
    #[serde(default = "every_day")]
    #[schemars(length(min = 1, max = 7))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub days: Vec<Day>,
    /// Time of day at which it opens, hours and minutes. Example: `20:00`.
    #[schemars(length(max = 5), regex(pattern = "^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub start: String,
    /// Time of day at which it closes, on the next day when it is not later than `start`; 24:00 is the end of the day.
    /// Example: `07:00`.
    #[schemars(length(max = 5), regex(pattern = "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$"))]
    pub end: String,
    /// Time zone of days and times: an IANA name or an offset. Example: `Europe/Berlin`, or `+08:00`.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64), regex(pattern = "^[A-Za-z0-9_+:/-]+$"))]
    pub time_zone: String,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Day {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

fn every_day() -> Vec<Day> {
    use Day::*;
    vec![Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday]
}

fn utc() -> String {
    "UTC".into()
}

/// How worker pods spread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TopologySpread {
    /// Label of Kubernetes nodes whose values are the places to spread over. Example: `topology.kubernetes.io/zone`.
    #[schemars(length(min = 1, max = 316))]
    pub topology_key: String,
    /// By how many workers two places may differ. Example: `1`.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 100))]
    pub max_skew: i32,
    /// DoNotSchedule keeps the worker waiting, ScheduleAnyway only prefers the emptier place. Example: `DoNotSchedule`.
    #[serde(default)]
    pub when_unsatisfiable: WhenUnsatisfiable,
}

/// What to do when a spread cannot be had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhenUnsatisfiable {
    #[default]
    DoNotSchedule,
    ScheduleAnyway,
}

/// Exactly one kind of hardware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.extendedResource), has(self.dra), has(self.cpuOnly)].exists_one(given, given)").message("accelerators must name exactly one of extendedResource, dra, cpuOnly"))]
pub struct Accelerators {
    /// Devices counted by a device plugin. Example: `{name: nvidia.com/gpu, count: 1}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extended_resource: Option<ExtendedResource>,
    /// Devices of a DeviceClass (dynamic resource allocation, resource.k8s.io/v1). Example: `{deviceClassName: gpu.nvidia.com, count: 1}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dra: Option<DraDevices>,
    /// No accelerator: the processor does the work. Example: `{}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_only: Option<CpuOnly>,
}

/// Devices counted by a device plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExtendedResource {
    /// Name of the extended resource. Example: `nvidia.com/gpu`.
    #[schemars(length(max = 253), regex(pattern = r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$"))]
    pub name: String,
    /// How many devices. Example: `1`.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 16))]
    pub count: i32,
}

/// Devices claimed from a DeviceClass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DraDevices {
    /// Name of the DeviceClass. Example: `gpu.nvidia.com`.
    #[schemars(length(min = 1, max = 253))]
    pub device_class_name: String,
    /// How many devices. Example: `1`.
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
    /// Key of the taint; absent with operator Exists tolerates every taint. Example: `nvidia.com/gpu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 316))]
    pub key: Option<String>,
    /// Equal (the default) compares the value, Exists does not. Example: `Exists`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator: Option<TolerationOperator>,
    /// Value of the taint, for operator Equal. Example: `present`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// Effect of the taint; absent tolerates every effect. Example: `NoSchedule`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
    /// For effect NoExecute: how many seconds the worker stays after the taint appeared. Absent means for ever. Example: `300`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 604_800))]
    pub toleration_seconds: Option<i64>,
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
    /// Processor cores, a quantity. Example: `"4"`, or `500m`.
    #[serde(default = "cpu")]
    #[schemars(schema_with = "quantity")]
    pub cpu: Quantity,
    /// Memory in bytes, a quantity: the model, its cache, and about 256 MiB. Example: `16Gi`.
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
    /// Size of the volume in bytes, a quantity. Example: `50Gi`.
    #[schemars(schema_with = "quantity")]
    pub capacity: Quantity,
    /// StorageClass of the volume; absent means the cluster's default. Example: `local-path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
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
    /// Whether an availability window is open, and until when. Absent for a node that is always available.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub availability: Option<AvailabilityStatus>,
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

/// The availability windows now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AvailabilityStatus {
    /// Whether the node may be given work now.
    pub open: bool,
    /// When that changes next; absent when it does not within a week.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Time>,
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
