//! Per-object exponential backoff: one broken object never slows down the others.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(120);

/// Failures in a row per object, keyed by kind, namespace and name. An entry lives until the object succeeds or is gone.
#[derive(Debug, Default)]
pub struct Backoffs {
    failures: Mutex<HashMap<String, u32>>,
}

impl Backoffs {
    /// How long to wait after one more failure of `key`.
    pub fn failed(&self, key: &str) -> Duration {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.entry(key.to_owned()).or_default();
        *count = count.saturating_add(1);
        FIRST.saturating_mul(1 << (*count - 1).min(10)).min(LONGEST)
    }

    pub fn succeeded(&self, key: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Objects that are backing off now.
    pub fn len(&self) -> usize {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound_and_start_again_after_a_success() {
        let backoffs = Backoffs::default();
        assert_eq!(backoffs.failed("a"), FIRST);
        assert_eq!(backoffs.failed("a"), FIRST * 2);
        assert_eq!(backoffs.failed("b"), FIRST);
        for _ in 0..100 {
            assert!(backoffs.failed("a") <= LONGEST);
        }
        backoffs.succeeded("a");
        assert_eq!(backoffs.failed("a"), FIRST);
    }
}
