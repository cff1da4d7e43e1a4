//! Everything that a request may say about its tokens, on its way to workers, auditors and back.

use std::sync::{Arc, atomic::Ordering};

use serde_json::{Value, json};
use xdc_grid::{
    protocol::{
        fields::RequestField,
        internal::{InputLine, NodeMode, NodeRole, Outcome, ResponseFormat},
        wire::LogitBias,
    },
    store::{AuditState, request_fields},
};

use super::{
    harness::{Harness, line, network_id},
    workers::{FakeWorker, Script},
};

const COMPUTE: &[NodeRole] = &[NodeRole::Compute];
const ONLY_VERIFY: &[NodeRole] = &[NodeRole::Verify];

const SCHEMA: &str = r#"{"properties":{"b":{},"a":{}}}"#;

/// A request that uses every field.
fn full(index: u32, prompt: &str) -> InputLine {
    InputLine {
        temperature: 0.5,
        min_p: 0.1,
        repetition_penalty: 1.25,
        presence_penalty: 0.5,
        frequency_penalty: -0.5,
        logit_bias: [(7, -100.0), (3, 2.5)].into(),
        top_logprobs: Some(2),
        response_format: ResponseFormat::JsonSchema(SCHEMA.into()),
        ..line(index, prompt)
    }
}

async fn chat(h: &Harness, extra: Value) -> reqwest::Response {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": "the capital of France"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    h.client.post(format!("{}/v1/chat/completions", h.openai)).json(&body).send().await.unwrap()
}

/// A member whose software knows these fields only.
async fn older(h: &Harness, name: &str, roles: &[NodeRole], slots: u32, knows: &[&str]) -> Arc<FakeWorker> {
    let worker = FakeWorker::new(&network_id(), slots);
    *worker.knows.lock().unwrap() = knows.iter().map(|name| name.to_string()).collect();
    h.join(&worker, name, roles, NodeMode::Managed).await;
    h.until("the worker is proven", async || h.node(&worker).await.capability.verified).await;
    worker
}

#[tokio::test]
async fn a_worker_is_told_every_field_and_the_audit_repeats_them() {
    let h = Harness::start().await;
    let verifier = h.worker_of("verifier", ONLY_VERIFY, NodeMode::Managed, 0).await;
    let worker = h.worker("a", COMPUTE).await;
    h.job_of("job-1", &[full(0, "the capital of France")]).await;
    let report = h.finished("job-1").await;
    assert_eq!((report.completed, report.audits_passed, report.audits_failed), (1, 1, 0));
    assert_eq!(verifier.audits.load(Ordering::Relaxed), 1);
    let start = worker.starts.lock().unwrap()[0].clone();
    let sampling = start.sampling.unwrap();
    assert_eq!((sampling.min_p, sampling.repetition_penalty), (0.1, 1.25));
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (0.5, -0.5));
    assert_eq!(sampling.logit_bias, [LogitBias { id: 3, bias: 2.5 }, LogitBias { id: 7, bias: -100.0 }]);
    assert_eq!((sampling.form, sampling.json_schema.as_str()), (2, SCHEMA));
    assert_eq!(start.top_logprobs, Some(2));
    h.assert_whole().await;
}

#[tokio::test]
async fn log_probabilities_come_back_with_the_results_of_those_who_asked() {
    let h = Harness::start().await;
    h.worker("a", COMPUTE).await;
    h.job_of("job-1", &[full(0, "the capital of France"), line(1, "one two")]).await;
    h.finished("job-1").await;
    let results = h.results("job-1").await;
    let told = |index: usize| match &results[index].outcome {
        Outcome::Completed { logprobs, .. } => logprobs.clone(),
        other => panic!("{other:?}"),
    };
    let tokens = told(0).unwrap();
    let text: Vec<u8> = tokens.iter().flat_map(|token| token.token.0.clone()).collect();
    assert_eq!((String::from_utf8(text).unwrap().as_str(), tokens[0].top.len()), (" Paris is it.", 2));
    assert_eq!(told(1), None);
}

#[tokio::test]
async fn made_up_log_probabilities_fail_the_audit() {
    let h = Harness::start().await;
    h.worker_of("verifier", ONLY_VERIFY, NodeMode::Managed, 0).await;
    let liar = h.worker("liar", COMPUTE).await;
    liar.set(Script::MakeUp);
    h.job_of("job-1", &[full(0, "the capital of France")]).await;
    h.until("the liar was caught", async || h.node(&liar).await.evidence.audits_failed == 1).await;
    let request = xdc_grid::api::ids::RequestId::of_job_line("job-1", "line-0");
    let audits = h.ledger.audits_of(&request).await.unwrap();
    assert_eq!(audits[0].state, AuditState::Failed);
    assert!(audits[0].message.contains("log-probabilities"), "{}", audits[0].message);
    h.assert_whole().await;
}

#[tokio::test]
async fn an_answer_without_the_log_probabilities_that_were_asked_for_is_not_taken() {
    let h = Harness::start().await;
    let quiet = h.worker_of("quiet", COMPUTE, NodeMode::Managed, 1).await;
    quiet.set(Script::KeepQuiet);
    h.job_of("job-1", &[full(0, "the capital of France")]).await;
    h.until("it was tried", async || !quiet.starts.lock().unwrap().is_empty()).await;
    let report = h.finished("job-1").await;
    assert_eq!((report.completed, report.failed), (0, 1));
    assert_eq!(report.last_failures[0].reason, "ProtocolViolation");
    assert!(report.last_failures[0].message.contains("log-probabilities"), "{:?}", report.last_failures);
}

#[tokio::test]
async fn a_field_goes_to_workers_that_know_it_and_else_waits_and_says_which() {
    let h = Harness::start().await;
    let old = older(&h, "old", COMPUTE, 2, &["min_p"]).await;
    h.job_of("job-1", &[full(0, "one two"), line(1, "three")]).await;
    h.until("the job says why it waits", async || h.report("job-1").await.reason == "NoMatchingNode").await;
    let report = h.report("job-1").await;
    assert!(report.message.contains("whose software does not know repetition_penalty, "), "{}", report.message);
    assert_eq!(report.waiting.unwrap().refusals[0].reason, "FieldsUnknown");
    // What it knows it gets.
    h.job_of("job-2", &[InputLine { min_p: 0.1, ..line(0, "four") }]).await;
    assert_eq!(h.finished("job-2").await.completed, 1);
    let new = h.worker("new", COMPUTE).await;
    assert_eq!(h.finished("job-1").await.completed, 2);
    assert_eq!((old.starts.lock().unwrap().len(), new.starts.lock().unwrap().len()), (1, 2));
    h.assert_whole().await;
}

#[tokio::test]
async fn a_client_is_told_which_field_no_worker_knows() {
    let h = Harness::start().await;
    older(&h, "old", COMPUTE, 2, &[]).await;
    let asked = json!({"min_p": 0.1, "max_tokens": 16});
    let refused = chat(&h, asked.clone()).await;
    assert_eq!(refused.status(), 503);
    let error: Value = refused.json().await.unwrap();
    assert_eq!(error["error"]["code"], "field_unknown");
    assert!(error["error"]["message"].as_str().unwrap().contains("min_p"), "{error}");
    assert_eq!(chat(&h, json!({"max_tokens": 16})).await.status(), 200, "what every version knows goes on");
    h.worker("new", COMPUTE).await;
    assert_eq!(chat(&h, asked).await.status(), 200);
}

#[tokio::test]
async fn an_auditor_that_does_not_know_a_field_judges_nobody_by_it() {
    let h = Harness::start().await;
    let old = older(&h, "old-verifier", ONLY_VERIFY, 0, &[]).await;
    let worker = h.worker("a", COMPUTE).await;
    h.job_of("job-1", &[full(0, "the capital of France")]).await;
    h.until("the audit is pending", async || h.report("job-1").await.reason == "AuditsPending").await;
    let verifier = h.worker_of("verifier", ONLY_VERIFY, NodeMode::Managed, 0).await;
    assert_eq!(h.finished("job-1").await.audits_passed, 1);
    assert_eq!((old.audits.load(Ordering::Relaxed), verifier.audits.load(Ordering::Relaxed)), (0, 1));
    assert_eq!(h.node(&worker).await.evidence.audits_failed, 0);
}

#[tokio::test]
async fn the_api_tells_log_probabilities_whole_and_in_pieces() {
    let h = Harness::start().await;
    h.worker("a", COMPUTE).await;
    let asked = json!({"logprobs": true, "top_logprobs": 1, "max_tokens": 16});
    let body: Value = chat(&h, asked.clone()).await.json().await.unwrap();
    let whole = body["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    let text: String = whole.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!((text.as_str(), whole[0]["top_logprobs"].as_array().unwrap().len()), (" Paris is it.", 1));
    let mut streaming = asked;
    streaming["stream"] = json!(true);
    let events = chat(&h, streaming).await.text().await.unwrap();
    let objects = events.lines().filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    let pieces: Vec<Value> = objects
        .filter_map(|object| object["choices"][0]["logprobs"]["content"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(pieces, whole);
    let silent: Value = chat(&h, json!({"max_tokens": 16})).await.json().await.unwrap();
    assert_eq!(silent["choices"][0]["logprobs"], Value::Null);
}

#[tokio::test]
async fn several_answers_are_several_requests_even_on_one_slot() {
    let h = Harness::start().await;
    let worker = h.worker_of("a", COMPUTE, NodeMode::Managed, 1).await;
    let body: Value = chat(&h, json!({"n": 3, "max_tokens": 16})).await.json().await.unwrap();
    let choices = body["choices"].as_array().unwrap();
    let found: Vec<_> =
        choices.iter().map(|choice| (choice["index"].as_u64(), choice["message"]["content"].as_str())).collect();
    assert_eq!(found, [0, 1, 2].map(|index| (Some(index), Some(" Paris is it."))));
    assert_eq!(body["usage"], json!({"prompt_tokens": 21, "completion_tokens": 12, "total_tokens": 33}));
    let ids: std::collections::BTreeSet<_> =
        worker.starts.lock().unwrap().iter().map(|start| start.request_id.clone()).collect();
    assert_eq!(ids.len(), 3, "each with noise of its own");
    let streaming = json!({"n": 2, "max_tokens": 16, "stream": true, "stream_options": {"include_usage": true}});
    let events = chat(&h, streaming).await.text().await.unwrap();
    assert!(events.trim_end().ends_with("data: [DONE]"), "{events}");
    let objects: Vec<Value> =
        events.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect();
    for index in 0..2 {
        let of = |object: &&Value| object["choices"][0]["index"] == index;
        let text: String =
            objects.iter().filter(of).filter_map(|object| object["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(text, " Paris is it.");
        let ends = objects.iter().filter(of).filter(|object| object["choices"][0]["finish_reason"] == "stop");
        assert_eq!(ends.count(), 1);
    }
    assert_eq!(objects.last().unwrap()["usage"]["completion_tokens"], 8);
    assert_eq!(chat(&h, json!({"n": 9})).await.status(), 400);
    h.assert_whole().await;
}

#[tokio::test]
async fn a_bad_value_is_refused_by_the_name_of_its_field() {
    let h = Harness::start().await;
    h.worker("a", COMPUTE).await;
    for (field, value) in [
        ("min_p", json!(2)),
        ("frequency_penalty", json!(-3)),
        ("repetition_penalty", json!(0)),
        ("logit_bias", json!({"x": 1})),
        ("top_logprobs", json!(3)),
        ("response_format", json!("json_object")),
    ] {
        let response = chat(&h, json!({ field: value })).await;
        assert_eq!(response.status(), 400, "{field}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["param"], field);
    }
}

#[test]
fn every_field_is_one_that_workers_say_they_know() {
    let used: Vec<RequestField> = request_fields(&full(0, "x"), "a template").iter().collect();
    assert_eq!(used, RequestField::ALL);
}
