//! Command-line options of `grid-worker batch`, each with an environment fallback for pods.

use std::path::PathBuf;

use crate::{
    api::ids::ModelDigest,
    inference::KvType,
    protocol::shard::CARRIED_INPUT,
    worker::{device::DeviceChoice, options::Quantity},
};

/// `grid-worker batch`: answers one shard of a job and ends. Exit codes: 0 done, 1 failed, 3 shard unreadable, 4 model digest
/// mismatch, 5 model unusable, 6 model unreachable, 7 results not handed back, 143 stopped.
#[derive(Debug, Clone, clap::Args)]
#[command(group = clap::ArgGroup::new("place").args(["answers", "shard_config_maps", "shard_dir"]).required(true))]
pub struct BatchOptions {
    /// Uid of the job: request ids are derived from it.
    #[arg(long, env = "GRID_JOB_UID")]
    pub job_uid: String,
    /// Number of the shard, from 0; Kubernetes sets it for the pods of an Indexed Job.
    #[arg(long, env = "JOB_COMPLETION_INDEX")]
    pub index: u32,
    /// Where the model file comes from: https://…, http://…, or oci://… for a registry that is open to everybody.
    #[arg(long, env = "GRID_MODEL_URL")]
    pub model_url: String,
    /// sha256 of the model file, hexadecimal.
    #[arg(long, env = "GRID_MODEL_SHA256")]
    pub model_sha256: ModelDigest,
    /// Tokens of context; default: what the file says.
    #[arg(long, env = "GRID_CONTEXT_LENGTH")]
    pub context_length: Option<u32>,
    /// Jinja template of chats, in place of the model's own; at most 16 KiB.
    #[arg(long, env = "GRID_CHAT_TEMPLATE", hide_env_values = true, value_name = "JINJA")]
    pub chat_template: Option<String>,
    /// The input is in GRID_SHARD_INPUT; its answers become a ConfigMap of this name, in --namespace.
    #[arg(long, env = "GRID_ANSWERS", value_name = "NAME")]
    pub answers: Option<String>,
    /// With --answers: the input's lines in base64, at most 64 KiB before that.
    #[arg(long, env = CARRIED_INPUT, hide_env_values = true, value_name = "BASE64")]
    pub shard_input: Option<String>,
    /// With --answers: the Job that the ConfigMap goes with; --owner-uid is its uid.
    #[arg(long, env = "GRID_OWNER_JOB", value_name = "NAME")]
    pub owner_job: Option<String>,
    /// Uid of --owner-job.
    #[arg(long, env = "GRID_OWNER_UID", value_name = "UID")]
    pub owner_uid: Option<String>,
    /// Shards are ConfigMaps named PREFIX-shard-INDEX, in --namespace.
    #[arg(long, env = "GRID_SHARD_CONFIG_MAPS", value_name = "PREFIX")]
    pub shard_config_maps: Option<String>,
    /// Shards are files INDEX.input.jsonl in this folder; results are written beside them.
    #[arg(long, env = "GRID_SHARD_DIR", value_name = "FOLDER")]
    pub shard_dir: Option<PathBuf>,
    /// Namespace of the ConfigMaps.
    #[arg(long, env = "GRID_NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// URL of the API server; default: the one that Kubernetes names to every pod.
    #[arg(long, env = "GRID_API_SERVER")]
    pub api_server: Option<String>,
    /// Folder with `token` and `ca.crt` for the API server; read again for every request, because tokens rotate.
    #[arg(long, env = "GRID_CREDENTIALS_DIR", default_value = "/var/run/secrets/kubernetes.io/serviceaccount")]
    pub credentials_dir: PathBuf,
    /// Folder for model files. May be shared by several pods, and kept.
    #[arg(long, env = "GRID_DATA_DIR", default_value = "grid-data")]
    pub data_dir: PathBuf,
    /// What computes text models: auto (a CUDA device where there is one), cpu, cuda, cuda:1 …. A GPU is not exact to the bit.
    #[arg(long, env = "GRID_DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// Compute threads. Default: the CPU limit of this container, or the processor's count.
    #[arg(long, env = "GRID_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Requests generated at once.
    #[arg(long, env = "GRID_MAX_SEQUENCES", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub max_sequences: u16,
    /// Memory for the KV cache, in bytes or as 512Mi, 2Gi.
    #[arg(long, env = "GRID_KV_BUDGET", default_value = "512Mi")]
    pub kv_budget: Quantity,
    /// How the KV cache stores numbers: f32, or f16, which takes half the memory and gives slightly other answers.
    #[arg(long, env = "GRID_KV_TYPE", default_value = "f32")]
    pub kv_type: KvType,
    /// Largest model file that is taken, in bytes or as 8Gi.
    #[arg(long, env = "GRID_MAX_MODEL_SIZE", default_value = "64Gi")]
    pub max_model_size: Quantity,
    /// Tries of one request before it is a failure.
    #[arg(long, env = "GRID_MAX_ATTEMPTS", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=10))]
    pub max_attempts: u16,
    /// Seconds between two interim copies of the results.
    #[arg(long, env = "GRID_SAVE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub save_seconds: u16,
    /// Name of this machine, for the results.
    #[arg(long, env = "GRID_NODE_NAME", default_value = "local")]
    pub node_name: String,
    /// File for a last report, as Kubernetes' termination message.
    #[arg(long, env = "GRID_REPORT_FILE")]
    pub report_file: Option<PathBuf>,
}
