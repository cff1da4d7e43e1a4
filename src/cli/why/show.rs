//! A tree of causes as text.

use std::io::Write;

use super::cause::{Cause, Explanation};
use crate::cli::{CliError, output::one_line};

pub fn print(explanation: &Explanation, out: &mut dyn Write) -> Result<(), CliError> {
    writeln!(out, "{}", one_line(&explanation.summary))?;
    for cause in &explanation.causes {
        writeln!(out)?;
        // The object's own causes need not repeat its name.
        let about = (cause.about != explanation.about).then_some(cause.about.as_str());
        branch(cause, about, "", "", out)?;
    }
    if !explanation.not_seen.is_empty() {
        writeln!(out, "\nnot looked at:")?;
        for line in &explanation.not_seen {
            writeln!(out, "  {}", one_line(line))?;
        }
    }
    Ok(())
}

/// `first` begins the line of the cause, `rest` those below it.
fn branch(cause: &Cause, about: Option<&str>, first: &str, rest: &str, out: &mut dyn Write) -> Result<(), CliError> {
    let about = about.map(|about| format!("{}: ", one_line(about))).unwrap_or_default();
    let message = if cause.message.is_empty() { String::new() } else { format!(": {}", one_line(&cause.message)) };
    let kind = cause.kind_of_cause.words();
    writeln!(out, "{first}{about}{}{message} [{kind}]", one_line(&cause.reason))?;
    if let Some(remedy) = &cause.remedy {
        let stem = if cause.causes.is_empty() { "  " } else { "│ " };
        writeln!(out, "{rest}{stem}→ {}", one_line(remedy))?;
    }
    let last = cause.causes.len().saturating_sub(1);
    for (at, child) in cause.causes.iter().enumerate() {
        let (tee, stem) = if at == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        branch(child, Some(&child.about), &format!("{rest}{tee}"), &format!("{rest}{stem}"), out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::cause::{About, Verdict},
        *,
    };

    #[test]
    fn causes_hang_below_what_they_cause() {
        let job = About::new("inferencejob", "hello", "team-a");
        let node = About::new("gridnode", "cpu-1", "");
        let causes = vec![Cause::new(&job, "NoWorkerForModel", "no worker").because(vec![
            Cause::new(&node, "Cordoned", "spec.unschedulable is set"),
            Cause::new(&About::new("pod", "worker-a-0", ""), "Other", "odd\u{1b}[2J"),
        ])];
        let explanation = Explanation {
            about: job.to_string(),
            verdict: Verdict::NotYet,
            summary: "inferencejob/hello is not done yet".into(),
            causes,
            not_seen: vec!["pods in xdc-grid: you may not read them".into()],
        };
        let mut out = Vec::new();
        print(&explanation, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "inferencejob/hello is not done yet");
        assert_eq!(lines[2], "NoWorkerForModel: no worker [no matching node]");
        assert!(lines[3].starts_with("│ → A node must list"), "{text}");
        assert_eq!(lines[4], "├─ gridnode/cpu-1: Cordoned: spec.unschedulable is set [refused]");
        assert_eq!(lines[5], "│    → When it is to work again: `kubectl grid uncordon cpu-1`.");
        assert_eq!(lines[6], "└─ pod/worker-a-0: Other: odd\u{fffd}[2J [unavailable]");
        assert_eq!(lines[9], "  pods in xdc-grid: you may not read them");
    }
}
