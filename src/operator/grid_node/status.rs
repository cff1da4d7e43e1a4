//! The status of a node. Pure up to the last function. Pod, grid, evidence and chain are different conditions and never mixed.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;

use super::{
    MANAGER,
    apply::Applied,
    dereference::Refs,
    emptying,
    registration::{self, Moved},
    validate::ValidatedNode,
    worker,
};
use crate::{
    api::{
        conditions::{self, Finding, Truth},
        grid_node::{
            CapabilityStatus, ContributionStatus, EvidenceStatus, GridNode, GridNodeStatus, HardwareStatus,
            NodeColumns, NodeModelStatus, StakeStatus, condition,
        },
        ids::{EpochNumber, Wei},
        reasons::Reason,
    },
    operator::{
        context::Context,
        error::Error,
        units::{from_milli, human_bytes},
        write::{self, Change},
    },
    protocol::internal::{NodeMode, NodeReport, NodeRole},
};

/// Epochs that may wait for their report without anything being wrong: the one that is closing and the one before.
const REPORTS_MAY_LAG: u64 = 2;

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
    draft.set(condition::READY, finding);
    draft.status
}

pub fn of(
    node: &GridNode,
    found: &ValidatedNode,
    refs: &Refs,
    applied: &Applied,
    moved: &Moved,
    now: Timestamp,
) -> GridNodeStatus {
    let mut draft = Draft::of(node, now);
    draft.status.peer_id = Some(found.identity.peer_id.to_string());
    draft.status.node_address = Some(found.identity.address.to_string());
    if let Some(transaction) = &moved.transaction {
        draft.status.registration = Some(transaction.clone());
    }
    if moved.dropped {
        draft.status.registration = None;
    }
    chain(&mut draft.status, refs);
    let report = refs.report.as_ref().ok().and_then(Option::as_ref);
    if let Some(report) = report {
        reported(&mut draft.status, report);
    }
    draft.status.columns = Some(columns(&draft.status));
    findings(&mut draft, found, refs, applied, moved);
    draft.abnormal(condition::DRAINING, emptying::of(node, &refs.report));
    draft.status
}

fn findings(draft: &mut Draft, found: &ValidatedNode, refs: &Refs, applied: &Applied, moved: &Moved) {
    let quarantined = quarantined(refs);
    let mut parts = Vec::new();
    if !found.approved {
        parts.push(("Approved", Finding::no(Reason::NotApproved, "spec.approved is not true: the node takes no part")));
    }
    if let Some(finding) = &quarantined {
        parts.push(("Quarantined", Finding { truth: Truth::False, ..finding.clone() }));
    }
    if found.mode == NodeMode::Managed {
        let pod =
            super::dereference::Worker { stateful_set: applied.stateful_set.clone(), pod: refs.worker.pod.clone() };
        parts.push((condition::WORKER_AVAILABLE, worker::available(&pod)));
    }
    parts.push((condition::PEER_CONNECTED, connected(found, refs, applied)));
    parts.push((condition::CAPABILITY_VERIFIED, capability(refs)));
    if found.roles.contains(&NodeRole::Storage) {
        parts.push((condition::STORAGE_VERIFIED, storage(found, refs)));
    }
    let registered = registration::registered(found, refs, draft.status.registration.as_ref(), moved);
    let unpaid_by_choice = found.mode == NodeMode::Managed && found.rewards.is_none();
    if !unpaid_by_choice {
        parts.push((condition::REGISTERED, registered.clone()));
    }
    let ready = conditions::summarize(parts.iter().map(|(type_, finding)| (*type_, finding)), ready(found));
    for (type_, finding) in parts {
        // The first two explain Ready and are shown elsewhere: as a spec field and as an abnormal condition.
        if type_ != "Approved" && type_ != "Quarantined" {
            draft.set(type_, finding);
        }
    }
    draft.set(condition::REGISTERED, registered.clone());
    draft.set(condition::READY, ready);
    draft.abnormal(condition::QUARANTINED, quarantined);
    let reverted = registered.reason == Reason::TransactionReverted.as_str();
    draft.abnormal(condition::STALLED, reverted.then(|| Finding { truth: Truth::True, ..registered.clone() }));
    reporting(draft, &registered, refs);
}

fn ready(found: &ValidatedNode) -> Finding {
    match found.missing_models.as_slice() {
        _ if found.cordoned => Finding::yes(Reason::Cordoned, "spec.unschedulable keeps new work away"),
        [] => Finding::yes(Reason::Ready, "the node takes part"),
        missing => {
            Finding::yes(Reason::Ready, format!("the node takes part; there is no GridModel {}", missing.join(", ")))
        }
    }
}

/// What the gateway would know, when it cannot be asked or was never told.
fn unknown_to_gateway(refs: &Refs) -> Finding {
    match &refs.report {
        Err(error) => error.finding(),
        Ok(_) => Finding::no(Reason::NotConnected, "the node has not been seen by the gateway yet"),
    }
}

fn connected(found: &ValidatedNode, refs: &Refs, applied: &Applied) -> Finding {
    if !found.approved {
        return Finding::no(Reason::NotApproved, "spec.approved is not true: the node takes no part");
    }
    if let Err(error) = &applied.member {
        return error.finding();
    }
    match &refs.report {
        Ok(Some(report)) if report.connected => Finding::yes(Reason::Connected, "connected and authenticated"),
        Ok(Some(report)) => {
            let message =
                if report.message.is_empty() { "the node is not connected to the gateway" } else { &report.message };
            Finding::with_code(Truth::False, &report.reason, Reason::NotConnected, message)
        }
        _ => unknown_to_gateway(refs),
    }
}

fn capability(refs: &Refs) -> Finding {
    match &refs.report {
        Ok(Some(report)) if report.capability.verified => {
            Finding::yes(Reason::ChallengePassed, "its compute was proven by a challenge")
        }
        Ok(Some(report)) => Finding::with_code(
            Truth::False,
            &report.capability.reason,
            Reason::NotChallenged,
            "its compute is not proven yet",
        ),
        _ => unknown_to_gateway(refs),
    }
}

fn storage(found: &ValidatedNode, refs: &Refs) -> Finding {
    match &refs.report {
        Ok(Some(_)) if found.models.is_empty() => {
            Finding::yes(Reason::NothingToStore, "the node has no model to store")
        }
        Ok(Some(report)) if report.capability.storage_verified => {
            Finding::yes(Reason::ChallengePassed, format!("{} proven", human_bytes(report.capability.proven_bytes)))
        }
        Ok(Some(_)) => Finding::no(Reason::NotChallenged, "its storage is not proven yet"),
        _ => unknown_to_gateway(refs),
    }
}

fn quarantined(refs: &Refs) -> Option<Finding> {
    let report = refs.report.as_ref().ok()?.as_ref()?;
    report.evidence.quarantined.then(|| Finding::yes(Reason::EvidenceAgainstNode, report.evidence.message.clone()))
}

/// Only for nodes that are paid.
fn reporting(draft: &mut Draft, registered: &Finding, refs: &Refs) {
    let status = refs.network.as_ref().and_then(|network| network.status.as_ref());
    let Some(current) = status.and_then(|status| {
        let now = u64::try_from(draft.now.0.as_second()).ok()?;
        EpochNumber::at(now, u64::try_from(status.genesis?).ok()?, u64::try_from(status.epoch_seconds?).ok()?)
    }) else {
        return;
    };
    if !registered.is_true() {
        return conditions::clear(&mut draft.status.conditions, condition::REPORTING_CURRENT);
    }
    let reported = status.and_then(|status| status.last_reported_epoch).and_then(|epoch| u64::try_from(epoch).ok());
    let next = reported.map_or(0, |epoch| epoch + 1);
    let behind = current.0.saturating_sub(next);
    // No numbers: they change with every epoch, and the network's status has them.
    draft.set(
        condition::REPORTING_CURRENT,
        if behind <= REPORTS_MAY_LAG {
            Finding::yes(Reason::ReportsCurrent, "epochs that are over are reported")
        } else {
            Finding::no(Reason::ReportsBehind, "epochs that are over wait for their report; see kubectl get ctr")
        },
    );
}

fn chain(status: &mut GridNodeStatus, refs: &Refs) {
    if let Some(earned) = refs.earned {
        status.earned_wei = Some(earned.to_string());
    }
    let Ok(facts) = &refs.chain else { return };
    status.claimed_wei = Some(facts.claimed.to_string());
    status.stake = facts.registration.map(|registration| StakeStatus {
        owner: registration.owner.to_string(),
        payout_address: registration.payout.to_string(),
        stake_wei: registration.stake.to_string(),
        computing_power: signed(registration.computing_power),
        storage_gib: signed(registration.storage_gib),
    });
}

fn reported(status: &mut GridNodeStatus, report: &NodeReport) {
    if report.connected {
        status.hardware = Some(HardwareStatus {
            processor: clipped(&report.processor, 128),
            threads: report.threads.into(),
            memory_bytes: signed(report.memory_bytes),
            accelerators: report.accelerators.iter().take(16).map(|name| clipped(name, 128)).collect(),
            software: clipped(&report.software, 64),
        });
    }
    status.models = report
        .models
        .iter()
        .take(64)
        .map(|model| NodeModelStatus {
            digest: model.digest.to_string(),
            state: clipped(&model.state, 64),
            message: Some(clipped(&model.message, 300)).filter(|message| !message.is_empty()),
            prefill_tokens_per_second: rate(model.prefill_rate_milli),
            decode_tokens_per_second: rate(model.decode_rate_milli),
        })
        .collect();
    status.capability = Some(CapabilityStatus {
        gemm_units: signed(report.capability.gemm_units),
        proven_bytes: signed(report.capability.proven_bytes),
    });
    status.evidence = Some(EvidenceStatus {
        passed: signed(report.evidence.audits_passed),
        failed: signed(report.evidence.audits_failed),
        inconclusive: signed(report.evidence.audits_inconclusive),
        log10_e: format!("{:.1}", report.evidence.log10_e),
    });
    status.last_epoch = Some(ContributionStatus {
        epoch: signed(report.last_epoch.epoch),
        requests: signed(report.last_epoch.requests),
        prompt_tokens: signed(report.last_epoch.prompt_tokens),
        output_tokens: signed(report.last_epoch.output_tokens),
        units: clipped(&report.last_epoch.units, 40),
    });
}

fn columns(status: &GridNodeStatus) -> NodeColumns {
    let fastest = |model: &NodeModelStatus| model.decode_tokens_per_second.as_ref()?.parse::<f64>().ok();
    let speed = status
        .models
        .iter()
        .filter_map(fastest)
        .fold(None, |best: Option<f64>, rate| Some(best.map_or(rate, |best| best.max(rate))));
    NodeColumns {
        gpu: status
            .hardware
            .as_ref()
            .map(|hardware| hardware.accelerators.first().map_or_else(|| "cpu".into(), |name| clipped(name, 64))),
        tokens_per_second: speed.map(|speed| format!("{speed:.1}")),
        storage: status.capability.as_ref().map(|capability| human_bytes(capability.proven_bytes.unsigned_abs())),
        score: status
            .evidence
            .as_ref()
            .map(|evidence| format!("{}/{}", evidence.passed, evidence.passed + evidence.failed)),
        earned: status.earned_wei.as_ref().and_then(|wei| wei.parse().ok()).map(Wei::to_xdc),
    }
}

fn rate(milli: u64) -> Option<String> {
    (milli > 0).then(|| from_milli(milli))
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What comes from outside is cut to what the schema takes.
fn clipped(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}

/// The status of a node that is being emptied.
pub fn draining(
    node: &GridNode,
    message: &str,
    exit: Option<&crate::api::refs::TransactionStatus>,
    now: Timestamp,
) -> GridNodeStatus {
    let mut draft = Draft::of(node, now);
    if let Some(exit) = exit {
        draft.status.exit = Some(exit.clone());
    }
    draft.set(condition::DRAINING, Finding::yes(Reason::DrainInProgress, message));
    draft.set(condition::READY, Finding::no(Reason::DrainInProgress, message));
    draft.status
}

pub async fn update(node: &GridNode, status: &GridNodeStatus, context: &Context) -> Result<bool, Error> {
    let api: Api<GridNode> = Api::all(context.client.clone());
    let old = node.status.as_ref();
    let change = Change {
        old,
        new: status,
        old_conditions: old.map(|status| status.conditions.as_slice()).unwrap_or_default(),
        new_conditions: &status.conditions,
        abnormal: &[condition::DRAINING, condition::QUARANTINED, condition::STALLED],
    };
    write::status(&api, context, MANAGER, node, change).await
}
