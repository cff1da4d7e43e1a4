//! `kubectl grid`.

use std::process::ExitCode;

use clap::Parser;
use xdc_grid::{cli, telemetry};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    telemetry::install_crypto_provider();
    let cli = cli::Cli::parse();
    match cli::run(cli, &mut std::io::stdout().lock()).await {
        Ok(exit) => exit.into(),
        // `kubectl grid results JOB | head` is no failure worth a message.
        Err(cli::CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            cli::Exit::Failed.into()
        }
    }
}
