//! Pure: an epoch's totals to its report.

use std::collections::BTreeMap;

use kube::ResourceExt;

use super::leaves;
use crate::{
    api::{
        contribution_report::{ContributionReportSpec, LeavesRef, ReportTotals},
        grid_network::{GridNetwork, RewardSplit as SplitSpec},
        ids::{EpochNumber, NodeAddress, Wei},
        refs::NameRef,
    },
    chain::rewards::EpochReport,
    operator::chains::Session,
    protocol::internal::{EpochTotals, NodeTotals},
    reward::{
        Allocation, AllocationError, ComputeUnits, NodeContribution, RewardLeaf, RewardSplit, RewardTree, TreeDomain,
        TreeError, allocate,
    },
};

/// What a report is made of.
pub struct Inputs<'a> {
    pub network: &'a GridNetwork,
    pub epoch: EpochNumber,
    pub totals: &'a EpochTotals,
    /// Everything earned before.
    pub base: Vec<RewardLeaf>,
    pub budget: Wei,
    pub session: &'a Session,
}

/// A report, not yet written.
pub struct Planned {
    pub name: String,
    pub spec: ContributionReportSpec,
    pub tree: RewardTree,
}

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Allocation(#[from] AllocationError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error("the gateway's totals are for epoch {0}")]
    OtherEpoch(EpochNumber),
    #[error("the gateway's units of node {0} are no number: {1:?}")]
    Units(NodeAddress, String),
    #[error("the earnings of node {0} do not fit in 128 bits")]
    Overflow(NodeAddress),
}

pub fn build(inputs: Inputs<'_>) -> Result<Planned, PlanError> {
    let Inputs { network, epoch, totals, base, budget, session } = inputs;
    if totals.epoch != epoch {
        return Err(PlanError::OtherEpoch(totals.epoch));
    }
    let allocation = share(totals, budget, &network.spec.rewards.split)?;
    let tree = grown(base, &allocation, session.chain.tree_domain())?;
    let name = format!("{}-{epoch}", network.name_any());
    let spec = ContributionReportSpec {
        network_ref: NameRef { name: network.name_any() },
        epoch: i64::try_from(epoch.0).unwrap_or(i64::MAX),
        root: tree.root().to_string(),
        cumulative_wei: tree.total().to_string(),
        allocated_wei: allocation.allocated.to_string(),
        allocated: allocation.allocated.to_xdc(),
        leaves: LeavesRef { config_map: leaves::config_map_name(&name), data_hash: leaves::data_hash(&tree).to_string() },
        totals: sums(totals, &allocation)?,
        reporter: session.key.address().to_string(),
        audit_secret: totals.audit_secret.chars().take(64).collect(),
        dry_run: network.spec.rewards.dry_run,
    };
    Ok(Planned { name, spec, tree })
}

fn share(totals: &EpochTotals, budget: Wei, split: &SplitSpec) -> Result<Allocation, PlanError> {
    let eligible = totals.nodes.iter().filter(|node| node.eligible).map(contribution).collect::<Result<Vec<_>, _>>()?;
    let points = |percent: i32| u16::try_from(percent.saturating_mul(100)).unwrap_or(0);
    let split = RewardSplit::new(points(split.work), points(split.capacity), points(split.storage))?;
    Ok(allocate(budget, split, &eligible)?)
}

fn contribution(node: &NodeTotals) -> Result<NodeContribution, PlanError> {
    Ok(NodeContribution {
        node: node.address,
        work: units(node)?,
        capacity: node.capacity_units.into(),
        storage: node.proven_bytes.into(),
    })
}

fn units(node: &NodeTotals) -> Result<ComputeUnits, PlanError> {
    node.units.parse().map(ComputeUnits).map_err(|_| PlanError::Units(node.address, node.units.chars().take(40).collect()))
}

/// The tree of cumulative earnings: what was earned before and what this epoch adds.
fn grown(base: Vec<RewardLeaf>, allocation: &Allocation, domain: TreeDomain) -> Result<RewardTree, PlanError> {
    let mut cumulative: BTreeMap<NodeAddress, u128> = base.into_iter().map(|leaf| (leaf.node, leaf.cumulative.0)).collect();
    for (node, amounts) in &allocation.amounts {
        let earned = cumulative.entry(*node).or_default();
        *earned = earned.checked_add(amounts.total().0).ok_or(PlanError::Overflow(*node))?;
    }
    let leaves = cumulative.into_iter().map(|(node, wei)| RewardLeaf { node, cumulative: Wei(wei) });
    Ok(RewardTree::build(domain, leaves)?)
}

fn sums(totals: &EpochTotals, allocation: &Allocation) -> Result<ReportTotals, PlanError> {
    let signed = |sum: u64| i64::try_from(sum).unwrap_or(i64::MAX);
    let sum = |count: fn(&NodeTotals) -> u64| signed(totals.nodes.iter().fold(0, |sum: u64, node| sum.saturating_add(count(node))));
    let units: ComputeUnits = totals.nodes.iter().map(units).collect::<Result<Vec<_>, _>>()?.into_iter().sum();
    Ok(ReportTotals {
        nodes: i64::try_from(allocation.amounts.len()).unwrap_or(i64::MAX),
        requests: sum(|node| node.requests),
        prompt_tokens: sum(|node| node.prompt_tokens),
        output_tokens: sum(|node| node.output_tokens),
        units: units.to_string(),
    })
}

/// A written report as the chain client knows it, without leaves: enough to ask where it stands.
pub fn chain_report(spec: &ContributionReportSpec) -> Option<EpochReport> {
    Some(EpochReport {
        epoch: EpochNumber(u64::try_from(spec.epoch).ok()?),
        root: spec.root.parse().ok()?,
        cumulative_total: spec.cumulative_wei.parse().ok()?,
        leaves: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8, units: &str, eligible: bool) -> NodeTotals {
        NodeTotals {
            address: NodeAddress([n; 20]),
            node_name: format!("n{n}"),
            requests: 2,
            prompt_tokens: 10,
            output_tokens: 5,
            units: units.into(),
            capacity_units: 0,
            proven_bytes: 0,
            eligible,
            reason: String::new(),
        }
    }

    fn totals(nodes: Vec<NodeTotals>) -> EpochTotals {
        EpochTotals { epoch: EpochNumber(3), nodes, audit_secret: "00".into() }
    }

    fn domain() -> TreeDomain {
        TreeDomain { chain_id: 51, contract: NodeAddress([9; 20]) }
    }

    #[test]
    fn earnings_grow_and_who_is_not_eligible_gets_nothing() {
        let totals = totals(vec![node(1, "30", true), node(2, "10", true), node(3, "99", false)]);
        let split = SplitSpec { work: 100, capacity: 0, storage: 0 };
        let allocation = share(&totals, Wei(400), &split).unwrap();
        let base = vec![RewardLeaf { node: NodeAddress([1; 20]), cumulative: Wei(7) }];
        let tree = grown(base, &allocation, domain()).unwrap();
        let leaves: Vec<_> = tree.leaves().map(|leaf| (leaf.node.0[0], leaf.cumulative.0)).collect();
        assert_eq!(leaves, [(1, 307), (2, 100)]);
        let sums = sums(&totals, &allocation).unwrap();
        assert_eq!((sums.nodes, sums.requests, sums.units.as_str()), (2, 6, "139"));
    }

    #[test]
    fn an_epoch_without_work_repeats_its_root() {
        let base = vec![RewardLeaf { node: NodeAddress([1; 20]), cumulative: Wei(7) }];
        let before = RewardTree::build(domain(), base.clone()).unwrap();
        let allocation = share(&totals(Vec::new()), Wei(400), &SplitSpec::default()).unwrap();
        assert_eq!(grown(base, &allocation, domain()).unwrap().root(), before.root());
    }

    #[test]
    fn units_that_are_no_number_stop_the_report() {
        let totals = totals(vec![node(1, "1e9", true)]);
        assert!(matches!(share(&totals, Wei(1), &SplitSpec::default()), Err(PlanError::Units(..))));
    }
}
