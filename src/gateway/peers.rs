//! What connected members say about themselves, and when: believed for scheduling only, and not for long.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    api::ids::{GridPeerId, ModelDigest},
    protocol::{fields::RequestFields, wire::NodeInfo},
    schedule::Rates,
};

/// A statement older than this says nothing about now.
const EXPIRES_MS: u64 = 30_000;
/// Models and accelerators of one statement that are kept.
const MAX_ITEMS: usize = 64;

/// A model that a worker serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    pub rates: Rates,
    pub kernel_profile: String,
}

/// A worker's last statement, parsed.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    pub info: NodeInfo,
    pub models: BTreeMap<ModelDigest, Served>,
    /// Fields of a request that its software knows.
    pub knows: RequestFields,
    pub received_ms: u64,
}

/// One member as its connection shows it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PeerView {
    pub connected: bool,
    /// Grows with every authentication: a task that serves an older connection ends.
    pub session: u64,
    pub software: String,
    /// Why it is not connected, CamelCase; empty when it is.
    pub reason: String,
    pub message: String,
    pub statement: Option<Statement>,
    /// It asked to be left alone until then.
    pub paused_until_ms: u64,
}

impl PeerView {
    /// The statement, if it is fresh.
    pub fn fresh(&self, now_ms: u64) -> Option<&Statement> {
        let fresh = |statement: &&Statement| now_ms.saturating_sub(statement.received_ms) < EXPIRES_MS;
        self.statement.as_ref().filter(|_| self.connected).filter(fresh)
    }
}

/// All members that were ever seen since the start.
#[derive(Debug, Default)]
pub struct Peers {
    views: Mutex<HashMap<GridPeerId, PeerView>>,
}

impl Peers {
    /// A member authenticated; returns the number of this session.
    pub(super) fn connected(&self, peer: &GridPeerId, software: &str) -> u64 {
        let mut views = self.lock();
        let view = views.entry(peer.clone()).or_default();
        view.connected = true;
        view.session += 1;
        view.software = software.chars().take(100).collect();
        view.reason.clear();
        view.message.clear();
        // A restarted worker may have forgotten everything that it said before.
        view.statement = None;
        view.paused_until_ms = 0;
        view.session
    }

    pub(super) fn gone(&self, peer: &GridPeerId, reason: &str, message: &str) {
        let mut views = self.lock();
        let view = views.entry(peer.clone()).or_default();
        view.connected = false;
        view.statement = None;
        view.reason = reason.to_owned();
        view.message = message.chars().take(300).collect();
    }

    /// A member was refused; only told while it is not connected.
    pub(super) fn refused(&self, peer: &GridPeerId, reason: &str, message: &str) {
        let connected = self.is_connected(peer);
        if !connected {
            self.gone(peer, reason, message);
        }
    }

    /// Takes a statement in. Returns whether which models it serves has changed. One of somebody who is not connected, or
    /// older than the last, says nothing.
    pub(super) fn stated(&self, peer: &GridPeerId, info: NodeInfo, now_ms: u64) -> bool {
        let mut views = self.lock();
        let Some(view) = views.get_mut(peer).filter(|view| view.connected) else { return false };
        if view.statement.as_ref().is_some_and(|last| last.info.sequence > info.sequence) {
            return false;
        }
        let statement = parse(info, now_ms);
        let before = view.statement.as_ref().map(|last| (&last.models, &last.info.pending));
        let changed = before != Some((&statement.models, &statement.info.pending));
        view.statement = Some(statement);
        changed
    }

    /// Nothing is offered to it for a while.
    pub(super) fn pause(&self, peer: &GridPeerId, until_ms: u64) {
        if let Some(view) = self.lock().get_mut(peer) {
            view.paused_until_ms = view.paused_until_ms.max(until_ms);
        }
    }

    pub(super) fn forget(&self, peer: &GridPeerId) {
        self.lock().remove(peer);
    }

    pub(super) fn get(&self, peer: &GridPeerId) -> PeerView {
        self.lock().get(peer).cloned().unwrap_or_default()
    }

    pub(super) fn is_connected(&self, peer: &GridPeerId) -> bool {
        self.lock().get(peer).is_some_and(|view| view.connected)
    }

    /// Whether `session` is still the peer's newest and connected.
    pub(super) fn is_current(&self, peer: &GridPeerId, session: u64) -> bool {
        self.lock().get(peer).is_some_and(|view| view.connected && view.session == session)
    }

    pub(super) fn connected_count(&self) -> u32 {
        u32::try_from(self.lock().values().filter(|view| view.connected).count()).unwrap_or(u32::MAX)
    }

    /// What `read` makes of everybody who is connected and said something lately. It must not come back here.
    pub(super) fn read_fresh<T>(
        &self,
        now_ms: u64,
        read: impl Fn(&GridPeerId, &PeerView, &Statement) -> Option<T>,
    ) -> Vec<T> {
        let views = self.lock();
        let fresh = views.iter().filter_map(|(peer, view)| Some((peer, view, view.fresh(now_ms)?)));
        fresh.filter_map(|(peer, view, statement)| read(peer, view, statement)).collect()
    }

    /// The moment at which the next pause ends.
    pub(super) fn next_pause_end(&self, now_ms: u64) -> Option<u64> {
        let ends = |view: &PeerView| Some(view.paused_until_ms).filter(|until| *until > now_ms);
        self.lock().values().filter_map(ends).min()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<GridPeerId, PeerView>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(mut info: NodeInfo, now_ms: u64) -> Statement {
    info.models.truncate(MAX_ITEMS);
    info.pending.truncate(MAX_ITEMS);
    info.accelerators.truncate(MAX_ITEMS);
    info.request_fields.truncate(MAX_ITEMS);
    let served = info.models.iter().filter_map(|model| {
        let digest = ModelDigest(model.digest.as_slice().try_into().ok()?);
        let rates = Rates {
            prefill_milli: model.prefill_rate_milli,
            decode_milli: model.decode_rate_milli,
            context_length: model.context_length,
        };
        Some((digest, Served { rates, kernel_profile: model.kernel_profile.clone() }))
    });
    let models = served.collect();
    let knows = RequestFields::of_names(info.request_fields.iter().map(String::as_str));
    Statement { models, knows, info, received_ms: now_ms }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{identity::NodeKey, wire::ServedModel};

    fn serving(sequence: u64) -> NodeInfo {
        let model = ServedModel { digest: vec![7; 32], ..ServedModel::default() };
        NodeInfo { sequence, models: vec![model], ..NodeInfo::default() }
    }

    #[test]
    fn a_statement_expires() {
        let (peers, peer) = (Peers::default(), NodeKey::generate().peer_id());
        peers.connected(&peer, "grid-worker/0.1.0");
        assert!(peers.stated(&peer, serving(1), 1_000));
        assert!(peers.get(&peer).fresh(30_999).is_some());
        assert!(peers.get(&peer).fresh(31_000).is_none());
    }

    #[test]
    fn an_older_statement_changes_nothing() {
        let (peers, peer) = (Peers::default(), NodeKey::generate().peer_id());
        peers.connected(&peer, "");
        assert!(peers.stated(&peer, serving(2), 1_000));
        assert!(!peers.stated(&peer, NodeInfo { sequence: 1, ..NodeInfo::default() }, 2_000));
        assert_eq!(peers.get(&peer).fresh(2_000).unwrap().models.len(), 1);
    }

    #[test]
    fn a_peer_that_is_not_connected_states_nothing() {
        let (peers, peer) = (Peers::default(), NodeKey::generate().peer_id());
        assert!(!peers.stated(&peer, serving(1), 1_000));
        peers.connected(&peer, "");
        peers.gone(&peer, "Disconnected", "closed");
        assert!(!peers.stated(&peer, serving(1), 1_000));
        assert_eq!(peers.get(&peer).reason, "Disconnected");
    }

    #[test]
    fn a_digest_of_another_length_is_not_a_model() {
        let (peers, peer) = (Peers::default(), NodeKey::generate().peer_id());
        peers.connected(&peer, "");
        let model = ServedModel { digest: vec![7; 31], ..ServedModel::default() };
        peers.stated(&peer, NodeInfo { models: vec![model], ..NodeInfo::default() }, 1);
        assert!(peers.get(&peer).fresh(1).unwrap().models.is_empty());
    }
}
