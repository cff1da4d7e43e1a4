//! Shares an epoch's budget: split over three classes, linear inside each, exact to the wei.

use std::collections::BTreeMap;

use alloy::primitives::U256;
use serde::{Deserialize, Serialize};

use super::units::ComputeUnits;
use crate::api::ids::{NodeAddress, Wei};

const BASIS_POINTS: u16 = 10_000;

/// How a budget divides into verified work, proven available capacity and proven storage, in basis points that sum to 10 000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "[u16; 3]", into = "[u16; 3]")]
pub struct RewardSplit {
    work: u16,
    capacity: u16,
    storage: u16,
}

impl RewardSplit {
    /// Fails when the parts do not sum to 10 000.
    pub fn new(work: u16, capacity: u16, storage: u16) -> Result<Self, AllocationError> {
        let sum = u32::from(work) + u32::from(capacity) + u32::from(storage);
        if sum != u32::from(BASIS_POINTS) {
            return Err(AllocationError::Split { sum });
        }
        Ok(RewardSplit { work, capacity, storage })
    }
}

impl Default for RewardSplit {
    /// 60 : 25 : 15.
    fn default() -> Self {
        RewardSplit { work: 6_000, capacity: 2_500, storage: 1_500 }
    }
}

impl TryFrom<[u16; 3]> for RewardSplit {
    type Error = AllocationError;

    fn try_from([work, capacity, storage]: [u16; 3]) -> Result<Self, AllocationError> {
        RewardSplit::new(work, capacity, storage)
    }
}

impl From<RewardSplit> for [u16; 3] {
    fn from(split: RewardSplit) -> Self {
        [split.work, split.capacity, split.storage]
    }
}

/// What one eligible node did in an epoch. The caller leaves out nodes that are quarantined or not registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeContribution {
    pub node: NodeAddress,
    /// Verified, settled work.
    pub work: ComputeUnits,
    /// Proven capacity × availability, in any unit that is the same for all nodes.
    pub capacity: u128,
    /// Proven storage × time, in any unit that is the same for all nodes.
    pub storage: u128,
}

/// What a node is paid for an epoch, by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeAmounts {
    pub work: Wei,
    pub capacity: Wei,
    pub storage: Wei,
}

impl NodeAmounts {
    /// Never above the budget it was allocated from.
    pub fn total(&self) -> Wei {
        Wei(self.work.0.saturating_add(self.capacity.0).saturating_add(self.storage.0))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allocation {
    /// Nodes that are paid anything.
    pub amounts: BTreeMap<NodeAddress, NodeAmounts>,
    /// Σ amounts.
    pub allocated: Wei,
    /// The shares of classes in which nobody was eligible. It stays in the pool; allocated + unallocated = budget.
    pub unallocated: Wei,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocationError {
    #[error("the reward split sums to {sum} basis points instead of 10000")]
    Split { sum: u32 },
    #[error("node {0} is listed twice in one epoch")]
    DuplicateNode(NodeAddress),
}

/// Shares `budget` among `nodes`.
///
/// Each class is linear in its measure, so a node earns the same whether it appears as one identity or as many, up to the
/// rounding of at most 1 wei per identity. Rounding is by largest remainder, ties by address, so the result sums exactly and
/// does not depend on the order of `nodes`.
pub fn allocate(budget: Wei, split: RewardSplit, nodes: &[NodeContribution]) -> Result<Allocation, AllocationError> {
    let mut by_node = BTreeMap::new();
    for node in nodes {
        if by_node.insert(node.node, *node).is_some() {
            return Err(AllocationError::DuplicateNode(node.node));
        }
    }
    let parts = <[u16; 3]>::from(split).map(u128::from);
    let [work, capacity, storage] = by_largest_remainder(budget.0, parts);
    let mut amounts: BTreeMap<NodeAddress, NodeAmounts> = BTreeMap::new();
    for (node, wei) in share(work, &by_node, |node| node.work.0) {
        amounts.entry(node).or_default().work = wei;
    }
    for (node, wei) in share(capacity, &by_node, |node| node.capacity) {
        amounts.entry(node).or_default().capacity = wei;
    }
    for (node, wei) in share(storage, &by_node, |node| node.storage) {
        amounts.entry(node).or_default().storage = wei;
    }
    let allocated = Wei(amounts.values().map(|amount| amount.total().0).sum());
    Ok(Allocation { amounts, allocated, unallocated: Wei(budget.0 - allocated.0) })
}

/// Divides `budget` in proportion to three weights; the parts sum to it.
fn by_largest_remainder(budget: u128, weights: [u128; 3]) -> [u128; 3] {
    let shares = divide(budget, &weights);
    [0, 1, 2].map(|index: usize| shares.get(index).copied().unwrap_or_default())
}

fn share(
    budget: u128,
    nodes: &BTreeMap<NodeAddress, NodeContribution>,
    measure: impl Fn(&NodeContribution) -> u128,
) -> Vec<(NodeAddress, Wei)> {
    // The map's order is by address, which makes it the tie-break.
    let eligible: Vec<(NodeAddress, u128)> =
        nodes.values().map(|node| (node.node, measure(node))).filter(|(_, weight)| *weight > 0).collect();
    let weights: Vec<u128> = eligible.iter().map(|(_, weight)| *weight).collect();
    let shares = divide(budget, &weights).into_iter().map(Wei);
    eligible.into_iter().map(|(node, _)| node).zip(shares).filter(|(_, wei)| wei.0 > 0).collect()
}

/// Largest-remainder division: floors first, then one wei each to the largest remainders, earlier entries first among equals.
fn divide(budget: u128, weights: &[u128]) -> Vec<u128> {
    let total: U256 = weights.iter().map(|weight| U256::from(*weight)).sum();
    if total.is_zero() {
        return vec![0; weights.len()];
    }
    let (mut shares, remainders): (Vec<u128>, Vec<U256>) = weights
        .iter()
        .map(|weight| {
            // 128 × 128 bits fit in 256, and a quotient never exceeds the budget because a weight never exceeds the total.
            let (quotient, remainder) = (U256::from(budget) * U256::from(*weight)).div_rem(total);
            (quotient.saturating_to::<u128>(), remainder)
        })
        .unzip();
    let given: u128 = shares.iter().sum();
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by(|a, b| remainders.get(*b).cmp(&remainders.get(*a)).then(a.cmp(b)));
    let left = usize::try_from(budget - given).unwrap_or(usize::MAX);
    for index in order.into_iter().take(left) {
        if let Some(share) = shares.get_mut(index) {
            *share += 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contribution(id: u16, work: u128, capacity: u128, storage: u128) -> NodeContribution {
        let mut address = [0; 20];
        address[..2].copy_from_slice(&id.to_be_bytes());
        NodeContribution { node: NodeAddress(address), work: ComputeUnits(work), capacity, storage }
    }

    fn paid(allocation: &Allocation, node: NodeAddress) -> u128 {
        allocation.amounts.get(&node).map_or(0, |amounts| amounts.total().0)
    }

    #[test]
    fn a_budget_is_split_60_25_15_and_sums_to_the_wei() {
        let nodes = [contribution(1, 3, 1, 1), contribution(2, 1, 1, 0), contribution(3, 0, 1, 0)];
        let allocation = allocate(Wei(1_000), RewardSplit::default(), &nodes).unwrap();
        let amounts = |id| allocation.amounts[&contribution(id, 0, 0, 0).node];
        assert_eq!(amounts(1), NodeAmounts { work: Wei(450), capacity: Wei(84), storage: Wei(150) });
        assert_eq!(amounts(2), NodeAmounts { work: Wei(150), capacity: Wei(83), storage: Wei(0) });
        assert_eq!(amounts(3), NodeAmounts { work: Wei(0), capacity: Wei(83), storage: Wei(0) });
        assert_eq!((allocation.allocated, allocation.unallocated), (Wei(1_000), Wei(0)));
    }

    #[test]
    fn the_share_of_a_class_without_anyone_stays_in_the_pool() {
        let allocation = allocate(Wei(1_000), RewardSplit::default(), &[contribution(1, 5, 0, 0)]).unwrap();
        assert_eq!((allocation.allocated, allocation.unallocated), (Wei(600), Wei(400)));
        let nobody = allocate(Wei(1_000), RewardSplit::default(), &[]).unwrap();
        assert_eq!((nobody.amounts.len(), nobody.unallocated), (0, Wei(1_000)));
    }

    #[test]
    fn the_whole_range_of_amounts_is_exact() {
        let nodes = [contribution(1, u128::MAX, u128::MAX, 1), contribution(2, u128::MAX, 1, u128::MAX)];
        let allocation = allocate(Wei(u128::MAX), RewardSplit::default(), &nodes).unwrap();
        assert_eq!(allocation.allocated, Wei(u128::MAX));
    }

    #[test]
    fn a_split_that_is_not_whole_and_a_node_listed_twice_are_refused() {
        assert_eq!(RewardSplit::new(6_000, 2_500, 1_000), Err(AllocationError::Split { sum: 9_500 }));
        assert!(serde_json::from_str::<RewardSplit>("[6000,2500,1501]").is_err());
        let twice = [contribution(1, 1, 1, 1), contribution(1, 2, 2, 2)];
        let refused = allocate(Wei(1), RewardSplit::default(), &twice);
        assert_eq!(refused, Err(AllocationError::DuplicateNode(twice[0].node)));
    }

    prop_compose! {
        fn epochs()(budget in prop_oneof![0..1_000u128, any::<u128>()],
                    nodes in prop::collection::vec((0..1_000_000u128, 0..1_000u128, 0..50u128), 0..24))
                    -> (Wei, Vec<NodeContribution>) {
            let nodes = nodes.into_iter().zip(0u16..).map(|((w, c, s), id)| contribution(id, w, c, s)).collect();
            (Wei(budget), nodes)
        }
    }

    proptest! {
        #[test]
        fn the_sum_paid_is_the_budget_less_what_stays_in_the_pool((budget, nodes) in epochs()) {
            let allocation = allocate(budget, RewardSplit::default(), &nodes).unwrap();
            let sum: u128 = nodes.iter().map(|node| paid(&allocation, node.node)).sum();
            prop_assert_eq!(sum, allocation.allocated.0);
            prop_assert_eq!(sum + allocation.unallocated.0, budget.0);
        }

        #[test]
        fn the_order_of_nodes_does_not_matter((budget, nodes) in epochs(), seed in any::<u64>()) {
            let mut shuffled = nodes.clone();
            shuffled.sort_by_key(|node| blake3::hash(&[&node.node.0[..], &seed.to_be_bytes()].concat()).as_bytes().to_owned());
            prop_assert_eq!(allocate(budget, RewardSplit::default(), &nodes), allocate(budget, RewardSplit::default(), &shuffled));
        }

        #[test]
        fn more_verified_work_never_earns_less((budget, mut nodes) in epochs(), pick in any::<prop::sample::Index>(), more in 0..1_000_000u128) {
            prop_assume!(!nodes.is_empty());
            let before = allocate(budget, RewardSplit::default(), &nodes).unwrap();
            let index = pick.index(nodes.len());
            nodes[index].work.0 += more;
            let after = allocate(budget, RewardSplit::default(), &nodes).unwrap();
            prop_assert!(paid(&after, nodes[index].node) >= paid(&before, nodes[index].node));
        }

        /// No integer rule can be exact here (whoever rounds, rounds for somebody); a wei per identity and class buys no gas.
        #[test]
        fn splitting_or_merging_identities_gains_nothing_but_rounding((budget, nodes) in epochs(), cut in 0..=100u128) {
            prop_assume!(!nodes.is_empty());
            let whole = nodes[0];
            let part = |value: u128| value * cut / 100;
            let first = contribution(1_000, part(whole.work.0), part(whole.capacity), part(whole.storage));
            let second = contribution(1_001, whole.work.0 - first.work.0, whole.capacity - first.capacity, whole.storage - first.storage);
            let mut split = nodes.clone();
            split.splice(0..1, [first, second]);
            let one = paid(&allocate(budget, RewardSplit::default(), &nodes).unwrap(), whole.node);
            let both = allocate(budget, RewardSplit::default(), &split).unwrap();
            let two = paid(&both, first.node) + paid(&both, second.node);
            prop_assert!(two.abs_diff(one) <= 6, "{one} as one, {two} as two");
        }
    }
}
