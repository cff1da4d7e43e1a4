//! From reports and the contract's state to what a node is owed. Pure.

use alloy::{primitives::B256, sol_types::SolCall};

use crate::{
    api::{
        contribution_report::ContributionReport,
        ids::{NodeAddress, Wei},
    },
    chain::{OutboxRecord, bindings::GridComputingRewards},
    reward::{PackedReport, RewardLeaf, RewardTree, TreeDomain, unpack_report},
};

/// A record of the largest report, unpacked: its calldata in hexadecimal, once more for each attempt.
const MAX_RECORD: usize = 64 << 20;

/// A node's money, all of it cumulative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entitlement {
    /// By reports that are live.
    pub earned: Wei,
    /// By reports that are on their way or in their window, on top.
    pub pending: Wei,
    /// Paid out.
    pub claimed: Wei,
}

impl Entitlement {
    pub fn claimable(&self) -> Wei {
        Wei(self.earned.0.saturating_sub(self.claimed.0))
    }
}

/// The tree of a report, if its leaves are the ones that its root was built over.
pub fn checked_tree(domain: TreeDomain, root: B256, leaves: Vec<RewardLeaf>) -> Result<RewardTree, String> {
    let tree = RewardTree::build(domain, leaves).map_err(|error| error.to_string())?;
    if tree.root() != root {
        return Err(format!("they hash to {}, not to the root {root}", tree.root()));
    }
    Ok(tree)
}

/// All leaves, from the calldata of a report's transaction as the report keeps it; none for one that did not send them all.
pub fn leaves_of_submission(report: &ContributionReport) -> Option<Vec<RewardLeaf>> {
    let packed = &report.status.as_ref()?.submit.as_ref()?.record.0;
    let json = zstd::bulk::decompress(packed, MAX_RECORD).ok()?;
    let record: OutboxRecord = serde_json::from_slice(&json).ok()?;
    let call = GridComputingRewards::submitEpochCall::abi_decode(&record.intent.call.data).ok()?;
    match unpack_report(&call.leaves) {
        Ok(PackedReport::Whole(leaves)) => Some(leaves),
        _ => None,
    }
}

/// The reports with that root, newest first. An epoch that changed nothing repeats the root of an earlier one, and may come
/// without leaves of its own.
pub fn reports_of_root(reports: &[ContributionReport], root: B256) -> Vec<&ContributionReport> {
    let root = root.to_string();
    let mut found: Vec<_> = reports.iter().filter(|report| report.spec.root == root).collect();
    found.sort_unstable_by_key(|report| std::cmp::Reverse(report.spec.epoch));
    found
}

/// The newest report.
pub fn last_report(reports: &[ContributionReport]) -> Option<&ContributionReport> {
    reports.iter().max_by_key(|report| report.spec.epoch)
}

/// What a tree says a node ever earned.
pub fn cumulative(tree: &RewardTree, node: NodeAddress) -> Wei {
    tree.leaves().find(|leaf| leaf.node == node).map_or(Wei(0), |leaf: RewardLeaf| leaf.cumulative)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::keccak256;

    use super::*;
    use crate::chain::{Intent, IntentKind, TxCall};

    fn domain() -> TreeDomain {
        TreeDomain { chain_id: 51, contract: NodeAddress([9; 20]) }
    }

    #[test]
    fn leaves_that_do_not_hash_to_the_root_are_not_believed() {
        let leaf = RewardLeaf { node: NodeAddress([1; 20]), cumulative: Wei(5) };
        let tree = RewardTree::build(domain(), [leaf]).unwrap();
        assert_eq!(checked_tree(domain(), tree.root(), vec![leaf]).unwrap(), tree);
        assert!(checked_tree(domain(), tree.root(), vec![RewardLeaf { cumulative: Wei(6), ..leaf }]).is_err());
        let elsewhere = TreeDomain { chain_id: 50, ..domain() };
        assert!(checked_tree(elsewhere, tree.root(), vec![leaf]).is_err());
    }

    #[test]
    fn leaves_are_found_in_the_transaction_when_their_config_map_is_gone() {
        let leaf = RewardLeaf { node: NodeAddress([1; 20]), cumulative: Wei(5) };
        let tree = RewardTree::build(domain(), [leaf]).unwrap();
        let call = GridComputingRewards::submitEpochCall {
            epoch: 0,
            root: tree.root(),
            cumulativeTotal: 5,
            dataHash: keccak256(tree.packed()),
            leaves: tree.packed().into(),
        };
        let intent = Intent {
            kind: IntentKind::SubmitEpoch,
            key: "epoch/main/0".into(),
            call: TxCall { to: None, value: Wei(0), data: call.abi_encode().into() },
        };
        let record = OutboxRecord::plan(intent, NodeAddress([2; 20]), 51);
        let record = zstd::bulk::compress(&serde_json::to_vec(&record).unwrap(), 3).unwrap();
        let mut report: ContributionReport = serde_json::from_value(serde_json::json!({
            "apiVersion": "xdcgrid.io/v1alpha1", "kind": "ContributionReport", "metadata": {"name": "main-0"},
            "spec": {
                "networkRef": {"name": "main"}, "epoch": 0, "root": tree.root().to_string(), "cumulativeWei": "5",
                "allocatedWei": "5", "allocated": "0.0000", "leaves": {"configMap": "gone", "dataHash": ""},
                "totals": {"nodes": 1, "requests": 1, "promptTokens": 1, "outputTokens": 1, "units": "1"},
                "reporter": NodeAddress([2; 20]), "auditSecret": ""
            },
            "status": {"submit": {"state": "Finalized", "record": k8s_openapi::ByteString(record)}}
        }))
        .unwrap();
        assert_eq!(leaves_of_submission(&report), Some(vec![leaf]));
        report.status = None;
        assert_eq!(leaves_of_submission(&report), None);
    }

    #[test]
    fn nobody_can_claim_less_than_nothing() {
        let entitlement = Entitlement { earned: Wei(3), pending: Wei(0), claimed: Wei(5) };
        assert_eq!(entitlement.claimable(), Wei(0));
    }

    #[test]
    fn a_node_without_a_leaf_earned_nothing() {
        let tree = RewardTree::build(domain(), []).unwrap();
        assert_eq!(cumulative(&tree, NodeAddress([1; 20])), Wei(0));
    }
}
