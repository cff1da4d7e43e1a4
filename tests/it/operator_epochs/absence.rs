//! Absence is not illness: while the chain, the gateway or the API server is away nothing is decided, and everything goes on
//! after.

use serde_json::json;
use xdc_grid::{
    api::{
        conditions::Truth,
        contribution_report::{ReportState, condition},
    },
    chain::At,
};

use super::stage::{Life, Stage, jump};
use crate::support::faults::Faults;

/// Looks and mines until the report has reached `state`.
async fn until_state(stage: &Stage, life: &Life, epoch: u64, state: ReportState) {
    stage.end_epoch(epoch).await;
    for _ in 0..60 {
        if stage.report_state(epoch).await >= Some(state) {
            return;
        }
        let _ = life.look().await;
        if stage.report_state(epoch).await >= Some(state) {
            return;
        }
        stage.grid.anvil.mine(1).await;
    }
    panic!("the report of epoch {epoch} is not {state:?}: {:#?}", stage.reports().await);
}

const ON_THE_WAY: [ReportState; 3] = [ReportState::Sent, ReportState::Included, ReportState::Finalized];

#[tokio::test]
async fn while_the_chain_is_away_nothing_is_known_and_nothing_is_lost() {
    let stage = Stage::set().await;
    for (epoch, state) in (0..).zip(ON_THE_WAY) {
        let life = stage.life();
        until_state(&stage, &life, epoch, state).await;
        let before = stage.report(epoch).await.unwrap();
        life.chain.set_away(true);
        for _ in 0..3 {
            life.look().await.unwrap();
        }
        let current = stage.reports_current().await;
        assert_eq!((current.status, current.reason.as_str()), (Truth::Unknown, "RpcUnreachable"));
        let after = stage.report(epoch).await.unwrap();
        let active = stage.report_condition(epoch, condition::ACTIVE).await.unwrap();
        assert_eq!(active.status, Truth::Unknown, "{active:?}");
        let (before, after) = (before.status.unwrap(), after.status.unwrap());
        assert_eq!((after.state, after.submit, after.activate), (before.state, before.submit, before.activate));
        life.chain.set_away(false);
        assert!(stage.epoch_by(&life, epoch).await);
    }
    stage.assert_exactly_once(3).await;
    stage.assert_everybody_is_paid().await;
}

#[tokio::test]
async fn while_the_gateway_is_away_no_epoch_is_planned_and_what_is_on_its_way_goes_on() {
    let stage = Stage::set().await;
    let life = stage.life();
    until_state(&stage, &life, 0, ReportState::Sent).await;
    stage.gateway.set_away(true);
    assert!(stage.epoch_by(&life, 0).await, "a report on its way needs no gateway");
    stage.end_epoch(1).await;
    for _ in 0..3 {
        life.look().await.unwrap();
        stage.grid.anvil.mine(1).await;
    }
    let current = stage.reports_current().await;
    assert_eq!((current.status, current.reason.as_str()), (Truth::Unknown, "GatewayUnavailable"));
    assert!(stage.report(1).await.is_none(), "an epoch that nobody closed is not guessed");
    stage.gateway.set_away(false);
    assert!(stage.epoch_by(&life, 1).await);
    stage.assert_exactly_once(2).await;
}

#[tokio::test]
async fn while_the_api_server_is_away_nothing_leaves_that_is_not_written_down() {
    let stage = Stage::set().await;
    for (epoch, state) in (0..).zip(ON_THE_WAY) {
        let life = stage.life();
        until_state(&stage, &life, epoch, state).await;
        let sent = stage.sent().await;
        life.api.set_away(true);
        for _ in 0..3 {
            assert!(life.look().await.is_err());
            stage.grid.anvil.mine(1).await;
        }
        let mined_meanwhile = u64::from(state == ReportState::Sent);
        assert_eq!(stage.sent().await, sent + mined_meanwhile, "only what was sent before");
        life.api.set_away(false);
        assert!(stage.epoch_by(&life, epoch).await);
    }
    stage.assert_exactly_once(3).await;
}

#[tokio::test]
async fn epochs_that_ended_while_the_operator_was_away_are_reported_in_order() {
    let stage = Stage::set().await;
    stage.end_epoch(4).await;
    let life = stage.life();
    for epoch in 0..5 {
        assert!(stage.epoch_by(&life, epoch).await);
    }
    let submitted = stage.submitted().await;
    assert_eq!(submitted, [0, 1, 2, 3, 4]);
    stage.assert_everybody_is_paid().await;
}

#[tokio::test]
async fn when_the_chain_was_away_for_three_epochs_all_three_are_reported_after_in_order() {
    let stage = Stage::set().await;
    let life = stage.life();
    assert!(stage.epoch_by(&life, 0).await);
    life.chain.set_away(true);
    for epoch in 1..=3 {
        stage.end_epoch(epoch).await;
        life.look().await.unwrap();
        assert_eq!(stage.reports().await.len(), 1, "nothing is planned for a chain that cannot be asked");
    }
    life.chain.set_away(false);
    for epoch in 1..=3 {
        assert!(stage.epoch_by(&life, epoch).await);
    }
    stage.assert_exactly_once(4).await;
    stage.assert_everybody_is_paid().await;
}

#[tokio::test]
async fn a_report_whose_block_is_dropped_is_sent_again_and_counted_once() {
    let stage = Stage::set().await;
    let life = stage.life();
    until_state(&stage, &life, 0, ReportState::Included).await;
    stage.grid.anvil.request("anvil_reorg", json!([1, []])).await;
    assert_eq!(stage.state(At::Latest).await.next_epoch.0, 0, "the report is gone from the chain");
    // Its bytes are sent again when no node has known them for a while.
    for _ in 0..5 {
        life.look().await.unwrap();
        stage.grid.anvil.mine(1).await;
        jump(11);
    }
    assert!(stage.epoch_by(&life, 0).await);
    assert!(stage.epoch_by(&life, 1).await);
    stage.assert_exactly_once(2).await;
    stage.assert_everybody_is_paid().await;
}

#[tokio::test]
async fn an_operator_whose_clock_jumps_reports_every_epoch_once() {
    let stage = Stage::set().await;
    let day = 24 * 3600;
    for (epoch, (state, seconds)) in
        (0..).zip(ON_THE_WAY.into_iter().flat_map(|state| [(state, day), (state, -2 * day), (state, day)]))
    {
        let life = stage.life();
        until_state(&stage, &life, epoch, state).await;
        jump(seconds);
        assert!(stage.epoch_by(&life, epoch).await);
    }
    stage.assert_exactly_once(9).await;
    stage.assert_everybody_is_paid().await;
}

#[tokio::test]
async fn a_lost_question_to_the_chain_changes_nothing() {
    let stage = Stage::set().await;
    let seed: u64 = std::env::var("GRID_FAULT_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let runs: u64 = std::env::var("GRID_FAULT_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(8);
    println!("GRID_FAULT_SEED={seed} GRID_FAULT_RUNS={runs}");
    for epoch in 0..runs.min(300) {
        // Three lost questions somewhere among the first two hundred of each epoch.
        let lost: Vec<usize> = (0..3u64)
            .map(|n| blake3::hash(format!("{seed}/{epoch}/{n}").as_bytes()).as_bytes()[0] as usize % 200)
            .collect();
        let chosen = lost.clone();
        let faults = Faults::choosing(move |call| {
            chosen.contains(&call.index).then_some(crate::support::faults::Fault::LoseRequest)
        });
        let life = stage.life_with(Faults::none(), faults);
        assert!(stage.epoch_by(&life, epoch).await, "lost {lost:?} of epoch {epoch}");
        assert_eq!(stage.sent().await, 2 * (epoch + 1), "lost {lost:?} of epoch {epoch}");
    }
    stage.assert_exactly_once(runs.min(300)).await;
}
