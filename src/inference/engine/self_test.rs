//! Whether a loaded model computes the same, however its tokens are cut.

use xdc_grid_exact::profile::is_exact;

use crate::kv::{KvBudget, KvCache};
use crate::model::{Decoder, Segment};
use crate::{ForwardError, LoadError};

#[cfg(test)]
mod small_models;

/// More rows than the eight up to which candle's CUDA kernels multiply row by row, so that both ways of multiplying are compared.
const TOKENS: usize = 12;

/// How far apart logits may be where the arithmetic is not exact: the root of their mean square difference, as a part of their spread.
/// Rounding stays far below it, and logits that have nothing to do with one another are at 1.4.
const APART: f64 = 0.25;

/// Computes a fixed prompt as one prefill and token by token. The logits must be the same to the bit, or near where the arithmetic is not
/// exact. Returns their hash, in the prefill.
pub(super) fn self_test(model: &dyn Decoder) -> Result<[u8; 32], LoadError> {
    let exact = is_exact(model.kernel_profile());
    let tokens = prompt(model.config().vocab_size, if exact { 6 } else { TOKENS });
    let prefill = logits(model, &tokens, tokens.len())?;
    let stepwise = logits(model, &tokens, 1)?;
    let same = prefill.iter().map(|x| x.to_bits()).eq(stepwise.iter().map(|x| x.to_bits()));
    if exact && !same {
        return Err(LoadError::SelfTest);
    }
    let apart = apart(&prefill, &stepwise);
    if !exact && !is_near(apart) {
        return Err(LoadError::DeviceSelfTest { apart });
    }
    let mut hasher = blake3::Hasher::new();
    prefill.iter().for_each(|logit| {
        hasher.update(&logit.to_le_bytes());
    });
    Ok(*hasher.finalize().as_bytes())
}

fn prompt(vocab_size: usize, count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i + 1) * 7919 % vocab_size as u32).collect()
}

fn logits(model: &dyn Decoder, tokens: &[u32], chunk: usize) -> Result<Vec<f32>, ForwardError> {
    let budget = KvBudget::new(u64::MAX);
    let kv = KvCache::reserve(model.kv_shape(), tokens.len(), &budget);
    let Some(mut kv) = kv else { return Err(ForwardError::Room { tokens: tokens.len(), room: 0 }) };
    let mut logits = Vec::new();
    for (index, tokens) in tokens.chunks(chunk).enumerate() {
        let segment = Segment { kv: &mut kv, start: index * chunk, tokens, wanted: chunk };
        logits.extend(model.forward(&mut [segment])?.logits);
    }
    Ok(logits)
}

/// False of a NaN.
fn is_near(apart: f64) -> bool {
    apart <= APART
}

/// The root of the mean square difference, as a part of the spread of `a`.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    let count = a.len().max(1) as f64;
    let mean = a.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let spread: f64 = a.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum();
    let difference: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    (difference / spread).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_near_and_other_logits_are_not() {
        let logits: Vec<f32> = (0..1000).map(|i| ((i * 7919) % 1009) as f32 / 100.0).collect();
        let rounded: Vec<f32> = logits.iter().map(|x| x + 0.05).collect();
        let other: Vec<f32> = logits.iter().rev().copied().collect();
        assert_eq!(apart(&logits, &logits), 0.0);
        assert!(apart(&logits, &rounded) < APART / 10.0);
        assert!(apart(&logits, &other) > 4.0 * APART);
        assert!(!is_near(apart(&logits, &vec![f32::NAN; 1000])));
    }
}
