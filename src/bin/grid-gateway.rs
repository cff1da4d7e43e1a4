//! `grid-gateway`: see `xdc_grid::gateway`.

use clap::Parser;
use xdc_grid::{gateway, telemetry};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = gateway::Options::parse();
    telemetry::install_crypto_provider();
    telemetry::init(&options.log).map_err(anyhow::Error::msg)?;
    gateway::execute(options).await.map_err(anyhow::Error::msg)
}
