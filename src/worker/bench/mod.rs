//! `grid-worker bench`: how fast this machine runs a model, how much memory that takes, and what it could earn. Uses the engine as requests
//! use it; speaks to nobody.

mod earnings;
mod measure;
mod options;
mod progress;
mod table;

use std::{io::Write, sync::Arc, time::Instant};

use serde::Serialize;

use super::{
    EngineProvider, EngineSettings,
    hardware::processor,
    serve::{self, ServeError},
};
use crate::inference::threads_from_cgroup;
use earnings::Earnings;
use measure::{Rate, Shape};
pub use options::{BenchFormat, BenchOptions};
use progress::Progress;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(transparent)]
    Load(#[from] ServeError),
    #[error("the measurement failed: {0}")]
    Engine(String),
    #[error("cannot write the result: {0}")]
    Json(#[from] serde_json::Error),
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    model: String,
    architecture: String,
    parameters: u64,
    file_bytes: u64,
    kernel_profile: String,
    processor: String,
    threads: usize,
    load_seconds: f64,
    /// Of this process, with the model and what the runs needed.
    peak_memory_bytes: Option<u64>,
    /// Tokens a second that are read.
    prefill: Rate,
    /// Tokens a second that are written, one answer at a time; none by a model that makes embeddings.
    #[serde(skip_serializing_if = "Option::is_none")]
    decode: Option<Rate>,
    /// The same over `shape.sequences` answers at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    decode_together: Option<Rate>,
    /// Tokens a second of answers that are checked as an audit does.
    #[serde(skip_serializing_if = "Option::is_none")]
    replay: Option<Rate>,
    /// What a request of the runs looks like.
    shape: Shape,
    earnings: Earnings,
}

/// Measures, and returns what to print. Meanwhile `progress` gets a line for each step as it begins, the first at once.
pub async fn run(
    options: BenchOptions,
    engines: Arc<dyn EngineProvider>,
    progress: &mut (dyn Write + Send),
) -> Result<String, BenchError> {
    let mut progress = Progress::new(progress);
    progress.step(format_args!("getting the model {}", options.source.model));
    let path = options.source.obtain().await.map_err(ServeError::from)?;
    let threads = options.threads.map_or_else(threads_from_cgroup, usize::from);
    let shape = options.shape();
    let device = options.device.open().map_err(ServeError::from)?;
    let settings = EngineSettings {
        processor: device,
        threads,
        context_length: None,
        kv_budget_bytes: options.kv_budget.0,
        kv_type: options.kv_type,
        max_sequences: shape.sequences as usize,
        // A place is free a moment after its answer has ended.
        max_queue: shape.sequences as usize,
    };
    progress.step(format_args!("loading {} with {threads} threads", path.display()));
    let began = Instant::now();
    let engine = serve::load(&options.source, path, engines, settings).await?;
    let load_seconds = began.elapsed().as_secs_f64();
    let measured = measure::all(engine.as_ref(), &shape, options.runs.into(), &mut progress).await;
    let measured = measured.map_err(BenchError::Engine)?;
    let info = engine.info();
    let report = Report {
        model: options.source.name(),
        architecture: info.architecture.clone(),
        parameters: info.n_params,
        file_bytes: info.file_bytes,
        kernel_profile: info.kernel_profile.clone(),
        processor: processor(),
        threads,
        load_seconds,
        peak_memory_bytes: peak_memory(),
        earnings: Earnings::of(info.n_params, &measured.work, &options.prices),
        prefill: measured.prefill,
        decode: measured.decode,
        decode_together: measured.decode_together,
        replay: measured.replay,
        shape,
    };
    match options.output {
        BenchFormat::Table => Ok(table::of(&report)),
        BenchFormat::Json => Ok(serde_json::to_string_pretty(&report)?),
    }
}

/// Bytes of memory that this process had at most.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::worker::LocalEngines;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: BenchOptions,
    }

    #[tokio::test]
    async fn what_is_done_is_told_before_it_is_done() {
        let options = Cli::parse_from(["bench", "/no/such/model.gguf"]).options;
        let mut progress = Vec::new();
        assert!(run(options, Arc::new(LocalEngines), &mut progress).await.is_err());
        let told = String::from_utf8(progress).unwrap();
        assert!(told.ends_with("getting the model /no/such/model.gguf\n") && told.lines().count() == 1, "{told}");
    }
}
