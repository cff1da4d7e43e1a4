//! The command line.

use std::io::Write;

use clap::{Parser, Subcommand};

use super::{
    CliError, Exit, cancel, completion, contract, logs, nodes, results, rewards,
    session::{ClusterOptions, Session},
    submit, top, version, why,
};

/// Jobs, nodes and rewards of an xdc-grid, from the shell.
///
/// Works as a kubectl plugin: anywhere on the PATH as `kubectl-grid`, it is `kubectl grid`. Exit codes: 0 done, 1 failed,
/// 2 not there yet.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-grid",
    bin_name = "kubectl grid",
    version,
    arg_required_else_help = true,
    after_help = "Examples:
  kubectl grid submit --model smollm2-135m-instruct --prompts prompts.txt
  kubectl grid why hello
  kubectl grid top

Every command has examples of its own: kubectl grid submit --help"
)]
pub struct Cli {
    #[command(flatten)]
    pub cluster: ClusterOptions,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Submits a job, waits for it, and prints its results.
    Submit(submit::SubmitArgs),
    /// Says why a job waits or a node gets no work, and what to do about it.
    Why(why::WhyArgs),
    /// Prints the answers of an InferenceJob.
    Results(results::ResultsArgs),
    /// Shows events of a job and logs of the pods that work on it.
    Logs(logs::LogsArgs),
    /// Ends a job and keeps what it has done.
    Cancel(cancel::CancelArgs),
    /// Shows nodes and jobs, again every two seconds.
    Top(top::TopArgs),
    /// Lists the nodes of the grid with what was measured and verified.
    Nodes(nodes::NodesArgs),
    /// Keeps new work away from a node.
    Cordon(nodes::CordonArgs),
    /// Lets a node take work again.
    Uncordon(nodes::UncordonArgs),
    /// Cordons a node and waits until it has finished its work.
    Drain(nodes::DrainArgs),
    /// What nodes earned, and taking it out.
    #[command(subcommand, arg_required_else_help = true)]
    Rewards(rewards::RewardsCommand),
    /// The reward contract.
    #[command(subcommand, arg_required_else_help = true)]
    Contract(contract::ContractCommand),
    /// Prints the versions of this program and of what it talks to.
    Version(version::VersionArgs),
    /// Writes a completion script for a shell.
    Completion(completion::CompletionArgs),
    /// What kubectl asks for at a tab.
    #[command(name = "__complete", hide = true)]
    Complete {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// Runs a command; what it has to say goes to `out`, progress to standard error.
pub async fn run(cli: Cli, out: &mut dyn Write) -> Result<Exit, CliError> {
    let open = || Session::open(&cli.cluster);
    match cli.command {
        Command::Submit(args) => submit::run(&open().await?, cli.cluster.namespace.as_deref(), &args, out).await,
        Command::Why(args) => why::run(&open().await?, &args, out).await,
        Command::Results(args) => results::run(&open().await?, &args, out).await,
        Command::Logs(args) => logs::run(&open().await?, &args, out).await,
        Command::Cancel(args) => cancel::run(&open().await?, &args, out).await,
        Command::Top(args) => top::run(&open().await?, &args, out).await,
        Command::Nodes(args) => nodes::run(&open().await?, &args, out).await,
        Command::Cordon(args) => nodes::cordon(&open().await?, &args, out).await,
        Command::Uncordon(args) => nodes::uncordon(&open().await?, &args, out).await,
        Command::Drain(args) => nodes::drain(&open().await?, &args, out).await,
        Command::Rewards(command) => rewards::run(&open().await?, command, out).await,
        Command::Contract(command) => contract::run(command, out).await,
        Command::Version(args) => version::run(&cli.cluster, &args, out).await,
        Command::Completion(args) => completion::run(&args, out),
        Command::Complete { words } => completion::complete(&words, out).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[tokio::test]
    async fn the_version_is_printed_for_people_and_for_programs() {
        let mut out = Vec::new();
        let exit = run(Cli::parse_from(["kubectl-grid", "version", "--client", "-o", "json"]), &mut out).await.unwrap();
        assert_eq!(exit, Exit::Done);
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(value["apiVersion"], "xdcgrid.io/v1alpha1");
    }

    /// Leaves of the command tree that a person sees.
    fn leaves(command: &clap::Command, found: &mut Vec<clap::Command>) {
        let mut subs =
            command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help").peekable();
        if subs.peek().is_none() {
            found.push(command.clone());
        }
        subs.for_each(|sub| leaves(sub, found));
    }

    #[test]
    fn every_command_has_examples_that_are_understood_and_says_its_exit_codes() {
        let mut commands = Vec::new();
        leaves(&Cli::command(), &mut commands);
        assert!(commands.len() >= 14, "{}", commands.len());
        for command in commands {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Examples:\n") && help.contains("Exit codes: 0"), "{}", command.get_name());
            let joined = help.replace("\\\n", " ");
            let shown = joined.lines().filter_map(|line| line.trim().split_once("kubectl grid ").map(|(_, rest)| rest));
            for example in shown {
                let words = example.split_whitespace().take_while(|word| *word != "|");
                let words = words.map(|word| match word {
                    "0xADDRESS" | "0xADMIN" | "0xWALLET" => "0x00000000000000000000000000000000000000aa",
                    word => word,
                });
                let parsed = Cli::try_parse_from(std::iter::once("kubectl-grid").chain(words));
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            }
        }
    }
}
