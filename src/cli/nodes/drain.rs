//! `kubectl grid drain NODE`: cordons it and waits until it has finished what it runs.

use std::{io::Write, time::Duration};

use futures::{Stream, StreamExt};
use kube::runtime::{WatchStreamExt, watcher};
use tokio::time::timeout;

use super::{Change, full_name, set_unschedulable};
use crate::{
    api::{
        conditions::{self, Truth},
        grid_node::{GridNode, condition},
    },
    cli::{CliError, Exit, lookup, output::note, session::Session},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  # Before the machine is taken down; the GridNode stays
  kubectl grid drain cpu-1
  # Wait for a minute at most, then say whether it is empty
  kubectl grid drain cpu-1 --timeout 60

Exit codes: 0 empty, 1 error, 2 cordoned but still at work when the time was up.")]
pub struct DrainArgs {
    /// GridNode that is to finish its work and take no new one.
    #[arg(value_name = "NODE")]
    node: String,
    /// Seconds to wait (default: spec.drain.deadlineSeconds of the node).
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    timeout: Option<u64>,
}

pub async fn run(session: &Session, args: &DrainArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let name = &args.node;
    let (node, change) = set_unschedulable(session, name, true).await?;
    if change == Change::Made {
        note(format_args!("{} cordoned", full_name(name)));
    }
    let seconds = args.timeout.unwrap_or(node.spec.drain.deadline_seconds.unsigned_abs());
    let wanted = node.metadata.generation.unwrap_or(0);
    let changes = watcher::watch_object(lookup::nodes(session), name).default_backoff();
    let ended = timeout(Duration::from_secs(seconds), until_empty(changes, wanted)).await;
    match ended {
        Ok(State::Empty) => {
            writeln!(out, "{} drained", full_name(name))?;
            Ok(Exit::Done)
        }
        Ok(State::Gone) => {
            writeln!(out, "{} is gone", full_name(name))?;
            Ok(Exit::Done)
        }
        Ok(_) | Err(_) => {
            note(format_args!(
                "{name} is cordoned, but not known to be empty after {seconds} s; again: kubectl grid drain {name}"
            ));
            Ok(Exit::NotYet)
        }
    }
}

/// How far a node is with leaving its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The operator has not seen the change yet, or cannot ask the gateway.
    Unknown,
    AtWork,
    Empty,
    Gone,
}

/// Waits until there is nothing to wait for; an API server that is away is waited for as well.
async fn until_empty(changes: impl Stream<Item = watcher::Result<Option<GridNode>>>, generation: i64) -> State {
    let mut changes = std::pin::pin!(changes);
    let mut told = None;
    while let Some(change) = changes.next().await {
        let Ok(node) = change else { continue };
        let state = state(node.as_ref(), generation);
        if matches!(state, State::Empty | State::Gone) {
            return state;
        }
        if told != Some(state) {
            told = Some(state);
            note(format_args!(
                "{}",
                match state {
                    State::AtWork => "waiting for its running requests",
                    _ => "waiting for the operator to see it",
                }
            ));
        }
    }
    State::Unknown
}

fn state(node: Option<&GridNode>, generation: i64) -> State {
    let Some(node) = node else { return State::Gone };
    let Some(status) = &node.status else { return State::Unknown };
    if status.observed_generation.unwrap_or(0) < generation {
        return State::Unknown;
    }
    match conditions::find(&status.conditions, condition::DRAINING).map(|draining| draining.status) {
        Some(Truth::True) => State::AtWork,
        Some(Truth::Unknown) => State::Unknown,
        Some(Truth::False) | None => State::Empty,
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use serde_json::{Value, json};

    use super::*;

    fn node(seen: i64, draining: Option<&str>) -> GridNode {
        let condition = |status: &str| -> Value {
            json!({"type": "Draining", "status": status, "reason": "DrainInProgress", "message": "",
                "lastTransitionTime": "2026-11-24T00:00:00Z"})
        };
        serde_json::from_value(json!({
            "apiVersion": "xdcgrid.io/v1alpha1", "kind": "GridNode", "metadata": {"name": "a"},
            "spec": {"networkRef": {"name": "main"}, "mode": "Managed", "unschedulable": true},
            "status": {"observedGeneration": seen, "conditions": draining.map(condition).into_iter().collect::<Vec<_>>()}
        }))
        .unwrap()
    }

    #[test]
    fn a_node_is_empty_only_when_the_operator_has_seen_the_change() {
        assert_eq!(state(Some(&node(1, None)), 2), State::Unknown);
        assert_eq!(state(Some(&node(2, Some("True"))), 2), State::AtWork);
        assert_eq!(state(Some(&node(2, Some("Unknown"))), 2), State::Unknown);
        assert_eq!(state(Some(&node(2, None)), 2), State::Empty);
        assert_eq!(state(None, 2), State::Gone);
    }

    #[tokio::test]
    async fn waiting_ends_with_the_work() {
        let changes = [Ok(Some(node(1, None))), Ok(Some(node(2, Some("True")))), Ok(Some(node(2, None)))];
        assert_eq!(until_empty(stream::iter(changes), 2).await, State::Empty);
        let deleted = [Ok(Some(node(2, Some("True")))), Ok(None)];
        assert_eq!(until_empty(stream::iter(deleted), 2).await, State::Gone);
    }
}
