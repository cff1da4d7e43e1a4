//! Options of `grid-operator run`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::dial::Denied;

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
    /// Reads Kueue's Workloads and LocalQueues, so that a Local job in a queue says what it waits for. Needs Kueue and the right to
    /// read them in the namespaces of the jobs.
    #[arg(long, env = "GRID_KUEUE", requires = "local_jobs")]
    pub kueue: bool,
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
    /// Objects of one kind that are reconciled at once. Most of a reconcile is waiting for an answer.
    #[arg(long, env = "GRID_CONCURRENCY", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub concurrency: u16,
    /// Contribution reports that are kept once they are active.
    #[arg(long, env = "GRID_KEEP_REPORTS", default_value_t = 50, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    pub keep_reports: u32,
    /// Seconds after which a job that ended is deleted, when the job itself says nothing; 0 keeps such jobs for ever.
    #[arg(long, env = "GRID_JOB_TTL_SECONDS", default_value_t = 604_800, value_parser = clap::value_parser!(u32).range(0..=31_536_000))]
    pub job_ttl_seconds: u32,
    /// Networks that inputs and outputs of jobs may not lie in, separated by commas; `none` for no network. The default keeps
    /// jobs from the cloud's metadata service and from the operator's own pod.
    #[arg(
        long,
        env = "GRID_JOB_DENIED_NETWORKS",
        default_value = "0.0.0.0/8,127.0.0.0/8,169.254.0.0/16,::/127,fe80::/10,fd00:ec2::254/128"
    )]
    pub job_denied_networks: Denied,
    /// ClusterRole that lets the operator read the Secrets of a namespace where an admin binds it. Jobs name it in the command
    /// that they print.
    #[arg(long, env = "GRID_JOB_SECRETS_ROLE", default_value = "xdc-grid-job-secrets")]
    pub job_secrets_role: String,
    /// ServiceAccount that the operator runs as, in its namespace.
    #[arg(long, env = "GRID_SERVICE_ACCOUNT", default_value = "xdc-grid-operator")]
    pub service_account: String,
    /// Service of the gateway's public API as namespace/name:port, which jobs with output `store` name to their readers.
    #[arg(long, env = "GRID_RESULTS_SERVICE", default_value = "")]
    pub results_service: String,
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

    /// How long a job that ended is kept when it says nothing; `None` for ever.
    pub fn job_ttl(&self) -> Option<i64> {
        (self.job_ttl_seconds > 0).then_some(self.job_ttl_seconds.into())
    }

    pub fn chain_poll(&self) -> Duration {
        Duration::from_secs(self.chain_poll_seconds.into())
    }
}
