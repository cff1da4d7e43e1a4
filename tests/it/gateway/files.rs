//! Results in the gateway's store: written with the internal token, read with the job's own key.

use reqwest::{Method, StatusCode};
use xdc_grid::protocol::internal::{ApiError, FileKept, MAX_FILE, READ_KEY_HEADER};

use super::harness::{Harness, settings};

async fn keep(h: &Harness, uid: &str, name: &str, text: &str) -> String {
    let request = h.request(Method::PUT, &format!("/jobs/{uid}/files/{name}")).body(text.to_owned());
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    response.json::<FileKept>().await.unwrap().read_key
}

async fn read(h: &Harness, uid: &str, name: &str, key: &str) -> (StatusCode, String) {
    let url = format!("{}/grid/v1/jobs/{uid}/files/{name}", h.openai);
    let response = h.client.get(url).header(READ_KEY_HEADER, key).send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

#[tokio::test]
async fn a_reader_needs_the_key_of_the_job_and_reaches_no_other() {
    let h = Harness::start().await;
    let mine = keep(&h, "job-1", "manifest.json", "mine").await;
    let theirs = keep(&h, "job-2", "manifest.json", "theirs").await;
    assert_eq!(keep(&h, "job-1", "manifest.json", "mine").await, mine, "the key of a job never changes");
    assert_eq!(read(&h, "job-1", "manifest.json", &mine).await, (StatusCode::OK, "mine".into()));
    assert_eq!(read(&h, "job-2", "manifest.json", &theirs).await, (StatusCode::OK, "theirs".into()));
    for (uid, key) in [("job-2", mine.as_str()), ("job-1", theirs.as_str()), ("job-1", ""), ("job-1", "internal-token")]
    {
        assert_eq!(read(&h, uid, "manifest.json", key).await.0, StatusCode::UNAUTHORIZED, "{uid} {key}");
    }
    for name in ["..%2fjob-2%2fmanifest.json", "%2e%2e", ".hidden"] {
        let (status, text) = read(&h, "job-1", name, &mine).await;
        assert!(status.is_client_error() && !text.contains("theirs"), "{name}: {status} {text}");
    }
    assert_eq!(read(&h, "job-1", "results-00000.jsonl", &mine).await.0, StatusCode::NOT_FOUND);
    let open = h.client.get(format!("{}/internal/v1/jobs/job-1/files/manifest.json", h.internal)).send().await.unwrap();
    assert_eq!(open.status(), StatusCode::UNAUTHORIZED, "the internal API needs its token");
}

#[tokio::test]
async fn files_survive_a_restart_with_their_key_and_go_with_their_job() {
    let h = Harness::start().await;
    let key = keep(&h, "job-1", "manifest.json", "mine").await;
    let h = h.restart().await;
    assert_eq!(read(&h, "job-1", "manifest.json", &key).await.1, "mine");
    let there = h.request(Method::HEAD, "/jobs/job-1/files/manifest.json").send().await.unwrap();
    assert_eq!(there.headers()["content-length"], "4");
    assert_eq!(h.request(Method::DELETE, "/jobs/job-1").send().await.unwrap().status(), 204);
    assert_eq!(read(&h, "job-1", "manifest.json", &key).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_store_that_is_full_says_so_and_a_file_has_a_bound() {
    let h = Harness::start_with(xdc_grid::gateway::Settings { max_results_bytes: 10, ..settings() }).await;
    keep(&h, "job-1", "a", "1234567890").await;
    let refused = h.request(Method::PUT, "/jobs/job-2/files/a").body("1").send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::INSUFFICIENT_STORAGE);
    assert_eq!(refused.json::<ApiError>().await.unwrap().reason, "StoreFull");
    let huge = vec![0; MAX_FILE + 1];
    let refused = h.request(Method::PUT, "/jobs/job-2/files/a").body(huge).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
}
