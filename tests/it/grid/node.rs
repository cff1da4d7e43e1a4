//! Real nodes for tests.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use prometheus::Registry;
use tokio::time::timeout;
use xdc_grid::{
    api::ids::{GridPeerId, NodeAddress},
    grid::{
        AnswerTimes, ConfiguredGateways, Grid, GridConfig, GridEvent, GridLimits, Membership, Multiaddr, Reason, Role,
        Service, refused, start,
    },
    protocol::{identity::NodeKey, names::NetworkId, wire},
};

/// For what happens at once where the machine has time.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// A gateway's limits, without those that a peer on a busy machine meets: tests of such a limit set it themselves.
pub fn gateway_limits() -> GridLimits {
    patient(GridLimits::gateway())
}

/// A worker's limits, as patient.
pub fn worker_limits() -> GridLimits {
    patient(GridLimits::worker())
}

fn patient(limits: GridLimits) -> GridLimits {
    GridLimits { auth_deadline: PATIENCE, answer_times: AnswerTimes::all(PATIENCE), ..limits }
}

pub fn network(salt: &str) -> NetworkId {
    NetworkId { chain_id: 51, contract: NodeAddress([7; 20]), salt: salt.into() }
}

/// A membership list that a test can change.
#[derive(Clone, Default)]
pub struct Members(pub Arc<Mutex<HashSet<GridPeerId>>>);

impl Members {
    pub fn of(keys: &[&NodeKey]) -> Self {
        Members(Arc::new(Mutex::new(keys.iter().map(|key| key.peer_id()).collect())))
    }
}

impl Membership for Members {
    fn admit(&self, peer: &GridPeerId) -> Result<(), wire::Refused> {
        match self.0.lock().unwrap().contains(peer) {
            true => Ok(()),
            false => Err(refused(Reason::UnknownPeer, format!("{peer} is no member"), None)),
        }
    }
}

/// A worker's service that accepts everything and echoes.
pub struct Echo;

impl Service for Echo {
    fn on_assign(&self, _: GridPeerId, assign: wire::Assign) -> BoxFuture<'static, wire::AssignReply> {
        let refused = assign.models.is_empty().then(|| wire::Refused { reason: "Empty".into(), ..Default::default() });
        async move { wire::AssignReply { refused } }.boxed()
    }

    fn on_offer(&self, _: GridPeerId, offer: wire::Offer) -> BoxFuture<'static, wire::OfferReply> {
        let accept = wire::Accept { lease_id: offer.request_id, hold_ms: 1, queued: offer.attempt };
        async move { wire::OfferReply { kind: Some(wire::offer_reply::Kind::Accept(accept)) } }.boxed()
    }

    fn on_challenge(&self, _: GridPeerId, ask: wire::ChallengeRequest) -> BoxFuture<'static, wire::ChallengeReply> {
        let proof = wire::StorageProof { tag: ask.challenge_id };
        async move { wire::ChallengeReply { kind: Some(wire::challenge_reply::Kind::Storage(proof)) } }.boxed()
    }

    fn on_info(&self, peer: GridPeerId) -> BoxFuture<'static, wire::NodeInfo> {
        async move { wire::NodeInfo { region: peer.to_string(), ..Default::default() } }.boxed()
    }
}

pub struct TestNode {
    pub grid: Grid,
    pub key: NodeKey,
    pub registry: Registry,
}

impl TestNode {
    pub async fn gateway(key: &NodeKey, salt: &str, members: Members, listen: &[&str], limits: GridLimits) -> Self {
        let listen = listen.iter().map(|address| address.parse().unwrap()).collect();
        let config = config(key, Role::Gateway, network(salt), listen, vec![], limits);
        // A port that was given up a moment ago may still be taken.
        let wait = async {
            loop {
                let registry = Registry::new();
                match start(config.clone(), Arc::new(members.clone()), None, &registry).await {
                    Ok(grid) => return (grid, registry),
                    Err(error) => assert!(error.to_string().contains("AddrInUse"), "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let (grid, registry) = timeout(PATIENCE, wait).await.unwrap();
        TestNode { grid, key: key.clone(), registry }
    }

    pub async fn worker(key: &NodeKey, salt: &str, gateways: Vec<Multiaddr>, limits: GridLimits) -> Self {
        let members = ConfiguredGateways::of(&gateways).unwrap();
        let (network, registry) = (network(salt), Registry::new());
        let config = config(key, Role::Worker, network, vec![], gateways, limits);
        let grid = start(config, Arc::new(members), Some(Arc::new(Echo)), &registry).await.unwrap();
        TestNode { grid, key: key.clone(), registry }
    }

    pub fn peer(&self) -> GridPeerId {
        self.key.peer_id()
    }

    /// The next listen address that contains `part`.
    pub async fn address(&mut self, part: &str) -> Multiaddr {
        let known = self.grid.handle.listen_addresses().await;
        if let Some(address) = known.into_iter().find(|address| address.to_string().contains(part)) {
            return address;
        }
        let event = self
            .event(|event| matches!(event, GridEvent::ListenAddress(address) if address.to_string().contains(part)))
            .await;
        let GridEvent::ListenAddress(address) = event else { unreachable!() };
        address
    }

    /// Waits for an event; others before it are dropped.
    pub async fn event(&mut self, wanted: impl Fn(&GridEvent) -> bool) -> GridEvent {
        let mut seen = vec![];
        timeout(PATIENCE, async {
            loop {
                let event = self.grid.events.recv().await.expect("the node ended");
                if wanted(&event) {
                    return event;
                }
                seen.push(event);
            }
        })
        .await
        .unwrap_or_else(|_| panic!("never happened; what did: {seen:?}"))
    }

    pub async fn authenticated(&mut self, peer: &GridPeerId) {
        self.event(|event| matches!(event, GridEvent::PeerAuthenticated { peer: other, .. } if other == peer)).await;
    }

    pub async fn refused(&mut self, reason: Reason) -> String {
        let event =
            self.event(|event| matches!(event, GridEvent::Refused { reason: other, .. } if *other == reason)).await;
        let GridEvent::Refused { message, .. } = event else { unreachable!() };
        message
    }

    pub async fn gone(&mut self, peer: &GridPeerId) {
        self.event(|event| matches!(event, GridEvent::PeerGone { peer: other, .. } if other == peer)).await;
    }

    /// Value of a counter, 0 when it was never counted.
    pub fn counter(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let wanted: HashMap<_, _> = labels.iter().copied().collect();
        let families = self.registry.gather();
        let metrics = families.iter().filter(|family| family.name() == name).flat_map(|family| family.get_metric());
        let fitting = metrics.filter(|metric| {
            let labels: HashMap<_, _> = metric.get_label().iter().map(|pair| (pair.name(), pair.value())).collect();
            wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
        });
        // Of the two, one is absent and reads as 0.
        fitting.map(|metric| (metric.get_counter().get_value() + metric.get_gauge().get_value()) as u64).sum()
    }

    pub fn refusals(&self, protocol: &str, reason: Reason) -> u64 {
        self.counter("grid_refused_total", &[("protocol", protocol), ("reason", reason.as_str())])
    }
}

fn config(
    key: &NodeKey,
    role: Role,
    network: NetworkId,
    listen: Vec<Multiaddr>,
    gateways: Vec<Multiaddr>,
    limits: GridLimits,
) -> GridConfig {
    GridConfig {
        network,
        key: key.clone(),
        role,
        listen,
        external: vec![],
        gateways,
        software: format!("test-{}/1", role.as_str()),
        limits,
        memory_limit_bytes: None,
    }
}

/// A gateway and a worker that know each other, connected over the transport whose listen address is given.
pub async fn pair(listen: &str) -> (TestNode, TestNode) {
    pair_with(listen, gateway_limits(), worker_limits()).await
}

pub async fn pair_with(listen: &str, gateway: GridLimits, worker: GridLimits) -> (TestNode, TestNode) {
    let (gateway_key, worker_key) = (NodeKey::generate(), NodeKey::generate());
    let members = Members::of(&[&worker_key]);
    let mut gateway = TestNode::gateway(&gateway_key, "", members, &[listen], gateway).await;
    let address = gateway.address("127.0.0.1").await;
    let mut worker = TestNode::worker(&worker_key, "", vec![address], worker).await;
    worker.authenticated(&gateway_key.peer_id()).await;
    gateway.authenticated(&worker_key.peer_id()).await;
    (gateway, worker)
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(PATIENCE, wait).await.is_ok(), "never happened: {what}");
}
