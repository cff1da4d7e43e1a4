//! What the epoch loop remembers to spare calls: constants of contracts, and what every node has earned. Lost without harm.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    api::ids::{EpochNumber, NodeAddress, Wei},
    chain::ContractParameters,
    reward::RewardLeaf,
};

/// Cumulative earnings by node.
pub type Earnings = Arc<BTreeMap<NodeAddress, Wei>>;

#[derive(Default)]
pub struct EarningsCache {
    /// By contract: the epoch in which they were read, and the parameters. A change applies from the next epoch on.
    parameters: Mutex<HashMap<(u64, NodeAddress), (EpochNumber, ContractParameters)>>,
    /// By network: the report they are from, and the earnings.
    earnings: Mutex<HashMap<String, (String, Earnings)>>,
}

impl EarningsCache {
    /// What `node` ever earned by reports of `network` that nodes can claim. `None` until the epoch loop has looked once, zero
    /// for a node without earnings.
    pub fn earned(&self, network: &str, node: NodeAddress) -> Option<Wei> {
        let earnings = lock(&self.earnings);
        let (_, earnings) = earnings.get(network)?;
        Some(earned(earnings, node))
    }

    /// Whether the earnings of `network` are those of `report`; an empty name stands for "no report is active yet".
    pub(super) fn has_earnings_of(&self, network: &str, report: &str) -> bool {
        lock(&self.earnings).get(network).is_some_and(|(known, _)| known == report)
    }

    pub(super) fn set_earnings(&self, network: &str, report: &str, leaves: &[RewardLeaf]) {
        lock(&self.earnings).insert(network.to_owned(), (report.to_owned(), Arc::new(by_node(leaves))));
    }

    pub(super) fn forget(&self, network: &str) {
        lock(&self.earnings).remove(network);
    }

    /// The parameters as long as the epoch, by the chain's clock, is the one in which they were read.
    pub(super) fn parameters(&self, chain_id: u64, contract: NodeAddress, time: u64) -> Option<ContractParameters> {
        let (read_in, known) = lock(&self.parameters).get(&(chain_id, contract)).copied()?;
        (known.epoch_at(time) == Some(read_in)).then_some(known)
    }

    pub(super) fn set_parameters(
        &self,
        chain_id: u64,
        contract: NodeAddress,
        time: u64,
        parameters: ContractParameters,
    ) {
        if let Some(epoch) = parameters.epoch_at(time) {
            lock(&self.parameters).insert((chain_id, contract), (epoch, parameters));
        }
    }
}

/// Leaves as a map.
pub fn by_node(leaves: &[RewardLeaf]) -> BTreeMap<NodeAddress, Wei> {
    leaves.iter().map(|leaf| (leaf.node, leaf.cumulative)).collect()
}

/// What a node earned by a set of leaves; zero for one that has none.
pub fn earned(earnings: &BTreeMap<NodeAddress, Wei>, node: NodeAddress) -> Wei {
    earnings.get(&node).copied().unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every entry is whole after every operation, so a panic elsewhere spoils nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earnings_are_unknown_until_they_were_read_and_zero_for_a_node_without_any() {
        let cache = EarningsCache::default();
        let (node, other) = (NodeAddress([1; 20]), NodeAddress([2; 20]));
        assert_eq!(cache.earned("demo", node), None);
        cache.set_earnings("demo", "demo-3", &[RewardLeaf { node, cumulative: Wei(5) }]);
        assert_eq!((cache.earned("demo", node), cache.earned("demo", other)), (Some(Wei(5)), Some(Wei(0))));
        assert!(cache.has_earnings_of("demo", "demo-3") && !cache.has_earnings_of("demo", "demo-4"));
    }
}
