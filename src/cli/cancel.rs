//! `kubectl grid cancel JOB`: ends a job and keeps what it has done.

use std::{io::Write, time::Duration};

use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    CliError, Exit, FIELD_MANAGER, lookup,
    output::note,
    session::Session,
    submit::wait::{self, Ended},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl grid cancel hello
  # Wait until what was answered is published
  kubectl grid cancel hello --wait

Exit codes: 0 done (also for a job that was over already), 1 error, 2 not over when the time was up.")]
pub struct CancelArgs {
    /// InferenceJobs to end. What was answered is published; it cannot be taken back.
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<String>,
    /// Waits until they are over.
    #[arg(long)]
    wait: bool,
    /// Gives up waiting after this time.
    #[arg(long, value_name = "SECONDS", requires = "wait", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: Option<u64>,
}

pub async fn run(session: &Session, args: &CancelArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    for name in &args.jobs {
        let said = cancel(session, name).await?;
        writeln!(out, "inferencejob.xdcgrid.io/{name} {said}")?;
    }
    let mut exit = Exit::Done;
    for name in args.jobs.iter().filter(|_| args.wait) {
        if wait::until_over(session, name, args.timeout.map(Duration::from_secs)).await? == Ended::TimeUp {
            note(format_args!("{name} is not over yet: kubectl grid why {name}"));
            exit = Exit::NotYet;
        }
    }
    Ok(exit)
}

async fn cancel(session: &Session, name: &str) -> Result<&'static str, CliError> {
    let job = lookup::job(session, name).await?;
    if wait::is_over(&job) {
        return Ok("was over already");
    }
    if job.spec.cancel {
        return Ok("already cancelled");
    }
    let patch = json!({"spec": {"cancel": true}, "metadata": {"uid": job.uid()}});
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let patched = lookup::jobs(session).patch(name, &parameters, &Patch::Merge(&patch)).await;
    patched.map_err(|error| CliError::from_kube(error, "InferenceJob", name, Some(&session.namespace)))?;
    Ok("cancelled")
}
