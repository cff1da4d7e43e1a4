//! Tables for people, JSON for programs.

use std::io::Write;

use comfy_table::{Table, presets};
use serde::Serialize;

use super::CliError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

/// Writes `value` as indented JSON.
pub fn json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), CliError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| CliError::Other(error.to_string()))?;
    Ok(writeln!(out, "{text}")?)
}

/// Writes rows under an upper-case header, as kubectl does. The last column is cut to the terminal, if there is one.
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

/// An empty cell would shift what awk and cut see.
fn blank(cell: String) -> String {
    if cell.is_empty() { "-".into() } else { cell }
}

/// Control characters in text from outside could drive the terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
