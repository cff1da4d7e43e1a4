//! Models from everywhere but a plain URL: a registry, a bucket, a volume, the grid; and what the gateway gives to Local jobs.

use std::{os::unix::fs::symlink, sync::atomic::Ordering, time::Duration};

use object_store::{aws::AmazonS3Builder, path::Path, signer::Signer};
use reqwest::{Method, StatusCode, header::RANGE};
use sha2::{Digest, Sha256};
use xdc_grid::{
    api::ids::ModelDigest,
    gateway::Settings,
    protocol::internal::{
        Member, ModelFormat, ModelOrder, ModelReport, ModelSource, ModelState, NodeMode, NodeRole, SourceAccess,
        model_file_path,
    },
};

use super::{
    harness::{Harness, network_id, settings},
    workers::FakeWorker,
};
use crate::support::{
    registry::{Auth, PASSWORD, Registry, USER},
    s3::{READER, s3},
};

const BYTES: usize = 300_000;

fn file() -> Vec<u8> {
    (0..BYTES).map(|i| (i * 104_729 % 249) as u8).collect()
}

fn digest() -> ModelDigest {
    ModelDigest(Sha256::digest(file()).into())
}

fn order(url: &str, access: Option<SourceAccess>) -> ModelOrder {
    let source = ModelSource {
        digest: digest(),
        name: "m".into(),
        url: url.into(),
        context_length: 0,
        format: ModelFormat::Gguf,
        cost_per_token: 0,
        replicas: 1,
        chat_template: String::new(),
    };
    ModelOrder { source, access }
}

fn login(username: &str, password: &str) -> Option<SourceAccess> {
    Some(SourceAccess::Login { username: username.into(), password: password.into() })
}

async fn told(h: &Harness, order: &ModelOrder) -> ModelReport {
    let path = format!("/models/{}", digest());
    let response = h.request(Method::PUT, &path).json(order).send().await.unwrap();
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    h.get(&path).await
}

/// Tells the gateway and waits until it has the file or knows why not.
async fn fetched(h: &Harness, order: ModelOrder) -> ModelReport {
    told(h, &order).await;
    settled(h).await
}

async fn settled(h: &Harness) -> ModelReport {
    let path = format!("/models/{}", digest());
    h.until("the fetch ended", async || h.get::<ModelReport>(&path).await.state != ModelState::Fetching).await;
    h.get(&path).await
}

async fn refused(h: &Harness, order: ModelOrder, reason: &str, says: &str) {
    let report = fetched(h, order).await;
    assert_eq!((report.state, report.reason.as_str()), (ModelState::Failed, reason), "{}", report.message);
    assert!(report.message.contains(says), "{}", report.message);
}

fn is_here(h: &Harness) -> bool {
    std::fs::read(h.folder.path().join("blobs").join(digest().to_string())).is_ok_and(|bytes| bytes == file())
}

fn is_whole(report: &ModelReport) -> bool {
    (report.state, report.bytes) == (ModelState::Ready, BYTES as u64)
}

// ------------------------------------------------------------------------------------------------ registries

#[tokio::test]
async fn a_layer_is_fetched_from_a_registry_that_is_open() {
    let (h, registry) = (Harness::start().await, Registry::start(Auth::None).await);
    registry.push("you/m", "v1", &[b"something else", &file()]).await;
    let place = format!("oci+http://{}/you/m", registry.address);
    assert!(is_whole(&fetched(&h, order(&place, None)).await));
    assert!(is_here(&h));
}

#[tokio::test]
async fn a_repository_without_the_layer_says_so() {
    let (h, registry) = (Harness::start().await, Registry::start(Auth::None).await);
    registry.push("you/m", "v1", &[b"something else"]).await;
    for repository in ["you/m", "you/none"] {
        let place = format!("oci+http://{}/{repository}", registry.address);
        refused(&h, order(&place, None), "ModelUnreachable", "no layer with the model's sha256").await;
    }
}

#[tokio::test]
async fn a_registry_that_asks_for_a_password_gets_the_one_it_was_given() {
    let (h, registry) = (Harness::start().await, Registry::start(Auth::Basic).await);
    registry.push("you/m", "v1", &[&file()]).await;
    let place = format!("oci+http://{}/you/m", registry.address);
    refused(&h, order(&place, None), "ModelForbidden", "user and password").await;
    refused(&h, order(&place, login(USER, "wrong")), "ModelForbidden", "401").await;
    assert!(is_whole(&fetched(&h, order(&place, login(USER, PASSWORD))).await));
    assert!(is_here(&h));
}

#[tokio::test]
async fn a_token_is_fetched_where_a_registry_sends_for_one() {
    let (h, registry) = (Harness::start().await, Registry::start(Auth::Token).await);
    registry.push("you/m", "v1", &[&file()]).await;
    let place = format!("oci+http://{}/you/m", registry.address);
    refused(&h, order(&place, None), "ModelForbidden", "").await;
    refused(&h, order(&place, login(USER, "wrong")), "ModelForbidden", "refuses the credentials").await;
    assert!(is_whole(&fetched(&h, order(&place, login(USER, PASSWORD))).await));
}

#[tokio::test]
async fn a_public_repository_needs_no_password_where_tokens_are_asked_for() {
    let (h, registry) = (Harness::start().await, Registry::start(Auth::Token).await);
    registry.push("public/m", "v1", &[&file()]).await;
    let place = format!("oci+http://{}/public/m", registry.address);
    assert!(is_whole(&fetched(&h, order(&place, None)).await));
}

// ------------------------------------------------------------------------------------------------ buckets

#[tokio::test]
async fn an_object_is_fetched_by_a_signed_url_that_is_kept_nowhere() {
    let (h, s3) = (Harness::start().await, s3().await);
    let bucket = s3.bucket("signed");
    bucket.put("gguf/a model", file()).await;
    let store = AmazonS3Builder::new()
        .with_bucket_name("signed")
        .with_region("us-east-1")
        .with_endpoint(&s3.endpoint)
        .with_allow_http(true)
        .with_access_key_id(READER.0)
        .with_secret_access_key(READER.1)
        .build()
        .unwrap();
    let path = Path::from("gguf/a model");
    let signed = async |valid| store.signed_url(Method::GET, &path, Duration::from_secs(valid)).await.unwrap();
    let url = signed(600).await;
    let mut plain = url.clone();
    plain.set_query(None);

    refused(&h, order(plain.as_str(), None), "ModelForbidden", plain.as_str()).await;
    let stale = signed(1).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let access = Some(SourceAccess::SignedUrl(stale.to_string()));
    refused(&h, order(plain.as_str(), access), "ModelForbidden", plain.as_str()).await;
    let report: ModelReport = h.get(&format!("/models/{}", digest())).await;
    assert!(!report.message.contains("Signature"), "{}", report.message);

    let access = Some(SourceAccess::SignedUrl(url.to_string()));
    assert!(is_whole(&fetched(&h, order(plain.as_str(), access)).await));
    let kept = h.ledger.model(&digest()).await.unwrap().unwrap();
    assert_eq!(kept.source.url, plain.as_str());
}

// ------------------------------------------------------------------------------------------------ volumes

#[tokio::test]
async fn a_file_is_read_from_a_volume_and_from_nowhere_else() {
    let volumes = tempfile::tempdir().unwrap();
    let claim = volumes.path().join("model-files");
    std::fs::create_dir_all(claim.join("gguf")).unwrap();
    std::fs::write(claim.join("gguf/m.gguf"), file()).unwrap();
    std::fs::write(claim.join("large"), vec![0; (1 << 20) + 1]).unwrap();
    std::fs::write(claim.join("other"), b"other").unwrap();
    let secret = volumes.path().join("token");
    std::fs::write(&secret, file()).unwrap();
    symlink(&secret, claim.join("way-out")).unwrap();
    symlink("gguf/m.gguf", claim.join("link")).unwrap();
    let h = Harness::start_with(Settings { model_claims: Some(volumes.path().into()), ..settings() }).await;
    let from = |path: &str| order(&format!("pvc://model-files/{path}"), None);

    refused(&h, order("pvc://others/m", None), "ModelVolumeMissing", "gateway.modelClaims={others}").await;
    refused(&h, from("none"), "ModelVolumeMissing", "not found").await;
    refused(&h, from("gguf"), "ModelVolumeMissing", "no file").await;
    refused(&h, from("way-out"), "ModelVolumeMissing", "leads out of the volume").await;
    refused(&h, from("other"), "ModelDigestMismatch", "pvc://model-files/other").await;
    refused(&h, from("large"), "ModelTooLarge", "--max-blob-bytes").await;
    assert!(!is_here(&h));
    assert!(is_whole(&fetched(&h, from("link")).await));
    assert!(is_here(&h));
}

#[tokio::test]
async fn a_gateway_without_volumes_says_how_one_is_mounted() {
    let h = Harness::start().await;
    refused(&h, order("pvc://model-files/m", None), "ModelVolumeMissing", "--set 'gateway.modelClaims={model-files}'")
        .await;
}

// ------------------------------------------------------------------------------------------------ the grid

/// A member that lists the model, and holds these bytes of it.
async fn holder(h: &Harness, name: &str, role: NodeRole, bytes: Option<Vec<u8>>) -> std::sync::Arc<FakeWorker> {
    let worker = FakeWorker::new(&network_id(), 2);
    if let Some(bytes) = bytes {
        worker.holds.lock().unwrap().insert(digest(), bytes);
    }
    let member = Member { models: vec![digest()], ..Harness::member(&worker, name, &[role], NodeMode::Managed) };
    h.gateway.put_member(member).await.unwrap();
    h.connect(&worker).await;
    worker
}

fn asked(worker: &FakeWorker) -> Vec<u64> {
    worker.given.lock().unwrap().clone()
}

#[tokio::test]
async fn what_the_gateway_lost_comes_back_from_a_storage_node() {
    let h = Harness::start().await;
    let compute = holder(&h, "a", NodeRole::Compute, Some(file())).await;
    let storage = holder(&h, "b", NodeRole::Storage, Some(file())).await;
    assert!(is_whole(&fetched(&h, order("grid:", None)).await));
    assert!(is_here(&h));
    assert_eq!((asked(&storage), asked(&compute)), (vec![0], vec![]));
}

#[tokio::test]
async fn a_member_that_gives_something_else_does_no_harm() {
    let h = Harness::start().await;
    let mut wrong = file();
    wrong[7] ^= 1;
    let liar = holder(&h, "a", NodeRole::Storage, Some(wrong)).await;
    let empty = holder(&h, "b", NodeRole::Storage, None).await;
    let honest = holder(&h, "c", NodeRole::Compute, Some(file())).await;
    assert!(is_whole(&fetched(&h, order("grid:", None)).await));
    assert!(is_here(&h));
    assert_eq!((asked(&liar), asked(&empty), asked(&honest)), (vec![0], vec![0], vec![0]));
}

#[tokio::test]
async fn a_transfer_that_broke_off_goes_on_where_it_stopped() {
    let h = Harness::start().await;
    let storage = holder(&h, "a", NodeRole::Storage, Some(file())).await;
    storage.breaks_off.store(true, Ordering::Relaxed);
    assert!(is_whole(&fetched(&h, order("grid:", None)).await));
    assert_eq!(asked(&storage), [0, 2 * (64 << 10)]);
}

#[tokio::test]
async fn a_member_that_begins_with_something_else_and_breaks_off_keeps_nobody_from_the_file() {
    let h = Harness::start().await;
    let mut wrong = file();
    wrong[7] ^= 1;
    // Always asked first, as the only storage node.
    let liar = holder(&h, "a", NodeRole::Storage, Some(wrong)).await;
    liar.breaks_off.store(true, Ordering::Relaxed);
    let honest = holder(&h, "b", NodeRole::Compute, Some(file())).await;
    assert!(is_whole(&fetched(&h, order("grid:", None)).await));
    assert!(is_here(&h));
    assert_eq!((asked(&liar), asked(&honest)), (vec![0], vec![2 * (64 << 10), 0]));
}

#[tokio::test]
async fn a_model_that_nobody_holds_says_whom_it_asked() {
    let h = Harness::start().await;
    refused(&h, order("grid:", None), "ModelNotHeld", "none that lists the model is connected").await;
    let empty = holder(&h, "a", NodeRole::Storage, None).await;
    refused(&h, order("grid:", None), "ModelNotHeld", empty.peer().as_str()).await;
    let huge = holder(&h, "b", NodeRole::Storage, Some(vec![0; (1 << 20) + 1])).await;
    // It only says so: whoever has the file gives it.
    refused(&h, order("grid:", None), "ModelNotHeld", "--max-blob-bytes").await;
    assert!(!asked(&huge).is_empty());
    let _honest = holder(&h, "c", NodeRole::Compute, Some(file())).await;
    assert!(is_whole(&fetched(&h, order("grid:", None)).await));
}

#[tokio::test]
async fn members_are_told_of_a_model_that_is_not_here_so_that_they_keep_it() {
    let h = Harness::start().await;
    told(&h, &order("http://127.0.0.1:9/never", None)).await;
    let worker = holder(&h, "a", NodeRole::Storage, Some(file())).await;
    let assigned = async || {
        let assigned = h.grid.assigned.lock().unwrap().get(&worker.peer()).cloned()?;
        assigned.models.first().map(|model| model.bytes)
    };
    h.until("it was told", async || assigned().await == Some(0)).await;
    settled(&h).await;
    assert!(is_whole(&fetched(&h, order("grid:", None)).await));
    h.until("it was told the size", async || assigned().await == Some(BYTES as u64)).await;
}

// ------------------------------------------------------------------------------------------------ for Local jobs

#[tokio::test]
async fn who_has_a_models_key_reads_its_file_whole_or_from_an_offset() {
    let h = Harness::start().await;
    let _storage = holder(&h, "a", NodeRole::Storage, Some(file())).await;
    let get = async |path: String, from: Option<usize>| {
        let mut request = h.client.get(format!("{}{path}", h.openai));
        if let Some(from) = from {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let response = request.send().await.unwrap();
        let range = response.headers().get("content-range").map(|range| range.to_str().unwrap().to_owned());
        (response.status(), range, response.bytes().await.unwrap())
    };
    let key = told(&h, &order("http://127.0.0.1:9/never", None)).await.read_key;
    settled(&h).await;
    let path = model_file_path(&digest(), &key);
    assert_eq!(get(path.clone(), None).await.0, StatusCode::NOT_FOUND);
    assert!(is_whole(&fetched(&h, order("grid:", None)).await));

    let whole = get(path.clone(), None).await;
    assert_eq!((whole.0, whole.2.as_ref()), (StatusCode::OK, file().as_slice()));
    let rest = get(path.clone(), Some(BYTES - 10)).await;
    let range = format!("bytes {}-{}/{BYTES}", BYTES - 10, BYTES - 1);
    assert_eq!((rest.0, rest.1.as_deref()), (StatusCode::PARTIAL_CONTENT, Some(range.as_str())));
    assert_eq!(rest.2.as_ref(), &file()[BYTES - 10..]);
    assert_eq!(get(path, Some(BYTES + 1)).await.0, StatusCode::RANGE_NOT_SATISFIABLE);

    let other = h.get::<ModelReport>(&format!("/models/{}", super::harness::model_digest())).await.read_key;
    for wrong in ["", "x", &other] {
        assert_eq!(get(model_file_path(&digest(), wrong), None).await.0, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(get("/grid/v1/models/x/file?key=y".into(), None).await.0, StatusCode::BAD_REQUEST);
}
