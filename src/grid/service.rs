//! What the owner of a grid node supplies (membership, answers to requests) and what it is told (events).

use std::collections::HashSet;

use futures::future::BoxFuture;
use libp2p::{Multiaddr, multiaddr::Protocol};
use tokio::sync::mpsc;

use super::{
    error::GridError,
    identity::grid_id,
    refusal::{Reason, refused},
};
use crate::{
    api::ids::{GridPeerId, NodeAddress},
    protocol::wire,
};

/// Who may take part. Asked by the swarm task itself, so it must answer from memory at once.
pub trait Membership: Send + Sync + 'static {
    /// `Err` says why not, in words that reach the refused peer.
    fn admit(&self, peer: &GridPeerId) -> Result<(), wire::Refused>;
}

/// A worker's membership: the gateways that it was told to dial.
#[derive(Debug, Clone)]
pub struct ConfiguredGateways(pub HashSet<GridPeerId>);

impl ConfiguredGateways {
    /// From addresses that end in `/p2p/<peer id>`.
    pub fn of(addresses: &[Multiaddr]) -> Result<Self, GridError> {
        let peers = addresses.iter().map(|address| {
            let peer = address.iter().find_map(|part| match part {
                Protocol::P2p(peer) => grid_id(&peer),
                _ => None,
            });
            peer.ok_or_else(|| GridError::GatewayWithoutPeerId(address.to_string()))
        });
        Ok(ConfiguredGateways(peers.collect::<Result<_, _>>()?))
    }
}

impl Membership for ConfiguredGateways {
    fn admit(&self, peer: &GridPeerId) -> Result<(), wire::Refused> {
        if self.0.contains(peer) {
            return Ok(());
        }
        Err(refused(Reason::UnknownPeer, format!("{peer} is none of this worker's gateways"), None))
    }
}

/// A worker's answers. Each future runs in a task of its own; how many run at once is bounded by
/// [`GridLimits::concurrent_requests`](super::GridLimits), what is above is refused as `Busy`.
pub trait Service: Send + Sync + 'static {
    fn on_assign(&self, peer: GridPeerId, assign: wire::Assign) -> BoxFuture<'static, wire::AssignReply>;
    fn on_offer(&self, peer: GridPeerId, offer: wire::Offer) -> BoxFuture<'static, wire::OfferReply>;
    fn on_challenge(
        &self,
        peer: GridPeerId,
        challenge: wire::ChallengeRequest,
    ) -> BoxFuture<'static, wire::ChallengeReply>;
    fn on_info(&self, peer: GridPeerId) -> BoxFuture<'static, wire::NodeInfo>;
}

/// What happened on the grid. Sent with `try_send`: a reader that falls [`GridLimits::events`](super::GridLimits) behind
/// loses events, which is counted; `GridHandle::peers` heals the view.
#[derive(Debug, Clone, PartialEq)]
pub enum GridEvent {
    /// Mutual authentication succeeded. Comes again when the peer reconnects, also without a `PeerGone` in between: a
    /// restarted worker has forgotten what it was assigned.
    PeerAuthenticated { peer: GridPeerId, address: NodeAddress, software: String },
    /// The last connection of an authenticated peer closed.
    PeerGone { peer: GridPeerId, reason: String },
    /// Somebody was refused. `peer` is absent when it has no secp256k1 identity.
    Refused { peer: Option<GridPeerId>, reason: Reason, message: String },
    /// A peer refused this node: a worker that its gateway does not know, say.
    RefusedBy { peer: GridPeerId, refused: wire::Refused },
    /// A fresh, valid advert; `peer` signed it, whoever forwarded it.
    Advert { peer: GridPeerId, info: wire::NodeInfo },
    /// This node listens here, with `/p2p/<own peer id>`.
    ListenAddress(Multiaddr),
}

/// Bounded queue of events.
pub type GridEvents = mpsc::Receiver<GridEvent>;
