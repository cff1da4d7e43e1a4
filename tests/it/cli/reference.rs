//! `docs/user-guide/kubectl-grid.md` says of every command and flag what the program itself says.

use std::fmt::Write;

use clap::{Arg, Command, CommandFactory};
use xdc_grid::cli::Cli;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/user-guide/kubectl-grid.md");
/// Everything below is written by this test.
const MARK: &str = "<!-- Below this line: generated from the program's own help. Run the test `cli::reference` with UPDATE_DOCS=1. -->\n";

/// Leaves of the command tree, with their full names, in the order of the help.
fn leaves(command: &Command, name: &str, found: &mut Vec<(String, Command)>) {
    let mut subs = command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help").peekable();
    if subs.peek().is_none() {
        return found.push((name.to_owned(), command.clone()));
    }
    for sub in subs {
        leaves(sub, &format!("{name} {}", sub.get_name()), found);
    }
}

/// One line, fit for a table cell.
fn cell(text: impl ToString) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn name_of(argument: &Arg) -> String {
    let value =
        argument.get_value_names().map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    let value = value.filter(|_| argument.get_action().takes_values());
    let Some(long) = argument.get_long() else {
        let value = value.unwrap_or_else(|| argument.get_id().to_string().to_uppercase());
        return format!("`{}`", value.replace('|', "\\|"));
    };
    let short = argument.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    let choices: Vec<_> = argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    let value =
        if choices.is_empty() || !argument.get_action().takes_values() { value } else { Some(choices.join("\\|")) };
    format!("{short}`--{long}{}`", value.map(|value| format!(" {value}")).unwrap_or_default())
}

fn help_of(argument: &Arg) -> String {
    let mut help = argument.get_help().map(cell).unwrap_or_default();
    let default: Vec<_> =
        argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    if !default.is_empty() && argument.get_action().takes_values() {
        let stop = if help.ends_with('.') { "" } else { "." };
        write!(help, "{stop} Default: `{}`.", default.join(" ")).unwrap();
    }
    if let Some(variable) = argument.get_env() {
        let stop = if help.ends_with('.') { "" } else { "." };
        write!(help, "{stop} Environment: `{}`.", variable.to_string_lossy()).unwrap();
    }
    help
}

fn table(arguments: &[&Arg]) -> String {
    let mut text = "| | |\n|---|---|\n".to_owned();
    for argument in arguments {
        writeln!(text, "| {} | {} |", name_of(argument), help_of(argument)).unwrap();
    }
    text
}

fn generated() -> String {
    let mut root = Cli::command();
    root.build();
    let shown = |argument: &&Arg| !argument.is_hide_set() && !matches!(argument.get_id().as_str(), "help" | "version");
    let global: Vec<&Arg> = root.get_arguments().filter(|argument| argument.is_global_set()).filter(shown).collect();
    let mut text = format!("\n## Flags of every command\n\n{}", table(&global));
    let mut commands = Vec::new();
    leaves(&root, "kubectl grid", &mut commands);
    for (name, command) in commands {
        write!(text, "\n## {name}\n\n{}\n", cell(command.get_about().unwrap())).unwrap();
        let own: Vec<&Arg> =
            command.get_arguments().filter(|argument| !argument.is_global_set()).filter(shown).collect();
        if !own.is_empty() {
            write!(text, "\n{}", table(&own)).unwrap();
        }
        let after = command.get_after_help().unwrap().to_string();
        let (examples, rest) = after.strip_prefix("Examples:\n").unwrap().split_once("\n\n").unwrap();
        let examples: String = examples.lines().map(|line| format!("    {}\n", line.trim())).collect();
        write!(text, "\n{examples}\n{}\n", rest.trim().replace('\n', "\n\n")).unwrap();
    }
    text
}

#[test]
fn the_reference_page_names_every_command_flag_and_exit_code() {
    let text = std::fs::read_to_string(PATH).unwrap();
    let (before, found) = text.split_once(MARK).expect("the page has the mark");
    let wanted = generated();
    for word in ["drain", "--no-wait", "--grid-namespace", "--as USER", "Exit codes: 0"] {
        assert!(wanted.contains(word), "{word}");
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PATH, format!("{before}{MARK}{wanted}")).unwrap();
        return;
    }
    assert_eq!(found, wanted, "run this test once with UPDATE_DOCS=1");
}
