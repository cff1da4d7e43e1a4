//! Shell completion: scripts for shells, and the answers that kubectl asks plugins for.
//!
//! When `kubectl grid …` is completed, kubectl runs `kubectl_complete-grid` with the words so far and reads candidates a line each,
//! with a description behind a tab, and a line `:N` at the end that tells the shell what to do with them (cobra's protocol). A
//! link of that name to this program is enough.

use std::{io::Write, time::Duration};

use clap::{Command, CommandFactory, Parser};
use clap_complete::Shell;
use kube::Api;

use super::{
    Cli, CliError, Exit, lookup,
    session::{ClusterOptions, Session},
};
use crate::api::{grid_model::GridModel, grid_network::GridNetwork};

/// Name under which kubectl asks for completions.
pub const KUBECTL_COMPLETE: &str = "kubectl_complete-grid";
/// A shell that hangs at a tab is worse than one without names.
const PATIENCE: Duration = Duration::from_secs(2);
/// Directive: no file names.
const NO_FILES: &str = ":4";
/// Directive: the shell's own choice, which is file names.
const DEFAULT: &str = ":0";

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  # In ~/.bashrc, for kubectl-grid
  source <(kubectl-grid completion bash)
  # For `kubectl grid`, with the names of jobs and nodes: a link that kubectl looks for
  ln -s \"$(command -v kubectl-grid)\" /usr/local/bin/kubectl_complete-grid

Exit codes: 0 done, 1 error.")]
pub struct CompletionArgs {
    /// Shell that the script is for.
    shell: Shell,
}

pub fn run(args: &CompletionArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    // Made whole first: the generator cannot say that nobody reads it any more.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kubectl-grid", &mut script);
    out.write_all(&script)?;
    Ok(Exit::Done)
}

/// Candidates for the last of `words`, which may be empty.
pub async fn complete(words: &[String], out: &mut dyn Write) -> Result<Exit, CliError> {
    let mut root = Cli::command();
    root.build();
    let (candidates, files) = candidates(&root, words, async |names| named(names, words).await).await;
    for (candidate, help) in candidates {
        match help.is_empty() {
            true => writeln!(out, "{candidate}")?,
            false => writeln!(out, "{candidate}\t{help}")?,
        }
    }
    writeln!(out, "{}", if files { DEFAULT } else { NO_FILES })?;
    Ok(Exit::Done)
}

/// What names are wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Jobs,
    Nodes,
    JobsAndNodes,
    Models,
    Networks,
}

/// Candidates with a description each, and whether file names are welcome. `named` gives the names of objects.
async fn candidates(
    root: &Command,
    words: &[String],
    named: impl AsyncFnOnce(Names) -> Vec<String>,
) -> (Vec<(String, String)>, bool) {
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let (command, open) = walk(root, before);
    let begins = |candidate: &str| candidate.starts_with(last);
    if let Some(option) = open {
        let values: Vec<_> = option.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect();
        let names = match option.get_id().as_str() {
            "model" => named(Names::Models).await,
            "network" => named(Names::Networks).await,
            _ => values,
        };
        let file = option.get_value_names().is_some_and(|names| names.iter().any(|name| name == "FILE"));
        return (plain(names, begins), file);
    }
    if last.starts_with('-') {
        return (options(command, begins), false);
    }
    if command.has_subcommands() {
        let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
        let all = shown.map(|sub| (sub.get_name().to_owned(), about(sub.get_about())));
        return (all.filter(|(name, _)| begins(name)).collect(), false);
    }
    let names = match command.get_name() {
        "results" | "logs" | "cancel" => named(Names::Jobs).await,
        "why" => named(Names::JobsAndNodes).await,
        "cordon" | "uncordon" | "drain" | "show" | "claim" => named(Names::Nodes).await,
        _ => command
            .get_positionals()
            .flat_map(|argument| argument.get_possible_values())
            .map(|value| value.get_name().to_owned())
            .collect(),
    };
    (plain(names, begins), false)
}

/// The command that the words lead to, and the option that waits for its value.
fn walk<'a>(root: &'a Command, words: &[String]) -> (&'a Command, Option<&'a clap::Arg>) {
    let (mut command, mut open) = (root, None);
    for word in words {
        if open.take().is_some() {
            continue;
        }
        if word.starts_with('-') {
            open = if word.contains('=') { None } else { option(command, word) };
        } else if let Some(sub) = command.find_subcommand(word) {
            command = sub;
        }
    }
    (command, open)
}

/// The option of that spelling, if it takes a value.
fn option<'a>(command: &'a Command, word: &str) -> Option<&'a clap::Arg> {
    let fits = |argument: &&clap::Arg| match word.strip_prefix("--") {
        Some(long) => argument.get_long() == Some(long),
        None => {
            word.strip_prefix('-').is_some_and(|short| argument.get_short().is_some_and(|c| short == c.to_string()))
        }
    };
    command.get_arguments().find(fits).filter(|argument| argument.get_action().takes_values())
}

fn options(command: &Command, begins: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let long = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
        .filter_map(|argument| Some((format!("--{}", argument.get_long()?), about(argument.get_help()))));
    long.filter(|(name, _)| begins(name)).collect()
}

fn plain(names: Vec<String>, begins: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    names.into_iter().filter(|name| begins(name)).map(|name| (name, String::new())).collect()
}

/// The first line of a help text.
fn about(text: Option<&clap::builder::StyledStr>) -> String {
    text.map(|text| text.to_string().lines().next().unwrap_or_default().to_owned()).unwrap_or_default()
}

/// Flags of the words so far, as far as they say which cluster is meant.
#[derive(Parser)]
#[command(ignore_errors = true, disable_help_flag = true)]
struct Flags {
    #[command(flatten)]
    cluster: ClusterOptions,
    #[arg(hide = true)]
    rest: Vec<String>,
}

/// Names of objects; none when the cluster does not answer at once.
async fn named(wanted: Names, words: &[String]) -> Vec<String> {
    let all = std::iter::once("kubectl-grid".to_owned()).chain(words.iter().cloned());
    let cluster = Flags::try_parse_from(all).map(|flags| flags.cluster).unwrap_or_default();
    let ask = async {
        let session = Session::open(&cluster).await.ok()?;
        let (jobs, nodes) = (lookup::jobs(&session), lookup::nodes(&session));
        Some(match wanted {
            Names::Jobs => lookup::names(&jobs).await,
            Names::Nodes => lookup::names(&nodes).await,
            Names::JobsAndNodes => [lookup::names(&jobs).await, lookup::names(&nodes).await].concat(),
            Names::Models => lookup::names(&Api::<GridModel>::all(session.client)).await,
            Names::Networks => lookup::names(&Api::<GridNetwork>::all(session.client)).await,
        })
    };
    tokio::time::timeout(PATIENCE, ask).await.ok().flatten().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn completed(words: &[&str]) -> Vec<String> {
        let mut root = Cli::command();
        root.build();
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let (found, _) = candidates(&root, &words, async |names| vec![format!("{names:?}-1"), "other".into()]).await;
        found.into_iter().map(|(name, _)| name).collect()
    }

    #[tokio::test]
    async fn commands_options_values_and_names_are_completed() {
        assert_eq!(completed(&["unc"]).await, ["uncordon"]);
        assert_eq!(completed(&["rewards", ""]).await, ["show", "claim"]);
        assert_eq!(completed(&["submit", "--no"]).await, ["--no-wait"]);
        assert_eq!(completed(&["nodes", "-o", "y"]).await, ["yaml"]);
        assert_eq!(completed(&["results", "J"]).await, ["Jobs-1"]);
        assert_eq!(completed(&["-n", "team-a", "why", "o"]).await, ["other"]);
        assert_eq!(completed(&["submit", "--model", "M"]).await, ["Models-1"]);
        assert_eq!(completed(&["completion", "ba"]).await, ["bash"]);
    }

    #[tokio::test]
    async fn file_names_are_left_to_the_shell() {
        let mut root = Cli::command();
        root.build();
        let words = ["submit".to_owned(), "-f".to_owned(), "".to_owned()];
        let (_, files) = candidates(&root, &words, async |_| Vec::new()).await;
        assert!(files);
    }
}
