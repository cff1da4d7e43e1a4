//! What the parts of the gateway share.

use std::sync::{Arc, OnceLock};

use tokio::sync::{Notify, watch};
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};

use super::{
    Clock, Settings, Workers, backlogs::Backlogs, flights::Flights, jobs::InputTurns, judges::Judges, members::Members,
    metrics::Metrics, models::Fetches, online::Online, peers::Peers, standing::Standings, waiting::Told,
};
use crate::{
    api::ids::EpochNumber,
    protocol::{
        identity::{KeyError, NodeKey},
        internal::{Change, NetworkConfig},
    },
    store::{Blobs, Ledger, LedgerError, ResultFiles, ResultsError},
};

/// Why the gateway did not do what it was asked, in terms of the asker.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error("{message}")]
    NotFound { reason: &'static str, message: String },
    #[error("{message}")]
    Invalid { reason: &'static str, message: String },
    #[error("{message}")]
    Conflict { reason: &'static str, message: String },
    #[error("{message}")]
    TooLarge { reason: &'static str, message: String },
    #[error("{message}")]
    Full { reason: &'static str, message: String },
    /// Right, but not yet.
    #[error("{message}")]
    TooEarly { reason: &'static str, message: String },
    #[error(transparent)]
    Ledger(LedgerError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: std::io::Error },
}

impl From<LedgerError> for GatewayError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::Conflict { reason, message } => GatewayError::Conflict { reason, message },
            LedgerError::Unknown { what, key } => {
                GatewayError::NotFound { reason: "NotFound", message: format!("{what} {key} is not known") }
            }
            other => GatewayError::Ledger(other),
        }
    }
}

impl From<ResultsError> for GatewayError {
    fn from(error: ResultsError) -> Self {
        let message = error.to_string();
        match error {
            ResultsError::Name => GatewayError::Invalid { reason: "InvalidFileName", message },
            ResultsError::TooMany => GatewayError::TooLarge { reason: "TooManyFiles", message },
            ResultsError::Full { .. } => GatewayError::Full { reason: "StoreFull", message },
            ResultsError::Disk(error) => GatewayError::Io { what: "the results", source: error.into() },
        }
    }
}

/// The gateway: shared by its tasks and its HTTP handlers.
pub struct Gateway {
    pub(super) ledger: Ledger,
    pub(super) blobs: Blobs,
    pub(super) results: ResultFiles,
    pub(super) key: NodeKey,
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) members: Arc<Members>,
    pub(super) peers: Peers,
    pub(super) standings: Standings,
    pub(super) judges: Judges,
    pub(super) backlogs: Backlogs,
    pub(super) told: Told,
    pub(super) flights: Flights,
    pub(super) online: Online,
    pub(super) fetches: Fetches,
    pub(super) turns: InputTurns,
    pub(super) network: watch::Sender<Option<NetworkConfig>>,
    workers: OnceLock<Arc<dyn Workers>>,
    /// Something that the dispatcher decides on has changed.
    pub(super) dispatch: Notify,
    /// An audit is owed, or a verifier came free.
    pub(super) audit: Notify,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Gateway {
    /// Takes up what the ledger holds: leases without a living stream return to the queue, members and their standing are read.
    pub async fn open(
        ledger: Ledger,
        blobs: Blobs,
        key: NodeKey,
        settings: Settings,
        clock: Clock,
        registry: &prometheus::Registry,
    ) -> Result<Arc<Self>, GatewayError> {
        let metrics = Metrics::register(registry).map_err(|error| GatewayError::Invalid {
            reason: "Metrics",
            message: format!("cannot register metrics: {error}"),
        })?;
        let returned = ledger.recover(clock.now_ms()).await?;
        if returned > 0 {
            tracing::info!(leases = returned, "leases of before the restart are over; their requests are queued again");
        }
        let results = ResultFiles::open(&blobs.beside("results"), settings.max_results_bytes)
            .await
            .map_err(|source| GatewayError::Io { what: "opening the store of results", source })?;
        let members = Arc::new(Members::load(&ledger).await?);
        let network = watch::Sender::new(ledger.network().await?);
        let gateway = Arc::new(Gateway {
            blobs,
            results,
            key,
            metrics,
            members,
            network,
            clock,
            ledger,
            online: Online::new(settings.online_queue),
            settings,
            peers: Peers::default(),
            standings: Standings::default(),
            judges: Judges::default(),
            backlogs: Backlogs::default(),
            told: Told::default(),
            flights: Flights::default(),
            fetches: Fetches::default(),
            turns: InputTurns::default(),
            workers: OnceLock::new(),
            dispatch: Notify::new(),
            audit: Notify::new(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        gateway.weigh_namespaces();
        gateway.rebuild_backlogs().await?;
        for member in gateway.members.all() {
            gateway.refresh_standing(&member.member.peer_id).await?;
        }
        for job in gateway.ledger.open_jobs().await? {
            gateway.finish_if_settled(&job.uid).await?;
        }
        Ok(gateway)
    }

    /// Connects the gateway to its workers, once.
    pub fn connect(&self, workers: Arc<dyn Workers>) {
        if self.workers.set(workers).is_err() {
            tracing::warn!("the gateway is connected to its workers already");
        }
        self.dispatch.notify_one();
    }

    /// Absent until the network is configured.
    pub(super) fn workers(&self) -> Option<Arc<dyn Workers>> {
        self.workers.get().cloned()
    }

    /// The network's configuration, absent until the operator's first `PUT`.
    pub fn network_config(&self) -> Option<NetworkConfig> {
        self.network.borrow().clone()
    }

    /// Keeps the network's configuration, in the ledger first.
    pub async fn put_network(&self, config: NetworkConfig) -> Result<(), GatewayError> {
        self.ledger.put_network(&config).await?;
        self.network.send_if_modified(|kept| {
            let changes = kept.as_ref() != Some(&config);
            *kept = Some(config);
            changes
        });
        self.weigh_namespaces();
        self.dispatch.notify_one();
        Ok(())
    }

    /// Tells the queue what each namespace's share is.
    fn weigh_namespaces(&self) {
        let weights = self.network.borrow().as_ref().map(|network| network.namespace_weights.clone());
        self.backlogs.lock().queue.set_weights(weights.unwrap_or_default());
    }

    pub(super) fn paused(&self) -> bool {
        self.network.borrow().as_ref().is_none_or(|network| network.paused)
    }

    /// The epoch that `now_ms` falls into. Everything before genesis counts to epoch 0.
    pub(super) fn epoch_at(&self, now_ms: u64) -> EpochNumber {
        let network = self.network.borrow();
        let epoch = network.as_ref().and_then(|net| EpochNumber::at(now_ms / 1000, net.genesis, net.epoch_seconds));
        epoch.unwrap_or(EpochNumber(0))
    }

    /// Runs a task until it ends or the gateway stops.
    pub(super) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// The ledger's newest revision; wakes whoever waits for changes.
    pub(super) fn revisions(&self) -> watch::Receiver<u64> {
        self.ledger.revisions()
    }

    pub(super) async fn changes(&self, after: u64, limit: u32) -> Result<Vec<Change>, LedgerError> {
        self.ledger.changes(after, limit).await
    }

    /// Ends when the gateway stops: endless answers end with it.
    pub(super) fn stopping(&self) -> WaitForCancellationFutureOwned {
        self.stop.clone().cancelled_owned()
    }

    /// Reports a ledger failure in a place that has nobody to tell.
    pub(super) fn ledger_failed(&self, doing: &'static str, error: &LedgerError) {
        self.metrics.ledger_errors.with_label_values(&[error.label()]).inc();
        tracing::error!("{doing}: {error}");
    }

    /// Ends all tasks; running leases return to the queue at the next start.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.ledger.close().await;
    }
}
