//! Metrics of the operator. Labels are kinds, static strings and the few networks that an admin has named, never other names.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector};

/// Registered in the registry that `/metrics` serves.
#[derive(Clone)]
pub struct Metrics {
    pub registry: Registry,
    reconciles: IntCounterVec,
    durations: HistogramVec,
    errors: IntCounterVec,
    malformed: IntCounterVec,
    backing_off: IntGauge,
    pub leader: IntGauge,
    pub gateway_up: IntGauge,
    pub missing_crds: IntGaugeVec,
    funded_reports: IntGaugeVec,
}

impl Metrics {
    pub fn new(registry: Registry) -> Result<Self, prometheus::Error> {
        let counter =
            |name, help, labels: &[&str]| register(&registry, IntCounterVec::new(Opts::new(name, help), labels)?);
        Ok(Metrics {
            reconciles: counter(
                "grid_operator_reconciles_total",
                "Reconciles by kind and outcome.",
                &["kind", "outcome"],
            )?,
            errors: counter("grid_operator_errors_total", "Failed reconciles by kind and cause.", &["kind", "cause"])?,
            malformed: counter(
                "grid_operator_malformed_objects_total",
                "Objects that do not fit their schema, by kind.",
                &["kind"],
            )?,
            durations: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new("grid_operator_reconcile_seconds", "Time of one reconcile by kind.")
                        .buckets(vec![0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0]),
                    &["kind"],
                )?,
            )?,
            backing_off: register(
                &registry,
                IntGauge::new("grid_operator_objects_in_backoff", "Objects whose last reconcile failed.")?,
            )?,
            leader: register(
                &registry,
                IntGauge::new("grid_operator_leader", "1 while this process holds the lease.")?,
            )?,
            gateway_up: register(
                &registry,
                IntGauge::new("grid_operator_gateway_up", "1 while the gateway's change stream is open.")?,
            )?,
            missing_crds: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("grid_operator_missing_crds", "1 for a kind that is not installed."),
                    &["kind"],
                )?,
            )?,
            funded_reports: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "grid_operator_funded_reports",
                        "Reports that the reporter's account pays for, by network.",
                    ),
                    &["network"],
                )?,
            )?,
            registry,
        })
    }

    pub fn reconciled(&self, kind: &str, took: Duration) {
        self.reconciles.with_label_values(&[kind, "ok"]).inc();
        self.durations.with_label_values(&[kind]).observe(took.as_secs_f64());
    }

    pub fn failed(&self, kind: &str, cause: &str, in_backoff: usize) {
        self.reconciles.with_label_values(&[kind, "error"]).inc();
        self.errors.with_label_values(&[kind, cause]).inc();
        self.backing_off.set(i64::try_from(in_backoff).unwrap_or(i64::MAX));
    }

    /// How many more reports the reporter of a network can pay for.
    pub fn funded_reports(&self, network: &str, left: u64) {
        self.funded_reports.with_label_values(&[network]).set(i64::try_from(left).unwrap_or(i64::MAX));
    }

    /// Read, decided, and found at the write that the object had changed meanwhile.
    pub fn conflicted(&self, kind: &str) {
        self.reconciles.with_label_values(&[kind, "conflict"]).inc();
    }

    pub fn recovered(&self, in_backoff: usize) {
        self.backing_off.set(i64::try_from(in_backoff).unwrap_or(i64::MAX));
    }

    pub fn malformed(&self, kind: &str) {
        self.malformed.with_label_values(&[kind]).inc();
    }
}

fn register<M: Collector + Clone + 'static>(registry: &Registry, metric: M) -> Result<M, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
