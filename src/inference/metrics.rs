//! Metrics of loaded engines, read when they are asked for: nothing is counted twice and a step pays nothing.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

use super::{EngineLoad, EngineTotals};

/// What is known of one engine, by the name of its model.
pub struct Measured {
    pub model: String,
    pub load: EngineLoad,
    pub totals: EngineTotals,
}

enum Kind {
    Gauge,
    Counter,
}

struct Metric {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    value: fn(&EngineLoad, &EngineTotals) -> u64,
}

const LABELS: [&str; 1] = ["model"];

const METRICS: [Metric; 15] = [
    gauge("grid_engine_running_sequences", "Sequences in computation.", |load, _| load.running as u64),
    gauge("grid_engine_waiting_requests", "Requests that wait for a place.", |load, _| load.queued as u64),
    gauge("grid_engine_kv_budget_bytes", "Memory for keys and values.", |load, _| load.kv_budget_bytes),
    gauge("grid_engine_kv_used_bytes", "The part of it that is reserved or kept.", |load, _| load.kv_used_bytes),
    gauge("grid_engine_kv_reusable_bytes", "The part of it that nobody uses now.", |load, _| load.kv_reusable_bytes),
    counter("grid_engine_steps_total", "Forwards.", |_, totals| totals.steps),
    counter("grid_engine_step_sequences_total", "Sequences of all forwards.", |_, totals| totals.step_sequences),
    counter("grid_engine_decoded_tokens_total", "Tokens computed one at a time.", |_, totals| totals.decoded_tokens),
    counter("grid_engine_prefilled_tokens_total", "Tokens computed in chunks.", |_, totals| totals.prefilled_tokens),
    counter("grid_engine_prefix_tokens_total", "Prompt tokens that were looked up.", |_, totals| totals.prefix_tokens),
    counter("grid_engine_prefix_hit_tokens_total", "Those that were found.", |_, totals| totals.prefix_hit_tokens),
    counter("grid_engine_cancelled_total", "Requests whose readers left.", |_, totals| totals.cancelled),
    counter("grid_engine_late_total", "Requests that ended at their deadline.", |_, totals| totals.late),
    counter("grid_engine_parked_total", "Sequences that gave way for a slow reader.", |_, totals| totals.parked),
    counter("grid_engine_refused_total", "Requests refused for want of a place.", |_, totals| totals.refused),
];

type Value = fn(&EngineLoad, &EngineTotals) -> u64;

const fn gauge(name: &'static str, help: &'static str, value: Value) -> Metric {
    Metric { name, help, kind: Kind::Gauge, value }
}

const fn counter(name: &'static str, help: &'static str, value: Value) -> Metric {
    Metric { name, help, kind: Kind::Counter, value }
}

impl Metric {
    fn opts(&self) -> Opts {
        Opts::new(self.name, self.help)
    }

    fn read(&self, engines: &[Measured]) -> prometheus::Result<Vec<MetricFamily>> {
        match self.kind {
            Kind::Gauge => {
                let family = IntGaugeVec::new(self.opts(), &LABELS)?;
                for engine in engines {
                    let value = i64::try_from((self.value)(&engine.load, &engine.totals)).unwrap_or(i64::MAX);
                    family.with_label_values(&[&engine.model]).set(value);
                }
                Ok(family.collect())
            }
            Kind::Counter => {
                let family = IntCounterVec::new(self.opts(), &LABELS)?;
                for engine in engines {
                    family.with_label_values(&[&engine.model]).inc_by((self.value)(&engine.load, &engine.totals));
                }
                Ok(family.collect())
            }
        }
    }
}

/// Serves the metrics of the engines that `read` returns; their number is bounded by whoever loads them.
pub fn register(
    registry: &Registry,
    read: impl Fn() -> Vec<Measured> + Send + Sync + 'static,
) -> prometheus::Result<()> {
    let descriptions = METRICS.iter().map(|metric| {
        let labels = LABELS.map(str::to_owned).to_vec();
        Desc::new(metric.name.to_owned(), metric.help.to_owned(), labels, std::collections::HashMap::new())
    });
    let descriptions = descriptions.collect::<prometheus::Result<_>>()?;
    registry.register(Box::new(Engines { read: Box::new(read), descriptions }))
}

struct Engines {
    read: Box<dyn Fn() -> Vec<Measured> + Send + Sync>,
    descriptions: Vec<Desc>,
}

impl Collector for Engines {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let engines = (self.read)();
        // The names and labels are constants that `register` has checked.
        METRICS.iter().flat_map(|metric| metric.read(&engines).unwrap_or_default()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_engine_has_its_series() {
        let registry = Registry::new();
        register(&registry, || {
            let engine = |model: &str, running, steps| Measured {
                model: model.into(),
                load: EngineLoad { running, ..EngineLoad::default() },
                totals: EngineTotals { steps, ..EngineTotals::default() },
            };
            vec![engine("a", 3, 10), engine("b", 0, 4)]
        })
        .unwrap();
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        for line in [
            "grid_engine_running_sequences{model=\"a\"} 3",
            "grid_engine_running_sequences{model=\"b\"} 0",
            "# TYPE grid_engine_steps_total counter",
            "grid_engine_steps_total{model=\"b\"} 4",
        ] {
            assert!(text.contains(line), "{line} is not in:\n{text}");
        }
        assert_eq!(text.lines().filter(|line| line.starts_with("# TYPE")).count(), METRICS.len());
    }
}
