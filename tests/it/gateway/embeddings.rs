//! Embeddings through the gateway: the API, jobs, receipts, audits, pay.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::{Value, json};
use xdc_grid::{
    api::ids::EpochNumber,
    protocol::{
        internal::{Encoding, Endpoint, EpochTotals, InputLine, JobSpec, NodeMode, NodeRole, Outcome},
        vector::Vector,
    },
};

use super::{
    harness::{EPOCH_SECONDS, Harness, encoder_digest, spec},
    workers::{FakeWorker, Script, honest_vectors},
};

const COMPUTE: &[NodeRole] = &[NodeRole::Compute];
const ONLY_VERIFY: &[NodeRole] = &[NodeRole::Verify];

async fn start() -> Harness {
    let h = Harness::start().await;
    h.have_encoder().await;
    h
}

async fn worker(h: &Harness, name: &str) -> std::sync::Arc<FakeWorker> {
    h.encoding_worker(name, COMPUTE, NodeMode::Managed, 2).await
}

async fn post(h: &Harness, path: &str, body: Value) -> (u16, Value) {
    let response = h.client.post(format!("{}/v1{path}", h.openai)).json(&body).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// Submits an embedding job, a list of texts a request.
async fn job(h: &Harness, uid: &str, requests: &[&[&str]]) {
    let spec = JobSpec {
        model: encoder_digest(),
        model_name: "embedder".into(),
        endpoint: Endpoint::Embeddings,
        ..spec(requests.len() as u32)
    };
    let put = |path: String| h.request(reqwest::Method::PUT, &path);
    assert_eq!(put(format!("/jobs/{uid}")).json(&spec).send().await.unwrap().status(), 200);
    let lines: String = requests
        .iter()
        .enumerate()
        .map(|(index, texts)| {
            let texts = texts.iter().map(|text| text.to_string()).collect();
            let line = InputLine::embedding(index as u32, format!("line-{index}"), texts, Encoding::Base64);
            serde_json::to_string(&line).unwrap() + "\n"
        })
        .collect();
    let response = put(format!("/jobs/{uid}/input")).body(lines).send().await.unwrap();
    assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
}

async fn vectors(h: &Harness, uid: &str) -> Vec<Vec<Vector>> {
    let vectors = |outcome| match outcome {
        Outcome::Embedded { vectors, encoding, .. } => {
            assert_eq!(encoding, Encoding::Base64, "as the line asked");
            vectors
        }
        other => panic!("{other:?}"),
    };
    h.results(uid).await.into_iter().map(|line| vectors(line.outcome)).collect()
}

#[tokio::test]
async fn texts_are_answered_with_vectors_in_their_order() {
    let h = start().await;
    let worker = worker(&h, "a").await;
    let (status, body) = post(&h, "/embeddings", json!({"model": "embedder", "input": ["one", "two and three"]})).await;
    assert_eq!(status, 200, "{body}");
    let honest = honest_vectors(&worker.starts.lock().unwrap()[0]);
    assert_eq!((body["object"].as_str(), body["model"].as_str()), (Some("list"), Some("embedder")));
    for (index, vector) in honest.iter().enumerate() {
        let item = &body["data"][index];
        let values: Vec<f32> = serde_json::from_value(item["embedding"].clone()).unwrap();
        assert_eq!((values.as_slice(), item["index"].as_u64()), (vector.values(), Some(index as u64)));
    }
    assert_eq!(body["usage"], json!({"prompt_tokens": 16, "total_tokens": 16}));
    let base64 = json!({"model": "embedder", "input": "one", "encoding_format": "base64"});
    let (_, body) = post(&h, "/embeddings", base64).await;
    assert_eq!(body["data"][0]["embedding"], honest[0].to_base64());
    assert_eq!(worker.acks.lock().unwrap().len(), 2);
    h.assert_whole().await;
}

#[tokio::test]
async fn a_model_answers_only_the_endpoints_of_its_format() {
    let h = start().await;
    worker(&h, "encoder").await;
    h.worker("decoder", COMPUTE).await;
    let (status, body) = post(&h, "/embeddings", json!({"model": "tiny", "input": "x"})).await;
    assert_eq!((status, body["error"]["param"].as_str()), (400, Some("model")));
    assert!(body["error"]["message"].as_str().unwrap().contains("no embeddings"));
    let chat = json!({"model": "embedder", "messages": [{"role": "user", "content": "x"}]});
    let (status, body) = post(&h, "/chat/completions", chat).await;
    assert_eq!(status, 400);
    assert!(body["error"]["message"].as_str().unwrap().contains("embeddings only"));
}

#[tokio::test]
async fn a_receipt_that_stands_for_other_vectors_is_not_taken() {
    let h = start().await;
    let liar = worker(&h, "liar").await;
    liar.set(Script::Swap);
    job(&h, "job-1", &[&["one"]]).await;
    h.until("it lied", async || !liar.starts.lock().unwrap().is_empty()).await;
    let sound = worker(&h, "sound").await;
    let report = h.finished("job-1").await;
    assert_eq!((report.completed, report.failed), (1, 0));
    assert_eq!(vectors(&h, "job-1").await, [honest_vectors(&sound.starts.lock().unwrap()[0])]);
    assert!(liar.acks.lock().unwrap().is_empty(), "nothing was countersigned");
    h.assert_whole().await;
}

#[tokio::test]
async fn a_worker_that_dies_between_two_vectors_costs_a_try_and_no_answer() {
    let h = start().await;
    let dying = worker(&h, "dying").await;
    dying.set(Script::DieAfter(1));
    job(&h, "job-1", &[&["one", "two"]]).await;
    h.until("it died", async || !dying.starts.lock().unwrap().is_empty()).await;
    let sound = worker(&h, "sound").await;
    assert_eq!(h.finished("job-1").await.completed, 1);
    assert_eq!(vectors(&h, "job-1").await, [honest_vectors(&sound.starts.lock().unwrap()[0])]);
}

#[tokio::test]
async fn one_bit_that_differs_is_caught_by_the_audit_and_pays_nothing() {
    let h = start().await;
    let verifier = h.encoding_worker("verifier", ONLY_VERIFY, NodeMode::Managed, 0).await;
    let cheat = worker(&h, "cheat").await;
    cheat.set(Script::Cheat);
    job(&h, "job-1", &[&["one", "two"]]).await;
    h.until("the cheat was caught", async || h.node(&cheat).await.evidence.audits_failed == 1).await;
    assert!(h.node(&cheat).await.evidence.message.contains("vectors"));
    let sound = worker(&h, "sound").await;
    let report = h.finished("job-1").await;
    assert_eq!((report.completed, report.audits_failed, report.audits_passed), (1, 1, 1));
    assert_eq!(verifier.audits.load(Ordering::Relaxed), 2);
    assert_eq!(vectors(&h, "job-1").await, [honest_vectors(&sound.starts.lock().unwrap()[0])]);

    h.pass(Duration::from_secs(EPOCH_SECONDS + 6));
    let totals = h.gateway.close_epoch(EpochNumber(h.epoch() - 1)).await.unwrap();
    let totals: EpochTotals = serde_json::from_slice(&totals).unwrap();
    let paid: Vec<_> = totals.nodes.iter().filter(|node| node.requests > 0).collect();
    // Six prompt tokens at a cost of 3, and nothing that was written.
    assert_eq!((paid.len(), paid[0].node_name.as_str(), paid[0].units.as_str()), (1, "sound", "18"));
    assert_eq!((paid[0].prompt_tokens, paid[0].output_tokens), (6, 0));
    h.assert_whole().await;
}

#[tokio::test]
async fn probation_of_a_machine_that_only_makes_embeddings_is_made_of_embeddings() {
    let h = start().await;
    h.encoding_worker("verifier", ONLY_VERIFY, NodeMode::Managed, 0).await;
    let external = h.encoding_worker("home", COMPUTE, NodeMode::External, 1).await;
    h.until("it is proven", async || h.node(&external).await.capability.verified).await;
    let starts = external.starts.lock().unwrap().clone();
    assert!(!starts.is_empty() && starts.iter().all(|start| start.inputs.len() == 1 && start.messages.is_empty()));
}

#[tokio::test]
async fn the_input_of_a_job_must_fit_its_endpoint() {
    let h = start().await;
    let body = |line: &InputLine| serde_json::to_string(line).unwrap();
    let embedding = InputLine::embedding(0, "a".into(), vec!["x".into()], Encoding::Float);
    let empty = InputLine { inputs: vec![], ..embedding.clone() };
    let both = InputLine { prompt: "x".into(), ..embedding.clone() };
    let many = InputLine { inputs: vec!["x".into(); 257], ..embedding.clone() };
    let cases = [
        (Endpoint::Embeddings, empty),
        (Endpoint::Embeddings, both),
        (Endpoint::Embeddings, many),
        (Endpoint::ChatCompletions, embedding),
    ];
    for (number, (endpoint, line)) in cases.into_iter().enumerate() {
        let uid = format!("job-{number}");
        let spec = JobSpec { endpoint, ..spec(1) };
        let put = |path: String| h.request(reqwest::Method::PUT, &path);
        assert_eq!(put(format!("/jobs/{uid}")).json(&spec).send().await.unwrap().status(), 200);
        let response = put(format!("/jobs/{uid}/input")).body(body(&line)).send().await.unwrap();
        assert_eq!(response.status(), 400, "case {number}");
    }
}
