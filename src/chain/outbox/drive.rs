//! Steps a record to its end in one go, for tools that a person runs. The operator steps from its own reconcile instead.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{OutboxRecord, step::Outbox};
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

/// Steps until the record is finished. `persist` sees every new version before the next step is taken; where nothing survives
/// the process anyway, pass a function that does nothing. Transient errors are tried again until the timeout.
pub async fn run_to_end(
    outbox: Outbox<'_>,
    mut record: OutboxRecord,
    pace: Pace,
    mut persist: impl FnMut(&OutboxRecord),
) -> Result<OutboxRecord, ChainError> {
    let deadline = tokio::time::Instant::now() + pace.timeout;
    while !record.is_finished() {
        let outcome = outbox.step(&record, unix_seconds()).await;
        let expired = tokio::time::Instant::now() >= deadline;
        match outcome {
            Ok(next) => {
                if next != record {
                    persist(&next);
                }
                record = next;
            }
            Err(error) if expired || !error.is_transient() => return Err(error),
            Err(_) => tokio::time::sleep(pace.poll).await,
        }
        if record.waits_for_the_chain() {
            if expired {
                let (what, state) = (format!("{:?} {}", record.intent.kind, record.intent.key), record.state_name());
                return Err(ChainError::TimedOut { what, seconds: pace.timeout.as_secs(), state });
            }
            tokio::time::sleep(pace.poll).await;
        }
    }
    Ok(record)
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
