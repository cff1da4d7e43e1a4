//! From command line to a running gateway, and back down in order.

use std::{io, path::Path, sync::Arc, time::Duration};

use axum::Router;
use prometheus::Registry;
use tokio::net::TcpListener;

use super::{
    Clock, Command, FsckOptions, Gateway, GridWorkers, Options, RunOptions, Settings,
    config::KeyOptions,
    http::{Tokens, internal_router, openai_router},
};
use crate::{
    grid::{self, GridConfig, GridLimits, Multiaddr, Role, memory_limit_from_cgroup},
    protocol::{identity::NodeKey, internal::NetworkConfig},
    store::{Blobs, Ledger, fsck},
    telemetry::{admin, readiness::Readiness},
};

/// What this program calls itself on the grid.
const SOFTWARE: &str = concat!("grid-gateway/", env!("CARGO_PKG_VERSION"));
/// How long running answers of the HTTP servers may take after the gateway was told to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs a command to its end. Errors are sentences for people.
pub async fn execute(options: Options) -> Result<(), String> {
    match options.command {
        Command::Run(options) => run(*options).await,
        Command::Fsck(options) => check(options).await,
        Command::PeerId(options) => {
            println!("{}", key(&options)?.peer_id());
            Ok(())
        }
    }
}

async fn run(options: RunOptions) -> Result<(), String> {
    let tokens = Tokens::read(&options.internal_token_file)?;
    let api_keys = options.api_key_file.as_deref().map(Tokens::read).transpose()?;
    let listen = listen_addresses(&options.p2p_listen)?;
    let key = key(&options.keys)?;
    let data = &options.keys.data_dir;
    let _lock = lock(data)?;
    let ledger = open_ledger(data).await?;
    let blobs = Blobs::open(&data.join("blobs")).map_err(|error| format!("{}: {error}", data.display()))?;
    let registry = Registry::new();
    let settings = Settings {
        publish_statements: options.publish_statements,
        model_claims: options.model_claims.clone(),
        ..Settings::from(&options.limits)
    };
    let gateway = Gateway::open(ledger, blobs, key, settings, Clock::system(), &registry).await.map_err(shown)?;

    let readiness = Readiness::default();
    readiness.waiting("network", "the operator has not told the gateway its network yet (PUT /internal/v1/network)");
    let http = bind(options.http_address).await?;
    let internal = bind(options.internal_address).await?;
    tracing::info!(peer = %gateway.info().await.peer_id, http = %options.http_address,
                   internal = %options.internal_address, "gateway started");
    start_tasks(&gateway).await.map_err(shown)?;
    let admin = admin::router(registry.clone(), readiness.clone());
    let servers = [
        tokio::spawn(serve_http(gateway.clone(), "openai", http, openai_router(gateway.clone(), api_keys))),
        tokio::spawn(serve_http(
            gateway.clone(),
            "internal",
            internal,
            internal_router(gateway.clone(), tokens).merge(admin),
        )),
    ];
    let outcome = tokio::select! {
        outcome = run_grid(&gateway, listen, &registry, &readiness) => outcome,
        () = stop_signal() => Ok(()),
    };
    tracing::info!("stopping");
    gateway.shutdown().await;
    for server in servers {
        // Answers that do not end in time are cut off: their clients ask again.
        let _ = tokio::time::timeout(DRAIN, server).await;
    }
    outcome
}

/// Starts everything that needs no grid.
pub async fn start_tasks(gateway: &Arc<Gateway>) -> Result<(), crate::store::LedgerError> {
    gateway.resume_models().await?;
    gateway.spawn(gateway.clone().dispatch_forever());
    gateway.spawn(gateway.clone().audit_forever());
    gateway.spawn(gateway.clone().forget_forever());
    Ok(())
}

/// Serves `api` until the gateway stops.
pub async fn serve_http(gateway: Arc<Gateway>, api: &'static str, listener: TcpListener, router: Router) {
    let open = gateway.metrics.http_connections.with_label_values(&[api]);
    crate::http::serve(listener, router, gateway.settings.connections, open, gateway.stop.clone()).await;
}

/// Waits for the network's configuration, then runs the libp2p node until the gateway stops.
async fn run_grid(
    gateway: &Arc<Gateway>,
    listen: Vec<Multiaddr>,
    registry: &Registry,
    readiness: &Readiness,
) -> Result<(), String> {
    let mut network = gateway.network.subscribe();
    let config = network
        .wait_for(Option::is_some)
        .await
        .map_err(|error| error.to_string())?
        .clone()
        .ok_or("the network's configuration is missing")?;
    let grid = start_grid(gateway, &config, listen, registry).await?;
    gateway.connect(Arc::new(GridWorkers(grid.handle.clone())));
    gateway.spawn(gateway.clone().serve_blobs(grid.blob));
    readiness.ready("network");
    tracing::info!(network = config.name, net = %config.network.net(), "serving the grid");
    gateway.clone().follow(grid.events).await;
    Err("the libp2p node ended".into())
}

async fn start_grid(
    gateway: &Gateway,
    config: &NetworkConfig,
    listen: Vec<Multiaddr>,
    registry: &Registry,
) -> Result<grid::Grid, String> {
    let external = config.external_addresses.iter().map(|address| {
        address.parse().map_err(|error| format!("externalAddresses: {address:?} is not a multiaddress: {error}"))
    });
    let grid_config = GridConfig {
        network: config.network.clone(),
        key: gateway.key.clone(),
        role: Role::Gateway,
        listen,
        external: external.collect::<Result<_, _>>()?,
        gateways: Vec::new(),
        software: SOFTWARE.into(),
        limits: GridLimits::gateway(),
        memory_limit_bytes: memory_limit_from_cgroup(),
    };
    grid::start(grid_config, gateway.members.clone(), None, registry).await.map_err(shown)
}

async fn check(options: FsckOptions) -> Result<(), String> {
    let ledger = open_ledger(&options.data_dir).await?;
    let blobs = Blobs::open(&options.data_dir.join("blobs")).map_err(shown)?;
    let mut findings = fsck(&ledger).await.map_err(shown)?;
    for model in ledger.models().await.map_err(shown)? {
        if model.state != crate::protocol::internal::ModelState::Ready {
            continue;
        }
        let digest = model.source.digest;
        let name = &model.source.name;
        if blobs.size(&digest).await != Some(model.bytes) {
            findings.push(format!("model {name}: its blob {digest} is missing or has another size"));
        } else if options.deep && !blobs.is_intact(&digest).map_err(shown)? {
            findings.push(format!("model {name}: its blob {digest} is damaged"));
        }
    }
    ledger.close().await;
    findings.iter().for_each(|finding| println!("{finding}"));
    match findings.len() {
        0 => {
            println!("the ledger and the blob store are whole");
            Ok(())
        }
        n => Err(format!("{n} findings")),
    }
}

async fn open_ledger(data: &Path) -> Result<Ledger, String> {
    std::fs::create_dir_all(data).map_err(|error| format!("{}: {error}", data.display()))?;
    Ledger::open(&data.join("ledger.db")).await.map_err(|error| format!("{}: {error}", data.display()))
}

/// Two gateways on one data directory would hand out the same work twice.
fn lock(data: &Path) -> Result<std::fs::File, String> {
    let path = data.join("lock");
    std::fs::create_dir_all(data).map_err(|error| format!("{}: {error}", data.display()))?;
    let file = std::fs::File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    file.try_lock().map_err(|error| format!("another gateway uses {}: {error}", data.display()))?;
    Ok(file)
}

/// Reads the key, or generates it on the first start.
fn key(options: &KeyOptions) -> Result<NodeKey, String> {
    if let Some(path) = &options.key {
        return NodeKey::read(path).map_err(shown);
    }
    let path = options.data_dir.join("key");
    if path.exists() {
        return NodeKey::read(&path).map_err(shown);
    }
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(&options.data_dir).map_err(failed)?;
    let key = NodeKey::generate();
    write_secret(&path, &hex::encode(key.secret_bytes())).map_err(failed)?;
    tracing::info!(peer = %key.peer_id(), path = %path.display(), "generated the gateway's key");
    Ok(key)
}

/// Whole or not at all, and readable by nobody else.
fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let partial = path.with_extension("partial");
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(partial, path)
}

fn listen_addresses(texts: &[String]) -> Result<Vec<Multiaddr>, String> {
    let parse =
        |text: &String| text.parse().map_err(|error| format!("--p2p-listen {text:?} is not a multiaddress: {error}"));
    texts.iter().map(parse).collect()
}

async fn bind(address: std::net::SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| format!("cannot listen on {address}: {error}"))
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = match signal(SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            tracing::warn!("SIGTERM cannot be heard: {error}");
            return std::future::pending().await;
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

fn shown(error: impl std::fmt::Display) -> String {
    error.to_string()
}
