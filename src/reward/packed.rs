//! The leaves of a reward tree as they travel in the calldata of an epoch report. Anyone can rebuild the tree from the chain alone.
//!
//! Two forms: all leaves, (20-byte node, 16-byte cumulative amount) by ascending node; or only what changed (`changes`), by the
//! node's index on the contract. Nothing is both: the length of the first is a multiple of 36, that of the second never.
//! Beside the report leaves are kept whole and compressed (zstd).

use std::io::Read;

use alloy::primitives::{B256, keccak256};

use super::{
    changes::{PackedChanges, unpack_changes},
    tree::RewardLeaf,
};
use crate::api::ids::{NodeAddress, Wei};

const NODE: usize = 20;
/// Bytes of a leaf in the whole form.
pub(super) const LEAF: usize = NODE + 16;

/// The most leaves that one report carries whole: XDC's pool refuses transactions above 64 KiB.
pub const MAX_LEAVES: usize = 1_800;
/// The most bytes of leaves in one report, for the same reason.
pub const MAX_PACKED: usize = MAX_LEAVES * LEAF;
/// The most leaves that are kept beside a report, whole: a ConfigMap takes 1 MiB, and random addresses do not compress.
pub const MAX_STORED: usize = 25_000;

/// How a report carries its leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackedForm {
    Unchanged,
    Whole,
    Changes,
}

/// The form of packed leaves, by their length alone: they may still be in none.
pub fn form_of(packed: &[u8]) -> PackedForm {
    match packed.len() {
        0 => PackedForm::Unchanged,
        length if length.is_multiple_of(LEAF) => PackedForm::Whole,
        _ => PackedForm::Changes,
    }
}

/// What the calldata of a report holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackedReport {
    /// Nothing: the leaves are those of the report before.
    Unchanged,
    /// All leaves, by ascending node.
    Whole(Vec<RewardLeaf>),
    /// What the epoch raised.
    Changes(PackedChanges),
}

/// Why bytes are not the one packed form of their content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackedError {
    #[error("{0} bytes are not a whole number of 36-byte leaves")]
    Length(usize),
    #[error("{count} leaves are more than the {most} that there is room for")]
    TooMany { count: usize, most: usize },
    #[error("leaf {0} is not above the one before it: nodes must ascend")]
    Order(usize),
    #[error("leaf {0} has the amount zero")]
    Zero(usize),
    #[error("{bytes} bytes are more than the {MAX_PACKED} that fit in one report")]
    TooLong { bytes: usize },
    #[error("form {0} of packed leaves is not known: use a newer version of this program")]
    Version(u8),
    #[error("the packed leaves end in the middle")]
    Short,
    #[error("{bytes} bytes follow the last leaf")]
    Trailing { bytes: usize },
    #[error("a number is not written in its shortest form")]
    NotShortest,
    #[error("the parts of the split are more than the whole")]
    Split,
    #[error("leaf {0} has an index above 2^32 - 1")]
    Index(usize),
    #[error("no node was registered under the index {0}")]
    UnknownIndex(u32),
    #[error("the earnings of {0} do not fit in 128 bits")]
    Overflow(NodeAddress),
    #[error("the raises of the node with the index {0} do not fit in 128 bits")]
    IndexOverflow(u32),
    #[error("the compressed leaves cannot be read: {0}")]
    Compressed(String),
    #[error("the leaves hash to {found}, the report says {expected}")]
    Hash { expected: B256, found: B256 },
}

/// Packs leaves that ascend by node.
pub fn pack_leaves<'a>(leaves: impl IntoIterator<Item = &'a RewardLeaf>) -> Vec<u8> {
    leaves.into_iter().flat_map(|leaf| [&leaf.node.0[..], &leaf.cumulative.0.to_be_bytes()].concat()).collect()
}

/// Reads the leaves that a report carries whole. Refuses everything that [`pack_leaves`] would not have written, so one set has one
/// form and one hash.
pub fn unpack_leaves(packed: &[u8]) -> Result<Vec<RewardLeaf>, PackedError> {
    unpack_at_most(packed, MAX_LEAVES)
}

fn unpack_at_most(packed: &[u8], most: usize) -> Result<Vec<RewardLeaf>, PackedError> {
    if !packed.len().is_multiple_of(LEAF) {
        return Err(PackedError::Length(packed.len()));
    }
    let count = packed.len() / LEAF;
    if count > most {
        return Err(PackedError::TooMany { count, most });
    }
    let mut leaves: Vec<RewardLeaf> = Vec::with_capacity(count);
    for (index, bytes) in packed.chunks_exact(LEAF).enumerate() {
        let leaf = unpack(bytes);
        if leaves.last().is_some_and(|last| last.node >= leaf.node) {
            return Err(PackedError::Order(index));
        }
        if leaf.cumulative.0 == 0 {
            return Err(PackedError::Zero(index));
        }
        leaves.push(leaf);
    }
    Ok(leaves)
}

/// Reads either form.
pub fn unpack_report(packed: &[u8]) -> Result<PackedReport, PackedError> {
    match form_of(packed) {
        PackedForm::Unchanged => Ok(PackedReport::Unchanged),
        PackedForm::Whole => unpack_leaves(packed).map(PackedReport::Whole),
        PackedForm::Changes => unpack_changes(packed).map(PackedReport::Changes),
    }
}

/// Packed leaves as they are stored (`leaves.zst`).
pub fn compress_leaves(packed: &[u8]) -> Result<Vec<u8>, PackedError> {
    zstd::encode_all(packed, 9).map_err(|error| PackedError::Compressed(error.to_string()))
}

/// Reads stored leaves and checks them against the report's data hash (keccak256 of the packed bytes). Never inflates more
/// than [`MAX_STORED`] leaves.
pub fn decompress_leaves(compressed: &[u8], data_hash: B256) -> Result<Vec<RewardLeaf>, PackedError> {
    let broken = |error: std::io::Error| PackedError::Compressed(error.to_string());
    let mut packed = Vec::new();
    let limit = (MAX_STORED * LEAF) as u64 + 1;
    zstd::Decoder::new(compressed).map_err(broken)?.take(limit).read_to_end(&mut packed).map_err(broken)?;
    check_hash(&packed, data_hash)?;
    unpack_at_most(&packed, MAX_STORED)
}

/// Reads packed leaves, for example from calldata, and checks them against a data hash.
pub fn checked_leaves(packed: &[u8], data_hash: B256) -> Result<Vec<RewardLeaf>, PackedError> {
    check_hash(packed, data_hash)?;
    unpack_leaves(packed)
}

fn check_hash(packed: &[u8], expected: B256) -> Result<(), PackedError> {
    let found = keccak256(packed);
    if found == expected { Ok(()) } else { Err(PackedError::Hash { expected, found }) }
}

fn unpack(bytes: &[u8]) -> RewardLeaf {
    let (mut node, mut amount) = ([0; NODE], [0; 16]);
    for (to, from) in node.iter_mut().chain(&mut amount).zip(bytes) {
        *to = *from;
    }
    RewardLeaf { node: NodeAddress(node), cumulative: Wei(u128::from_be_bytes(amount)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaf(id: u8, amount: u128) -> RewardLeaf {
        RewardLeaf { node: NodeAddress([id; 20]), cumulative: Wei(amount) }
    }

    #[test]
    fn leaves_come_back_as_they_were_packed() {
        let leaves = vec![leaf(1, 7), leaf(2, u128::MAX)];
        let packed = pack_leaves(&leaves);
        assert_eq!(packed.len(), 72);
        assert_eq!(unpack_leaves(&packed), Ok(leaves));
        assert_eq!(unpack_leaves(&[]), Ok(vec![]));
        assert_eq!(unpack_report(&[]), Ok(PackedReport::Unchanged));
        assert_eq!(unpack_report(&packed), unpack_leaves(&packed).map(PackedReport::Whole));
    }

    #[test]
    fn anything_but_the_one_form_is_refused() {
        assert_eq!(unpack_leaves(&[0; 37]), Err(PackedError::Length(37)));
        assert_eq!(unpack_leaves(&vec![1; LEAF * 1_801]), Err(PackedError::TooMany { count: 1_801, most: MAX_LEAVES }));
        assert_eq!(unpack_leaves(&pack_leaves(&[leaf(2, 1), leaf(1, 1)])), Err(PackedError::Order(1)));
        assert_eq!(unpack_leaves(&pack_leaves(&[leaf(1, 1), leaf(1, 2)])), Err(PackedError::Order(1)));
        assert_eq!(unpack_leaves(&pack_leaves(&[leaf(1, 0)])), Err(PackedError::Zero(0)));
    }

    #[test]
    fn more_leaves_are_stored_than_a_report_carries() {
        let leaves: Vec<_> = (0..MAX_LEAVES as u32 + 1)
            .map(|id| {
                let mut node = [0; 20];
                node[..4].copy_from_slice(&id.to_be_bytes());
                RewardLeaf { node: NodeAddress(node), cumulative: Wei(1) }
            })
            .collect();
        let packed = pack_leaves(&leaves);
        assert!(matches!(checked_leaves(&packed, keccak256(&packed)), Err(PackedError::TooMany { .. })));
        assert_eq!(decompress_leaves(&compress_leaves(&packed).unwrap(), keccak256(&packed)), Ok(leaves));
    }

    #[test]
    fn stored_leaves_come_back_only_under_their_hash() {
        let leaves = vec![leaf(1, 7), leaf(2, 9)];
        let packed = pack_leaves(&leaves);
        let stored = compress_leaves(&packed).unwrap();
        assert_eq!(decompress_leaves(&stored, keccak256(&packed)), Ok(leaves));
        assert!(matches!(decompress_leaves(&stored, B256::ZERO), Err(PackedError::Hash { .. })));
        assert!(matches!(decompress_leaves(b"no zstd", keccak256(&packed)), Err(PackedError::Compressed(_))));
        let bomb = zstd::encode_all(&vec![0; 10 << 20][..], 1).unwrap();
        assert!(
            decompress_leaves(&bomb, keccak256(vec![0; 10 << 20])).is_err(),
            "only as much as a report holds is read"
        );
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_packs_to_the_same_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(leaves) = unpack_leaves(&bytes) {
                prop_assert_eq!(pack_leaves(&leaves), bytes);
            }
        }
    }
}
