//! Options of `grid-operator run`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Checked once at start, then passed on; never a global.
#[derive(Debug, Clone, clap::Args)]
pub struct OperatorConfig {
    /// Namespace of the operator itself: Secrets, workers and leaves live here.
    #[arg(long, env = "GRID_NAMESPACE", default_value = "xdc-grid")]
    pub namespace: String,
    /// Internal API of the gateway.
    #[arg(long, env = "GRID_GATEWAY_URL", default_value = "http://xdc-grid-gateway:8081")]
    pub gateway_url: String,
    /// File with the bearer token of the gateway's internal API. Read again for every request: Secrets rotate.
    #[arg(long, env = "GRID_GATEWAY_TOKEN_FILE")]
    pub gateway_token_file: Option<PathBuf>,
    /// What workers in this cluster dial, without the peer id.
    #[arg(long, env = "GRID_GATEWAY_MULTIADDR", default_value = "/dns4/xdc-grid-gateway/tcp/4001")]
    pub gateway_multiaddr: String,
    /// Image of the workers of Managed nodes.
    #[arg(long, env = "GRID_WORKER_IMAGE")]
    pub worker_image: String,
    /// Runs InferenceJobs with target Local: needs the right to create Jobs in the namespaces of the jobs.
    #[arg(long, env = "GRID_LOCAL_JOBS")]
    pub local_jobs: bool,
    /// When that image is pulled.
    #[arg(long, env = "GRID_WORKER_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    pub worker_image_pull_policy: String,
    /// Lease that makes this process the only one that writes.
    #[arg(long, env = "GRID_LEASE_NAME", default_value = "xdc-grid-operator")]
    pub lease_name: String,
    /// Who holds the lease; the pod's name.
    #[arg(long, env = "POD_NAME", default_value = "grid-operator")]
    pub identity: String,
    /// A holder that has not renewed for this long has lost the lease.
    #[arg(long, env = "GRID_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..=120))]
    pub lease_seconds: u32,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "GRID_HTTP_ADDRESS", default_value = "0.0.0.0:8080")]
    pub http_address: SocketAddr,
    /// Objects of one kind that are reconciled at once.
    #[arg(long, env = "GRID_CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub concurrency: u16,
    /// Contribution reports that are kept once they are active.
    #[arg(long, env = "GRID_KEEP_REPORTS", default_value_t = 50, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub keep_reports: u32,
    /// How often the chain is asked while something is on its way there.
    #[arg(long, env = "GRID_CHAIN_POLL_SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub chain_poll_seconds: u32,
    /// Test hook: the process exits with code 70 right after it wrote down that a report reached this state. For crash
    /// tests only; a production operator that has it set never reports anything past that state.
    #[arg(long, env = "GRID_CRASH_AFTER", value_enum)]
    pub crash_after: Option<CrashAfter>,
}

/// States of a report after which a test lets the operator crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum CrashAfter {
    Planned,
    Signed,
    Sent,
    Included,
    Finalized,
}

impl OperatorConfig {
    pub fn lease_duration(&self) -> Duration {
        Duration::from_secs(self.lease_seconds.into())
    }

    pub fn chain_poll(&self) -> Duration {
        Duration::from_secs(self.chain_poll_seconds.into())
    }
}
