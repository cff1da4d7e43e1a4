//! The swarm task: it owns the swarm and all state, and awaits nothing but the next event. Whatever takes time runs in a
//! task of its own and comes back through a bounded queue.

mod authentication;
mod gossip;
mod requests;
mod streams;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm,
    gossipsub::IdentTopic,
    identify, ping,
    swarm::{ConnectionId, SwarmEvent},
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::MissedTickBehavior,
};
use tracing::{debug, info, warn};

use super::{
    adverts::Adverts,
    auth::Identity,
    behaviour::{Behaviour, BehaviourEvent, other_network},
    dial::Dialer,
    error::OpenError,
    exchange::{Answer, AssignExchange, ChallengeExchange, InfoExchange, JobExchange, Pending},
    handle::{AuditServer, BlobServer, Command, InferServer},
    identity::{grid_id, libp2p_id},
    metrics::{self, Metrics},
    peers::{Peers, Standing},
    refusal::{Reason, Refusal},
    service::{GridEvent, Membership, Service},
    start::Role,
};
use crate::{
    api::ids::GridPeerId,
    protocol::names::{Net, Protocol},
};

/// How often deadlines, bans and dials are looked at.
const TICK: Duration = Duration::from_millis(100);
/// A refused peer gets its answer before it is closed: QUIC drops what was not delivered.
const FAREWELL: Duration = Duration::from_millis(500);
/// Unanswered pings in a row that close a connection. Ping is not the failure detector of running work (heartbeats are), but
/// a dead idle connection would otherwise stay for minutes on TCP.
const MAX_SILENT_PINGS: u32 = 2;
/// How long a shutdown waits for connections to close.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// A worker's side of requests.
pub(super) struct Serving {
    pub service: Option<Arc<dyn Service>>,
    pub places: HashMap<Protocol, Arc<Semaphore>>,
    pub limit: usize,
    pub answers: mpsc::Sender<Answer>,
}

/// Where accepted streams go.
pub(super) struct Accepting {
    pub infer: mpsc::Sender<(GridPeerId, InferServer)>,
    pub audit: mpsc::Sender<(GridPeerId, AuditServer)>,
    pub blob: mpsc::Sender<(GridPeerId, BlobServer)>,
    /// Refusals being written; beyond it a stream is reset without a word.
    pub refusals: Arc<Semaphore>,
}

pub(super) struct Node {
    pub swarm: Swarm<Behaviour>,
    pub net: Net,
    pub topic: IdentTopic,
    pub stream_names: [(Protocol, String); 3],
    pub identity: Identity,
    pub software: String,
    pub membership: Arc<dyn Membership>,
    pub serving: Serving,
    pub accepting: Accepting,
    pub peers: Peers,
    pub dialer: Dialer,
    pub pending: Pending,
    pub adverts: Adverts,
    pub events: mpsc::Sender<GridEvent>,
    pub metrics: Metrics,
    pub stopping: Option<(oneshot::Sender<()>, Instant)>,
}

impl Node {
    /// Runs until shutdown, or until every handle is gone.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>, mut answers: mpsc::Receiver<Answer>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(answer) = answers.recv() => self.answer(answer),
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                _ = tick.tick() => {
                    if self.tick(Instant::now()) {
                        return;
                    }
                }
                event = self.swarm.select_next_some() => self.swarm_event(event),
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Assign(ask) => self.ask::<AssignExchange>(ask),
            Command::Offer(ask) => self.ask::<JobExchange>(ask),
            Command::Challenge(ask) => self.ask::<ChallengeExchange>(ask),
            Command::Info(ask) => self.ask::<InfoExchange>(ask),
            Command::Open { peer, protocol, reply } => match libp2p_id(&peer) {
                Some(peer) => self.open(peer, protocol, reply),
                None => respond(reply, Err(OpenError::NotConnected)),
            },
            Command::Disconnect { peer, reply } => {
                if let Some(peer) = libp2p_id(&peer) {
                    self.disconnect(peer);
                }
                respond(reply, ());
            }
            Command::Peers { reply } => {
                let peers = self.peers.connected.values();
                let authenticated = peers.filter(|peer| peer.standing == Standing::Authenticated);
                respond(reply, authenticated.filter_map(|peer| peer.id.clone()).collect());
            }
            Command::ListenAddresses { reply } => {
                let addresses = self.swarm.listeners().chain(self.swarm.external_addresses());
                respond(reply, addresses.map(|address| self.with_own_peer(address)).collect());
            }
            Command::Advert { info } => self.publish(&info),
            Command::Shutdown { reply } => {
                self.stopping = Some((reply, Instant::now() + SHUTDOWN));
                let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
                peers.into_iter().for_each(|peer| self.disconnect(peer));
            }
        }
    }

    /// True when the node has shut down.
    fn tick(&mut self, now: Instant) -> bool {
        if let Some((_, deadline)) = &self.stopping {
            if *deadline > now && !self.peers.connected.is_empty() {
                return false;
            }
            if let Some((reply, _)) = self.stopping.take() {
                respond(reply, ());
            }
            return true;
        }
        for (peer, connection) in self.peers.overdue(now) {
            // A peer that was refused has been told and counted.
            if !self.already_refused(&peer) {
                let refusal = Refusal::new(Reason::AuthTimeout, "it connected but did not authenticate in time");
                self.note_refusal(peer, "connection", &refusal);
            }
            self.swarm.close_connection(connection);
        }
        for peer in self.peers.released(now) {
            self.swarm.behaviour_mut().blocked.unblock_peer(peer);
        }
        while let Some(options) = self.dialer.due(now) {
            let peer = options.get_peer_id();
            if let (Err(error), Some(peer)) = (self.swarm.dial(options), peer) {
                debug!(%peer, %error, "cannot dial");
                self.dialer.failed(&peer, Duration::ZERO, rand::random(), now);
            }
        }
        false
    }

    fn swarm_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => self.behaviour_event(event),
            SwarmEvent::NewListenAddr { address, .. } => {
                let address = self.with_own_peer(&address);
                info!(%address, "listening");
                self.emit(GridEvent::ListenAddress(address));
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                let transport = metrics::transport(endpoint.get_remote_address());
                self.peers.opened(peer_id, grid_id(&peer_id), connection_id, transport, Instant::now());
                self.metrics.connections.inc();
                if endpoint.is_dialer() {
                    self.metrics.dial("connected");
                    self.say_hello(peer_id);
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                self.metrics.connections.dec();
                if self.peers.closed(&peer_id, connection_id).is_some_and(|peer| {
                    self.gone(
                        &peer_id,
                        peer.standing,
                        peer.counted,
                        cause.map_or("closed".into(), |cause| cause.to_string()),
                    );
                    true
                }) {
                    self.dialer.failed(&peer_id, Duration::ZERO, rand::random(), Instant::now());
                }
            }
            SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } => {
                self.metrics.dial("failed");
                if self.dialer.is_gateway(&peer) {
                    warn!(%peer, %error, "cannot reach the gateway; trying again");
                }
                self.dialer.failed(&peer, Duration::ZERO, rand::random(), Instant::now());
            }
            SwarmEvent::IncomingConnectionError { error, send_back_addr, .. } => {
                debug!(%error, from = %send_back_addr, "an inbound connection failed");
            }
            SwarmEvent::ListenerClosed { reason: Err(error), .. } => warn!(%error, "a listener ended"),
            SwarmEvent::ListenerError { error, .. } => warn!(%error, "a listener had an error"),
            _ => {}
        }
    }

    fn behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) => {
                if let Some(other) = other_network(&info, &self.net) {
                    let message = format!(
                        "it is of network {other}, this node of {}: compare chain id, contract and network salt",
                        self.net
                    );
                    self.refuse(peer_id, "connection", Refusal::new(Reason::WrongNetwork, message));
                    self.disconnect(peer_id);
                }
            }
            BehaviourEvent::Ping(event) => self.pinged(event),
            BehaviourEvent::Gossip(event) => self.gossip_event(event),
            BehaviourEvent::Auth(event) => self.auth_event(event),
            BehaviourEvent::Assign(event) => self.assign_event(event),
            BehaviourEvent::Job(event) => self.job_event(event),
            BehaviourEvent::Challenge(event) => self.challenge_event(event),
            BehaviourEvent::Info(event) => self.info_event(event),
            BehaviourEvent::Streams(inbound) => self.inbound_stream(inbound),
            _ => {}
        }
    }

    fn pinged(&mut self, ping::Event { peer, connection, result, .. }: ping::Event) {
        let state = self.peers.connected.get_mut(&peer).and_then(|peer| peer.connections.get_mut(&connection));
        let Some(state) = state else { return };
        match result {
            Ok(_) => state.silent = 0,
            Err(ping::Failure::Unsupported) => {}
            Err(_) => {
                state.silent += 1;
                if state.silent >= MAX_SILENT_PINGS {
                    self.swarm.close_connection(connection);
                }
            }
        }
    }

    /// The last connection of a peer is gone.
    fn gone(&mut self, peer: &PeerId, standing: Standing, counted: Option<&'static str>, reason: String) {
        if standing < Standing::Authenticated {
            return;
        }
        if let Some(transport) = counted {
            self.metrics.peer_went(self.identity.role.counterpart(), transport);
        }
        if let Some(peer) = grid_id(peer) {
            info!(%peer, %reason, "peer gone");
            self.emit(GridEvent::PeerGone { peer, reason });
        }
    }

    /// Counts, tells the application, and bans who offends too often.
    fn refuse(&mut self, peer: PeerId, protocol: &str, refusal: Refusal) {
        self.note_refusal(peer, protocol, &refusal);
        if refusal.reason.is_offence() && self.peers.offended(peer, Instant::now()) {
            self.note_refusal(peer, "connection", &Refusal::new(Reason::Banned, "too many offences"));
            // Also closes its connections.
            self.swarm.behaviour_mut().blocked.block_peer(peer);
        }
    }

    fn note_refusal(&mut self, peer: PeerId, protocol: &str, refusal: &Refusal) {
        self.metrics.refused(protocol, refusal.reason);
        debug!(%peer, protocol, reason = %refusal.reason, message = refusal.wire.message, "refused");
        let message = refusal.wire.message.clone();
        self.emit(GridEvent::Refused { peer: grid_id(&peer), reason: refusal.reason, message });
    }

    fn disconnect(&mut self, peer: PeerId) {
        // An error means that it is not connected, which is what is wanted.
        let _ = self.swarm.disconnect_peer_id(peer);
    }

    /// Closes what a peer has besides `kept`: it came back before its old connection was known to be dead, and requests
    /// would be spread over both.
    fn close_others(&mut self, peer: &PeerId, kept: ConnectionId) {
        let Some(state) = self.peers.connected.get(peer) else { return };
        let others: Vec<_> = state.connections.keys().filter(|other| **other != kept).copied().collect();
        for other in others {
            self.swarm.close_connection(other);
        }
    }

    fn emit(&self, event: GridEvent) {
        if self.events.try_send(event).is_err() {
            self.metrics.dropped("events");
        }
    }

    fn with_own_peer(&self, address: &Multiaddr) -> Multiaddr {
        let address: Multiaddr =
            address.iter().filter(|part| !matches!(part, libp2p::multiaddr::Protocol::P2p(_))).collect();
        address.with(libp2p::multiaddr::Protocol::P2p(*self.swarm.local_peer_id()))
    }

    fn is_worker(&self) -> bool {
        self.identity.role == Role::Worker
    }
}

/// Completes a caller; one that has gone is not missed.
fn respond<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}

/// Unix milliseconds.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
