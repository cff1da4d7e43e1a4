//! How often bare progress of a job is written. A job of 50 000 requests changes with every answer; nobody reads that fast, and
//! every write costs the API server. What says more than a number is written at once.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::api::inference_job::{InferenceJobStatus, RequestCounts};

const EVERY: Duration = Duration::from_secs(5);
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
    pub fn turn(&self, uid: &str) -> Turn {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.get(uid).map(|at| EVERY.saturating_sub(at.elapsed())) {
            None | Some(Duration::ZERO) => Turn::Now,
            Some(left) => Turn::Later(left),
        }
    }

    pub fn wrote(&self, uid: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= MAX_JOBS {
            last.retain(|_, at| at.elapsed() < EVERY);
        }
        if last.len() < MAX_JOBS {
            last.insert(uid.to_owned(), Instant::now());
        }
    }

    pub fn forget(&self, uid: &str) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

/// True when `new` differs from `old` in numbers only.
pub fn is_progress(old: Option<&InferenceJobStatus>, new: &InferenceJobStatus) -> bool {
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
    use crate::api::{
        conditions::{Finding, set},
        reasons::Reason,
    };

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
    fn the_first_write_is_free_and_the_next_one_waits() {
        let pace = Pace::default();
        assert_eq!(pace.turn("a"), Turn::Now);
        pace.wrote("a");
        assert!(matches!(pace.turn("a"), Turn::Later(left) if left <= EVERY));
        assert_eq!(pace.turn("b"), Turn::Now);
        pace.forget("a");
        assert_eq!(pace.turn("a"), Turn::Now);
    }
}
