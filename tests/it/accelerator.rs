//! Does the engine by candle's operations, which is what a GPU runs, agree with the exact kernels? Here on the CPU, the one device that every
//! machine has: the operations are the same, the kernels behind them are not.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, gguf_file};
use xdc_grid::inference::accelerator::{DeviceModel, profile};
use xdc_grid::inference::kernels::Simd;
use xdc_grid::inference::kv::{KvBudget, KvCache};
use xdc_grid::inference::model::{Decoder, Model, Segment};
use xdc_grid::inference::pool::ThreadPool;
use xdc_grid::inference::text::Tokenizer;
use xdc_grid::inference::{
    Compute, Engine, EngineConfig, GenerateEvent, GenerateRequest, KvType, Processor, ReplayRequest, Tenant,
};
use xdc_grid::verify::profile::is_exact;

use crate::engine::model_path;
use crate::engine_exact::go_on_together;
use crate::engine_files::tiny_model_of;
use crate::engine_oracle::gemma_path;

/// How far apart rows of logits may be. Both engines round what is multiplied to eight bits, in different ways.
pub struct Bounds {
    /// Of any row, root of the mean square difference, as a part of the spread of its logits; where they have nothing to do with one another
    /// that is 1.4.
    pub row: f64,
    /// As `row`, on average.
    pub mean: f64,
    /// How far, in logits, the best token of one may be behind the best by the other.
    pub tie: f32,
}

// Seen with AVX-512: 0.09, 0.03 and 0.02 of the small ones, 0.22, 0.07 and 0.01 of the real ones. candle's kernels depend on the CPU.
const TINY: Bounds = Bounds { row: 0.15, mean: 0.06, tie: 0.5 };
const REAL: Bounds = Bounds { row: 0.35, mean: 0.15, tie: 0.5 };

const TEXT: &str =
    "The quick brown fox jumps over the lazy dog. In 1969 two people walked on the Moon, and a third one waited above.";

pub fn compute() -> Compute {
    Compute { pool: Arc::new(ThreadPool::new(2).unwrap()), simd: Simd::detect() }
}

fn on_candle(path: &Path) -> DeviceModel {
    DeviceModel::load(path, Device::Cpu, compute(), None).unwrap().0
}

pub fn cache(model: &dyn Decoder, tokens: usize) -> KvCache {
    KvCache::reserve(model.kv_shape(), tokens, &KvBudget::new(1 << 30)).unwrap()
}

/// The logits of every token, computed in chunks.
pub fn logits(model: &dyn Decoder, tokens: &[u32], chunk: usize) -> Vec<Vec<f32>> {
    let mut kv = cache(model, tokens.len());
    let mut rows = Vec::new();
    for tokens in tokens.chunks(chunk) {
        let start = kv.len();
        let output = model.forward(&mut [Segment { kv: &mut kv, start, tokens, wanted: tokens.len() }]).unwrap();
        rows.extend((0..output.rows()).map(|row| output.logits(row).to_vec()));
    }
    assert_eq!(rows.len(), tokens.len());
    rows
}

fn apart(a: &[f32], b: &[f32]) -> f64 {
    let mean = a.iter().map(|x| f64::from(*x)).sum::<f64>() / a.len() as f64;
    let spread: f64 = a.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum();
    let difference: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    (difference / spread).sqrt()
}

fn best(logits: &[f32]) -> usize {
    (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap()
}

/// Compares row by row; returns how many best tokens are the same.
pub fn compare(what: &str, bounds: &Bounds, exact: &[Vec<f32>], candle: &[Vec<f32>]) -> usize {
    assert_eq!(exact.len(), candle.len());
    let rows = || exact.iter().zip(candle);
    let largest = rows().map(|(exact, candle)| apart(exact, candle)).fold(0.0, f64::max);
    let mean = rows().map(|(exact, candle)| apart(exact, candle)).sum::<f64>() / exact.len() as f64;
    let behind = rows().map(|(exact, candle)| exact[best(exact)] - exact[best(candle)]).fold(0.0, f32::max);
    let same = rows().filter(|(exact, candle)| best(exact) == best(candle)).count();
    let found = format!(
        "{what}: {largest:.5} of the spread apart at most, {mean:.5} on average; {same} of {} best tokens the same, {behind:.3} behind at most",
        exact.len()
    );
    println!("{found}");
    // A NaN is neither.
    assert!(largest < bounds.row && mean < bounds.mean && behind < bounds.tie, "{found}");
    same
}

#[test]
fn real_models_give_nearly_the_same_logits_as_the_exact_kernels() {
    for path in [model_path(), gemma_path()] {
        let (exact, file) = Model::load(&path, compute(), None).unwrap();
        let tokens = Tokenizer::from_header(&file.header, 512).unwrap().encode(TEXT).unwrap();
        let candle = on_candle(&path);
        let what = exact.config.architecture.clone();
        let same = compare(&what, &REAL, &logits(&exact, &tokens, 64), &logits(&candle, &tokens, 64));
        assert!(same * 100 >= tokens.len() * 85, "{what}: {same} of {} best tokens are the same", tokens.len());
    }
}

/// All families with what sets them apart, and every way of cutting: one prefill, chunks, single steps.
#[test]
fn all_families_agree_however_their_tokens_are_cut() {
    use gguf_file::Value::{F32, String, U32};
    let yarn = [
        ("qwen2.rope.scaling.type", String("yarn".into())),
        ("qwen2.rope.scaling.factor", F32(4.0)),
        ("qwen2.rope.scaling.original_context_length", U32(32)),
    ];
    let window = [("gemma3.attention.sliding_window", U32(5)), ("gemma3.attention.sliding_window_pattern", U32(2))];
    let models = [
        ("llama", GgmlDType::Q4_0, vec![("llama.attention.sliding_window", U32(5))]),
        ("qwen2", GgmlDType::Q8_0, yarn.to_vec()),
        ("qwen3", GgmlDType::F16, vec![]),
        ("gemma3", GgmlDType::Q8_0, window.to_vec()),
    ];
    let tokens: Vec<u32> = (0..40).map(|i| (i * i * 7 + i * 3) % 256).collect();
    for (family, dtype, changes) in models {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), tiny_model_of(family, dtype, &changes)).unwrap();
        for kv_type in KvType::ALL {
            let exact = Model::load(file.path(), compute(), None).unwrap().0.with_kv_type(kv_type);
            let exact = logits(&exact, &tokens, tokens.len());
            let candle = on_candle(file.path()).with_kv_type(kv_type);
            for chunk in [1, 7, 40] {
                let what = format!("{family} in chunks of {chunk}, {kv_type}");
                compare(&what, &TINY, &exact, &logits(&candle, &tokens, chunk));
            }
        }
    }
}

#[test]
fn rows_of_a_ragged_batch_are_nearly_the_same_as_alone() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), tiny_model_of("qwen3", GgmlDType::Q8_0, &[])).unwrap();
    let model = on_candle(file.path());
    let sequences: [Vec<u32>; 3] = [(1..30).collect(), vec![7, 8], (100..180).collect()];
    let alone: Vec<_> = sequences.iter().map(|tokens| logits(&model, tokens, tokens.len())).collect();
    let mut caches: Vec<KvCache> = sequences.iter().map(|tokens| cache(&model, tokens.len())).collect();
    let output = go_on_together(&model, &mut caches, &sequences, [28, 0, 50]);
    let expected: Vec<Vec<f32>> = alone[0][28..].iter().chain(&alone[1]).chain(&alone[2][77..]).cloned().collect();
    let found: Vec<Vec<f32>> = (0..output.rows()).map(|row| output.logits(row).to_vec()).collect();
    compare("a ragged batch", &TINY, &expected, &found);
    let stale = Segment { kv: &mut caches[0], start: 3, tokens: &[1], wanted: 1 };
    assert!(model.forward(&mut [stale]).err().unwrap().to_string().contains("cannot go on at position 3"));
}

async fn answer(engine: &Engine, request: GenerateRequest) -> Vec<u32> {
    let mut events = engine.generate(request).await.unwrap();
    while let Some(event) = events.recv().await {
        match event {
            GenerateEvent::Token { .. } => {}
            GenerateEvent::Done { output_ids, .. } => return output_ids,
            other => panic!("{other:?}"),
        }
    }
    panic!("the stream ended without Done")
}

/// Scheduler, batching, sampler and replay are the same above either way of computing.
#[tokio::test]
async fn the_engine_answers_and_replays_on_a_device() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), tiny_model_of("llama", GgmlDType::Q8_0, &[])).unwrap();
    for kv_type in KvType::ALL {
        answer_and_replay(file.path(), kv_type).await;
    }
}

async fn answer_and_replay(file: &Path, kv_type: KvType) {
    let budget = EngineConfig { threads: 1, kv_budget_bytes: 16 << 20, ..EngineConfig::default() };
    let config = |processor| EngineConfig { processor, kv_type, ..budget.clone() };
    let engine = Engine::load(file, config(Processor::Candle(Device::Cpu))).unwrap();
    let arithmetic = engine.info().kernel_profile.split('+').next().unwrap();
    assert_eq!(arithmetic, profile(&Device::Cpu, false, kv_type));
    assert!(!engine.info().is_exact() && !is_exact(&engine.info().kernel_profile));
    let exact = Engine::load(file, config(Processor::Cpu)).unwrap();
    assert!(exact.info().is_exact());

    // Longer than a block of keys and values, and of one tenant: nothing is shared on a device, whatever the engine would share.
    let request = |first: u32| GenerateRequest {
        prompt: (first..first + 70).collect(),
        max_tokens: 12,
        tenant: Some(Tenant::of(b"team")),
        ..GenerateRequest::default()
    };
    let (one, two, three) =
        tokio::join!(answer(&engine, request(1)), answer(&engine, request(1)), answer(&engine, request(50)));
    assert_eq!((one.len(), two.len(), three.len()), (12, 12, 12));
    for (first, output) in [(1, one), (1, two), (50, three)] {
        let GenerateRequest { prompt, sampling, seed, .. } = request(first);
        let replay = ReplayRequest { prompt, output, sampling, seed, top_logprobs: None };
        for engine in [&engine, &exact] {
            let found = engine.replay(replay.clone()).await.unwrap();
            assert!(found.max_margin < TINY.tie, "{} logits behind", found.max_margin);
        }
    }
    assert_eq!(engine.totals().prefix_hit_tokens, 0);
    let measured = engine.benchmark().await.unwrap();
    assert!(measured.decode_tokens_per_second > 0.0 && measured.prefill_tokens_per_second > 0.0);
    assert_eq!(engine.load_now().kv_used_bytes, 0, "what was reserved is given back");
}
