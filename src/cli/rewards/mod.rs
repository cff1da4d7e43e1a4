//! `kubectl grid rewards`: what nodes earned, and taking it out.
//!
//! The ContributionReports say which roots there are and where their leaves are; the contract says which root is live and what was
//! paid. Nothing is believed that does not hash to the contract's root.

mod claim;
mod entitlement;
mod ledger;
mod show;

use std::io::Write;

use super::{CliError, Exit, session::Session};

pub use claim::ClaimArgs;
pub use show::ShowArgs;

#[derive(Debug, clap::Subcommand)]
pub enum RewardsCommand {
    /// Shows what nodes earned, what was paid and what can be claimed now.
    Show(ShowArgs),
    /// Pays a node's earnings to its payout address. Whoever sends it pays the gas only.
    Claim(ClaimArgs),
}

/// Flags of both: where the operator keeps leaves, and which endpoints to ask.
#[derive(Debug, Clone, clap::Args)]
pub struct SourceOptions {
    /// GridNetwork to look at (default: that of the node, or all).
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// RPC endpoint to ask instead of those of the GridNetwork; may be given several times.
    #[arg(long, value_name = "URL")]
    pub rpc_url: Vec<String>,
    /// Namespace of the operator, where the leaves of reports are.
    #[arg(long, value_name = "NAME", env = "GRID_NAMESPACE", default_value = "xdc-grid")]
    pub grid_namespace: String,
}

pub async fn run(session: &Session, command: RewardsCommand, out: &mut dyn Write) -> Result<Exit, CliError> {
    match command {
        RewardsCommand::Show(args) => show::run(session, &args, out).await,
        RewardsCommand::Claim(args) => claim::run(session, &args, out).await,
    }
}

fn chain_error(error: impl std::fmt::Display) -> CliError {
    CliError::Chain(error.to_string())
}
