//! `kubectl grid contract deploy`: the project's own tool for putting the reward contract on a chain.

use std::{io::Write, path::PathBuf, sync::Arc, time::Duration};

use serde_json::json;

use super::{ChainArgs, chain};
use crate::cli::{
    CliError, Exit,
    output::{self, Format, note},
};
use crate::{
    api::ids::{NodeAddress, Wei},
    chain::{
        ChainRpc, ContractParameters,
        deploy::{DeployParameters, Deployment, MemberParameters, Roles, deploy, quote_deployment},
        outbox::Pace,
        signer::{NamedSigner, RemoteSignerArgs},
    },
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  # On XDC's test network, with 10 TXDC in the reward pool
  kubectl grid contract deploy --rpc-url https://erpc.apothem.network --chain-id 51 --admin-key-file admin.key --fund-xdc 10
  # With an admin's key that is in no file: a Web3Signer over mutual TLS
  kubectl grid contract deploy --rpc-url https://erpc.apothem.network --chain-id 51 \\
    --remote-signer-url https://signer.example:9000 --remote-signer-address 0xADMIN \\
    --remote-signer-ca ca.pem --remote-signer-cert client.pem --remote-signer-key client.key
  # What it would cost
  kubectl grid contract deploy --rpc-url https://erpc.apothem.network --chain-id 51 --admin-key-file admin.key --dry-run

Exit codes: 0 done, 1 error.")]
pub struct DeployArgs {
    #[command(flatten)]
    pub chain: ChainArgs,
    /// File with the admin's key: 64 hexadecimal digits, or an encrypted keystore (JSON) with its password in FILE.password.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "remote_signer_url",
        conflicts_with = "remote_signer_url"
    )]
    pub admin_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub remote: RemoteSignerArgs,
    /// Length of an epoch.
    #[arg(long, default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..))]
    pub epoch_seconds: u64,
    /// How long a report can be dropped before it pays; at most an epoch.
    #[arg(long, default_value_t = 3600)]
    pub window_seconds: u64,
    /// How long a leaving node's stake is kept; at least the window. Default: 7 days, or the window where that is longer.
    #[arg(long)]
    pub unbonding_seconds: Option<u64>,
    /// The most that one epoch may allocate, in XDC.
    #[arg(long, default_value = "1000000", value_name = "XDC", value_parser = parse_xdc)]
    pub max_epoch_increase_xdc: Wei,
    /// Account that reports epochs (default: the admin's).
    #[arg(long, value_name = "ADDRESS")]
    pub reporter: Option<NodeAddress>,
    /// Account that may drop a report during its window, and pause.
    #[arg(long, value_name = "ADDRESS")]
    pub guardian: Option<NodeAddress>,
    /// Account that proposes slashes; neither the reporter nor the arbiter.
    #[arg(long, value_name = "ADDRESS")]
    pub slasher: Option<NodeAddress>,
    /// Account that rules on challenges and appeals; neither the reporter nor the slasher.
    #[arg(long, value_name = "ADDRESS")]
    pub arbiter: Option<NodeAddress>,
    /// Account that spends fees and slashed stakes.
    #[arg(long, value_name = "ADDRESS")]
    pub treasurer: Option<NodeAddress>,
    /// Account that settles paid jobs.
    #[arg(long, value_name = "ADDRESS")]
    pub settler: Option<NodeAddress>,
    /// Part of what paid jobs spend that the treasury keeps, in 1/10 000; at most 2000.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u16).range(..=2_000))]
    pub fee_bps: u16,
    /// How long the owner of a node can appeal against a slash.
    #[arg(long, default_value_t = 3 * 24 * 3600, value_parser = clap::value_parser!(u64).range(1..))]
    pub appeal_seconds: u64,
    /// How long after that the arbiter can rule; then the case is dropped.
    #[arg(long, default_value_t = 7 * 24 * 3600, value_parser = clap::value_parser!(u64).range(1..))]
    pub ruling_seconds: u64,
    /// What an appeal puts down, in XDC.
    #[arg(long, default_value = "10", value_name = "XDC", value_parser = parse_xdc)]
    pub appeal_bond_xdc: Wei,
    /// Put into the reward pool at once, in XDC.
    #[arg(long, default_value = "0", value_name = "XDC", value_parser = parse_xdc)]
    pub fund_xdc: Wei,
    /// Seconds until each transaction must be final.
    #[arg(long, default_value_t = 180, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub timeout_seconds: u64,
    /// Says what it would cost, and sends nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// How to print the result; `name` is the contract's address alone.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// A week: longer than any window, appeal and ruling together are meant to take.
const UNBONDING: u64 = 7 * 24 * 3600;

pub async fn run(args: DeployArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let key = NamedSigner::open(args.admin_key_file.as_deref(), &args.remote).await.map_err(chain)?;
    let rpc: Arc<dyn ChainRpc> = Arc::new(args.chain.endpoints()?);
    let parameters = parameters(&args, key.address())?;
    let quote = quote_deployment(rpc.as_ref(), key.address(), &parameters).await.map_err(chain)?;
    note(format_args!("deploying from {} to chain {}: {quote}", key.address(), args.chain.chain_id));
    conflict(&parameters.roles)?;
    if args.dry_run {
        note(format_args!("nothing was sent (--dry-run)"));
        return Ok(Exit::Done);
    }
    note(format_args!("what a step needs is final before it is taken"));
    let pace = Pace { timeout: Duration::from_secs(args.timeout_seconds), ..Pace::default() };
    let deployment = deploy(rpc, args.chain.chain_id, key.signer(), parameters, pace).await.map_err(chain)?;
    // Read back, not echoed: what the contract says counts.
    let kept = deployment.client.parameters().await.map_err(chain)?;
    print(&args, &deployment, &parameters, &kept, out)?;
    Ok(Exit::Done)
}

fn parameters(args: &DeployArgs, admin: NodeAddress) -> Result<DeployParameters, CliError> {
    if args.window_seconds > args.epoch_seconds {
        return Err(CliError::Other(format!(
            "--window-seconds {} is longer than an epoch ({} s): a report would still be open when the next one is due",
            args.window_seconds, args.epoch_seconds
        )));
    }
    let unbonding = args.unbonding_seconds.unwrap_or_else(|| UNBONDING.max(args.window_seconds));
    if unbonding < args.window_seconds {
        return Err(CliError::Other(format!(
            "--unbonding-seconds {unbonding} is shorter than the window ({} s): a node could leave before it is judged",
            args.window_seconds
        )));
    }
    Ok(DeployParameters {
        epoch_seconds: args.epoch_seconds,
        challenge_window: args.window_seconds,
        unbonding,
        max_epoch_increase: args.max_epoch_increase_xdc,
        roles: Roles {
            reporter: args.reporter.unwrap_or(admin),
            guardian: args.guardian,
            slasher: args.slasher,
            arbiter: args.arbiter,
            treasurer: args.treasurer,
            settler: args.settler,
        },
        members: MemberParameters {
            fee_bps: args.fee_bps,
            appeal_seconds: args.appeal_seconds,
            ruling_seconds: args.ruling_seconds,
            appeal_bond: args.appeal_bond_xdc,
        },
        funding: args.fund_xdc,
    })
}

/// The contract would refuse this after three transactions.
fn conflict(roles: &Roles) -> Result<(), CliError> {
    let judged = [Some(roles.reporter), roles.slasher, roles.arbiter];
    let named: Vec<_> = judged.into_iter().flatten().collect();
    if named.iter().enumerate().any(|(index, account)| named.iter().take(index).any(|other| other == account)) {
        return Err(CliError::Other(
            "--reporter, --slasher and --arbiter must be three accounts: who accuses, who reports and who judges"
                .into(),
        ));
    }
    Ok(())
}

fn print(
    args: &DeployArgs,
    deployment: &Deployment,
    parameters: &DeployParameters,
    kept: &ContractParameters,
    out: &mut dyn Write,
) -> Result<(), CliError> {
    let contract = deployment.client.contract();
    let created = &deployment.created;
    let value = json!({
        "contract": contract,
        "chainID": args.chain.chain_id,
        "admin": deployment.admin,
        "escrow": deployment.escrow,
        "slashing": deployment.slashing,
        "reporter": parameters.roles.reporter,
        "guardian": parameters.roles.guardian,
        "slasher": parameters.roles.slasher,
        "arbiter": parameters.roles.arbiter,
        "treasurer": parameters.roles.treasurer,
        "settler": parameters.roles.settler,
        "genesis": kept.genesis,
        "epochSeconds": kept.epoch_seconds,
        "windowSeconds": kept.challenge_window,
        "unbondingSeconds": kept.unbonding,
        "maxEpochIncreaseWei": kept.max_epoch_increase,
        "fundedWei": parameters.funding,
        "transaction": created.hash,
        "block": created.block_number,
        "gasUsed": created.gas_used,
        "feeWei": created.fee,
    });
    output::print(
        out,
        args.output,
        &value,
        || vec![contract.to_string()],
        |out| {
            writeln!(out, "contract   {contract} on chain {}", args.chain.chain_id)?;
            writeln!(out, "admin      {}", deployment.admin)?;
            writeln!(out, "reporter   {}", parameters.roles.reporter)?;
            writeln!(out, "escrow     {}", deployment.escrow)?;
            writeln!(out, "slashing   {}", deployment.slashing)?;
            writeln!(
                out,
                "epochs     {} s from {}, window {} s",
                kept.epoch_seconds, kept.genesis, kept.challenge_window
            )?;
            writeln!(out, "pool       {} XDC", parameters.funding.to_xdc())?;
            writeln!(out, "deployed   {} in block {}, {} gas", created.hash, created.block_number, created.gas_used)?;
            writeln!(out, "\nNext: name it in a GridNetwork, spec.chain.contract (docs/examples/network.yaml)")?;
            Ok(())
        },
    )
}

/// XDC with up to 18 decimals, exactly.
pub fn parse_xdc(text: &str) -> Result<Wei, String> {
    let refuse = || format!("{text:?} is not an amount of XDC, such as 100 or 0.25");
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty()
        || whole.len() > 20
        || fraction.len() > 18
        || !digits(whole)
        || !digits(fraction)
        || text.ends_with('.')
    {
        return Err(refuse());
    }
    let whole: u128 = whole.parse().map_err(|_| refuse())?;
    let fraction: u128 = format!("{fraction:0<18}").parse().map_err(|_| refuse())?;
    whole.checked_mul(Wei::XDC.0).and_then(|wei| wei.checked_add(fraction)).map(Wei).ok_or_else(refuse)
}

#[cfg(test)]
#[cfg(feature = "cli")]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, command::Command, contract::ContractCommand};

    fn args(extra: &[&str]) -> DeployArgs {
        let base = [
            "kubectl-grid",
            "contract",
            "deploy",
            "--rpc-url",
            "http://x",
            "--chain-id",
            "51",
            "--admin-key-file",
            "k",
        ];
        match Cli::try_parse_from(base.iter().chain(extra)).unwrap().command {
            Command::Contract(ContractCommand::Deploy(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn amounts_of_xdc_are_exact() {
        assert_eq!(parse_xdc("1").unwrap(), Wei::XDC);
        assert_eq!(parse_xdc("0.000000000000000001").unwrap(), Wei(1));
        assert_eq!(parse_xdc("12.5").unwrap(), Wei(12_500_000_000_000_000_000));
        for bad in ["", ".5", "1.", "-1", "1e3", "1.0000000000000000001", "999999999999999999999", "1,5"] {
            assert!(parse_xdc(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_admins_key_is_in_a_file_or_at_a_remote_signer_and_never_in_both() {
        let parsed = |words: &[&str]| {
            let base = ["kubectl-grid", "contract", "deploy", "--rpc-url", "http://x", "--chain-id", "51"];
            Cli::try_parse_from(base.iter().chain(words))
        };
        let remote = [
            "--remote-signer-url",
            "https://x",
            "--remote-signer-address",
            "xdc0202020202020202020202020202020202020202",
        ];
        assert!(parsed(&remote).is_ok() && parsed(&["--admin-key-file", "k"]).is_ok());
        assert!(parsed(&[]).is_err() && parsed(&[&remote[..], &["--admin-key-file", "k"]].concat()).is_err());
    }

    #[test]
    fn a_window_longer_than_an_epoch_is_refused_before_anything_is_sent() {
        let admin = NodeAddress([1; 20]);
        let args = args(&["--epoch-seconds", "60", "--window-seconds", "61"]);
        assert!(parameters(&args, admin).unwrap_err().to_string().contains("--window-seconds 61"));
    }

    #[test]
    fn the_admin_reports_unless_somebody_else_is_named() {
        let admin = NodeAddress([1; 20]);
        let found = parameters(&args(&[]), admin).unwrap();
        assert_eq!((found.roles.reporter, found.unbonding), (admin, UNBONDING));
        let other = parameters(&args(&["--reporter", "xdc0202020202020202020202020202020202020202"]), admin).unwrap();
        assert_eq!(other.roles.reporter, NodeAddress([2; 20]));
    }
}
