//! Settles an epoch: from what was contributed and what was earned before to the leaves of its report. The reporter settles
//! with it, and so does a stranger who checks the report: the same input gives the same bytes.

use std::collections::BTreeMap;

use super::{
    allocation::{Allocation, AllocationError, NodeContribution, RewardSplit, allocate, parts},
    fees::{PaidWork, share_fees},
    tree::{RewardLeaf, RewardTree, TreeDomain, TreeError},
};
use crate::api::ids::{NodeAddress, Wei};

/// Everything that the leaves of an epoch depend on.
#[derive(Debug, Clone, Copy)]
pub struct EpochInputs<'a> {
    pub domain: TreeDomain,
    /// Leaves of the report before.
    pub previous: &'a [RewardLeaf],
    /// Those who may earn in this epoch.
    pub nodes: &'a [NodeContribution],
    /// Settled jobs that users paid for.
    pub paid: PaidWork<'a>,
    /// What the epoch may allocate beside the fees.
    pub budget: Wei,
    pub split: RewardSplit,
}

/// What an epoch amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledEpoch {
    pub allocation: Allocation,
    /// Fees by node, on top of the allocation.
    pub fees: BTreeMap<NodeAddress, Wei>,
    /// What the epoch adds to all earnings.
    pub increase: Wei,
    /// Everybody's earnings, this epoch included.
    pub tree: RewardTree,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    #[error(transparent)]
    Allocation(#[from] AllocationError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("the sum of all earnings does not fit in 128 bits")]
    TotalOverflow,
}

/// What an epoch may allocate beside `fees`: as much as the network wants, and as the pool and the contract's bound leave. The fees are
/// in the pool: settling a job brought them there.
pub fn budget(wanted: Wei, pool: Wei, max_increase: Wei, fees: Wei) -> Wei {
    let left = |limit: Wei| Wei(limit.0.saturating_sub(fees.0));
    wanted.min(left(pool)).min(left(max_increase))
}

/// Allocates the budget and the fees, and puts both on top of what was earned before.
pub fn settle(inputs: EpochInputs<'_>) -> Result<SettledEpoch, SettleError> {
    let allocation = allocate(inputs.budget, inputs.split, inputs.nodes, inputs.paid)?;
    let fees = share_fees(inputs.paid)?;
    let mut cumulative: BTreeMap<NodeAddress, u128> =
        inputs.previous.iter().map(|leaf| (leaf.node, leaf.cumulative.0)).collect();
    let subsidies = allocation.amounts.iter().map(|(node, amounts)| (node, amounts.total()));
    let mut increase = 0u128;
    for (node, wei) in subsidies.chain(fees.iter().map(|(node, wei)| (node, *wei))) {
        let sum = cumulative.entry(*node).or_default();
        *sum = sum.checked_add(wei.0).ok_or(SettleError::TotalOverflow)?;
        increase = increase.checked_add(wei.0).ok_or(SettleError::TotalOverflow)?;
    }
    let leaves = cumulative.into_iter().map(|(node, sum)| RewardLeaf { node, cumulative: Wei(sum) });
    let tree = RewardTree::build(inputs.domain, leaves)?;
    Ok(SettledEpoch { allocation, fees, increase: Wei(increase), tree })
}

/// The budgets that allocate exactly `increase` among `nodes` when no user paid for anything: for a stranger who was not told
/// the budget. More than one, where a class without anyone left its share in the pool and rounding hides the last wei. Those
/// that pay everybody the same are one.
pub fn budgets_of(increase: Wei, split: RewardSplit, nodes: &[NodeContribution]) -> Vec<Wei> {
    let has = |measure: fn(&NodeContribution) -> u128| nodes.iter().any(|node| measure(node) > 0);
    let classes = [has(|node| node.work.0), has(|node| node.capacity), has(|node| node.storage)];
    let points = <[u16; 3]>::from(split).into_iter().zip(classes).filter(|(_, has)| *has).map(|(points, _)| points);
    let points: u128 = points.map(u128::from).sum();
    if points == 0 || increase.0 == 0 {
        return Vec::new();
    }
    let budget = |increase: u128| increase / points * 10_000 + increase % points * 10_000 / points;
    // Three parts are rounded, each by less than a wei.
    let Some(most) = increase.0.checked_add(4).filter(|most| most / points < u128::MAX / 20_000) else {
        return Vec::new();
    };
    let (least, most) = (budget(increase.0.saturating_sub(4)), budget(most));
    let mut found: Vec<([u128; 3], Wei)> = Vec::new();
    for budget in (least..=most).map(Wei) {
        let mut paid = parts(budget, split);
        for (part, has) in paid.iter_mut().zip(classes) {
            *part *= u128::from(has);
        }
        if paid.iter().sum::<u128>() == increase.0 && found.last().is_none_or(|(last, _)| *last != paid) {
            found.push((paid, budget));
        }
    }
    found.into_iter().map(|(_, budget)| budget).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reward::{ComputeUnits, FeeBps, PaidJob};

    fn node(id: u8, work: u128, capacity: u128, storage: u128) -> NodeContribution {
        NodeContribution { node: NodeAddress([id; 20]), work: ComputeUnits(work), capacity, storage }
    }

    fn inputs<'a>(previous: &'a [RewardLeaf], nodes: &'a [NodeContribution], budget: u128) -> EpochInputs<'a> {
        EpochInputs {
            domain: TreeDomain { chain_id: 51, contract: NodeAddress([9; 20]) },
            previous,
            nodes,
            paid: PaidWork::default(),
            budget: Wei(budget),
            split: RewardSplit::default(),
        }
    }

    #[test]
    fn fees_and_subsidy_go_on_top_of_what_was_earned_before() {
        let previous = [
            RewardLeaf { node: NodeAddress([1; 20]), cumulative: Wei(10) },
            RewardLeaf { node: NodeAddress([7; 20]), cumulative: Wei(5) },
        ];
        let nodes = [node(1, 3, 1, 1), node(2, 1, 0, 0)];
        let served = vec![(NodeAddress([2; 20]), ComputeUnits(4))];
        let jobs = [PaidJob { job: [1; 32], spent: Wei(200), fee: FeeBps::new(500).unwrap(), served }];
        let paid = PaidWork { jobs: &jobs };
        let settled = settle(EpochInputs { paid, ..inputs(&previous, &nodes, 1_000) }).unwrap();
        // 600 for work: the job's 4 of 8 units would be 300, bounded at 10; 590 are split 3 : 1.
        let tree = &settled.tree;
        assert_eq!(tree.cumulative(NodeAddress([1; 20])), Wei(10 + 443 + 250 + 150));
        assert_eq!(tree.cumulative(NodeAddress([2; 20])), Wei(10 + 147 + 190));
        assert_eq!(tree.cumulative(NodeAddress([7; 20])), Wei(5));
        assert_eq!((settled.increase, tree.total()), (Wei(1_190), Wei(1_205)));
    }

    #[test]
    fn the_budget_ends_where_wish_pool_or_contract_ends_and_fees_come_first() {
        let least = |wanted, pool, max, fees| budget(Wei(wanted), Wei(pool), Wei(max), Wei(fees)).0;
        assert_eq!((least(5, 9, 9, 0), least(5, 3, 9, 0), least(5, 9, 2, 0)), (5, 3, 2));
        assert_eq!((least(5, 9, 9, 4), least(5, 9, 9, 6), least(5, 9, 7, 8)), (5, 3, 0));
    }

    proptest! {
        #[test]
        fn leaves_sum_to_the_wei(
            budget in prop_oneof![0..1_000u128, 0..u128::MAX / 2],
            before in prop::collection::vec(1..u128::MAX / 1_000, 0..20),
            now in prop::collection::vec((0..1_000_000u128, 0..1_000u128, 0..50u128), 0..20),
        ) {
            let leaf = |(id, wei): (u8, u128)| RewardLeaf { node: NodeAddress([id; 20]), cumulative: Wei(wei) };
            let previous: Vec<_> = (10u8..).zip(before).map(leaf).collect();
            let nodes: Vec<_> = (0u8..).zip(now).map(|(id, (w, c, s))| node(id, w, c, s)).collect();
            let settled = settle(inputs(&previous, &nodes, budget)).unwrap();
            let sum: u128 = settled.tree.leaves().map(|leaf| leaf.cumulative.0).sum();
            prop_assert_eq!(sum, previous.iter().map(|leaf| leaf.cumulative.0).sum::<u128>() + settled.increase.0);
            prop_assert_eq!(settled.tree.total().0, sum);
            prop_assert!(previous.iter().all(|leaf| settled.tree.cumulative(leaf.node) >= leaf.cumulative), "no leaf falls");
        }

        #[test]
        fn the_budget_can_be_told_from_what_was_allocated(
            budget in prop_oneof![0..1_000u128, 0..u128::MAX / 100_000],
            now in prop::collection::vec((0..3u128, 0..3u128, 0..3u128), 0..4),
        ) {
            let nodes: Vec<_> = (0u8..).zip(now).map(|(id, (w, c, s))| node(id, w, c, s)).collect();
            let settled = settle(inputs(&[], &nodes, budget)).unwrap();
            prop_assume!(settled.increase.0 > 0);
            let found = budgets_of(settled.increase, RewardSplit::default(), &nodes);
            let again = |budget: &Wei| settle(inputs(&[], &nodes, budget.0)).unwrap().tree == settled.tree;
            prop_assert!(found.iter().any(again), "{found:?}");
            prop_assert!(found.len() < 12);
        }
    }
}
