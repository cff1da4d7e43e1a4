//! Paid jobs: what they spend, where they stop, and in which epoch they are counted.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use xdc_grid::{
    api::ids::{EpochNumber, EscrowId, Wei},
    protocol::{
        internal::{
            ApiError, EpochTotals, JobControl, JobPayment, JobState, NodeRole, OpenPayment, SettledPayment, TokenPrice,
        },
        statement::CountedReceipt,
    },
};

use super::harness::{EPOCH_SECONDS, Harness, spec};

const COMPUTE: &[NodeRole] = &[NodeRole::Compute];
const ESCROW: EscrowId = EscrowId([8; 32]);
/// Answered with three tokens.
const PROMPT: &str = "one two three";

/// One wei for each token that is written.
fn payment(max_spend: u128) -> JobPayment {
    let price = TokenPrice { prompt: Wei(0), output: Wei(1_000_000) };
    JobPayment { escrow: ESCROW, max_spend: Wei(max_spend), deadline: u64::MAX, price }
}

async fn open(h: &Harness) -> Vec<OpenPayment> {
    h.get("/payments").await
}

async fn settle(h: &Harness, spent: u128) -> StatusCode {
    let settled = SettledPayment { spent: Wei(spent), fee_bps: 500 };
    h.request(Method::PUT, &format!("/payments/{ESCROW}")).json(&settled).send().await.unwrap().status()
}

async fn close(h: &Harness, epoch: u64) -> EpochTotals {
    serde_json::from_slice(&h.gateway.close_epoch(EpochNumber(epoch)).await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_job_that_has_spent_all_it_may_starts_nothing_new_and_owes_no_wei_more() {
    let h = Harness::start().await;
    h.worker("a", COMPUTE).await;
    let prompts: Vec<String> = (0..40).map(|n| format!("{PROMPT} {n}")).collect();
    let prompts: Vec<&str> = prompts.iter().map(String::as_str).collect();
    h.job_with("job-1", &prompts, |spec| spec.payment = Some(payment(7))).await;
    h.until("it stops", async || {
        let report = h.report("job-1").await;
        report.reason == "SpendLimitReached" && report.running == 0
    })
    .await;
    let stopped = h.report("job-1").await;
    let spend = stopped.spend.unwrap();
    assert!(stopped.completed >= 1 && stopped.completed < 40, "{stopped:?}");
    assert_eq!((spend.spent, spend.used_up), (Wei(7), true), "never more than it may");
    assert!(open(&h).await.is_empty(), "it is not over");

    let cancel = JobControl { cancelled: true, ..JobControl::default() };
    h.gateway.control_job("job-1", &cancel).await.unwrap();
    let ended = h.finished("job-1").await;
    assert_eq!(ended.state, JobState::Cancelled);
    // An answer that was being offered when the job was looked at may have come since; it is not charged.
    assert!(ended.completed >= stopped.completed, "what is finished is kept: {ended:?}");
    let owed = open(&h).await;
    assert_eq!((owed.len(), owed[0].spent, owed[0].payment.escrow), (1, Wei(7), ESCROW));
    h.assert_whole().await;
}

#[tokio::test]
async fn a_paid_job_is_counted_once_in_the_first_epoch_that_closes_after_its_escrow_is_settled() {
    let h = Harness::start().await;
    let worker = h.worker("a", COMPUTE).await;
    h.job("free", &[PROMPT]).await;
    h.job_with("paid", &[PROMPT, PROMPT], |spec| spec.payment = Some(payment(1_000))).await;
    h.finished("free").await;
    let done = h.finished("paid").await;
    assert_eq!(done.spend.unwrap().spent, Wei(u128::from(done.output_tokens)));

    let epoch = h.epoch();
    h.pass(Duration::from_secs(EPOCH_SECONDS + 6));
    let first = close(&h, epoch).await;
    assert_eq!((first.receipts, first.jobs.len()), (1, 0), "nobody knows yet what the paid work earns");

    let spent = done.spend.unwrap().spent.0;
    assert_eq!(settle(&h, spent).await, StatusCode::NO_CONTENT);
    assert_eq!(settle(&h, spent).await, StatusCode::NO_CONTENT, "again changes nothing");
    assert_eq!(settle(&h, spent + 1).await, StatusCode::CONFLICT);
    assert!(open(&h).await.is_empty());
    assert_eq!(h.report("paid").await.spend.unwrap().settled.unwrap().spent, Wei(spent));

    h.pass(Duration::from_secs(EPOCH_SECONDS));
    let second = close(&h, epoch + 1).await;
    let [job] = second.jobs.as_slice() else { panic!("{second:?}") };
    assert_eq!((job.escrow, job.spent, job.fee_bps), (ESCROW, Wei(spent), 500));
    let node = second.nodes.iter().find(|node| node.requests > 0).unwrap();
    assert_eq!((node.requests, node.units.as_str()), (2, "0"), "its units are the job's, and no unpaid work");
    let units = 3 * (8 * done.output_tokens + done.prompt_tokens);
    assert_eq!((job.served.len(), job.served[0].units.clone()), (1, units.to_string()));
    assert_eq!(job.served[0].address, worker.key.address());

    let statement = h.request(Method::GET, &format!("/epochs/{}/statement", epoch + 1)).send().await.unwrap();
    let text = zstd::decode_all(&*statement.bytes().await.unwrap()).unwrap();
    let lines = std::str::from_utf8(&text).unwrap().lines().skip(1);
    let counted: Vec<CountedReceipt> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(counted.len() == 2 && counted.iter().all(|receipt| receipt.escrow == Some(ESCROW)));

    h.pass(Duration::from_secs(EPOCH_SECONDS));
    let third = close(&h, epoch + 2).await;
    assert_eq!((third.receipts, third.jobs.len()), (0, 0), "once");
    h.assert_whole().await;
}

#[tokio::test]
async fn what_an_escrow_did_not_pay_is_unpaid_work() {
    let h = Harness::start().await;
    h.worker("a", COMPUTE).await;
    h.job_with("paid", &[PROMPT], |spec| spec.payment = Some(payment(1_000))).await;
    h.finished("paid").await;
    settle(&h, 0).await;
    let epoch = h.epoch();
    h.pass(Duration::from_secs(EPOCH_SECONDS + 6));
    let totals = close(&h, epoch).await;
    assert_eq!((totals.jobs.len(), totals.receipts), (0, 1));
    assert_ne!(totals.nodes.iter().find(|node| node.requests > 0).unwrap().units, "0");
}

#[tokio::test]
async fn an_escrow_pays_one_job_and_a_deleted_one_is_settled_all_the_same() {
    let h = Harness::start().await;
    h.worker("a", COMPUTE).await;
    h.job_with("first", &[PROMPT], |spec| spec.payment = Some(payment(1_000))).await;
    let spent = h.finished("first").await.spend.unwrap().spent;
    h.gateway.delete_job("first").await.unwrap();
    assert_eq!(open(&h).await.first().map(|open| open.spent), Some(spent));

    let mut again = spec(1);
    again.payment = Some(payment(1_000));
    let response = h.request(Method::PUT, "/jobs/second").json(&again).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CONFLICT);
    assert_eq!(response.json::<ApiError>().await.unwrap().reason, "EscrowTaken");
    h.assert_whole().await;
}
