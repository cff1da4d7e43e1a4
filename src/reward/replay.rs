//! The leaves behind a root, put together from packed reports that are read from the newest back. The sum of a node's raises does not
//! depend on their order, so one number a node is kept, however many reports there are.

use std::collections::BTreeMap;

use super::{
    changes::{LeafChange, apply_changes},
    packed::{PackedError, PackedReport, unpack_report},
    tree::{MAX_TREE_LEAVES, RewardLeaf},
};
use crate::api::ids::{NodeAddress, Wei};

/// What reports said so far, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeavesBack {
    /// By the node's index on the contract.
    raised: BTreeMap<u32, u128>,
    /// All leaves before the raises.
    whole: Vec<RewardLeaf>,
}

impl LeavesBack {
    /// Takes what the next older report carries. True when it has all leaves, so that nothing older is needed.
    pub fn take(&mut self, packed: &[u8]) -> Result<bool, PackedError> {
        match unpack_report(packed)? {
            PackedReport::Unchanged => Ok(false),
            PackedReport::Whole(leaves) => {
                self.whole = leaves;
                Ok(true)
            }
            PackedReport::Changes(packed) => {
                packed.changes.iter().try_for_each(|change| self.raise(*change))?;
                Ok(false)
            }
        }
    }

    /// Takes leaves that are known from elsewhere, in place of the next older report.
    pub fn take_all(&mut self, leaves: Vec<RewardLeaf>) {
        self.whole = leaves;
    }

    fn raise(&mut self, change: LeafChange) -> Result<(), PackedError> {
        let sum = self.raised.entry(change.index).or_default();
        *sum = sum.checked_add(change.increase.0).ok_or(PackedError::IndexOverflow(change.index))?;
        match self.raised.len() {
            count if count > MAX_TREE_LEAVES => Err(PackedError::TooMany { count, most: MAX_TREE_LEAVES }),
            _ => Ok(()),
        }
    }

    /// Indexes whose nodes [`finish`](Self::finish) will ask for.
    pub fn indexes(&self) -> impl Iterator<Item = u32> + '_ {
        self.raised.keys().copied()
    }

    /// Nodes that a report named by their address.
    pub fn named(&self) -> impl Iterator<Item = NodeAddress> + '_ {
        self.whole.iter().map(|leaf| leaf.node)
    }

    /// The leaves after the newest report that was taken, by ascending node.
    pub fn finish(&self, node_of: impl Fn(u32) -> Option<NodeAddress>) -> Result<Vec<RewardLeaf>, PackedError> {
        let change = |(index, sum): (&u32, &u128)| LeafChange { index: *index, increase: Wei(*sum) };
        let changes: Vec<_> = self.raised.iter().map(change).collect();
        apply_changes(&self.whole, &changes, node_of)
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use proptest::prelude::*;

    use super::*;
    use crate::reward::{PackedChanges, Recipe, RewardSplit, pack_changes, pack_leaves};

    fn node(index: u32) -> Option<NodeAddress> {
        (index < 10).then_some(NodeAddress([index as u8; 20]))
    }

    fn raises(raises: &[(u32, u128)]) -> Vec<u8> {
        let recipe = Recipe { statement: B256::ZERO, block: 7, split: RewardSplit::default(), budget: Wei(1) };
        let changes = raises.iter().map(|(index, wei)| LeafChange { index: *index, increase: Wei(*wei) }).collect();
        pack_changes(&PackedChanges { recipe, changes }).unwrap()
    }

    fn leaf(index: u32, wei: u128) -> RewardLeaf {
        RewardLeaf { node: node(index).unwrap(), cumulative: Wei(wei) }
    }

    #[test]
    fn raises_are_added_to_the_last_report_that_has_all_leaves() {
        let mut back = LeavesBack::default();
        assert_eq!(back.take(&raises(&[(1, 5), (3, 7)])), Ok(false));
        assert_eq!(back.take(&[]), Ok(false), "an epoch without increase");
        assert_eq!(back.take(&raises(&[(3, 1)])), Ok(false));
        assert_eq!(back.take(&pack_leaves(&[leaf(1, 100), leaf(2, 200)])), Ok(true));
        assert_eq!(back.indexes().collect::<Vec<_>>(), [1, 3]);
        assert_eq!(back.finish(node), Ok(vec![leaf(1, 105), leaf(2, 200), leaf(3, 8)]));
    }

    #[test]
    fn what_cannot_be_put_together_is_said() {
        let mut back = LeavesBack::default();
        back.take(&raises(&[(11, u128::MAX)])).unwrap();
        assert_eq!(back.finish(node), Err(PackedError::UnknownIndex(11)));
        assert_eq!(back.take(&raises(&[(11, 1)])), Err(PackedError::IndexOverflow(11)));
        assert!(back.take(&[0xff; 5]).is_err());
    }

    proptest! {
        #[test]
        fn reading_back_gives_what_reading_forward_gives(epochs in prop::collection::vec(prop::collection::btree_map(0u32..10, 1u128..1_000, 0..6), 0..8)) {
            let (mut forward, mut back) = (Vec::new(), LeavesBack::default());
            let packed: Vec<Vec<u8>> = epochs.iter().map(|epoch| {
                let changes: Vec<_> = epoch.iter().map(|(index, wei)| (*index, *wei)).collect();
                let list: Vec<_> = changes.iter().map(|(index, wei)| LeafChange { index: *index, increase: Wei(*wei) }).collect();
                forward = apply_changes(&forward, &list, node).unwrap();
                raises(&changes)
            }).collect();
            for packed in packed.iter().rev() {
                prop_assert_eq!(back.take(packed), Ok(false));
            }
            prop_assert_eq!(back.finish(node), Ok(forward));
        }
    }
}
