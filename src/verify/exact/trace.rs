//! The trace of an answer: one leaf a token, bound into a Merkle root that the receipt carries.
//!
//! A leaf commits to the output position, the token, the last hidden state in bfloat16 and the eight most likely tokens
//! with their log-probabilities in 1/65536. The tree has the shape of RFC 9162 (certificate transparency): it grows by
//! appending, and leaves, nodes and the root are hashed in domains of their own. The root also commits to the count.

const LEAF_CONTEXT: &str = "xdc-grid 2026-11 trace leaf v1";
const NODE_CONTEXT: &str = "xdc-grid 2026-11 trace node v1";
const ROOT_CONTEXT: &str = "xdc-grid 2026-11 trace root v1";

/// How many log-probabilities a leaf carries.
pub const TOP: usize = 8;

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// What is known about one output token.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// Counts output tokens from 0.
    pub position: u32,
    pub token: u32,
    /// The state that the logits were computed from.
    pub hidden: &'a [f32],
    /// Up to [`TOP`] tokens with their natural log-probabilities, most likely first.
    pub top: &'a [(u32, f64)],
}

impl Step<'_> {
    /// The hash of this step.
    pub fn leaf(&self) -> Hash {
        let mut hasher = blake3::Hasher::new_derive_key(LEAF_CONTEXT);
        hasher.update(&self.position.to_le_bytes()).update(&self.token.to_le_bytes());
        hasher.update(&(self.hidden.len() as u32).to_le_bytes());
        let hidden: Vec<u8> = self.hidden.iter().flat_map(|x| bfloat16(*x).to_le_bytes()).collect();
        hasher.update(&hidden);
        for (id, logprob) in self.top.iter().take(TOP) {
            hasher.update(&id.to_le_bytes()).update(&fixed_point(*logprob).to_le_bytes());
        }
        *hasher.finalize().as_bytes()
    }
}

/// The nearest bfloat16, ties to even; not-a-number stays one.
pub fn bfloat16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// A log-probability in units of 1/65536, rounded to the nearest.
pub fn fixed_point(logprob: f64) -> i32 {
    (logprob * 65_536.0).round() as i32
}

fn node(left: &Hash, right: &Hash) -> Hash {
    *blake3::Hasher::new_derive_key(NODE_CONTEXT).update(left).update(right).finalize().as_bytes()
}

fn bind(count: u32, top: Option<&Hash>) -> Hash {
    let mut hasher = blake3::Hasher::new_derive_key(ROOT_CONTEXT);
    hasher.update(&count.to_le_bytes());
    top.map(|top| hasher.update(top));
    *hasher.finalize().as_bytes()
}

/// The leaves of an answer so far. Pushing costs amortized two hashes and reading the root one for each level.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    leaves: Vec<Hash>,
    /// Roots of the full subtrees from left to right, with their heights.
    peaks: Vec<(u32, Hash)>,
}

impl Trace {
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Hash) {
        self.leaves.push(leaf);
        let (mut height, mut hash) = (0, leaf);
        while let Some((_, left)) = self.peaks.pop_if(|(peak, _)| *peak == height) {
            hash = node(&left, &hash);
            height += 1;
        }
        self.peaks.push((height, hash));
    }

    pub fn len(&self) -> usize {
        self.leaves.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty()
    }

    /// The root over the leaves so far.
    pub fn root(&self) -> Hash {
        let top = self.peaks.iter().rev().map(|(_, hash)| *hash).reduce(|right, left| node(&left, &right));
        bind(self.leaves.len() as u32, top.as_ref())
    }

    /// The proof that a leaf is part of the trace, or `None` where there is no such leaf.
    pub fn prove(&self, index: usize) -> Option<TraceProof> {
        let mut siblings = Vec::new();
        let (mut leaves, mut at) = (self.leaves.as_slice(), index);
        if at >= leaves.len() {
            return None;
        }
        while leaves.len() > 1 {
            let (left, right) = leaves.split_at(split(leaves.len()));
            let sibling;
            (leaves, sibling, at) = if at < left.len() { (left, right, at) } else { (right, left, at - left.len()) };
            siblings.push(subtree(sibling));
        }
        siblings.reverse();
        Some(TraceProof { index: index as u32, count: self.leaves.len() as u32, siblings })
    }
}

/// The largest power of two below `n`, where a tree of `n` leaves is split.
fn split(n: usize) -> usize {
    n.next_power_of_two() / 2
}

fn subtree(leaves: &[Hash]) -> Hash {
    let mut trace = Trace::new();
    leaves.iter().for_each(|leaf| trace.push(*leaf));
    trace.peaks.iter().rev().map(|(_, hash)| *hash).reduce(|right, left| node(&left, &right)).unwrap_or_default()
}

/// A path from a leaf to the root, siblings from the bottom up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceProof {
    pub index: u32,
    pub count: u32,
    pub siblings: Vec<Hash>,
}

impl TraceProof {
    /// Whether `leaf` is the leaf number `index` of the trace of `count` leaves whose root is `root`.
    pub fn verify(&self, leaf: &Hash, root: &Hash) -> bool {
        let Some(last) = self.count.checked_sub(1).filter(|last| self.index <= *last) else { return false };
        // RFC 9162 §2.1.3.2: `index` and `last` lose a bit a level; a node without a right neighbour skips levels.
        let (mut index, mut last, mut hash) = (self.index, last, *leaf);
        for sibling in &self.siblings {
            if last == 0 {
                return false;
            }
            if index & 1 == 1 || index == last {
                hash = node(sibling, &hash);
                let skipped = if index & 1 == 1 { 0 } else { index.trailing_zeros() };
                (index, last) = (index >> skipped.min(31), last >> skipped.min(31));
            } else {
                hash = node(&hash, sibling);
            }
            (index, last) = (index >> 1, last >> 1);
        }
        last == 0 && bind(self.count, Some(&hash)) == *root
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaves(n: usize) -> Vec<Hash> {
        (0..n).map(|i| *blake3::hash(&i.to_le_bytes()).as_bytes()).collect()
    }

    fn trace(n: usize) -> Trace {
        let mut trace = Trace::new();
        leaves(n).into_iter().for_each(|leaf| trace.push(leaf));
        trace
    }

    /// The recursive definition of RFC 9162.
    fn recursive(leaves: &[Hash]) -> Hash {
        match leaves {
            [leaf] => *leaf,
            _ => node(&recursive(&leaves[..split(leaves.len())]), &recursive(&leaves[split(leaves.len())..])),
        }
    }

    #[test]
    fn the_incremental_root_is_the_recursive_one() {
        for n in 1..70 {
            assert_eq!(trace(n).root(), bind(n as u32, Some(&recursive(&leaves(n)))));
        }
    }

    #[test]
    fn every_leaf_can_be_opened_and_no_other_passes() {
        for n in 1..40usize {
            let trace = trace(n);
            for (index, leaf) in leaves(n).iter().enumerate() {
                let proof = trace.prove(index).unwrap();
                assert!(proof.verify(leaf, &trace.root()), "leaf {index} of {n}");
                assert!(!proof.verify(&[0; 32], &trace.root()));
                let shifted = TraceProof { index: (index as u32 + 1) % n as u32, ..proof.clone() };
                assert!(n == 1 || !shifted.verify(leaf, &trace.root()));
                let longer = TraceProof { count: proof.count + 1, ..proof };
                assert!(!longer.verify(leaf, &trace.root()));
            }
            assert!(trace.prove(n).is_none());
        }
    }

    #[test]
    fn the_empty_trace_has_a_root_and_no_leaves() {
        assert!(trace(0).is_empty() && trace(0).prove(0).is_none());
        assert_ne!(trace(0).root(), trace(1).root());
    }

    #[test]
    fn a_leaf_depends_on_every_field() {
        let (hidden, top) = ([1.0, -2.5], [(3, -0.1), (9, -2.0)]);
        let step = Step { position: 1, token: 3, hidden: &hidden, top: &top };
        let variants = [
            Step { position: 2, ..step },
            Step { token: 4, ..step },
            Step { hidden: &[1.0, -2.25], ..step },
            Step { top: &[(3, -0.1), (9, -2.1)], ..step },
            Step { top: &top[..1], ..step },
        ];
        assert!(variants.iter().all(|other| other.leaf() != step.leaf()));
        assert_eq!(Step { hidden: &[1.000_01, -2.5], ..step }.leaf(), step.leaf(), "below the precision of bfloat16");
    }

    #[test]
    fn bfloat16_rounds_to_the_nearest_even() {
        assert_eq!(bfloat16(1.0), 0x3f80);
        assert_eq!(bfloat16(f32::from_bits(0x3f80_8000)), 0x3f80);
        assert_eq!(bfloat16(f32::from_bits(0x3f81_8000)), 0x3f82);
        assert_eq!(bfloat16(f32::from_bits(0x3f80_8001)), 0x3f81);
        assert_eq!(bfloat16(f32::INFINITY), 0x7f80);
        assert!(f32::from_bits(u32::from(bfloat16(f32::NAN)) << 16).is_nan());
    }

    proptest! {
        #[test]
        fn arbitrary_proofs_never_pass_and_never_panic(index: u32, count: u32, siblings in prop::collection::vec(any::<[u8; 32]>(), 0..40), leaf: [u8; 32], root: [u8; 32]) {
            let proof = TraceProof { index, count, siblings };
            prop_assert!(!proof.verify(&leaf, &root));
        }
    }
}
