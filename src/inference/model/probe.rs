//! A fixed prompt and its logits, to see whether two ways of computing agree.

use super::{Decoder, ForwardError, Segment};
use crate::kv::{KvBudget, KvCache};

/// Tokens that mean nothing, of a vocabulary of that size.
pub(crate) fn prompt(vocab_size: usize, count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (i + 1) * 7919 % vocab_size as u32).collect()
}

/// The logits of all tokens, computed in chunks.
pub(crate) fn logits(model: &dyn Decoder, tokens: &[u32], chunk: usize) -> Result<Vec<f32>, ForwardError> {
    let mut kv = sequence_of(model, tokens.len())?;
    let mut logits = Vec::new();
    for (index, tokens) in tokens.chunks(chunk).enumerate() {
        let segment = Segment { kv: &mut kv, start: index * chunk, tokens, wanted: tokens.len() };
        logits.extend(model.forward(&mut [segment])?.logits);
    }
    Ok(logits)
}

/// Room for the keys and values of so many tokens, on a budget of its own.
pub(crate) fn sequence_of(model: &dyn Decoder, tokens: usize) -> Result<KvCache, ForwardError> {
    let kv = KvCache::reserve(model.kv_shape(), tokens, &KvBudget::new(u64::MAX));
    kv.ok_or(ForwardError::Room { tokens, room: 0 })
}

/// The root of the mean square difference, as a part of the spread of `a`. Numbers that have nothing to do with one another are at 1.4.
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
        assert!(apart(&logits, &rounded) < 0.025);
        assert!(apart(&logits, &other) > 1.0);
        assert!(apart(&logits, &vec![f32::NAN; 1000]).is_nan());
    }
}
