//! GridNetwork: one grid — its chain and contract, its gateway, and how rewards are split.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{
    conditions::Condition,
    refs::{SecretKeyRef, TransactionStatus},
};

/// Condition types of a GridNetwork.
pub mod condition {
    /// An endpoint answers, on the right chain, and the contract is there.
    pub const CHAIN_REACHABLE: &str = "ChainReachable";
    /// The gateway serves this network.
    pub const GATEWAY_READY: &str = "GatewayReady";
    /// The reporter's key is there and may report.
    pub const REPORTER_READY: &str = "ReporterReady";
    /// All of the above.
    pub const READY: &str = "Ready";
    /// Abnormal: the reporter's account soon cannot pay for reports.
    pub const REPORTER_FUNDS_LOW: &str = "ReporterFundsLow";
    /// Every epoch that is over is reported; set by the epoch loop, no part of Ready.
    pub const REPORTS_CURRENT: &str = "ReportsCurrent";
    /// Every paid job that is over is settled with its escrow; only there once a job was paid for, no part of Ready.
    pub const SETTLEMENTS_CURRENT: &str = "SettlementsCurrent";
    /// Every slash case that is due and that no GridNode pursues is executed; only there once one was, no part of Ready.
    pub const SLASH_CASES_CURRENT: &str = "SlashCasesCurrent";
}

/// What an admin says about a grid.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "xdcgrid.io",
    version = "v1alpha1",
    kind = "GridNetwork",
    plural = "gridnetworks",
    status = "GridNetworkStatus",
    shortname = "gnet",
    category = "grid",
    derive = "PartialEq",
    doc = "A community inference grid: the chain and contract that pay for it, and the gateway that runs it.",
    validation = Rule::new("self.metadata.name.size() <= 40").message("the name may have at most 40 characters: reports are named <network>-<epoch>"),
    printcolumn(name = "READY", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "REASON", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "CHAIN", type_ = "integer", json_path = ".spec.chain.chainID"),
    printcolumn(name = "EPOCH", type_ = "integer", json_path = ".status.lastReportedEpoch"),
    printcolumn(name = "POOL", type_ = "string", json_path = ".status.rewardPool"),
    printcolumn(name = "CONTRACT", type_ = "string", json_path = ".spec.chain.contract", priority = "1"),
    printcolumn(name = "GATEWAY", type_ = "string", json_path = ".status.gateways[0].peerID", priority = "1"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct GridNetworkSpec {
    /// The chain and the contract that pay for contribution. Together with the salt they are the identity of the grid.
    #[x_kube(validation = Rule::new("self.chainID == oldSelf.chainID && self.contract == oldSelf.contract").message("chainID and contract are the identity of a grid and never change; make a new GridNetwork"))]
    pub chain: ChainSpec,
    /// How the grid is reached.
    #[serde(default)]
    pub libp2p: Libp2pSpec,
    /// How contribution is paid.
    pub rewards: RewardsSpec,
    /// How answers are checked.
    #[serde(default)]
    pub verification: NetworkVerification,
    /// How namespaces share the grid.
    #[serde(default, skip_serializing_if = "SchedulingSpec::is_default")]
    pub scheduling: SchedulingSpec,
    /// Stops new leases on the whole grid; what runs is finished, and exits and claims go on.
    #[serde(default)]
    pub paused: bool,
}

/// Chain, contract and reporter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.reporterSecretRef) != has(self.remoteSigner)").message("exactly one of reporterSecretRef and remoteSigner says where the reporter's key is"))]
pub struct ChainSpec {
    /// 50 for XDC, 51 for Apothem.
    #[serde(rename = "chainID")]
    #[schemars(range(min = 1))]
    pub chain_id: i64,
    /// JSON-RPC endpoints, in order of preference. With two or more, what decides about money is believed when two of them agree, so
    /// three let one of them fail or lie.
    #[schemars(length(min = 1, max = 5), inner(length(max = 512), regex(pattern = r"^https?://[^\s]+$")))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub rpc_endpoints: Vec<String>,
    /// Address of the GridComputingRewards contract, spelled `0x…` or `xdc…`.
    #[schemars(length(max = 43), regex(pattern = r"^(0x|xdc)[0-9a-fA-F]{40}$"))]
    pub contract: String,
    /// Key of the account that registers Managed nodes and reports epochs: 64 hexadecimal digits, or an encrypted keystore (JSON)
    /// whose password is under the key `password` of the same Secret. The account needs the reporter role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reporter_secret_ref: Option<SecretKeyRef>,
    /// A signer that holds that key instead, so that the key is never in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_signer: Option<RemoteSignerSpec>,
    /// keccak256 of the contract's code, as `grid-operator verify-contract` prints it. With it the operator refuses any other code at
    /// that address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 66), regex(pattern = "^0x[0-9a-f]{64}$"))]
    pub code_hash: Option<String>,
    /// Address of the GridJobEscrow of that contract, spelled `0x…` or `xdc…`. Absent: jobs cannot be paid for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 43), regex(pattern = r"^(0x|xdc)[0-9a-fA-F]{40}$"))]
    pub escrow: Option<String>,
    /// Key of the account that settles paid jobs, in the same form as the reporter's; it needs the settler role. Absent: the
    /// reporter's key settles, and whoever steals it reaches the escrows of running jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settler_secret_ref: Option<SecretKeyRef>,
    /// Key of the account that opens slash cases against nodes that audits convict, in the same form as the reporter's; it needs the
    /// slasher role, which the reporter cannot have. Absent: nobody is accused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slasher_secret_ref: Option<SecretKeyRef>,
}

/// A program that signs for the reporter, in the way of Web3Signer's eth1 mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemoteSignerSpec {
    /// Where it is, for example `https://web3signer.keys.svc:9000`. Plain `http://` is refused, except to the operator's own machine
    /// (a sidecar).
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^\s/?#@]+/?$"))]
    pub url: String,
    /// The account whose key it holds.
    #[schemars(length(max = 43), regex(pattern = r"^(0x|xdc)[0-9a-fA-F]{40}$"))]
    pub address: String,
    /// Secret in the operator's namespace with `tls.crt` and `tls.key`, our certificate for it, and `ca.crt`, the authority of its
    /// own. Any of them may be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub tls_secret_name: Option<String>,
}

/// libp2p settings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Libp2pSpec {
    /// Tells apart two grids on the same contract, for example while testing.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("networkSalt is part of the identity of a grid and never changes"))]
    pub network_salt: String,
    /// Multiaddresses under which machines outside the cluster reach the gateway, such as `/dns4/grid.example.org/tcp/4001`.
    #[serde(default)]
    #[schemars(length(max = 8), inner(length(max = 256), regex(pattern = r"^(/[^/\s]+)+$")))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub external_addresses: Vec<String>,
}

/// Epochs and their money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RewardsSpec {
    /// Length of an epoch. The contract decides; a value that differs from the contract's is refused, absent means the contract's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000))]
    pub epoch_seconds: Option<i64>,
    /// What one epoch may allocate, in wei, as far as the contract's pool goes.
    #[schemars(length(max = 29), regex(pattern = r"^(0|[1-9][0-9]{0,28})$"))]
    pub budget_per_epoch_wei: String,
    /// How the budget is divided between kinds of contribution.
    #[serde(default)]
    pub split: RewardSplit,
    /// Computes and writes reports but sends nothing to the chain.
    #[serde(default)]
    pub dry_run: bool,
}

/// Percentages that sum to 100.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.work + self.capacity + self.storage == 100").message("work, capacity and storage are percentages and must sum to 100"))]
pub struct RewardSplit {
    /// For verified work.
    #[serde(default = "work")]
    #[schemars(range(min = 0, max = 100))]
    pub work: i32,
    /// For proven compute capacity that stood ready.
    #[serde(default = "capacity")]
    #[schemars(range(min = 0, max = 100))]
    pub capacity: i32,
    /// For proven storage.
    #[serde(default = "storage")]
    #[schemars(range(min = 0, max = 100))]
    pub storage: i32,
}

impl Default for RewardSplit {
    fn default() -> Self {
        RewardSplit { work: work(), capacity: capacity(), storage: storage() }
    }
}

fn work() -> i32 {
    60
}

fn capacity() -> i32 {
    25
}

fn storage() -> i32 {
    15
}

/// Shares of the grid.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchedulingSpec {
    /// Weights of namespaces, 1 to 1000; a namespace that is not named has 1. While several namespaces wait for the same nodes,
    /// each gets tokens in proportion to its weight: with `{team-a: 3}` team-a gets three times what every other one gets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "namespace_weights")]
    pub namespace_weights: BTreeMap<String, i32>,
}

fn namespace_weights(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 256,
        "additionalProperties": {"type": "integer", "format": "int32", "minimum": 1, "maximum": 1000},
    })
}

impl SchedulingSpec {
    fn is_default(&self) -> bool {
        *self == SchedulingSpec::default()
    }
}

/// Auditing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkVerification {
    /// Lowest share of answers that is recomputed, in percent. New and suspicious nodes are always checked completely.
    #[serde(default = "sample_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub sample_percent: i32,
    /// Part of its stake that a slash case against a convicted node asks for, in percent, for example `20`. The contract takes at most
    /// half of a stake.
    #[serde(default = "slash_percent")]
    #[schemars(range(min = 1, max = 50))]
    pub slash_percent: i32,
}

impl Default for NetworkVerification {
    fn default() -> Self {
        NetworkVerification { sample_percent: sample_percent(), slash_percent: slash_percent() }
    }
}

fn slash_percent() -> i32 {
    20
}

fn sample_percent() -> i32 {
    5
}

/// What the operator found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GridNetworkStatus {
    /// Generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Short network id, as in the protocol names `/xdc-grid/NET/…`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub net: Option<String>,
    /// The gateways that serve this grid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub gateways: Vec<GatewayStatus>,
    /// Unix seconds at which epoch 0 began, from the contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub genesis: Option<i64>,
    /// Length of an epoch in seconds, from the contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epoch_seconds: Option<i64>,
    /// Seconds between the report of an epoch and its activation, from the contract.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub challenge_window_seconds: Option<i64>,
    /// Account of the reporter key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 43))]
    pub reporter: Option<String>,
    /// Last epoch that the contract has a report of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reported_epoch: Option<i64>,
    /// Last epoch whose rewards can be claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_active_epoch: Option<i64>,
    /// What the pool still holds, in wei.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub reward_pool_wei: Option<String>,
    /// The same in XDC, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub reward_pool: Option<String>,
    /// The last transaction that settled paid jobs with their escrows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settlement: Option<TransactionStatus>,
    /// The last transaction that executed a slash case that no GridNode pursues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slash_execution: Option<TransactionStatus>,
    /// ChainReachable, GatewayReady, ReporterReady, ReportsCurrent, SettlementsCurrent, SlashCasesCurrent, Ready.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Where the gateway is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayStatus {
    /// Its peer id.
    #[serde(rename = "peerID")]
    #[schemars(length(max = 64))]
    pub peer_id: String,
    /// Multiaddresses to dial, each ending in `/p2p/<peer id>`.
    #[schemars(length(max = 32), inner(length(max = 320)))]
    pub addresses: Vec<String>,
    /// Its version.
    #[schemars(length(max = 64))]
    pub version: String,
}
