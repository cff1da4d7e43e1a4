//! IO: what the contract is sent about an epoch, rebuilt from the leaves and held against what the report says.

use std::collections::BTreeMap;

use super::{
    decide::ChainView,
    form, leaves,
    report::Report,
    status::{self, Trouble},
};
use crate::{
    api::{
        conditions::Finding,
        ids::{NodeAddress, Wei},
        reasons::Reason,
    },
    chain::{ChainClient, ChainError, rewards::EpochReport},
    operator::{chains::Session, context::Context, error::Error},
    reward::{RewardLeaf, RewardTree},
};

/// The content of `report`. Nothing of it was signed yet; once it is, the bytes are in its record and never made again.
pub async fn content(
    report: &Report,
    reports: &[Report],
    session: &Session,
    chain: &ChainView,
    context: &Context,
) -> Result<Result<EpochReport, Trouble>, Error> {
    leaves::adopt(&report.object, context).await?;
    let Some(found) = leaves::read(report, reports, context).await? else {
        return Ok(Err(Trouble::of_person(leaves::missing(report))));
    };
    let tree = match checked(report, &session.chain, found) {
        Ok(tree) => tree,
        Err(finding) => return Ok(Err(Trouble::of_person(finding))),
    };
    let content = EpochReport::new(report.epoch, &tree, &chain.latest);
    if content.leaves.is_empty() {
        return Ok(Ok(content));
    }
    let after: Vec<RewardLeaf> = tree.leaves().collect();
    let before = before(report, reports, after.len(), chain, context).await?;
    let indexes = match indexes(before.as_deref(), &after, session, chain).await {
        Ok(indexes) => indexes,
        Err(error) => return Ok(Err(status::trouble(&error, &session.chain, session.key.address()))),
    };
    let inputs = form::Inputs { recipe: report.recipe, before: before.as_deref(), after: &after, indexes: &indexes };
    Ok(match form::pack(&inputs) {
        Ok(leaves) => Ok(EpochReport { leaves, ..content }),
        Err(error) => Err(Trouble::of_person(Finding::no(Reason::ReportImpossible, error.to_string()))),
    })
}

fn checked(report: &Report, chain: &ChainClient, found: Vec<RewardLeaf>) -> Result<RewardTree, Finding> {
    let tree = RewardTree::build(chain.tree_domain(), found)
        .map_err(|error| Finding::no(Reason::ReportImpossible, error.to_string()))?;
    if (tree.root(), tree.total()) == report.sum() {
        return Ok(tree);
    }
    let message = format!("the leaves of {} have root {}, the report says {}", report.name(), tree.root(), report.root);
    Err(Finding::no(Reason::LedgerMismatch, message))
}

/// The leaves that the contract's last report stands for, which raises are added to. None when they are not to be had, or when it is time
/// for all leaves.
async fn before(
    report: &Report,
    reports: &[Report],
    leaves: usize,
    chain: &ChainView,
    context: &Context,
) -> Result<Option<Vec<RewardLeaf>>, Error> {
    let earlier: Vec<&Report> =
        reports.iter().filter(|other| other.epoch < report.epoch && !other.is_dry_run()).collect();
    let last = chain.latest.last_report();
    if form::is_whole_due(&earlier, leaves) {
        return Ok(None);
    }
    if last.1 == Wei(0) {
        return Ok(Some(Vec::new()));
    }
    match earlier.iter().rfind(|other| other.sum() == last) {
        Some(last) => leaves::read(last, reports, context).await,
        None => Ok(None),
    }
}

/// Indexes of the nodes that earned something. A node keeps its index as long as it is registered.
async fn indexes(
    before: Option<&[RewardLeaf]>,
    after: &[RewardLeaf],
    session: &Session,
    chain: &ChainView,
) -> Result<BTreeMap<NodeAddress, u32>, ChainError> {
    let raised = before.map(|before| form::raised(before, after)).unwrap_or_default();
    let found = session.chain.nodes(&raised, chain.final_hash).await?;
    Ok(raised.into_iter().zip(found).filter_map(|(node, found)| Some((node, found?.index))).collect())
}
