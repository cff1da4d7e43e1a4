//! `grid-operator`: the Kubernetes controllers, and the generator of their CRDs.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use xdc_grid::{
    api::crds,
    cli::selftest::{SelftestOptions, selftest},
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
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    telemetry::install_crypto_provider();
    telemetry::init(&cli.log).map_err(|message| anyhow!(message))?;
    match cli.command {
        Command::Run(config) => {
            let stop = CancellationToken::new();
            tokio::spawn(stop_on_signal(stop.clone()));
            Ok(run::run(*config, stop).await?)
        }
        Command::Crds { out } => write_crds(&out),
        Command::Selftest(options) => Ok(selftest(kube::Client::try_default().await?, &options).await?),
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
