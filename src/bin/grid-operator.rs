//! `grid-operator`: the Kubernetes controllers, the generator of their CRDs, and tools for those who run or check a network.

use std::{io, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand, error::ErrorKind as Usage};
use tokio_util::sync::CancellationToken;
use xdc_grid::{
    api::crds,
    cli::{
        audit_epoch::{self, AuditArgs},
        selftest::{SelftestOptions, selftest},
    },
    operator::{config::OperatorConfig, run},
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
    /// Run one prompt through everything; what `helm test` does.
    Selftest(SelftestOptions),
    /// Do the sum of a reported epoch again, from the chain and the published receipts, and say where it differs.
    AuditEpoch(Box<AuditArgs>),
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
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
            run::run(*config, stop).await?;
        }
        Command::Crds { out } => write_crds(&out)?,
        Command::Selftest(options) => selftest(kube::Client::try_default().await?, &options).await?,
        Command::AuditEpoch(args) => return Ok(audit_epoch::run(&args, &mut io::stdout()).await?.into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// A misspelt command is an error like any other, and not the "differs" that clap's own code would say.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match error.kind() {
        Usage::DisplayHelp | Usage::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
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
