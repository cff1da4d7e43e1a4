//! How long after its end an epoch is on chain, and how long a process that was killed takes to know again where it is. A measurement, not a
//! test: a real operator process with its defaults, a real API server, a block every two seconds.
//! `tests/cluster/with-control-plane cargo test --test it operator_epochs::pace -- --ignored --nocapture`

use std::time::{Duration, Instant};

use xdc_grid::{
    api::{contribution_report::ReportState, ids::EpochNumber},
    chain::At,
};

use super::{
    processes::{Options, Process, until},
    stage::Stage,
};

const RUNS: u64 = 5;
/// Seconds of an epoch that are left when the operator starts.
const LEFT: u64 = 20;
const BLOCK: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(240);

fn defaults(name: &str) -> Options<'_> {
    Options { name, lease_seconds: 15, poll_seconds: 2, crash_after: None }
}

/// Blocks as XDC makes them, of which each is as much later as time has passed, until `done`. Seconds that it took.
async fn blocks(stage: &Stage, what: &str, mut done: impl AsyncFnMut() -> bool) -> f64 {
    let begun = Instant::now();
    let mut next = tokio::time::interval(BLOCK);
    let mut seen = tokio::time::interval(Duration::from_millis(50));
    next.tick().await;
    while !done().await {
        assert!(begun.elapsed() < LONGEST, "{what}: {:#?}", stage.reports().await);
        tokio::select! {
            _ = next.tick() => stage.grid.anvil.mine(1).await,
            _ = seen.tick() => {}
        }
    }
    begun.elapsed().as_secs_f64()
}

fn row(what: &str, mut seconds: Vec<f64>) {
    seconds.sort_by(f64::total_cmp);
    let (median, last) = (seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
    println!("| {what} | {median:.1} ({:.1} – {last:.1}) | {} |", seconds[0], seconds.len());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn seconds_from_the_end_of_an_epoch_to_its_report_and_from_a_start_to_knowing() {
    let stage = Stage::set().await;
    let mut times = [(); 4].map(|()| Vec::new());
    for epoch in 0..RUNS {
        let ends = stage.grid.client.parameters().await.unwrap().epoch_end(EpochNumber(epoch));
        stage.grid.anvil.mine_at((ends - LEFT).max(stage.grid.anvil.time().await)).await;
        let mut process = Process::start(&stage, defaults("paced")).await;
        blocks(&stage, "the epoch ends", async || stage.grid.anvil.time().await >= ends).await;
        let sent =
            blocks(&stage, "it is sent", async || stage.report_state(epoch).await >= Some(ReportState::Sent)).await;
        // Dies before it knows what becomes of it, and comes back in the same pod.
        process.kill();
        let included = sent
            + blocks(&stage, "it is in a block", async || stage.state(At::Latest).await.next_epoch.0 > epoch).await;
        let process = Process::start(&stage, defaults("paced")).await;
        let known = blocks(&stage, "the new process knows", async || {
            stage.report_state(epoch).await >= Some(ReportState::Included)
        })
        .await;
        let finalized = included
            + known
            + blocks(&stage, "it is final", async || stage.report_state(epoch).await >= Some(ReportState::Finalized))
                .await;
        for (all, one) in times.iter_mut().zip([sent, included, known, finalized]) {
            all.push(one);
        }
        let pending = stage.state(At::Latest).await.pending.unwrap();
        stage.grid.anvil.mine_at(pending.active_at.max(stage.grid.anvil.time().await)).await;
        until(&stage, "it is live", async || stage.is_live(epoch).await).await;
        drop(process);
    }
    println!("| seconds | median (least – most) | n |\n|---|---|---|");
    let [sent, included, known, finalized] = times;
    row("end of an epoch to its report at an endpoint", sent);
    row("… in a block", included);
    row("start of a process that was killed to the report's state written down", known);
    row("… final, with the kill and the start in between", finalized);
    stage.assert_exactly_once(RUNS).await;
}
