//! The internal API between operator and gateway: JSON over HTTP with a bearer token, on a port of its own.
//!
//! | request | body → answer |
//! |---|---|
//! | `GET  /internal/v1/info` | → [`GatewayInfo`] |
//! | `PUT  /internal/v1/network` | [`NetworkConfig`] → [`GatewayInfo`]; another network than the one kept: 409 |
//! | `PUT  /internal/v1/members/{peer}` | [`Member`] → 204 |
//! | `DELETE /internal/v1/members/{peer}` | → 204 |
//! | `GET  /internal/v1/nodes`, `GET …/nodes/{peer}` | → [`NodeReport`]s |
//! | `PUT  /internal/v1/models/{sha256}` | [`ModelOrder`] → [`ModelReport`] |
//! | `GET  /internal/v1/models/{sha256}`, `DELETE` | → [`ModelReport`] |
//! | `GET  /internal/v1/jobs?after=UID` | → [`JobPage`]: what jobs it keeps, at most [`JOBS_A_PAGE`] at once |
//! | `POST /internal/v1/jobs/{uid}` | [`WholeJob`] → [`JobReport`]; again: no change; another one under the same uid: 409 |
//! | `PUT  /internal/v1/jobs/{uid}` | [`JobSpec`] → [`JobReport`]; another spec takes its place until its input is there, then: 409 |
//! | `PUT  /internal/v1/jobs/{uid}/input` | NDJSON of [`InputLine`] → [`JobReport`]; again with the same bytes: no change |
//! | `PATCH /internal/v1/jobs/{uid}` | [`JobControl`] → [`JobReport`] |
//! | `GET  /internal/v1/jobs/{uid}` | → [`JobReport`] |
//! | `GET  /internal/v1/jobs/{uid}/results` | → NDJSON of [`ResultLine`] in input order |
//! | `PUT  /internal/v1/jobs/{uid}/files/{name}` | bytes, at most [`MAX_FILE`] → [`FileKept`]; 507 when the store is full |
//! | `GET  /internal/v1/jobs/{uid}/files/{name}`, `HEAD` | → the bytes; 404 |
//! | `DELETE /internal/v1/jobs/{uid}` | → 204: text and files forgotten, receipts kept |
//! | `GET  /internal/v1/changes?after=REV` | → endless NDJSON of [`Change`]; an empty line every 10 s |
//! | `GET  /internal/v1/payments` | → [`OpenPayment`]s: paid jobs that are over and not settled, the oldest first |
//! | `PUT  /internal/v1/payments/{escrow}` | [`SettledPayment`] → 204; another one than before: 409 |
//! | `POST /internal/v1/epochs/{n}/close` | → [`EpochTotals`]; 425 while audits are owed; again: the same bytes |
//! | `GET  /internal/v1/epochs/{n}/statement` | → zstd of JSON lines (`protocol::statement`); 404 before it is closed |
//!
//! Errors are [`ApiError`] bodies. Every write is idempotent under its path.

mod model;
mod payment;
mod placement;
mod response_format;
mod waiting;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use model::{ModelFormat, ModelOrder, ModelReport, ModelSource, ModelState, SourceAccess, model_file_path};
pub use payment::{JobPayment, OpenPayment, PaidJobTotals, ServedUnits, SettledPayment, Spend, TokenPrice};
pub use placement::{MAX_PLACEMENT_ITEMS, MAX_PLACEMENT_TEXT, PlacementFilter, Trust};
pub use response_format::ResponseFormat;
pub use waiting::{Waiting, WaitingRefusal};

use super::{
    fields::{RequestField, RequestFields},
    logprobs::TokenLogprob,
    names::NetworkId,
    vector::Vector,
    wire,
};
use crate::api::ids::{EpochNumber, GridPeerId, ModelDigest, NodeAddress, RequestId};

/// Error body of every endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiError {
    /// Stable CamelCase code, a line in `docs/reasons.md`.
    pub reason: String,
    /// A sentence a person can act on.
    pub message: String,
}

/// What the gateway is told about its network. Kept in the ledger: a restarted gateway goes on without the operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NetworkConfig {
    pub name: String,
    pub network: NetworkId,
    /// Unix seconds, from the contract.
    pub genesis: u64,
    pub epoch_seconds: u64,
    pub paused: bool,
    /// Multiaddresses under which machines outside the cluster reach this gateway.
    pub external_addresses: Vec<String>,
    /// Lowest share of answers that is audited, in percent; new and suspicious nodes are audited at 100.
    pub sample_percent: u8,
    /// Shares of namespaces by name, 1 to 1000; one that is not named has 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub namespace_weights: BTreeMap<String, u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayInfo {
    pub version: String,
    pub peer_id: GridPeerId,
    /// What it was last told; absent before the first `PUT network`.
    pub network: Option<NetworkConfig>,
    /// Multiaddresses it listens on, and the external ones, each with `/p2p/<peer id>`.
    pub addresses: Vec<String>,
    pub connected_peers: u32,
    pub revision: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NodeMode {
    /// Its pod belongs to this cluster's admin.
    Managed,
    /// Somebody else's machine.
    External,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NodeRole {
    Compute,
    Verify,
    Storage,
}

/// A peer that may take part. Everybody else is refused at `auth`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Member {
    pub peer_id: GridPeerId,
    /// Name of the GridNode, for people.
    pub node_name: String,
    pub mode: NodeMode,
    pub roles: Vec<NodeRole>,
    /// Takes new leases. False while cordoned, draining, outside its availability windows or about to be updated.
    pub schedulable: bool,
    /// Outside its availability windows: it is asked to prove nothing either.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resting: bool,
    /// Requests at once, at most; absent = as many as the worker offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// Registered with stake on chain: its work is paid.
    pub registered: bool,
    /// What it is to serve.
    pub models: Vec<ModelDigest>,
    /// Labels of the GridNode, for placement; at most [`MAX_PLACEMENT_ITEMS`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Member {
    /// How many requests it works on at once, of the `offered` slots that its worker states.
    pub fn slots(&self, offered: u32) -> u32 {
        self.max_requests.map_or(offered, |most| offered.min(most))
    }
}

/// What the gateway knows about a member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    pub peer_id: GridPeerId,
    pub node_name: String,
    pub connected: bool,
    /// Why not connected or last refused, CamelCase; empty when connected.
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub software: String,
    #[serde(default)]
    pub processor: String,
    #[serde(default)]
    pub threads: u32,
    #[serde(default)]
    pub memory_bytes: u64,
    #[serde(default)]
    pub accelerators: Vec<String>,
    #[serde(default)]
    pub models: Vec<NodeModel>,
    #[serde(default)]
    pub running: u32,
    /// May be given work; the member as the gateway has it, read before `running` was. A gateway that does not say is taken at the
    /// word that it was told.
    #[serde(default)]
    pub schedulable: bool,
    #[serde(default)]
    pub queued: u32,
    #[serde(default)]
    pub slots: u32,
    pub capability: Capability,
    pub evidence: EvidenceReport,
    pub current_epoch: Contribution,
    pub last_epoch: Contribution,
}

impl NodeReport {
    /// Nothing runs and nothing will: the gateway had heard that the node is closed when it looked at what runs there.
    pub fn is_emptied(&self) -> bool {
        self.running == 0 && !self.schedulable
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeModel {
    pub digest: ModelDigest,
    /// `Ready`, `Fetching`, `Loading`, `Measuring` or a failure reason.
    pub state: String,
    #[serde(default)]
    pub message: String,
    #[serde(default)]
    pub prefill_rate_milli: u64,
    #[serde(default)]
    pub decode_rate_milli: u64,
    #[serde(default)]
    pub kernel_profile: String,
}

/// What was proven, not what was claimed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capability {
    /// Passed its compute challenge and, when External, its probation audits.
    pub verified: bool,
    /// Why not, CamelCase: `ComputeChallengePending`, `ComputeChallengeFailed`, `KernelProfileUnshared`, `ProbationPending`.
    #[serde(default)]
    pub reason: String,
    /// The same as a sentence, where the reason alone does not say what to do.
    #[serde(default)]
    pub message: String,
    /// Integer multiply-adds per millisecond in the last compute challenge.
    pub gemm_units: u64,
    /// The last storage challenge over every assigned blob was answered rightly.
    pub storage_verified: bool,
    pub proven_bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceReport {
    /// log₁₀ of the e-value against the node: 3 and more quarantines it.
    pub log10_e: f64,
    pub audits_passed: u64,
    pub audits_failed: u64,
    pub audits_inconclusive: u64,
    pub quarantined: bool,
    /// What convicted it, for people.
    #[serde(default)]
    pub message: String,
    /// Once the e-value was 10⁶: keccak256 over the content hashes of its receipts whose audits had failed by then, ascending, `0x` and 64
    /// hexadecimal digits. Inconclusive audits are no part of it, and what fails later does not change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Contribution {
    pub epoch: u64,
    pub requests: u64,
    pub prompt_tokens: u64,
    pub output_tokens: u64,
    /// Reward units (`reward::units`), decimal.
    pub units: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Endpoint {
    #[serde(rename = "/v1/chat/completions")]
    ChatCompletions,
    #[serde(rename = "/v1/completions")]
    Completions,
    #[serde(rename = "/v1/embeddings")]
    Embeddings,
}

/// Most texts of one embedding request.
pub const MAX_INPUTS: usize = 256;

/// How a client wants a vector written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// A list of numbers.
    #[default]
    Float,
    /// Base64 of the little-endian single precision bytes.
    Base64,
}

impl Encoding {
    fn is_float(&self) -> bool {
        *self == Encoding::Float
    }
}

/// The immutable part of a job. Its hash (BLAKE3 over the JSON) makes `PUT` idempotent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobSpec {
    pub namespace: String,
    pub name: String,
    pub model: ModelDigest,
    pub model_name: String,
    pub endpoint: Endpoint,
    /// Tries per request before it is a failure.
    pub max_attempts: u32,
    /// Lines to come with `PUT input`.
    pub total_requests: u32,
    /// Lines of the input that were no usable request and do not come. Not written when there are none: such a job keeps the
    /// hash that it had before this field existed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rejected_lines: u32,
    /// Share of answers audited at least, in percent; absent = the network's.
    pub sample_percent: Option<u8>,
    /// Which nodes may get its requests. Not written when it asks nothing: a job from before it existed keeps its hash.
    #[serde(default, skip_serializing_if = "PlacementFilter::is_empty")]
    pub placement: PlacementFilter,
    /// From what it is paid; absent for a job that costs nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment: Option<JobPayment>,
    /// Jinja template of its chats, at most [`MAX_CHAT_TEMPLATE`] bytes; empty: the model's own. Not written then: such a job keeps its hash.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chat_template: String,
}

/// Bytes of a chat template. Those of published models have 1 to 8 KB.
pub const MAX_CHAT_TEMPLATE: usize = 16 << 10;

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// The part that may change while the job runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobControl {
    pub suspended: bool,
    pub cancelled: bool,
    /// Requests in flight at once; 0 = as many as there are slots.
    pub parallelism: u32,
}

/// One request of a job, parsed and completed with the job's defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InputLine {
    /// Line in the input, from 0.
    pub index: u32,
    pub custom_id: String,
    /// Chat: at least one. Completion: empty.
    #[serde(default)]
    pub messages: Vec<Message>,
    #[serde(default)]
    pub prompt: String,
    pub max_tokens: u32,
    pub temperature: f32,
    pub top_p: f32,
    pub top_k: u32,
    /// 0 to 1; 0 = off. This and what follows up to the seed is not written where it is off: a line from before it existed stays the same
    /// bytes.
    #[serde(default, skip_serializing_if = "is_off")]
    pub min_p: f32,
    /// 0.1 to 10; 1 = off.
    #[serde(default = "unchanged", skip_serializing_if = "is_unchanged")]
    pub repetition_penalty: f32,
    /// -2 to 2; 0 = off.
    #[serde(default, skip_serializing_if = "is_off")]
    pub presence_penalty: f32,
    /// -2 to 2; 0 = off.
    #[serde(default, skip_serializing_if = "is_off")]
    pub frequency_penalty: f32,
    /// By token id, -100 to 100; at most 1024.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub logit_bias: BTreeMap<u32, f32>,
    /// Log-probabilities with every token: its own and so many alternatives, 0 to 20; absent = none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<u32>,
    /// The form that the answer must have.
    #[serde(default, skip_serializing_if = "ResponseFormat::is_text")]
    pub response_format: ResponseFormat,
    /// The client's contribution to the sampling seed.
    pub seed: u64,
    #[serde(default)]
    pub stop: Vec<String>,
    /// Embedding: 1 to [`MAX_INPUTS`] texts, none of them empty; there are no messages, no prompt, and `max_tokens` is 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<String>,
    /// Embedding: how the vectors are to be written.
    #[serde(default, skip_serializing_if = "Encoding::is_float")]
    pub encoding: Encoding,
}

fn is_off(value: &f32) -> bool {
    *value == 0.0
}

fn unchanged() -> f32 {
    1.0
}

fn is_unchanged(value: &f32) -> bool {
    *value == 1.0
}

impl InputLine {
    /// A request for one token, the likeliest, after nothing: what others are built on.
    pub fn blank(index: u32, custom_id: String) -> Self {
        InputLine {
            index,
            custom_id,
            messages: Vec::new(),
            prompt: String::new(),
            max_tokens: 1,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
            top_logprobs: None,
            response_format: ResponseFormat::default(),
            seed: 0,
            stop: Vec::new(),
            inputs: Vec::new(),
            encoding: Encoding::default(),
        }
    }

    /// An embedding request: what is sampled for other endpoints is in its neutral form.
    pub fn embedding(index: u32, custom_id: String, inputs: Vec<String>, encoding: Encoding) -> Self {
        InputLine { inputs, encoding, ..Self::blank(index, custom_id) }
    }

    /// How its tokens are chosen, as a worker is told.
    pub fn sampling(&self) -> wire::Sampling {
        let bias = |(id, bias): (&u32, &f32)| wire::LogitBias { id: *id, bias: *bias };
        let (form, json_schema) = self.response_format.to_wire();
        wire::Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            // Absent on the wire, as for those who never heard of it.
            repetition_penalty: if is_unchanged(&self.repetition_penalty) { 0.0 } else { self.repetition_penalty },
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.iter().map(bias).collect(),
            form,
            json_schema,
        }
    }

    /// What a worker must know to answer it rightly.
    pub fn fields(&self) -> RequestFields {
        let used = [
            (RequestField::MinP, !is_off(&self.min_p)),
            (RequestField::RepetitionPenalty, !is_unchanged(&self.repetition_penalty)),
            (RequestField::PresencePenalty, !is_off(&self.presence_penalty)),
            (RequestField::FrequencyPenalty, !is_off(&self.frequency_penalty)),
            (RequestField::LogitBias, !self.logit_bias.is_empty()),
            (RequestField::Logprobs, self.top_logprobs.is_some()),
            (RequestField::ResponseFormat, !self.response_format.is_text()),
        ];
        used.into_iter().filter(|(_, used)| *used).map(|(field, _)| field).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    pub role: String,
    pub content: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    /// Spec known, input not yet.
    Created,
    Queued,
    Running,
    Suspended,
    /// Every request has an answer or has failed, and every owed audit is decided.
    Finished,
    Cancelled,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobReport {
    pub state: JobState,
    /// Why it does not run, CamelCase: `NoWorkerForModel`, `NoMatchingNode`, `WaitingForCapacity`, `ModelNotReady`,
    /// `NetworkPaused`, `AuditsPending`, `SpendLimitReached`; else empty.
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
    pub total: u32,
    /// As the spec said.
    #[serde(default)]
    pub rejected_lines: u32,
    pub completed: u32,
    pub failed: u32,
    pub running: u32,
    pub prompt_tokens: u64,
    pub output_tokens: u64,
    /// Names of the GridNodes whose answers were taken, with how many.
    pub nodes: Vec<JobNode>,
    pub audits_owed: u32,
    pub audits_passed: u32,
    pub audits_failed: u32,
    /// Unix milliseconds; 0 = not yet.
    pub started_at_ms: u64,
    pub finished_at_ms: u64,
    /// Hexadecimal Merkle root over the accepted receipts; empty until finished.
    #[serde(default)]
    pub receipts_root: String,
    /// The last failures, newest first, at most 5.
    #[serde(default)]
    pub last_failures: Vec<RequestFailure>,
    /// For `NoWorkerForModel`, `NoMatchingNode` and `WaitingForCapacity`: the numbers behind the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Of a paid job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spend: Option<Spend>,
}

/// Longest input that comes with its job, in bytes; a longer one follows its spec.
pub const MAX_WHOLE_INPUT: usize = 256 << 10;

/// A job with all of its input, in one call instead of three.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WholeJob {
    pub spec: JobSpec,
    pub control: JobControl,
    /// NDJSON of [`InputLine`], at most [`MAX_WHOLE_INPUT`] bytes: the same ones that `PUT …/input` would take.
    pub input: String,
}

/// Most jobs on one page of their listing.
pub const JOBS_A_PAGE: u32 = 500;

/// A job that the gateway keeps, and what it is called in the API server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobName {
    pub uid: String,
    pub namespace: String,
    pub name: String,
}

/// Jobs that the gateway keeps, by uid.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobPage {
    pub jobs: Vec<JobName>,
    /// Uid after which the next page begins; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Largest file of a job's results in the gateway's store, in bytes: a part, or the manifest.
pub const MAX_FILE: usize = 16 << 20;

/// Header that a reader of files in the store sends.
pub const READ_KEY_HEADER: &str = "x-grid-read-key";

/// A file of a job's results is in the gateway's store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileKept {
    /// 64 hexadecimal digits that open the files of this job, and of no other, at `/grid/v1/jobs/{uid}/files/{name}` of the
    /// gateway's public API. Always the same for a job.
    pub read_key: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobNode {
    pub node_name: String,
    pub requests: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestFailure {
    pub custom_id: String,
    pub reason: String,
    pub message: String,
}

/// Outcome of one request, from which the operator writes an OpenAI batch output line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultLine {
    pub index: u32,
    pub custom_id: String,
    pub request_id: RequestId,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Outcome {
    #[serde(rename_all = "camelCase")]
    Completed {
        text: String,
        /// `stop` or `length`.
        finish_reason: String,
        /// Of the tokens of the text, where the request asked for them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        logprobs: Option<Vec<TokenLogprob>>,
        prompt_tokens: u32,
        output_tokens: u32,
        node_name: String,
        node_address: NodeAddress,
        /// Unix seconds at which the receipt was accepted.
        created: u64,
    },
    /// The vectors of an embedding request, in the order of its inputs.
    #[serde(rename_all = "camelCase")]
    Embedded {
        vectors: Vec<Vector>,
        encoding: Encoding,
        prompt_tokens: u32,
        node_name: String,
        node_address: NodeAddress,
        /// Unix seconds at which the receipt was accepted.
        created: u64,
    },
    Failed {
        reason: String,
        message: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChangeKind {
    Job,
    Node,
    Model,
    Epoch,
}

/// Something changed; go and read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub revision: u64,
    pub kind: ChangeKind,
    /// Job uid, peer id, model digest or epoch number.
    pub key: String,
}

/// What one epoch amounts to. A pure function of ledger rows: closing again gives the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EpochTotals {
    pub epoch: EpochNumber,
    /// Sorted by address.
    pub nodes: Vec<NodeTotals>,
    /// Paid jobs that are settled and counted in this epoch, sorted by escrow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<PaidJobTotals>,
    /// Hexadecimal secret of the epoch's audit selection, published now that it cannot help a cheat.
    pub audit_secret: String,
    /// Receipts that the epoch counts.
    #[serde(default)]
    pub receipts: u64,
    /// `statement::ReceiptsHash` over them; empty in the totals of older versions.
    #[serde(default)]
    pub receipts_hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeTotals {
    pub address: NodeAddress,
    pub node_name: String,
    pub requests: u64,
    pub prompt_tokens: u64,
    pub output_tokens: u64,
    /// Verified reward units of work that no user paid for, decimal; what was paid for is in [`EpochTotals::jobs`].
    pub units: String,
    /// Proven GEMM rate × share of challenges answered in the epoch.
    pub capacity_units: u64,
    /// Bytes proven to be held through the epoch.
    pub proven_bytes: u64,
    /// False: earns nothing in this epoch, and why.
    pub eligible: bool,
    #[serde(default)]
    pub reason: String,
}
