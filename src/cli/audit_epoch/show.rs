//! Verdicts for people and for programs.

use std::io::Write;

use serde_json::json;

use super::{
    AuditFormat,
    judge::{Form, Verdict},
};
use crate::cli::{CliError, output};

pub fn print(verdicts: &[Verdict], format: AuditFormat, out: &mut dyn Write) -> Result<(), CliError> {
    match format {
        AuditFormat::Json => {
            let equal = verdicts.iter().all(Verdict::is_equal);
            output::json(out, &json!({"equal": equal, "epochs": verdicts}))
        }
        AuditFormat::Table => table(verdicts, out),
    }
}

fn table(verdicts: &[Verdict], out: &mut dyn Write) -> Result<(), CliError> {
    let header = ["epoch", "verdict", "leaves", "xdc", "receipts", "form", "block", "transaction"];
    output::table(out, &header, verdicts.iter().map(row).collect())?;
    let differences: Vec<_> = verdicts.iter().flat_map(differences).collect();
    if !differences.is_empty() {
        writeln!(out)?;
        output::table(out, &["epoch", "what", "subject", "expected", "found"], differences)?;
    }
    for verdict in verdicts {
        if verdict.differences_omitted > 0 {
            writeln!(out, "epoch {}: and {} more differences", verdict.epoch, verdict.differences_omitted)?;
        }
        for note in &verdict.notes {
            writeln!(out, "epoch {}: {}", verdict.epoch, output::one_line(note))?;
        }
    }
    Ok(())
}

fn row(verdict: &Verdict) -> Vec<String> {
    let said = match (verdict.is_equal(), verdict.recomputed) {
        (false, _) => "differs",
        (true, true) => "equal",
        (true, false) => "consistent",
    };
    let form = match verdict.form {
        Form::Unchanged => "unchanged",
        Form::Whole => "whole",
        Form::Changes => "changes",
        Form::Unknown => "unknown",
    };
    vec![
        if verdict.dropped { format!("{} (dropped)", verdict.epoch) } else { verdict.epoch.to_string() },
        said.to_owned(),
        verdict.leaves.to_string(),
        verdict.increase_wei.to_xdc(),
        verdict.receipts.to_string(),
        form.to_owned(),
        verdict.block.to_string(),
        verdict.transaction.to_string(),
    ]
}

fn differences(verdict: &Verdict) -> Vec<Vec<String>> {
    let cells = |difference: &super::difference::Difference| {
        vec![
            verdict.epoch.to_string(),
            format!("{:?}", difference.what),
            difference.subject.clone(),
            difference.expected.clone(),
            difference.found.clone(),
        ]
    };
    verdict.differences.iter().map(cells).collect()
}
