//! Log-probabilities that a worker told a client: bound into what its audit compares.

use super::trace::{Hash, fixed_point};
use crate::protocol::wire::TokenLogprobs;

const CONTEXT: &str = "xdc-grid 2026-11 told log-probabilities v1";

/// BLAKE3 over what was told of each token, in units of 1/65536 as in the trace: equal for workers of equal kernel profiles.
pub fn hash(told: &[TokenLogprobs]) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    let text = |hasher: &mut blake3::Hasher, bytes: &[u8], logprob: f32| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        hasher.update(&fixed_point(f64::from(logprob)).to_le_bytes());
    };
    hasher.update(&(told.len() as u64).to_le_bytes());
    for token in told {
        text(&mut hasher, &token.bytes, token.logprob);
        hasher.update(&(token.top.len() as u64).to_le_bytes());
        for top in &token.top {
            text(&mut hasher, &top.bytes, top.logprob);
        }
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::wire::TopLogprob;

    fn token(bytes: &[u8], logprob: f32, top: &[f32]) -> TokenLogprobs {
        let top = top.iter().map(|logprob| TopLogprob { bytes: b"t".to_vec(), logprob: *logprob }).collect();
        TokenLogprobs { bytes: bytes.to_vec(), logprob, top }
    }

    #[test]
    fn anything_told_otherwise_hashes_otherwise() {
        let told = [token(b"a", -0.5, &[-0.5, -2.0]), token(b"b", -1.0, &[])];
        let others = [
            vec![token(b"a", -0.5, &[-0.5, -2.0])],
            vec![token(b"x", -0.5, &[-0.5, -2.0]), told[1].clone()],
            vec![token(b"a", -0.4, &[-0.5, -2.0]), told[1].clone()],
            vec![token(b"a", -0.5, &[-0.5, -2.1]), told[1].clone()],
            vec![token(b"a", -0.5, &[-0.5]), token(b"b", -1.0, &[-2.0])],
        ];
        assert!(others.iter().all(|other| hash(other) != hash(&told)));
        assert_eq!(hash(&[token(b"a", -0.500_001, &[])]), hash(&[token(b"a", -0.5, &[])]), "below the precision");
    }
}
