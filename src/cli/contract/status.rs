//! `kubectl grid contract status`: the contract's money and epochs, and whether a reporter can go on.

use std::io::Write;

use serde_json::json;

use super::{ChainArgs, chain};
use crate::{
    api::ids::{NodeAddress, Wei},
    chain::{
        At, BlockRef, ChainClient, ChainError, ContractParameters,
        rewards::{EpochState, PendingEpoch},
        slashing::Slashing,
    },
    cli::{
        CliError, Exit,
        output::{self, Format},
    },
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl grid contract status --rpc-url https://erpc.apothem.network --chain-id 51 --contract 0xADDRESS
  # Whether an account can report, and for how long its balance lasts
  kubectl grid contract status --rpc-url https://erpc.apothem.network --chain-id 51 --contract 0xADDRESS --reporter 0xADDRESS

Exit codes: 0 done, 1 error.")]
pub struct StatusArgs {
    #[command(flatten)]
    pub chain: ChainArgs,
    /// Address of the contract.
    #[arg(long, value_name = "ADDRESS")]
    pub contract: NodeAddress,
    /// Account to ask about: its role and its balance.
    #[arg(long, value_name = "ADDRESS")]
    pub reporter: Option<NodeAddress>,
    /// How to print it; amounts in `json` and `yaml` are in wei. `name` is the number of the next epoch alone.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// One reading.
struct Facts {
    head: BlockRef,
    last: BlockRef,
    parameters: ContractParameters,
    epochs: EpochState,
    capability: (u128, u128),
    /// Reporters that must agree, and all there are.
    quorum: (usize, Vec<NodeAddress>),
    /// The slashing that the contract is bound to, and how many cases there were.
    slashing: Option<(NodeAddress, u64)>,
    /// Whether it has the role, and what it holds.
    reporter: Option<(NodeAddress, bool, Wei)>,
}

pub async fn run(args: StatusArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let client = args.chain.client(args.contract).await?;
    let facts = read(&client, args.reporter).await.map_err(chain)?;
    let now = facts.head.timestamp;
    let state = &facts.epochs;
    let overdue = facts.parameters.epoch_at(now).map_or(0, |epoch| epoch.0.saturating_sub(state.next_epoch.0));
    let value = json!({
        "contract": args.contract,
        "chainID": args.chain.chain_id,
        "head": facts.head.number,
        "final": facts.last.number,
        "epochSeconds": facts.parameters.epoch_seconds,
        "nextEpoch": state.next_epoch,
        "overdueEpochs": overdue,
        "pending": state.pending,
        "liveRoot": state.live_root,
        "liveTotalWei": state.live_total,
        "claimedTotalWei": state.claimed_total,
        "rewardPoolWei": state.reward_pool,
        "stakeTotalWei": state.stake_total,
        "computingPower": facts.capability.0.to_string(),
        "storageGib": facts.capability.1.to_string(),
        "quorum": facts.quorum.0,
        "reporters": facts.quorum.1,
        "slashing": facts.slashing.map(|(address, cases)| json!({"address": address, "cases": cases})),
        "reporter": facts.reporter.map(|(address, has_role, balance)| json!({"address": address, "hasRole": has_role, "balanceWei": balance})),
    });
    output::print(
        out,
        args.output,
        &value,
        || vec![state.next_epoch.to_string()],
        |out| print(&args, &facts, overdue, out),
    )?;
    Ok(Exit::Done)
}

async fn read(client: &ChainClient, reporter: Option<NodeAddress>) -> Result<Facts, ChainError> {
    let reporter = match reporter {
        Some(account) => Some((account, client.is_reporter(account).await?, client.rpc().balance(account).await?)),
        None => None,
    };
    let slashing = match Slashing::of(client).await? {
        Some(slashing) => Some((slashing.address(), slashing.case_count(At::Latest).await?)),
        None => None,
    };
    Ok(Facts {
        slashing,
        last: client.rpc().block(At::Finalized).await?,
        parameters: client.parameters().await?,
        epochs: client.epoch_state(At::Finalized).await?,
        capability: client.total_capability().await?,
        quorum: (client.quorum(At::Latest).await?, client.reporters(At::Latest).await?),
        head: client.head().await?,
        reporter,
    })
}

fn print(args: &StatusArgs, facts: &Facts, overdue: u64, out: &mut dyn Write) -> Result<(), CliError> {
    let state = &facts.epochs;
    let (power, storage) = facts.capability;
    writeln!(out, "contract   {} on chain {}", args.contract, args.chain.chain_id)?;
    writeln!(
        out,
        "blocks     {} is final, {} is the newest, {} behind",
        facts.last.number,
        facts.head.number,
        facts.head.number.saturating_sub(facts.last.number)
    )?;
    writeln!(
        out,
        "epochs     {} is to be reported next; {overdue} are over and not reported; {} s each",
        state.next_epoch, facts.parameters.epoch_seconds
    )?;
    match state.pending {
        Some(PendingEpoch { epoch, ruling_due_at: Some(due), .. }) => {
            writeln!(out, "pending    epoch {epoch} is challenged; the arbiter rules until {due} (unix seconds)")?;
        }
        Some(pending) => writeln!(
            out,
            "pending    epoch {} with {} XDC in all, can become live from {} on (unix seconds)",
            pending.epoch,
            pending.total.to_xdc(),
            pending.active_at
        )?,
        None => writeln!(out, "pending    nothing")?,
    }
    writeln!(
        out,
        "live       {} XDC allocated, {} XDC claimed",
        state.live_total.to_xdc(),
        state.claimed_total.to_xdc()
    )?;
    writeln!(out, "pool       {} XDC", state.reward_pool.to_xdc())?;
    writeln!(out, "stakes     {} XDC for {power} compute units and {storage} GiB", state.stake_total.to_xdc())?;
    let (needed, reporters) = &facts.quorum;
    let named: Vec<_> = reporters.iter().map(ToString::to_string).collect();
    writeln!(out, "reporters  {needed} of {} must agree: {}", reporters.len(), named.join(", "))?;
    match facts.slashing {
        Some((address, cases)) => writeln!(out, "slashing   {address}, {cases} cases so far")?,
        None => writeln!(out, "slashing   none: the admin has bound no GridSlashing")?,
    }
    if let Some((address, has_role, balance)) = facts.reporter {
        let role = if has_role { "may report" } else { "lacks REPORTER_ROLE" };
        writeln!(out, "reporter   {address} {role} and holds {} XDC", balance.to_xdc())?;
    }
    Ok(())
}
