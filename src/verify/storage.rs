//! Proof that a node still holds a blob: 64 random 4 KiB leaves, hashed under a fresh nonce, answered with 32 bytes.
//!
//! The nonce keys the hash, so neither an old answer nor a kept hash tree helps; only the bytes do
//! (reference: verification.md §2.5, S1). A loss of 1 % is noticed by one challenge with 47 %, within a day of them surely.

use super::merkle::Hash;

/// Size of a leaf in bytes; the last leaf of a blob may be shorter.
pub const LEAF_BYTES: usize = 4096;
/// Leaves asked for in one challenge.
pub const LEAVES_PER_CHALLENGE: usize = 64;
/// Most leaves that a node reads for one challenge (16 MiB): what a prover accepts.
pub const MAX_LEAVES: usize = 4096;

/// Leaves of a blob of `bytes` bytes.
pub fn n_leaves(bytes: u64) -> u64 {
    bytes.div_ceil(LEAF_BYTES as u64)
}

/// Offset and length in bytes of a leaf in a blob of `bytes` bytes; `None` beyond its end.
pub fn leaf_range(leaf: u64, bytes: u64) -> Option<(u64, usize)> {
    let offset = leaf.checked_mul(LEAF_BYTES as u64)?;
    let left = bytes.checked_sub(offset).filter(|left| *left > 0)?;
    Some((offset, left.min(LEAF_BYTES as u64) as usize))
}

/// `count` different leaves, or all if there are no more, in ascending order (one pass over the disk). Anyone who knows the
/// nonce finds the same ones.
pub fn choose_leaves(nonce: &Hash, n_leaves: u64, count: usize) -> Vec<u64> {
    super::distinct_below("xdc-grid storage leaves v1", nonce, n_leaves, count.min(MAX_LEAVES))
}

/// Takes the leaves in the order asked and gives the answer.
#[derive(Debug, Clone)]
pub struct StorageAnswer {
    hasher: blake3::Hasher,
}

impl StorageAnswer {
    pub fn new(nonce: &Hash) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("xdc-grid storage answer v1");
        hasher.update(nonce);
        StorageAnswer { hasher }
    }

    /// The next leaf, whole. Its length is hashed too, so that bytes cannot move from one leaf to the next.
    pub fn push(&mut self, leaf: &[u8]) {
        self.hasher.update(&(leaf.len() as u64).to_le_bytes()).update(leaf);
    }

    pub fn finish(self) -> Hash {
        *self.hasher.finalize().as_bytes()
    }
}
