//! The models of this worker: from an assignment to an engine that passed its self-test. One task does the work, one model
//! at a time; everybody else reads.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tracing::{info, warn};

use super::{
    assignment::{Assignment, Wanted},
    engine::{AnswerEngine, EngineProvider, EngineSettings},
    fetch::{BlobFolder, BlobSource},
    self_test::self_test,
};
use crate::{
    api::ids::ModelDigest,
    download::Fetching,
    inference::metrics::Measured,
    protocol::{internal::NodeRole, wire},
};

/// Pause before trying again what may mend itself, doubled with each try.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// Pause before trying again what somebody must mend first.
const PERMANENT_RETRY: Duration = Duration::from_secs(600);

/// A model that can serve.
#[derive(Clone)]
pub(super) struct Ready {
    pub engine: Arc<dyn AnswerEngine>,
    pub served: wire::ServedModel,
}

enum State {
    Waiting,
    /// The gateway does not have the file itself. What is here of it stays; it may be the last copy.
    Awaited,
    Fetching(Fetching),
    Loading,
    Measuring,
    Ready(Ready),
    /// Held for Storage only: no engine is wanted.
    Stored,
    Failed {
        reason: String,
        message: String,
        again: Instant,
    },
}

struct Entry {
    wanted: Wanted,
    state: State,
    failures: u32,
}

#[derive(Default)]
struct Shared {
    /// `None` until a gateway has said what to serve.
    assigned: bool,
    roles: Vec<NodeRole>,
    entries: BTreeMap<ModelDigest, Entry>,
    /// Files to delete: no longer assigned.
    discarded: Vec<ModelDigest>,
}

/// Handle on the models. Cheap to clone.
#[derive(Clone)]
pub(super) struct Models {
    shared: Arc<Mutex<Shared>>,
    willing: Vec<NodeRole>,
    /// Told when a model's state changes.
    changed: Arc<Notify>,
    /// Told when there is work.
    work: Arc<Notify>,
    pub folder: BlobFolder,
}

/// A failed step: code, sentence, whether trying again soon may help.
struct Failure {
    reason: String,
    message: String,
    transient: bool,
}

impl Models {
    pub(super) fn new(folder: BlobFolder, willing: Vec<NodeRole>, changed: Arc<Notify>) -> Self {
        Models { shared: Arc::default(), willing, changed, work: Arc::default(), folder }
    }

    /// Takes a new assignment: what is new is fetched, what is gone is dropped.
    pub(super) fn assign(&self, assignment: Assignment) {
        let mut shared = self.lock();
        shared.assigned = true;
        shared.roles = assignment.roles;
        let gone: Vec<_> =
            shared.entries.keys().filter(|digest| !assignment.models.contains_key(digest)).copied().collect();
        for digest in gone {
            shared.entries.remove(&digest);
            shared.discarded.push(digest);
        }
        for (digest, wanted) in assignment.models {
            match shared.entries.get_mut(&digest) {
                Some(entry) if entry.wanted.context_length == wanted.context_length => {
                    if matches!(entry.state, State::Awaited) && wanted.bytes > 0 {
                        entry.state = State::Waiting;
                    }
                    entry.wanted = wanted;
                }
                _ => {
                    let state = if wanted.bytes > 0 { State::Waiting } else { State::Awaited };
                    shared.entries.insert(digest, Entry { wanted, state, failures: 0 });
                }
            }
        }
        drop(shared);
        self.work.notify_one();
        self.changed.notify_one();
    }

    /// A model that can serve now.
    pub(super) fn ready(&self, digest: &ModelDigest) -> Option<Ready> {
        match &self.lock().entries.get(digest)?.state {
            State::Ready(ready) => Some(ready.clone()),
            _ => None,
        }
    }

    /// What is known of the engines that serve now.
    pub(super) fn measured(&self) -> Vec<Measured> {
        let shared = self.lock();
        let measured = |entry: &Entry| match &entry.state {
            State::Ready(ready) => {
                let (load, totals) = ready.engine.measured()?;
                Some(Measured { model: entry.wanted.name.clone(), load, totals })
            }
            _ => None,
        };
        // Two files may go by one name for a moment, but a series has one value.
        let by_name: BTreeMap<_, _> =
            shared.entries.values().filter_map(measured).map(|engine| (engine.model.clone(), engine)).collect();
        by_name.into_values().collect()
    }

    /// The whole file of a model that is assigned, if it is here, and its size. It was checked when it was fetched.
    pub(super) async fn held(&self, digest: &ModelDigest) -> Option<(PathBuf, u64)> {
        if !self.lock().entries.contains_key(digest) {
            return None;
        }
        let path = self.folder.path(digest);
        let data = tokio::fs::metadata(&path).await.ok()?;
        Some((path, data.len()))
    }

    /// The file of a model that was fetched and checked.
    pub(super) fn file(&self, digest: &ModelDigest) -> Option<PathBuf> {
        match self.lock().entries.get(digest)?.state {
            State::Waiting | State::Awaited | State::Fetching(_) | State::Failed { .. } => None,
            _ => Some(self.folder.path(digest)),
        }
    }

    /// Whether this machine is willing and asked to play a role.
    pub(super) fn plays(&self, role: NodeRole) -> bool {
        let shared = self.lock();
        self.willing.contains(&role) && (shared.roles.is_empty() || shared.roles.contains(&role))
    }

    /// `None` when everything assigned can be served; else why not, for people.
    pub(super) fn missing(&self) -> Option<String> {
        let shared = self.lock();
        if !shared.assigned {
            return Some("no gateway has said yet what to serve".into());
        }
        // What the gateway does not have, nobody can be waiting for here.
        let settled = |state: &State| matches!(state, State::Ready(_) | State::Stored | State::Awaited);
        let unready = shared.entries.values().filter(|entry| !settled(&entry.state));
        let lines: Vec<_> = unready
            .map(|entry| {
                let pending = entry.pending();
                format!("{} {}: {} {}", entry.wanted.name, entry.wanted.digest, pending.state, pending.message)
            })
            .collect();
        if lines.is_empty() { None } else { Some(lines.join("; ")) }
    }

    /// What to advertise: models that serve, and the others with their state.
    pub(super) fn report(&self) -> (Vec<wire::ServedModel>, Vec<wire::PendingModel>) {
        let shared = self.lock();
        let (mut served, mut pending) = (vec![], vec![]);
        for entry in shared.entries.values() {
            match &entry.state {
                State::Ready(ready) => served.push(ready.served.clone()),
                State::Stored | State::Awaited => {}
                _ => pending.push(entry.pending()),
            }
        }
        (served, pending)
    }

    /// Requests that wait inside the engines.
    pub(super) fn queued(&self) -> u32 {
        let shared = self.lock();
        let engines = shared.entries.values().filter_map(|entry| match &entry.state {
            State::Ready(ready) => Some(ready.engine.queued()),
            _ => None,
        });
        engines.sum()
    }

    /// Brings models to where they are wanted, for ever.
    pub(super) async fn run(
        self,
        source: Arc<dyn BlobSource>,
        engines: Arc<dyn EngineProvider>,
        settings: EngineSettings,
    ) {
        loop {
            self.discard().await;
            match self.next_wanted() {
                Ok(wanted) => self.bring_up(wanted, source.as_ref(), &engines, &settings).await,
                Err(again) => {
                    let pause = again.map_or(PERMANENT_RETRY, |at| at.saturating_duration_since(Instant::now()));
                    // Either is a reason to look again.
                    let _ = tokio::time::timeout(pause, self.work.notified()).await;
                }
            }
        }
    }

    async fn discard(&self) {
        let discarded = std::mem::take(&mut self.lock().discarded);
        for digest in discarded {
            // It may have been assigned again meanwhile.
            if !self.lock().entries.contains_key(&digest) {
                self.folder.remove(&digest).await;
            }
        }
    }

    /// The next model to work on, or when to look again.
    fn next_wanted(&self) -> Result<Wanted, Option<Instant>> {
        let shared = self.lock();
        let now = Instant::now();
        let mut soonest: Option<Instant> = None;
        for entry in shared.entries.values() {
            match entry.state {
                State::Waiting => return Ok(entry.wanted.clone()),
                State::Failed { again, .. } if again <= now => return Ok(entry.wanted.clone()),
                State::Failed { again, .. } => soonest = Some(soonest.map_or(again, |soonest| soonest.min(again))),
                _ => {}
            }
        }
        Err(soonest)
    }

    async fn bring_up(
        &self,
        wanted: Wanted,
        source: &dyn BlobSource,
        engines: &Arc<dyn EngineProvider>,
        settings: &EngineSettings,
    ) {
        let outcome = self.try_bring_up(&wanted, source, engines, settings).await;
        match &outcome {
            Ok(()) => info!(model = %wanted.digest, name = wanted.name, "model ready"),
            Err(failure) => {
                warn!(model = %wanted.digest, reason = failure.reason, message = failure.message, "model not ready");
            }
        }
        if let Err(Failure { reason, message, transient }) = outcome {
            let mut shared = self.lock();
            if let Some(entry) = shared.entries.get_mut(&wanted.digest) {
                let pause = FIRST_RETRY.saturating_mul(1 << entry.failures.min(8)).min(LONGEST_RETRY);
                entry.failures = entry.failures.saturating_add(1);
                let again = Instant::now() + if transient { pause } else { PERMANENT_RETRY };
                entry.state = State::Failed { reason, message, again };
            }
        }
        self.changed.notify_one();
    }

    async fn try_bring_up(
        &self,
        wanted: &Wanted,
        source: &dyn BlobSource,
        engines: &Arc<dyn EngineProvider>,
        settings: &EngineSettings,
    ) -> Result<(), Failure> {
        let digest = wanted.digest;
        let progress = Fetching::default();
        self.set(&digest, State::Fetching(progress.clone()));
        let path = self.folder.obtain(wanted, source, &progress).await.map_err(|error| Failure {
            reason: error.reason().into(),
            message: error.to_string(),
            transient: error.is_transient(),
        })?;
        if !self.plays(NodeRole::Compute) && !self.plays(NodeRole::Verify) {
            self.set(&digest, State::Stored);
            return Ok(());
        }
        self.set(&digest, State::Loading);
        let (engines, mut settings) = (engines.clone(), settings.clone());
        settings.context_length = wanted.context_length;
        let loaded = tokio::task::spawn_blocking(move || engines.load(&path, &settings)).await;
        let engine = match loaded {
            Ok(Ok(engine)) => engine,
            Ok(Err(message)) => return Err(failure("ModelLoadFailed", message)),
            Err(panic) => return Err(failure("ModelLoadFailed", panic.to_string())),
        };
        self.set(&digest, State::Measuring);
        self_test(engine.as_ref()).await.map_err(|message| failure("SelfTestFailed", message))?;
        let rates = engine.benchmark().await.map_err(|error| failure("BenchmarkFailed", error.to_string()))?;
        let info = engine.info();
        let served = wire::ServedModel {
            digest: digest.0.to_vec(),
            context_length: info.context_length,
            prefill_rate_milli: (rates.prefill_tokens_per_second * 1000.0) as u64,
            decode_rate_milli: (rates.decode_tokens_per_second * 1000.0) as u64,
            kernel_profile: info.kernel_profile.clone(),
        };
        self.set(&digest, State::Ready(Ready { engine, served }));
        Ok(())
    }

    fn set(&self, digest: &ModelDigest, state: State) {
        if let Some(entry) = self.lock().entries.get_mut(digest) {
            if matches!(state, State::Ready(_) | State::Stored) {
                entry.failures = 0;
            }
            entry.state = state;
        }
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn pending(&self) -> wire::PendingModel {
        let (state, message, fetched_bytes) = match &self.state {
            State::Waiting | State::Awaited => ("Fetching", String::new(), 0),
            State::Fetching(progress) => ("Fetching", String::new(), progress.bytes()),
            State::Loading => ("Loading", String::new(), self.wanted.bytes),
            State::Measuring => ("Measuring", String::new(), self.wanted.bytes),
            State::Ready(_) | State::Stored => ("Ready", String::new(), self.wanted.bytes),
            State::Failed { reason, message, .. } => (reason.as_str(), message.clone(), 0),
        };
        wire::PendingModel { digest: self.wanted.digest.0.to_vec(), state: state.into(), message, fetched_bytes }
    }
}

fn failure(reason: &str, message: String) -> Failure {
    Failure { reason: reason.into(), message, transient: false }
}
