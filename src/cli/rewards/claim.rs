//! `kubectl grid rewards claim NODE`.

use std::{io::Write, time::Duration};

use serde::Serialize;

use super::{SourceOptions, chain_error, ledger::NetworkLedger, show};
use crate::{
    api::ids::{NodeAddress, Wei},
    chain::{
        Signer,
        deploy::execute,
        outbox::{Inclusion, Pace},
        quote::Quote,
        signer::SignerArgs,
    },
    cli::{
        CliError, Exit,
        output::{self, Format, note},
        session::Session,
    },
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl grid rewards claim cpu-1 --key-file wallet.key
  # What it would cost
  kubectl grid rewards claim cpu-1 --key-file wallet.key --dry-run
  # With a key that is in no file: a Web3Signer over mutual TLS
  kubectl grid rewards claim cpu-1 --remote-signer-url https://signer.example:9000 --remote-signer-address 0xWALLET \\
    --remote-signer-ca ca.pem --remote-signer-cert client.pem --remote-signer-key client.key
  # A node of another cluster, by its address
  kubectl grid rewards claim 0xADDRESS --network main --key-file wallet.key

Exit codes: 0 paid, 1 error or nothing to claim, 2 reported, but its window is not over.")]
pub struct ClaimArgs {
    /// GridNode, or the chain address of one.
    pub node: String,
    #[command(flatten)]
    pub signer: SignerArgs,
    #[command(flatten)]
    pub source: SourceOptions,
    /// Says what it would cost, and sends nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Seconds until the claim must be final.
    #[arg(long, default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout_seconds: u64,
    /// How to print the result; `name` is the transaction's hash alone.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// What a claim did, as the chain says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimResult {
    pub node: String,
    pub address: NodeAddress,
    pub payout: NodeAddress,
    pub amount_wei: Wei,
    pub payout_before_wei: Wei,
    pub payout_after_wei: Wei,
    pub transaction: String,
    pub block: u64,
    pub gas_used: u64,
    /// What the sender paid for gas.
    pub fee_wei: Wei,
}

pub async fn run(session: &Session, args: &ClaimArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let signer = args.signer.open().await.map_err(chain_error)?;
    let key = signer.signer();
    let (ledger, name, address) = one(session, args).await?;
    let entitlement = ledger.entitlement(address).await?;
    if entitlement.claimable() == Wei(0) {
        note(format_args!("{name} has nothing to claim: {}", why_nothing(&entitlement)));
        // In its window: it is a question of time.
        return Ok(if entitlement.pending > Wei(0) { Exit::NotYet } else { Exit::Failed });
    }
    let quote = quote(&ledger, &name, address, key.address()).await?;
    note(format_args!("claiming {} XDC for {name}, from {}: {quote}", entitlement.claimable().to_xdc(), key.address()));
    if args.dry_run {
        note(format_args!("nothing was sent (--dry-run)"));
        return Ok(Exit::Done);
    }
    let result = claim(&ledger, name, address, key, args).await?;
    output::print(out, args.output, &result, || vec![result.transaction.clone()], |out| print(&result, out))?;
    Ok(Exit::Done)
}

/// The one node on the one network that is meant.
async fn one(session: &Session, args: &ClaimArgs) -> Result<(NetworkLedger, String, NodeAddress), CliError> {
    let mut selected = show::select(session, Some(&args.node), &args.source).await?;
    if selected.len() > 1 {
        return Err(CliError::Other(format!("{} may be on several networks: say which with --network", args.node)));
    }
    let found = selected
        .pop()
        .and_then(|(ledger, nodes)| nodes.into_iter().next().map(|(name, address)| (ledger, name, address)));
    found.ok_or_else(|| CliError::Other(format!("there is no node {}", args.node)))
}

fn why_nothing(found: &super::entitlement::Entitlement) -> String {
    match (found.pending, found.claimed) {
        (Wei(0), Wei(0)) => "it earned nothing yet".into(),
        (Wei(0), claimed) => format!("all of its {} XDC were paid", claimed.to_xdc()),
        (pending, _) => format!("{} XDC are reported, but the window of that report is not over", pending.to_xdc()),
    }
}

async fn quote(
    ledger: &NetworkLedger,
    node: &str,
    address: NodeAddress,
    sender: NodeAddress,
) -> Result<Quote, CliError> {
    let proof = ledger.proof(address).ok_or_else(|| CliError::Other(format!("{node} has no leaf in the live tree")))?;
    let intent = ledger.chain.claim_intent(&proof);
    Quote::of(ledger.chain.rpc(), sender, &intent).await.map_err(chain_error)
}

async fn claim(
    ledger: &NetworkLedger,
    node: String,
    address: NodeAddress,
    key: &dyn Signer,
    args: &ClaimArgs,
) -> Result<ClaimResult, CliError> {
    let chain = &ledger.chain;
    let proof = ledger.proof(address).ok_or_else(|| CliError::Other(format!("{node} has no leaf in the live tree")))?;
    let claimed_before = ledger.entitlement(address).await?.claimed;
    let payout = chain.payout_of(address).await.map_err(chain_error)?;
    let payout_before_wei = chain.rpc().balance(payout).await.map_err(chain_error)?;
    let pace = Pace { timeout: Duration::from_secs(args.timeout_seconds), ..Pace::default() };
    note(format_args!("waits until it is final"));
    let inclusion: Inclusion =
        execute(chain.rpc(), chain.chain_id(), key, chain.claim_intent(&proof), pace).await.map_err(chain_error)?;
    let payout_after_wei = chain.rpc().balance(payout).await.map_err(chain_error)?;
    let claimed_after = ledger.entitlement(address).await?.claimed;
    Ok(ClaimResult {
        node,
        address,
        payout,
        amount_wei: Wei(claimed_after.0.saturating_sub(claimed_before.0)),
        payout_before_wei,
        payout_after_wei,
        transaction: inclusion.hash.to_string(),
        block: inclusion.block_number,
        gas_used: inclusion.gas_used,
        fee_wei: inclusion.fee,
    })
}

fn print(result: &ClaimResult, out: &mut dyn Write) -> Result<(), CliError> {
    writeln!(out, "claimed    {} XDC for {} ({})", result.amount_wei.to_xdc(), result.node, result.address)?;
    writeln!(out, "paid to    {}", result.payout)?;
    writeln!(out, "balance    {} → {} XDC", result.payout_before_wei.to_xdc(), result.payout_after_wei.to_xdc())?;
    writeln!(out, "tx         {} in block {}", result.transaction, result.block)?;
    writeln!(out, "gas        {} ({} XDC, paid by the sender)", result.gas_used, result.fee_wei.to_xdc())?;
    Ok(())
}
