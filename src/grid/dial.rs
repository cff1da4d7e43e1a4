//! A worker's way back to its gateways: for ever, with growing and jittered pauses, so that a gateway that restarts is not
//! met by all of its workers at once.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol, swarm::dial_opts::DialOpts};

use super::error::GridError;

/// Pause before the first retry, doubled with each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Gateway {
    addresses: Vec<Multiaddr>,
    failures: u32,
    /// `None` while dialling or connected.
    next: Option<Instant>,
}

/// The gateways of a worker and when to dial each.
#[derive(Debug)]
pub(super) struct Dialer {
    gateways: HashMap<PeerId, Gateway>,
    longest: Duration,
}

impl Dialer {
    /// Every address must end in `/p2p/<peer id>`; addresses of the same peer are tried together.
    pub(super) fn new(addresses: &[Multiaddr], longest: Duration, now: Instant) -> Result<Self, GridError> {
        let mut gateways = HashMap::<_, Gateway>::new();
        for address in addresses {
            let Some(Protocol::P2p(peer)) = address.iter().last() else {
                return Err(GridError::GatewayWithoutPeerId(address.to_string()));
            };
            let gateway = gateways.entry(peer).or_insert(Gateway { addresses: vec![], failures: 0, next: Some(now) });
            gateway.addresses.push(address.clone());
        }
        Ok(Dialer { gateways, longest })
    }

    pub(super) fn is_gateway(&self, peer: &PeerId) -> bool {
        self.gateways.contains_key(peer)
    }

    pub(super) fn addresses(&self, peer: &PeerId) -> &[Multiaddr] {
        self.gateways.get(peer).map(|gateway| gateway.addresses.as_slice()).unwrap_or_default()
    }

    /// Takes one gateway whose time has come.
    pub(super) fn due(&mut self, now: Instant) -> Option<DialOpts> {
        let (peer, gateway) = self.gateways.iter_mut().find(|(_, gateway)| gateway.next.is_some_and(|at| at <= now))?;
        gateway.next = None;
        Some(DialOpts::peer_id(*peer).addresses(gateway.addresses.clone()).build())
    }

    /// Authenticated: the next trouble starts with a short pause again.
    pub(super) fn succeeded(&mut self, peer: &PeerId) {
        if let Some(gateway) = self.gateways.get_mut(peer) {
            gateway.failures = 0;
        }
    }

    /// Not reached, refused, or lost. `at_least`: what the gateway asked for; `chance` in 0..1 spreads the workers.
    pub(super) fn failed(&mut self, peer: &PeerId, at_least: Duration, chance: f64, now: Instant) {
        let Some(gateway) = self.gateways.get_mut(peer) else { return };
        let ceiling = FIRST_PAUSE.saturating_mul(1 << gateway.failures.min(16)).min(self.longest);
        // Between half and all of the pause: spread, but never at once.
        let pause = ceiling.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0));
        gateway.failures = gateway.failures.saturating_add(1);
        gateway.next = Some((now + pause.max(at_least.min(self.longest))).max(gateway.next.unwrap_or(now)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialer(now: Instant) -> (Dialer, PeerId) {
        let peer = PeerId::random();
        let addresses = ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/udp/1/quic-v1"];
        let addresses = addresses.map(|address| format!("{address}/p2p/{peer}").parse().unwrap());
        (Dialer::new(&addresses, Duration::from_secs(30), now).unwrap(), peer)
    }

    #[test]
    fn two_addresses_of_one_gateway_are_one_dial() {
        let now = Instant::now();
        let (mut dialer, peer) = dialer(now);
        assert_eq!(dialer.due(now).unwrap().get_peer_id(), Some(peer));
        assert!(dialer.due(now).is_none());
        assert_eq!(dialer.addresses(&peer).len(), 2);
    }

    #[test]
    fn pauses_grow_to_their_limit_and_shrink_after_success() {
        let now = Instant::now();
        let (mut dialer, peer) = dialer(now);
        let pause = |dialer: &mut Dialer| {
            dialer.due(now + Duration::from_secs(3600));
            dialer.failed(&peer, Duration::ZERO, 1.0, now);
            dialer.gateways[&peer].next.unwrap() - now
        };
        assert_eq!(pause(&mut dialer), Duration::from_millis(500));
        assert_eq!(pause(&mut dialer), Duration::from_secs(1));
        let longest = (0..40).map(|_| pause(&mut dialer)).last();
        assert_eq!(longest, Some(Duration::from_secs(30)));
        dialer.succeeded(&peer);
        assert_eq!(pause(&mut dialer), Duration::from_millis(500));
    }

    #[test]
    fn a_gateway_that_asks_for_patience_gets_it() {
        let now = Instant::now();
        let (mut dialer, peer) = dialer(now);
        dialer.due(now);
        dialer.failed(&peer, Duration::from_secs(5), 0.0, now);
        assert!(dialer.due(now + Duration::from_secs(4)).is_none());
        // The close that follows the refusal does not shorten it.
        dialer.failed(&peer, Duration::ZERO, 0.0, now);
        assert!(dialer.due(now + Duration::from_secs(4)).is_none());
        assert!(dialer.due(now + Duration::from_secs(5)).is_some());
    }

    #[test]
    fn an_address_without_a_peer_id_is_refused() {
        let address = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        assert!(matches!(
            Dialer::new(&[address], Duration::ZERO, Instant::now()),
            Err(GridError::GatewayWithoutPeerId(_))
        ));
    }
}
