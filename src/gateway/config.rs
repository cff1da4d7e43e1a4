//! Command line and environment of `grid-gateway`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use crate::{download::FetchLimits, http::Bounds, telemetry::LogOptions, verify::gemm::GemmParams};

/// The gateway of an xdc-grid: takes inference requests, leases them to workers over libp2p, verifies and accounts for them.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "grid-gateway", version)]
pub struct Options {
    #[command(flatten)]
    pub log: LogOptions,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Run the gateway until it is told to stop.
    Run(Box<RunOptions>),
    /// Check the ledger and the blob store of a data directory, and print what is not as it must be.
    Fsck(FsckOptions),
    /// Print the peer id of a data directory's key, which is generated if there is none.
    PeerId(KeyOptions),
}

#[derive(Debug, Clone, clap::Args)]
pub struct KeyOptions {
    /// Where ledger, blobs and the generated key live.
    #[arg(long, env = "GRID_DATA_DIR")]
    pub data_dir: PathBuf,
    /// File with the gateway's secp256k1 key (64 hexadecimal digits). Default: `key` in the data directory, generated on the
    /// first start.
    #[arg(long, env = "GRID_KEY")]
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone, clap::Args)]
pub struct FsckOptions {
    /// Where ledger, blobs and the generated key live.
    #[arg(long, env = "GRID_DATA_DIR")]
    pub data_dir: PathBuf,
    /// Read every blob and compare its digest, too.
    #[arg(long)]
    pub deep: bool,
}

#[derive(Debug, Clone, clap::Args)]
pub struct RunOptions {
    #[command(flatten)]
    pub keys: KeyOptions,
    /// Multiaddresses to listen on for workers.
    #[arg(
        long,
        env = "GRID_P2P_LISTEN",
        value_delimiter = ',',
        default_value = "/ip4/0.0.0.0/tcp/4001,/ip4/0.0.0.0/udp/4001/quic-v1"
    )]
    pub p2p_listen: Vec<String>,
    /// Where the OpenAI API listens.
    #[arg(long, env = "GRID_HTTP_ADDRESS", default_value = "0.0.0.0:8080")]
    pub http_address: SocketAddr,
    /// Where the internal API listens (for the operator, with the token), beside health and metrics (without).
    #[arg(long, env = "GRID_INTERNAL_ADDRESS", default_value = "0.0.0.0:9090")]
    pub internal_address: SocketAddr,
    /// File with the token of the internal API.
    #[arg(long, env = "GRID_INTERNAL_TOKEN_FILE")]
    pub internal_token_file: PathBuf,
    /// Gives the statements of closed epochs to whoever reaches the public port: totals and receipts, hashes and counts and no text.
    /// Whoever can guess a prompt or an answer exactly can find its hash there.
    #[arg(long, env = "GRID_PUBLISH_STATEMENTS")]
    pub publish_statements: bool,
    /// File with the keys of the OpenAI API, one a line; without it the OpenAI API is open to whoever reaches it.
    #[arg(long, env = "GRID_API_KEY_FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Folder in which volumes with model files are mounted, each as a folder with the name of its claim. GridModels with source.pvc are
    /// read from there.
    #[arg(long, env = "GRID_MODEL_CLAIMS")]
    pub model_claims: Option<PathBuf>,
    #[command(flatten)]
    pub limits: LimitOptions,
}

#[derive(Debug, Clone, clap::Args)]
pub struct LimitOptions {
    /// Largest model file that is fetched, in bytes.
    #[arg(long, env = "GRID_MAX_BLOB_BYTES", default_value_t = 64 << 30)]
    pub max_blob_bytes: u64,
    /// Bytes that the results of all jobs with output `store` may take together.
    #[arg(long, env = "GRID_MAX_RESULTS_BYTES", default_value_t = 10 << 30)]
    pub max_results_bytes: u64,
    /// Seconds after which an audit that nobody could do is inconclusive.
    #[arg(long, env = "GRID_AUDIT_TIMEOUT", default_value_t = 120)]
    pub audit_timeout: u64,
    /// Replays that one Verify node does at once.
    #[arg(long, env = "GRID_AUDITS_PER_VERIFIER", default_value_t = 1)]
    pub audits_per_verifier: u32,
    /// Seconds after the end of an epoch before it can be closed.
    #[arg(long, env = "GRID_EPOCH_GRACE_SECONDS", default_value_t = 5)]
    pub epoch_grace_seconds: u64,
    /// Mean seconds between two storage challenges of one blob on one node.
    #[arg(long, env = "GRID_STORAGE_CHALLENGE_SECONDS", default_value_t = 60)]
    pub storage_challenge_seconds: u64,
    /// Mean seconds between two compute challenges of one node; every epoch has at least one.
    #[arg(long, env = "GRID_COMPUTE_CHALLENGE_SECONDS", default_value_t = 900)]
    pub compute_challenge_seconds: u64,
    /// Seconds without a new token after which a worker loses its lease, heartbeats or not.
    #[arg(long, env = "GRID_STALL_SECONDS", default_value_t = 300)]
    pub stall_seconds: u64,
    /// Seconds that a request of the OpenAI API waits for a free worker before it is answered 429.
    #[arg(long, env = "GRID_ONLINE_WAIT_SECONDS", default_value_t = 10)]
    pub online_wait_seconds: u64,
    /// Requests of the OpenAI API that may wait or run at once.
    #[arg(long, env = "GRID_ONLINE_QUEUE", default_value_t = 64)]
    pub online_queue: usize,
    /// HTTP connections at once, of the OpenAI API and of the internal one each; more wait.
    #[arg(long, env = "GRID_MAX_CONNECTIONS", default_value_t = 1024, value_parser = clap::value_parser!(u16).range(1..))]
    pub max_connections: u16,
    /// Seconds that an HTTP connection gets for a request's head, and may be idle. More than clients keep idle connections: these close first.
    #[arg(long, env = "GRID_HEADER_SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub header_seconds: u16,
    /// Seconds that a client may leave its answer unread, and one for each KiB that it takes meanwhile; beyond that its connection is closed.
    #[arg(long, env = "GRID_WRITE_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub write_seconds: u16,
    /// Most answer tokens of one request of the OpenAI API, and what one that names no limit gets.
    #[arg(long, env = "GRID_MAX_TOKENS", default_value_t = 512)]
    pub max_tokens: u32,
}

/// The bounds that the inside uses.
#[derive(Debug, Clone)]
pub struct Settings {
    pub fetch: FetchLimits,
    /// Where volumes with model files are mounted.
    pub model_claims: Option<PathBuf>,
    pub max_results_bytes: u64,
    pub audit_timeout: Duration,
    pub audits_per_verifier: u32,
    pub epoch_grace: Duration,
    pub storage_challenge: Duration,
    pub compute_challenge: Duration,
    /// Silence after which a lease is lost: three heartbeats, and slack for a loaded machine.
    pub heartbeat_limit: Duration,
    pub stall: Duration,
    pub online_wait: Duration,
    pub online_queue: usize,
    pub max_tokens: u32,
    /// Of each HTTP server.
    pub connections: Bounds,
    /// Whether strangers may read the statements of closed epochs.
    pub publish_statements: bool,
    /// Shape of a compute challenge.
    pub gemm: GemmParams,
    /// How often a connected worker is asked for its state, adverts or not.
    pub info_interval: Duration,
}

impl From<&LimitOptions> for Settings {
    fn from(options: &LimitOptions) -> Self {
        Settings {
            fetch: FetchLimits { max_bytes: options.max_blob_bytes, ..FetchLimits::default() },
            max_results_bytes: options.max_results_bytes,
            audit_timeout: Duration::from_secs(options.audit_timeout),
            audits_per_verifier: options.audits_per_verifier.max(1),
            epoch_grace: Duration::from_secs(options.epoch_grace_seconds),
            storage_challenge: Duration::from_secs(options.storage_challenge_seconds.max(1)),
            compute_challenge: Duration::from_secs(options.compute_challenge_seconds.max(1)),
            stall: Duration::from_secs(options.stall_seconds.max(1)),
            online_wait: Duration::from_secs(options.online_wait_seconds),
            online_queue: options.online_queue,
            max_tokens: options.max_tokens.max(1),
            connections: Bounds {
                most: options.max_connections.into(),
                header_time: Duration::from_secs(options.header_seconds.into()),
                write_time: Duration::from_secs(options.write_seconds.into()),
            },
            ..Settings::default()
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            fetch: FetchLimits::default(),
            model_claims: None,
            max_results_bytes: 10 << 30,
            audit_timeout: Duration::from_secs(120),
            audits_per_verifier: 1,
            epoch_grace: Duration::from_secs(5),
            storage_challenge: Duration::from_secs(60),
            compute_challenge: Duration::from_secs(900),
            heartbeat_limit: Duration::from_secs(4),
            stall: Duration::from_secs(300),
            online_wait: Duration::from_secs(10),
            online_queue: 64,
            max_tokens: 512,
            connections: Bounds {
                most: 1024,
                header_time: Duration::from_secs(120),
                write_time: Duration::from_secs(60),
            },
            publish_statements: false,
            gemm: GemmParams::CPU,
            info_interval: Duration::from_secs(5),
        }
    }
}
