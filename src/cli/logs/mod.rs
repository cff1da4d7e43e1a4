//! `kubectl grid logs JOB`: what was said about a job, and the logs of the pods that work or worked on it, as far as the person may
//! read them. Logs of workers hold no prompt and no answer.

mod lines;
mod pods;

use std::io::Write;

use futures::{AsyncBufReadExt, StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api, ResourceExt,
    api::{ListParams, LogParams},
};

use self::pods::{Workers, find};
use super::{
    CliError, Exit, lookup,
    output::{note, printable},
    session::{GridNamespace, Session},
};
use crate::api::inference_job::InferenceJob;

/// Logs that are followed at once.
const MAX_PODS: usize = 20;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl grid logs hello
  # Go on until the pods end or you interrupt
  kubectl grid logs hello --follow --tail 10
  # What was said about it, without logs
  kubectl grid logs hello --events-only

Exit codes: 0 done, 1 error, 2 nothing works on the job yet.")]
pub struct LogsArgs {
    /// Name of the InferenceJob.
    #[arg(value_name = "JOB")]
    job: String,
    /// Goes on as lines come.
    #[arg(short, long)]
    follow: bool,
    /// Last lines of each pod; -1 for all.
    #[arg(long, value_name = "LINES", default_value_t = 50, allow_negative_numbers = true)]
    tail: i64,
    /// Only lines of the last seconds.
    #[arg(long, value_name = "SECONDS")]
    since: Option<i64>,
    /// Logs of the containers that ran before the last restart.
    #[arg(long, conflicts_with = "follow")]
    previous: bool,
    /// Only events.
    #[arg(long, conflicts_with_all = ["follow", "previous"])]
    events_only: bool,
    #[command(flatten)]
    system: GridNamespace,
}

pub async fn run(session: &Session, args: &LogsArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let job = lookup::job(session, &args.job).await?;
    for line in lines::events(&events(session, &job).await) {
        writeln!(out, "{line}")?;
    }
    if args.events_only {
        return Ok(Exit::Done);
    }
    let workers = find(session, &job, &args.system.grid_namespace).await?;
    for remark in &workers.remarks {
        note(format_args!("{remark}"));
    }
    if workers.pods.is_empty() && workers.remarks.is_empty() {
        note(format_args!("nothing works on {0} yet: kubectl grid why {0}", args.job));
        return Ok(Exit::NotYet);
    }
    if args.follow {
        tokio::select! {
            ended = follow(session, args, &workers, out) => ended,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Done),
        }
    } else {
        print(session, args, &workers, out).await
    }
}

/// Events are a courtesy: without the right to read them there are none.
async fn events(session: &Session, job: &InferenceJob) -> Vec<Event> {
    let api: Api<Event> = Api::namespaced(session.client.clone(), &session.namespace);
    let about = format!("involvedObject.uid={}", job.uid().unwrap_or_default());
    match api.list(&ListParams::default().fields(&about)).await {
        Ok(found) => found.items,
        Err(error) => {
            note(format_args!("no events: {}", CliError::from_kube(error, "Event", "", Some(&session.namespace))));
            Vec::new()
        }
    }
}

fn parameters(args: &LogsArgs) -> LogParams {
    LogParams {
        follow: args.follow,
        previous: args.previous,
        since_seconds: args.since,
        tail_lines: (args.tail >= 0).then_some(args.tail),
        ..LogParams::default()
    }
}

async fn print(session: &Session, args: &LogsArgs, workers: &Workers, out: &mut dyn Write) -> Result<Exit, CliError> {
    for pod in &workers.pods {
        let api: Api<Pod> = Api::namespaced(session.client.clone(), &workers.namespace);
        writeln!(out, "── {}", lines::heading(pod))?;
        match api.logs(&pod.name_any(), &parameters(args)).await {
            Ok(text) => writeln!(out, "{}", printable(text.trim_end()))?,
            // One pod without a log does not hide those of the others.
            Err(error) => note(format_args!("{}", lines::no_log(pod, error, &workers.namespace))),
        }
    }
    Ok(Exit::Done)
}

/// Lines of all pods as they come, each with the name of its pod.
async fn follow(session: &Session, args: &LogsArgs, workers: &Workers, out: &mut dyn Write) -> Result<Exit, CliError> {
    let api: Api<Pod> = Api::namespaced(session.client.clone(), &workers.namespace);
    let mut streams = Vec::new();
    for pod in workers.pods.iter().take(MAX_PODS) {
        let name = pod.name_any();
        match api.log_stream(&name, &parameters(args)).await {
            Ok(stream) => streams.push(stream.lines().map_ok(move |line| (name.clone(), line)).boxed()),
            Err(error) => note(format_args!("{}", lines::no_log(pod, error, &workers.namespace))),
        }
    }
    if workers.pods.len() > MAX_PODS {
        note(format_args!("only {MAX_PODS} of {} pods are followed", workers.pods.len()));
    }
    let mut all = stream::select_all(streams);
    while let Some(line) = all.next().await {
        match line {
            Ok((pod, line)) => writeln!(out, "[{pod}] {}", printable(&line))?,
            Err(error) => note(format_args!("a log ended early: {error}")),
        }
        out.flush()?;
    }
    Ok(Exit::Done)
}
