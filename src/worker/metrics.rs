//! What `grid-worker serve` counts. Names that begin with `vllm:` mean what vLLM means by them, so that its dashboards and autoscalers
//! work; a name of vLLM's that would not be true here is not served. No label names who asked.

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, core::Collector,
};

/// All metrics of a server. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ServeMetrics {
    pub running: IntGauge,
    pub waiting: IntGauge,
    /// Share of the memory for keys and values, 0 to 1.
    pub kv_usage: Gauge,
    pub prompt_tokens: IntCounter,
    pub generation_tokens: IntCounter,
    pub successes: IntCounterVec,
    /// In seconds, as all the times.
    pub first_token: Histogram,
    pub between_tokens: Histogram,
    pub latency: Histogram,
    pub prompt_length: Histogram,
    pub answer_length: Histogram,
    pub info: IntGaugeVec,
    pub http_requests: IntCounterVec,
    pub rejected: IntCounterVec,
    pub cancelled: IntCounter,
    pub connections: IntGauge,
    pub load_seconds: Gauge,
}

const LENGTHS: [f64; 14] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 1e5];
/// vLLM's, with edges at 2 and 3 s, where people notice.
const FIRST_TOKEN: [f64; 18] =
    [0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.0, 2.5, 3.0, 5.0, 7.5, 10.0, 20.0, 60.0];
const BETWEEN: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
const LATENCY: [f64; 15] = [0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 600.0];

impl ServeMetrics {
    /// `model`: the label `model_name` of vLLM's names.
    pub(super) fn register(registry: &Registry, model: &str) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| match name.starts_with("vllm:") {
            true => Opts::new(name, help).const_label("model_name", model),
            false => Opts::new(name, help),
        };
        let gauge = |name, help| add(registry, Gauge::with_opts(opts(name, help))?);
        let number = |name, help| add(registry, IntGauge::with_opts(opts(name, help))?);
        let counter = |name, help| add(registry, IntCounter::with_opts(opts(name, help))?);
        let counters = |name, help, labels: &[&str]| add(registry, IntCounterVec::new(opts(name, help), labels)?);
        let infos = |name, help, labels: &[&str]| add(registry, IntGaugeVec::new(opts(name, help), labels)?);
        let histogram = |name, help, buckets: &[f64]| {
            let opts = HistogramOpts { common_opts: opts(name, help), buckets: buckets.to_vec() };
            add(registry, Histogram::with_opts(opts)?)
        };
        Ok(ServeMetrics {
            running: number("vllm:num_requests_running", "Sequences in computation.")?,
            waiting: number("vllm:num_requests_waiting", "Sequences that wait.")?,
            kv_usage: gauge("vllm:kv_cache_usage_perc", "Share of the key-value memory in use, 0 to 1.")?,
            prompt_tokens: counter("vllm:prompt_tokens_total", "Prompt tokens of requests that were taken.")?,
            generation_tokens: counter("vllm:generation_tokens_total", "Tokens made.")?,
            successes: counters("vllm:request_success_total", "Answers that ended.", &["finished_reason"])?,
            first_token: histogram("vllm:time_to_first_token_seconds", "Until the first token.", &FIRST_TOKEN)?,
            between_tokens: histogram(
                "vllm:inter_token_latency_seconds",
                "Between two tokens of an answer.",
                &BETWEEN,
            )?,
            latency: histogram("vllm:e2e_request_latency_seconds", "From a request to its last token.", &LATENCY)?,
            prompt_length: histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", &LENGTHS)?,
            answer_length: histogram("vllm:request_generation_tokens", "Tokens of an answer.", &LENGTHS)?,
            load_seconds: gauge("grid_serve_model_load_seconds", "Time that the model took to load and test itself.")?,
            connections: number("grid_serve_connections", "Open connections.")?,
            cancelled: counter("grid_serve_cancelled_total", "Requests whose client left before the end.")?,
            rejected: counters("grid_serve_rejected_total", "Requests refused, by code.", &["reason"])?,
            http_requests: counters("grid_serve_http_requests_total", "Requests answered.", &["path", "status"])?,
            info: infos("grid_serve_info", "What serves.", &["version", "architecture", "kernel_profile"])?,
        })
    }
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}
