//! From an assignment to a model that serves, and every way that can fail.

use xdc_grid::protocol::wire::{BlobRequest, Refused, blob_event};

use super::{
    gateway::{Blob, TestGateway, TestWorker, advert, parrots},
    parrot::Parrots,
};
use crate::grid::node::{PATIENCE, eventually};

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

/// What a worker gives of a blob from an offset, or why not.
async fn given(gateway: &TestGateway, worker: &TestWorker, blob: &Blob, offset: u64) -> Result<Vec<u8>, Refused> {
    let mut stream = gateway.node.grid.handle.open_blob(&worker.peer()).await.unwrap();
    stream.receiver.set_idle(PATIENCE);
    stream.send(&BlobRequest { digest: blob.digest.0.to_vec(), offset }).await.unwrap();
    let (mut total, mut bytes) = (None, Vec::new());
    while let Some(event) = stream.next().await.unwrap() {
        match event.kind.unwrap() {
            blob_event::Kind::Total(announced) => total = Some(announced),
            blob_event::Kind::Chunk(chunk) => bytes.extend(chunk),
            blob_event::Kind::Refused(refused) => return Err(refused),
        }
    }
    assert_eq!(total, Some(blob.bytes.len() as u64));
    Ok(bytes)
}

#[tokio::test]
async fn a_worker_gives_a_gateway_the_files_that_it_is_to_hold_and_no_other() {
    let (blob, other) = (Blob::of(bytes(600_000)), Blob::of(bytes(10)));
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let worker = gateway.worker(parrots(Parrots::default())).await;
    assert_eq!(given(&gateway, &worker, &blob, 0).await.unwrap_err().reason, "BlobNotHere");
    gateway.ready(&worker.peer(), &blob, &["Storage", "Compute"]).await;
    assert_eq!(given(&gateway, &worker, &blob, 0).await.unwrap(), *blob.bytes);
    assert_eq!(given(&gateway, &worker, &blob, 599_000).await.unwrap(), blob.bytes[599_000..]);
    assert_eq!(given(&gateway, &worker, &blob, 600_001).await.unwrap_err().reason, "BeyondTheEnd");
    // Fetched for something else once, and still in the folder.
    std::fs::write(worker.data.join("models").join(format!("{}.gguf", other.digest)), &*other.bytes).unwrap();
    assert_eq!(given(&gateway, &worker, &other, 0).await.unwrap_err().reason, "BlobNotHere");
}

#[tokio::test]
async fn a_file_that_the_gateway_lost_is_kept_and_served_once_the_gateway_has_it_again() {
    let blob = Blob::of(bytes(400_000));
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let first = gateway.worker(parrots(Parrots::default())).await;
    gateway.ready(&first.peer(), &blob, &["Compute"]).await;
    let data = first.data.clone();
    first.worker.drain().await;

    let second = gateway.worker_with(parrots(Parrots::default()), |options| options.data_dir = data).await;
    gateway.assign_as(&second.peer(), &blob, 0, &["Compute"]).await;
    eventually("it waits for nothing", async || second.get("/ready").await.0 == 200).await;
    let info = gateway.info_with(&second.peer(), |_| true).await;
    assert!(info.models.is_empty() && info.pending.is_empty(), "{info:?}");
    assert_eq!(given(&gateway, &second, &blob, 0).await.unwrap(), *blob.bytes);

    gateway.ready(&second.peer(), &blob, &["Compute"]).await;
    assert_eq!(blob.asked.lock().await.len(), 1, "it had the file all the time");
    // And what serves goes on, whatever the gateway loses then.
    gateway.assign_as(&second.peer(), &blob, 0, &["Compute"]).await;
    assert_eq!(gateway.info_with(&second.peer(), |_| true).await.models.len(), 1);
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
