//! Closing epochs over HTTP.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use xdc_grid::{
    gateway::Settings,
    protocol::internal::{ApiError, EpochTotals, Member, NodeMode, NodeRole},
};

#[cfg(feature = "operator")]
use super::harness::network_id;
use super::harness::{EPOCH_SECONDS, Harness, settings};

const ROLES: &[NodeRole] = &[NodeRole::Compute, NodeRole::Storage];

async fn close(h: &Harness, epoch: u64) -> (StatusCode, Vec<u8>) {
    let response = h.request(Method::POST, &format!("/epochs/{epoch}/close")).send().await.unwrap();
    (response.status(), response.bytes().await.unwrap().to_vec())
}

fn reason(body: &[u8]) -> String {
    serde_json::from_slice::<ApiError>(body).unwrap().reason
}

#[tokio::test]
async fn an_epoch_closes_after_its_end_and_grace_and_always_with_the_same_bytes() {
    let h = Harness::start().await;
    h.worker("a", ROLES).await;
    h.job("job-1", &["one two three", "four five six"]).await;
    h.finished("job-1").await;
    h.until("its storage is proven", async || {
        h.get::<Vec<xdc_grid::protocol::internal::NodeReport>>("/nodes").await[0].capability.storage_verified
    })
    .await;
    let epoch = h.epoch();
    let (status, body) = close(&h, epoch).await;
    assert_eq!((status, reason(&body).as_str()), (StatusCode::TOO_EARLY, "EpochNotOver"));
    h.pass(Duration::from_secs(EPOCH_SECONDS + 6));
    let (status, first) = close(&h, epoch).await;
    assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&first));
    let totals: EpochTotals = serde_json::from_slice(&first).unwrap();
    let node = &totals.nodes[0];
    // 3 output tokens and as many prompt tokens as the prompt has bytes, at cost 3, decoded tokens worth 8.
    let units = 3 * (8 * 6 + node.prompt_tokens);
    assert_eq!((node.requests, node.output_tokens, node.units.clone()), (2, 6, units.to_string()));
    assert!(node.eligible && node.capacity_units > 0);
    assert_eq!(node.proven_bytes, super::harness::MODEL_BYTES.len() as u64);
    assert_eq!(totals.audit_secret.len(), 64);

    // Later work, later members and later quarantines change nothing.
    h.job("job-2", &["seven eight nine"]).await;
    h.finished("job-2").await;
    assert_eq!(close(&h, epoch).await, (StatusCode::OK, first.clone()));
    let h = h.restart().await;
    assert_eq!(close(&h, epoch).await, (StatusCode::OK, first));

    h.pass(Duration::from_secs(EPOCH_SECONDS + 6));
    let (_, second) = close(&h, epoch + 1).await;
    let totals: EpochTotals = serde_json::from_slice(&second).unwrap();
    assert_eq!(totals.nodes[0].requests, 1, "a receipt counts in one epoch");
    h.assert_whole().await;
}

#[tokio::test]
async fn an_epoch_with_owed_audits_waits_for_them() {
    let h = Harness::start().await;
    let verifier = h.worker_of("verifier", &[NodeRole::Verify], NodeMode::Managed, 0).await;
    h.disconnect(&verifier).await;
    h.worker("a", ROLES).await;
    h.job("job-1", &["one two three"]).await;
    h.until("answered", async || h.report("job-1").await.completed == 1).await;
    let epoch = h.epoch();
    // The clock of audits is the gateway's: stay before their deadline by moving to the end of the epoch only in the ledger's
    // eyes would be a lie, hence the verifier comes back right before.
    assert_eq!(h.ledger.owed_until(epoch).await.unwrap(), 1);
    h.connect(&verifier).await;
    h.until("audited", async || h.report("job-1").await.audits_passed == 1).await;
    assert_eq!(h.ledger.owed_until(epoch).await.unwrap(), 0);
}

#[tokio::test]
async fn work_of_an_unregistered_node_is_not_paid_later_either() {
    let h = Harness::start().await;
    let worker = h.worker("a", ROLES).await;
    let unregistered = Member { registered: false, ..Harness::member(&worker, "a", ROLES, NodeMode::Managed) };
    h.gateway.put_member(unregistered).await.unwrap();
    h.job("job-1", &["one two three"]).await;
    h.finished("job-1").await;
    h.gateway.put_member(Harness::member(&worker, "a", ROLES, NodeMode::Managed)).await.unwrap();
    let epoch = h.epoch();
    h.pass(Duration::from_secs(EPOCH_SECONDS + 6));
    let totals: EpochTotals = serde_json::from_slice(&close(&h, epoch).await.1).unwrap();
    assert_eq!((totals.nodes[0].requests, totals.nodes[0].eligible), (0, true));
}

#[tokio::test]
async fn a_node_that_has_left_is_paid_for_what_it_did() {
    let h = Harness::start().await;
    let worker = h.worker("a", ROLES).await;
    h.job("job-1", &["one two three"]).await;
    h.finished("job-1").await;
    let epoch = h.epoch();
    h.gateway.remove_member(&worker.peer()).await.unwrap();
    h.pass(Duration::from_secs(EPOCH_SECONDS + 6));
    let totals: EpochTotals = serde_json::from_slice(&close(&h, epoch).await.1).unwrap();
    assert_eq!((totals.nodes[0].requests, totals.nodes[0].eligible, totals.nodes[0].reason.as_str()), (1, true, ""));
}

#[tokio::test]
async fn an_epoch_without_anything_is_empty_and_closes() {
    let h = Harness::start().await;
    let (status, body) = close(&h, 0).await;
    assert_eq!(status, StatusCode::OK);
    assert!(serde_json::from_slice::<EpochTotals>(&body).unwrap().nodes.is_empty());
}

#[tokio::test]
async fn a_grid_that_publishes_gives_a_closed_epochs_statement_to_anybody_under_its_digest() {
    let h = Harness::start_with(Settings { publish_statements: true, ..settings() }).await;
    h.worker("a", ROLES).await;
    h.job("job-1", &["one two three", "four five six"]).await;
    h.finished("job-1").await;
    let epoch = h.epoch();
    let url = format!("{}/grid/v1/statements/{epoch}", h.openai);
    let early = h.client.get(&url).send().await.unwrap();
    assert_eq!(
        (early.status(), reason(&early.bytes().await.unwrap()).as_str()),
        (StatusCode::NOT_FOUND, "EpochNotClosed")
    );
    h.pass(Duration::from_secs(EPOCH_SECONDS + 6));
    let (_, totals) = close(&h, epoch).await;

    let found = h.client.get(&url).send().await.unwrap();
    let digest = blake3::hash(&totals).to_hex().to_string();
    assert_eq!((found.status(), found.url().as_str()), (StatusCode::OK, format!("{url}/{digest}").as_str()));
    assert_eq!(found.headers()["content-type"], "application/zstd");
    assert!(found.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    let tag = found.headers()["etag"].clone();
    let text = zstd::decode_all(&found.bytes().await.unwrap()[..]).unwrap();
    assert_eq!(text.split(|byte| *byte == b'\n').next().unwrap(), totals);
    assert_eq!(text.iter().filter(|byte| **byte == b'\n').count(), 3, "the totals and two receipts");
    let text = String::from_utf8(text).unwrap();
    for secret in ["one two", "four five", "job-1"] {
        assert!(!text.contains(secret) && !text.contains(&hex::encode(secret)), "{secret:?} is in the statement");
    }

    let known = h.client.get(format!("{url}/0x{digest}")).header("if-none-match", tag).send().await.unwrap();
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    let other = h.client.get(format!("{url}/{}", "ab".repeat(32))).send().await.unwrap();
    assert_eq!(
        (other.status(), reason(&other.bytes().await.unwrap()).as_str()),
        (StatusCode::NOT_FOUND, "StatementUnknown")
    );
    assert_eq!(h.client.post(&url).send().await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_grid_that_does_not_publish_says_so() {
    let h = Harness::start().await;
    close(&h, 0).await;
    for path in ["0".to_owned(), format!("0/{}", "ab".repeat(32))] {
        let refused = h.client.get(format!("{}/grid/v1/statements/{path}", h.openai)).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::NOT_FOUND);
        let refused: ApiError = refused.json().await.unwrap();
        assert_eq!(refused.reason, "StatementsNotPublished");
        assert!(refused.message.contains("--publish-statements"), "{}", refused.message);
    }
}

/// As a stranger reads it, who believes nothing but signatures.
#[cfg(feature = "operator")]
#[tokio::test]
async fn the_statement_of_a_closed_epoch_proves_its_totals() {
    use xdc_grid::cli::audit_epoch::{Seen, read_statement};

    let h = Harness::start().await;
    h.worker("a", ROLES).await;
    h.worker("b", ROLES).await;
    h.job("job-1", &["one two three", "four five six", "seven eight nine", "ten eleven twelve"]).await;
    h.finished("job-1").await;
    let epoch = h.epoch();
    let path = format!("/epochs/{epoch}/statement");
    let early = h.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(early.status(), StatusCode::NOT_FOUND);
    assert_eq!(reason(&early.bytes().await.unwrap()), "EpochNotClosed");
    h.pass(Duration::from_secs(EPOCH_SECONDS + 6));
    let (_, totals) = close(&h, epoch).await;
    let statement = h.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(statement.status(), StatusCode::OK);
    let text = zstd::decode_all(&statement.bytes().await.unwrap()[..]).unwrap();
    assert_eq!(text.split(|byte| *byte == b'\n').next().unwrap(), totals);

    let gateway = [h.key.address()];
    let epoch = xdc_grid::api::ids::EpochNumber(epoch);
    let read = read_statement(&text[..], epoch, &network_id(), &gateway, &mut Seen::default(), |_| {}).unwrap();
    assert_eq!(read.differences.listed, []);
    assert_eq!((read.receipts, read.gateways[&gateway[0]]), (4, 4));
    assert_eq!(read.totals, serde_json::from_slice(&totals).unwrap());
    let stranger = [xdc_grid::api::ids::NodeAddress([5; 20])];
    let other = read_statement(&text[..], epoch, &network_id(), &stranger, &mut Seen::default(), |_| {}).unwrap();
    assert!(other.served.is_empty() && !other.differences.listed.is_empty());
}
