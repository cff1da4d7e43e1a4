//! Pure: what one epoch amounts to, from the gateway's totals to the report and its leaves. The same input gives the same bytes.

use std::collections::BTreeSet;

use alloy::primitives::{B256, keccak256};

use crate::{
    api::{
        contribution_report::{ContributionReportSpec, LeavesRef, ReportRecipe, ReportTotals},
        grid_network::RewardSplit as SplitSpec,
        ids::{EpochNumber, NodeAddress, Wei},
        refs::NameRef,
    },
    protocol::internal::{EpochTotals, NodeTotals},
    reward::{
        AllocationError, ComputeUnits, EpochInputs, FeeBps, MAX_STORED, NodeContribution, PackedError, PaidJob,
        PaidWork, RewardLeaf, RewardSplit, SettleError, SettledEpoch, TreeDomain, compress_leaves, settle,
    },
};

/// Everything that a report is made of.
#[derive(Debug, Clone)]
pub struct Inputs<'a> {
    pub network: &'a str,
    pub epoch: EpochNumber,
    pub domain: TreeDomain,
    pub reporter: NodeAddress,
    pub totals: &'a EpochTotals,
    /// Digest of the epoch's published statement.
    pub statement: B256,
    /// Nodes that the contract holds a stake of.
    pub registered: &'a BTreeSet<NodeAddress>,
    /// Final block in which that was read.
    pub block: u64,
    /// Leaves of the report before.
    pub previous: &'a [RewardLeaf],
    /// Settled jobs that users paid for.
    pub paid: PaidWork<'a>,
    /// What this epoch may allocate beside the fees.
    pub budget: Wei,
    pub split: RewardSplit,
    pub dry_run: bool,
}

/// A report that is ready to be written down.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    pub name: String,
    pub spec: ContributionReportSpec,
    /// The packed leaves, compressed, for the ConfigMap that the spec names.
    pub leaves: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("the gateway closed epoch {found} when it was asked for epoch {wanted}")]
    OtherEpoch { wanted: EpochNumber, found: EpochNumber },
    #[error("the gateway says that node {node} has {units:?} units, which is no number")]
    Units { node: NodeAddress, units: String },
    #[error(transparent)]
    Settle(#[from] SettleError),
    #[error(transparent)]
    Packed(#[from] PackedError),
}

/// Percentages of a GridNetwork as basis points.
pub fn split(spec: &SplitSpec) -> Result<RewardSplit, AllocationError> {
    let points = |percent: i32| u16::try_from(percent).unwrap_or(0).saturating_mul(100);
    RewardSplit::new(points(spec.work), points(spec.capacity), points(spec.storage))
}

/// Allocates the budget and puts it on top of what was earned before.
pub fn plan(inputs: &Inputs<'_>) -> Result<Planned, PlanError> {
    let Inputs { network, epoch, totals, .. } = *inputs;
    if totals.epoch != epoch {
        return Err(PlanError::OtherEpoch { wanted: epoch, found: totals.epoch });
    }
    let contributions = contributions(inputs)?;
    let settled = settle(EpochInputs {
        domain: inputs.domain,
        previous: inputs.previous,
        nodes: &contributions,
        paid: inputs.paid,
        budget: inputs.budget,
        split: inputs.split,
    })?;
    let tree = &settled.tree;
    if tree.leaves().len() > MAX_STORED {
        return Err(PackedError::TooMany { count: tree.leaves().len(), most: MAX_STORED }.into());
    }
    let packed = tree.packed();
    let data_hash = keccak256(&packed);
    let name = format!("{network}-{epoch}");
    let spec = ContributionReportSpec {
        network_ref: NameRef { name: network.to_owned() },
        epoch: i64::try_from(epoch.0).unwrap_or(i64::MAX),
        root: tree.root().to_string(),
        cumulative_wei: tree.total().to_string(),
        allocated_wei: settled.increase.to_string(),
        allocated: settled.increase.to_xdc(),
        leaves: LeavesRef { config_map: leaves_name(&name, data_hash), data_hash: data_hash.to_string() },
        totals: sums(&contributions, paid_nodes(&settled), totals),
        reporter: inputs.reporter.to_string(),
        statement: Some(inputs.statement.to_string()),
        audit_secret: totals.audit_secret.chars().filter(char::is_ascii_hexdigit).take(64).collect(),
        recipe: Some(recipe(inputs)),
        dry_run: inputs.dry_run,
    };
    Ok(Planned { name, spec, leaves: compress_leaves(&packed)? })
}

fn recipe(inputs: &Inputs<'_>) -> ReportRecipe {
    let [work, capacity, _] = <[u16; 3]>::from(inputs.split);
    ReportRecipe {
        block: i64::try_from(inputs.block).unwrap_or(i64::MAX),
        budget_wei: inputs.budget.to_string(),
        work_bps: work.into(),
        capacity_bps: capacity.into(),
    }
}

/// The paid jobs of an epoch, with what registered nodes did for them, by ascending escrow and as far as `most` pays for: a job
/// beyond that stays in the pool, rather than that no epoch can be reported any more. No single job costs so much, because the
/// operator takes none that could.
pub fn paid_jobs(
    totals: &EpochTotals,
    registered: &BTreeSet<NodeAddress>,
    most: Wei,
) -> Result<Vec<PaidJob>, PlanError> {
    let mut jobs = Vec::new();
    for job in &totals.jobs {
        let fee = FeeBps::new(job.fee_bps).map_err(SettleError::from)?;
        let served = job.served.iter().filter(|served| registered.contains(&served.address)).map(|served| {
            let units = served.units.parse().map(ComputeUnits);
            units.map(|units| (served.address, units)).map_err(|_| not_units(served.address, &served.units))
        });
        let served = served.collect::<Result<_, _>>()?;
        jobs.push(PaidJob { job: job.escrow.0, spent: job.spent, fee, served });
        if (PaidWork { jobs: &jobs }).net() > most {
            jobs.pop();
        }
    }
    Ok(jobs)
}

fn not_units(node: NodeAddress, units: &str) -> PlanError {
    PlanError::Units { node, units: units.chars().take(50).collect() }
}

/// Named by content, so that a ConfigMap once referred to is never overwritten by another plan of the same epoch.
fn leaves_name(report: &str, data_hash: B256) -> String {
    format!("{report}-{}", hex::encode(data_hash.get(..6).unwrap_or_default()))
}

fn contributions(inputs: &Inputs<'_>) -> Result<Vec<NodeContribution>, PlanError> {
    let paid = |node: &&NodeTotals| node.eligible && inputs.registered.contains(&node.address);
    inputs.totals.nodes.iter().filter(paid).map(contribution).collect()
}

fn contribution(node: &NodeTotals) -> Result<NodeContribution, PlanError> {
    let units = node.units.parse().map_err(|_| not_units(node.address, &node.units))?;
    Ok(NodeContribution {
        node: node.address,
        work: ComputeUnits(units),
        capacity: node.capacity_units.into(),
        storage: node.proven_bytes.into(),
    })
}

/// How many nodes the epoch pays anything.
fn paid_nodes(settled: &SettledEpoch) -> usize {
    settled.allocation.amounts.keys().chain(settled.fees.keys()).collect::<BTreeSet<_>>().len()
}

/// Sums over everybody who worked, paid or not; units over those who are paid.
fn sums(contributions: &[NodeContribution], paid: usize, totals: &EpochTotals) -> ReportTotals {
    let sum = |of: fn(&NodeTotals) -> u64| {
        let total = totals.nodes.iter().fold(0u64, |sum, node| sum.saturating_add(of(node)));
        i64::try_from(total).unwrap_or(i64::MAX)
    };
    ReportTotals {
        nodes: i64::try_from(paid).unwrap_or(i64::MAX),
        requests: sum(|node| node.requests),
        prompt_tokens: sum(|node| node.prompt_tokens),
        output_tokens: sum(|node| node.output_tokens),
        units: contributions.iter().map(|node| node.work).sum::<ComputeUnits>().to_string(),
    }
}

#[cfg(test)]
mod tests;
