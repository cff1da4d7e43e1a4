//! The reward contract for people who run it: deploy it, compare its code, look at its state. `kubectl grid contract …` and
//! `grid-operator deploy|verify-contract|status` are the same commands. Nothing here needs a cluster.

pub mod deploy;
pub mod status;
pub mod verify;

use std::io::Write;

use super::{CliError, Exit};
use crate::{
    api::ids::NodeAddress,
    chain::{ChainClient, http::HttpEndpoints},
};

pub use deploy::{DeployArgs, parse_xdc};
pub use status::StatusArgs;
pub use verify::VerifyArgs;

// One of these, once.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, clap::Subcommand)]
pub enum ContractCommand {
    /// Deploys GridComputingRewards; the account of the admin key pays and becomes its admin.
    Deploy(DeployArgs),
    /// Compares the code at an address with the contract of this release.
    Verify(VerifyArgs),
    /// Shows what the contract holds, which epoch is reported, and whether its reporter can go on.
    Status(StatusArgs),
}

/// Which chain.
#[derive(Debug, Clone, clap::Args)]
pub struct ChainArgs {
    /// RPC endpoint; may be given several times, for several endpoints of one chain.
    #[arg(long, required = true, value_name = "URL")]
    pub rpc_url: Vec<String>,
    /// Chain that the endpoints must serve: 50 XDC, 51 Apothem.
    #[arg(long)]
    pub chain_id: u64,
}

impl ChainArgs {
    fn endpoints(&self) -> Result<HttpEndpoints, CliError> {
        HttpEndpoints::new(&self.rpc_url, self.chain_id).map_err(chain)
    }

    async fn client(&self, contract: NodeAddress) -> Result<ChainClient, CliError> {
        ChainClient::connect(&self.rpc_url, self.chain_id, contract).await.map_err(chain)
    }
}

pub async fn run(command: ContractCommand, out: &mut dyn Write) -> Result<Exit, CliError> {
    match command {
        ContractCommand::Deploy(args) => deploy::run(args, out).await,
        ContractCommand::Verify(args) => verify::run(args, out).await,
        ContractCommand::Status(args) => status::run(args, out).await,
    }
}

fn chain(error: impl std::fmt::Display) -> CliError {
    CliError::Chain(error.to_string())
}
