//! `kubectl grid contract verify`: is what lies at an address the contract that this release was built with?

use std::io::Write;

use serde_json::json;

use super::{ChainArgs, chain};
use crate::{
    api::ids::NodeAddress,
    chain::{ChainRpc, bindings::GridComputingRewards, code::is_deployed_from},
    cli::{
        CliError, Exit,
        output::{self, Format},
    },
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl grid contract verify --rpc-url https://erpc.apothem.network --chain-id 51 --contract 0xADDRESS

The code hash that it prints is what spec.chain.codeHash of a GridNetwork pins.

Exit codes: 0 it is the contract of this release, 1 it is not, or error.")]
pub struct VerifyArgs {
    #[command(flatten)]
    pub chain: ChainArgs,
    /// Address of the contract.
    #[arg(long, value_name = "ADDRESS")]
    pub contract: NodeAddress,
    /// How to print the result; `name` is the code hash alone.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

pub async fn run(args: VerifyArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let endpoints = args.chain.endpoints()?;
    let code = endpoints.code(args.contract).await.map_err(chain)?;
    if code.is_empty() {
        let message = format!("there is no contract at {} on chain {}", args.contract, args.chain.chain_id);
        return Err(CliError::Chain(message));
    }
    let hash = alloy::primitives::keccak256(&code);
    let ours = is_deployed_from(&GridComputingRewards::BYTECODE, &code);
    let value = json!({
        "contract": args.contract,
        "chainID": args.chain.chain_id,
        "codeHash": hash,
        "codeBytes": code.len(),
        "thisRelease": ours,
        "release": env!("CARGO_PKG_VERSION"),
    });
    output::print(
        out,
        args.output,
        &value,
        || vec![hash.to_string()],
        |out| {
            writeln!(out, "contract    {} on chain {}", args.contract, args.chain.chain_id)?;
            writeln!(out, "code hash   {hash} ({} bytes)", code.len())?;
            let verdict = if ours { "the contract of this release" } else { "not the contract of this release" };
            writeln!(out, "it is       {verdict} ({})", env!("CARGO_PKG_VERSION"))?;
            Ok(())
        },
    )?;
    Ok(if ours { Exit::Done } else { Exit::Failed })
}
