//! Pure: one report against what it should be, leaf by leaf.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{B256, keccak256};
use serde::Serialize;

use super::{
    difference::{Difference, Differences, What},
    replay::Before,
    statement::Statement,
};
use crate::{
    api::ids::{EpochNumber, NodeAddress, Wei},
    chain::reports::{Registrations, Submission},
    protocol::internal::PaidJobTotals,
    reward::{
        ComputeUnits, EpochInputs, FeeBps, MAX_LEAVES, NodeContribution, PackedChanges, PackedReport, PaidJob,
        PaidWork, Recipe, RewardLeaf, RewardSplit, RewardTree, SettledEpoch, TreeDomain, apply_changes, budgets_of,
        changes_between, pack_changes, pack_leaves, settle, unpack_report,
    },
};

/// What the report itself may not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    pub budget: Option<Wei>,
    pub split: RewardSplit,
    /// Digest that the statement must have.
    pub statement: Option<B256>,
}

/// One report and everything it is held against.
pub struct Case<'a> {
    pub domain: TreeDomain,
    pub submission: &'a Submission,
    /// The leaves in its calldata.
    pub packed: &'a [u8],
    pub before: &'a Before,
    pub registrations: &'a Registrations,
    pub statement: Option<&'a Statement>,
    /// What a vote says that the leaves were made from; a report that carries changes says it itself.
    pub recipe: Option<Recipe>,
    pub rules: Rules,
}

/// How a report carries its leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Form {
    Unchanged,
    Whole,
    Changes,
    Unknown,
}

/// What came of one epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    pub epoch: EpochNumber,
    pub transaction: B256,
    pub block: u64,
    /// Dropped in its window: it pays nothing.
    pub dropped: bool,
    pub form: Form,
    pub root: B256,
    pub total_wei: Wei,
    /// What the epoch adds.
    pub increase_wei: Wei,
    pub leaves: u64,
    /// Whether the leaves were worked out from a statement. False: only the chain was checked.
    pub recomputed: bool,
    /// What the epoch was to allocate, as it says or as its increase implies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_wei: Option<Wei>,
    pub receipts: u64,
    /// Receipts by who countersigned them.
    pub gateways: BTreeMap<NodeAddress, u64>,
    pub differences: Vec<Difference>,
    /// Differences beyond those listed.
    pub differences_omitted: u64,
    /// What could not be decided, or had to be assumed.
    pub notes: Vec<String>,
}

impl Verdict {
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty()
    }
}

/// The verdict, and the leaves that the report says there are; none when they cannot be read.
pub fn judge(case: &Case<'_>) -> (Verdict, Option<Vec<RewardLeaf>>) {
    let mut differences = Differences::default();
    let mut verdict = opened(case);
    differences.compare(What::DataHash, "", case.submission.data_hash, keccak256(case.packed));
    check_before(case, &mut differences);
    let read = found_leaves(case);
    let (form, recipe, found) = match read {
        Ok(read) => read,
        Err(error) => {
            differences.add(What::Calldata, "", "packed leaves", error);
            return (closed(verdict, differences), None);
        }
    };
    let recipe = recipe.or(case.recipe);
    (verdict.form, verdict.leaves) = (form, found.len() as u64);
    check_found(case, &found, &mut differences);
    if let Some(statement) = case.statement {
        check_digest(case, recipe, statement, &mut differences);
        differences.extend(&statement.differences);
        let (nodes, notes) = contributions(case, recipe, statement, &found);
        verdict.notes.extend(notes);
        match expected(case, recipe, &nodes, &paid_jobs(statement, &nodes)) {
            Ok((settled, budget)) => {
                (verdict.recomputed, verdict.budget_wei) = (true, Some(budget));
                compare_leaves(settled.tree.leaves(), &found, &mut differences);
                differences.compare(What::Root, "", settled.tree.root(), case.submission.root);
                differences.compare(What::Total, "", settled.tree.total(), case.submission.total);
            }
            Err(error) => differences.add(What::Statement, "", "a sum that can be done", error),
        }
    } else {
        verdict
            .notes
            .push("no statement was given: leaves, root and sums agree or not, but nobody did the sum again".into());
    }
    (closed(verdict, differences), Some(found))
}

/// The packed leaves that a vote stands for, worked out anew: in that form whose hash the vote names, else in the usual one, so that
/// [`judge`] says what differs.
pub fn packed_anew(case: &Case<'_>) -> Result<Vec<u8>, String> {
    let (Some(recipe), Some(statement)) = (case.recipe, case.statement) else {
        return Err("the vote does not say what its leaves were made from".to_owned());
    };
    let (nodes, _) = contributions(case, Some(recipe), statement, &[]);
    let (settled, _) = expected(case, Some(recipe), &nodes, &paid_jobs(statement, &nodes))?;
    let (before, after) = (&case.before.leaves, settled.tree.leaves().collect::<Vec<_>>());
    // A node that left and came back between plan and report has another index.
    let changes = [recipe.block, case.submission.block].map(|block| {
        let changes = changes_between(before, &after, |node| case.registrations.index_of(node, block))?;
        pack_changes(&PackedChanges { recipe, changes }).ok()
    });
    let unchanged = (settled.tree.root(), settled.tree.total()) == (case.before.root, case.before.total);
    let unchanged = unchanged.then(Vec::new);
    let whole = (after.len() <= MAX_LEAVES).then(|| pack_leaves(&after));
    let forms: Vec<Vec<u8>> = [unchanged].into_iter().chain(changes).chain([whole]).flatten().collect();
    let named = forms.iter().find(|packed| keccak256(packed) == case.submission.data_hash).or(forms.first());
    named.cloned().ok_or_else(|| "these leaves fit in no report".to_owned())
}

fn opened(case: &Case<'_>) -> Verdict {
    let Submission { epoch, transaction, block, dropped, root, total, .. } = *case.submission;
    Verdict {
        epoch,
        transaction,
        block,
        dropped,
        form: Form::Unknown,
        root,
        total_wei: total,
        increase_wei: Wei(total.0.saturating_sub(case.before.total.0)),
        leaves: 0,
        recomputed: false,
        budget_wei: None,
        receipts: case.statement.map_or(0, |statement| statement.receipts),
        gateways: case.statement.map(|statement| statement.gateways.clone()).unwrap_or_default(),
        differences: Vec::new(),
        differences_omitted: 0,
        notes: Vec::new(),
    }
}

fn closed(verdict: Verdict, differences: Differences) -> Verdict {
    Verdict { differences: differences.listed, differences_omitted: differences.omitted, ..verdict }
}

type Found = (Form, Option<Recipe>, Vec<RewardLeaf>);

fn found_leaves(case: &Case<'_>) -> Result<Found, String> {
    let before = &case.before.leaves;
    Ok(match unpack_report(case.packed).map_err(|error| error.to_string())? {
        PackedReport::Unchanged => (Form::Unchanged, None, before.clone()),
        PackedReport::Whole(leaves) => (Form::Whole, None, leaves),
        PackedReport::Changes(packed) => {
            let leaves = apply_changes(before, &packed.changes, |index| case.registrations.node_of(index));
            (Form::Changes, Some(packed.recipe), leaves.map_err(|error| error.to_string())?)
        }
    })
}

fn check_before(case: &Case<'_>, differences: &mut Differences) {
    match RewardTree::build(case.domain, case.before.leaves.iter().copied()) {
        Ok(tree) => differences.compare(What::LeavesBefore, "", tree.root(), case.before.root),
        Err(error) => differences.add(What::LeavesBefore, "", case.before.root, error),
    }
}

/// What the leaves say of themselves.
fn check_found(case: &Case<'_>, found: &[RewardLeaf], differences: &mut Differences) {
    match RewardTree::build(case.domain, found.iter().copied()) {
        Ok(tree) => {
            differences.compare(What::CalldataRoot, "", tree.root(), case.submission.root);
            differences.compare(What::CalldataTotal, "", tree.total(), case.submission.total);
        }
        Err(error) => differences.add(What::CalldataRoot, "", case.submission.root, error),
    }
    let now = by_node(found.iter().copied());
    for leaf in &case.before.leaves {
        let amount = now.get(&leaf.node).copied().unwrap_or_default();
        if amount < leaf.cumulative {
            differences.add(What::LeafFell, leaf.node, format_args!("at least {}", leaf.cumulative), amount);
        }
    }
}

fn check_digest(case: &Case<'_>, recipe: Option<Recipe>, statement: &Statement, differences: &mut Differences) {
    let named = recipe.map(|recipe| recipe.statement).into_iter().chain(case.rules.statement);
    for digest in named {
        differences.compare(What::Statement, "", digest, statement.digest);
    }
}

/// Who may earn, with what its receipts prove. Where the report does not say when registrations were read, a node that
/// came or went since the report before is taken as this report took it.
fn contributions(
    case: &Case<'_>,
    recipe: Option<Recipe>,
    statement: &Statement,
    found: &[RewardLeaf],
) -> (Vec<NodeContribution>, Vec<String>) {
    let (before, now) = (by_node(case.before.leaves.iter().copied()), by_node(found.iter().copied()));
    let (from, until) = (case.before.block, case.submission.block);
    let (mut nodes, mut notes) = (Vec::new(), Vec::new());
    for node in statement.totals.nodes.iter().filter(|node| node.eligible) {
        let address = node.address;
        let registered = match recipe {
            Some(recipe) => case.registrations.index_of(address, recipe.block).is_some(),
            None if case.registrations.changed(address, from, until) => {
                let taken = now.get(&address) > before.get(&address);
                let word = if taken { "registered" } else { "not registered" };
                notes.push(format!("{address} registered or left between two reports; this one took it as {word}"));
                taken
            }
            None => case.registrations.index_of(address, until).is_some(),
        };
        if registered {
            nodes.push(NodeContribution {
                node: address,
                work: statement.served.get(&address).map(|served| served.units).unwrap_or_default(),
                capacity: node.capacity_units.into(),
                storage: node.proven_bytes.into(),
            });
        }
    }
    (nodes, notes)
}

/// The paid jobs of a statement, with what its receipts prove of those who may earn.
fn paid_jobs(statement: &Statement, nodes: &[NodeContribution]) -> Vec<PaidJob> {
    let may_earn: BTreeSet<NodeAddress> = nodes.iter().map(|node| node.node).collect();
    let job = |job: &PaidJobTotals| {
        let served = statement.paid.get(&job.escrow).into_iter().flatten();
        PaidJob {
            job: job.escrow.0,
            spent: job.spent,
            // More than the whole is no fee that a contract could have taken.
            fee: FeeBps::new(job.fee_bps).unwrap_or_default(),
            served: served.filter(|(node, _)| may_earn.contains(node)).map(|(node, units)| (*node, *units)).collect(),
        }
    };
    statement.totals.jobs.iter().map(job).collect()
}

/// Budgets that could have allocated `increase` beside the fees. Where all work was paid for, its class may have been used up or
/// bounded.
fn budgets(increase: Wei, split: RewardSplit, nodes: &[NodeContribution], paid: PaidWork<'_>) -> Vec<Wei> {
    let subsidy = Wei(increase.0.saturating_sub(paid.net().0));
    let mut found = budgets_of(subsidy, split, nodes);
    if paid.jobs.is_empty() || nodes.iter().any(|node| node.work.0 > 0) {
        return found;
    }
    let worker = NodeContribution { node: NodeAddress([0; 20]), work: ComputeUnits(1), capacity: 0, storage: 0 };
    found.extend(budgets_of(subsidy, split, &[nodes, &[worker]].concat()));
    let bounds = paid.jobs.iter().fold(0u128, |sum, job| sum.saturating_add(job.fee.of(job.spent).0));
    found.extend(budgets_of(Wei(subsidy.0.saturating_sub(bounds)), split, nodes));
    found
}

/// What the epoch should amount to, and by which budget. Where nobody says the budget, it is one that allocates what was allocated.
fn expected(
    case: &Case<'_>,
    recipe: Option<Recipe>,
    nodes: &[NodeContribution],
    jobs: &[PaidJob],
) -> Result<(SettledEpoch, Wei), String> {
    let paid = PaidWork { jobs };
    let split = recipe.map_or(case.rules.split, |recipe| recipe.split);
    let increase = Wei(case.submission.total.0.saturating_sub(case.before.total.0));
    let mut budgets = match recipe.map(|recipe| recipe.budget).or(case.rules.budget) {
        Some(budget) => vec![budget],
        None => budgets(increase, split, nodes, paid),
    };
    if budgets.is_empty() {
        // Nothing was allocated, or nothing that these nodes could have been allocated.
        budgets.push(Wei(0));
    }
    let mut first = None;
    for budget in budgets {
        let settled =
            settle(EpochInputs { domain: case.domain, previous: &case.before.leaves, nodes, paid, budget, split })
                .map_err(|error| error.to_string())?;
        if settled.tree.root() == case.submission.root {
            return Ok((settled, budget));
        }
        first.get_or_insert((settled, budget));
    }
    first.ok_or_else(|| "there is nothing to allocate".to_owned())
}

fn compare_leaves(expected: impl Iterator<Item = RewardLeaf>, found: &[RewardLeaf], differences: &mut Differences) {
    let (expected, found) = (by_node(expected), by_node(found.iter().copied()));
    let amount = |leaves: &BTreeMap<NodeAddress, Wei>, node| leaves.get(node).copied().unwrap_or_default();
    let others = found.keys().filter(|node| !expected.contains_key(*node));
    for node in expected.keys().chain(others) {
        differences.compare(What::Leaf, node, amount(&expected, node), amount(&found, node));
    }
}

fn by_node(leaves: impl Iterator<Item = RewardLeaf>) -> BTreeMap<NodeAddress, Wei> {
    leaves.map(|leaf| (leaf.node, leaf.cumulative)).collect()
}

#[cfg(test)]
mod tests;
