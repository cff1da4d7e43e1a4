//! `grid-cheater`: a worker that lies. It is the product's own worker in every respect but one: answers come from the first
//! layers of the model only, while their receipts name the whole one. That is faster and it is what a lazy node would do.
//! The end-to-end tests prove with it that lying is noticed. It is an example, so no image has it.

mod impostor;

use std::sync::Arc;

use clap::Parser;
use xdc_grid::{
    telemetry::{self, LogOptions},
    worker::{self, WorkerHooks, WorkerOptions},
};

use impostor::Impostor;

/// Takes all options of `grid-worker run`.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Layers that are really computed.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    layers: u16,
    /// Answers that are honest before the lying begins: a sleeper.
    #[arg(long, default_value_t = 0)]
    honest_answers: u64,
    #[command(flatten)]
    worker: WorkerOptions,
    #[command(flatten)]
    log: LogOptions,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    telemetry::install_crypto_provider();
    let options = Options::parse();
    telemetry::init(&options.log).map_err(anyhow::Error::msg)?;
    let impostor = Arc::new(Impostor::new(usize::from(options.layers), options.honest_answers));
    let chooser = impostor.clone();
    let hooks = WorkerHooks { engines: impostor, answer_with: Some(Arc::new(move |_, asked| chooser.choose(asked))) };
    Ok(worker::run(options.worker, hooks).await?)
}
