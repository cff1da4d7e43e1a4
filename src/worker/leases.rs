//! Slots: which offers were accepted and what runs. A slot is held for a moment after `Accept` and then used by one stream.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{
    api::ids::{GridPeerId, ModelDigest, RequestId},
    protocol::wire::Refused,
};

/// How long an accepted offer keeps its slot for the stream to open.
pub(super) const HOLD: Duration = Duration::from_secs(10);
/// After which a full worker is worth asking again.
const RETRY: Duration = Duration::from_millis(500);

pub(super) type LeaseId = [u8; 16];

/// What an accepted offer was for. A stream must say the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Terms {
    pub gateway: GridPeerId,
    pub request: RequestId,
    pub attempt: u32,
    pub model: ModelDigest,
    pub max_tokens: u32,
}

#[derive(Debug, Default)]
struct State {
    held: HashMap<LeaseId, (Terms, Instant)>,
    running: usize,
    draining: bool,
}

/// The slots of this worker. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Leases {
    slots: usize,
    state: Arc<Mutex<State>>,
    /// Told when anything here changes.
    pub changed: Arc<Notify>,
}

/// A slot in use. Dropping it frees the slot.
#[derive(Debug)]
pub(super) struct Slot {
    leases: Leases,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.leases.lock().running -= 1;
        self.leases.changed.notify_waiters();
        self.leases.changed.notify_one();
    }
}

impl Leases {
    pub(super) fn new(slots: usize, changed: Arc<Notify>) -> Self {
        Leases { slots, state: Arc::default(), changed }
    }

    /// Holds a slot for an offer; `Err` is the rejection.
    pub(super) fn hold(&self, id: LeaseId, terms: Terms, now: Instant) -> Result<(), Refused> {
        let mut state = self.lock();
        state.held.retain(|_, (_, until)| *until > now);
        if state.draining {
            return Err(rejected("Draining", "this worker is stopping", Duration::ZERO));
        }
        if state.running + state.held.len() >= self.slots {
            return Err(rejected("Busy", format!("all {} slots are in use", self.slots), RETRY));
        }
        state.held.insert(id, (terms, now + HOLD));
        Ok(())
    }

    /// Turns a held slot into a running one, once.
    pub(super) fn start(&self, id: &LeaseId, terms: &Terms, now: Instant) -> Result<Slot, Refused> {
        let mut state = self.lock();
        match state.held.remove(id) {
            Some((held, until)) if until > now && held == *terms => {
                state.running += 1;
                self.changed.notify_one();
                Ok(Slot { leases: self.clone() })
            }
            Some((_, until)) if until <= now => {
                Err(rejected("LeaseExpired", "the slot was held for 10 s and is gone", Duration::ZERO))
            }
            // A mismatch costs the lease: nobody may try request after request on one slot.
            Some(_) => Err(rejected("LeaseMismatch", "the lease was given for another request", Duration::ZERO)),
            None => Err(rejected("NoLease", "offer the request first", Duration::ZERO)),
        }
    }

    /// Takes no further offers.
    pub(super) fn drain(&self) {
        self.lock().draining = true;
        self.changed.notify_one();
    }

    pub(super) fn is_draining(&self) -> bool {
        self.lock().draining
    }

    pub(super) fn running(&self) -> usize {
        self.lock().running
    }

    pub(super) fn slots(&self) -> usize {
        self.slots
    }

    /// Waits until nothing runs.
    pub(super) async fn idle(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change falls in between.
            changed.as_mut().enable();
            if self.running() == 0 {
                return;
            }
            // The single permit of `notify_one` may go to the advert loop: look again soon in any case.
            let _ = tokio::time::timeout(Duration::from_millis(100), changed).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `retry_after` of zero: never.
pub(super) fn rejected(reason: &str, message: impl Into<String>, retry_after: Duration) -> Refused {
    let retry_after_ms = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
    Refused { reason: reason.into(), message: message.into(), retry_after_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::identity::NodeKey;

    fn terms() -> Terms {
        Terms {
            gateway: NodeKey::generate().peer_id(),
            request: RequestId([1; 32]),
            attempt: 1,
            model: ModelDigest([2; 32]),
            max_tokens: 8,
        }
    }

    fn leases(slots: usize) -> Leases {
        Leases::new(slots, Arc::default())
    }

    #[test]
    fn a_full_worker_says_busy_and_when_to_ask_again() {
        let (leases, now) = (leases(2), Instant::now());
        let held = terms();
        leases.hold([1; 16], held.clone(), now).unwrap();
        let slot = leases.start(&[1; 16], &held, now).unwrap();
        leases.hold([2; 16], terms(), now).unwrap();
        let refused = leases.hold([3; 16], terms(), now).unwrap_err();
        assert_eq!((refused.reason.as_str(), refused.retry_after_ms), ("Busy", 500));
        drop(slot);
        leases.hold([3; 16], terms(), now).unwrap();
    }

    #[test]
    fn a_held_slot_comes_free_when_nobody_comes() {
        let (leases, now) = (leases(1), Instant::now());
        let held = terms();
        leases.hold([1; 16], held.clone(), now).unwrap();
        assert!(leases.hold([2; 16], terms(), now).is_err());
        leases.hold([2; 16], terms(), now + HOLD).unwrap();
        assert_eq!(leases.start(&[1; 16], &held, now + HOLD).unwrap_err().reason, "NoLease");
    }

    #[test]
    fn a_lease_is_for_one_request_once() {
        let (leases, now) = (leases(1), Instant::now());
        let held = terms();
        leases.hold([1; 16], held.clone(), now).unwrap();
        let other = Terms { attempt: 2, ..held.clone() };
        assert_eq!(leases.start(&[1; 16], &other, now).unwrap_err().reason, "LeaseMismatch");
        assert_eq!(leases.start(&[1; 16], &held, now).unwrap_err().reason, "NoLease");
    }

    #[tokio::test]
    async fn draining_takes_nothing_new_and_waits_for_what_runs() {
        let (leases, now) = (leases(2), Instant::now());
        let held = terms();
        leases.hold([1; 16], held.clone(), now).unwrap();
        let slot = leases.start(&[1; 16], &held, now).unwrap();
        leases.drain();
        assert_eq!(leases.hold([2; 16], terms(), now).unwrap_err().reason, "Draining");
        let waiting = tokio::spawn({
            let leases = leases.clone();
            async move { leases.idle().await }
        });
        drop(slot);
        tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap().unwrap();
    }
}
