//! The command line.

use std::io::Write;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use super::{
    CliError, Exit, contract, nodes,
    output::{self, Format},
    results, rewards,
    session::{ClusterOptions, Session},
};

/// Results, nodes and rewards of an xdc-grid, from the shell.
///
/// Works as a kubectl plugin: anywhere on the PATH as `kubectl-grid`, it is `kubectl grid`. Exit codes: 0 done, 1 failed,
/// 2 not there yet.
#[derive(Debug, Parser)]
#[command(name = "kubectl-grid", bin_name = "kubectl grid", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub cluster: ClusterOptions,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prints the answers of an InferenceJob.
    Results(results::ResultsArgs),
    /// Lists the nodes of the grid with what was measured and verified.
    Nodes(nodes::NodesArgs),
    /// What nodes earned, and taking it out.
    #[command(subcommand)]
    Rewards(rewards::RewardsCommand),
    /// The reward contract.
    #[command(subcommand)]
    Contract(contract::ContractCommand),
    /// Prints the version.
    Version {
        /// How to print it.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Writes a completion script for a shell.
    Completion { shell: Shell },
}

/// Runs a command; what it has to say goes to `out`, progress to standard error.
pub async fn run(cli: Cli, out: &mut dyn Write) -> Result<Exit, CliError> {
    match cli.command {
        Command::Results(args) => results::run(&Session::open(&cli.cluster).await?, &args, out).await,
        Command::Nodes(args) => nodes::run(&Session::open(&cli.cluster).await?, &args, out).await,
        Command::Rewards(command) => rewards::run(&Session::open(&cli.cluster).await?, command, out).await,
        Command::Contract(command) => contract::run(command, out).await,
        Command::Version { output } => version(output, out),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "kubectl-grid", &mut DynWriter(out));
            Ok(Exit::Done)
        }
    }
}

fn version(format: Format, out: &mut dyn Write) -> Result<Exit, CliError> {
    let version = env!("CARGO_PKG_VERSION");
    match format {
        Format::Table => writeln!(out, "kubectl-grid {version}")?,
        Format::Json => {
            output::json(out, &serde_json::json!({"version": version, "apiVersion": "xdcgrid.io/v1alpha1"}))?
        }
    }
    Ok(Exit::Done)
}

/// `clap_complete` wants a sized writer.
struct DynWriter<'a>(&'a mut dyn Write);

impl Write for DynWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[tokio::test]
    async fn the_version_is_printed_for_people_and_for_programs() {
        let mut out = Vec::new();
        let exit = run(Cli::parse_from(["kubectl-grid", "version", "-o", "json"]), &mut out).await.unwrap();
        assert_eq!(exit, Exit::Done);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["version"], env!("CARGO_PKG_VERSION"));
    }
}
