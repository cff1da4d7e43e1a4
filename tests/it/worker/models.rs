//! From an assignment to a model that serves, and every way that can fail.

use super::{
    gateway::{Blob, TestGateway, advert, parrots},
    parrot::Parrots,
};
use crate::grid::node::eventually;

fn bytes(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

#[tokio::test]
async fn an_assigned_model_is_fetched_checked_measured_and_advertised() {
    let blob = Blob::of(bytes(3_000_000));
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let worker = gateway.worker(parrots(Parrots::default())).await;
    assert_eq!(worker.get("/health").await.0, 200);
    let (status, why) = worker.get("/ready").await;
    assert_eq!(status, 503);
    assert!(why.contains("what to serve"), "{why}");

    let info = gateway.ready(&worker.peer(), &blob, &["Compute"]).await;
    let served = &info.models[0];
    assert_eq!((served.digest.as_slice(), served.context_length), (&blob.digest.0[..], 1000));
    assert_eq!((served.prefill_rate_milli, served.decode_rate_milli), (100_000, 10_500));
    assert_eq!((info.storage_bytes, info.slots, info.region.as_str()), (3_000_000, 2, "test"));
    assert!(info.pending.is_empty() && !info.processor.is_empty() && info.memory_bytes > 0);
    eventually("it is ready", async || worker.get("/ready").await.0 == 200).await;
    assert!(worker.get("/metrics").await.1.contains(r#"grid_peers{role="gateway",transport="#));
    advert(&mut gateway, |info| !info.models.is_empty()).await;
    let kept = worker.data.join("models").join(format!("{}.gguf", blob.digest));
    assert_eq!(std::fs::read(kept).unwrap(), *blob.bytes);
}

#[tokio::test]
async fn a_wrong_digest_is_reported_with_both_values_and_nothing_is_kept() {
    let mut blob = Blob::of(bytes(300_000));
    let actual = blob.digest;
    blob.digest.0[0] ^= 1;
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let worker = gateway.worker(parrots(Parrots::default())).await;
    gateway.assign(&worker.peer(), &blob, &["Compute"]).await;
    let failed = |info: &xdc_grid::protocol::wire::NodeInfo| {
        info.pending.iter().any(|pending| pending.state == "ModelDigestMismatch")
    };
    let info = gateway.info_with(&worker.peer(), failed).await;
    let message = &info.pending[0].message;
    assert!(message.contains(&actual.to_string()) && message.contains(&blob.digest.to_string()), "{message}");
    assert!(info.models.is_empty());
    let kept: Vec<_> = std::fs::read_dir(worker.data.join("models")).unwrap().collect();
    assert!(kept.is_empty(), "{kept:?}");
    eventually("readiness says why", async || worker.get("/ready").await.1.contains("ModelDigestMismatch")).await;
    assert_eq!(worker.get("/ready").await.0, 503);
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let blob = Blob::of(bytes(2_000_000));
    *blob.breaks.lock().await = vec![1_500_000, 700_000];
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let worker = gateway.worker(parrots(Parrots::default())).await;
    gateway.ready(&worker.peer(), &blob, &["Compute"]).await;
    assert_eq!(*blob.asked.lock().await, [0, 700_000, 1_500_000]);
}

#[tokio::test]
async fn a_restarted_worker_uses_the_file_it_has_and_a_rotten_one_is_fetched_again() {
    let blob = Blob::of(bytes(400_000));
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let first = gateway.worker(parrots(Parrots::default())).await;
    gateway.ready(&first.peer(), &blob, &["Compute"]).await;
    let file = first.data.join("models").join(format!("{}.gguf", blob.digest));
    let data = first.data.clone();
    first.worker.drain().await;

    let second = gateway.worker_with(parrots(Parrots::default()), |options| options.data_dir = data.clone()).await;
    gateway.ready(&second.peer(), &blob, &["Compute"]).await;
    assert_eq!(blob.asked.lock().await.len(), 1);
    second.worker.drain().await;

    std::fs::write(&file, b"rotten").unwrap();
    let third = gateway.worker_with(parrots(Parrots::default()), |options| options.data_dir = data).await;
    gateway.ready(&third.peer(), &blob, &["Compute"]).await;
    assert_eq!(blob.asked.lock().await.len(), 2);
}

#[tokio::test]
async fn a_model_that_is_not_assigned_any_more_is_dropped_with_its_file() {
    let blob = Blob::of(bytes(100_000));
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let worker = gateway.worker(parrots(Parrots::default())).await;
    gateway.ready(&worker.peer(), &blob, &["Compute"]).await;
    gateway.node.grid.handle.assign(&worker.peer(), Default::default()).await.unwrap();
    let info = gateway.info_with(&worker.peer(), |info| info.models.is_empty()).await;
    assert!(info.pending.is_empty());
    let folder = worker.data.join("models");
    eventually("the file is gone", async || std::fs::read_dir(&folder).unwrap().next().is_none()).await;
}

#[tokio::test]
async fn an_engine_whose_replay_contradicts_itself_never_serves() {
    let blob = Blob::of(bytes(1000));
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let worker = gateway.worker(parrots(Parrots { inexact: true, ..Parrots::default() })).await;
    gateway.assign(&worker.peer(), &blob, &["Compute"]).await;
    let failed = |info: &xdc_grid::protocol::wire::NodeInfo| {
        info.pending.iter().any(|pending| pending.state == "SelfTestFailed")
    };
    gateway.info_with(&worker.peer(), failed).await;
}

#[tokio::test]
async fn a_model_over_the_limit_is_refused_before_a_byte_of_it_is_taken() {
    let blob = Blob::of(bytes(100_000));
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let small = |options: &mut xdc_grid::worker::WorkerOptions| options.max_model_size = "64Ki".parse().unwrap();
    let worker = gateway.worker_with(parrots(Parrots::default()), small).await;
    gateway.assign(&worker.peer(), &blob, &["Compute"]).await;
    let failed =
        |info: &xdc_grid::protocol::wire::NodeInfo| info.pending.iter().any(|pending| pending.state == "ModelTooLarge");
    gateway.info_with(&worker.peer(), failed).await;
}
