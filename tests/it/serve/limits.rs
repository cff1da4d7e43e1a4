//! What a server does not do: more than it can, for longer than it may, for whom it should not.

use std::{
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use futures::StreamExt;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{Gate, MODEL, Serving, begun, capital, chat, events, long};
use crate::{engine::model_path, worker::parrot::Parrots};

const CHAT: &str = "/v1/chat/completions";
/// For what happens at once where the machine has time.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn while_the_model_loads_the_server_says_so() {
    let (release, gate) = mpsc::channel();
    let s = Serving::start_with(&model_path(), &[], Arc::new(Gate(Mutex::new(gate)))).await;
    let ready = s.get("/ready").await;
    assert_eq!((ready.status().as_u16(), ready.text().await.unwrap().as_str()), (503, "model: loading\n"));
    assert_eq!(s.get("/health").await.status(), 200);
    let response = s.post(CHAT, &capital()).await;
    assert!(response.headers().contains_key("retry-after"));
    assert_eq!(response.status(), 503);
    assert_eq!(s.refused(CHAT, &capital()).await.1["code"], "model_loading");
    release.send(()).unwrap();
    let s = s.ready().await;
    s.ask(CHAT, &capital()).await;
    assert!(s.metric("grid_serve_model_load_seconds").await > 0.0);
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_ends_the_server_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.gguf");
    std::fs::write(&path, b"GGUF and nothing more").unwrap();
    let mut s = Serving::start_with(&path, &[], Arc::new(xdc_grid::worker::LocalEngines)).await;
    let error = timeout(PATIENCE, s.server.failed()).await.unwrap().to_string();
    assert!(error.contains("broken.gguf"), "{error}");
}

#[tokio::test]
async fn a_full_queue_answers_429_and_a_client_that_leaves_frees_its_place() {
    let s = Serving::start(&["--max-sequences", "1", "--max-queue", "0"]).await;
    let stream = begun(s.post(CHAT, &long(4000)).await).await;
    let response = s.post(CHAT, &capital()).await;
    assert_eq!(response.status(), 429);
    assert!(response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(s.refused(CHAT, &capital()).await.1["type"], "rate_limit_error");
    s.until("it is the only one", async || s.metric("vllm:num_requests_running").await == 1.0).await;
    drop(stream);
    s.until("the place is free", async || s.post(CHAT, &capital()).await.status() == 200).await;
    s.until("it is counted", async || s.metric("grid_serve_cancelled_total").await == 1.0).await;
}

#[tokio::test]
async fn a_client_that_leaves_before_its_whole_answer_frees_its_place_too() {
    let s = Serving::start(&["--max-sequences", "1", "--max-queue", "0"]).await;
    let mut body = long(4000);
    body["stream"] = json!(false);
    let waiting = tokio::spawn(s.client.post(s.url(CHAT)).json(&body).send());
    s.until("it runs", async || s.metric("vllm:num_requests_running").await == 1.0).await;
    waiting.abort();
    s.until("the place is free", async || s.post(CHAT, &capital()).await.status() == 200).await;
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_408_and_in_a_stream_an_event() {
    let s = Serving::start(&["--request-seconds", "1"]).await;
    let mut body = long(4000);
    let (objects, done) = events(s.post(CHAT, &body).await).await;
    assert!(!done);
    assert_eq!(objects.last().unwrap()["error"]["code"], "deadline_exceeded");
    body["stream"] = json!(false);
    let (status, error) = s.refused(CHAT, &body).await;
    assert_eq!((status, error["type"].as_str()), (408, Some("timeout_error")));
    s.until("nothing runs", async || s.metric("vllm:num_requests_running").await == 0.0).await;
}

#[tokio::test]
async fn a_body_that_is_too_large_or_too_slow_is_refused() {
    let s = Serving::start(&["--max-body", "4Ki", "--body-seconds", "1"]).await;
    let (status, error) = s.refused(CHAT, &chat(&"x".repeat(5000), json!({}))).await;
    assert_eq!((status, error["code"].as_str()), (413, Some("body_too_large")));
    let mut connection = TcpStream::connect(s.address).await.unwrap();
    connection.write_all(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{").await.unwrap();
    let mut head = [0; 12];
    timeout(PATIENCE, connection.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(&head, b"HTTP/1.1 408");
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed_and_waits_for_nobody() {
    let s = Serving::start(&["--max-connections", "2", "--header-seconds", "1"]).await;
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut connection = TcpStream::connect(s.address).await.unwrap();
        connection.write_all(b"GET /health HTTP/1.1\r\n").await.unwrap();
        idle.push(connection);
    }
    // It gets a place when theirs are taken away. A connection of this client that was idle for as long is closed, too.
    s.until("it gets a place", async || {
        let answer = s.client.get(s.url("/health")).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    for mut connection in idle {
        let mut rest = Vec::new();
        timeout(PATIENCE, connection.read_to_end(&mut rest)).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn without_the_key_only_health_and_metrics_are_told() {
    let s = Serving::start(&["--api-key", "a secret"]).await;
    for path in ["/health", "/ready", "/metrics", "/openapi.json"] {
        assert_eq!(s.get(path).await.status(), 200, "{path}");
    }
    assert_eq!(s.refused(CHAT, &capital()).await.0, 401);
    assert_eq!(s.refused("/tokenize", &json!({"prompt": "x"})).await.1["code"], "invalid_api_key");
    let with_key = |key: &str| s.client.post(s.url("/tokenize")).json(&json!({"prompt": "x"})).bearer_auth(key).send();
    assert_eq!(with_key("a secre").await.unwrap().status(), 401);
    assert_eq!(with_key("a secret").await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_server_that_stops_finishes_what_it_began_and_takes_nothing_new() {
    let (parrots, brake) = Parrots::braked();
    let file = tempfile::NamedTempFile::new().unwrap();
    let options = ["--drain-seconds", "600", "--model-name", MODEL];
    // For the test of the model that comes before the first request.
    brake.add_permits(1_000);
    let s = Serving::start_with(file.path(), &options, Arc::new(parrots)).await.ready().await;
    brake.forget_permits(1_000);
    brake.add_permits(1);
    let stream = begun(s.post(CHAT, &long(60)).await).await;
    // A connection of its own, from before.
    s.get("/health").await;
    let Serving { server, client, address } = s;
    let draining = tokio::spawn(server.drain());
    let url = format!("http://{address}");
    let refused = async || {
        let response = client.post(format!("{url}{CHAT}")).json(&capital()).send().await;
        response.is_ok_and(|response| response.status() == 503)
    };
    let waiting = async {
        while !refused().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap();
    assert_eq!(client.get(format!("{url}/ready")).send().await.unwrap().status(), 503);
    brake.add_permits(59);
    let rest: Vec<_> = stream.collect().await;
    let text: Vec<u8> = rest.into_iter().flat_map(|chunk| chunk.unwrap()).collect();
    assert!(String::from_utf8(text).unwrap().ends_with("data: [DONE]\n\n"));
    timeout(PATIENCE, draining).await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn what_does_not_finish_in_time_ends_with_an_error_that_says_so() {
    let s = Serving::start(&["--drain-seconds", "0"]).await;
    let response = s.post(CHAT, &long(4000)).await;
    let (server, reading) = (s.server, tokio::spawn(events(response)));
    timeout(PATIENCE, server.drain()).await.unwrap();
    let (objects, done) = reading.await.unwrap();
    assert!(!done);
    assert_eq!(objects.last().unwrap()["error"]["code"], "draining");
}

#[tokio::test]
async fn every_route_of_the_description_is_there_and_it_names_this_model() {
    let s = Serving::start(&["--max-tokens", "9"]).await;
    let document: serde_json::Value = s.get("/openapi.json").await.json().await.unwrap();
    let schemas = &document["components"]["schemas"];
    assert_eq!((&schemas["Model"]["enum"], &schemas["AnswerLength"]["maximum"]), (&json!([MODEL]), &json!(9)));
    assert!(schemas["ChatRequest"]["properties"].get("tools").is_none(), "this model's template knows of no tools");
    for (path, item) in document["paths"].as_object().unwrap() {
        let get = item.get("get").is_some();
        let url = s.url(&path.replace("{id}", MODEL));
        let request = if get { s.client.get(url) } else { s.client.post(url).body("{}") };
        let status = request.send().await.unwrap().status().as_u16();
        assert_eq!(status, if get { 200 } else { 400 }, "{path}");
    }
}
