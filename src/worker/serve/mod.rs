//! `grid-worker serve`: an OpenAI server for one model, on its own: no grid, no key, no Kubernetes. It may use the engine and the shared
//! room of the OpenAI API; it never speaks to a gateway or a chain, and keeps nothing of what it is asked.

mod answers;
mod ask;
mod openapi;
mod options;
mod routes;
mod service;
mod text;
mod vectors;
mod words;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use options::Limits;
pub use options::ServeOptions;

use super::{
    AnswerEngine, EngineProvider, EngineSettings,
    advert::now_ms,
    device::DeviceError,
    self_test::self_test,
    source::{ModelOptions, SourceError},
};
use crate::{
    http::Bounds,
    inference::{Processor, threads_from_cgroup},
    openai::Tokens,
};
use service::Service;

/// Time for the last bytes to reach slow clients when everything else is over.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// Why a server did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot serve on {address}: {source} (--listen)")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("cannot load {model}: {message}")]
    Load { model: String, message: String },
    #[error("{0} (--api-key-file)")]
    Keys(String),
    #[error("an API key must not be empty (--api-key)")]
    EmptyKey,
    #[error("cannot count: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("cannot wait for signals: {0}")]
    Signals(std::io::Error),
}

/// Serves until asked to stop (SIGTERM or SIGINT), then lets running requests finish within the grace period.
pub async fn run(options: ServeOptions, engines: Arc<dyn EngineProvider>) -> Result<(), ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    let mut server = Server::start(options, engines).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        error = server.failed() => return Err(error),
    }
    server.drain().await;
    Ok(())
}

/// A running server. [`Server::drain`] ends it.
pub struct Server {
    address: SocketAddr,
    service: Arc<Service>,
    closing: CancellationToken,
    connections: JoinHandle<()>,
    loading: JoinHandle<Result<(), ServeError>>,
    grace: Duration,
}

impl Server {
    /// Listens at once, and loads the model meanwhile: until it is there `/ready` says why, and requests get 503.
    pub async fn start(options: ServeOptions, engines: Arc<dyn EngineProvider>) -> Result<Self, ServeError> {
        let keys = keys(&options)?;
        let processor = options.device.open()?;
        let limits = options.limits();
        let name = options.model_name.clone().unwrap_or_else(|| options.source.name());
        let service = Arc::new(Service::new(name, now_ms() / 1000, limits)?);
        let failed = |source| ServeError::Listen { address: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        if keys.is_none() && !address.ip().is_loopback() {
            warn!(%address, "anybody who reaches this address is served: set GRID_API_KEY, or listen on 127.0.0.1");
        }
        info!(%address, model = service.model, "listening");
        let Limits { max_connections: most, header_time, write_time, .. } = limits;
        let bounds = Bounds { most, header_time, write_time };
        let closing = CancellationToken::new();
        let router = routes::router(service.clone(), keys);
        let open = service.metrics.connections.clone();
        let connections = tokio::spawn(crate::http::serve(listener, router, bounds, open, closing.clone()));
        let grace = Duration::from_secs(options.drain_seconds.into());
        let loading = tokio::spawn(bring_up(options, processor, engines, service.clone()));
        Ok(Server { address, service, closing, connections, loading, grace })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the model cannot be loaded; for ever when it can.
    pub async fn failed(&mut self) -> ServeError {
        match (&mut self.loading).await {
            Ok(Ok(())) => std::future::pending().await,
            Ok(Err(error)) => error,
            Err(panic) => ServeError::Load { model: self.service.model.clone(), message: panic.to_string() },
        }
    }

    /// Takes no more requests, lets those that run finish within the grace period, ends the others with an error, and closes.
    pub async fn drain(self) {
        self.loading.abort();
        self.service.drain();
        info!(running = self.service.in_flight(), grace = ?self.grace, "draining");
        if timeout(self.grace, self.service.idle()).await.is_err() {
            warn!(running = self.service.in_flight(), "requests were still running when the grace period ended");
            self.service.stop.cancel();
        }
        self.closing.cancel();
        if timeout(LAST_BYTES, self.connections).await.is_err() {
            warn!("some clients did not take their last bytes");
        }
    }
}

fn keys(options: &ServeOptions) -> Result<Option<Tokens>, ServeError> {
    match (&options.api_key, &options.api_key_file) {
        (Some(key), _) if key.trim().is_empty() => Err(ServeError::EmptyKey),
        (Some(key), _) => Ok(Some(Tokens::new([key.as_str()]))),
        (None, Some(file)) => Tokens::read(file).map(Some).map_err(ServeError::Keys),
        (None, None) => Ok(None),
    }
}

/// Fetches, loads and tests the model.
async fn bring_up(
    options: ServeOptions,
    processor: Processor,
    engines: Arc<dyn EngineProvider>,
    service: Arc<Service>,
) -> Result<(), ServeError> {
    let path = options.source.obtain().await?;
    let began = Instant::now();
    let settings = EngineSettings {
        processor,
        threads: options.threads.map_or_else(threads_from_cgroup, usize::from),
        context_length: options.context_length,
        kv_budget_bytes: options.kv_budget.0,
        kv_type: options.kv_type,
        max_sequences: usize::from(options.max_sequences),
        max_queue: usize::from(options.max_queue),
    };
    let engine = load(&options.source, path, engines, settings).await?;
    service.ready(engine.clone(), began.elapsed());
    let info = engine.info();
    info!(
        model = service.model,
        architecture = info.architecture,
        context = info.context_length,
        profile = info.kernel_profile,
        seconds = began.elapsed().as_secs_f32(),
        "ready"
    );
    Ok(())
}

/// Loads a model and has it repeat a short answer of its own.
pub(super) async fn load(
    source: &ModelOptions,
    path: PathBuf,
    engines: Arc<dyn EngineProvider>,
    settings: EngineSettings,
) -> Result<Arc<dyn AnswerEngine>, ServeError> {
    let failed = |message: String| ServeError::Load { model: source.model.clone(), message };
    let loaded = tokio::task::spawn_blocking(move || engines.load(&path, &settings)).await;
    let engine = loaded.map_err(|panic| failed(panic.to_string()))?.map_err(failed)?;
    self_test(engine.as_ref()).await.map_err(failed)?;
    Ok(engine)
}
