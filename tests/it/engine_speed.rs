//! How fast is the engine beside llama.cpp? A measurement, not a test: `cargo test --test it speed -- --ignored --nocapture`.

use std::path::Path;
use std::time::Instant;

use xdc_grid::inference::{Engine, EngineConfig, GenerateEvent, GenerateRequest, ReplayRequest};
use xdc_grid::verify::sampler::SamplerParams;

use crate::engine::model_path;
use crate::engine_oracle::{ask, gemma_path};

const RUNS: usize = 7;

/// Thread counts to measure; llama.cpp collapses when it has to share its cores, so this may be set to "1".
fn threads() -> Vec<usize> {
    let list = std::env::var("XDC_GRID_SPEED_THREADS").unwrap_or_else(|_| "1 2".into());
    list.split_whitespace().map(|n| n.parse().unwrap()).collect()
}

fn load(path: &Path, threads: usize) -> Engine {
    let config = EngineConfig { threads, kv_budget_bytes: 256 << 20, max_sequences: 16, ..EngineConfig::default() };
    Engine::load(path, config).unwrap()
}

/// Median, least and most.
fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    format!("{:6.1} ({:.1} to {:.1})", values[values.len() / 2], values[0], values[values.len() - 1])
}

fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let lines = status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
}

fn request(prompt: &[u32], max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        prompt: prompt.to_vec(),
        max_tokens,
        sampling: SamplerParams::new(1.0, 1.0, 0),
        seed: [1; 32],
        ..GenerateRequest::default()
    }
}

/// The output tokens and the seconds from the first token to the end.
async fn generate(engine: &Engine, request: GenerateRequest) -> (Vec<u32>, f64) {
    let mut events = engine.generate(request).await.unwrap();
    let mut started = None;
    while let Some(event) = events.recv().await {
        match event {
            GenerateEvent::Token { .. } => started = started.or_else(|| Some(Instant::now())),
            GenerateEvent::Done { output_ids, .. } => return (output_ids, started.unwrap().elapsed().as_secs_f64()),
            event => panic!("{event:?}"),
        }
    }
    panic!("no end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement"]
async fn speed_beside_llama_cpp() {
    eprintln!("memory before {}", memory());
    for path in [model_path(), gemma_path()] {
        eprintln!("{}", path.file_name().unwrap().to_string_lossy());
        compare(&path).await;
    }
}

async fn compare(path: &Path) {
    for threads in threads() {
        let started = Instant::now();
        let engine = load(path, threads);
        let loading = started.elapsed().as_secs_f64();
        eprintln!("{threads} threads: loaded in {loading:.2} s; {}", memory());
        let prompt = engine.tokenize("Once upon a time").unwrap();
        let (mut generated, mut replayed, mut together) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let (output, seconds) = generate(&engine, request(&prompt, 128)).await;
            generated.push((output.len() - 1) as f64 / seconds);
            let GenerateRequest { prompt, sampling, seed, .. } = request(&prompt, 1);
            let started = Instant::now();
            let count = output.len() as f64;
            let outcome =
                engine.replay(ReplayRequest { top_logprobs: None, prompt, output, sampling, seed }).await.unwrap();
            assert_eq!(outcome.first_mismatch, None);
            replayed.push(count / started.elapsed().as_secs_f64());
        }
        for _ in 0..3 {
            let started = Instant::now();
            let answers = (0..8).map(|_| generate(&engine, request(&prompt, 64)));
            let tokens: usize = futures::future::join_all(answers).await.iter().map(|(output, _)| output.len()).sum();
            together.push(tokens as f64 / started.elapsed().as_secs_f64());
        }
        eprintln!("  generate {}  replay {}", spread(generated), spread(replayed));
        eprintln!("  8 answers at once, all tokens {}; {}", spread(together), memory());
        let [mut ours, mut theirs] = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
        for _ in 0..RUNS {
            let benchmark = engine.benchmark().await.unwrap();
            ours.0.push(benchmark.prefill_tokens_per_second);
            ours.1.push(benchmark.decode_tokens_per_second);
            let line = ask(path, &["bench", &threads.to_string(), "1"], b"");
            let (prefill, decode) = line.trim().split_once(' ').unwrap();
            theirs.0.push(prefill.parse().unwrap());
            theirs.1.push(decode.parse().unwrap());
        }
        eprintln!("  prefill  ours {}  llama.cpp {}", spread(ours.0), spread(theirs.0));
        eprintln!("  decode   ours {}  llama.cpp {}", spread(ours.1), spread(theirs.1));
    }
}
