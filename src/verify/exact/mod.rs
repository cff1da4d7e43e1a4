//! What everybody computes alike, to the bit: the sampler, the trace of an answer, Merkle trees, the exact-integer GEMM and storage proofs.
//! Pure: randomness and time come in as arguments.
//!
//! A package of its own because Cargo optimises by package: this one is optimised in every build, while the bulk of the project
//! compiles five times faster without (`docs/adr/0019-packages-by-optimisation.md`).

pub mod gemm;
pub mod merkle;
pub mod profile;
pub mod sampler;
pub mod storage;
pub mod stream;
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
