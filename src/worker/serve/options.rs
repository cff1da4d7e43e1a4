//! Command-line options of `grid-worker serve`, each with an environment fallback for pods.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{
    inference::KvType,
    worker::{device::DeviceChoice, options::Quantity, source::ModelOptions},
};

/// `grid-worker serve`: an OpenAI server for one model, on its own.
#[derive(Debug, Clone, clap::Args)]
pub struct ServeOptions {
    #[command(flatten)]
    pub source: ModelOptions,
    /// Where the API, /health, /ready and /metrics are served.
    #[arg(long, env = "GRID_LISTEN", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,
    /// What requests call the model. Default: its file's name.
    #[arg(long, env = "GRID_MODEL_NAME")]
    pub model_name: Option<String>,
    /// A key that clients must send as a bearer token. Others on this machine can see it here; better in the environment or a file.
    #[arg(long, env = "GRID_API_KEY", hide_env_values = true, conflicts_with = "api_key_file")]
    pub api_key: Option<String>,
    /// File with such keys, one a line.
    #[arg(long, env = "GRID_API_KEY_FILE")]
    pub api_key_file: Option<PathBuf>,
    /// What computes text models: auto (a CUDA device where there is one), cpu, cuda, cuda:1 …. A GPU is not exact to the bit.
    #[arg(long, env = "GRID_DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// Compute threads. Default: the CPU limit of this container, or the processor's count.
    #[arg(long, env = "GRID_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Tokens of context; default: what the file says.
    #[arg(long, env = "GRID_CONTEXT_LENGTH", value_parser = clap::value_parser!(u32).range(1..))]
    pub context_length: Option<u32>,
    /// Answers generated at once.
    #[arg(long, env = "GRID_MAX_SEQUENCES", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub max_sequences: u16,
    /// Answers that wait for their turn; beyond that a request is refused with 429.
    #[arg(long, env = "GRID_MAX_QUEUE", default_value_t = 32, value_parser = clap::value_parser!(u16).range(0..=4096))]
    pub max_queue: u16,
    /// Memory for the KV cache, in bytes or as 512Mi, 2Gi.
    #[arg(long, env = "GRID_KV_BUDGET", default_value = "512Mi")]
    pub kv_budget: Quantity,
    /// How the KV cache stores numbers: f32, or f16 in half the memory. Answers differ.
    #[arg(long, env = "GRID_KV_TYPE", default_value = "f32")]
    pub kv_type: KvType,
    /// Largest answer, in tokens. Default: the context.
    #[arg(long, env = "GRID_MAX_TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// Tokens of an answer whose request names no limit: room for all of them is kept from the start.
    #[arg(long, env = "GRID_DEFAULT_TOKENS", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub default_tokens: u32,
    /// Largest body of a request, in bytes or as 1Mi; beyond that 413.
    #[arg(long, env = "GRID_MAX_BODY", default_value = "1Mi")]
    pub max_body: Quantity,
    /// Open connections; more wait until one closes.
    #[arg(long, env = "GRID_MAX_CONNECTIONS", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    pub max_connections: u16,
    /// Seconds that a connection gets for a request's head, and may be idle.
    #[arg(long, env = "GRID_HEADER_SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub header_seconds: u16,
    /// Seconds that a request's body gets to arrive; beyond that 408.
    #[arg(long, env = "GRID_BODY_SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub body_seconds: u16,
    /// Seconds that a client may leave its answer unread, and one for each KiB that it takes meanwhile; beyond that its connection is closed.
    #[arg(long, env = "GRID_WRITE_SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub write_seconds: u16,
    /// Seconds that a request may take in all; beyond that 408.
    #[arg(long, env = "GRID_REQUEST_SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub request_seconds: u32,
    /// Seconds that running requests get to finish when the server is asked to stop.
    #[arg(long, env = "GRID_DRAIN_SECONDS", default_value_t = 25, value_parser = clap::value_parser!(u32).range(0..=86400))]
    pub drain_seconds: u32,
}

/// Bounds of a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub max_tokens: Option<u32>,
    pub default_tokens: u32,
    /// Answers that may run or wait.
    pub places: u32,
    pub max_body: usize,
    pub max_connections: usize,
    pub header_time: Duration,
    pub body_time: Duration,
    pub write_time: Duration,
    pub request_time: Duration,
}

impl ServeOptions {
    pub(super) fn limits(&self) -> Limits {
        Limits {
            max_tokens: self.max_tokens,
            default_tokens: self.default_tokens,
            places: u32::from(self.max_sequences) + u32::from(self.max_queue),
            max_body: usize::try_from(self.max_body.0).unwrap_or(usize::MAX),
            max_connections: self.max_connections.into(),
            header_time: Duration::from_secs(self.header_seconds.into()),
            body_time: Duration::from_secs(self.body_seconds.into()),
            write_time: Duration::from_secs(self.write_seconds.into()),
            request_time: Duration::from_secs(self.request_seconds.into()),
        }
    }
}
