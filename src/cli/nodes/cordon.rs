//! `kubectl grid cordon` and `uncordon`.

use std::io::Write;

use super::{Change, full_name, set_unschedulable};
use crate::cli::{CliError, Exit, session::Session};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl grid cordon cpu-1
  kubectl grid cordon cpu-1 cpu-2

Exit codes: 0 done, 1 error.")]
pub struct CordonArgs {
    /// GridNodes that are to take no new work.
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl grid uncordon cpu-1

Exit codes: 0 done, 1 error.")]
pub struct UncordonArgs {
    /// GridNodes that are to take work again.
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
}

pub async fn run(session: &Session, args: &CordonArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    each(session, &args.nodes, true, "cordoned", out).await
}

pub async fn uncordon(session: &Session, args: &UncordonArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    each(session, &args.nodes, false, "uncordoned", out).await
}

async fn each(
    session: &Session,
    nodes: &[String],
    unschedulable: bool,
    done: &str,
    out: &mut dyn Write,
) -> Result<Exit, CliError> {
    for name in nodes {
        let (_, change) = set_unschedulable(session, name, unschedulable).await?;
        let done = match change {
            Change::Made => done.to_owned(),
            Change::Already => format!("already {done}"),
        };
        writeln!(out, "{} {done}", full_name(name))?;
    }
    Ok(Exit::Done)
}
