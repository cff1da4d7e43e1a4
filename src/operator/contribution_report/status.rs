//! Pure up to the last two functions: conditions of the reports, and the network's ReportsCurrent.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    MANAGER,
    decide::{Sending, Step, Stuck},
    report::{Report, state_of},
};
use crate::{
    api::{
        conditions::{self, Condition, Finding, Truth},
        contribution_report::{ContributionReport, ContributionReportStatus, ReportState, condition},
        grid_network::{self, GridNetwork},
        ids::NodeAddress,
        reasons::Reason,
    },
    chain::{ChainClient, ChainError},
    operator::{
        chains,
        context::Context,
        error::Error,
        write::{self, Change},
    },
};

/// What there is to say about a report after its step.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    pub step: Step,
    /// Why the step could not be taken.
    pub trouble: Option<Trouble>,
}

/// A step that could not be taken.
#[derive(Debug, Clone, PartialEq)]
pub struct Trouble {
    pub finding: Finding,
    /// Nothing but a person can end it.
    pub needs_a_person: bool,
}

impl Trouble {
    pub fn of_person(finding: Finding) -> Self {
        Trouble { finding, needs_a_person: true }
    }
}

/// A chain error on the way of a report.
pub fn trouble(error: &ChainError, chain: &ChainClient, reporter: NodeAddress) -> Trouble {
    match error {
        ChainError::Refused(refusal) if refusal.name == "MissingRole" => {
            let message = format!(
                "{reporter} lacks REPORTER_ROLE; the contract's admin grants it: cast send {} 'grantRole(bytes32,address)' $(cast keccak REPORTER_ROLE) {reporter}",
                chain.contract()
            );
            Trouble::of_person(Finding::no(Reason::ReporterWithoutRole, message))
        }
        ChainError::Refused(refusal) if refusal.passes_with_time || refusal.name == "WrongEpoch" => {
            Trouble { finding: Finding::no(Reason::ReportPending, refusal.to_string()), needs_a_person: false }
        }
        ChainError::WrongSigner { expected, .. } => {
            let message = format!("{error}; put the key of {expected} back until this report is final");
            Trouble::of_person(Finding::no(Reason::ReporterChanged, message))
        }
        ChainError::TooManyInFlight { .. } => {
            Trouble { finding: Finding::no(Reason::ReportPending, error.to_string()), needs_a_person: false }
        }
        _ => {
            let finding = chains::finding(error);
            Trouble { needs_a_person: finding.truth == Truth::False, finding }
        }
    }
}

/// The status of a report, whole.
pub fn of(report: &Report, said: &Said, now: Timestamp) -> ContributionReportStatus {
    let mut status = report.status();
    let generation = report.object.metadata.generation;
    let now = Time(now);
    if status.state != ReportState::Active {
        status.state = state_of(report.submit.as_ref());
    }
    if let Step::Window { active_at } | Step::ActivatedByNext { active_at } = said.step {
        status.active_at = i64::try_from(active_at).ok();
    }
    if said.step == Step::Live {
        status.state = ReportState::Active;
    }
    let on_chain = on_chain(&said.step) || matches!(status.state, ReportState::Finalized | ReportState::Active);
    if on_chain && status.state < ReportState::Finalized {
        // Somebody else with the same key, or a former life of this report, brought it there.
        status.state = ReportState::Finalized;
    }
    let (finalized, active) = findings(report, said, on_chain);
    for (type_, finding) in [(condition::FINALIZED, finalized), (condition::ACTIVE, active)] {
        conditions::set(&mut status.conditions, type_, finding, generation, &now);
    }
    match stalled(said) {
        Some(finding) => conditions::set(&mut status.conditions, condition::STALLED, finding, generation, &now),
        None => conditions::clear(&mut status.conditions, condition::STALLED),
    }
    status
}

/// Steps that are taken only once the report is in a final block.
fn on_chain(step: &Step) -> bool {
    matches!(
        step,
        Step::Activate | Step::Window { .. } | Step::Challenged { .. } | Step::ActivatedByNext { .. } | Step::Live
    )
}

fn findings(report: &Report, said: &Said, on_chain: bool) -> (Finding, Finding) {
    let pending = |message: &str| Finding::no(Reason::ReportPending, message);
    let trouble = said.trouble.as_ref().map(|trouble| trouble.finding.clone());
    if let Step::Stuck(stuck) = &said.step {
        let finding = said_of(stuck);
        let final_ = if on_chain && *stuck != Stuck::Dropped { is_final(report) } else { finding.clone() };
        return (final_, finding);
    }
    if said.step == Step::Held(Sending::DryRun) {
        let finding = Finding::no(Reason::DryRun, "spec.rewards.dryRun keeps the report from the chain");
        return (finding.clone(), finding);
    }
    if !on_chain {
        let finding = match &said.step {
            _ if trouble.is_some() => trouble.unwrap_or_else(|| pending("")),
            Step::Held(_) => Finding::no(Reason::NetworkPaused, "spec.paused keeps the report from the chain"),
            Step::Wait(why) => pending(why),
            Step::Votes(poll) => poll.finding(),
            Step::Vote => {
                Finding::no(Reason::WaitingForVotes, "our vote for the report is on its way to a final block")
            }
            _ => pending("the report is on its way to a final block"),
        };
        return (finding, pending("the report is not in a final block yet"));
    }
    let active = match &said.step {
        Step::Live => Finding::yes(Reason::RewardsActive, "the root is live and nodes can claim"),
        Step::Window { active_at } => {
            Finding::no(Reason::WindowOpen, format!("the window is open until {}", time(*active_at)))
        }
        Step::Challenged { ruling_due_at } => {
            let until = time(*ruling_due_at);
            Finding::no(Reason::EpochChallenged, format!("somebody challenged it; the arbiter rules until {until}"))
        }
        _ => trouble.unwrap_or_else(|| {
            Finding::no(Reason::WindowOpen, "the window is over and the root is about to become live")
        }),
    };
    (is_final(report), active)
}

fn is_final(report: &Report) -> Finding {
    let block = report.submit.as_ref().and_then(|record| record.inclusion()).map(|inclusion| inclusion.block_number);
    let message = block.map_or_else(|| "its root is on chain".to_owned(), |block| format!("in block {block}"));
    Finding::yes(Reason::ReportFinal, message)
}

fn stalled(said: &Said) -> Option<Finding> {
    let finding = match (&said.step, &said.trouble) {
        (Step::Stuck(stuck), _) => said_of(stuck),
        (Step::Votes(poll), _) if !poll.against.is_empty() => poll.finding(),
        (_, Some(trouble)) if trouble.needs_a_person => trouble.finding.clone(),
        _ => return None,
    };
    Some(Finding { truth: Truth::True, ..finding })
}

/// Why nothing goes on, for people.
pub fn said_of(stuck: &Stuck) -> Finding {
    match stuck {
        Stuck::OtherRoot { root } => {
            let message =
                format!("the contract has root {root} for this epoch: somebody else with REPORTER_ROLE reported it");
            Finding::no(Reason::RootMismatch, message)
        }
        Stuck::Dropped => {
            let message = "the guardian dropped this epoch in its window; find out why, then delete this report to have it planned anew";
            Finding::no(Reason::EpochDropped, message)
        }
        Stuck::VoteGone => {
            let message = "the contract no longer has this reporter's vote for it: the guardian dropped this epoch in its window, or somebody else voted with this key; find out why, then delete this report to have it planned anew";
            Finding::no(Reason::EpochDropped, message)
        }
        Stuck::Reverted(why) => {
            let message = format!(
                "its transaction was reverted: {why}; once the cause is gone, delete this report to have it planned anew"
            );
            Finding::no(Reason::TransactionReverted, message)
        }
        Stuck::Parted(words) => Finding::no(Reason::LedgerMismatch, words.clone()),
    }
}

/// Unix seconds for people.
pub fn time(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    at.map_or_else(|| seconds.to_string(), |at| at.to_string())
}

/// The status of a report while nothing can be said about the chain: what was known stays, except what may have changed.
pub fn away(report: &Report, finding: &Finding, now: Timestamp) -> ContributionReportStatus {
    let mut status = report.status();
    let unknown = Finding { truth: Truth::Unknown, ..finding.clone() };
    for type_ in [condition::FINALIZED, condition::ACTIVE] {
        if !conditions::is_true(&status.conditions, type_) {
            conditions::set(
                &mut status.conditions,
                type_,
                unknown.clone(),
                report.object.metadata.generation,
                &Time(now),
            );
        }
    }
    status
}

/// Writes a report's status and tells of its changes.
pub async fn update(report: &Report, status: &ContributionReportStatus, context: &Context) -> Result<(), Error> {
    let api: Api<ContributionReport> = Api::all(context.client.clone());
    let old = report.object.status.as_ref();
    let change = Change {
        old,
        new: status,
        old_conditions: old.map(|status| status.conditions.as_slice()).unwrap_or_default(),
        new_conditions: &status.conditions,
        abnormal: &[condition::STALLED],
        expected: &[],
    };
    write::status(&api, context, MANAGER, &report.object, change).await.map(drop)
}

/// Writes the one condition of the network that belongs to the epoch loop; everything else there has another owner.
pub async fn update_network(network: &GridNetwork, finding: Finding, context: &Context) -> Result<(), Error> {
    let type_ = grid_network::condition::REPORTS_CURRENT;
    let all = network.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let before: Vec<Condition> = conditions::find(all, type_).cloned().into_iter().collect();
    let mut after = before.clone();
    let now = Time((context.clock)());
    conditions::set(&mut after, type_, finding, network.metadata.generation, &now);
    if before == after {
        return Ok(());
    }
    let body = json!({
        "apiVersion": GridNetwork::api_version(&()),
        "kind": GridNetwork::kind(&()),
        "metadata": {"name": network.name_any()},
        "status": {"conditions": after},
    });
    let api: Api<GridNetwork> = Api::all(context.client.clone());
    api.patch_status(&network.name_any(), &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body)).await?;
    Ok(())
}
