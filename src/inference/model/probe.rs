//! Logits of a fixed prompt, to see whether two ways of computing them agree.

use super::{Decoder, ForwardError, Segment};
use crate::kv::{KvBudget, KvCache};

/// Tokens that mean nothing, of a vocabulary of that size.
pub(crate) fn prompt(vocab_size: usize, count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i + 1) * 7919 % vocab_size as u32).collect()
}

/// The logits of the last `wanted` tokens of each chunk, one after the other.
pub(crate) fn logits(
    model: &dyn Decoder,
    tokens: &[u32],
    chunk: usize,
    wanted: usize,
) -> Result<Vec<f32>, ForwardError> {
    let budget = KvBudget::new(u64::MAX);
    let kv = KvCache::reserve(model.kv_shape(), tokens.len(), &budget);
    let Some(mut kv) = kv else { return Err(ForwardError::Room { tokens: tokens.len(), room: 0 }) };
    let mut logits = Vec::new();
    for (index, tokens) in tokens.chunks(chunk).enumerate() {
        let wanted = wanted.min(tokens.len());
        logits.extend(model.forward(&mut [Segment { kv: &mut kv, start: index * chunk, tokens, wanted }])?.logits);
    }
    Ok(logits)
}

/// How far apart logits may be where the arithmetic is not exact: the root of their mean square difference, as a part of their spread.
/// Rounding stays far below it, and logits that have nothing to do with one another are at 1.4.
const APART: f64 = 0.25;

/// Whether a result of [`apart`] is rounding. False of a NaN.
pub(crate) fn is_near(apart: f64) -> bool {
    apart <= APART
}

/// The root of the mean square difference, as a part of the spread of `a`.
pub(crate) fn apart(a: &[f32], b: &[f32]) -> f64 {
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
