//! What the grid says about peers, and what follows from it.

use std::sync::Arc;

use super::Gateway;
use crate::{
    api::ids::GridPeerId,
    grid::{GridEvent, GridEvents},
    protocol::{internal::ChangeKind, wire::NodeInfo},
};

impl Gateway {
    /// Follows the grid's events until the grid ends.
    pub(super) async fn follow(self: Arc<Self>, mut events: GridEvents) {
        while let Some(event) = events.recv().await {
            match event {
                GridEvent::PeerAuthenticated { peer, software, .. } => self.peer_connected(peer, &software).await,
                GridEvent::PeerGone { peer, reason } => self.peer_gone(&peer, &reason).await,
                GridEvent::Refused { peer: Some(peer), reason, message } => {
                    if self.members.get(&peer).is_some() {
                        self.peers.refused(&peer, reason.as_str(), &message);
                        self.announce_node(&peer).await;
                    }
                }
                GridEvent::Advert { peer, info } => self.peer_stated(&peer, info).await,
                GridEvent::ListenAddress(address) => tracing::info!(%address, "listening for workers"),
                GridEvent::Refused { peer: None, .. } | GridEvent::RefusedBy { .. } => {}
            }
        }
    }

    /// A member authenticated: it is told what to serve, asked what it can, and challenged.
    pub async fn peer_connected(self: &Arc<Self>, peer: GridPeerId, software: &str) {
        let session = self.peers.connected(&peer, software);
        tracing::info!(%peer, software, "a member connected");
        self.metrics.peers.set(i64::from(self.peers.connected_count()));
        self.announce_node(&peer).await;
        let gateway = self.clone();
        self.spawn({
            let peer = peer.clone();
            async move { gateway.keep_informed(&peer, session).await }
        });
        self.spawn_assign(peer.clone());
        let gateway = self.clone();
        self.spawn(async move { gateway.challenge_while_connected(peer, session).await });
    }

    /// The last connection of a member closed. Its leases notice by themselves: their streams are broken.
    pub async fn peer_gone(&self, peer: &GridPeerId, reason: &str) {
        self.peers.gone(peer, "Disconnected", reason);
        tracing::info!(%peer, reason, "a member disconnected");
        self.metrics.peers.set(i64::from(self.peers.connected_count()));
        self.announce_node(peer).await;
    }

    /// A worker said what it serves and how busy it is.
    pub async fn peer_stated(&self, peer: &GridPeerId, info: NodeInfo) {
        let changed = self.peers.stated(peer, info, self.clock.now_ms());
        if changed {
            if let Err(error) = self.weigh_profiles(peer).await {
                self.ledger_failed("weighing a kernel profile", &error);
            }
            self.announce_node(peer).await;
            self.announce_models_of(peer).await;
        }
        self.dispatch.notify_one();
        self.audit.notify_one();
    }

    /// Asks a worker for its state as long as the session lasts: adverts are gossip and may be lost.
    async fn keep_informed(&self, peer: &GridPeerId, session: u64) {
        while self.peers.is_current(peer, session) {
            if let Some(workers) = self.workers() {
                match workers.info(peer).await {
                    Ok(info) => self.peer_stated(peer, info).await,
                    Err(error) => tracing::debug!(%peer, "no state: {error}"),
                }
            }
            tokio::time::sleep(self.settings.info_interval).await;
        }
    }

    pub(super) async fn announce_node(&self, peer: &GridPeerId) {
        if let Err(error) = self.ledger.announce(ChangeKind::Node, peer.as_str()).await {
            self.ledger_failed("announcing a node", &error);
        }
    }

    /// How many workers serve a model is part of its report.
    async fn announce_models_of(&self, peer: &GridPeerId) {
        let Some(record) = self.members.get(peer) else { return };
        for digest in &record.member.models {
            if let Err(error) = self.ledger.announce(ChangeKind::Model, &digest.to_string()).await {
                self.ledger_failed("announcing a model", &error);
            }
        }
    }
}
