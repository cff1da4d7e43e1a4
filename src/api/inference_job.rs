//! InferenceJob: a batch of prompts for one model, and what became of it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    conditions::Condition,
    local_placement::LocalPlacement,
    refs::{ConfigMapKeyRef, NameRef},
};

/// Condition types of an InferenceJob.
pub mod condition {
    /// References resolve and the input can be read.
    pub const ACCEPTED: &str = "Accepted";
    /// The grid has the job.
    pub const ADMITTED: &str = "Admitted";
    /// A worker can serve its model.
    pub const MODEL_READY: &str = "ModelReady";
    /// Requests are being answered.
    pub const RUNNING: &str = "Running";
    /// Results and manifest are at their place.
    pub const OUTPUT_PUBLISHED: &str = "OutputPublished";
    /// Every audit that was owed is decided and none failed.
    pub const VERIFIED: &str = "Verified";
    /// The epoch with the job's work is active on chain. Never blocks Complete.
    pub const SETTLED: &str = "Settled";
    /// Terminal: done, results published.
    pub const COMPLETE: &str = "Complete";
    /// Terminal: stopped without success.
    pub const FAILED: &str = "Failed";
}

/// What a user asks for.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "xdcgrid.io",
    version = "v1alpha1",
    kind = "InferenceJob",
    plural = "inferencejobs",
    namespaced,
    status = "InferenceJobStatus",
    shortname = "ij",
    category = "grid",
    derive = "PartialEq",
    selectable = ".spec.workload.modelRef.name",
    doc = "A batch of prompts for one model. Results are left in a ConfigMap.",
    printcolumn(name = "MODEL", type_ = "string", json_path = ".spec.workload.modelRef.name"),
    printcolumn(name = "STATUS", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "PROGRESS", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "FAILED", type_ = "integer", json_path = ".status.requests.failed"),
    printcolumn(name = "NODES", type_ = "integer", json_path = ".status.nodes"),
    printcolumn(name = "TOK/S", type_ = "string", json_path = ".status.throughput"),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.reason", priority = "1"),
    printcolumn(name = "OUTPUT", type_ = "string", json_path = ".status.output.configMap", priority = "1"),
    printcolumn(name = "DURATION", type_ = "string", json_path = ".status.duration", priority = "1"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!oldSelf.cancel || self.cancel").message("cancel cannot be taken back"))]
pub struct InferenceJobSpec {
    /// What is to be computed. Never changes.
    #[x_kube(validation = Rule::new("self == oldSelf").message("workload never changes once the job exists; make a new InferenceJob"))]
    pub workload: Workload,
    /// Where it is computed.
    #[serde(default)]
    pub placement: Placement,
    /// Takes no new request while true; what runs is finished.
    #[serde(default)]
    pub suspend: bool,
    /// Grid: requests in flight at once; absent means as many as the grid has room for. Local: pods at once, for example 4;
    /// absent means at most 16. May change while the job runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub parallelism: Option<i32>,
    /// Ends the job. Finished answers are kept and published.
    #[serde(default)]
    pub cancel: bool,
    /// How often a request is tried.
    #[serde(default)]
    pub retry: RetrySpec,
    /// Ends the job when more requests than this failed; absent means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50_000))]
    pub max_failed_requests: Option<i32>,
    /// How its answers are checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<JobVerification>,
    /// Ends the job this long after it was admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000))]
    pub active_deadline_seconds: Option<i64>,
    /// Deletes the job this long after it ended; absent means never. The output stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<i64>,
}

/// Model, input, defaults, output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Name of the GridModel.
    pub model_ref: NameRef,
    /// The OpenAI endpoint that the requests are for.
    #[serde(default)]
    pub endpoint: EndpointSpec,
    /// The requests.
    pub input: InputSpec,
    /// Defaults for requests that say nothing.
    #[serde(default)]
    pub generation: GenerationSpec,
    /// Where results go.
    pub output: OutputSpec,
    /// Local: the most requests that one pod answers, for example 100. A shard is closed earlier when its input or its
    /// answers might not fit a ConfigMap.
    #[serde(default = "shard_size")]
    #[schemars(range(min = 1, max = 500))]
    pub shard_size: i32,
}

/// The default of `workload.shardSize`.
pub fn shard_size() -> i32 {
    200
}

/// OpenAI endpoints that are served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EndpointSpec {
    #[default]
    #[serde(rename = "/v1/chat/completions")]
    ChatCompletions,
    #[serde(rename = "/v1/completions")]
    Completions,
}

/// Exactly one source of requests, at most 50 000 lines and 200 MB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.inline), has(self.configMap), has(self.url)].exists_one(given, given)").message("input must have exactly one of inline, configMap, url"),
    validation = Rule::new("has(self.url) == has(self.sha256)").message("url and sha256 go together")
)]
pub struct InputSpec {
    /// OpenAIBatch: OpenAI batch JSON lines. Lines: a prompt a line.
    #[serde(default)]
    pub format: InputFormat,
    /// The requests themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 131_072))]
    pub inline: Option<String>,
    /// A key of a ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapKeyRef>,
    /// An http or https URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), regex(pattern = r"^https?://[^\s]+$"))]
    pub url: Option<String>,
    /// sha256 of what the URL gives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: Option<String>,
}

/// How input lines are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum InputFormat {
    Lines,
    #[default]
    #[serde(rename = "OpenAIBatch")]
    OpenAiBatch,
}

/// Sampling defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GenerationSpec {
    /// Most tokens to write.
    #[serde(default = "max_tokens")]
    #[schemars(range(min = 1, max = 32_768))]
    pub max_tokens: i32,
    /// Decimal from 0 (always the likeliest token) to 2.
    #[serde(default = "temperature")]
    #[schemars(length(max = 8), regex(pattern = r"^([01](\.[0-9]{1,6})?|2(\.0{1,6})?)$"))]
    pub temperature: String,
    /// Decimal from 0 to 1: nucleus sampling.
    #[serde(default = "top_p")]
    #[schemars(length(max = 8), regex(pattern = r"^(0(\.[0-9]{1,6})?|1(\.0{1,6})?)$"))]
    pub top_p: String,
    /// Sample among this many likeliest tokens; 0 means all.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub top_k: i32,
    /// The client's contribution to the sampling seed.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub seed: i64,
    /// Texts that end an answer.
    #[serde(default)]
    #[schemars(length(max = 4), inner(length(min = 1, max = 64)))]
    pub stop: Vec<String>,
    /// System message before the prompt of every line with format Lines and endpoint /v1/chat/completions, for example
    /// `You are a helpful assistant.`; lines of an OpenAI batch bring their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub system_message: Option<String>,
}

impl Default for GenerationSpec {
    fn default() -> Self {
        GenerationSpec {
            max_tokens: max_tokens(),
            temperature: temperature(),
            top_p: top_p(),
            top_k: 0,
            seed: 0,
            stop: Vec::new(),
            system_message: None,
        }
    }
}

fn max_tokens() -> i32 {
    256
}

fn temperature() -> String {
    "1".into()
}

fn top_p() -> String {
    "1".into()
}

/// Exactly one place for results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.configMap)].exists_one(given, given)").message("output must name exactly one place (configMap)"))]
pub struct OutputSpec {
    /// A ConfigMap in the job's namespace, made by the operator. It holds at most about 1 MB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<NameRef>,
}

/// Where a job runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.target == 'Local' || !has(self.local)").message("placement.local is for target Local"),
    validation = Rule::new("self.target == oldSelf.target && has(self.local) == has(oldSelf.local) && (!has(self.local) || self.local == oldSelf.local)").message("placement.target and placement.local never change once the job exists; make a new InferenceJob")
)]
pub struct Placement {
    /// Grid: on GridNodes, verified and paid. Local: in pods of the job's own namespace, without grid, gateway and chain.
    #[serde(default)]
    pub target: Target,
    /// Local: what its pods ask of Kubernetes. Absent: one processor core and 1 GiB of memory each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalPlacement>,
}

/// Kinds of places.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Target {
    #[default]
    Grid,
    Local,
}

/// Retries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrySpec {
    /// Tries of one request before it is a failure.
    #[serde(default = "max_attempts")]
    #[schemars(range(min = 1, max = 10))]
    pub max_attempts: i32,
}

impl Default for RetrySpec {
    fn default() -> Self {
        RetrySpec { max_attempts: max_attempts() }
    }
}

fn max_attempts() -> i32 {
    3
}

/// Checks of a job's answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobVerification {
    /// Lowest share of answers that is recomputed, in percent.
    #[schemars(range(min = 0, max = 100))]
    pub sample_percent: i32,
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct InferenceJobStatus {
    /// Generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// For people: Pending, Queued, Running, Suspended, Finalizing, Complete, Failed, Cancelled. Wait for conditions instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<JobPhase>,
    /// Why it is in this phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub reason: Option<String>,
    /// Requests done out of all, such as `37/100`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub progress: Option<String>,
    /// When the grid took the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub completion_time: Option<Time>,
    /// From start to end, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub duration: Option<String>,
    /// sha256 of the model that the name stood for when the job was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub model_digest: Option<String>,
    /// Counts of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestCounts>,
    /// Input lines that were no usable request: they count as failed, are in errors.jsonl and were never sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_lines: Option<i64>,
    /// Counts of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenCounts>,
    /// Output tokens per second, over the whole run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub throughput: Option<String>,
    /// How many nodes gave answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<i64>,
    /// Which nodes gave answers, the busiest first, at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub assignments: Vec<Assignment>,
    /// The last failures, newest first, at most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub last_failures: Vec<FailureStatus>,
    /// Audits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audits: Option<AuditCounts>,
    /// Where the results are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputStatus>,
    /// Merkle root over the receipts of all answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 66))]
    pub receipts_root: Option<String>,
    /// See docs/reasons.md.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// Display only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JobPhase {
    Pending,
    Queued,
    Running,
    Suspended,
    Finalizing,
    Complete,
    Failed,
    Cancelled,
}

/// Counts of requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestCounts {
    /// Lines of the input.
    pub total: i64,
    /// Answered.
    pub completed: i64,
    /// Failed, including rejected input lines.
    pub failed: i64,
}

/// Counts of tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TokenCounts {
    /// Prompt tokens.
    pub prompt: i64,
    /// Tokens written.
    pub output: i64,
}

/// Answers of one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// Name of the GridNode.
    #[schemars(length(max = 253))]
    pub node_name: String,
    /// Answers that were taken from it.
    pub requests: i64,
}

/// One failed request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureStatus {
    /// custom_id of the request.
    #[serde(rename = "customID")]
    #[schemars(length(max = 256))]
    pub custom_id: String,
    /// Why, as a code.
    #[schemars(length(max = 128))]
    pub reason: String,
    /// Why, in words.
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// Counts of audits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditCounts {
    /// Still to be decided.
    pub owed: i64,
    /// Agreed.
    pub passed: i64,
    /// Did not agree.
    pub failed: i64,
}

/// Where results are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutputStatus {
    /// Name of the ConfigMap.
    #[schemars(length(max = 253))]
    pub config_map: String,
    /// sha256 of results.jsonl.
    #[schemars(length(max = 64))]
    pub results_sha256: String,
    /// sha256 of errors.jsonl.
    #[schemars(length(max = 64))]
    pub errors_sha256: String,
    /// Bytes of both.
    pub bytes: i64,
}
