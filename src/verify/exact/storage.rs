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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answer(nonce: &Hash, blob: &[u8], leaves: &[u64]) -> Hash {
        let mut answer = StorageAnswer::new(nonce);
        for leaf in leaves {
            let (offset, length) = leaf_range(*leaf, blob.len() as u64).unwrap();
            answer.push(&blob[offset as usize..][..length]);
        }
        answer.finish()
    }

    fn blob() -> Vec<u8> {
        let mut blob = vec![0; 100 * LEAF_BYTES + 17];
        blake3::Hasher::new().finalize_xof().fill(&mut blob);
        blob
    }

    #[test]
    fn a_blob_has_one_leaf_per_started_4_kib() {
        assert_eq!([0, 1, 4096, 4097].map(n_leaves), [0, 1, 1, 2]);
        assert_eq!(leaf_range(1, 4097), Some((4096, 1)));
        assert_eq!(leaf_range(1, 4096), None);
        assert_eq!(leaf_range(u64::MAX, u64::MAX), None);
    }

    #[test]
    fn one_flipped_bit_in_an_asked_leaf_changes_the_answer() {
        // P6, and P1 for the leaves that were drawn.
        let (nonce, whole) = ([5; 32], blob());
        let leaves = choose_leaves(&nonce, n_leaves(whole.len() as u64), LEAVES_PER_CHALLENGE);
        for leaf in &leaves {
            let mut rotten = whole.clone();
            rotten[*leaf as usize * LEAF_BYTES + 3] ^= 1;
            assert_ne!(answer(&nonce, &rotten, &leaves), answer(&nonce, &whole, &leaves));
        }
    }

    #[test]
    fn an_old_answer_does_not_answer_a_new_nonce() {
        // P5 and P4: what was computed before the nonce is known does not help, even for the same leaves.
        let whole = blob();
        assert_ne!(answer(&[1; 32], &whole, &[1, 2]), answer(&[2; 32], &whole, &[1, 2]));
    }

    #[test]
    fn order_and_borders_of_leaves_matter() {
        let whole = blob();
        assert_ne!(answer(&[1; 32], &whole, &[1, 2]), answer(&[1; 32], &whole, &[2, 1]));
        let split = |first: &[u8], second: &[u8]| {
            let mut answer = StorageAnswer::new(&[1; 32]);
            answer.push(first);
            answer.push(second);
            answer.finish()
        };
        assert_ne!(split(b"ab", b"c"), split(b"a", b"bc"));
    }

    #[test]
    fn a_contiguous_deletion_is_hit_as_often_as_scattered_loss() {
        // P8: 5 of 100 leaves gone in one range; each challenge of 20 leaves misses them with 0.31.
        let hit = |seed: u64| {
            let nonce = *blake3::hash(&seed.to_le_bytes()).as_bytes();
            choose_leaves(&nonce, 100, 20).iter().any(|leaf| (40..45).contains(leaf))
        };
        let hits = (0..1000).filter(|seed| hit(*seed)).count();
        assert!((620..750).contains(&hits), "{hits}");
    }

    proptest! {
        #[test]
        fn chosen_leaves_exist_and_differ(nonce in any::<Hash>(), n in 0u64..200, count in 0usize..200) {
            let leaves = choose_leaves(&nonce, n, count);
            prop_assert_eq!(leaves.len() as u64, n.min(count as u64));
            prop_assert!(leaves.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(leaves.iter().all(|leaf| *leaf < n));
        }

        #[test]
        fn the_largest_blob_is_no_problem(nonce in any::<Hash>()) {
            prop_assert_eq!(choose_leaves(&nonce, u64::MAX, 64).len(), 64);
        }
    }
}
