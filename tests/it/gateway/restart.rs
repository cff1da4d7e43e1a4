//! A gateway that ends in the middle of everything loses nothing.

use xdc_grid::protocol::internal::{JobState, NodeMode, NodeRole};

use super::harness::Harness;

const COMPUTE: &[NodeRole] = &[NodeRole::Compute];

#[tokio::test]
async fn a_restart_in_mid_job_goes_on_where_it_was() {
    let h = Harness::start().await;
    let worker = h.worker_of("a", COMPUTE, NodeMode::Managed, 2).await;
    let brake = worker.brake();
    let prompts = ["one two three", "four five six", "seven eight nine", "ten eleven twelve", "the capital of France"];
    h.job("job-1", &prompts).await;
    brake.add_permits(6);
    h.until("some are done, some run", async || {
        let report = h.report("job-1").await;
        report.completed >= 1 && report.running == 2
    })
    .await;
    let before = h.report("job-1").await;

    let h = h.restart().await;
    let report = h.report("job-1").await;
    // More may have been answered since it was asked before.
    assert!(report.completed >= before.completed && report.running == 0, "{before:?} then {report:?}");
    assert_eq!(h.gateway.network_config(), Some(super::harness::network()));
    h.assert_whole().await;

    // The worker reconnects as it was; its unfinished requests come again under the next attempt.
    brake.add_permits(100);
    h.connect(&worker).await;
    let report = h.finished("job-1").await;
    assert_eq!((report.state, report.completed, report.failed), (JobState::Finished, 5, 0));
    assert_eq!(h.texts("job-1").await[4], " Paris is it.");
    assert_eq!(h.ledger.receipts_of_epoch(h.epoch()).await.unwrap().len(), 5);
    h.assert_whole().await;
}

#[tokio::test]
async fn owed_audits_and_evidence_survive_a_restart() {
    let h = Harness::start().await;
    let verifier = h.worker_of("verifier", &[NodeRole::Verify], NodeMode::Managed, 0).await;
    h.disconnect(&verifier).await;
    let worker = h.worker("a", COMPUTE).await;
    h.job("job-1", &["one two three"]).await;
    h.until("the audit is pending", async || h.report("job-1").await.reason == "AuditsPending").await;
    let h = h.restart().await;
    assert_eq!(h.report("job-1").await.audits_owed, 1);
    h.connect(&verifier).await;
    assert_eq!(h.finished("job-1").await.audits_passed, 1);
    let h = h.restart().await;
    let node = h.node(&worker).await;
    assert_eq!(node.evidence.audits_passed, 1);
    assert!(node.capability.verified, "what was proven stays proven");
}
