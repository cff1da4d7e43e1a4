//! Starting a node.

use std::{sync::Arc, time::Instant};

use libp2p::{
    Multiaddr, StreamProtocol, Swarm, SwarmBuilder, multiaddr::Protocol as Part, noise, swarm::NetworkBehaviour, tcp,
    yamux,
};
use prometheus::Registry;
use tokio::sync::{Semaphore, mpsc};

use super::{
    adverts::{self, Adverts},
    auth::Identity,
    behaviour::Behaviour,
    dial::Dialer,
    error::GridError,
    exchange::Pending,
    handle::{AuditServer, BlobServer, GridHandle, Incoming, InferServer},
    identity::keypair,
    limits::GridLimits,
    metrics::Metrics,
    node::{Accepting, Node, Serving},
    peers::Peers,
    service::{GridEvents, Membership, Service},
};
use crate::protocol::{
    identity::NodeKey,
    names::{NetworkId, Protocol},
};

/// Commands and answers that wait for the swarm task.
const QUEUE: usize = 256;
/// An authenticated peer is not closed for being silent; its own deadline closes any other.
const IDLE: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// Which side of the grid a node plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Listens, takes authenticated workers, dispatches to them.
    Gateway,
    /// Dials gateways and serves them over those connections.
    Worker,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Gateway => "gateway",
            Role::Worker => "worker",
        }
    }

    /// Whom it talks to.
    pub(super) fn counterpart(self) -> Self {
        match self {
            Role::Gateway => Role::Worker,
            Role::Worker => Role::Gateway,
        }
    }
}

/// What a node needs to know to start.
#[derive(Debug, Clone)]
pub struct GridConfig {
    pub network: NetworkId,
    pub key: NodeKey,
    pub role: Role,
    /// For example `/ip4/0.0.0.0/tcp/4001` and `/ip4/0.0.0.0/udp/4001/quic-v1`. A worker needs none.
    pub listen: Vec<Multiaddr>,
    /// Addresses under which others reach this node.
    pub external: Vec<Multiaddr>,
    /// Worker: the gateways to stay connected to, each ending in `/p2p/<peer id>`. Several addresses of one gateway are
    /// tried together.
    pub gateways: Vec<Multiaddr>,
    /// For people and reports: `grid-worker/0.1.0`.
    pub software: String,
    pub limits: GridLimits,
    /// No new connection while the process uses more. From the cgroup: [`super::memory_limit_from_cgroup`].
    pub memory_limit_bytes: Option<u64>,
}

/// A running node. Dropping the handle and all its clones ends it.
#[derive(Debug)]
pub struct Grid {
    pub handle: GridHandle,
    pub events: GridEvents,
    /// Worker: infer streams that gateways open.
    pub infer: Incoming<InferServer>,
    /// Verify node: audit streams that gateways open.
    pub audit: Incoming<AuditServer>,
    /// Blob streams that the other side opens.
    pub blob: Incoming<BlobServer>,
}

/// Starts the swarm task. `service` answers a gateway's requests; a gateway has none.
pub async fn start(
    config: GridConfig,
    membership: Arc<dyn Membership>,
    service: Option<Arc<dyn Service>>,
    registry: &Registry,
) -> Result<Grid, GridError> {
    if config.role == Role::Worker && config.gateways.is_empty() {
        return Err(GridError::NoGateway);
    }
    let dialer = Dialer::new(&config.gateways, config.limits.reconnect, Instant::now())?;
    let metrics = Metrics::register(registry)?;
    let mut swarm = swarm(&config, &metrics)?;
    listen(&mut swarm, &config)?;

    let (commands, command_queue) = mpsc::channel(QUEUE);
    let (answers, answer_queue) = mpsc::channel(QUEUE);
    let (event_sender, events) = mpsc::channel(config.limits.events);
    let (infer_sender, infer) = mpsc::channel(config.limits.waiting_streams);
    let (audit_sender, audit) = mpsc::channel(config.limits.waiting_streams);
    let (blob_sender, blob) = mpsc::channel(config.limits.waiting_streams);
    let peer = config.key.peer_id();
    let net = config.network.net();
    let requests = config.limits.concurrent_requests;
    let node = Node {
        swarm,
        topic: adverts::topic(&net),
        stream_names: [Protocol::Infer, Protocol::Audit, Protocol::Blob]
            .map(|protocol| (protocol, protocol.name(&net))),
        net,
        identity: Identity { key: config.key, peer: peer.clone(), network: config.network, role: config.role },
        software: config.software,
        membership,
        serving: Serving { service, places: Default::default(), limit: requests, answers },
        accepting: Accepting {
            infer: infer_sender,
            audit: audit_sender,
            blob: blob_sender,
            refusals: Arc::new(Semaphore::new(64)),
        },
        peers: Peers::new(config.limits),
        dialer,
        pending: Pending::default(),
        adverts: Adverts::default(),
        events: event_sender,
        metrics,
        stopping: None,
    };
    tokio::spawn(node.run(command_queue, answer_queue));
    Ok(Grid { handle: GridHandle { commands, peer }, events, infer, audit, blob })
}

fn swarm(config: &GridConfig, metrics: &Metrics) -> Result<Swarm<Behaviour>, GridError> {
    fn transport(error: impl std::fmt::Display) -> GridError {
        GridError::Transport(error.to_string())
    }
    let keypair = keypair(&config.key)?;
    let behaviour = Behaviour::new(&keypair, config, metrics)?;
    Ok(SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .map_err(transport)?
        .with_quic_config(|mut quic| {
            // A slow reader holds one megabyte at most.
            quic.max_stream_data = 1 << 20;
            quic
        })
        .with_dns()
        .map_err(transport)?
        .with_behaviour(|_| behaviour)
        .map_err(transport)?
        .with_swarm_config(|swarm| swarm.with_idle_connection_timeout(IDLE))
        .build())
}

fn listen<B: NetworkBehaviour>(swarm: &mut Swarm<B>, config: &GridConfig) -> Result<(), GridError> {
    for address in &config.listen {
        swarm
            .listen_on(address.clone())
            // Its `Display` is empty for QUIC.
            .map_err(|error| GridError::Listen { address: address.to_string(), message: format!("{error:?}") })?;
    }
    config.external.iter().for_each(|address| swarm.add_external_address(without_peer(address)));
    Ok(())
}

/// An address without its trailing `/p2p/…`.
fn without_peer(address: &Multiaddr) -> Multiaddr {
    address.iter().filter(|part| !matches!(part, Part::P2p(_))).collect()
}

/// Protocol of a negotiated stream name.
pub(super) fn stream_protocol(names: &[(Protocol, String)], name: &StreamProtocol) -> Option<Protocol> {
    names.iter().find(|(_, known)| known == name.as_ref()).map(|(protocol, _)| *protocol)
}
