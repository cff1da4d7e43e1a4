//! The OpenAI API over HTTP.

use std::{sync::atomic::Ordering, time::Duration};

use futures::StreamExt;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use xdc_grid::protocol::internal::{NodeMode, NodeRole};

use super::{
    harness::{Harness, settings},
    workers::{Script, refused},
};

const COMPUTE: &[NodeRole] = &[NodeRole::Compute];

async fn post(h: &Harness, path: &str, body: Value) -> Response {
    h.client.post(format!("{}/v1{path}", h.openai)).json(&body).send().await.unwrap()
}

fn chat(prompt: &str) -> Value {
    json!({"model": "tiny", "messages": [{"role": "user", "content": prompt}], "max_tokens": 16, "temperature": 0})
}

fn streaming(prompt: &str) -> Value {
    let mut body = chat(prompt);
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    body
}

/// The objects of a stream up to `[DONE]`.
async fn objects(response: Response) -> Vec<Value> {
    let text = response.text().await.unwrap();
    let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data.last(), Some(&"[DONE]"), "{text}");
    data[..data.len() - 1].iter().map(|object| serde_json::from_str(object).unwrap()).collect()
}

fn text(objects: &[Value]) -> String {
    objects.iter().filter_map(|object| object["choices"][0]["delta"]["content"].as_str()).collect()
}

#[tokio::test]
async fn a_chat_completion_answers_with_usage() {
    let h = Harness::start().await;
    h.worker("a", COMPUTE).await;
    let response = post(&h, "/chat/completions", chat("the capital of France")).await;
    assert_eq!(response.status(), 200);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "tiny");
    assert_eq!(body["choices"][0]["message"]["content"], " Paris is it.");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["usage"], json!({"prompt_tokens": 21, "completion_tokens": 4, "total_tokens": 25}));
    h.assert_whole().await;
}

#[tokio::test]
async fn a_completion_answers_as_text() {
    let h = Harness::start().await;
    h.worker("a", COMPUTE).await;
    let body: Value = post(&h, "/completions", json!({"model": "tiny", "prompt": "one two", "max_tokens": 1}))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!((body["object"].as_str(), body["choices"][0]["text"].as_str()), (Some("text_completion"), Some(" one")));
    assert_eq!(body["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn a_stream_comes_in_pieces_and_ends_with_usage_and_done() {
    let h = Harness::start().await;
    h.worker("a", COMPUTE).await;
    let response = post(&h, "/chat/completions", streaming("the capital of France")).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let objects = objects(response).await;
    assert_eq!(objects.len(), 6);
    assert_eq!(objects[0]["choices"][0]["delta"], json!({"role": "assistant", "content": " Paris"}));
    assert_eq!(text(&objects), " Paris is it.");
    assert_eq!(objects[4]["choices"][0]["finish_reason"], "stop");
    assert_eq!(objects[5]["usage"]["completion_tokens"], 4);
    assert_eq!(objects[5]["choices"], json!([]));
}

#[tokio::test]
async fn a_stream_goes_on_when_its_worker_dies() {
    let h = Harness::start().await;
    let dying = h.worker_of("dying", COMPUTE, NodeMode::Managed, 1).await;
    dying.set(Script::DieAfter(2));
    let brake = dying.brake();
    let client = tokio::spawn({
        let request =
            h.client.post(format!("{}/v1/chat/completions", h.openai)).json(&streaming("the capital of France"));
        async move { request.send().await.unwrap() }
    });
    let response = client.await.unwrap();
    h.until("it has the request", async || !dying.starts.lock().unwrap().is_empty()).await;
    let sound = h.worker("sound", COMPUTE).await;
    brake.add_permits(100);
    let objects = objects(response).await;
    assert_eq!(text(&objects), " Paris is it.", "no word twice, none missing");
    assert_eq!(objects.last().unwrap()["usage"]["completion_tokens"], 4);
    let start = sound.starts.lock().unwrap()[0].clone();
    assert_eq!((start.prefix.len(), start.attempt), (2, 2));
    assert_eq!(start.beacon, dying.starts.lock().unwrap()[0].beacon, "the same seed");
    h.assert_whole().await;
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request() {
    let h = Harness::start().await;
    let worker = h.worker("a", COMPUTE).await;
    let brake = worker.brake();
    brake.add_permits(1);
    let response = post(&h, "/chat/completions", streaming("one two three")).await;
    let mut chunks = response.bytes_stream();
    chunks.next().await.unwrap().unwrap();
    drop(chunks);
    h.until("the worker was told", async || worker.cancels.load(Ordering::Relaxed) == 1).await;
    h.assert_whole().await;
}

#[tokio::test]
async fn a_busy_grid_answers_429_and_says_when_to_come_back() {
    let mut quick = settings();
    quick.online_wait = Duration::from_millis(300);
    let h = Harness::start_with(quick).await;
    let worker = h.worker_of("a", COMPUTE, NodeMode::Managed, 1).await;
    let brake = worker.brake();
    h.job("job-1", &["one two three"]).await;
    h.until("it is busy", async || h.report("job-1").await.running == 1).await;
    let response = post(&h, "/chat/completions", chat("hi")).await;
    assert_eq!(response.status(), 429);
    assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    let error: Value = response.json().await.unwrap();
    assert_eq!(error["error"]["type"], "rate_limit_error");
    brake.add_permits(100);
    h.finished("job-1").await;
    assert_eq!(worker.starts.lock().unwrap().len(), 1, "the refused request was not run behind its client's back");
}

#[tokio::test]
async fn without_a_worker_the_answer_is_503() {
    let mut quick = settings();
    quick.online_wait = Duration::from_millis(300);
    let h = Harness::start_with(quick).await;
    let response = post(&h, "/chat/completions", chat("hi")).await;
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn what_a_worker_says_about_the_request_reaches_the_client() {
    let h = Harness::start().await;
    let worker = h.worker("a", COMPUTE).await;
    worker.set(Script::Fail(refused("PromptRefused", 0)));
    let response = post(&h, "/chat/completions", chat("hi")).await;
    assert_eq!(response.status(), 400);
    let error: Value = response.json().await.unwrap();
    assert_eq!(
        (error["error"]["code"].as_str(), error["error"]["type"].as_str()),
        (Some("PromptRefused"), Some("invalid_request_error"))
    );
    worker.set(Script::Fail(refused("EngineFailed", 0)));
    assert_eq!(post(&h, "/chat/completions", chat("hi")).await.status(), 502);
}

#[tokio::test]
async fn unknown_models_fields_paths_and_bodies_have_openai_errors() {
    let h = Harness::start().await;
    h.worker("a", COMPUTE).await;
    let mut body = chat("hi");
    body["model"] = json!("gpt-4");
    let response = post(&h, "/chat/completions", body).await;
    assert_eq!(response.status(), 404);
    let error: Value = response.json().await.unwrap();
    assert_eq!(
        (error["error"]["code"].as_str(), error["error"]["param"].as_str()),
        (Some("model_not_found"), Some("model"))
    );

    let mut body = chat("hi");
    body["tools"] = json!([{"type": "function"}]);
    let response = post(&h, "/chat/completions", body).await;
    assert_eq!(response.status(), 400);
    let error: Value = response.json().await.unwrap();
    assert_eq!(error["error"]["param"], "tools");
    assert!(error["error"]["message"].as_str().unwrap().contains("tools"));

    let response = h.client.post(format!("{}/v1/chat/completions", h.openai)).body("not json").send().await.unwrap();
    assert_eq!(response.status(), 400);
    assert!(response.json::<Value>().await.unwrap()["error"]["message"].as_str().unwrap().contains("JSON"));
    let response = h.client.get(format!("{}/v1/none", h.openai)).send().await.unwrap();
    assert_eq!(response.status(), 404);
    assert!(response.json::<Value>().await.unwrap()["error"]["message"].is_string());
    let response = post(&h, "/chat/completions", chat(&"x".repeat(1 << 20))).await;
    assert_eq!(response.status(), 413);
    assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "body_too_large");
    let response = h.client.get(format!("{}/v1/completions", h.openai)).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["allow"].to_str().unwrap()), (405, "POST"));
    assert!(response.json::<Value>().await.unwrap()["error"]["message"].is_string());
}

#[tokio::test]
async fn the_models_are_listed_by_name() {
    let h = Harness::start().await;
    let list: Value = h.client.get(format!("{}/v1/models", h.openai)).send().await.unwrap().json().await.unwrap();
    assert_eq!(list["data"][0]["id"], "tiny");
    let one: Value = h.client.get(format!("{}/v1/models/tiny", h.openai)).send().await.unwrap().json().await.unwrap();
    assert_eq!(one["object"], "model");
    assert_eq!(h.client.get(format!("{}/v1/models/none", h.openai)).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn the_text_of_an_online_request_is_forgotten_once_nobody_needs_it() {
    let h = Harness::start().await;
    let worker = h.worker("a", COMPUTE).await;
    post(&h, "/chat/completions", chat("one two three")).await;
    let id = xdc_grid::api::ids::RequestId(worker.starts.lock().unwrap()[0].request_id.clone().try_into().unwrap());
    h.until("it is forgotten", async || h.ledger.work(&id).await.unwrap().is_none()).await;
    assert_eq!(h.ledger.receipts_of_epoch(h.epoch()).await.unwrap().len(), 1);
    assert_eq!(h.request(Method::GET, "/info").send().await.unwrap().status(), 200);
    h.assert_whole().await;
}
