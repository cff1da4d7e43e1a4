//! Counters and gauges of the grid. Never labelled by peer: peers are unbounded.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry};

use super::refusal::Reason;
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
    pub peers: IntGauge,
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
        Ok(Metrics {
            refused: counter("grid_refused_total", "What peers were refused, by reason.", &["protocol", "reason"])?,
            requests: counter("grid_requests_total", "Requests to peers, by outcome.", &["protocol", "outcome"])?,
            request_seconds,
            streams: counter("grid_streams_total", "Streams opened, by side.", &["protocol", "side"])?,
            adverts: counter("grid_adverts_total", "Adverts, by what became of them.", &["outcome"])?,
            dials: counter("grid_dials_total", "Dials to gateways, by outcome.", &["outcome"])?,
            dropped: counter("grid_channel_dropped_total", "Messages a full channel could not take.", &["channel"])?,
            connections: gauge("grid_connections", "Open connections, authenticated or not.")?,
            peers: gauge("grid_peers", "Authenticated peers.")?,
        })
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
