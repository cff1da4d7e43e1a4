//! What users paid for their jobs: to those who served them, less the part that the network keeps.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{allocation::AllocationError, remainder::divide, units::ComputeUnits};
use crate::api::ids::{NodeAddress, Wei};

const BASIS_POINTS: u128 = 10_000;

/// The part of a fee that the network keeps, in basis points: 0 to 10 000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct FeeBps(u16);

impl FeeBps {
    pub fn new(points: u16) -> Result<Self, AllocationError> {
        if u128::from(points) > BASIS_POINTS {
            return Err(AllocationError::FeeBps { points });
        }
        Ok(FeeBps(points))
    }

    /// The part of `amount` that is kept, rounded down as the contract does it.
    pub fn of(self, amount: Wei) -> Wei {
        let (whole, rest) = (amount.0 / BASIS_POINTS, amount.0 % BASIS_POINTS);
        let points = u128::from(self.0);
        // Exactly ⌊amount · points / 10 000⌋, in an order that cannot overflow.
        Wei(whole * points + rest * points / BASIS_POINTS)
    }
}

impl TryFrom<u16> for FeeBps {
    type Error = AllocationError;

    fn try_from(points: u16) -> Result<Self, AllocationError> {
        FeeBps::new(points)
    }
}

impl From<FeeBps> for u16 {
    fn from(fee: FeeBps) -> Self {
        fee.0
    }
}

/// A job that a user paid for, as it was settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaidJob {
    /// The key of its escrow.
    pub job: [u8; 32],
    /// What was settled: taken from the escrow, before the network's part.
    pub spent: Wei,
    /// What the network kept of it: fixed when the escrow was opened.
    pub fee: FeeBps,
    /// Verified units by node. A node may be listed more than once.
    pub served: Vec<(NodeAddress, ComputeUnits)>,
}

impl PaidJob {
    /// What is left of it after the network's part.
    pub(super) fn net(&self) -> Wei {
        Wei(self.spent.0 - self.fee.of(self.spent).0)
    }

    /// Units by node, without those who did nothing.
    pub(super) fn by_node(&self) -> BTreeMap<NodeAddress, u128> {
        let mut by_node = BTreeMap::new();
        for (node, units) in self.served.iter().filter(|(_, units)| units.0 > 0) {
            let sum: &mut u128 = by_node.entry(*node).or_default();
            *sum = sum.saturating_add(units.0);
        }
        by_node
    }
}

/// All paid jobs that an epoch counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PaidWork<'a> {
    pub jobs: &'a [PaidJob],
}

impl PaidWork<'_> {
    /// What their nodes get of it: less the network's part, and nothing of a job that nobody served.
    pub fn net(&self) -> Wei {
        let served = self.jobs.iter().filter(|job| job.served.iter().any(|(_, units)| units.0 > 0));
        Wei(served.fold(0, |sum, job| sum.saturating_add(job.net().0)))
    }
}

/// Divides each job's payment, less the network's part, among those who served it, in proportion to their units and to the wei.
/// What was paid for a job that nobody served stays in the pool.
pub fn share_fees(paid: PaidWork<'_>) -> Result<BTreeMap<NodeAddress, Wei>, AllocationError> {
    let mut shares: BTreeMap<NodeAddress, Wei> = BTreeMap::new();
    for job in paid.jobs {
        for (node, wei) in split_by_units(job.net().0, &job.by_node()) {
            let share = shares.entry(node).or_default();
            share.0 = share.0.checked_add(wei).ok_or(AllocationError::FeesOverflow)?;
        }
    }
    shares.retain(|_, wei| wei.0 > 0);
    Ok(shares)
}

/// By address, which makes it the tie-break.
pub(super) fn split_by_units(amount: u128, by_node: &BTreeMap<NodeAddress, u128>) -> Vec<(NodeAddress, u128)> {
    let weights: Vec<u128> = by_node.values().copied().collect();
    by_node.keys().copied().zip(divide(amount, &weights)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u8) -> NodeAddress {
        NodeAddress([id; 20])
    }

    #[test]
    fn a_fee_goes_to_those_who_served_the_job_and_the_rest_stays() {
        let fee = FeeBps::new(500).unwrap();
        let jobs = [
            PaidJob {
                job: [1; 32],
                spent: Wei(1_001),
                fee,
                served: vec![(node(1), ComputeUnits(3)), (node(2), ComputeUnits(1))],
            },
            PaidJob { job: [2; 32], spent: Wei(500), fee, served: vec![(node(3), ComputeUnits(0))] },
        ];
        let paid = PaidWork { jobs: &jobs };
        // ⌊1 001 · 5 %⌋ = 50 is kept; 951 is split 3 : 1. Nobody served the second job.
        assert_eq!(share_fees(paid).unwrap(), [(node(1), Wei(713)), (node(2), Wei(238))].into());
        assert_eq!(paid.net(), Wei(951));
    }

    #[test]
    fn the_networks_part_is_rounded_down_and_never_overflows() {
        let fee = FeeBps::new(500).unwrap();
        assert_eq!((fee.of(Wei(19)), fee.of(Wei(20)), fee.of(Wei(39))), (Wei(0), Wei(1), Wei(1)));
        assert_eq!(FeeBps::new(10_000).unwrap().of(Wei(u128::MAX)), Wei(u128::MAX));
        assert_eq!(FeeBps::new(10_001), Err(AllocationError::FeeBps { points: 10_001 }));
        assert!(serde_json::from_str::<FeeBps>("10001").is_err());
    }
}
