//! Requests that are with a worker, or on their way to one: what the dispatcher must not give out again.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::sync::watch;

use crate::api::ids::{GridPeerId, RequestId};

/// Why a running request is to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Its job or its client does not want it any more: it fails for good.
    Cancelled,
    /// Its worker must not go on: it goes elsewhere.
    WorkerExcluded,
}

/// One request on its way.
#[derive(Debug, Clone)]
pub struct Flight {
    pub request: RequestId,
    pub attempt: u32,
    pub peer: GridPeerId,
    pub job: Option<String>,
    pub max_tokens: u32,
    /// Tokens made so far.
    pub made: Arc<AtomicU32>,
    /// Set once when it is to stop.
    pub stop: watch::Sender<Option<Stop>>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Flights {
    flights: Mutex<HashMap<RequestId, Flight>>,
}

/// How much a worker has of ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    pub requests: u32,
    /// Tokens still to be made, at most.
    pub tokens: u64,
}

impl Load {
    fn add(&mut self, flight: &Flight) {
        self.requests += 1;
        self.tokens += u64::from(flight.max_tokens.saturating_sub(flight.made.load(Ordering::Relaxed)));
    }
}

impl Flights {
    /// Claims a request; `None` when it is on its way already.
    pub(super) fn claim(
        &self,
        request: RequestId,
        attempt: u32,
        peer: GridPeerId,
        job: Option<String>,
        max_tokens: u32,
    ) -> Option<Flight> {
        let mut flights = self.lock();
        if flights.contains_key(&request) {
            return None;
        }
        let (made, stop) = (Arc::default(), watch::Sender::new(None));
        let flight = Flight { request, attempt, peer, job, max_tokens, made, stop };
        flights.insert(request, flight.clone());
        Some(flight)
    }

    pub(super) fn release(&self, request: &RequestId) {
        self.lock().remove(request);
    }

    pub(super) fn load(&self, peer: &GridPeerId) -> Load {
        let flights = self.lock();
        let mut load = Load::default();
        flights.values().filter(|flight| flight.peer == *peer).for_each(|flight| load.add(flight));
        load
    }

    /// The load of every worker that has something of ours.
    pub(super) fn loads(&self) -> HashMap<GridPeerId, Load> {
        let flights = self.lock();
        let mut loads: HashMap<GridPeerId, Load> = HashMap::new();
        for flight in flights.values() {
            match loads.get_mut(&flight.peer) {
                Some(load) => load.add(flight),
                None => {
                    loads.entry(flight.peer.clone()).or_default().add(flight);
                }
            }
        }
        loads
    }

    pub(super) fn cancel_job(&self, uid: &str) {
        self.stop_where(Stop::Cancelled, |flight| flight.job.as_deref() == Some(uid));
    }

    pub(super) fn cancel_request(&self, request: &RequestId) {
        self.stop_where(Stop::Cancelled, |flight| flight.request == *request);
    }

    /// Takes everything away from a worker.
    pub(super) fn cancel_peer(&self, peer: &GridPeerId) {
        self.stop_where(Stop::WorkerExcluded, |flight| flight.peer == *peer);
    }

    fn stop_where(&self, why: Stop, stops: impl Fn(&Flight) -> bool) {
        for flight in self.lock().values().filter(|flight| stops(flight)) {
            flight.stop.send_replace(Some(why));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RequestId, Flight>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
