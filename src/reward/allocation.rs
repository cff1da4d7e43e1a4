//! Shares an epoch's budget: split over three classes, linear inside each, exact to the wei.

use std::collections::BTreeMap;

use alloy::primitives::U512;
use serde::{Deserialize, Serialize};

use super::{
    fees::{PaidJob, PaidWork, split_by_units},
    remainder::divide,
    units::ComputeUnits,
};
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
    /// Verified work that no user paid for: the network's admin admitted it. What users paid for is a [`PaidJob`].
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
    #[error("a fee of {points} basis points is more than the whole: feeBps is at most 10000")]
    FeeBps { points: u16 },
    #[error("the sum of all fees does not fit in 128 bits")]
    FeesOverflow,
}

/// Shares `budget` among `nodes`, and among those who served `paid` jobs, within the bound of [`share_work`].
///
/// Each class is linear in its measure, so a node earns the same whether it appears as one identity or as many, up to the
/// rounding of at most 1 wei per identity. Rounding is by largest remainder, ties by address, so the result sums exactly and
/// does not depend on the order of `nodes`.
pub fn allocate(
    budget: Wei,
    split: RewardSplit,
    nodes: &[NodeContribution],
    paid: PaidWork<'_>,
) -> Result<Allocation, AllocationError> {
    let mut by_node: Vec<&NodeContribution> = nodes.iter().collect();
    by_node.sort_unstable_by_key(|node| node.node);
    if let Some([twice, _]) = by_node.windows(2).find(|pair| matches!(pair, [a, b] if a.node == b.node)) {
        return Err(AllocationError::DuplicateNode(twice.node));
    }
    let [work, capacity, storage] = parts(budget, split);
    let mut amounts: BTreeMap<NodeAddress, NodeAmounts> = BTreeMap::new();
    for (node, wei) in share_work(work, &by_node, paid) {
        amounts.entry(node).or_default().work = Wei(wei);
    }
    for (node, wei) in share(capacity, &by_node, |node| node.capacity) {
        amounts.entry(node).or_default().capacity = Wei(wei);
    }
    for (node, wei) in share(storage, &by_node, |node| node.storage) {
        amounts.entry(node).or_default().storage = Wei(wei);
    }
    let allocated = Wei(amounts.values().map(|amount| amount.total().0).sum());
    Ok(Allocation { amounts, allocated, unallocated: Wei(budget.0 - allocated.0) })
}

/// The budgets of the three classes; they sum to the whole.
pub(super) fn parts(budget: Wei, split: RewardSplit) -> [u128; 3] {
    let points = <[u16; 3]>::from(split).map(u128::from);
    let parts = divide(budget.0, &points);
    [0, 1, 2].map(|index: usize| parts.get(index).copied().unwrap_or_default())
}

/// Units of a paid job by node and in sum, and the most that its work may be subsidised with.
struct Bounded {
    by_node: BTreeMap<NodeAddress, u128>,
    units: u128,
    most: u128,
}

/// Shares the class of work, by units. The work of a paid job is subsidised with at most what the network kept of its fee: whoever
/// pays its own nodes for made-up work gets back at most what it paid. What such a job may not have goes to all other
/// work, at the rate that then uses the whole budget; without other work it stays in the pool.
fn share_work(budget: u128, nodes: &[&NodeContribution], paid: PaidWork<'_>) -> Vec<(NodeAddress, u128)> {
    let mut jobs: Vec<Bounded> = paid.jobs.iter().map(bounded).collect();
    jobs.retain(|job| job.units > 0);
    // By the most that a unit may have; the order of jobs that may have the same changes nothing.
    jobs.sort_by(|a, b| (wide(a.most) * wide(b.units)).cmp(&(wide(b.most) * wide(a.units))));
    let mut units: U512 =
        nodes.iter().map(|node| wide(node.work.0)).chain(jobs.iter().map(|job| wide(job.units))).sum();
    let (mut left, mut shares) = (budget, BTreeMap::new());
    let mut open: BTreeMap<NodeAddress, u128> =
        nodes.iter().filter(|node| node.work.0 > 0).map(|node| (node.node, node.work.0)).collect();
    for job in jobs {
        // Bounded when its most is below its linear share of what is left. Then it is less than that: nothing underflows.
        if wide(job.most) * units < wide(left) * wide(job.units) {
            left -= job.most;
            units -= wide(job.units);
            add(&mut shares, split_by_units(job.most, &job.by_node));
        } else {
            add(&mut open, job.by_node);
        }
    }
    add(&mut shares, split_by_units(left, &open));
    shares.into_iter().filter(|(_, wei)| *wei > 0).collect()
}

fn bounded(job: &PaidJob) -> Bounded {
    let by_node = job.by_node();
    let units = by_node.values().fold(0, |sum: u128, units| sum.saturating_add(*units));
    Bounded { by_node, units, most: job.fee.of(job.spent).0 }
}

fn add(sums: &mut BTreeMap<NodeAddress, u128>, parts: impl IntoIterator<Item = (NodeAddress, u128)>) {
    for (node, part) in parts {
        let sum = sums.entry(node).or_default();
        *sum = sum.saturating_add(part);
    }
}

fn wide(value: u128) -> U512 {
    U512::from(value)
}

/// `nodes` ascend by address, which makes it the tie-break.
fn share(
    budget: u128,
    nodes: &[&NodeContribution],
    measure: impl Fn(&NodeContribution) -> u128,
) -> Vec<(NodeAddress, u128)> {
    let weights: Vec<u128> = nodes.iter().map(|node| measure(node)).collect();
    let shares = nodes.iter().map(|node| node.node).zip(divide(budget, &weights));
    shares.filter(|(_, wei)| *wei > 0).collect()
}

#[cfg(test)]
mod tests;
