//! Pure: the next step of a written report, from its status and what the contract says.

use crate::{
    api::{
        conditions::Finding,
        contribution_report::{ContributionReport, ReportState},
        reasons::Reason,
        refs::{TransactionState, TransactionStatus},
    },
    chain::{
        OutboxRecord, OutboxState,
        rewards::{EpochReport, EpochState, PendingEpoch, Standing},
    },
    operator::chains::record_of,
};

/// The contract at the newest and at the last final block, and the newest block's time in unix seconds.
#[derive(Debug, Clone, Copy)]
pub struct Readings {
    pub latest: EpochState,
    pub finalized: EpochState,
    pub head_time: u64,
}

/// Exactly one per reconcile; what it changes is written down before the next one.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Nothing is left to do.
    Done,
    Wait(Finding),
    /// Nothing goes on until somebody acts.
    Stalled(Finding),
    PlanSubmit,
    PlanActivate(PendingEpoch),
    FollowSubmit(Box<OutboxRecord>),
    FollowActivate(Box<OutboxRecord>),
    /// It is in a final block.
    Conclude(ReportState),
}

pub fn decide(report: &ContributionReport, chain_report: &EpochReport, readings: &Readings) -> Step {
    let status = report.status.clone().unwrap_or_default();
    if status.state == ReportState::Active {
        return Step::Done;
    }
    if report.spec.dry_run {
        return Step::Wait(Finding::no(Reason::DryRun, "spec.rewards.dryRun of the GridNetwork keeps it from the chain"));
    }
    if status.state == ReportState::Finalized {
        return activate(status.activate.as_ref(), chain_report, readings);
    }
    match status.submit.as_ref().and_then(record_of) {
        Some(record) if !record.is_finished() => Step::FollowSubmit(Box::new(record)),
        Some(OutboxRecord { state: OutboxState::Finalized { .. }, .. }) => Step::Conclude(ReportState::Finalized),
        Some(OutboxRecord { state: OutboxState::Failed { refusal, .. }, .. }) => {
            let again = refusal.passes_with_time;
            unsent(chain_report, readings, (!again).then(|| refusal.to_string()))
        }
        _ => unsent(chain_report, readings, None),
    }
}

/// Nothing of it is on its way. `failure`: an earlier try was reverted for good.
fn unsent(report: &EpochReport, readings: &Readings, failure: Option<String>) -> Step {
    match (report.standing(&readings.latest), failure) {
        (Standing::Due, None) => Step::PlanSubmit,
        (Standing::Due, Some(message)) => Step::Stalled(Finding::yes(Reason::TransactionReverted, message)),
        (Standing::TooEarly { next }, _) => {
            Step::Wait(Finding::no(Reason::ReportPending, format!("epoch {next} has to be reported first")))
        }
        (Standing::Conflict { root }, _) => {
            let message = format!("the contract has another root for this epoch: {root}");
            Step::Stalled(Finding::yes(Reason::RootMismatch, message))
        }
        (Standing::Reported, _) => match report.standing(&readings.finalized) {
            Standing::Reported => Step::Conclude(ReportState::Finalized),
            _ => Step::Wait(Finding::no(Reason::ReportPending, "it is on chain but not final yet")),
        },
        (Standing::Past, _) => Step::Conclude(ReportState::Active),
    }
}

/// The report is final; its root becomes live when the window is over. Anybody may do that, and the next report does it too.
fn activate(status: Option<&TransactionStatus>, report: &EpochReport, readings: &Readings) -> Step {
    let is_ours = |pending: &PendingEpoch| pending.epoch == report.epoch;
    let EpochState { next_epoch, pending, .. } = readings.finalized;
    if next_epoch > report.epoch && !pending.as_ref().is_some_and(is_ours) {
        return Step::Conclude(ReportState::Active);
    }
    if let Some(record) = status.and_then(record_of).filter(|record| !record.is_finished()) {
        return Step::FollowActivate(Box::new(record));
    }
    match readings.latest.pending.filter(is_ours) {
        Some(pending) if readings.latest.can_activate(readings.head_time) => Step::PlanActivate(pending),
        Some(pending) => Step::Wait(Finding::no(Reason::WindowOpen, format!("the window ends at {} (unix seconds)", pending.active_at))),
        None if readings.latest.next_epoch <= report.epoch => {
            let message = "the epoch was dropped in its window by the guardian; see EpochDropped in the contract's events";
            Step::Stalled(Finding::yes(Reason::EpochDropped, message))
        }
        None => Step::Wait(Finding::no(Reason::WindowOpen, "it is live but not final yet")),
    }
}

/// How far the submitting transaction is, as the report's own state.
pub fn state_of(transaction: TransactionState) -> ReportState {
    match transaction {
        TransactionState::Planned | TransactionState::Failed => ReportState::Planned,
        TransactionState::Signed => ReportState::Signed,
        TransactionState::Sent => ReportState::Sent,
        TransactionState::Included => ReportState::Included,
        TransactionState::Finalized => ReportState::Finalized,
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{B256, Bytes};

    use super::*;
    use crate::{
        api::{
            contribution_report::ContributionReportStatus,
            ids::{EpochNumber, NodeAddress, Wei},
        },
        chain::{Intent, IntentKind, Refusal, TxCall, outbox::Inclusion},
        operator::chains::status_of,
    };

    const ROOT: B256 = B256::repeat_byte(0x11);

    fn chain_report() -> EpochReport {
        EpochReport { epoch: EpochNumber(3), root: ROOT, cumulative_total: Wei(10), leaves: Vec::new() }
    }

    fn report(state: ReportState, submit: Option<OutboxState>) -> ContributionReport {
        let mut report: ContributionReport = serde_json::from_value(serde_json::json!({
            "apiVersion": "xdcgrid.io/v1alpha1", "kind": "ContributionReport", "metadata": {"name": "demo-3"},
            "spec": {"networkRef": {"name": "demo"}, "epoch": 3, "root": ROOT.to_string(), "cumulativeWei": "10", "allocatedWei": "1",
                "allocated": "0", "leaves": {"configMap": "x", "dataHash": "0x"}, "reporter": "0x", "auditSecret": "",
                "totals": {"nodes": 0, "requests": 0, "promptTokens": 0, "outputTokens": 0, "units": "0"}},
        }))
        .unwrap();
        let submit = submit.map(|state| {
            let call = TxCall { to: None, value: Wei(0), data: Bytes::new() };
            let intent = Intent { kind: IntentKind::SubmitEpoch, key: "epoch/3".into(), call };
            status_of(&OutboxRecord { state, ..OutboxRecord::plan(intent, NodeAddress([1; 20]), 51) }).unwrap()
        });
        report.status = Some(ContributionReportStatus { state, submit, ..ContributionReportStatus::default() });
        report
    }

    fn state(next: u64, pending: Option<u64>, root: B256, total: u128) -> EpochState {
        EpochState {
            next_epoch: EpochNumber(next),
            pending: pending.map(|epoch| PendingEpoch { epoch: EpochNumber(epoch), root, total: Wei(total), active_at: 100 }),
            live_root: if pending.is_some() { B256::ZERO } else { root },
            live_total: if pending.is_some() { Wei(0) } else { Wei(total) },
            claimed_total: Wei(0),
            reward_pool: Wei(0),
            stake_total: Wei(0),
        }
    }

    fn step(report: &ContributionReport, latest: EpochState, finalized: EpochState, head_time: u64) -> Step {
        decide(report, &chain_report(), &Readings { latest, finalized, head_time })
    }

    fn inclusion() -> Inclusion {
        Inclusion {
            hash: B256::ZERO,
            block_number: 1,
            block_hash: B256::ZERO,
            succeeded: true,
            gas_used: 1,
            fee: Wei(1),
            contract: None,
        }
    }

    #[test]
    fn a_written_report_is_submitted_when_it_is_its_turn() {
        let planned = report(ReportState::Planned, None);
        let due = state(3, None, B256::ZERO, 0);
        assert_eq!(step(&planned, due, due, 0), Step::PlanSubmit);
        let early = state(2, None, B256::ZERO, 0);
        assert!(matches!(step(&planned, early, early, 0), Step::Wait(_)));
    }

    #[test]
    fn a_report_that_is_on_chain_is_never_sent_again_even_when_its_record_is_lost() {
        let planned = report(ReportState::Planned, None);
        let due = state(3, None, B256::ZERO, 0);
        let reported = state(4, Some(3), ROOT, 10);
        assert!(matches!(step(&planned, reported, due, 0), Step::Wait(_)), "not final yet");
        assert_eq!(step(&planned, reported, reported, 0), Step::Conclude(ReportState::Finalized));
        assert_eq!(step(&planned, state(5, None, B256::ZERO, 99), reported, 0), Step::Conclude(ReportState::Active));
    }

    #[test]
    fn another_root_on_chain_stops_everything() {
        let other = state(4, Some(3), B256::repeat_byte(2), 10);
        let Step::Stalled(finding) = step(&report(ReportState::Planned, None), other, other, 0) else { panic!() };
        assert_eq!(finding.reason, "RootMismatch");
    }

    #[test]
    fn a_record_on_its_way_is_followed_whatever_the_contract_says() {
        let sent = OutboxState::Sent { attempts: Vec::new(), sent_at: 0, missing_at: None };
        let due = state(3, None, B256::ZERO, 0);
        assert!(matches!(step(&report(ReportState::Sent, Some(sent)), due, due, 0), Step::FollowSubmit(_)));
        let finalized = OutboxState::Finalized { inclusion: inclusion() };
        assert_eq!(step(&report(ReportState::Included, Some(finalized)), due, due, 0), Step::Conclude(ReportState::Finalized));
    }

    #[test]
    fn a_revert_that_time_does_not_heal_needs_a_person() {
        let due = state(3, None, B256::ZERO, 0);
        let failed = |refusal| OutboxState::Failed { inclusion: inclusion(), refusal };
        let for_good = Refusal::new("PoolTooSmall", "the pool is too small");
        assert!(matches!(step(&report(ReportState::Planned, Some(failed(for_good.clone()))), due, due, 0), Step::Stalled(_)));
        let later = Refusal { passes_with_time: true, ..for_good };
        assert_eq!(step(&report(ReportState::Planned, Some(failed(later))), due, due, 0), Step::PlanSubmit);
    }

    #[test]
    fn a_final_report_waits_for_its_window_and_is_activated_once() {
        let finalized = report(ReportState::Finalized, None);
        let pending = state(4, Some(3), ROOT, 10);
        assert!(matches!(step(&finalized, pending, pending, 99), Step::Wait(_)));
        assert!(matches!(step(&finalized, pending, pending, 100), Step::PlanActivate(_)));
        let live = state(4, None, ROOT, 10);
        assert!(matches!(step(&finalized, live, pending, 100), Step::Wait(_)), "live, but not final");
        assert_eq!(step(&finalized, live, live, 100), Step::Conclude(ReportState::Active));
        assert_eq!(step(&report(ReportState::Active, None), live, live, 100), Step::Done);
    }

    #[test]
    fn an_epoch_that_the_guardian_dropped_is_told() {
        let dropped = state(3, None, B256::ZERO, 0);
        let Step::Stalled(finding) = step(&report(ReportState::Finalized, None), dropped, dropped, 0) else { panic!() };
        assert_eq!(finding.reason, "EpochDropped");
    }
}
