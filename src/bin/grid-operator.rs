//! `grid-operator`: the Kubernetes controllers, the generator of their CRDs, and tools for those who run or check a network.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand, error::ErrorKind as Usage};
use tokio_util::sync::CancellationToken;
use xdc_grid::{
    api::crds,
    cli::{
        Exit,
        audit_epoch::{self, AuditArgs},
        contract::{self, ContractCommand, DeployArgs, StatusArgs, VerifyArgs},
        selftest::{SelftestOptions, selftest},
        vote_epoch::{self, VoteArgs},
    },
    operator::{allocator, config::OperatorConfig, run},
    telemetry::{self, LogOptions},
};

/// The operator of xdc-grid.
#[derive(Debug, Parser)]
#[command(name = "grid-operator", version)]
struct Cli {
    #[command(flatten)]
    log: LogOptions,
    #[command(subcommand)]
    command: Command,
}

// One of these, once.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Subcommand)]
enum Command {
    /// Run the controllers until stopped.
    Run(Box<OperatorConfig>),
    /// Write the CustomResourceDefinitions, one file per kind.
    Crds {
        /// Folder to write to.
        #[arg(long, default_value = "crds")]
        out: PathBuf,
    },
    /// Deploy the reward contract; says what it will cost first.
    #[command(after_help = "Examples:
  grid-operator deploy --rpc-url https://erpc.apothem.network --chain-id 51 --admin-key-file admin.key --fund-xdc 10 --dry-run

Exit codes: 0 done, 1 error.")]
    Deploy(DeployArgs),
    /// Compare the code at an address with the contract of this release.
    #[command(after_help = "Examples:
  grid-operator verify-contract --rpc-url https://erpc.apothem.network --chain-id 51 --contract 0xADDRESS

Exit codes: 0 it is the contract of this release, 1 it is not, or error.")]
    VerifyContract(VerifyArgs),
    /// Show what the contract holds, which epoch is reported, and whether its reporter can go on.
    #[command(after_help = "Examples:
  grid-operator status --rpc-url https://erpc.apothem.network --chain-id 51 --contract 0xADDRESS

Exit codes: 0 done, 1 error.")]
    Status(StatusArgs),
    /// Run one prompt through everything; what `helm test` does.
    Selftest(SelftestOptions),
    /// Do the sum of a reported epoch again, from the chain and the published receipts, and say where it differs.
    AuditEpoch(Box<AuditArgs>),
    /// Work an epoch out from the published receipts, as a second reporter, and vote for the report that another one proposes if it is right.
    VoteEpoch(Box<VoteArgs>),
}

fn main() -> Result<ExitCode> {
    allocator::configure();
    command()
}

#[tokio::main]
async fn command() -> Result<ExitCode> {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return Ok(usage(&error)),
    };
    telemetry::install_crypto_provider();
    telemetry::init(&cli.log).map_err(|message| anyhow!(message))?;
    match cli.command {
        Command::Run(config) => {
            let stop = CancellationToken::new();
            tokio::spawn(stop_on_signal(stop.clone()));
            tokio::spawn(allocator::give_back_forever());
            run::run(*config, stop).await?;
        }
        Command::Crds { out } => write_crds(&out)?,
        Command::Deploy(args) => return on_contract(ContractCommand::Deploy(args)).await,
        Command::VerifyContract(args) => return on_contract(ContractCommand::Verify(args)).await,
        Command::Status(args) => return on_contract(ContractCommand::Status(args)).await,
        Command::AuditEpoch(args) => return Ok(audit_epoch::run(&args, &mut std::io::stdout()).await?.into()),
        Command::VoteEpoch(args) => return Ok(vote_epoch::run(&args, &mut std::io::stdout()).await?.into()),
        Command::Selftest(options) => selftest(kube::Client::try_default().await?, &options).await?,
    }
    Ok(Exit::Done.into())
}

/// A misspelt command is an error like any other, and not the "differs" that clap's own code would say.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match error.kind() {
        Usage::DisplayHelp | Usage::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

async fn on_contract(command: ContractCommand) -> Result<ExitCode> {
    // Not locked: a command waits for the chain in between.
    Ok(contract::run(command, &mut std::io::stdout()).await?.into())
}

fn write_crds(folder: &std::path::Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, text) in crds::files().map_err(|error| anyhow!(error))? {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

async fn stop_on_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
}
