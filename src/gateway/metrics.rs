//! What the gateway counts. No label names a peer, a job or a model: their number is not ours to bound.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};

/// All metrics of this room. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Offer sent → answer accepted.
    pub dispatch: Histogram,
    /// Queued → leased.
    pub queue_wait: Histogram,
    pub first_token: Histogram,
    pub offers: IntCounterVec,
    pub redispatches: IntCounterVec,
    pub requests: IntCounterVec,
    pub audits: IntCounterVec,
    pub challenges: IntCounterVec,
    pub receipts: IntCounterVec,
    pub http_requests: IntCounterVec,
    pub peers: IntGauge,
    pub leases: IntGauge,
    pub ledger_errors: IntCounterVec,
}

impl Metrics {
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
            registry.register(Box::new(histogram.clone()))?;
            Ok::<_, prometheus::Error>(histogram)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        const QUICK: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];
        const SLOW: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];
        Ok(Metrics {
            dispatch: histogram("grid_dispatch_seconds", "From an offer to a worker until its acceptance.", QUICK)?,
            queue_wait: histogram("grid_queue_wait_seconds", "From queueing a request until its lease.", SLOW)?,
            first_token: histogram("grid_stream_first_token_seconds", "From lease to first token.", SLOW)?,
            offers: counter("grid_offer_total", "Offers to workers.", &["result", "reason"])?,
            redispatches: counter("grid_redispatch_total", "Requests that a worker lost, by cause.", &["cause"])?,
            requests: counter("grid_request_total", "Requests that are over.", &["kind", "outcome"])?,
            audits: counter("grid_audits_total", "Audits decided.", &["verdict"])?,
            challenges: counter("grid_challenges_total", "Challenges that are over.", &["kind", "outcome"])?,
            receipts: counter("grid_receipts_total", "Receipts received.", &["result"])?,
            http_requests: counter("grid_http_requests_total", "Requests answered.", &["api", "status"])?,
            peers: gauge("grid_connected_members", "Members that are connected and authenticated.")?,
            leases: gauge("grid_leases", "Leases that are running.")?,
            ledger_errors: counter("grid_ledger_errors_total", "Ledger operations that failed.", &["error"])?,
        })
    }
}
