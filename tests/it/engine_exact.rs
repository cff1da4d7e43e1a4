//! Are logits and hidden states the same bits, however the tokens are cut, batched and spread over threads? With keys and values of either
//! precision.

use std::path::Path;
use std::sync::Arc;

use xdc_grid::inference::kernels::Simd;
use xdc_grid::inference::kv::{KvBudget, KvCache};
use xdc_grid::inference::model::{Decoder, Model, Output, Segment};
use xdc_grid::inference::pool::ThreadPool;
use xdc_grid::inference::{Compute, KvType};

use crate::engine::model_path;
use crate::engine_oracle::gemma_path;

fn model(threads: usize, simd: Simd, kv_type: KvType) -> Model {
    model_at(&model_path(), threads, simd, kv_type)
}

fn model_at(path: &Path, threads: usize, simd: Simd, kv_type: KvType) -> Model {
    let compute = Compute { pool: Arc::new(ThreadPool::new(threads).unwrap()), simd };
    Model::load(path, compute, None).unwrap().0.with_kv_type(kv_type)
}

fn cache(model: &Model) -> KvCache {
    KvCache::reserve(model.kv_shape(), 256, &KvBudget::new(1 << 30)).unwrap()
}

fn tokens(seed: u32, count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (seed + i * i * 31 + i * 7919) % 49_152).collect()
}

/// The bits of hidden states and logits of every token, computed in chunks.
fn bits(model: &Model, tokens: &[u32], chunk: usize) -> Vec<Vec<u32>> {
    let mut kv = cache(model);
    let mut rows = Vec::new();
    for tokens in tokens.chunks(chunk) {
        let start = kv.len();
        let segment = Segment { kv: &mut kv, start, tokens, wanted: tokens.len() };
        let output = model.forward(&mut [segment]).unwrap();
        rows.extend((0..tokens.len()).map(|row| row_bits(output.hidden(row), output.logits(row))));
    }
    rows
}

fn row_bits(hidden: &[f32], logits: &[f32]) -> Vec<u32> {
    assert!(logits.iter().all(|x| x.is_finite()));
    hidden.iter().chain(logits).map(|x| x.to_bits()).collect()
}

#[test]
fn prefill_chunks_single_steps_and_threads_give_the_same_bits() {
    let tokens = tokens(3, 130);
    let mut references = Vec::new();
    for kv_type in KvType::ALL {
        let one = model(1, Simd::detect(), kv_type);
        let reference = bits(&one, &tokens, 130);
        for chunk in [1, 7, 16, 64] {
            assert!(bits(&one, &tokens, chunk) == reference, "chunks of {chunk} on one thread, {kv_type}");
        }
        for threads in [2, 3] {
            let several = model(threads, Simd::detect(), kv_type);
            for chunk in [1, 13, 130] {
                let found = bits(&several, &tokens, chunk);
                assert!(found == reference, "chunks of {chunk} on {threads} threads, {kv_type}");
            }
        }
        references.push(reference);
    }
    assert!(references[0] != references[1], "half precision changes results");
}

/// The last three rows of each sequence, all in one batch: the first `done` tokens of each are computed before, so that they go on at different
/// positions.
pub fn go_on_together<const N: usize>(
    model: &dyn Decoder,
    caches: &mut [KvCache],
    sequences: &[Vec<u32>; N],
    done: [usize; N],
) -> Output {
    for ((tokens, kv), done) in sequences.iter().zip(&mut *caches).zip(done) {
        model.forward(&mut [Segment { kv, start: 0, tokens: &tokens[..done], wanted: 0 }]).unwrap();
    }
    let mut segments: Vec<Segment> = sequences
        .iter()
        .zip(caches)
        .map(|(tokens, kv)| {
            let start = kv.len();
            Segment { start, tokens: &tokens[start..], wanted: 3, kv }
        })
        .collect();
    model.forward(&mut segments).unwrap()
}

#[test]
fn rows_of_a_ragged_batch_are_the_same_as_alone() {
    for kv_type in KvType::ALL {
        let model = model(2, Simd::detect(), kv_type);
        let sequences = [tokens(1, 40), tokens(2, 3), tokens(5, 90)];
        let alone: Vec<_> = sequences.iter().map(|tokens| bits(&model, tokens, tokens.len())).collect();
        let mut caches: Vec<KvCache> = sequences.iter().map(|_| cache(&model)).collect();
        let output = go_on_together(&model, &mut caches, &sequences, [39, 0, 50]);
        let expected: Vec<&Vec<u32>> = alone[0][39..].iter().chain(&alone[1]).chain(&alone[2][87..]).collect();
        assert_eq!(output.rows(), expected.len());
        for (row, expected) in expected.into_iter().enumerate() {
            assert!(row_bits(output.hidden(row), output.logits(row)) == *expected, "row {row}, {kv_type}");
        }
    }
}

#[test]
fn all_instances_of_the_kernels_give_the_same_bits() {
    let tokens = tokens(9, 5);
    for kv_type in KvType::ALL {
        let reference = bits(&model(2, Simd::Portable, kv_type), &tokens, 5);
        for simd in Simd::available() {
            assert!(bits(&model(2, simd, kv_type), &tokens, 2) == reference, "{simd:?}, {kv_type}");
        }
        // Plain Rust takes minutes for the second model's vocabulary of 262,144.
        let fast = Simd::available().into_iter().filter(|simd| *simd != Simd::Portable);
        let all: Vec<_> = fast.map(|simd| bits(&model_at(&gemma_path(), 2, simd, kv_type), &tokens, 5)).collect();
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{kv_type}");
    }
}

/// The last rows of a text that is longer than Gemma's window: its local layers have forgotten the first tokens.
#[test]
fn layers_with_a_window_give_the_same_bits_in_prefill_and_decode() {
    let last = 12;
    let tokens = tokens(7, 540);
    let rows = |model: &Model, chunks: &[usize]| {
        let mut kv = KvCache::reserve(model.kv_shape(), tokens.len(), &KvBudget::new(1 << 30)).unwrap();
        let (mut rows, mut start) = (Vec::new(), 0);
        for chunk in chunks {
            let piece = &tokens[start..start + chunk];
            let wanted = (start + chunk).saturating_sub(tokens.len() - last).min(*chunk);
            let output = model.forward(&mut [Segment { kv: &mut kv, start, tokens: piece, wanted }]).unwrap();
            rows.extend((0..wanted).map(|row| row_bits(output.hidden(row), output.logits(row))));
            start += chunk;
        }
        assert_eq!((start, rows.len()), (tokens.len(), last));
        rows
    };
    for kv_type in KvType::ALL {
        let model = model_at(&gemma_path(), 2, Simd::detect(), kv_type);
        let reference = rows(&model, &[540]);
        let steps: Vec<usize> = [64; 8].into_iter().chain([16]).chain([1; 12]).collect();
        assert!(rows(&model, &steps) == reference, "single steps after chunks of 64, {kv_type}");
        let odd: Vec<usize> = [7; 77].into_iter().chain([1]).collect();
        let one = model_at(&gemma_path(), 1, Simd::detect(), kv_type);
        assert!(rows(&one, &odd) == reference, "chunks of 7 on one thread, {kv_type}");
    }
}

#[test]
fn a_truncated_cache_goes_on_as_if_the_rest_had_never_been() {
    for kv_type in KvType::ALL {
        let model = model(2, Simd::detect(), kv_type);
        let (first, second) = (tokens(1, 30), tokens(4, 10));
        let mut kv = cache(&model);
        model.forward(&mut [Segment { kv: &mut kv, start: 0, tokens: &first, wanted: 0 }]).unwrap();
        kv.truncate(20);
        let output = model.forward(&mut [Segment { kv: &mut kv, start: 20, tokens: &second, wanted: 1 }]).unwrap();
        let whole = [&first[..20], &second].concat();
        assert!(row_bits(output.hidden(0), output.logits(0)) == bits(&model, &whole, 30)[29], "{kv_type}");
    }
}

#[test]
fn a_sequence_that_begins_with_anothers_blocks_has_the_same_bits() {
    for kv_type in KvType::ALL {
        let model = model(2, Simd::detect(), kv_type);
        let (whole, rest) = (tokens(2, 150), 20);
        let reference = bits(&model, &whole, 150);
        let budget = KvBudget::new(1 << 30);
        let mut first = KvCache::reserve(model.kv_shape(), 200, &budget).unwrap();
        let other = [&whole[..130], &tokens(5, 40)].concat();
        model.forward(&mut [Segment { kv: &mut first, start: 0, tokens: &other, wanted: 0 }]).unwrap();
        let shared: Vec<_> = std::iter::from_fn(|| first.seal()).collect();
        assert_eq!(shared.len(), 2);
        let mut second = KvCache::reserve_after(shared, model.kv_shape(), 150, &budget).unwrap();
        // Both go on, in one forward.
        let (tail, more) = (&whole[128..], tokens(6, rest));
        let segments = &mut [
            Segment { kv: &mut second, start: 128, tokens: tail, wanted: tail.len() },
            Segment { kv: &mut first, start: 170, tokens: &more, wanted: 1 },
        ];
        let output = model.forward(segments).unwrap();
        for (row, reference) in reference[128..].iter().enumerate() {
            assert!(row_bits(output.hidden(row), output.logits(row)) == *reference, "row {row}, {kv_type}");
        }
        let alone = bits(&model, &[&other[..], &more].concat(), 95);
        let found = row_bits(output.hidden(tail.len()), output.logits(tail.len()));
        assert!(found == alone[189], "{kv_type}");
    }
}

#[test]
fn a_forward_that_does_not_fit_is_refused() {
    let model = model(1, Simd::detect(), KvType::F32);
    let mut kv = cache(&model);
    for (start, tokens) in [(1, vec![1]), (0, vec![49_152]), (0, vec![1; 257])] {
        assert!(model.forward(&mut [Segment { kv: &mut kv, start, tokens: &tokens, wanted: 1 }]).is_err());
    }
    assert_eq!(model.forward(&mut []).unwrap().rows(), 0);
}
