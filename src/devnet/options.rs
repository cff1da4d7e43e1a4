//! The command line.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use super::rules::answers::AddressForm;

/// What a person wants to try first.
pub const EXAMPLES: &str = r#"Examples:
  xdc-devnet                                      a chain on 127.0.0.1:8545, a block every 2 s
  xdc-devnet --listen 127.0.0.1:0 --block-time 0  any free port; blocks on request only
  xdc-devnet --state chain.json                   goes on where it was stopped

  curl localhost:8545/devnet/faults -d '{"kind": "drop", "methods": ["eth_sendRawTransaction"], "count": 1}'
  curl localhost:8545/devnet/faults               which faults there are and how often each struck
  curl localhost:8545/devnet/faults -X DELETE     none any more
  curl localhost:8545/devnet/mine -d '{"blocks": 3}'
  curl localhost:8545/devnet/reorg -d '{"depth": 2}'

docs/xdc-devnet.md says what is played, what is not, and lists every fault."#;

/// How the chain is started.
#[derive(Debug, Clone, clap::Args)]
pub struct DevnetOptions {
    /// Address for JSON-RPC and for the faults; port 0 takes any free one and prints it.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8545")]
    pub listen: SocketAddr,
    /// Seconds between blocks, as on XDC; 0 makes them on request only (POST /devnet/mine, anvil_mine).
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=3_600))]
    pub block_time: u64,
    /// 51 is XDC's test network, 50 its main network.
    #[arg(long, default_value_t = 51)]
    pub chain_id: u64,
    /// How many accounts are given 10,000 XDC and printed with their keys, which everybody knows.
    #[arg(long, value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub accounts: u64,
    /// Anvil's program; looked for on the PATH when it is a bare name.
    #[arg(long, env = "ANVIL", value_name = "PATH", default_value = "anvil")]
    pub anvil: PathBuf,
    /// Port for anvil on 127.0.0.1; 0 takes any free one.
    #[arg(long, value_name = "PORT", default_value_t = 0, conflicts_with = "upstream")]
    pub anvil_port: u16,
    /// File from which the chain is read, if it exists, and to which it is written at the end.
    #[arg(long, value_name = "FILE", conflicts_with = "upstream")]
    pub state: Option<PathBuf>,
    /// Sit in front of an anvil that runs already, and make its blocks. It needs --hardfork cancun.
    #[arg(long, value_name = "URL")]
    pub upstream: Option<String>,
    /// Answer with xdc… addresses, like XDC nodes with their prefix flag. Most libraries cannot read them. Both forms are always understood.
    #[arg(long)]
    pub xdc_addresses: bool,
}

impl Default for DevnetOptions {
    /// Any free port, blocks on request only: what a test wants.
    fn default() -> Self {
        DevnetOptions {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            block_time: 0,
            chain_id: 51,
            accounts: 10,
            anvil: PathBuf::from("anvil"),
            anvil_port: 0,
            state: None,
            upstream: None,
            xdc_addresses: false,
        }
    }
}

impl DevnetOptions {
    pub(super) fn address_form(&self) -> AddressForm {
        if self.xdc_addresses { AddressForm::Xdc } else { AddressForm::Hex }
    }
}
