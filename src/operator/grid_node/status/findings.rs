//! Pure: the conditions of a node. Pod, grid, evidence and chain are different conditions and never mixed; Ready and the two of
//! kstatus say what all of them amount to.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{Draft, Observed, decisive};
use crate::{
    api::{
        conditions::{self, Finding, Truth},
        grid_node::{AvailabilityStatus, condition},
        ids::EpochNumber,
        reasons::Reason,
        remedies,
    },
    operator::{
        grid_node::{
            availability::Openness, dereference::Refs, registration, update::Step, validate::ValidatedNode, worker,
        },
        units::human_bytes,
    },
    protocol::internal::{NodeMode, NodeModel, NodeRole},
};

/// Epochs that may wait for their report without anything being wrong: the one that is closing and the one before.
const REPORTS_MAY_LAG: u64 = 2;
/// Codes with which the gateway refuses a worker that tries to connect.
const REFUSALS: [&str; 10] = [
    "UnknownPeer",
    "WrongNetwork",
    "WrongRole",
    "UnsupportedVersion",
    "BadSignature",
    "NoChallenge",
    "MalformedFrame",
    "TooLarge",
    "AuthTimeout",
    "Banned",
];

pub(super) fn findings(draft: &mut Draft, seen: &Observed<'_>) {
    let (found, refs) = (seen.found, seen.refs);
    let quarantined = quarantined(refs);
    let registered = registration::registered(found, refs, draft.status.registration.as_ref(), seen.moved);
    let parts = parts(seen, quarantined.as_ref(), &registered);
    let ready = ready(&parts, seen);
    for (type_, finding) in parts.iter().chain(&also_shown(seen)) {
        // These two explain Ready and are shown elsewhere: as a spec field and as an abnormal condition.
        if *type_ != "Approved" && *type_ != "Quarantined" {
            draft.set(type_, finding.clone());
        }
    }
    draft.set(condition::REGISTERED, registered.clone());
    draft.set(condition::READY, ready.clone());
    draft.abnormal(condition::QUARANTINED, quarantined);
    draft.abnormal(condition::UPDATING, updating(seen));
    draft.abnormal(condition::PAYOUT_DIFFERS, seen.payout.finding.clone());
    draft.abnormal(condition::SLASHED, seen.slash.finding.clone());
    reporting(draft, &registered, refs);
    settle(draft, &ready, seen);
}

/// What Ready is made of.
fn parts(seen: &Observed<'_>, quarantined: Option<&Finding>, registered: &Finding) -> Vec<(&'static str, Finding)> {
    let (found, refs) = (seen.found, seen.refs);
    let mut parts = Vec::new();
    if !found.approved {
        parts.push(("Approved", Finding::no(Reason::NotApproved, "spec.approved is not true: the node takes no part")));
    }
    if let Some(finding) = quarantined {
        parts.push(("Quarantined", Finding { truth: Truth::False, ..finding.clone() }));
    }
    if let Some(worker) = &found.worker {
        parts.push((condition::WORKER_AVAILABLE, worker::available(&seen.worker(), Some(&worker.accelerators))));
    }
    parts.push((condition::PEER_CONNECTED, connected(seen)));
    // A model that is on its way is no reason not to serve the others.
    if let Some(finding) = models(found, refs).filter(|_| serves_nothing(found, refs)) {
        parts.push((condition::MODELS_READY, finding));
    }
    parts.push((condition::CAPABILITY_VERIFIED, capability(refs)));
    if found.roles.contains(&NodeRole::Storage) {
        parts.push((condition::STORAGE_VERIFIED, storage(found, refs)));
    }
    let unpaid_by_choice = found.mode == NodeMode::Managed && found.rewards.is_none();
    if !unpaid_by_choice {
        parts.push((condition::REGISTERED, registered.clone()));
    }
    parts
}

/// Conditions that do not decide about Ready.
fn also_shown(seen: &Observed<'_>) -> Vec<(&'static str, Finding)> {
    models(seen.found, seen.refs).map(|finding| (condition::MODELS_READY, finding)).into_iter().collect()
}

fn ready(parts: &[(&str, Finding)], seen: &Observed<'_>) -> Finding {
    let found = seen.found;
    let takes_part = || match found.missing_models.as_slice() {
        _ if found.cordoned => Finding::yes(Reason::Cordoned, "spec.unschedulable keeps new work away"),
        _ if !seen.openness.is_open() => Finding::yes(Reason::OutsideWindow, "no window of spec.availability is open"),
        _ if seen.step.is_update() => {
            Finding::yes(Reason::UpdateWaitsForIdle, "the worker is replaced when it is idle")
        }
        [] => Finding::yes(Reason::Ready, "the node takes part"),
        missing => {
            Finding::yes(Reason::Ready, format!("the node takes part; there is no GridModel {}", missing.join(", ")))
        }
    };
    let summary = decisive::summarize(parts, takes_part());
    // Nobody expects a machine to be there outside its windows. Whether it would be well is not known then.
    if summary.truth == Truth::False && !seen.openness.is_open() && !decisive::is_decisive(&summary.reason) {
        return Finding::unknown(
            Reason::OutsideWindow,
            format!("no window of spec.availability is open; {}", summary.message),
        );
    }
    summary
}

/// kstatus: Stalled needs somebody, Reconciling takes its time, neither is there when all is as the spec says.
fn settle(draft: &mut Draft, ready: &Finding, seen: &Observed<'_>) {
    let unready = ready.truth == Truth::False;
    let stalled = unready && remedies::needs_a_person(&ready.reason);
    let progress = match seen.step {
        Step::WaitForTurn => Some(Finding::yes(
            Reason::UpdateWaitsForTurn,
            "other workers are replaced first; this one goes on until then",
        )),
        Step::WaitForIdle | Step::Replace { .. } => updating(seen),
        Step::Nothing | Step::Terminating => {
            (unready && !stalled).then(|| Finding { truth: Truth::True, ..ready.clone() })
        }
    };
    draft.abnormal(condition::RECONCILING, progress.filter(|_| !stalled));
    draft.abnormal(condition::STALLED, stalled.then(|| Finding { truth: Truth::True, ..ready.clone() }));
}

fn updating(seen: &Observed<'_>) -> Option<Finding> {
    let message = "the worker's pod is to change: no new work comes, and the pod is replaced when nothing runs in it";
    seen.step.is_update().then(|| Finding::yes(Reason::UpdateWaitsForIdle, message))
}

/// What the gateway would know, when it cannot be asked or was never told.
fn unknown_to_gateway(refs: &Refs) -> Finding {
    match &refs.report {
        Err(error) => error.finding(),
        Ok(_) => Finding::no(Reason::NotConnected, "the node has not been seen by the gateway yet"),
    }
}

fn connected(seen: &Observed<'_>) -> Finding {
    if !seen.found.approved {
        return Finding::no(Reason::NotApproved, "spec.approved is not true: the node takes no part");
    }
    if let Err(error) = &seen.applied.member {
        return error.finding();
    }
    match &seen.refs.report {
        Ok(Some(report)) if report.connected => Finding::yes(Reason::Connected, "connected and authenticated"),
        Ok(Some(report)) if REFUSALS.contains(&report.reason.as_str()) => {
            Finding::no(Reason::PeerRefused, format!("{} ({})", report.message, report.reason))
        }
        Ok(Some(report)) => {
            let message =
                if report.message.is_empty() { "the node is not connected to the gateway" } else { &report.message };
            Finding::with_code(Truth::False, &report.reason, Reason::NotConnected, message)
        }
        _ => unknown_to_gateway(seen.refs),
    }
}

/// Whether a node that should answer requests can answer none.
fn serves_nothing(found: &ValidatedNode, refs: &Refs) -> bool {
    let report = refs.report.as_ref().ok().and_then(Option::as_ref).filter(|report| report.connected);
    found.roles.contains(&NodeRole::Compute)
        && report.is_some_and(|report| !report.models.iter().any(|model| model.state == "Ready"))
}

/// Absent while the gateway has heard nothing of the node.
fn models(found: &ValidatedNode, refs: &Refs) -> Option<Finding> {
    let report = refs.report.as_ref().ok()?.as_ref().filter(|report| report.connected)?;
    if found.models.is_empty() {
        return Some(Finding::yes(Reason::NoModels, "spec.models names no model that exists"));
    }
    let loading = |model: &&NodeModel| matches!(model.state.as_str(), "Fetching" | "Loading" | "Measuring");
    let failed = report.models.iter().find(|model| model.state != "Ready" && !loading(model));
    if let Some(model) = failed {
        let message = format!("model {}: {}", model.digest, model.message);
        return Some(Finding::with_code(Truth::False, &model.state, Reason::ModelFailed, message));
    }
    let ready = |digest| report.models.iter().any(|model| model.digest == digest && model.state == "Ready");
    match found.models.iter().find(|digest| !ready(**digest)) {
        None => Some(Finding::yes(Reason::ModelsLoaded, "all models are loaded and measured")),
        Some(digest) => Some(Finding::no(Reason::ModelsLoading, format!("model {digest} is not ready yet"))),
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
            match report.capability.message.as_str() {
                "" => "its compute is not proven yet",
                message => message,
            },
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

/// The windows, as the status shows them.
pub(super) fn availability(openness: Openness) -> Option<AvailabilityStatus> {
    let shown = || AvailabilityStatus { open: openness.is_open(), until: openness.until().map(Time) };
    (openness != Openness::Always).then(shown)
}
