//! What the node remembers about each peer: standing, rates, streams, offences. Bounded by the connection limits while
//! connected, by its own limit afterwards.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use libp2p::{PeerId, swarm::ConnectionId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    auth::{Challenged, Nonce},
    limits::GridLimits,
    rate::Bucket,
    refusal::{Reason, Refusal},
};
use crate::{api::ids::GridPeerId, protocol::names::Protocol};

/// Peers whose auth rate and offences are remembered after they left.
const MAX_REMEMBERED: usize = 4096;

/// How far authentication has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    Stranger,
    /// It proved itself to us; it may not have our proof yet. Its requests are answered: it only sends them once it has
    /// our proof, and its word of that may arrive after them.
    Trusted,
    /// Both sides are convinced.
    Authenticated,
}

#[derive(Debug)]
pub(super) struct Connection {
    /// Closed then, unless authenticated.
    pub deadline: Instant,
    /// Pings in a row without an answer.
    pub silent: u32,
    /// How it travels, as a label.
    pub transport: &'static str,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub id: Option<GridPeerId>,
    pub standing: Standing,
    pub connections: HashMap<ConnectionId, Connection>,
    /// Dialer: the nonce of our open `Hello`.
    pub hello: Option<Nonce>,
    /// Listener: our open challenge.
    pub challenged: Option<(Challenged, Instant)>,
    /// It was told why it will be closed.
    pub refused: bool,
    /// The transport under which it is counted as a peer.
    pub counted: Option<&'static str>,
    inbound: HashMap<Protocol, Bucket>,
    outbound: HashMap<Protocol, Bucket>,
    streams: HashMap<Protocol, Arc<Semaphore>>,
}

/// All connected peers, and what is remembered of others.
#[derive(Debug)]
pub(super) struct Peers {
    pub limits: GridLimits,
    pub connected: HashMap<PeerId, Peer>,
    auth: HashMap<PeerId, Bucket>,
    offences: HashMap<PeerId, (u32, Instant)>,
    bans: HashMap<PeerId, Instant>,
}

impl Peers {
    pub(super) fn new(limits: GridLimits) -> Self {
        let (auth, offences, bans) = Default::default();
        Peers { limits, connected: HashMap::new(), auth, offences, bans }
    }

    pub(super) fn opened(
        &mut self,
        peer: PeerId,
        id: Option<GridPeerId>,
        connection: ConnectionId,
        transport: &'static str,
        now: Instant,
    ) {
        let deadline = now + self.limits.auth_deadline;
        let entry = self.connected.entry(peer).or_insert_with(|| Peer {
            id,
            standing: Standing::Stranger,
            connections: HashMap::new(),
            hello: None,
            challenged: None,
            refused: false,
            counted: None,
            inbound: HashMap::new(),
            outbound: HashMap::new(),
            streams: HashMap::new(),
        });
        entry.connections.insert(connection, Connection { deadline, silent: 0, transport });
    }

    /// Forgets a connection; returns the peer when it was the last one.
    pub(super) fn closed(&mut self, peer: &PeerId, connection: ConnectionId) -> Option<Peer> {
        let entry = self.connected.get_mut(peer)?;
        entry.connections.remove(&connection);
        if entry.connections.is_empty() { self.connected.remove(peer) } else { None }
    }

    pub(super) fn standing(&self, peer: &PeerId) -> Standing {
        self.connected.get(peer).map_or(Standing::Stranger, |peer| peer.standing)
    }

    pub(super) fn id(&self, peer: &PeerId) -> Option<GridPeerId> {
        self.connected.get(peer)?.id.clone()
    }

    /// Counts one use of a protocol by the peer.
    pub(super) fn take_inbound(&mut self, peer: &PeerId, protocol: Protocol, now: Instant) -> Result<(), Refusal> {
        let rate = self.limits.rates.of(protocol);
        let bucket = match (protocol, self.connected.get_mut(peer)) {
            // Survives a reconnect: otherwise every connection would bring a new allowance.
            (Protocol::Auth, _) => {
                if self.auth.len() >= MAX_REMEMBERED {
                    self.auth.retain(|_, bucket| !bucket.is_full(now));
                }
                self.auth.entry(*peer).or_insert_with(|| Bucket::full(rate, now))
            }
            (_, Some(entry)) => entry.inbound.entry(protocol).or_insert_with(|| Bucket::full(rate, now)),
            (_, None) => return Err(Refusal::new(Reason::NotAuthenticated, "authenticate first")),
        };
        bucket.take(now).map_err(|wait| {
            let message = format!("too many {} requests: wait {} ms", protocol.part(), wait.as_millis());
            Refusal::retry(Reason::RateLimited, message, wait)
        })
    }

    /// Counts one use of a protocol by us, a little below what the peer allows.
    pub(super) fn take_outbound(&mut self, peer: &PeerId, protocol: Protocol, now: Instant) -> bool {
        let mut rate = self.limits.rates.of(protocol);
        rate.per_second *= 0.9;
        rate.burst = (rate.burst * 0.9).max(1.0);
        let Some(entry) = self.connected.get_mut(peer) else { return false };
        entry.outbound.entry(protocol).or_insert_with(|| Bucket::full(rate, now)).take(now).is_ok()
    }

    /// A place among the peer's streams of this protocol.
    pub(super) fn stream_place(&mut self, peer: &PeerId, protocol: Protocol) -> Result<OwnedSemaphorePermit, Refusal> {
        let limit = self.limits.streams_per_peer;
        let busy = || {
            let message = format!("{limit} {} streams are open already", protocol.part());
            Refusal::retry(Reason::Busy, message, Duration::from_secs(1))
        };
        let entry = self.connected.get_mut(peer).ok_or_else(busy)?;
        let places = entry.streams.entry(protocol).or_insert_with(|| Arc::new(Semaphore::new(limit)));
        places.clone().try_acquire_owned().map_err(|_| busy())
    }

    /// Counts an offence; true when it is one too many.
    pub(super) fn offended(&mut self, peer: PeerId, now: Instant) -> bool {
        if self.offences.len() >= MAX_REMEMBERED {
            let memory = self.limits.ban;
            self.offences.retain(|_, (_, at)| now.saturating_duration_since(*at) < memory);
            if self.offences.len() >= MAX_REMEMBERED {
                self.offences.clear();
            }
        }
        let (count, at) = self.offences.entry(peer).or_insert((0, now));
        if now.saturating_duration_since(*at) > self.limits.ban {
            *count = 0;
        }
        (*count, *at) = (*count + 1, now);
        if *count < self.limits.offences {
            return false;
        }
        self.offences.remove(&peer);
        self.bans.insert(peer, now + self.limits.ban);
        true
    }

    /// Peers whose ban is over.
    pub(super) fn released(&mut self, now: Instant) -> Vec<PeerId> {
        let over: Vec<_> = self.bans.iter().filter(|(_, until)| **until <= now).map(|(peer, _)| *peer).collect();
        self.bans.retain(|_, until| *until > now);
        over
    }

    /// Connections whose time to authenticate is up.
    pub(super) fn overdue(&self, now: Instant) -> Vec<(PeerId, ConnectionId)> {
        let strangers = self.connected.iter().filter(|(_, peer)| peer.standing < Standing::Authenticated);
        strangers
            .flat_map(|(id, peer)| peer.connections.iter().map(move |(connection, state)| (id, connection, state)))
            .filter(|(_, _, state)| state.deadline <= now)
            .map(|(peer, connection, _)| (*peer, *connection))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> (Peers, PeerId, Instant) {
        let (mut peers, peer, now) = (Peers::new(GridLimits::gateway()), PeerId::random(), Instant::now());
        peers.opened(peer, None, ConnectionId::new_unchecked(1), "tcp", now);
        (peers, peer, now)
    }

    #[test]
    fn a_stranger_is_overdue_after_its_deadline_and_a_peer_is_not() {
        let (mut peers, peer, now) = peers();
        assert!(peers.overdue(now).is_empty());
        assert_eq!(peers.overdue(now + Duration::from_secs(5)).len(), 1);
        peers.connected.get_mut(&peer).unwrap().standing = Standing::Authenticated;
        assert!(peers.overdue(now + Duration::from_secs(5)).is_empty());
    }

    #[test]
    fn the_auth_allowance_survives_a_reconnect() {
        let (mut peers, peer, now) = peers();
        while peers.take_inbound(&peer, Protocol::Auth, now).is_ok() {}
        assert!(peers.closed(&peer, ConnectionId::new_unchecked(1)).is_some());
        peers.opened(peer, None, ConnectionId::new_unchecked(2), "tcp", now);
        let refusal = peers.take_inbound(&peer, Protocol::Auth, now).unwrap_err();
        assert_eq!(refusal.reason, Reason::RateLimited);
        assert!(refusal.wire.retry_after_ms > 0);
    }

    #[test]
    fn streams_of_a_peer_are_bounded_and_come_free() {
        let (mut peers, peer, _) = peers();
        let places: Vec<_> = (0..16).map(|_| peers.stream_place(&peer, Protocol::Infer).unwrap()).collect();
        assert_eq!(peers.stream_place(&peer, Protocol::Infer).unwrap_err().reason, Reason::Busy);
        drop(places);
        assert!(peers.stream_place(&peer, Protocol::Infer).is_ok());
    }

    #[test]
    fn the_fifth_offence_is_a_ban_that_ends() {
        let (mut peers, peer, now) = peers();
        assert!((0..4).all(|_| !peers.offended(peer, now)));
        assert!(peers.offended(peer, now));
        assert!(peers.released(now).is_empty());
        assert_eq!(peers.released(now + Duration::from_secs(60)), [peer]);
    }

    #[test]
    fn offences_long_ago_do_not_count() {
        let (mut peers, peer, now) = peers();
        assert!((0..4).all(|_| !peers.offended(peer, now)));
        assert!(!peers.offended(peer, now + Duration::from_secs(61)));
    }
}
