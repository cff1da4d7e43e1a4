//! Adverts on their way out and in.

use libp2p::{
    PeerId,
    gossipsub::{Event, MessageAcceptance, MessageId, PublishError},
};
use prost::Message;
use tracing::debug;

use super::{Node, now_ms};
use crate::{
    grid::{
        behaviour::GossipMessage,
        identity::grid_id,
        peers::Standing,
        refusal::{Reason, Refusal},
        service::GridEvent,
    },
    protocol::wire::NodeInfo,
};

impl Node {
    pub(super) fn publish(&mut self, info: &NodeInfo) {
        let outcome = self.swarm.behaviour_mut().gossip.publish(self.topic.clone(), info.encode_to_vec());
        self.metrics.advert(match outcome {
            Ok(_) => "published",
            // Not connected yet, or the gateway's subscription has not arrived: the next advert will do.
            Err(PublishError::NoPeersSubscribedToTopic) => "nobody_listens",
            Err(error) => {
                debug!(%error, "an advert was not published");
                "failed"
            }
        });
    }

    pub(super) fn gossip_event(&mut self, event: Event) {
        match event {
            Event::Message { propagation_source, message_id, message } => {
                self.advert(propagation_source, &message_id, &message);
            }
            Event::SlowPeer { .. } => self.metrics.dropped("gossip"),
            _ => {}
        }
    }

    fn advert(&mut self, from: PeerId, id: &MessageId, message: &GossipMessage) {
        let checked = self.check_advert(from, message);
        let acceptance = match &checked {
            Ok(_) => MessageAcceptance::Accept,
            // Views of who is a member, and clocks, may differ: only nonsense is held against who forwarded it.
            Err(refusal) if refusal.reason.is_offence() => MessageAcceptance::Reject,
            Err(_) => MessageAcceptance::Ignore,
        };
        self.swarm.behaviour_mut().gossip.report_message_validation_result(id, &from, acceptance);
        match checked {
            Ok(event) => {
                self.metrics.advert("accepted");
                self.emit(event);
            }
            // Late copies are ordinary life of a gossip network, not worth an event.
            Err(refusal) if refusal.reason == Reason::StaleAdvert => self.metrics.refused("advert", refusal.reason),
            Err(refusal) => self.refuse(from, "advert", refusal),
        }
    }

    fn check_advert(&mut self, from: PeerId, message: &GossipMessage) -> Result<GridEvent, Refusal> {
        if self.peers.standing(&from) < Standing::Trusted {
            return Err(Refusal::new(Reason::NotAuthenticated, "authenticate first"));
        }
        let source = message.source.and_then(|source| grid_id(&source).map(|id| (source, id)));
        let Some((source, peer)) = source else {
            return Err(Refusal::new(Reason::UnknownPeer, "the source is no secp256k1 identity"));
        };
        self.membership.admit(&peer).map_err(|wire| Refusal { reason: Reason::UnknownPeer, wire })?;
        let info = self.adverts.check(source, &message.data, now_ms())?;
        Ok(GridEvent::Advert { peer, info })
    }
}
