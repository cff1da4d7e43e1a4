//! Adverts: what nodes measured about themselves, gossiped. Signed by their source (strict mode), sequenced, expiring,
//! bounded, and only of members.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use libp2p::{
    PeerId,
    gossipsub::{
        self, ConfigBuilder, IdentTopic, MaxCountSubscriptionFilter, MessageAuthenticity, ValidationMode,
        WhitelistSubscriptionFilter,
    },
    identity::Keypair,
};
use prost::Message;

use super::{
    error::GridError,
    refusal::{Reason, Refusal},
    start::Role,
};
use crate::protocol::{
    names::{Net, adverts_topic},
    wire::{self, limits},
};

/// How long an advert counts after it was issued.
pub(super) const LIFETIME: Duration = Duration::from_secs(30);
/// How far a peer's clock may be ahead of ours.
const CLOCK_SKEW: Duration = Duration::from_secs(5);
/// Sources remembered; members are far fewer.
const MAX_SOURCES: usize = 4096;

pub(super) type Gossip =
    gossipsub::Behaviour<gossipsub::IdentityTransform, MaxCountSubscriptionFilter<WhitelistSubscriptionFilter>>;

/// A gateway subscribes; a worker only publishes.
pub(super) fn gossip(keypair: &Keypair, role: Role, net: &Net) -> Result<Gossip, GridError> {
    let transport = |error: &dyn std::fmt::Display| GridError::Transport(error.to_string());
    let topic = topic(net);
    let config = ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .flood_publish(false)
        // The envelope (source, sequence, signature, topic) comes on top of the payload.
        .max_transmit_size(limits::ADVERT + 1024)
        .forward_queue_duration(Duration::from_secs(5))
        .build()
        .map_err(|error| transport(&error))?;
    let filter = MaxCountSubscriptionFilter {
        filter: WhitelistSubscriptionFilter(HashSet::from([topic.hash()])),
        max_subscribed_topics: 2,
        max_subscriptions_per_request: 4,
    };
    let authenticity = MessageAuthenticity::Signed(keypair.clone());
    let mut gossip = gossipsub::Behaviour::new_with_subscription_filter(authenticity, config, filter)
        .map_err(|error| transport(&error))?;
    if role == Role::Gateway {
        gossip.subscribe(&topic).map_err(|error| transport(&error))?;
    }
    Ok(gossip)
}

pub(super) fn topic(net: &Net) -> IdentTopic {
    IdentTopic::new(adverts_topic(net))
}

/// The newest sequence of each source.
#[derive(Debug, Default)]
pub(super) struct Adverts {
    newest: HashMap<PeerId, (u64, u64)>,
}

impl Adverts {
    /// Checks an advert that `source` signed. Time in unix milliseconds.
    pub(super) fn check(&mut self, source: PeerId, payload: &[u8], now_ms: u64) -> Result<wire::NodeInfo, Refusal> {
        if payload.len() > limits::ADVERT {
            let message = format!("an advert of {} bytes is over the limit of {}", payload.len(), limits::ADVERT);
            return Err(Refusal::new(Reason::TooLarge, message));
        }
        let info = wire::NodeInfo::decode(payload)
            .map_err(|error| Refusal::new(Reason::MalformedFrame, format!("not an advert: {error}")))?;
        let [lifetime, skew] = [LIFETIME, CLOCK_SKEW].map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        if info.issued_at_ms.saturating_add(lifetime) <= now_ms || info.issued_at_ms > now_ms.saturating_add(skew) {
            return Err(Refusal::new(Reason::StaleAdvert, "the advert is older than 30 s, or of the future"));
        }
        if self.newest.get(&source).is_some_and(|(sequence, _)| info.sequence <= *sequence) {
            return Err(Refusal::new(Reason::StaleAdvert, "a newer advert of this peer is known"));
        }
        if self.newest.len() >= MAX_SOURCES {
            self.newest.retain(|_, (_, issued)| issued.saturating_add(lifetime) > now_ms);
        }
        if self.newest.len() < MAX_SOURCES {
            self.newest.insert(source, (info.sequence, info.issued_at_ms));
        }
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::wire::NodeInfo;

    const NOW: u64 = 1_000_000;

    fn check(adverts: &mut Adverts, source: PeerId, info: &NodeInfo) -> Result<NodeInfo, Reason> {
        adverts.check(source, &info.encode_to_vec(), NOW).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn an_advert_counts_once_while_fresh() {
        let (mut adverts, peer) = (Adverts::default(), PeerId::random());
        let info = NodeInfo { sequence: 2, issued_at_ms: NOW, ..NodeInfo::default() };
        assert!(check(&mut adverts, peer, &info).is_ok());
        assert_eq!(check(&mut adverts, peer, &info), Err(Reason::StaleAdvert));
        assert_eq!(check(&mut adverts, peer, &NodeInfo { sequence: 1, ..info.clone() }), Err(Reason::StaleAdvert));
        assert!(check(&mut adverts, peer, &NodeInfo { sequence: 3, ..info.clone() }).is_ok());
        assert!(check(&mut adverts, PeerId::random(), &info).is_ok());
    }

    #[test]
    fn old_future_large_and_unreadable_adverts_are_refused() {
        let (mut adverts, peer) = (Adverts::default(), PeerId::random());
        let info = NodeInfo { sequence: 1, issued_at_ms: NOW, ..NodeInfo::default() };
        for issued_at_ms in [NOW - 30_000, NOW + 5_001] {
            let info = NodeInfo { issued_at_ms, ..info.clone() };
            assert_eq!(check(&mut adverts, peer, &info), Err(Reason::StaleAdvert));
        }
        let large = NodeInfo { software: "x".repeat(limits::ADVERT), ..info };
        assert_eq!(check(&mut adverts, peer, &large), Err(Reason::TooLarge));
        assert_eq!(adverts.check(peer, &[0xff], NOW).unwrap_err().reason, Reason::MalformedFrame);
    }
}
