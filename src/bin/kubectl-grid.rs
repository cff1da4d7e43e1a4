//! `kubectl grid`.

use std::{ffi::OsString, io::ErrorKind, path::Path, process::ExitCode};

use clap::{Parser, error::ErrorKind as Usage};
use xdc_grid::{
    cli::{self, completion::KUBECTL_COMPLETE},
    telemetry,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    telemetry::install_crypto_provider();
    let cli = match cli::Cli::try_parse_from(words()) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match cli::run(cli, &mut std::io::stdout().lock()).await {
        Ok(exit) => exit.into(),
        // `kubectl grid results JOB | head` is no failure worth a message.
        Err(cli::CliError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            cli::output::note(format_args!("error: {error}"));
            cli::Exit::Failed.into()
        }
    }
}

/// The command line; under the name by which kubectl asks for completions, that question.
fn words() -> Vec<OsString> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    let name = words.first().and_then(|name| Path::new(name).file_name()).map(OsString::from);
    if name.is_some_and(|name| name == KUBECTL_COMPLETE) {
        words.splice(1..1, ["__complete".into(), "--".into()]);
    }
    words
}

/// Help is what was asked for; a misspelt command is an error like any other, and not the "not yet" that clap's own code would say.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match error.kind() {
        Usage::DisplayHelp | Usage::DisplayVersion | Usage::DisplayHelpOnMissingArgumentOrSubcommand => {
            ExitCode::SUCCESS
        }
        _ => cli::Exit::Failed.into(),
    }
}
