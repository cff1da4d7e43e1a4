//! Counters and gauges of the grid. Never labelled by peer: peers are unbounded.

use libp2p::{Multiaddr, multiaddr::Protocol as Part};
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use super::{refusal::Reason, start::Role};
use crate::protocol::names::Protocol;

#[derive(Debug, Clone)]
pub(super) struct Metrics {
    refused: IntCounterVec,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    streams: IntCounterVec,
    adverts: IntCounterVec,
    dials: IntCounterVec,
    dropped: IntCounterVec,
    pub connections: IntGauge,
    peers: IntGaugeVec,
}

impl Metrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        let buckets = vec![0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
        let seconds = HistogramOpts::new("grid_request_seconds", "Time until a request to a peer was answered.");
        let request_seconds = HistogramVec::new(seconds.buckets(buckets), &["protocol"])?;
        registry.register(Box::new(request_seconds.clone()))?;
        let peers = IntGaugeVec::new(Opts::new("grid_peers", "Authenticated peers."), &["role", "transport"])?;
        registry.register(Box::new(peers.clone()))?;
        Ok(Metrics {
            refused: counter("grid_refused_total", "What peers were refused, by reason.", &["protocol", "reason"])?,
            requests: counter("grid_requests_total", "Requests to peers, by outcome.", &["protocol", "outcome"])?,
            request_seconds,
            streams: counter("grid_streams_total", "Streams opened, by side.", &["protocol", "side"])?,
            adverts: counter("grid_adverts_total", "Adverts, by what became of them.", &["outcome"])?,
            dials: counter("grid_dials_total", "Dials to gateways, by outcome.", &["outcome"])?,
            dropped: counter("grid_channel_dropped_total", "Messages a full channel could not take.", &["channel"])?,
            connections: gauge("grid_connections", "Open connections, authenticated or not.")?,
            peers,
        })
    }

    /// A peer of this role was authenticated over a connection of this transport.
    pub(super) fn peer_came(&self, role: Role, transport: &str) {
        self.peers.with_label_values(&[role.as_str(), transport]).inc();
    }

    pub(super) fn peer_went(&self, role: Role, transport: &str) {
        self.peers.with_label_values(&[role.as_str(), transport]).dec();
    }

    /// `protocol`: a protocol's part name, or `connection`.
    pub(super) fn refused(&self, protocol: &str, reason: Reason) {
        self.refused.with_label_values(&[protocol, reason.as_str()]).inc();
    }

    pub(super) fn request(&self, protocol: Protocol, outcome: &str, seconds: f64) {
        self.requests.with_label_values(&[protocol.part(), outcome]).inc();
        self.request_seconds.with_label_values(&[protocol.part()]).observe(seconds);
    }

    pub(super) fn stream(&self, protocol: Protocol, side: &str) {
        self.streams.with_label_values(&[protocol.part(), side]).inc();
    }

    pub(super) fn advert(&self, outcome: &str) {
        self.adverts.with_label_values(&[outcome]).inc();
    }

    pub(super) fn dial(&self, outcome: &str) {
        self.dials.with_label_values(&[outcome]).inc();
    }

    pub(super) fn dropped(&self, channel: &str) {
        self.dropped.with_label_values(&[channel]).inc();
    }
}

/// How a connection with this remote address travels, as a label.
pub(super) fn transport(remote: &Multiaddr) -> &'static str {
    let has = |wanted: fn(&Part<'_>) -> bool| remote.iter().any(|part| wanted(&part));
    if has(|part| matches!(part, Part::P2pCircuit)) {
        "relay"
    } else if has(|part| matches!(part, Part::QuicV1 | Part::Quic)) {
        "quic"
    } else if has(|part| matches!(part, Part::Ws(_) | Part::Wss(_))) {
        "websocket"
    } else if has(|part| matches!(part, Part::Tcp(_))) {
        "tcp"
    } else {
        "other"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transport_is_read_off_the_address() {
        let cases = [
            ("/ip4/10.0.0.1/tcp/4001", "tcp"),
            ("/ip4/10.0.0.1/udp/4001/quic-v1", "quic"),
            ("/dns4/a.example/tcp/443/wss", "websocket"),
            ("/ip4/10.0.0.1/udp/4001/quic-v1/p2p-circuit", "relay"),
            ("/memory/7", "other"),
        ];
        for (address, expected) in cases {
            assert_eq!(transport(&address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn peers_are_counted_by_role_and_transport() {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        metrics.peer_came(Role::Worker, "quic");
        metrics.peer_came(Role::Worker, "tcp");
        metrics.peer_went(Role::Worker, "quic");
        let of = |transport| metrics.peers.with_label_values(&["worker", transport]).get();
        assert_eq!((of("quic"), of("tcp")), (0, 1));
    }
}
