//! Chat templates that stand in for a model's own: which requests have one, who is asked, and which one an audit repeats.

use serde_json::json;
use xdc_grid::{
    api::ids::RequestId,
    protocol::internal::{Endpoint, InputLine, ModelFormat, ModelSource, NodeRole},
    store::AuditState,
};

use super::{
    harness::{Harness, line, model_digest},
    workers::FakeWorker,
};

const COMPUTE: &[NodeRole] = &[NodeRole::Compute];
const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}{% endfor %}";

/// What the GridModel says from now on.
async fn say(h: &Harness, template: &str) {
    let source = ModelSource {
        digest: model_digest(),
        name: "tiny".into(),
        url: "http://127.0.0.1:9/never-asked".into(),
        context_length: 0,
        format: ModelFormat::Gguf,
        cost_per_token: 3,
        replicas: 1,
        chat_template: template.into(),
    };
    h.gateway.put_model(source.into()).await.unwrap();
}

fn told(worker: &FakeWorker) -> Vec<String> {
    worker.starts.lock().unwrap().iter().map(|start| start.chat_template.clone()).collect()
}

async fn ask(h: &Harness, path: &str) -> u16 {
    let body = match path {
        "chat/completions" => json!({"model": "tiny", "messages": [{"role": "user", "content": "France?"}]}),
        _ => json!({"model": "tiny", "prompt": "France?"}),
    };
    h.client.post(format!("{}/v1/{path}", h.openai)).json(&body).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn chats_of_a_job_have_its_template_and_completions_have_none() {
    let h = Harness::start().await;
    let worker = h.worker("a", COMPUTE).await;
    h.job_with("chats", &["one two", "three"], |spec| spec.chat_template = TEMPLATE.into()).await;
    h.finished("chats").await;
    assert_eq!(told(&worker), [TEMPLATE, TEMPLATE]);

    worker.starts.lock().unwrap().clear();
    let prompt = InputLine { prompt: "one two".into(), messages: vec![], ..line(0, "") };
    let spec = |total| super::harness::spec(total);
    let put = h.request(reqwest::Method::PUT, "/jobs/completions").json(&xdc_grid::protocol::internal::JobSpec {
        endpoint: Endpoint::Completions,
        chat_template: TEMPLATE.into(),
        ..spec(1)
    });
    assert_eq!(put.send().await.unwrap().status(), 200);
    h.put_input("completions", serde_json::to_string(&prompt).unwrap() + "\n").await;
    h.finished("completions").await;
    assert_eq!(told(&worker), [""]);
    h.assert_whole().await;
}

#[tokio::test]
async fn the_api_has_the_template_that_the_model_has_now() {
    let h = Harness::start().await;
    let worker = h.worker("a", COMPUTE).await;
    assert_eq!(ask(&h, "chat/completions").await, 200);
    say(&h, TEMPLATE).await;
    assert_eq!(ask(&h, "chat/completions").await, 200);
    assert_eq!(ask(&h, "completions").await, 200);
    say(&h, "").await;
    assert_eq!(ask(&h, "chat/completions").await, 200);
    assert_eq!(told(&worker), ["", TEMPLATE, "", ""]);
}

#[tokio::test]
async fn a_worker_that_knows_no_templates_is_not_asked() {
    let h = Harness::start().await;
    say(&h, TEMPLATE).await;
    let old = h.worker("a", COMPUTE).await;
    old.knows.lock().unwrap().retain(|name| name != "chat_template");
    h.disconnect(&old).await;
    h.connect(&old).await;
    h.until("it has said so", async || ask(&h, "chat/completions").await == 503).await;
    assert_eq!(ask(&h, "completions").await, 200);
    old.starts.lock().unwrap().clear();
    h.job_with("chats", &["one two"], |spec| spec.chat_template = TEMPLATE.into()).await;
    let new = h.worker("b", COMPUTE).await;
    h.finished("chats").await;
    assert_eq!((told(&old), told(&new)), (vec![], vec![TEMPLATE.to_owned()]));
}

/// The scripted worker and verifier take the template for a part of the prompt: with another one the audit would fail.
#[tokio::test]
async fn an_audit_repeats_the_template_that_the_request_was_taken_with() {
    let h = Harness::start().await;
    say(&h, TEMPLATE).await;
    let worker = h.worker("a", COMPUTE).await;
    let verifier = h.worker("b", &[NodeRole::Verify]).await;
    h.disconnect(&verifier).await;
    h.job_with("audited", &["one two"], |spec| {
        spec.chat_template = TEMPLATE.into();
        spec.sample_percent = Some(100);
    })
    .await;
    h.until("it is answered", async || h.report("audited").await.completed == 1).await;
    // Whatever is said of the model afterwards, and over a restart.
    say(&h, "another").await;
    let h = h.restart().await;
    h.connect(&worker).await;
    h.connect(&verifier).await;
    let id = RequestId::of_job_line("audited", "line-0");
    h.until("it is audited", async || h.ledger.audits_of(&id).await.unwrap()[0].state == AuditState::Passed).await;
    h.assert_whole().await;
}

#[tokio::test]
async fn a_template_has_a_bound() {
    let h = Harness::start().await;
    let source = json!({"digest": model_digest(), "name": "tiny", "url": "https://x/y", "contextLength": 0, "costPerToken": 0,
                        "replicas": 0, "chatTemplate": "x".repeat((16 << 10) + 1)});
    let path = format!("/models/{}", model_digest());
    let refused = h.request(reqwest::Method::PUT, &path).json(&source).send().await.unwrap();
    assert_eq!(refused.status(), 400);
    assert!(refused.text().await.unwrap().contains("16384 bytes"));
}
