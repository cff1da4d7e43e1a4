use alloy::primitives::B256;

use super::*;
use crate::{
    api::{
        contribution_report::{ContributionReport, ContributionReportSpec, LeavesRef, ReportState, ReportTotals},
        ids::NodeAddress,
        refs::NameRef,
    },
    chain::{Inclusion, Intent, IntentKind, OutboxRecord, Refusal, TxCall, outbox::Attempt, rewards::PendingEpoch},
};

fn root(epoch: u64) -> B256 {
    B256::repeat_byte(epoch as u8 + 1)
}

/// After epoch n everybody together has earned 10·(n + 1).
fn total(epoch: u64) -> Wei {
    Wei(10 * (u128::from(epoch) + 1))
}

pub(in super::super) fn report(epoch: u64) -> Report {
    let spec = ContributionReportSpec {
        network_ref: NameRef { name: "demo".into() },
        epoch: epoch as i64,
        root: root(epoch).to_string(),
        cumulative_wei: total(epoch).to_string(),
        allocated_wei: "10".into(),
        allocated: String::new(),
        leaves: LeavesRef { config_map: String::new(), data_hash: B256::ZERO.to_string() },
        totals: ReportTotals::default(),
        reporter: String::new(),
        statement: None,
        audit_secret: String::new(),
        recipe: None,
        dry_run: false,
    };
    Report::read(ContributionReport::new(&format!("demo-{epoch}"), spec)).unwrap()
}

fn dry(epoch: u64) -> Report {
    let mut report = report(epoch);
    report.object.spec.dry_run = true;
    report
}

fn active(epoch: u64) -> Report {
    let mut report = with(epoch, finalized(1));
    report.object.status.get_or_insert_default().state = ReportState::Active;
    report
}

fn record(state: OutboxState) -> OutboxRecord {
    let call = TxCall { to: None, value: Wei(0), data: Default::default() };
    let intent = Intent { kind: IntentKind::SubmitEpoch, key: String::new(), call };
    OutboxRecord { state, ..OutboxRecord::plan(intent, NodeAddress([1; 20]), 51) }
}

fn with(epoch: u64, state: OutboxState) -> Report {
    Report { submit: Some(record(state)), ..report(epoch) }
}

fn signed() -> OutboxState {
    let attempt = Attempt { nonce: 0, gas_limit: 0, gas_price: Wei(0), hash: B256::ZERO, raw: Default::default() };
    OutboxState::Signed { attempts: vec![attempt] }
}

fn inclusion(block_number: u64) -> Inclusion {
    let (hash, block_hash) = (B256::ZERO, B256::ZERO);
    Inclusion { hash, block_number, block_hash, succeeded: true, gas_used: 0, fee: Wei(0), contract: None }
}

fn finalized(block: u64) -> OutboxState {
    OutboxState::Finalized { inclusion: inclusion(block) }
}

fn failed(name: &str) -> OutboxState {
    OutboxState::Failed { inclusion: inclusion(1), refusal: Refusal::new(name, "no") }
}

/// The contract after the report of epoch `next - 1`, with its window open or everything live.
fn state(next: u64, window: Option<u64>) -> EpochState {
    let last = next.checked_sub(1);
    let live = if window.is_some() { last.and_then(|last| last.checked_sub(1)) } else { last };
    EpochState {
        next_epoch: EpochNumber(next),
        pending: window.zip(last).map(|(active_at, last)| PendingEpoch {
            epoch: EpochNumber(last),
            root: root(last),
            total: total(last),
            active_at,
            ruling_due_at: None,
        }),
        live_root: live.map_or(B256::ZERO, root),
        live_total: live.map_or(Wei(0), total),
        claimed_total: Wei(0),
        reward_pool: Wei(1_000),
        stake_total: Wei(0),
    }
}

/// Epochs of 60 s from 1000 on.
fn chain(next: u64, window: Option<u64>, time: u64) -> ChainView {
    let parameters = ContractParameters {
        genesis: 1_000,
        epoch_seconds: 60,
        challenge_window: 30,
        unbonding: 60,
        min_stake: Wei(1),
        max_epoch_increase: Wei(1_000),
    };
    let state = state(next, window);
    ChainView { parameters, final_block: 100, final_hash: B256::ZERO, finalized: state, latest: state, time }
}

fn one(reports: &[Report], chain: &ChainView, sending: Sending) -> Step {
    steps(reports, chain, sending).pop().unwrap().1
}

const OK: Sending = Sending::Allowed;

#[test]
fn a_new_report_is_submitted_when_it_is_its_epochs_turn() {
    assert_eq!(one(&[report(3)], &chain(3, None, 1_240), OK), Step::Submit);
    assert_eq!(one(&[report(3)], &chain(3, None, 1_240), Sending::Paused), Step::Held(Sending::Paused));
    assert_eq!(one(&[report(3)], &chain(3, None, 1_240), Sending::DryRun), Step::Held(Sending::DryRun));
}

#[test]
fn what_is_signed_is_followed_to_its_end_whatever_the_spec_says() {
    assert_eq!(one(&[with(3, signed())], &chain(3, None, 1_240), Sending::Paused), Step::Submit);
    assert_eq!(one(&[with(3, signed())], &chain(4, Some(2_000), 1_240), OK), Step::Submit);
}

#[test]
fn a_final_report_waits_for_its_window_and_is_activated_then() {
    let reports = [with(3, finalized(99))];
    assert_eq!(one(&reports, &chain(4, Some(1_270), 1_269), OK), Step::Window { active_at: 1_270 });
    assert_eq!(one(&reports, &chain(4, Some(1_270), 1_270), OK), Step::Activate);
    assert_eq!(one(&reports, &chain(4, None, 1_270), OK), Step::Live);
    assert_eq!(one(&reports, &chain(4, Some(1_270), 1_270), Sending::Paused), Step::Activate, "claims go on");
}

#[test]
fn our_activation_is_followed_to_its_end_also_when_the_root_is_live_already() {
    let mut live = with(3, finalized(99));
    live.activate = Some(record(signed()));
    assert_eq!(one(&[live], &chain(4, None, 1_300), OK), Step::Activate);
}

#[test]
fn an_activation_by_somebody_else_is_waited_for() {
    let mut seen = chain(4, Some(1_270), 1_280);
    seen.latest = state(4, None);
    assert!(matches!(one(&[with(3, finalized(99))], &seen, OK), Step::Wait(_)));
}

#[test]
fn the_next_report_activates_the_one_before_on_its_way() {
    let mut next = report(4);
    next.submit = Some(record(OutboxState::Planned));
    let reports = [with(3, finalized(99)), next];
    let all: Vec<_> = steps(&reports, &chain(4, Some(1_270), 1_280), OK).into_iter().map(|(_, step)| step).collect();
    assert_eq!(all, [Step::ActivatedByNext { active_at: 1_270 }, Step::Submit]);
    let all: Vec<_> = steps(&reports, &chain(4, Some(1_270), 1_260), OK).into_iter().map(|(_, step)| step).collect();
    assert!(matches!(all[..], [Step::Window { .. }, Step::Wait(_)]), "{all:?}");
    let first = steps(&reports, &chain(4, Some(1_270), 1_300), OK).remove(0).1;
    assert_eq!(first, Step::Activate, "but not for long");
}

#[test]
fn a_submission_waits_for_an_activation_under_way_because_it_would_make_it_revert() {
    let mut before = with(3, finalized(99));
    before.activate = Some(record(signed()));
    let all: Vec<_> =
        steps(&[before, report(4)], &chain(4, Some(1_270), 1_400), OK).into_iter().map(|(_, step)| step).collect();
    assert!(matches!(all[..], [Step::Activate, Step::Wait(_)]), "{all:?}");
}

#[test]
fn our_own_root_on_chain_is_done_whoever_brought_it_there() {
    assert_eq!(one(&[report(3)], &chain(4, None, 1_300), OK), Step::Live);
    assert_eq!(
        one(&[with(3, failed("WrongEpoch"))], &chain(4, Some(1_400), 1_300), OK),
        Step::Window { active_at: 1_400 }
    );
}

#[test]
fn another_root_on_chain_stops_everything() {
    let mut other = chain(4, None, 1_300);
    other.finalized.live_root = B256::ZERO;
    assert!(matches!(one(&[report(3)], &other, OK), Step::Stuck(Stuck::OtherRoot { .. })));
    let past = one(&[report(3)], &chain(9, None, 1_900), OK);
    assert!(matches!(past, Step::Stuck(Stuck::Parted(_))), "{past:?}");
}

#[test]
fn a_dropped_epoch_is_stuck_and_what_was_built_on_it_goes() {
    let reports = [with(3, finalized(99)), report(4)];
    let all: Vec<_> = steps(&reports, &chain(3, None, 1_300), OK).into_iter().map(|(_, step)| step).collect();
    assert_eq!(all, [Step::Stuck(Stuck::Dropped), Step::Discard]);
    let mut lagging = chain(3, None, 1_300);
    lagging.final_block = 98;
    assert!(matches!(one(&reports[..1], &lagging, OK), Step::Wait(_)), "an endpoint that lags is no proof");
}

#[test]
fn a_revert_that_passes_is_tried_again_and_another_one_waits_for_a_person() {
    assert_eq!(one(&[with(3, failed("WrongEpoch"))], &chain(3, None, 1_300), OK), Step::Submit);
    let stuck = one(&[with(3, failed("PoolTooSmall"))], &chain(3, None, 1_300), OK);
    assert!(matches!(stuck, Step::Stuck(Stuck::Reverted(_))), "{stuck:?}");
}

#[test]
fn dry_runs_go_when_the_network_sends_again() {
    assert_eq!(one(&[dry(3)], &chain(3, None, 1_300), OK), Step::Discard);
    assert_eq!(one(&[dry(3)], &chain(3, None, 1_300), Sending::DryRun), Step::Held(Sending::DryRun));
}

#[test]
fn the_contracts_next_epoch_is_planned_once_it_is_over() {
    let plan = |after| Next::Plan { epoch: EpochNumber(3), after, pool: Wei(1_000) };
    assert_eq!(next(&[active(2)], &chain(3, None, 1_240), OK), plan(Some(0)));
    assert_eq!(next(&[active(2)], &chain(3, None, 1_239), OK), Next::NotOver { epoch: EpochNumber(3), ends_at: 1_240 });
    assert_eq!(next(&[with(2, finalized(9))], &chain(3, Some(1_250), 1_240), OK), plan(Some(0)), "in the window too");
    assert_eq!(next(&[report(3)], &chain(3, None, 1_400), OK), Next::Busy);
    let first = Next::Plan { epoch: EpochNumber(0), after: None, pool: Wei(1_000) };
    assert_eq!(next(&[], &chain(0, None, 1_060), OK), first);
}

#[test]
fn nothing_is_put_on_top_of_a_total_that_is_not_ours() {
    assert!(matches!(next(&[], &chain(3, None, 1_400), OK), Next::Stuck(Stuck::Parted(_))));
    assert!(matches!(next(&[active(2)], &chain(5, None, 1_400), OK), Next::Stuck(Stuck::Parted(_))));
    let mut quiet = chain(5, None, 1_400);
    (quiet.finalized.live_root, quiet.finalized.live_total) = (root(2), total(2));
    assert!(
        matches!(next(&[active(2)], &quiet, OK), Next::Plan { epoch: EpochNumber(5), .. }),
        "epochs without increase"
    );
    let restarted = next(&[active(2)], &chain(0, None, 1_400), OK);
    assert!(matches!(restarted, Next::Stuck(_) | Next::Busy), "{restarted:?}");
}

#[test]
fn dry_runs_continue_each_other_and_share_one_pool() {
    let reports = [active(2), dry(3)];
    let next = next(&reports, &chain(3, None, 1_400), Sending::DryRun);
    assert_eq!(next, Next::Plan { epoch: EpochNumber(4), after: Some(1), pool: Wei(990) });
}

#[test]
fn a_vote_on_its_way_is_followed_to_its_end_whatever_became_of_the_epoch() {
    let voting = |state| Report { vote: Some(record(state)), ..report(3) };
    assert_eq!(one(&[voting(signed())], &chain(3, None, 1_240), OK), Step::Vote);
    assert_eq!(one(&[voting(signed())], &chain(4, Some(2_000), 1_240), Sending::Paused), Step::Vote);
    assert_eq!(one(&[voting(finalized(9))], &chain(3, None, 1_240), OK), Step::Submit);
    assert_eq!(
        [signed(), finalized(9)].map(|state| voting(state).is_untouched()),
        [false, true],
        "a vote alone does nothing"
    );
}

#[test]
fn a_report_that_another_reporter_carried_is_ours_also_when_the_next_one_is_on_top_of_it() {
    let reports = [report(3), report(4)];
    let all: Vec<_> = steps(&reports, &chain(5, Some(2_000), 1_300), OK).into_iter().map(|(_, step)| step).collect();
    assert_eq!(all, [Step::Live, Step::Window { active_at: 2_000 }]);
}
