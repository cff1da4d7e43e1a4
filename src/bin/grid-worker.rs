//! `grid-worker`: runs a node of the grid on this machine, makes its key, and registers it; or serves a model on its own.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand};
use xdc_grid::{
    protocol::identity::NodeKey,
    telemetry::{self, LogOptions},
    worker::{self, KeygenOptions, LocalEngines, WorkerHooks, WorkerOptions, batch, bench, serve},
};

/// A node of the xdc-grid: serves inference, answers challenges, earns for what is verified.
#[derive(Debug, Parser)]
#[command(name = "grid-worker", version)]
struct Cli {
    #[command(flatten)]
    log: LogOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the grid until stopped.
    Run(Box<WorkerOptions>),
    /// Answer one shard of a Local job and end.
    Batch(Box<batch::BatchOptions>),
    /// Serve one model to OpenAI clients, on its own: no grid, no key.
    Serve(Box<serve::ServeOptions>),
    /// Measure a model on this machine, and what it could earn.
    Bench(Box<bench::BenchOptions>),
    /// Make a new node key and print who it is.
    Keygen(KeygenOptions),
    /// Print the peer id and the address of a key.
    Id {
        /// File with the node's key.
        #[arg(long, env = "GRID_KEY_FILE")]
        key_file: std::path::PathBuf,
    },
    /// Register this node on the network's contract with a stake, paid by its owner.
    #[cfg(feature = "register")]
    Register(worker::owner::RegisterOptions),
    /// Leave the contract: the first run starts the exit, a later one takes the stake back.
    #[cfg(feature = "register")]
    Unregister(worker::owner::UnregisterOptions),
    /// Pay what this node earned to its payout address.
    #[cfg(feature = "register")]
    Claim(worker::owner::ClaimOptions),
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode> {
    telemetry::install_crypto_provider();
    telemetry::init(&cli.log).map_err(|message| anyhow!(message))?;
    match cli.command {
        Command::Run(options) => worker::run(*options, WorkerHooks::default()).await?,
        Command::Batch(options) => {
            return Ok(ExitCode::from(batch::run(*options, Arc::new(LocalEngines)).await.code()));
        }
        Command::Serve(options) => serve::run(*options, Arc::new(LocalEngines)).await?,
        Command::Bench(options) => {
            let report = bench::run(*options, Arc::new(LocalEngines), &mut std::io::stderr()).await?;
            println!("{report}");
        }
        Command::Keygen(options) => keygen(&options.out)?,
        Command::Id { key_file } => print_identity(&NodeKey::read(&key_file)?),
        #[cfg(feature = "register")]
        Command::Register(options) => println!("{}", worker::owner::register(options).await?),
        #[cfg(feature = "register")]
        Command::Unregister(options) => println!("{}", worker::owner::unregister(options).await?),
        #[cfg(feature = "register")]
        Command::Claim(options) => println!("{}", worker::owner::claim(options).await?),
    }
    Ok(ExitCode::SUCCESS)
}

fn keygen(path: &Path) -> Result<()> {
    let key = NodeKey::generate();
    // Never replaces a key: losing one loses the stake's node and its reputation.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.with_context(|| format!("cannot make the key file {}", path.display()))?;
    file.write_all(format!("{}\n", hex::encode(key.secret_bytes())).as_bytes())?;
    file.sync_all()?;
    print_identity(&key);
    Ok(())
}

fn print_identity(key: &NodeKey) {
    println!("peer id  {}", key.peer_id());
    println!("address  {}", key.address());
}
