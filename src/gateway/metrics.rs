//! What the gateway counts. No label names a peer or a job: their number is not ours to bound. Models are named by the admin,
//! and no more than a bound of them have a gauge.

use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// All metrics of this room. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Offer sent → answer accepted.
    pub dispatch: Histogram,
    /// Queued → leased, by class.
    pub queue_wait: HistogramVec,
    /// By class.
    pub queue_depth: IntGaugeVec,
    /// By class, in seconds.
    pub queue_oldest: GaugeVec,
    /// By name of the model, in seconds.
    pub expected_wait: GaugeVec,
    pub first_token: Histogram,
    pub offers: IntCounterVec,
    pub redispatches: IntCounterVec,
    pub requests: IntCounterVec,
    pub audits: IntCounterVec,
    pub challenges: IntCounterVec,
    pub receipts: IntCounterVec,
    pub http_requests: IntCounterVec,
    /// By API: open connections.
    pub http_connections: IntGaugeVec,
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
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let gauges = GaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        const QUICK: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];
        const SLOW: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];
        let wait = HistogramOpts::new("grid_queue_wait_seconds", "From queueing a request until its lease.");
        let queue_wait = HistogramVec::new(wait.buckets(SLOW.to_vec()), &["class"])?;
        registry.register(Box::new(queue_wait.clone()))?;
        let queue_depth = IntGaugeVec::new(Opts::new("grid_queue_depth", "Requests that wait."), &["class"])?;
        registry.register(Box::new(queue_depth.clone()))?;
        let http_connections = IntGaugeVec::new(Opts::new("grid_http_connections", "Open connections."), &["api"])?;
        registry.register(Box::new(http_connections.clone()))?;
        Ok(Metrics {
            dispatch: histogram("grid_dispatch_seconds", "From an offer to a worker until its acceptance.", QUICK)?,
            queue_wait,
            queue_depth,
            queue_oldest: gauges("grid_queue_oldest_seconds", "Age of the oldest waiting request.", &["class"])?,
            expected_wait: gauges(
                "grid_queue_expected_wait_seconds",
                "Time until what waits for a model is done by those that serve it.",
                &["model"],
            )?,
            first_token: histogram("grid_stream_first_token_seconds", "From lease to first token.", SLOW)?,
            offers: counter("grid_offer_total", "Offers to workers.", &["result", "reason"])?,
            redispatches: counter("grid_redispatch_total", "Requests that a worker lost, by cause.", &["cause"])?,
            requests: counter("grid_request_total", "Requests that are over.", &["kind", "outcome"])?,
            audits: counter("grid_audits_total", "Audits decided.", &["verdict"])?,
            challenges: counter("grid_challenges_total", "Challenges that are over.", &["kind", "outcome"])?,
            receipts: counter("grid_receipts_total", "Receipts received.", &["result"])?,
            http_requests: counter("grid_http_requests_total", "Requests answered.", &["api", "status"])?,
            http_connections,
            peers: gauge("grid_connected_members", "Members that are connected and authenticated.")?,
            leases: gauge("grid_leases", "Leases that are running.")?,
            ledger_errors: counter("grid_ledger_errors_total", "Ledger operations that failed.", &["error"])?,
        })
    }
}
