//! What commands say: tables for people, JSON, YAML and names for programs; remarks on standard error.

use std::{fmt, io::Write};

#[cfg(any(feature = "cli", feature = "operator"))]
use comfy_table::{Table, presets};
use serde::Serialize;

use super::CliError;

/// The forms of every listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
    Yaml,
    /// Names alone, one a line.
    Name,
}

/// Writes `value` in the form that was asked for. `names` and `table` are asked only when they are needed.
pub fn print(
    out: &mut dyn Write,
    format: Format,
    value: &impl Serialize,
    names: impl FnOnce() -> Vec<String>,
    table: impl FnOnce(&mut dyn Write) -> Result<(), CliError>,
) -> Result<(), CliError> {
    match format {
        Format::Table => table(out),
        Format::Json => json(out, value),
        Format::Yaml => yaml(out, value),
        Format::Name => {
            for name in names() {
                writeln!(out, "{}", one_line(&name))?;
            }
            Ok(())
        }
    }
}

/// Writes `value` as indented JSON.
pub fn json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| CliError::Other(error.to_string()))?;
    Ok(writeln!(out, "{text}")?)
}

pub fn yaml(out: &mut dyn Write, value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_yaml::to_string(value).map_err(|error| CliError::Other(error.to_string()))?;
    Ok(write!(out, "{text}")?)
}

/// Writes rows under an upper-case header, as kubectl does.
#[cfg(any(feature = "cli", feature = "operator"))]
pub fn table(out: &mut dyn Write, header: &[&str], rows: Vec<Vec<String>>) -> Result<(), CliError> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.iter().map(|name| name.to_uppercase()));
    table.add_rows(rows.into_iter().map(|row| row.into_iter().map(blank)));
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// An empty cell would shift what awk and cut see, and so would one of two lines.
#[cfg(any(feature = "cli", feature = "operator"))]
fn blank(cell: String) -> String {
    if cell.is_empty() { "-".into() } else { one_line(&cell) }
}

/// A remark on standard error, for people. Nobody reading it is no failure: `eprintln!` would panic.
pub fn note(text: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Control characters in text from outside could drive the terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// Printable, with every run of white space as one space.
pub fn one_line(text: &str) -> String {
    printable(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(any(feature = "cli", feature = "operator"))]
    #[test]
    fn a_table_reads_like_kubectl() {
        let mut out = Vec::new();
        table(
            &mut out,
            &["name", "ready"],
            vec![vec!["a".into(), "True".into()], vec!["long-name".into(), String::new()]],
        )
        .unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME        READY\na           True\nlong-name   -\n");
    }

    #[test]
    fn an_answer_cannot_drive_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\nc");
        assert_eq!(one_line("a\n\u{1b} b"), "a \u{fffd} b");
    }

    #[test]
    fn every_form_shows_the_same_things() {
        let shown = |format| {
            let mut out = Vec::new();
            let value = serde_json::json!([{"name": "a"}]);
            print(&mut out, format, &value, || vec!["kind/a".into()], |out| Ok(writeln!(out, "NAME\na")?)).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(shown(Format::Table), "NAME\na\n");
        assert_eq!(shown(Format::Json), "[\n  {\n    \"name\": \"a\"\n  }\n]\n");
        assert_eq!(shown(Format::Yaml), "- name: a\n");
        assert_eq!(shown(Format::Name), "kind/a\n");
    }
}
