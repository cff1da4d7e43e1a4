//! Follows a job until it is over: a bar on a terminal, a line for each piece of news elsewhere.

use std::{
    io::{IsTerminal, stderr},
    time::Duration,
};

use futures::{Stream, StreamExt};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kube::runtime::{WatchStreamExt, watcher};

use crate::{
    api::{
        conditions::{self, Truth},
        inference_job::{InferenceJob, condition},
    },
    cli::{
        CliError, lookup,
        output::{note, one_line},
        session::Session,
    },
};

/// Why waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The job is complete or has failed.
    Over,
    Deleted,
    /// The deadline passed, or the person interrupted.
    TimeUp,
}

/// Waits until a job is over. An API server that goes away for a while is waited for as well.
pub async fn until_over(session: &Session, name: &str, limit: Option<Duration>) -> Result<Ended, CliError> {
    let changes = watcher::watch_object(lookup::jobs(session), name).default_backoff();
    let mut display = Display::new();
    let ended = tokio::select! {
        ended = follow(changes, &mut display) => ended,
        () = time_up(limit) => Ok(Ended::TimeUp),
        _ = tokio::signal::ctrl_c() => Ok(Ended::TimeUp),
    };
    display.clear();
    ended
}

async fn time_up(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

async fn follow(
    changes: impl Stream<Item = watcher::Result<Option<InferenceJob>>>,
    display: &mut Display,
) -> Result<Ended, CliError> {
    let mut changes = std::pin::pin!(changes);
    let mut seen = false;
    while let Some(change) = changes.next().await {
        match change {
            Ok(Some(job)) if is_over(&job) => {
                display.show(&Progress::of(&job));
                return Ok(Ended::Over);
            }
            Ok(Some(job)) => {
                seen = true;
                display.show(&Progress::of(&job));
            }
            // Before the first sight of it, the list may be older than the job.
            Ok(None) if seen => return Ok(Ended::Deleted),
            Ok(None) => {}
            Err(error) if is_refused(&error) => return Err(CliError::Refused(one_line(&error.to_string()))),
            Err(_) => display.away(),
        }
    }
    Ok(Ended::TimeUp)
}

/// What no waiting mends.
fn is_refused(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status)) | WatchStartFailed(kube::Error::Api(status)) => {
            matches!(status.code, 401 | 403)
        }
        WatchFailed(_)
        | WatchError(_)
        | InitialListFailed(_)
        | WatchStartFailed(_)
        | watcher::Error::NoResourceVersion => false,
    }
}

pub fn is_over(job: &InferenceJob) -> bool {
    let conditions = job.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    [condition::COMPLETE, condition::FAILED].iter().any(|type_| conditions::is_true(conditions, type_))
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
    pub failed: u64,
    /// One line: the phase, or what it waits for.
    pub state: String,
}

impl Progress {
    pub fn of(job: &InferenceJob) -> Self {
        let status = job.status.clone().unwrap_or_default();
        let requests = status.requests.unwrap_or_default();
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        let phase = status.phase.map_or_else(|| "Pending".to_owned(), |phase| format!("{phase:?}"));
        // The reason says more than the phase, as long as something is in the way.
        let because = status.reason.filter(|reason| !reason.is_empty()).map(|reason| {
            let message = status.conditions.iter().find(|c| c.reason == reason && c.status != Truth::True);
            let message = message.map(|condition| format!(": {}", condition.message)).unwrap_or_default();
            format!(", {reason}{message}")
        });
        Progress {
            done: count(requests.completed) + count(requests.failed),
            total: count(requests.total),
            failed: count(requests.failed),
            state: one_line(&format!("{phase}{}", because.unwrap_or_default())),
        }
    }
}

/// A bar for a terminal, lines for everything else.
enum Display {
    Bar(ProgressBar),
    Lines(Option<Progress>),
}

impl Display {
    fn new() -> Self {
        if !stderr().is_terminal() {
            return Display::Lines(None);
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} [{bar:30}] {pos}/{len} {elapsed} {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_millis(200));
        Display::Bar(bar)
    }

    fn show(&mut self, progress: &Progress) {
        let failed = if progress.failed > 0 { format!(" ({} failed)", progress.failed) } else { String::new() };
        match self {
            Display::Bar(bar) => {
                bar.set_length(progress.total);
                bar.set_position(progress.done);
                bar.set_message(format!("{}{failed}", progress.state));
            }
            Display::Lines(last) if last.as_ref() == Some(progress) => {}
            Display::Lines(last) => {
                note(format_args!("{}/{}{failed} {}", progress.done, progress.total, progress.state));
                *last = Some(progress.clone());
            }
        }
    }

    fn away(&mut self) {
        if let Display::Bar(bar) = self {
            bar.set_message("the API server is away; waiting for it");
        }
    }

    fn clear(&mut self) {
        if let Display::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use serde_json::{Value, json};

    use super::*;

    fn job(status: Value) -> InferenceJob {
        serde_json::from_value(json!({
            "apiVersion": "xdcgrid.io/v1alpha1", "kind": "InferenceJob", "metadata": {"name": "hello"},
            "spec": {"workload": {"modelRef": {"name": "tiny"}, "input": {"inline": "a"}, "output": {"configMap": {"name": "r"}}}},
            "status": status
        }))
        .unwrap()
    }

    fn condition(type_: &str, status: &str, reason: &str) -> Value {
        json!({"type": type_, "status": status, "reason": reason, "message": "no worker",
            "lastTransitionTime": "2026-11-24T00:00:00Z"})
    }

    #[test]
    fn progress_says_what_the_job_waits_for() {
        let waiting = job(json!({
            "phase": "Queued", "reason": "NoWorkerForModel", "requests": {"total": 4, "completed": 1, "failed": 1},
            "conditions": [condition("ModelReady", "False", "NoWorkerForModel")]
        }));
        let expected = Progress { done: 2, total: 4, failed: 1, state: "Queued, NoWorkerForModel: no worker".into() };
        assert_eq!(Progress::of(&waiting), expected);
        assert_eq!(Progress::of(&job(json!({}))).state, "Pending");
    }

    #[tokio::test]
    async fn waiting_ends_with_a_terminal_condition_or_with_the_job() {
        let running = || Ok(Some(job(json!({"phase": "Running"}))));
        let complete = Ok(Some(job(json!({"conditions": [condition("Complete", "True", "Completed")]}))));
        let mut display = Display::Lines(None);
        let ended = follow(stream::iter([Ok(None), running(), complete]), &mut display).await;
        assert_eq!(ended.unwrap(), Ended::Over);
        let ended = follow(stream::iter([running(), Ok(None)]), &mut display).await;
        assert_eq!(ended.unwrap(), Ended::Deleted);
    }
}
