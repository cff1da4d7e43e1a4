//! Verification of compute, inference and storage: sampler, traces, Merkle trees, exact GEMM, storage proofs, audits and
//! evidence. Pure: randomness and time come in as arguments.

pub mod audit;
pub mod embedding;
pub mod evidence;
pub mod gemm;
pub mod merkle;
pub mod sampler;
pub mod storage;
mod stream;
pub mod told;
pub mod trace;

use merkle::Hash;

/// Up to `count` different numbers below `bound`, ascending, drawn without bias from a BLAKE3 stream over `seed`.
fn distinct_below(context: &str, seed: &Hash, bound: u64, count: usize) -> Vec<u64> {
    let mut stream = stream::Stream::new(context, &[seed]);
    let wanted = usize::try_from(bound).unwrap_or(usize::MAX).min(count);
    // Floyd's sampling: exactly `wanted` draws even when almost everything is chosen.
    let mut chosen = std::collections::BTreeSet::new();
    for top in bound - wanted as u64..bound {
        let drawn = stream.below(top + 1);
        if !chosen.insert(drawn) {
            chosen.insert(top);
        }
    }
    chosen.into_iter().collect()
}
