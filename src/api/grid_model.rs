//! GridModel: a model file under a name, known by its sha256.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{conditions::Condition, refs::NameRef};

/// Condition types of a GridModel.
pub mod condition {
    /// The gateway has the file and its digest is right.
    pub const RESOLVED: &str = "Resolved";
    /// As many storage nodes as asked for hold it and proved it.
    pub const REPLICATED: &str = "Replicated";
    /// At least one worker can serve it.
    pub const READY: &str = "Ready";
}

/// What an admin says about a model.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "xdcgrid.io",
    version = "v1alpha1",
    kind = "GridModel",
    plural = "gridmodels",
    status = "GridModelStatus",
    shortname = "gm",
    category = "grid",
    derive = "PartialEq",
    doc = "A model that the grid serves. Names are for people: everything inside goes by the sha256 of the file.",
    printcolumn(name = "READY", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "REASON", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#),
    printcolumn(name = "SIZE", type_ = "string", json_path = ".status.size"),
    printcolumn(name = "SERVING", type_ = "integer", json_path = ".status.serving"),
    printcolumn(name = "COPIES", type_ = "string", json_path = ".status.copies"),
    printcolumn(name = "FORMAT", type_ = "string", json_path = ".spec.format"),
    printcolumn(name = "SHA256", type_ = "string", json_path = ".spec.sha256", priority = "1"),
    printcolumn(name = "LICENSE", type_ = "string", json_path = ".spec.license", priority = "1"),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.format != 'Safetensors' || !has(self.tokenizer)").message("an encoder has no chats: tokenizer.chatTemplate is for GGUF and SafetensorsDecoder"))]
#[x_kube(validation = Rule::new("self.sha256 == oldSelf.sha256 && self.format == oldSelf.format").message("sha256 and format are what a model is and never change; make a new GridModel"))]
pub struct GridModelSpec {
    /// Where the file comes from. May change: the digest says whether it is the right file.
    pub source: ModelSourceSpec,
    /// sha256 of the file, 64 lower-case hexadecimal digits.
    #[schemars(length(max = 64), regex(pattern = "^[0-9a-f]{64}$"))]
    pub sha256: String,
    /// Format of the file, and with it what the model serves: `GGUF` (a decoder; chat and completions), `Safetensors` (a BERT
    /// encoder as a tar of config.json, tokenizer.json and model.safetensors; embeddings) or `SafetensorsDecoder` (a decoder as
    /// such a tar; chat and completions).
    #[serde(default)]
    pub format: ModelFormat,
    /// What stands in for parts of the file's own tokenizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<ModelTokenizer>,
    /// Tokens of context to serve; absent means what the file says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub context_length: Option<i32>,
    /// Reward units per token; absent means one per started megabyte of a GGUF file, because decoding reads every weight
    /// once per token, one per started four megabytes of a Safetensors encoder, whose weights have four bytes, and one per started two
    /// of a Safetensors decoder, whose weights have two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub cost_per_token: Option<i64>,
    /// What users pay for its tokens; absent means that it is free. A job keeps the price that it was taken with. May change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<ModelPrice>,
    /// SPDX identifier of the model's license.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub license: Option<String>,
    /// How many storage nodes must hold the file and prove it.
    #[serde(default)]
    #[schemars(range(min = 0, max = 64))]
    pub replicas: i32,
}

/// What stands in for parts of the tokenizer in the file. Its vocabulary is the file's: the weights are for no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelTokenizer {
    /// Jinja template that makes a prompt of a chat, as Hugging Face's, in place of the file's own: where that is wrong, or there is none. Sees
    /// `messages`, `bos_token`, `eos_token` and `add_generation_prompt`. May change; a request keeps the one that it was taken with. For example
    /// `{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16_384))]
    pub chat_template: Option<String>,
}

/// Prices, in wei for a million tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelPrice {
    /// For a million tokens read, for example `50000000000000000` (0.05 XDC).
    #[schemars(length(max = 24), regex(pattern = r"^(0|[1-9][0-9]{0,23})$"))]
    pub prompt_wei_per_million_tokens: String,
    /// For a million tokens written, for example `400000000000000000` (0.4 XDC). Embeddings write none.
    #[schemars(length(max = 24), regex(pattern = r"^(0|[1-9][0-9]{0,23})$"))]
    pub output_wei_per_million_tokens: String,
}

/// Exactly one place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.url), has(self.s3), has(self.oci), has(self.pvc), has(self.blob)].exists_one(given, given)").message("source must name exactly one place: url, s3, oci, pvc or blob"))]
pub struct ModelSourceSpec {
    /// An http or https URL that the gateway can reach and that is open to it, for example
    /// `https://models.example.org/smollm2-135m.gguf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), regex(pattern = r"^https?://[^\s]+$"))]
    pub url: Option<String>,
    /// An object of an S3 bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<ModelObject>,
    /// A layer of an artifact in an OCI registry: the one whose digest is spec.sha256, as `oras push` and others store a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oci: Option<ModelRepository>,
    /// A file on a volume that the gateway mounts (chart value `gateway.modelClaims`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc: Option<ModelVolume>,
    /// The grid itself: the nodes that list the model and still hold its file, storage nodes first. For a model whose first source is gone,
    /// or a gateway that lost its volume. Write `blob: {}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blob: Option<ModelBlob>,
}

/// An object of an S3 bucket. The operator signs a URL for it; the gateway never has the credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelObject {
    /// Bucket and key, for example `s3://models/gguf/smollm2-135m.gguf`.
    #[schemars(length(max = 1024), regex(pattern = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s?#]*)?$"))]
    pub uri: String,
    /// Where the S3 API is, for example `http://seaweedfs.storage.svc:8333`; absent means Amazon's. The gateway must reach it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^\s/?#@]+/?$"))]
    pub endpoint: Option<String>,
    /// Region that requests are signed for, for example `eu-central-1`.
    #[serde(default = "super::refs::region")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9-]+$"))]
    pub region: String,
    /// Secret in the operator's namespace with the keys `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, where there is one,
    /// `AWS_SESSION_TOKEN`; absent means that everybody may read the object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<NameRef>,
}

/// A repository of an OCI registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelRepository {
    /// Registry and path, without a tag or digest, for example `ghcr.io/you/models/smollm2`.
    #[schemars(length(max = 511), regex(pattern = r"^[A-Za-z0-9.:\[\]-]+(/[a-z0-9]+([._-]+[a-z0-9]+)*)+$"))]
    pub repository: String,
    /// The registry speaks HTTP without TLS. For registries inside the cluster.
    #[serde(default, rename = "plainHTTP")]
    pub plain_http: bool,
    /// Secret of type `kubernetes.io/dockerconfigjson` in the operator's namespace; absent means that everybody may pull.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<NameRef>,
}

/// A file on a PersistentVolumeClaim in the gateway's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelVolume {
    /// Name of the claim, for example `model-files`.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub claim_name: String,
    /// Path of the file on the volume, for example `gguf/smollm2-135m.gguf`.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[^\s/][^\s]*$"))]
    #[x_kube(validation = Rule::new("!self.split('/').exists(part, part in ['', '.', '..'])").message("path must stay on the volume: no empty parts, no . and no .."))]
    pub path: String,
}

/// Nothing more to say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelBlob {}

/// Formats that workers can read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ModelFormat {
    /// A decoder of the llama family in one GGUF file. Serves /v1/chat/completions and /v1/completions.
    #[default]
    #[serde(rename = "GGUF")]
    Gguf,
    /// A BERT encoder: a tar with config.json, tokenizer.json and model.safetensors at its top. Serves /v1/embeddings.
    Safetensors,
    /// A decoder of the llama family as it was published: a tar with config.json, tokenizer.json, tokenizer_config.json and model.safetensors
    /// (or its parts) at its top. Serves /v1/chat/completions and /v1/completions.
    SafetensorsDecoder,
}

/// What the gateway reports.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct GridModelStatus {
    /// Generation of the spec that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Size of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<i64>,
    /// The size for people, such as `138 MiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub size: Option<String>,
    /// Workers that can serve it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<i64>,
    /// Proven copies out of those asked for, such as `2/3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub copies: Option<String>,
    /// Resolved, Replicated, Ready.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
