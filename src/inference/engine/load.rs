//! Numbers that requests and the engine thread keep up to date, for admission and for metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use super::AdmissionError;

/// Shared by the handles and the thread of an engine.
#[derive(Default)]
pub(crate) struct LoadCounters {
    /// Requests that were taken and have not ended.
    pub(crate) taken: AtomicUsize,
    pub(super) running: AtomicUsize,
    /// Tokens that the taken requests may still need.
    outstanding: AtomicU64,
    /// Tokens a second over the last steps.
    pub(crate) speed: AtomicU64,
    /// Milliseconds until the first running sequence will probably have ended; 0 = not known.
    pub(super) room_in_ms: AtomicU64,
    /// Bytes of keys and values that are kept and not used.
    pub(super) kv_reusable: AtomicU64,
    pub(super) totals: Totals,
}

impl LoadCounters {
    /// All places are taken until about the time when the first of them will be free.
    pub(crate) fn busy(&self) -> AdmissionError {
        self.totals.refused.fetch_add(1, Relaxed);
        let seconds = match self.room_in_ms.load(Relaxed) {
            0 => self.outstanding.load(Relaxed) / self.speed.load(Relaxed).max(1),
            room => room.div_ceil(1000),
        };
        AdmissionError::Busy { retry_after: Duration::from_secs(seconds.clamp(1, 60)) }
    }
}

/// Counts since the start.
#[derive(Default)]
pub(super) struct Totals {
    steps: AtomicU64,
    sequences: AtomicU64,
    decoded: AtomicU64,
    prefilled: AtomicU64,
    pub looked_up: AtomicU64,
    pub found: AtomicU64,
    pub cancelled: AtomicU64,
    pub late: AtomicU64,
    pub parked: AtomicU64,
    refused: AtomicU64,
}

impl Totals {
    pub fn note_step(&self, sequences: usize, decoded: usize, prefilled: usize) {
        self.steps.fetch_add(1, Relaxed);
        self.sequences.fetch_add(sequences as u64, Relaxed);
        self.decoded.fetch_add(decoded as u64, Relaxed);
        self.prefilled.fetch_add(prefilled as u64, Relaxed);
    }

    pub fn now(&self) -> EngineTotals {
        EngineTotals {
            steps: self.steps.load(Relaxed),
            step_sequences: self.sequences.load(Relaxed),
            decoded_tokens: self.decoded.load(Relaxed),
            prefilled_tokens: self.prefilled.load(Relaxed),
            prefix_tokens: self.looked_up.load(Relaxed),
            prefix_hit_tokens: self.found.load(Relaxed),
            cancelled: self.cancelled.load(Relaxed),
            late: self.late.load(Relaxed),
            parked: self.parked.load(Relaxed),
            refused: self.refused.load(Relaxed),
        }
    }
}

/// What an engine has done since it was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineTotals {
    pub steps: u64,
    /// Sequences over all steps: divided by the steps, the mean size of a batch.
    pub step_sequences: u64,
    /// Tokens that were computed one at a time.
    pub decoded_tokens: u64,
    /// Tokens of prompts and replays that were computed.
    pub prefilled_tokens: u64,
    /// Tokens of requests with a tenant that might have been computed before.
    pub prefix_tokens: u64,
    /// The part of them that was.
    pub prefix_hit_tokens: u64,
    /// Requests whose readers left.
    pub cancelled: u64,
    /// Requests that ended at their deadline.
    pub late: u64,
    /// Sequences that left their place because of a slow reader.
    pub parked: u64,
    /// Requests that were refused because all places were taken.
    pub refused: u64,
}

/// A place of a request; given back when dropped.
pub(crate) struct Ticket {
    counters: Arc<LoadCounters>,
    tokens: u64,
}

impl Ticket {
    pub(crate) fn take(counters: &Arc<LoadCounters>, places: usize, tokens: u64) -> Option<Self> {
        counters.taken.fetch_update(Relaxed, Relaxed, |taken| (taken < places).then_some(taken + 1)).ok()?;
        counters.outstanding.fetch_add(tokens, Relaxed);
        Some(Self { counters: counters.clone(), tokens })
    }

    /// Notes that `done` of the tokens are computed.
    pub(crate) fn progress(&mut self, done: u64) {
        let done = done.min(self.tokens);
        self.tokens -= done;
        self.counters.outstanding.fetch_sub(done, Relaxed);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.counters.outstanding.fetch_sub(self.tokens, Relaxed);
        self.counters.taken.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry_after(counters: &LoadCounters) -> u64 {
        match counters.busy() {
            AdmissionError::Busy { retry_after } => retry_after.as_secs(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn the_time_to_wait_is_what_was_estimated_else_what_the_tokens_take() {
        let counters = Arc::new(LoadCounters::default());
        let mut ticket = Ticket::take(&counters, 1, 500).unwrap();
        assert!(Ticket::take(&counters, 1, 1).is_none());
        counters.speed.store(50, Relaxed);
        assert_eq!(retry_after(&counters), 10);
        ticket.progress(400);
        assert_eq!(retry_after(&counters), 2);
        counters.room_in_ms.store(6_100, Relaxed);
        assert_eq!(retry_after(&counters), 7);
        counters.room_in_ms.store(600_000, Relaxed);
        assert_eq!(retry_after(&counters), 60);
        assert_eq!(counters.totals.now().refused, 4);
        drop(ticket);
        assert!(Ticket::take(&counters, 1, 1).is_some());
    }
}
