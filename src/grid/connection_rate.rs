//! How often one IP address may open a connection: handshakes cost more than anything else that a stranger can ask for.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::{IpAddr, Ipv6Addr},
    task::{Context, Poll},
    time::Instant,
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
        ToSwarm, dummy,
    },
};

use super::{
    metrics::Metrics,
    rate::{Bucket, Rate},
    refusal::Reason,
};

/// Addresses remembered at once; beyond it the full buckets go first, then newcomers share the refusal.
const MAX_ADDRESSES: usize = 10_000;

#[derive(Debug, thiserror::Error)]
#[error("too many new connections from this address")]
pub(super) struct TooManyConnections;

/// Refuses connections before their handshake.
pub(super) struct Behaviour {
    rate: Rate,
    buckets: HashMap<IpAddr, Bucket>,
    metrics: Metrics,
}

impl Behaviour {
    pub(super) fn new(rate: Rate, metrics: Metrics) -> Self {
        Behaviour { rate, buckets: HashMap::new(), metrics }
    }

    fn admit(&mut self, address: IpAddr, now: Instant) -> bool {
        if self.buckets.len() >= MAX_ADDRESSES {
            self.buckets.retain(|_, bucket| !bucket.is_full(now));
            if self.buckets.len() >= MAX_ADDRESSES {
                return false;
            }
        }
        self.buckets.entry(address).or_insert_with(|| Bucket::full(self.rate, now)).take(now).is_ok()
    }
}

/// The part of an address that one party can be assumed to hold: IPv4 as it is, the first 64 bits of IPv6.
fn party(address: &Multiaddr) -> Option<IpAddr> {
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => {
            let prefix = u128::from(ip) & !u128::from(u64::MAX);
            Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(Ipv6Addr::from(prefix)), IpAddr::V4))
        }
        _ => None,
    })
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        match party(remote) {
            Some(address) if !self.admit(address, Instant::now()) => {
                self.metrics.refused("connection", Reason::RateLimited);
                Err(ConnectionDenied::new(TooManyConnections))
            }
            _ => Ok(()),
        }
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_address_does_not_use_up_the_allowance_of_another() {
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let mut behaviour = Behaviour::new(Rate::new(1.0, 2.0), metrics);
        let now = Instant::now();
        let [a, b] = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2])];
        assert!(behaviour.admit(a, now) && behaviour.admit(a, now));
        assert!(!behaviour.admit(a, now));
        assert!(behaviour.admit(b, now));
        assert!(behaviour.admit(a, now + Duration::from_secs(1)));
    }

    #[test]
    fn one_ipv6_network_is_one_party() {
        let one = party(&"/ip6/2001:db8::1/tcp/1".parse().unwrap());
        assert_eq!(one, party(&"/ip6/2001:db8::ffff/udp/1/quic-v1".parse().unwrap()));
        assert_ne!(one, party(&"/ip6/2001:db8:0:1::1/tcp/1".parse().unwrap()));
    }
}
