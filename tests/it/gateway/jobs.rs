//! Jobs from input to results, whatever the workers do.

use std::sync::atomic::Ordering;

use reqwest::Method;
use xdc_grid::protocol::{
    internal::{JobControl, JobState, NodeMode, NodeRole},
    receipt::{Acceptance, signer_of},
};

use super::{
    harness::{Harness, network_id, settings},
    workers::{Script, refused},
};

const COMPUTE: &[NodeRole] = &[NodeRole::Compute];

#[tokio::test]
async fn a_job_runs_on_all_workers_and_its_results_are_in_input_order() {
    let h = Harness::start().await;
    let (a, b) = (h.worker("a", COMPUTE).await, h.worker("b", COMPUTE).await);
    let prompts: Vec<String> = (0..12).map(|i| format!("say number {i}")).collect();
    h.job("job-1", &prompts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let report = h.finished("job-1").await;
    assert_eq!((report.state, report.completed, report.failed), (JobState::Finished, 12, 0));
    assert_eq!(report.nodes.iter().map(|node| node.requests).sum::<u32>(), 12);
    assert_eq!(report.output_tokens, 36);
    assert!(report.started_at_ms > 0 && report.finished_at_ms >= report.started_at_ms);
    assert_eq!(report.receipts_root.len(), 64);
    let texts = h.texts("job-1").await;
    assert_eq!(texts, prompts.iter().map(|prompt| format!(" {prompt}")).collect::<Vec<_>>());
    assert_eq!(a.starts.lock().unwrap().len() + b.starts.lock().unwrap().len(), 12);
    h.assert_whole().await;
}

#[tokio::test]
async fn the_worker_gets_a_countersignature_over_its_receipt() {
    let h = Harness::start().await;
    let worker = h.worker("a", COMPUTE).await;
    h.job("job-1", &["the capital of France"]).await;
    h.finished("job-1").await;
    h.until("the acknowledgement", async || !worker.acks.lock().unwrap().is_empty()).await;
    let ack = worker.acks.lock().unwrap()[0].clone();
    assert_eq!(ack.epoch, h.epoch());
    let (hash, ..) = h.ledger.receipts_of_epoch(ack.epoch).await.unwrap().remove(0);
    let acceptance = Acceptance { receipt: hash.into(), epoch: ack.epoch };
    assert_eq!(signer_of(&acceptance, &network_id(), &ack.signature), Some(h.key.address()));
}

#[tokio::test]
async fn a_worker_that_dies_in_mid_stream_costs_nothing_but_time() {
    let h = Harness::start().await;
    let dying = h.worker("dying", COMPUTE).await;
    dying.set(Script::DieAfter(1));
    let sound = h.worker("sound", COMPUTE).await;
    h.job("job-1", &["one two three", "four five six", "seven eight nine", "the capital of France"]).await;
    let report = h.finished("job-1").await;
    assert_eq!((report.completed, report.failed), (4, 0));
    assert_eq!(report.nodes.len(), 1);
    assert_eq!((report.nodes[0].node_name.as_str(), report.nodes[0].requests), ("sound", 4));
    // Nothing is paid twice, and nothing to the one that died.
    assert_eq!(h.ledger.receipts_of_epoch(h.epoch()).await.unwrap().len(), 4);
    assert_eq!(h.node(&dying).await.current_epoch.requests, 0);
    let again = sound.starts.lock().unwrap().iter().filter(|start| start.attempt > 1).count();
    assert!(again > 0, "the lost requests came back under a new attempt");
    h.assert_whole().await;
}

#[tokio::test]
async fn a_worker_that_falls_silent_loses_its_lease() {
    let mut short = settings();
    short.heartbeat_limit = std::time::Duration::from_secs(1);
    let h = Harness::start_with(short).await;
    let silent = h.worker_of("silent", COMPUTE, NodeMode::Managed, 1).await;
    silent.set(Script::SilentAfter(1));
    h.job("job-1", &["one two three"]).await;
    h.until("it has the request", async || !silent.starts.lock().unwrap().is_empty()).await;
    h.worker("sound", COMPUTE).await;
    assert_eq!(h.finished("job-1").await.nodes[0].node_name, "sound");
    h.until("it was told", async || silent.cancels.load(Ordering::Relaxed) == 1).await;
    h.assert_whole().await;
}

#[tokio::test]
async fn heartbeats_without_tokens_do_not_keep_a_lease_for_ever() {
    let mut short = settings();
    short.stall = std::time::Duration::from_millis(500);
    let h = Harness::start_with(short).await;
    let stalling = h.worker("stalling", COMPUTE).await;
    stalling.set(Script::Stall);
    h.job_with("job-1", &["one two three"], |spec| spec.max_attempts = 1).await;
    let report = h.finished("job-1").await;
    assert_eq!((report.failed, report.last_failures[0].reason.as_str()), (1, "Stalled"));
    h.assert_whole().await;
}

#[tokio::test]
async fn a_receipt_that_counts_too_much_is_not_taken() {
    let h = Harness::start().await;
    let greedy = h.worker("greedy", COMPUTE).await;
    greedy.set(Script::Overcount);
    h.job_with("job-1", &["one two three"], |spec| spec.max_attempts = 2).await;
    let report = h.finished("job-1").await;
    assert_eq!((report.completed, report.failed), (0, 1));
    assert_eq!(report.last_failures[0].reason, "InvalidReceipt");
    assert!(report.last_failures[0].message.contains("counts other tokens"), "{report:?}");
    assert_eq!(greedy.starts.lock().unwrap().len(), 2);
    assert!(greedy.acks.lock().unwrap().is_empty());
    h.assert_whole().await;
}

#[tokio::test]
async fn a_request_that_no_worker_can_take_fails_with_the_workers_reason() {
    let h = Harness::start().await;
    let worker = h.worker("a", COMPUTE).await;
    worker.set(Script::Fail(refused("PromptRefused", 0)));
    h.job("job-1", &["one two three"]).await;
    let report = h.finished("job-1").await;
    assert_eq!(report.last_failures[0].reason, "PromptRefused");
    assert_eq!(worker.starts.lock().unwrap().len(), 1, "nobody else would do better");
}

#[tokio::test]
async fn a_request_larger_than_every_context_fails_at_once() {
    let h = Harness::start().await;
    h.worker("a", COMPUTE).await;
    let long = "word ".repeat(4000);
    h.job("job-1", &[&long, "short one"]).await;
    let report = h.finished("job-1").await;
    assert_eq!((report.completed, report.failed), (1, 1));
    assert_eq!(report.last_failures[0].reason, "ContextExceeded");
}

#[tokio::test]
async fn a_busy_worker_is_asked_again_and_nothing_counts_as_a_try() {
    let h = Harness::start().await;
    let worker = h.worker("a", COMPUTE).await;
    worker.set(Script::Reject(refused("Busy", 100)));
    h.job_with("job-1", &["one two three"], |spec| spec.max_attempts = 1).await;
    h.until("it was offered", async || h.report("job-1").await.reason == "WaitingForCapacity").await;
    worker.set(Script::Honest);
    assert_eq!(h.finished("job-1").await.completed, 1);
}

#[tokio::test]
async fn a_job_says_why_it_waits() {
    let h = Harness::start().await;
    h.job("job-1", &["one two three"]).await;
    let report = h.report("job-1").await;
    assert_eq!((report.state, report.reason.as_str()), (JobState::Queued, "NoWorkerForModel"));
    assert!(report.message.contains("tiny"), "{}", report.message);

    h.request(Method::DELETE, "/jobs/job-1").send().await.unwrap();
    let worker = h.worker_of("a", COMPUTE, NodeMode::Managed, 1).await;
    let brake = worker.brake();
    h.job("job-4", &["one two three"]).await;
    h.until("the first runs", async || h.report("job-4").await.running == 1).await;
    h.job("job-2", &["four five six"]).await;
    h.until("the second waits", async || h.report("job-2").await.reason == "WaitingForCapacity").await;
    brake.add_permits(100);
    h.finished("job-4").await;
    assert_eq!(h.finished("job-2").await.reason, "");

    h.job_with("job-3", &["x y"], |spec| spec.model = xdc_grid::api::ids::ModelDigest([5; 32])).await;
    assert_eq!(h.report("job-3").await.reason, "ModelNotReady");
}

#[tokio::test]
async fn suspending_stops_new_leases_and_keeps_what_runs() {
    let h = Harness::start().await;
    let worker = h.worker_of("a", COMPUTE, NodeMode::Managed, 1).await;
    let brake = worker.brake();
    h.job("job-1", &["one two three", "four five six"]).await;
    h.until("one runs", async || h.report("job-1").await.running == 1).await;
    let control = JobControl { suspended: true, ..JobControl::default() };
    h.request(Method::PATCH, "/jobs/job-1").json(&control).send().await.unwrap();
    brake.add_permits(100);
    h.until("it ended", async || h.report("job-1").await.completed == 1).await;
    let report = h.report("job-1").await;
    assert_eq!((report.state, report.running), (JobState::Suspended, 0));
    assert_eq!(worker.starts.lock().unwrap().len(), 1);
    h.request(Method::PATCH, "/jobs/job-1").json(&JobControl::default()).send().await.unwrap();
    assert_eq!(h.finished("job-1").await.completed, 2);
}

#[tokio::test]
async fn cancelling_tells_the_worker_and_keeps_finished_work() {
    let h = Harness::start().await;
    let worker = h.worker_of("a", COMPUTE, NodeMode::Managed, 1).await;
    let brake = worker.brake();
    brake.add_permits(3);
    h.job("job-1", &["one two three", "four five six", "seven eight"]).await;
    h.until("one is done, one runs", async || {
        let report = h.report("job-1").await;
        report.completed == 1 && report.running == 1
    })
    .await;
    let control = JobControl { cancelled: true, ..JobControl::default() };
    h.request(Method::PATCH, "/jobs/job-1").json(&control).send().await.unwrap();
    let report = h.finished("job-1").await;
    assert_eq!(report.state, JobState::Cancelled);
    assert_eq!((report.completed, report.failed), (1, 2), "{report:?}");
    assert!(report.last_failures.iter().all(|failure| failure.reason == "Cancelled"));
    h.until("the worker was told", async || worker.cancels.load(Ordering::Relaxed) == 1).await;
    h.assert_whole().await;
}

#[tokio::test]
async fn parallelism_bounds_what_runs_at_once() {
    let h = Harness::start().await;
    let worker = h.worker_of("a", COMPUTE, NodeMode::Managed, 8).await;
    let brake = worker.brake();
    let response = h.request(Method::PUT, "/jobs/job-1").json(&super::harness::spec(6)).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let control = JobControl { parallelism: 2, ..JobControl::default() };
    h.request(Method::PATCH, "/jobs/job-1").json(&control).send().await.unwrap();
    let input = super::harness::input(&["a b", "c d", "e f", "g h", "i j", "k l"]);
    h.request(Method::PUT, "/jobs/job-1/input").body(input).send().await.unwrap();
    h.until("two run", async || h.report("job-1").await.running == 2).await;
    for _ in 0..12 {
        brake.add_permits(1);
        assert!(h.report("job-1").await.running <= 2);
    }
    assert_eq!(h.finished("job-1").await.completed, 6);
}

#[tokio::test]
async fn parallelism_changes_while_a_job_runs() {
    let h = Harness::start().await;
    let worker = h.worker_of("a", COMPUTE, NodeMode::Managed, 8).await;
    let brake = worker.brake();
    h.request(Method::PUT, "/jobs/job-1").json(&super::harness::spec(6)).send().await.unwrap();
    let steer = async |parallelism: u32| {
        let control = JobControl { parallelism, ..JobControl::default() };
        h.request(Method::PATCH, "/jobs/job-1").json(&control).send().await.unwrap();
    };
    steer(1).await;
    let input = super::harness::input(&["a b", "c d", "e f", "g h", "i j", "k l"]);
    h.request(Method::PUT, "/jobs/job-1/input").body(input).send().await.unwrap();
    h.until("one runs", async || h.report("job-1").await.running == 1).await;
    steer(4).await;
    h.until("four run", async || h.report("job-1").await.running == 4).await;
    // A lower number takes nothing away: what runs ends, and nothing new starts before there is room.
    steer(1).await;
    assert_eq!(h.report("job-1").await.running, 4);
    brake.add_permits(6);
    h.until("two more ended", async || h.report("job-1").await.completed >= 2).await;
    assert!(worker.starts.lock().unwrap().len() <= 5, "at most one new one beside those that ran");
    steer(0).await;
    brake.add_permits(100);
    assert_eq!(h.finished("job-1").await.completed, 6);
    h.assert_whole().await;
}

#[tokio::test]
async fn a_suspended_job_keeps_what_is_done_over_a_restart_and_goes_on() {
    let h = Harness::start().await;
    let worker = h.worker_of("a", COMPUTE, NodeMode::Managed, 1).await;
    let brake = worker.brake();
    brake.add_permits(3);
    h.job("job-1", &["one two three", "four five six"]).await;
    h.until("one is done", async || h.report("job-1").await.completed == 1).await;
    let suspended = JobControl { suspended: true, ..JobControl::default() };
    h.request(Method::PATCH, "/jobs/job-1").json(&suspended).send().await.unwrap();
    let h = h.restart().await;
    let report = h.report("job-1").await;
    assert_eq!((report.state, report.completed), (JobState::Suspended, 1));
    h.worker("b", COMPUTE).await;
    h.request(Method::PATCH, "/jobs/job-1").json(&JobControl::default()).send().await.unwrap();
    let report = h.finished("job-1").await;
    assert_eq!((report.completed, report.failed), (2, 0));
    assert_eq!(report.nodes.iter().map(|node| node.requests).sum::<u32>(), 2, "{report:?}");
    h.assert_whole().await;
}

#[tokio::test]
async fn a_deadline_is_a_cancellation_and_what_was_answered_stays() {
    let h = Harness::start().await;
    let worker = h.worker_of("a", COMPUTE, NodeMode::Managed, 1).await;
    let brake = worker.brake();
    brake.add_permits(3);
    h.job("job-1", &["one two three", "four five six"]).await;
    h.until("one is done, one runs", async || {
        let report = h.report("job-1").await;
        report.completed == 1 && report.running == 1
    })
    .await;
    // What the operator sends when spec.activeDeadlineSeconds has passed.
    let stopped = JobControl { cancelled: true, ..JobControl::default() };
    h.request(Method::PATCH, "/jobs/job-1").json(&stopped).send().await.unwrap();
    let report = h.finished("job-1").await;
    assert_eq!((report.state, report.completed, report.failed), (JobState::Cancelled, 1, 1));
    assert_eq!(h.texts("job-1").await[0], " one two three");
    // It cannot be taken back.
    h.request(Method::PATCH, "/jobs/job-1").json(&JobControl::default()).send().await.unwrap();
    assert_eq!(h.report("job-1").await.state, JobState::Cancelled);
}

#[tokio::test]
async fn an_unproven_cordoned_or_removed_worker_gets_no_work() {
    let h = Harness::start().await;
    let worker = h.worker("a", COMPUTE).await;
    let mut member = Harness::member(&worker, "a", COMPUTE, NodeMode::Managed);
    member.schedulable = false;
    h.gateway.put_member(member.clone()).await.unwrap();
    h.job("job-1", &["one two three"]).await;
    let report = h.report("job-1").await;
    assert_eq!(report.reason, "NoMatchingNode", "{report:?}");
    member.schedulable = true;
    h.gateway.put_member(member).await.unwrap();
    h.finished("job-1").await;
    h.gateway.remove_member(&worker.peer()).await.unwrap();
    assert_eq!(h.grid.disconnected.lock().unwrap().as_slice(), [worker.peer()]);
    h.job("job-2", &["one two three"]).await;
    assert_eq!(h.report("job-2").await.reason, "NoWorkerForModel");
}

#[tokio::test]
async fn deleting_a_job_forgets_its_text_and_keeps_its_receipts() {
    let h = Harness::start().await;
    h.worker("a", COMPUTE).await;
    h.job("job-1", &["one two three"]).await;
    h.finished("job-1").await;
    let id = xdc_grid::api::ids::RequestId::of_job_line("job-1", "line-0");
    assert!(h.ledger.work(&id).await.unwrap().is_some());
    assert_eq!(h.request(Method::DELETE, "/jobs/job-1").send().await.unwrap().status(), 204);
    assert_eq!(h.request(Method::DELETE, "/jobs/job-1").send().await.unwrap().status(), 204);
    assert_eq!(h.request(Method::GET, "/jobs/job-1").send().await.unwrap().status(), 404);
    assert!(h.ledger.work(&id).await.unwrap().is_none());
    assert_eq!(h.ledger.receipts_of_epoch(h.epoch()).await.unwrap().len(), 1);
    let again = h.request(Method::PUT, "/jobs/job-1").json(&super::harness::spec(1)).send().await.unwrap();
    assert_eq!(again.status(), 409);
    h.assert_whole().await;
}
