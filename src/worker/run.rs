//! Puts the parts together, and takes them apart again without losing a running request.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use prometheus::Registry;
use tokio::{sync::Notify, task::JoinSet};
use tracing::{info, warn};

use super::{
    SOFTWARE,
    advert::{self, Statement},
    assignment::Assignment,
    audit::Auditing,
    challenges::Challenges,
    claims::Claims,
    device::DeviceError,
    engine::EngineSettings,
    fetch::{BlobFolder, Gateways},
    give,
    hooks::WorkerHooks,
    leases::Leases,
    models::Models,
    options::WorkerOptions,
    serving::Serving,
};
use crate::{
    api::ids::GridPeerId,
    grid::{
        self, ConfiguredGateways, Grid, GridConfig, GridError, GridEvent, GridEvents, GridHandle, GridLimits, Role,
        Service,
    },
    inference::{Processor, threads_from_cgroup},
    protocol::{
        identity::{KeyError, NodeKey},
        wire::{Assign, AssignReply, ChallengeReply, ChallengeRequest, NodeInfo, Offer, OfferReply},
    },
    telemetry::{admin, readiness::Readiness},
};

/// How often readiness is brought up to date.
const READINESS: Duration = Duration::from_millis(250);

/// Why a worker did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("cannot use {path}: {source}")]
    Data { path: String, source: std::io::Error },
    #[error("cannot serve HTTP on {address}: {source}")]
    Http { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Grid(#[from] GridError),
    #[error("cannot serve metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("the grid node ended unexpectedly")]
    GridEnded,
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
}

/// Runs a worker until it is asked to stop (SIGTERM or SIGINT), then drains it.
pub async fn run(options: WorkerOptions, hooks: WorkerHooks) -> Result<(), WorkerError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(WorkerError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(WorkerError::Signals)?;
    let mut worker = Worker::start(options, hooks).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = worker.ended() => return Err(WorkerError::GridEnded),
    }
    worker.drain().await;
    Ok(())
}

/// A running worker. Dropping it ends its tasks at once; [`Worker::drain`] lets requests finish.
pub struct Worker {
    handle: GridHandle,
    leases: Leases,
    readiness: Readiness,
    http: SocketAddr,
    grace: Duration,
    statement: Statement,
    tasks: JoinSet<()>,
    /// Ends when the grid does.
    events: tokio::task::JoinHandle<()>,
}

impl Worker {
    /// Starts everything. Returns before any gateway is reached: it is dialled for ever.
    pub async fn start(options: WorkerOptions, hooks: WorkerHooks) -> Result<Self, WorkerError> {
        let key = NodeKey::read(&options.key_file)?;
        info!(peer = %key.peer_id(), address = %key.address(), net = %options.network().net(), "starting");
        let (registry, readiness) = (Registry::new(), Readiness::default());
        readiness.waiting("grid", "no gateway reached yet");
        readiness.waiting("models", "no gateway has said yet what to serve");
        let in_data = |source| WorkerError::Data { path: options.data_dir.display().to_string(), source };
        let folder = BlobFolder::create(&options.data_dir, options.max_model_size.0).map_err(in_data)?;
        let claims = Claims::open(&options.data_dir).map_err(in_data)?;

        let changed = Arc::<Notify>::default();
        let leases = Leases::new(usize::from(options.max_sequences), changed.clone());
        let models = Models::new(folder, options.roles.clone(), changed.clone());
        let settings = engine_settings(&options)?;
        let statement = Statement::new(&options, settings.threads, models.clone(), leases.clone());
        let serving = Serving {
            models: models.clone(),
            leases: leases.clone(),
            claims,
            key: key.clone(),
            network: options.network(),
            answer_with: hooks.answer_with,
        };
        let engines = models.clone();
        crate::inference::metrics::register(&registry, move || engines.measured())?;
        let service = WorkerService {
            serving: serving.clone(),
            models: models.clone(),
            statement: statement.clone(),
            challenges: Challenges::new(models.clone()),
        };
        let Grid { handle, events, infer, audit, blob } = start_grid(&options, key, service, &registry).await?;
        let (http, server) = serve_http(options.http_address, registry, readiness.clone()).await?;

        let mut tasks = JoinSet::new();
        tasks.spawn(server);
        tasks.spawn(serving.run(infer));
        tasks.spawn(Auditing::new(models.clone()).run(audit));
        tasks.spawn(give::run(models.clone(), blob));
        tasks.spawn(models.clone().run(Arc::new(Gateways { handle: handle.clone() }), hooks.engines, settings));
        tasks.spawn(advert::run(statement.clone(), handle.clone(), changed));
        tasks.spawn(watch_models(models, readiness.clone()));
        let events = tokio::spawn(watch_grid(events, readiness.clone(), statement.clone(), handle.clone()));
        Ok(Worker { handle, leases, readiness, http, grace: options.drain(), statement, tasks, events })
    }

    pub fn peer_id(&self) -> &GridPeerId {
        self.handle.peer_id()
    }

    /// What it waits for before it is ready.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Where /health, /ready and /metrics are.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Completes when the grid node has ended.
    pub async fn ended(&mut self) {
        // A panic in the watcher is an end too.
        let _ = (&mut self.events).await;
    }

    /// Takes no more work, tells the gateways, lets running requests finish within the grace period, and closes.
    pub async fn drain(mut self) {
        self.leases.drain();
        self.readiness.waiting("drain", "stopping");
        self.handle.publish_advert(self.statement.now()).await;
        info!(running = self.leases.running(), grace = ?self.grace, "draining");
        if tokio::time::timeout(self.grace, self.leases.idle()).await.is_err() {
            warn!(running = self.leases.running(), "requests were still running when the grace period ended");
        }
        self.handle.shutdown().await;
        self.tasks.shutdown().await;
    }
}

fn engine_settings(options: &WorkerOptions) -> Result<EngineSettings, DeviceError> {
    let processor = options.device.open()?;
    if matches!(processor, Processor::Candle(_)) {
        warn!(
            "no tolerance between a GPU's answers and a replay is known yet: they cannot be verified, and what is not verified is not paid (--device cpu)"
        );
    }
    Ok(EngineSettings {
        processor,
        threads: options.threads.map_or_else(threads_from_cgroup, usize::from),
        context_length: None,
        kv_budget_bytes: options.kv_budget.0,
        kv_type: options.kv_type,
        max_sequences: usize::from(options.max_sequences),
        // The slots bound what runs; audits come on top of them.
        max_queue: usize::from(options.max_sequences),
    })
}

async fn start_grid(
    options: &WorkerOptions,
    key: NodeKey,
    service: WorkerService,
    registry: &Registry,
) -> Result<Grid, WorkerError> {
    let members = ConfiguredGateways::of(&options.gateways)?;
    let config = GridConfig {
        network: options.network(),
        key,
        role: Role::Worker,
        listen: vec![],
        external: vec![],
        gateways: options.gateways.clone(),
        software: SOFTWARE.into(),
        limits: GridLimits::worker(),
        memory_limit_bytes: None,
    };
    Ok(grid::start(config, Arc::new(members), Some(Arc::new(service)), registry).await?)
}

/// Binds at once, so that an address in use is an error and not a log line.
async fn serve_http(
    address: SocketAddr,
    registry: Registry,
    readiness: Readiness,
) -> Result<(SocketAddr, BoxFuture<'static, ()>), WorkerError> {
    let failed = |source| WorkerError::Http { address, source };
    let listener = tokio::net::TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let server = async move {
        if let Err(error) = axum::serve(listener, admin::router(registry, readiness)).await {
            warn!(%error, "the HTTP server ended");
        }
    };
    Ok((bound, server.boxed()))
}

/// Keeps the grid's part of readiness.
async fn watch_grid(mut events: GridEvents, readiness: Readiness, statement: Statement, handle: GridHandle) {
    while let Some(event) = events.recv().await {
        match event {
            GridEvent::PeerAuthenticated { .. } => {
                readiness.ready("grid");
                // It knows nothing of this worker yet.
                handle.publish_advert(statement.now()).await;
            }
            GridEvent::PeerGone { reason, .. } => {
                if handle.peers().await.is_empty() {
                    readiness.waiting("grid", format!("no gateway connected; the last one left: {reason}"));
                }
            }
            GridEvent::RefusedBy { peer, refused } => {
                if handle.peers().await.is_empty() {
                    let why = format!("gateway {peer} refused this node: {} ({})", refused.message, refused.reason);
                    readiness.waiting("grid", why);
                }
            }
            GridEvent::Refused { reason, message, .. } => {
                if handle.peers().await.is_empty() {
                    readiness.waiting("grid", format!("{message} ({reason})"));
                }
            }
            GridEvent::Advert { .. } | GridEvent::ListenAddress(_) => {}
        }
    }
}

/// Keeps the models' part of readiness.
async fn watch_models(models: Models, readiness: Readiness) {
    let mut tick = tokio::time::interval(READINESS);
    loop {
        tick.tick().await;
        match models.missing() {
            Some(why) => readiness.waiting("models", why),
            None => readiness.ready("models"),
        }
    }
}

/// The worker's answers to its gateways' requests.
struct WorkerService {
    serving: Serving,
    models: Models,
    statement: Statement,
    challenges: Challenges,
}

impl Service for WorkerService {
    fn on_assign(&self, peer: GridPeerId, assign: Assign) -> BoxFuture<'static, AssignReply> {
        let refused = match Assignment::read(&assign) {
            Ok(assignment) => {
                info!(gateway = %peer, models = assignment.models.len(), roles = ?assignment.roles, "assigned");
                self.models.assign(assignment);
                None
            }
            Err(refused) => Some(refused),
        };
        async move { AssignReply { refused } }.boxed()
    }

    fn on_offer(&self, peer: GridPeerId, offer: Offer) -> BoxFuture<'static, OfferReply> {
        let reply = self.serving.offer(&peer, &offer);
        async move { reply }.boxed()
    }

    fn on_challenge(&self, peer: GridPeerId, challenge: ChallengeRequest) -> BoxFuture<'static, ChallengeReply> {
        self.challenges.clone().answer(peer, challenge).boxed()
    }

    fn on_info(&self, _: GridPeerId) -> BoxFuture<'static, NodeInfo> {
        let statement = self.statement.clone();
        async move { statement.now() }.boxed()
    }
}
