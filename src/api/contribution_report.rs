//! ContributionReport: the write-ahead record of one epoch. Written by the operator only, before anything goes to the chain.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    conditions::Condition,
    refs::{NameRef, TransactionStatus},
};

/// Condition types of a ContributionReport.
pub mod condition {
    /// The report is in a final block.
    pub const FINALIZED: &str = "Finalized";
    /// The contract's window is over and nodes can claim.
    pub const ACTIVE: &str = "Active";
    /// Abnormal: nothing goes on until somebody acts.
    pub const STALLED: &str = "Stalled";
}

/// What one epoch amounts to. Never changes.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "xdcgrid.io",
    version = "v1alpha1",
    kind = "ContributionReport",
    plural = "contributionreports",
    status = "ContributionReportStatus",
    shortname = "ctr",
    category = "grid",
    derive = "PartialEq",
    doc = "What the nodes of a grid contributed in one epoch, and how far its report on chain is. Named <network>-<epoch>, so that no epoch can be reported twice.",
    validation = Rule::new("self.metadata.name.startsWith(self.spec.networkRef.name + '-') && self.metadata.name.substring(size(self.spec.networkRef.name) + 1) == string(self.spec.epoch)").message("a report is named <network>-<epoch>"),
    printcolumn(name = "EPOCH", type_ = "integer", json_path = ".spec.epoch"),
    printcolumn(name = "STATE", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "ACTIVE", type_ = "string", json_path = r#".status.conditions[?(@.type=="Active")].status"#),
    printcolumn(name = "NODES", type_ = "integer", json_path = ".spec.totals.nodes"),
    printcolumn(name = "TOKENS", type_ = "integer", json_path = ".spec.totals.outputTokens"),
    printcolumn(name = "XDC", type_ = "string", json_path = ".spec.allocated"),
    printcolumn(name = "TX", type_ = "string", json_path = ".status.submit.transactionHash", priority = "1"),
    printcolumn(name = "GAS", type_ = "integer", json_path = ".status.submit.gasUsed", priority = "1"),
    printcolumn(name = "ROOT", type_ = "string", json_path = ".spec.root", priority = "1"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a report never changes once it is written"))]
pub struct ContributionReportSpec {
    /// The grid.
    pub network_ref: NameRef,
    /// Number of the epoch.
    #[schemars(range(min = 0))]
    pub epoch: i64,
    /// Merkle root over (node, cumulative wei), `0x` and 64 hexadecimal digits.
    #[schemars(length(max = 66), regex(pattern = "^0x[0-9a-f]{64}$"))]
    pub root: String,
    /// Everything that all nodes ever earned, this epoch included, in wei.
    #[schemars(length(max = 39), regex(pattern = "^(0|[1-9][0-9]{0,38})$"))]
    pub cumulative_wei: String,
    /// What this epoch adds, in wei.
    #[schemars(length(max = 39), regex(pattern = "^(0|[1-9][0-9]{0,38})$"))]
    pub allocated_wei: String,
    /// The same in XDC, for people.
    #[schemars(length(max = 40))]
    pub allocated: String,
    /// The packed leaves.
    pub leaves: LeavesRef,
    /// What was contributed.
    pub totals: ReportTotals,
    /// Account that reports.
    #[schemars(length(max = 43))]
    pub reporter: String,
    /// Secret of the epoch's audit selection: anyone can check which audits were owed.
    #[schemars(length(max = 64))]
    pub audit_secret: String,
    /// Digest of the epoch's published statement, from which anyone can work out the leaves anew (`grid-operator audit-epoch`):
    /// BLAKE3, `0x` and 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 66), regex(pattern = "^0x[0-9a-f]{64}$"))]
    pub statement: Option<String>,
    /// What the leaves were made from, beside the statement. Goes to the chain with what the epoch raised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe: Option<ReportRecipe>,
    /// Written only, never sent.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a stranger must know to work out the leaves anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReportRecipe {
    /// Final block in which registrations were read.
    #[schemars(range(min = 0))]
    pub block: i64,
    /// What the epoch was to allocate, fees aside, in wei.
    #[schemars(length(max = 39), regex(pattern = "^(0|[1-9][0-9]{0,38})$"))]
    pub budget_wei: String,
    /// Part of the budget for verified work, in 1/10,000.
    #[schemars(range(min = 0, max = 10_000))]
    pub work_bps: i32,
    /// Part for proven capacity, in 1/10,000. The rest is for proven storage.
    #[schemars(range(min = 0, max = 10_000))]
    pub capacity_bps: i32,
}

/// Where all leaves are kept, whichever form the report carries them in: 36 bytes each (20-byte node, 16-byte big-endian cumulative wei), in tree order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeavesRef {
    /// ConfigMap in the operator's namespace; binary key `leaves.zst` is the zstd-compressed concatenation.
    #[schemars(length(max = 253))]
    pub config_map: String,
    /// keccak256 of the uncompressed concatenation.
    #[schemars(length(max = 66))]
    pub data_hash: String,
}

/// Sums over all nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReportTotals {
    /// Nodes that earned something in this epoch.
    pub nodes: i64,
    /// Requests answered.
    pub requests: i64,
    /// Prompt tokens.
    pub prompt_tokens: i64,
    /// Output tokens.
    pub output_tokens: i64,
    /// Reward units.
    #[schemars(length(max = 40))]
    pub units: String,
}

/// How far a report is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ReportState {
    /// Written down, nothing signed.
    #[default]
    Planned,
    /// The transaction is signed and written down.
    Signed,
    /// An endpoint took it.
    Sent,
    /// It is in a block.
    Included,
    /// Its block is final.
    Finalized,
    /// The window is over and the root is live: nodes can claim.
    Active,
}

/// The outbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContributionReportStatus {
    /// How far the report is.
    #[serde(default)]
    pub state: ReportState,
    /// The voteEpoch transaction; only where the contract wants several reporters to agree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vote: Option<TransactionStatus>,
    /// The submitEpoch transaction. Where another reporter carried the report, it stays planned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub submit: Option<TransactionStatus>,
    /// The distributeRewards transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activate: Option<TransactionStatus>,
    /// Unix seconds from which the root can become live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_at: Option<i64>,
    /// Finalized, Active, Stalled.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
