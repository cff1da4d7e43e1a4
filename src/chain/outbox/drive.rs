//! Steps a record to its end in one go, for tools that a person runs. The operator steps from its own reconcile instead.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{Inclusion, OutboxRecord, OutboxState, step::Outbox};
use crate::chain::error::ChainError;

/// How often to ask, and when to give up.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub poll: Duration,
    pub timeout: Duration,
}

impl Default for Pace {
    /// A block every 2 s; final after 3 of them when all is well, a minute and more when a leader is missing.
    fn default() -> Self {
        Pace { poll: Duration::from_secs(2), timeout: Duration::from_secs(180) }
    }
}

/// Steps until the transaction is final and returns where it is; a mined revert is [`ChainError::Refused`]. `persist` sees every
/// new version before the next step is taken; where nothing survives the process anyway, pass a function that does nothing.
/// Transient errors are tried again until the timeout.
pub async fn run_to_end(
    outbox: Outbox<'_>,
    mut record: OutboxRecord,
    pace: Pace,
    mut persist: impl FnMut(&OutboxRecord),
) -> Result<Inclusion, ChainError> {
    let deadline = tokio::time::Instant::now() + pace.timeout;
    loop {
        let expired = tokio::time::Instant::now() >= deadline;
        match outbox.step(&record, unix_seconds()).await {
            Ok(next) if next != record => {
                persist(&next);
                record = next;
            }
            Ok(_) if expired => return Err(timed_out(&record, pace)),
            Err(error) if expired || !error.is_transient() => return Err(error),
            // Nothing new on chain, or nobody answered.
            Ok(_) | Err(_) => {}
        }
        match record.state {
            OutboxState::Finalized { inclusion } => return Ok(inclusion),
            OutboxState::Failed { refusal, .. } => return Err(ChainError::Refused(refusal)),
            OutboxState::Signed { .. } => {}
            _ => tokio::time::sleep(pace.poll).await,
        }
    }
}

fn timed_out(record: &OutboxRecord, pace: Pace) -> ChainError {
    let what = format!("{:?} {}", record.intent.kind, record.intent.key);
    ChainError::TimedOut { what, seconds: pace.timeout.as_secs(), state: record.state_name() }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
