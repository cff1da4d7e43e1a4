//! InferenceJob: a batch of prompts for one model, and what became of it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    conditions::Condition,
    local_placement::LocalPlacement,
    refs::{ConfigMapKeyRef, ConfigMapRef, NameRef, S3Ref, labels},
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
    /// spec.suspend holds it back. When it became False is where deadlines start anew.
    pub const SUSPENDED: &str = "Suspended";
    /// On its way (kstatus). Gone when it is over or needs somebody.
    pub const RECONCILING: &str = "Reconciling";
    /// Cannot go on before somebody does something (kstatus).
    pub const STALLED: &str = "Stalled";
}

/// `spec.managedBy` of a job that is this operator's. Absent means the same.
pub const OURS: &str = "xdcgrid.io/grid-operator";

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
    selectable = ".status.phase",
    doc = "A batch of prompts for one model. Results are left in a ConfigMap, an S3 bucket or the gateway's store.",
    printcolumn(name = "MODEL", type_ = "string", json_path = ".spec.workload.modelRef.name"),
    printcolumn(name = "STATUS", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "PROGRESS", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "FAILED", type_ = "integer", json_path = ".status.requests.failed"),
    printcolumn(name = "NODES", type_ = "integer", json_path = ".status.nodes"),
    printcolumn(name = "TOK/S", type_ = "string", json_path = ".status.throughput"),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.reason", priority = "1"),
    printcolumn(name = "OUTPUT", type_ = "string", json_path = ".status.output.place", priority = "1"),
    printcolumn(name = "SPENT", type_ = "string", json_path = ".status.spend.spent", priority = "1"),
    printcolumn(name = "DURATION", type_ = "string", json_path = ".status.duration", priority = "1"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!oldSelf.cancel || self.cancel").message("cancel cannot be taken back"),
    validation = Rule::new("self.placement.target == 'Grid' || !has(self.workload.output.store)").message("output.store is in the gateway, which jobs with placement.target Local do without; use configMap or s3"),
    validation = Rule::new("self.placement.target == 'Grid' || !has(self.payment)").message("payment is for jobs with placement.target Grid; a Local job costs nothing"),
    validation = Rule::new("has(self.payment) == has(oldSelf.payment) && (!has(self.payment) || self.payment == oldSelf.payment)")
        .message("payment never changes once the job exists; make a new InferenceJob"),
    validation = Rule::new("has(self.managedBy) == has(oldSelf.managedBy) && (!has(self.managedBy) || self.managedBy == oldSelf.managedBy)")
        .message("managedBy never changes once the job exists; make a new InferenceJob"),
    validation = Rule::new("has(self.verification) == has(oldSelf.verification) && (!has(self.verification) || self.verification == oldSelf.verification)")
        .message("verification never changes once the job exists; make a new InferenceJob")
)]
pub struct InferenceJobSpec {
    /// What is to be computed. Never changes.
    #[x_kube(validation = Rule::new("self == oldSelf").message("workload never changes once the job exists; make a new InferenceJob"))]
    pub workload: Workload,
    /// Where it is computed. Never changes.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("placement never changes once the job exists; make a new InferenceJob"))]
    pub placement: Placement,
    /// Takes no new request while true, for example to make room for another job; what runs is finished, what is finished is
    /// kept, and deadlines start anew when it goes on. May change.
    #[serde(default)]
    pub suspend: bool,
    /// Grid: requests in flight at once, for example `8`; absent means as many as the grid has room for. Local: pods at once, for
    /// example `4`; absent means at most 16. May change while the job runs: a lower number lets what runs finish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub parallelism: Option<i32>,
    /// Ends the job. Finished answers are kept and published. Cannot be taken back.
    #[serde(default)]
    pub cancel: bool,
    /// How often a request is tried. Never changes.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("retry never changes once the job exists; make a new InferenceJob"))]
    pub retry: RetrySpec,
    /// Ends the job when more requests than this failed, for example `100`, input lines that were no requests included; absent
    /// means never. May change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50_000))]
    pub max_failed_requests: Option<i32>,
    /// How its answers are checked. Never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<JobVerification>,
    /// What it may cost, and from which escrow. Needed for a model with a price. Never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment: Option<PaymentSpec>,
    /// Seconds from the job's creation, or from its last resumption, within which its first request must be given to a node;
    /// else the job ends. For example `3600`. Not counted while suspended. May change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000))]
    pub start_deadline_seconds: Option<i64>,
    /// Seconds from when the grid took the job, or from its last resumption, after which it ends with what it has. For example
    /// `86400`. Not counted while suspended. May change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_592_000))]
    pub active_deadline_seconds: Option<i64>,
    /// Deletes the job this many seconds after it ended, for example `3600`; absent means the operator's default (7 days, unless
    /// its admin chose otherwise). Output in a ConfigMap or bucket stays; output in the store goes with the job. May change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<i64>,
    /// Who looks after the job, for example `kueue.x-k8s.io/multikueue`. A job that names anybody but
    /// `xdcgrid.io/grid-operator` is left alone. Never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[a-z0-9A-Z]([-a-z0-9A-Z._]*[a-z0-9A-Z])?$")
    )]
    pub managed_by: Option<String>,
}

/// Model, input, defaults, output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.generation.responseFormat) || self.endpoint == '/v1/chat/completions'").message("generation.responseFormat is for endpoint /v1/chat/completions"))]
pub struct Workload {
    /// The GridModel, for example `{name: smollm2-135m-instruct}`.
    pub model_ref: NameRef,
    /// The OpenAI endpoint that the requests are for: `/v1/chat/completions`, `/v1/completions` or `/v1/embeddings`. The model's
    /// format must serve it. `generation` means nothing to embeddings. For example `/v1/completions`.
    #[serde(default)]
    pub endpoint: EndpointSpec,
    /// The requests, for example `{format: Lines, inline: "Name three colours."}`.
    pub input: InputSpec,
    /// Defaults for requests that say nothing, for example `{maxTokens: 32, temperature: "0"}`.
    #[serde(default)]
    pub generation: GenerationSpec,
    /// Where results go, for example `{configMap: {name: hello-results}}`.
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
    #[serde(rename = "/v1/embeddings")]
    Embeddings,
}

/// Exactly one source of requests, at most 50 000 lines and 200 MB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.inline), has(self.configMap), has(self.url), has(self.s3)].exists_one(given, given)").message("input must have exactly one of inline, configMap, url, s3"),
    validation = Rule::new("!has(self.url) || has(self.sha256)").message("url and sha256 go together"),
    validation = Rule::new("!has(self.sha256) || has(self.url) || has(self.s3)").message("url and sha256 go together; sha256 may also be given with s3"),
    validation = Rule::new("!has(self.s3) || self.s3.uri.matches('^s3://[^/]+/.*[^/]$')").message("input.s3.uri names one object, as in s3://bucket/folder/input.jsonl")
)]
pub struct InputSpec {
    /// OpenAIBatch: OpenAI batch JSON lines. Lines: a prompt a line.
    #[serde(default)]
    pub format: InputFormat,
    /// The requests themselves, one a line, for example `What is the capital of France?`; at most 128 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 131_072))]
    pub inline: Option<String>,
    /// A key of a ConfigMap in the job's namespace, for example `{name: prompts, key: input.jsonl}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapKeyRef>,
    /// An http or https URL that the operator can reach, for example `https://example.org/prompts.txt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), regex(pattern = r"^https?://[^\s]+$"))]
    pub url: Option<String>,
    /// An object in an S3 bucket, for example `{uri: "s3://prompts/today.jsonl", secretRef: {name: bucket}}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Ref>,
    /// sha256 of what url or s3 gives, 64 hexadecimal digits; needed with url. Other bytes are not used.
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
    /// Most tokens to write, for example `32`.
    #[serde(default = "max_tokens")]
    #[schemars(range(min = 1, max = 32_768))]
    pub max_tokens: i32,
    /// Decimal from 0 (always the likeliest token) to 2, for example `"0.7"`.
    #[serde(default = "one")]
    #[schemars(length(max = 8), regex(pattern = r"^([01](\.[0-9]{1,6})?|2(\.0{1,6})?)$"))]
    pub temperature: String,
    /// Decimal from 0 to 1: sample among the likeliest tokens that together have this probability, for example `"0.95"`.
    #[serde(default = "one")]
    #[schemars(length(max = 8), regex(pattern = r"^(0(\.[0-9]{1,6})?|1(\.0{1,6})?)$"))]
    pub top_p: String,
    /// Sample among this many likeliest tokens, for example `40`; 0 means all.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub top_k: i32,
    /// Decimal from 0 to 1: drop tokens less than this many times as likely as the likeliest, for example `"0.05"`; absent or 0
    /// drops none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), regex(pattern = r"^(0(\.[0-9]{1,6})?|1(\.0{1,6})?)$"))]
    pub min_p: Option<String>,
    /// Decimal from 0.1 to 10: divides positive and multiplies negative logits of all tokens of prompt and answer, for example `"1.1"`;
    /// absent or 1 is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8), regex(pattern = r"^(0\.[1-9][0-9]{0,5}|[1-9](\.[0-9]{1,6})?|10(\.0{1,5})?)$"))]
    pub repetition_penalty: Option<String>,
    /// Decimal from -2 to 2: taken from the logits of all tokens of the answer so far, for example `"0.5"`; absent or 0 is
    /// off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 9), regex(pattern = r"^-?([01](\.[0-9]{1,6})?|2(\.0{1,6})?)$"))]
    pub presence_penalty: Option<String>,
    /// Decimal from -2 to 2: taken from a token's logit once for each time that it is in the answer so far, for example `"0.2"`; absent
    /// or 0 is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 9), regex(pattern = r"^-?([01](\.[0-9]{1,6})?|2(\.0{1,6})?)$"))]
    pub frequency_penalty: Option<String>,
    /// What is added to the logits of tokens, for example `[{token: 198, bias: -100}]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["token".into()]))]
    pub logit_bias: Vec<LogitBiasSpec>,
    /// The client's contribution to the sampling seed, for example `7`: the same job gives the same answers with the same seed.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub seed: i64,
    /// Texts that end an answer and are not part of it, for example `["\\n\\n"]`.
    #[serde(default)]
    #[schemars(length(max = 4), inner(length(min = 1, max = 64)))]
    pub stop: Vec<String>,
    /// System message before the prompt of every line with format Lines and endpoint /v1/chat/completions, for example
    /// `You are a helpful assistant.`; lines of an OpenAI batch bring their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8192))]
    pub system_message: Option<String>,
    /// The form that every answer must have, for example `{jsonObject: {}}`; absent means any text. The model is not told of it: say in the
    /// prompt what you want. Only for endpoint /v1/chat/completions; a line of an OpenAI batch may ask for another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormatSpec>,
}

impl Default for GenerationSpec {
    fn default() -> Self {
        GenerationSpec {
            max_tokens: max_tokens(),
            temperature: one(),
            top_p: one(),
            top_k: 0,
            min_p: None,
            repetition_penalty: None,
            presence_penalty: None,
            frequency_penalty: None,
            logit_bias: Vec::new(),
            seed: 0,
            stop: Vec::new(),
            system_message: None,
            response_format: None,
        }
    }
}

fn max_tokens() -> i32 {
    256
}

fn one() -> String {
    "1".into()
}

/// Exactly one form of an answer. One that ends by itself has it; one that maxTokens cuts is a beginning of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.jsonObject), has(self.jsonSchema)].exists_one(given, given)").message("responseFormat must have exactly one of jsonObject, jsonSchema"))]
pub struct ResponseFormatSpec {
    /// Any JSON object, written `{}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json_object: Option<JsonObjectSpec>,
    /// JSON that fits this JSON Schema, itself given as JSON in a string of at most 16 KiB, for example `{"type": "array", "items":
    /// {"type": "integer"}, "maxItems": 3}`. A string, because answers have their properties in the order of the schema, which Kubernetes
    /// would not keep. It goes with every line and counts towards the size of the input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16_384))]
    pub json_schema: Option<String>,
}

/// Nothing to choose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JsonObjectSpec {}

/// What is added to the logit of one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogitBiasSpec {
    /// Id of the token in the model's vocabulary, for example `198`.
    #[schemars(range(min = 0))]
    pub token: i32,
    /// From -100, which in effect bans the token, to 100, which in effect forces it, for example `-100`.
    #[schemars(range(min = -100, max = 100))]
    pub bias: i32,
}

/// Exactly one place for results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.configMap), has(self.s3), has(self.store)].exists_one(given, given)").message("output must name exactly one place (configMap, s3 or store)"))]
pub struct OutputSpec {
    /// A ConfigMap in the job's namespace, made by the operator, for example `{name: hello-results}`. It holds at most about 1 MB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapRef>,
    /// A folder in an S3 bucket, for example `{uri: "s3://answers/today/", secretRef: {name: bucket}}`: parts named by their
    /// sha256, then `manifest.json`, which says that all of them are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Ref>,
    /// The gateway's own store, written `{}`: read with `kubectl grid results`, gone with the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreSpec>,
}

/// Nothing to choose yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreSpec {}

/// Where a job runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.target == 'Local' || !has(self.local)").message("placement.local is for target Local"),
    validation = Rule::new("self.target == 'Grid' || !(has(self.regions) || has(self.nodeSelector) || has(self.requireTrust))").message("placement.regions, nodeSelector and requireTrust are for target Grid; placement.local has what Kubernetes knows")
)]
pub struct Placement {
    /// Grid: on GridNodes, verified and paid. Local: in pods of the job's own namespace, without grid, gateway and chain.
    #[serde(default)]
    pub target: Target,
    /// Regions whose nodes may get the requests, for example `["eu-central"]`: the GridNode's label
    /// `topology.kubernetes.io/region`, or what its worker was started with. Empty means anywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub regions: Vec<String>,
    /// Labels that a GridNode must have to get the requests, for example `{tier: gold}`. Empty means any.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub node_selector: BTreeMap<String, String>,
    /// How far a node must be trusted to read the prompts, for example `Managed`. Absent means that of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_trust: Option<TrustLevel>,
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

/// Who may read prompts. Answers of all are verified alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TrustLevel {
    /// Machines that the network's admin approved and that passed their probation.
    Approved,
    /// Machines of the network's admin only.
    Managed,
}

/// Retries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrySpec {
    /// Tries of one request before it is a failure, for example `5`. A worker that refuses or a gateway that restarts uses up no try.
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

/// Checks of a job's answers, on top of what the network checks anyway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.mode != 'Full' || !has(self.samplePercent)").message("verification.mode Full computes every answer again; samplePercent is for mode SpotCheck"))]
pub struct JobVerification {
    /// SpotCheck: a random share of the answers is computed again. Full: every one is, which costs as much as the job itself.
    #[serde(default)]
    pub mode: VerificationMode,
    /// Lowest share of answers that is computed again, in percent, for example `10`; absent means the network's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub sample_percent: Option<i32>,
}

/// How answers are checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VerificationMode {
    #[default]
    SpotCheck,
    Full,
}

/// How a job is paid: from an escrow of its own in the network's GridJobEscrow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PaymentSpec {
    /// The most that the job may spend, in wei, for example `250000000000000000` (a quarter of an XDC). Once its verified answers
    /// cost that much it ends and keeps what is finished. At most what the escrow holds; the rest is the payer's again.
    #[schemars(length(max = 28), regex(pattern = r"^[1-9][0-9]{0,27}$"))]
    pub max_spend_wei: String,
    /// Id of the escrow, `0x` and 64 hexadecimal digits, as openJob returned it. The payer opens it with the salt
    /// keccak256("<namespace>/<name>") of this job, which is how it says that this job may spend it.
    #[serde(rename = "escrowID")]
    #[schemars(length(max = 66), regex(pattern = "^0x[0-9a-f]{64}$"))]
    pub escrow_id: String,
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
    /// The most useful reason why it is in this phase, a code of docs/reasons.md, for example `NoWorkerForModel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub reason: Option<String>,
    /// Requests done out of all, such as `37/100`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub progress: Option<String>,
    /// When the grid took the job, for example `2026-11-24T09:30:00Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub start_time: Option<Time>,
    /// When it ended, for example `2026-11-24T10:12:31Z`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub completion_time: Option<Time>,
    /// From start to end, for people, for example `42m31s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub duration: Option<String>,
    /// sha256 of the model that the name stood for when the job was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub model_digest: Option<String>,
    /// sha256 of the input's bytes, as it was read when the grid took the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub input_sha256: Option<String>,
    /// Counts of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<RequestCounts>,
    /// Input lines that were no usable request: they count as failed, are in errors.jsonl and were never sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_lines: Option<i64>,
    /// Counts of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenCounts>,
    /// Output tokens per second over the whole run, for example `812.5`.
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
    /// What a paid job has cost so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spend: Option<SpendStatus>,
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

/// What a job cost: its answers that were not rejected, at the price that its model had when the grid took the job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpendStatus {
    /// In wei, for example `120000000000000000`. Never more than spec.payment.maxSpendWei.
    #[schemars(length(max = 40))]
    pub spent_wei: String,
    /// The same in XDC, for people, for example `0.1200`.
    #[schemars(length(max = 40))]
    pub spent: String,
    /// What was taken from the escrow, in wei, once that is final; what the escrow held beyond it is the payer's again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    pub settled_wei: Option<String>,
}

/// Where results are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutputStatus {
    /// In one word, for people: `configmap/hello-results`, `s3://answers/today/` or `store`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1100))]
    pub place: String,
    /// Name of the ConfigMap, for example `hello-results`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub config_map: Option<String>,
    /// URI of the manifest in the bucket, for example `s3://answers/today/manifest.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1100))]
    pub s3: Option<String>,
    /// How to read it from the gateway's store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreStatus>,
    /// sha256 of results.jsonl, or of all its parts one after the other.
    #[schemars(length(max = 64))]
    pub results_sha256: String,
    /// sha256 of errors.jsonl, or of all its parts one after the other.
    #[schemars(length(max = 64))]
    pub errors_sha256: String,
    /// sha256 of manifest.json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub manifest_sha256: Option<String>,
    /// Files that results and errors are in, the manifest not counted, for example `2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parts: Option<i64>,
    /// Bytes of results and errors.
    pub bytes: i64,
}

/// How results are read from the gateway's store. Whoever may read the job may read its results, as with a ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// Path below the gateway's API, for example `/grid/v1/jobs/3f0c…/files/`.
    #[schemars(length(max = 256))]
    pub path: String,
    /// Goes with the request in the header `X-Grid-Read-Key`; good for this job's files only.
    #[schemars(length(max = 64))]
    pub read_key: String,
    /// Service of the gateway's API, as `namespace/name:port`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 320))]
    pub service: String,
}
