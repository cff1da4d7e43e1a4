//! How often bare progress of a job is written. A job of 50 000 requests changes with every answer; nobody reads that fast, and
//! every write costs the API server. That a job runs can wait a moment, because many jobs are done by then. What says more than
//! that is written at once.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::api::{
    conditions,
    inference_job::{InferenceJobStatus, RequestCounts, condition},
    reasons::Reason,
};

/// Between two writes of bare progress.
const PROGRESS: Duration = Duration::from_secs(5);
/// Between the write that a job was taken and the one that it runs.
const START: Duration = Duration::from_secs(2);
/// Far more than jobs that run at once; a bound all the same.
const MAX_JOBS: usize = 100_000;

/// When the status of each job was last written by this process. Losing it costs one write a job.
#[derive(Default)]
pub struct Pace {
    last: Mutex<HashMap<String, Instant>>,
}

/// Whether bare progress may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Now,
    Later(Duration),
}

impl Pace {
    /// Whether the next write may go `every` after the last one.
    pub fn turn(&self, uid: &str, every: Duration) -> Turn {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.get(uid).map(|at| every.saturating_sub(at.elapsed())) {
            None | Some(Duration::ZERO) => Turn::Now,
            Some(left) => Turn::Later(left),
        }
    }

    pub fn wrote(&self, uid: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= MAX_JOBS {
            last.retain(|_, at| at.elapsed() < PROGRESS);
        }
        if last.len() < MAX_JOBS {
            last.insert(uid.to_owned(), Instant::now());
        }
    }

    pub fn forget(&self, uid: &str) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// How long a write of `new` over `old` has to keep from the one before it; `None` when it must not wait.
pub fn of(old: Option<&InferenceJobStatus>, new: &InferenceJobStatus) -> Option<Duration> {
    if is_progress(old, new) {
        return Some(PROGRESS);
    }
    is_start(old, new).then_some(START)
}

/// True when all that `new` says beyond `old` is that the job runs.
fn is_start(old: Option<&InferenceJobStatus>, new: &InferenceJobStatus) -> bool {
    let runs = conditions::is_true(&new.conditions, condition::RUNNING);
    old.is_some_and(|old| runs && before_start(old) == before_start(new))
}

/// A status without what changes when a job starts to run.
fn before_start(status: &InferenceJobStatus) -> InferenceJobStatus {
    let mut bare = InferenceJobStatus { phase: None, reason: None, ..without_numbers(status) };
    let told = [condition::RUNNING, condition::MODEL_READY, condition::RECONCILING];
    let audits = Reason::AuditsPending.as_str();
    bare.conditions.retain(|found| !told.contains(&found.type_.as_str()) && found.reason != audits);
    bare
}

/// True when `new` differs from `old` in numbers only.
fn is_progress(old: Option<&InferenceJobStatus>, new: &InferenceJobStatus) -> bool {
    old.is_some_and(|old| old != new && without_numbers(old) == without_numbers(new))
}

fn without_numbers(status: &InferenceJobStatus) -> InferenceJobStatus {
    let mut bare = InferenceJobStatus {
        progress: None,
        tokens: None,
        throughput: None,
        nodes: None,
        assignments: Vec::new(),
        last_failures: Vec::new(),
        audits: None,
        spend: None,
        requests: status.requests.map(|requests| RequestCounts { completed: 0, failed: 0, ..requests }),
        ..status.clone()
    };
    bare.conditions.iter_mut().for_each(|condition| condition.message.clear());
    bare
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::api::conditions::{Finding, set};

    fn status(completed: i64, finding: Finding) -> InferenceJobStatus {
        let requests = Some(RequestCounts { total: 9, completed, failed: 0 });
        let mut status = InferenceJobStatus { requests, progress: Some(completed.to_string()), ..Default::default() };
        set(&mut status.conditions, "Running", finding, Some(1), &Time(jiff::Timestamp::UNIX_EPOCH));
        status
    }

    #[test]
    fn numbers_can_wait_and_reasons_cannot() {
        let running = |message: &str| Finding::yes(Reason::RequestsRunning, message);
        let before = status(1, running("1 of 9"));
        assert!(is_progress(Some(&before), &status(2, running("2 of 9"))));
        assert!(!is_progress(Some(&before), &before), "no difference is no progress");
        assert!(!is_progress(None, &before));
        assert!(!is_progress(Some(&before), &status(2, Finding::no(Reason::WaitingForCapacity, ""))));
        let longer = InferenceJobStatus { requests: None, ..before.clone() };
        assert!(!is_progress(Some(&before), &longer));
    }

    #[test]
    fn that_a_job_runs_can_wait_for_a_moment_and_that_it_does_not_cannot() {
        let waiting = status(0, Finding::no(Reason::WaitingForCapacity, ""));
        let running = status(1, Finding::yes(Reason::RequestsRunning, ""));
        assert_eq!(of(Some(&waiting), &running), Some(START));
        assert_eq!(of(Some(&running), &waiting), None);
        assert_eq!(of(None, &running), None);
        let mut admitted = running;
        set(
            &mut admitted.conditions,
            condition::ADMITTED,
            Finding::yes(Reason::Submitted, ""),
            Some(1),
            &Time(jiff::Timestamp::UNIX_EPOCH),
        );
        assert_eq!(of(Some(&waiting), &admitted), None, "it says more than that it runs");
    }

    #[test]
    fn the_first_write_is_free_and_the_next_one_waits() {
        let pace = Pace::default();
        assert_eq!(pace.turn("a", PROGRESS), Turn::Now);
        pace.wrote("a");
        assert!(matches!(pace.turn("a", PROGRESS), Turn::Later(left) if left <= PROGRESS));
        assert_eq!(pace.turn("b", PROGRESS), Turn::Now);
        pace.forget("a");
        assert_eq!(pace.turn("a", PROGRESS), Turn::Now);
    }
}
