//! `xdc-devnet`: see `xdc_grid::devnet`.

use clap::Parser;
use xdc_grid::{
    devnet::{self, DevnetOptions},
    telemetry::{self, LogOptions},
};

/// A development chain that behaves like the XDC Network.
///
/// Answers Ethereum JSON-RPC in front of anvil, with XDC's pool rules, gas for calldata, constant base fee and finality, and breaks things on
/// request (POST /devnet/faults). It keeps no secrets and no value: never show it to strangers, never take it for a node.
#[derive(Debug, Parser)]
#[command(name = "xdc-devnet", version, after_long_help = devnet::EXAMPLES)]
struct Cli {
    #[command(flatten)]
    log: LogOptions,
    #[command(flatten)]
    devnet: DevnetOptions,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    telemetry::install_crypto_provider();
    telemetry::init(&cli.log).map_err(anyhow::Error::msg)?;
    Ok(devnet::run(cli.devnet).await?)
}
