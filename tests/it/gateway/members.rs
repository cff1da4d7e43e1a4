//! What a member may be asked, and how much.

use std::time::Duration;

use xdc_grid::protocol::internal::{Member, NodeMode, NodeRole};

use super::{
    harness::{Harness, network_id},
    workers::FakeWorker,
};

const COMPUTE: &[NodeRole] = &[NodeRole::Compute];

#[tokio::test]
async fn a_node_outside_its_windows_is_asked_to_prove_nothing_and_proves_itself_inside_them() {
    let h = Harness::start().await;
    let resting = FakeWorker::new(&network_id(), 2);
    h.join(&resting, "night", COMPUTE, NodeMode::Managed).await;
    let member = |resting_now| Member {
        resting: resting_now,
        schedulable: !resting_now,
        ..Harness::member(&resting, "night", COMPUTE, NodeMode::Managed)
    };
    h.until("proven", async || h.node(&resting).await.capability.verified).await;
    h.gateway.put_member(member(true)).await.unwrap();
    h.disconnect(&resting).await;
    let before = h.ledger.challenge_tallies(h.epoch()).await.unwrap();
    h.connect(&resting).await;
    // Somebody else who connects after it is proven: it had its turn as well.
    h.worker("day", COMPUTE).await;
    let of = |tallies: &[xdc_grid::store::ChallengeTally]| {
        tallies.iter().filter(|tally| tally.address == resting.key.address()).map(|tally| tally.issued).sum::<u64>()
    };
    let after = h.ledger.challenge_tallies(h.epoch()).await.unwrap();
    assert_eq!((of(&before), of(&after)), (1, 1), "every connection is challenged, but not outside the windows");
    h.gateway.put_member(member(false)).await.unwrap();
    h.until("challenged again", async || of(&h.ledger.challenge_tallies(h.epoch()).await.unwrap()) == 2).await;
}

#[tokio::test]
async fn a_node_works_on_no_more_requests_than_its_limit_says() {
    let h = Harness::start().await;
    let (small, large) = (FakeWorker::new(&network_id(), 4), FakeWorker::new(&network_id(), 4));
    let (_one, _other) = (small.brake(), large.brake());
    for (worker, name) in [(&small, "small"), (&large, "large")] {
        h.join(worker, name, COMPUTE, NodeMode::Managed).await;
        h.until("proven", async || h.node(worker).await.capability.verified).await;
    }
    let limited = Member { max_requests: Some(1), ..Harness::member(&small, "small", COMPUTE, NodeMode::Managed) };
    h.gateway.put_member(limited).await.unwrap();
    h.job("job-1", &["a b", "c d", "e f", "g h", "i j", "k l"]).await;
    h.until("all slots that may be used are", async || {
        (h.node(&small).await.running, h.node(&large).await.running) == (1, 4)
    })
    .await;
    h.until("the ledger knows it as well", async || h.report("job-1").await.running == 5).await;
    let report = h.report("job-1").await;
    assert_eq!((report.total, report.running, report.completed), (6, 5, 0), "one waits although a slot is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_closed_and_has_nothing_running_is_given_nothing_more() {
    let h = Harness::start().await;
    let worker = h.worker_of("roller", COMPUTE, NodeMode::Managed, 2).await;
    h.until("proven", async || h.node(&worker).await.capability.verified).await;
    let prompts: Vec<String> = (0..400).map(|n| format!("count to {n}")).collect();
    h.job("job-1", &prompts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let member = |schedulable| Member { schedulable, ..Harness::member(&worker, "roller", COMPUTE, NodeMode::Managed) };
    for _ in 0..40 {
        h.gateway.put_member(member(false)).await.unwrap();
        h.until("nothing runs", async || h.node(&worker).await.is_emptied()).await;
        let before = h.report("job-1").await.completed;
        tokio::time::sleep(Duration::from_millis(3)).await;
        let after = h.report("job-1").await;
        assert_eq!((after.running, after.completed), (0, before), "work came after it was said to be empty");
        h.gateway.put_member(member(true)).await.unwrap();
        assert!(!h.node(&worker).await.is_emptied(), "it may be given work");
        h.until("it works again", async || h.report("job-1").await.completed > before).await;
        if h.report("job-1").await.completed > 300 {
            break;
        }
    }
    h.assert_whole().await;
}
