//! Why a process is not ready, named part by part.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Shared list of the parts that a process waits for. Ready when it is empty.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    waiting: Arc<Mutex<BTreeMap<String, String>>>,
}

impl Readiness {
    /// Marks `part` as not ready, with a sentence for people.
    pub fn waiting(&self, part: &str, why: impl Into<String>) {
        self.lock().insert(part.to_owned(), why.into());
    }

    pub fn ready(&self, part: &str) {
        self.lock().remove(part);
    }

    /// `None` when ready; else one line a part.
    pub fn missing(&self) -> Option<String> {
        let waiting = self.lock();
        if waiting.is_empty() {
            return None;
        }
        Some(waiting.iter().map(|(part, why)| format!("{part}: {why}\n")).collect())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
