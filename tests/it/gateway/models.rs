//! Fetching models from a source that may be anything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use reqwest::Method;
use sha2::{Digest, Sha256};
use xdc_grid::{
    api::ids::ModelDigest,
    protocol::internal::{ApiError, ModelFormat, ModelReport, ModelSource, ModelState},
};

use super::harness::{Harness, settings};

const BYTES: usize = 300_000;
/// Begins as such a file does.
const GGUF: &[u8] = b"GGUF and so on";

fn file() -> Vec<u8> {
    (0..BYTES).map(|i| (i * 7919 % 251) as u8).collect()
}

fn digest() -> ModelDigest {
    ModelDigest(Sha256::digest(file()).into())
}

/// A web server with a good file, a broken one, none, and one that never ends.
async fn source() -> String {
    let tries = Arc::new(AtomicU32::new(0));
    let router = Router::new()
        .route("/good", get(async || file()))
        .route("/gguf", get(async || GGUF))
        .route("/huge", get(async || vec![0u8; 2 << 20]))
        .route("/stalls", get(async || stalling(&file()[..1000])))
        .route("/breaks", get(move |headers: HeaderMap| breaking(headers, tries.clone())))
        .route("/away", get(async || StatusCode::SERVICE_UNAVAILABLE));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn stalling(first: &[u8]) -> Response {
    let first = Bytes::copy_from_slice(first);
    let pieces = futures::stream::once(async move { Ok::<_, std::io::Error>(first) });
    Body::from_stream(futures::StreamExt::chain(pieces, futures::stream::pending())).into_response()
}

/// Falls silent after half the file, and goes on where it is asked to.
async fn breaking(headers: HeaderMap, tries: Arc<AtomicU32>) -> Response {
    let file = file();
    if tries.fetch_add(1, Ordering::Relaxed) == 0 {
        return ([(header::CONTENT_LENGTH, BYTES.to_string())], stalling(&file[..BYTES / 2])).into_response();
    }
    let range = headers.get(header::RANGE).unwrap().to_str().unwrap();
    let from: usize = range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap();
    let content_range = format!("bytes {from}-{}/{BYTES}", BYTES - 1);
    (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, content_range)], file[from..].to_vec()).into_response()
}

async fn fetched(h: &Harness, url: String, digest: ModelDigest) -> ModelReport {
    let source = ModelSource {
        digest,
        name: "m".into(),
        url,
        context_length: 0,
        format: ModelFormat::Gguf,
        cost_per_token: 0,
        replicas: 1,
        chat_template: String::new(),
    };
    let response = h.request(Method::PUT, &format!("/models/{digest}")).json(&source).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let path = format!("/models/{digest}");
    h.until("the fetch ended", async || h.get::<ModelReport>(&path).await.state != ModelState::Fetching).await;
    h.get(&path).await
}

fn files(h: &Harness) -> Vec<String> {
    let entries = std::fs::read_dir(h.folder.path().join("blobs")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| *name != super::harness::model_digest().to_string());
    names
}

#[tokio::test]
async fn a_model_is_fetched_once_and_verified() {
    let (h, url) = (Harness::start().await, source().await);
    let report = fetched(&h, format!("{url}/good"), digest()).await;
    assert_eq!((report.state, report.bytes, report.fetched_bytes), (ModelState::Ready, BYTES as u64, BYTES as u64));
    assert_eq!(files(&h), [digest().to_string()]);
    // Without the source it stays.
    let report = fetched(&h, "http://127.0.0.1:9/gone".into(), digest()).await;
    assert_eq!(report.state, ModelState::Ready);
    assert_eq!(h.request(Method::DELETE, &format!("/models/{}", digest())).send().await.unwrap().status(), 204);
    assert_eq!(files(&h), Vec::<String>::new());
}

#[tokio::test]
async fn a_wrong_digest_keeps_nothing_and_names_both() {
    let (h, url) = (Harness::start().await, source().await);
    let wrong = ModelDigest([7; 32]);
    let report = fetched(&h, format!("{url}/good"), wrong).await;
    assert_eq!((report.state, report.reason.as_str()), (ModelState::Failed, "ModelDigestMismatch"));
    assert!(report.message.contains(&wrong.to_string()) && report.message.contains(&digest().to_string()));
    assert_eq!(files(&h), Vec::<String>::new());
}

#[tokio::test]
async fn a_file_of_another_format_is_refused_by_name_and_serves_who_names_it_rightly() {
    let (h, url) = (Harness::start().await, source().await);
    let digest = ModelDigest(Sha256::digest(GGUF).into());
    let path = format!("/models/{digest}");
    let put = async |format| {
        let source = ModelSource {
            digest,
            name: "m".into(),
            url: format!("{url}/gguf"),
            context_length: 0,
            format,
            cost_per_token: 0,
            replicas: 1,
            chat_template: String::new(),
        };
        h.request(Method::PUT, &path).json(&source).send().await.unwrap()
    };
    let settled = async || {
        h.until("the fetch ended", async || h.get::<ModelReport>(&path).await.state != ModelState::Fetching).await;
        h.get::<ModelReport>(&path).await
    };
    // Seen when it has come.
    assert_eq!(put(ModelFormat::Safetensors).await.status(), 200);
    let report = settled().await;
    assert_eq!((report.state, report.reason.as_str()), (ModelState::Failed, "ModelFormatMismatch"));
    assert!(report.message.contains("for which spec.format is GGUF"), "{}", report.message);
    assert_eq!(put(ModelFormat::Gguf).await.status(), 200);
    assert_eq!(settled().await.state, ModelState::Ready);
    // Seen at once, and no harm to whoever names it rightly.
    let refused = put(ModelFormat::SafetensorsDecoder).await;
    assert_eq!(refused.status(), 400);
    assert_eq!(refused.json::<ApiError>().await.unwrap().reason, "ModelFormatMismatch");
    assert_eq!(settled().await.state, ModelState::Ready);
}

#[tokio::test]
async fn a_file_over_the_limit_is_not_fetched() {
    let (h, url) = (Harness::start().await, source().await);
    let report = fetched(&h, format!("{url}/huge"), digest()).await;
    assert_eq!(report.reason, "ModelTooLarge");
    assert!(report.message.contains("--max-blob-bytes"), "{}", report.message);
    assert_eq!(files(&h), Vec::<String>::new());
}

#[tokio::test]
async fn a_source_that_is_missing_away_or_stalling_is_unreachable_and_can_be_tried_again() {
    let mut quick = settings();
    quick.fetch.idle = Duration::from_secs(2);
    quick.fetch.tries = 2;
    let (h, url) = (Harness::start_with(quick).await, source().await);
    for (path, says) in [("none", "404"), ("away", "503"), ("stalls", "")] {
        let report = fetched(&h, format!("{url}/{path}"), digest()).await;
        assert_eq!(report.reason, "ModelUnreachable", "{path}");
        assert!(report.message.contains(says), "{path}: {}", report.message);
    }
    assert_eq!(fetched(&h, format!("{url}/good"), digest()).await.state, ModelState::Ready);
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let mut quick = settings();
    quick.fetch.idle = Duration::from_secs(2);
    let (h, url) = (Harness::start_with(quick).await, source().await);
    let report = fetched(&h, format!("{url}/breaks"), digest()).await;
    assert_eq!((report.state, report.message.as_str()), (ModelState::Ready, ""));
}

#[tokio::test]
async fn a_source_that_is_no_web_address_is_refused() {
    let h = Harness::start().await;
    let digest = digest();
    let url = "file:///etc/passwd".into();
    let source = ModelSource {
        digest,
        name: "m".into(),
        url,
        context_length: 0,
        format: ModelFormat::Gguf,
        cost_per_token: 0,
        replicas: 1,
        chat_template: String::new(),
    };
    let response = h.request(Method::PUT, &format!("/models/{digest}")).json(&source).send().await.unwrap();
    assert_eq!(response.status(), 400);
    assert_eq!(response.json::<ApiError>().await.unwrap().reason, "InvalidModel");
}

#[tokio::test]
async fn a_member_is_told_its_models_once_they_are_here() {
    let h = Harness::start().await;
    let worker = h.worker("a", &[xdc_grid::protocol::internal::NodeRole::Compute]).await;
    h.until("it was told", async || {
        let assigned = h.grid.assigned.lock().unwrap().get(&worker.peer()).cloned();
        assigned.is_some_and(|assign| assign.models.len() == 1 && assign.roles == ["Compute"])
    })
    .await;
}
