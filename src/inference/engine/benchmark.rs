//! A short measurement of this engine on this machine.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Benchmark;
use crate::ForwardError;
use crate::kv::{KvBudget, KvCache};
use crate::model::{Decoder, Segment};

/// Tokens that a benchmark may compute.
pub(super) const TOKENS: usize = 384;
const CHUNK: usize = 64;
/// Each of the two parts ends after this time.
const PART: Duration = Duration::from_millis(800);

/// Measures prefill in chunks of 64 and then decoding, for at most 0.8 s (and one forward) each.
pub(super) fn run(model: &dyn Decoder, budget: &Arc<KvBudget>, context_length: u32) -> Result<Benchmark, String> {
    let tokens = TOKENS.min(context_length as usize);
    let kv = KvCache::reserve(model.kv_shape(), tokens, budget);
    let mut kv = kv.ok_or("there is no free key-value memory for a benchmark now")?;
    // The first forward pays for memory that is touched for the first time.
    rate(model, &mut kv, 1, 1).map_err(|error| error.to_string())?;
    kv.truncate(0);
    let prefill = rate(model, &mut kv, CHUNK, tokens / 2).map_err(|error| error.to_string())?;
    let decode = rate(model, &mut kv, 1, tokens / 2).map_err(|error| error.to_string())?;
    Ok(Benchmark { prefill_tokens_per_second: prefill, decode_tokens_per_second: decode })
}

/// Tokens a second in chunks of `chunk`, over at most `most` tokens.
fn rate(model: &dyn Decoder, kv: &mut KvCache, chunk: usize, most: usize) -> Result<f64, ForwardError> {
    let started = Instant::now();
    let mut done = 0;
    while done < most && started.elapsed() < PART {
        let count = chunk.min(most - done);
        let vocab_size = model.config().vocab_size;
        let tokens: Vec<u32> = (0..count).map(|i| ((done + i + 1) * 7919 % vocab_size) as u32).collect();
        let start = kv.len();
        model.forward(&mut [Segment { kv, start, tokens: &tokens, wanted: 1 }])?;
        done += count;
    }
    Ok(done as f64 / started.elapsed().as_secs_f64().max(1e-6))
}
