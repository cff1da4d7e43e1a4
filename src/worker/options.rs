//! Command-line options of `grid-worker`, each with an environment fallback for pods.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use super::device::DeviceChoice;
use crate::{
    api::ids::NodeAddress,
    grid::Multiaddr,
    inference::KvType,
    protocol::{internal::NodeRole, names::NetworkId},
};

/// `grid-worker run`.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkerOptions {
    /// File with the node's secp256k1 key, as `grid-worker keygen` writes it.
    #[arg(long, env = "GRID_KEY_FILE")]
    pub key_file: PathBuf,
    /// A gateway's address, ending in /p2p/<peer id>. Repeat it, or separate several by commas.
    #[arg(long = "gateway", env = "GRID_GATEWAY", value_name = "MULTIADDR", value_delimiter = ',', required = true)]
    pub gateways: Vec<Multiaddr>,
    /// Chain id of the network's chain: 50 is XDC, 51 is Apothem.
    #[arg(long, env = "GRID_CHAIN_ID")]
    pub chain_id: u64,
    /// Address of the network's GridComputingRewards contract.
    #[arg(long, env = "GRID_CONTRACT")]
    pub contract: NodeAddress,
    /// The network's salt, when it has one.
    #[arg(long, env = "GRID_NETWORK_SALT", default_value = "")]
    pub network_salt: String,
    /// Folder for model files and receipts; kept over restarts.
    #[arg(long, env = "GRID_DATA_DIR", default_value = "grid-data")]
    pub data_dir: PathBuf,
    /// Where /health, /ready and /metrics are served.
    #[arg(long, env = "GRID_HTTP_ADDRESS", default_value = "127.0.0.1:9090")]
    pub http_address: SocketAddr,
    /// What computes text models: auto (a CUDA device where there is one), cpu, cuda, cuda:1 …. A GPU is not exact to the bit.
    #[arg(long, env = "GRID_DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// Compute threads. Default: the CPU limit of this container, or the processor's count.
    #[arg(long, env = "GRID_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Requests generated at once.
    #[arg(long, env = "GRID_MAX_SEQUENCES", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub max_sequences: u16,
    /// Memory for the KV cache of each model, in bytes or as 512Mi, 2Gi.
    #[arg(long, env = "GRID_KV_BUDGET", default_value = "512Mi")]
    pub kv_budget: Quantity,
    /// How the KV cache stores numbers: f32, or f16 in half the memory. Answers differ, so in a grid only nodes of the same type audit one another.
    #[arg(long, env = "GRID_KV_TYPE", default_value = "f32")]
    pub kv_type: KvType,
    /// Where this machine is, for placement: eu-west, say.
    #[arg(long, env = "GRID_REGION", default_value = "")]
    pub region: String,
    /// What accelerates it, for people: "NVIDIA L4 24GB". Repeatable.
    #[arg(long = "accelerator", env = "GRID_ACCELERATOR", value_delimiter = ',')]
    pub accelerators: Vec<String>,
    /// What this machine is willing to do. The network decides what it is asked to do.
    #[arg(
        long,
        env = "GRID_ROLES",
        value_delimiter = ',',
        value_parser = parse_role,
        default_values = ["Compute", "Verify", "Storage"]
    )]
    pub roles: Vec<NodeRole>,
    /// Largest model file that it accepts, in bytes or as 8Gi.
    #[arg(long, env = "GRID_MAX_MODEL_SIZE", default_value = "64Gi")]
    pub max_model_size: Quantity,
    /// Seconds that running requests get to finish when the worker is asked to stop.
    #[arg(long, env = "GRID_DRAIN_SECONDS", default_value_t = 25)]
    pub drain_seconds: u64,
}

impl WorkerOptions {
    pub fn network(&self) -> NetworkId {
        NetworkId { chain_id: self.chain_id, contract: self.contract, salt: self.network_salt.clone() }
    }

    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

/// `grid-worker keygen`.
#[derive(Debug, Clone, clap::Args)]
pub struct KeygenOptions {
    /// File to write the new key to. It must not exist; only its owner may read it.
    #[arg(long)]
    pub out: PathBuf,
}

fn parse_role(text: &str) -> Result<NodeRole, String> {
    match text {
        "Compute" => Ok(NodeRole::Compute),
        "Verify" => Ok(NodeRole::Verify),
        "Storage" => Ok(NodeRole::Storage),
        other => Err(format!("{other:?} is not one of Compute, Verify, Storage")),
    }
}

/// A number of bytes: plain, or with a binary suffix as Kubernetes writes them (Ki, Mi, Gi, Ti).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantity(pub u64);

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
        let shift = match text.get(digits.len()..).unwrap_or_default() {
            "" => 0,
            "Ki" => 10,
            "Mi" => 20,
            "Gi" => 30,
            "Ti" => 40,
            _ => return Err(format!("{text:?}: use bytes, or a number with Ki, Mi, Gi or Ti")),
        };
        let number: u64 = digits.parse().map_err(|_| format!("{text:?} is not a whole number of bytes"))?;
        number.checked_mul(1 << shift).map(Quantity).ok_or_else(|| format!("{text:?} is too large"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_kubernetes_writes_them() {
        assert_eq!("4096".parse(), Ok(Quantity(4096)));
        assert_eq!("512Mi".parse(), Ok(Quantity(512 << 20)));
        for bad in ["", "Mi", "1.5Gi", "-1", "10G", "99999999999Ti"] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
    }
}
