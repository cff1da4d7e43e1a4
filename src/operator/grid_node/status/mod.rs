//! The status of a node: what it shows, its conditions, and which of their reasons wins. Pure but for `update`, which sends it.

mod decisive;
mod findings;
mod shown;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;

use super::{
    MANAGER,
    apply::Applied,
    availability::Openness,
    dereference::{Refs, Worker},
    drain::Written,
    emptying,
    payout::PayoutChange,
    registration::Moved,
    slashing::SlashSeen,
    update::Step,
    validate::ValidatedNode,
};
use crate::{
    api::{
        conditions::{self, Condition, Finding, Truth},
        grid_node::{GridNode, GridNodeStatus, condition},
        reasons::Reason,
    },
    operator::{
        context::Context,
        error::Error,
        write::{self, Change},
    },
};

/// Everything that a reconcile has seen and done.
pub struct Observed<'a> {
    pub node: &'a GridNode,
    pub found: &'a ValidatedNode,
    pub refs: &'a Refs,
    pub applied: &'a Applied,
    pub moved: &'a Moved,
    pub payout: &'a PayoutChange,
    pub slash: &'a SlashSeen,
    pub openness: Openness,
    pub step: &'a Step,
}

impl Observed<'_> {
    /// The worker with its StatefulSet as it is after this reconcile.
    fn worker(&self) -> Worker {
        Worker { stateful_set: self.applied.stateful_set.clone(), ..self.refs.worker.clone() }
    }
}

/// A status in the making.
struct Draft {
    status: GridNodeStatus,
    generation: Option<i64>,
    now: Time,
}

impl Draft {
    fn of(node: &GridNode, now: Timestamp) -> Self {
        let mut status = node.status.clone().unwrap_or_default();
        status.observed_generation = node.metadata.generation;
        Draft { status, generation: node.metadata.generation, now: Time(now) }
    }

    fn set(&mut self, condition: &str, finding: Finding) {
        conditions::set(&mut self.status.conditions, condition, finding, self.generation, &self.now);
    }

    /// An abnormal condition is there only while it holds.
    fn abnormal(&mut self, condition: &str, finding: Option<Finding>) {
        match finding {
            Some(finding) => self.set(condition, finding),
            None => conditions::clear(&mut self.status.conditions, condition),
        }
    }
}

/// The status of a node that cannot go on.
pub fn refused(node: &GridNode, finding: Finding, now: Timestamp) -> GridNodeStatus {
    let mut draft = Draft::of(node, now);
    draft.abnormal(condition::STALLED, Some(Finding { truth: Truth::True, ..finding.clone() }));
    draft.abnormal(condition::RECONCILING, None);
    draft.set(condition::READY, finding);
    draft.status
}

pub fn of(seen: &Observed<'_>, now: Timestamp) -> GridNodeStatus {
    let mut draft = Draft::of(seen.node, now);
    draft.status.peer_id = Some(seen.found.identity.peer_id.to_string());
    draft.status.node_address = Some(seen.found.identity.address.to_string());
    draft.status.availability = findings::availability(seen.openness);
    if let Some(transaction) = &seen.moved.transaction {
        draft.status.registration = Some(transaction.clone());
    }
    if seen.moved.dropped {
        draft.status.registration = None;
    }
    if let Some(transaction) = &seen.payout.moved.transaction {
        draft.status.payout = Some(transaction.clone());
    }
    if seen.payout.moved.dropped {
        draft.status.payout = None;
    }
    if let Some(transaction) = &seen.slash.moved.transaction {
        draft.status.slash = Some(transaction.clone());
    }
    if seen.slash.moved.dropped {
        draft.status.slash = None;
    }
    if let Some(transaction) = &seen.slash.execution.transaction {
        draft.status.slash_execution = Some(transaction.clone());
    }
    if seen.slash.execution.dropped {
        draft.status.slash_execution = None;
    }
    shown::chain(&mut draft.status, seen.refs);
    if let Some(report) = seen.refs.report.as_ref().ok().and_then(Option::as_ref) {
        shown::reported(&mut draft.status, report);
    }
    draft.status.columns = Some(shown::columns(&draft.status));
    findings::findings(&mut draft, seen);
    draft.abnormal(condition::DRAINING, emptying::of(seen.node, &seen.refs.report));
    draft.status
}

/// The status of a node that is being emptied.
pub fn draining(node: &GridNode, message: &str, written: Option<&Written>, now: Timestamp) -> GridNodeStatus {
    let mut draft = Draft::of(node, now);
    match written {
        Some(Written::Exit(transaction)) => draft.status.exit = Some(transaction.clone()),
        Some(Written::Registration(transaction)) => draft.status.registration = Some(transaction.clone()),
        Some(Written::Slash(transaction)) => draft.status.slash = transaction.clone(),
        Some(Written::SlashExecution(transaction)) => draft.status.slash_execution = Some(transaction.clone()),
        Some(Written::Payout(transaction)) => draft.status.payout = Some(transaction.clone()),
        None => {}
    }
    let draining = || Finding::yes(Reason::DrainInProgress, message);
    draft.set(condition::DRAINING, draining());
    draft.set(condition::RECONCILING, draining());
    draft.abnormal(condition::STALLED, None);
    draft.abnormal(condition::UPDATING, None);
    draft.set(condition::READY, Finding::no(Reason::DrainInProgress, message));
    draft.status
}

pub async fn update(node: &GridNode, status: &GridNodeStatus, context: &Context) -> Result<bool, Error> {
    let api: Api<GridNode> = Api::all(context.client.clone());
    let old = node.status.as_ref();
    let old_conditions = old.map(|status| newsworthy(&status.conditions)).unwrap_or_default();
    let change = Change {
        old,
        new: status,
        old_conditions: &old_conditions,
        new_conditions: &newsworthy(&status.conditions),
        // Updating is no bad news: somebody changed the node or the operator.
        abnormal: &[
            condition::DRAINING,
            condition::QUARANTINED,
            condition::SLASHED,
            condition::PAYOUT_DIFFERS,
            condition::STALLED,
        ],
        expected: &[],
    };
    write::status(&api, context, MANAGER, node, change).await
}

/// Reconciling repeats what another condition says; one Event is enough.
fn newsworthy(conditions: &[Condition]) -> Vec<Condition> {
    conditions.iter().filter(|found| found.type_ != condition::RECONCILING).cloned().collect()
}
