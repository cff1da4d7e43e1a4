//! What the operator found about a node: what was stated, measured, proven, staked and earned.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::AvailabilityStatus;
use crate::api::{conditions::Condition, refs::TransactionStatus};

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
    /// The last transaction that asked for another payout address, or applied one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payout: Option<TransactionStatus>,
    /// The transaction that opened a slash case against it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slash: Option<TransactionStatus>,
    /// The transaction that executes that case, once nobody has appealed in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slash_execution: Option<TransactionStatus>,
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
