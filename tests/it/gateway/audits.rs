//! Audits: who is caught, who is not blamed, what happens to the work.

use std::{sync::atomic::Ordering, time::Duration};

use xdc_grid::{
    api::ids::{EpochNumber, RequestId},
    protocol::internal::{EpochTotals, JobState, NodeMode, NodeRole},
    store::AuditState,
};

use super::{
    harness::{EPOCH_SECONDS, Harness},
    workers::Script,
};

const COMPUTE: &[NodeRole] = &[NodeRole::Compute];
const VERIFY: &[NodeRole] = &[NodeRole::Compute, NodeRole::Verify];
/// Replays, and takes no requests: its answers could not be audited by anybody.
const ONLY_VERIFY: &[NodeRole] = &[NodeRole::Verify];

async fn verifier(h: &Harness) -> std::sync::Arc<super::workers::FakeWorker> {
    h.worker_of("verifier", ONLY_VERIFY, NodeMode::Managed, 0).await
}

#[tokio::test]
async fn a_new_nodes_answers_are_all_audited_before_the_job_is_finished() {
    let h = Harness::start().await;
    let verifier = verifier(&h).await;
    let worker = h.worker("a", COMPUTE).await;
    h.job("job-1", &["one two three", "the capital of France"]).await;
    let report = h.finished("job-1").await;
    assert_eq!((report.audits_owed, report.audits_passed, report.audits_failed), (0, 2, 0));
    assert_eq!(verifier.audits.load(Ordering::Relaxed), 2);
    let node = h.node(&worker).await;
    assert_eq!((node.evidence.audits_passed, node.evidence.quarantined), (2, false));
    h.assert_whole().await;
}

#[tokio::test]
async fn a_rejected_answer_is_made_again_elsewhere_and_pays_nothing() {
    let h = Harness::start().await;
    let _verifier = verifier(&h).await;
    let cheat = h.worker_of("cheat", COMPUTE, NodeMode::Managed, 1).await;
    cheat.set(Script::Cheat);
    h.job("job-1", &["the capital of France"]).await;
    h.until("the cheat was caught", async || h.node(&cheat).await.evidence.audits_failed == 1).await;
    assert_eq!(h.report("job-1").await.completed, 0);
    let sound = h.worker("sound", COMPUTE).await;
    let report = h.finished("job-1").await;
    assert_eq!((report.audits_failed, report.audits_passed), (1, 1));
    assert_eq!(h.texts("job-1").await, [" Paris is it."]);
    assert_eq!(h.node(&cheat).await.current_epoch.requests, 0);
    assert_eq!(h.node(&sound).await.current_epoch.requests, 1);
    h.assert_whole().await;
}

#[tokio::test]
async fn a_node_that_cheats_twice_is_quarantined_and_earns_nothing() {
    let h = Harness::start().await;
    let verifier = verifier(&h).await;
    let cheat = h.worker_of("cheat", COMPUTE, NodeMode::Managed, 4).await;
    cheat.set(Script::Cheat);
    let sound = h.worker_of("sound", COMPUTE, NodeMode::Managed, 1).await;
    let prompts: Vec<String> = (0..8).map(|i| format!("say number {i}")).collect();
    h.job("job-1", &prompts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let report = h.finished("job-1").await;
    assert_eq!((report.state, report.completed), (JobState::Finished, 8));
    assert_eq!(report.nodes.len(), 1, "{report:?}");
    let node = h.node(&cheat).await;
    assert!(node.evidence.quarantined && node.evidence.log10_e >= 3.0, "{:?}", node.evidence);
    assert!(!node.evidence.message.is_empty());
    assert!(verifier.audits.load(Ordering::Relaxed) >= 2);

    // It gets nothing more.
    let before = cheat.starts.lock().unwrap().len();
    h.job("job-2", &["one two three"]).await;
    h.finished("job-2").await;
    assert_eq!(cheat.starts.lock().unwrap().len(), before);

    h.pass(Duration::from_secs(EPOCH_SECONDS + 6));
    let totals: EpochTotals = serde_json::from_slice(&close(&h, h.epoch() - 1).await).unwrap();
    let of = |name: &str| totals.nodes.iter().find(|node| node.node_name == name).unwrap();
    assert_eq!((of("cheat").eligible, of("cheat").units.as_str()), (false, "0"));
    assert_eq!(of("cheat").reason, "Quarantined");
    assert!(of("sound").eligible && of("sound").requests == 9);
    assert_ne!(of("sound").units, "0");
    assert!(h.node(&sound).await.last_epoch.requests == 9);
    h.assert_whole().await;
}

async fn close(h: &Harness, epoch: u64) -> Vec<u8> {
    h.gateway.close_epoch(EpochNumber(epoch)).await.unwrap()
}

#[tokio::test]
async fn a_failing_verifier_never_counts_against_a_node() {
    let h = Harness::start().await;
    let verifier = verifier(&h).await;
    *verifier.audits_fail.lock().unwrap() = true;
    let worker = h.worker("a", COMPUTE).await;
    h.job("job-1", &["one two three"]).await;
    let report = h.finished("job-1").await;
    assert_eq!((report.completed, report.audits_failed), (1, 0));
    let node = h.node(&worker).await;
    assert_eq!((node.evidence.audits_inconclusive, node.evidence.log10_e), (1, 0.0));
    let audits = h.ledger.audits_of(&RequestId::of_job_line("job-1", "line-0")).await.unwrap();
    assert_eq!((audits[0].state, audits[0].reason.as_str()), (AuditState::Inconclusive, "VerifierFailed"));
    // Not the node's fault: its work is paid.
    h.pass(Duration::from_secs(EPOCH_SECONDS + 6));
    let totals: EpochTotals = serde_json::from_slice(&close(&h, h.epoch() - 1).await).unwrap();
    assert_eq!(totals.nodes.iter().find(|node| node.node_name == "a").unwrap().requests, 1);
}

#[tokio::test]
async fn an_audit_waits_for_its_verifier_until_its_deadline() {
    let h = Harness::start().await;
    let verifier = verifier(&h).await;
    h.disconnect(&verifier).await;
    h.worker("a", COMPUTE).await;
    h.job("job-1", &["one two three"]).await;
    h.until("the audit is pending", async || h.report("job-1").await.reason == "AuditsPending").await;
    h.pass(h.settings.audit_timeout);
    let report = h.finished("job-1").await;
    assert_eq!((report.completed, report.audits_owed, report.audits_passed), (1, 0, 0));
}

#[tokio::test]
async fn a_node_is_never_its_own_verifier() {
    let h = Harness::start().await;
    let alone = h.worker("alone", VERIFY).await;
    h.job("job-1", &["one two three"]).await;
    assert_eq!(h.finished("job-1").await.audits_passed, 0);
    assert_eq!(alone.audits.load(Ordering::Relaxed), 0);
    assert_eq!(h.node(&alone).await.evidence.audits_inconclusive, 1);
}

#[tokio::test]
async fn a_made_up_kernel_profile_is_not_a_way_to_be_paid() {
    let h = Harness::start().await;
    let _verifier = verifier(&h).await;
    let stranger = h.worker("stranger", COMPUTE).await;
    *stranger.profile.lock().unwrap() = "made-up/9".into();
    h.until("its profile is known", async || h.node(&stranger).await.models[0].kernel_profile == "made-up/9").await;
    h.job("job-1", &["one two three"]).await;
    h.finished("job-1").await;
    assert_eq!(h.node(&stranger).await.evidence.audits_inconclusive, 1);
    h.pass(Duration::from_secs(EPOCH_SECONDS + 6));
    let totals: EpochTotals = serde_json::from_slice(&close(&h, h.epoch() - 1).await).unwrap();
    let node = totals.nodes.iter().find(|node| node.node_name == "stranger").unwrap();
    assert_eq!((node.requests, node.units.as_str()), (0, "0"));
    h.assert_whole().await;
}

#[tokio::test]
async fn an_external_node_answers_canaries_before_anybodys_work() {
    let h = Harness::start().await;
    let _verifier = verifier(&h).await;
    let external = h.worker_of("home", COMPUTE, NodeMode::External, 2).await;
    h.job("job-1", &["one two three"]).await;
    h.until("it is proven", async || h.node(&external).await.capability.verified).await;
    assert_eq!(h.finished("job-1").await.completed, 1);
    let starts = external.starts.lock().unwrap().clone();
    assert_eq!(starts.len(), 3);
    assert!(starts[2].messages[0].content.contains("one two"), "the job came last");
    // Canaries are unpaid.
    h.pass(Duration::from_secs(EPOCH_SECONDS + 6));
    let totals: EpochTotals = serde_json::from_slice(&close(&h, h.epoch() - 1).await).unwrap();
    assert_eq!(totals.nodes.iter().find(|node| node.node_name == "home").unwrap().requests, 1);
    h.assert_whole().await;
}

#[tokio::test]
async fn a_cheating_stranger_never_gets_past_its_canaries() {
    let h = Harness::start().await;
    let _verifier = verifier(&h).await;
    let cheat = xdc_cheat(&h).await;
    h.until("it was caught", async || h.node(&cheat).await.evidence.audits_failed >= 1).await;
    let node = h.node(&cheat).await;
    assert_eq!((node.capability.verified, node.capability.reason.as_str()), (false, "ProbationPending"));
    h.job("job-1", &["one two three"]).await;
    assert_eq!(h.report("job-1").await.reason, "NoMatchingNode");
}

async fn xdc_cheat(h: &Harness) -> std::sync::Arc<super::workers::FakeWorker> {
    let worker = super::workers::FakeWorker::new(&super::harness::network_id(), 2);
    worker.set(Script::Cheat);
    h.join(&worker, "cheat", COMPUTE, NodeMode::External).await;
    worker
}
