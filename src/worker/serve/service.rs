//! What all requests share: the engine once it is there, the limits, and who is still being answered.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use prometheus::Registry;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use super::options::Limits;
use crate::{
    inference::metrics::{self, Measured},
    openai::{Defaults, Offer, OpenAiError, Parsed, ToolUse},
    telemetry::readiness::Readiness,
    worker::{AnswerEngine, metrics::ServeMetrics},
};

/// Most answers to one request, whatever the queue holds.
const MAX_CHOICES: u32 = 16;

/// A server's state.
pub(super) struct Service {
    /// What requests call the model.
    pub model: String,
    /// Unix seconds.
    pub created: u64,
    pub limits: Limits,
    pub metrics: ServeMetrics,
    pub registry: Registry,
    pub readiness: Readiness,
    /// Ends what is still running when the time to drain is over.
    pub stop: CancellationToken,
    engine: OnceLock<Arc<dyn AnswerEngine>>,
    flights: TaskTracker,
}

/// A request that is being answered; kept until the last byte is made.
pub(super) struct Flight {
    _token: TaskTrackerToken,
}

impl Service {
    pub(super) fn new(model: String, created: u64, limits: Limits) -> Result<Self, prometheus::Error> {
        let (registry, readiness) = (Registry::new(), Readiness::default());
        readiness.waiting("model", "loading");
        Ok(Service {
            metrics: ServeMetrics::register(&registry, &model)?,
            model,
            created,
            limits,
            registry,
            readiness,
            stop: CancellationToken::new(),
            engine: OnceLock::new(),
            flights: TaskTracker::new(),
        })
    }

    /// From here on requests are answered. `took`: the time to load.
    pub(super) fn ready(&self, engine: Arc<dyn AnswerEngine>, took: Duration) {
        let info = engine.info();
        let labels = [env!("CARGO_PKG_VERSION"), info.architecture.as_str(), info.kernel_profile.as_str()];
        self.metrics.info.with_label_values(&labels).set(1);
        self.metrics.load_seconds.set(took.as_secs_f64());
        // There is one engine in a server's life, and its metrics come with it.
        let (model, counted) = (self.model.clone(), engine.clone());
        let measure = move || {
            let of = |(load, totals)| Measured { model: model.clone(), load, totals };
            counted.measured().map(of).into_iter().collect()
        };
        if let Err(error) = metrics::register(&self.registry, measure) {
            tracing::warn!(%error, "the engine's metrics are not served");
        }
        let _ = self.engine.set(engine);
        self.readiness.ready("model");
    }

    /// Takes no more requests.
    pub(super) fn drain(&self) {
        self.readiness.waiting("drain", "stopping");
        self.flights.close();
    }

    /// Waits until nothing is being answered; after [`drain`](Self::drain).
    pub(super) async fn idle(&self) {
        self.flights.wait().await;
    }

    pub(super) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Lets a request in, or says why not now.
    pub(super) fn admit(&self) -> Parsed<(Arc<dyn AnswerEngine>, Flight)> {
        let flight = Flight { _token: self.flights.token() };
        if self.flights.is_closed() {
            return Err(stopping());
        }
        match self.engine.get() {
            Some(engine) => Ok((engine.clone(), flight)),
            None => Err(OpenAiError::unavailable("model_loading", "the model is still being loaded")),
        }
    }

    /// The engine, if it is there already.
    pub(super) fn engine(&self) -> Option<&Arc<dyn AnswerEngine>> {
        self.engine.get()
    }

    /// What requests to this engine may ask for.
    pub(super) fn offer(&self, engine: &dyn AnswerEngine) -> Offer {
        let context = engine.info().context_length;
        Offer {
            most_tokens: self.limits.max_tokens.map_or(context, |most| most.min(context)),
            most_choices: self.limits.places.clamp(1, MAX_CHOICES),
            tools: if engine.takes_tools() { ToolUse::Offered } else { ToolUse::NotOffered },
            defaults: Defaults::OPENAI,
        }
    }

    /// Counts an outcome that is a refusal.
    pub(super) fn counted<T>(&self, outcome: Parsed<T>) -> Parsed<T> {
        outcome.inspect_err(|error| {
            // Codes are ours, and few.
            let reason = error.body.code.as_deref().unwrap_or(error.body.kind);
            self.metrics.rejected.with_label_values(&[reason]).inc();
        })
    }

    pub(super) fn check_model(&self, asked: &str) -> Parsed<()> {
        if asked == self.model { Ok(()) } else { Err(OpenAiError::model_not_found(asked)) }
    }

    /// Brings the gauges up to date that are read from the engine.
    pub(super) fn measure(&self) {
        let Some((load, _)) = self.engine().and_then(|engine| engine.measured()) else { return };
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.running.set(number(load.running));
        self.metrics.waiting.set(number(load.queued));
        let used = load.kv_used_bytes.saturating_sub(load.kv_reusable_bytes);
        self.metrics.kv_usage.set(used as f64 / load.kv_budget_bytes.max(1) as f64);
    }
}

pub(super) fn stopping() -> OpenAiError {
    OpenAiError::unavailable("draining", "this server is stopping; try another one")
}
