//! What a Managed node's worker runs on: devices, resources, volumes, and where Kubernetes may put its pod. Local jobs say the same
//! of their pods.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::refs::quantity;

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
