//! Answers in a form over the grid: who is asked, what is refused where, and who judges.

use std::sync::{Arc, atomic::Ordering};

use serde_json::{Value, json};
use xdc_grid::{
    api::ids::RequestId,
    protocol::internal::{InputLine, NodeMode, NodeRole, ResponseFormat},
    store::{AuditRecord, AuditState},
};

use super::{
    harness::{Harness, line, network_id},
    workers::{FakeWorker, Script, refused},
};

const COMPUTE: &[NodeRole] = &[NodeRole::Compute];
const ONLY_VERIFY: &[NodeRole] = &[NodeRole::Verify];

/// A request for an answer in a form.
fn formed(index: u32, prompt: &str) -> InputLine {
    InputLine { response_format: ResponseFormat::JsonObject, ..line(index, prompt) }
}

async fn chat(h: &Harness, format: Value) -> reqwest::Response {
    let messages = json!([{"role": "user", "content": "the capital of France"}]);
    let body = json!({"model": "tiny", "messages": messages, "max_tokens": 16, "response_format": format});
    h.client.post(format!("{}/v1/chat/completions", h.openai)).json(&body).send().await.unwrap()
}

async fn error(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, response.json::<Value>().await.unwrap()["error"].take())
}

/// A member that computes by this profile.
async fn computing(h: &Harness, name: &str, roles: &[NodeRole], slots: u32, profile: &str) -> Arc<FakeWorker> {
    let worker = FakeWorker::new(&network_id(), slots);
    *worker.profile.lock().unwrap() = profile.into();
    h.join(&worker, name, roles, NodeMode::Managed).await;
    h.until("the worker is proven", async || h.node(&worker).await.capability.verified).await;
    worker
}

async fn audit_of(h: &Harness, job: &str, id: &str) -> AuditRecord {
    h.ledger.audits_of(&RequestId::of_job_line(job, id)).await.unwrap().remove(0)
}

#[tokio::test]
async fn the_api_passes_the_form_on_as_it_was_written() {
    let h = Harness::start().await;
    let worker = h.worker("a", COMPUTE).await;
    let schema = r#"{"properties":{"zebra":{},"ant":{}}}"#;
    let named = json!({"name": "x", "strict": true, "schema": serde_json::from_str::<Value>(schema).unwrap()});
    assert_eq!(chat(&h, json!({"type": "json_schema", "json_schema": named})).await.status(), 200);
    assert_eq!(chat(&h, json!({"type": "json_object"})).await.status(), 200);
    assert_eq!(chat(&h, json!({"type": "text"})).await.status(), 200);
    let starts = worker.starts.lock().unwrap().clone();
    let asked: Vec<(u32, String)> = starts
        .into_iter()
        .map(|start| start.sampling.map(|sampling| (sampling.form, sampling.json_schema)).unwrap())
        .collect();
    assert_eq!(asked, [(2, schema.to_owned()), (1, String::new()), (0, String::new())]);
}

#[tokio::test]
async fn what_is_no_form_is_refused_by_name_and_asked_of_no_worker() {
    let h = Harness::start().await;
    let worker = h.worker("a", COMPUTE).await;
    let schema = |schema: Value| json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    for (format, param) in [
        (json!({"type": "yaml"}), "response_format.type"),
        (json!({"type": "json_schema"}), "response_format.json_schema"),
        (schema(json!([])), "response_format.json_schema.schema"),
        (schema(json!({"description": "x".repeat(70_000)})), "response_format.json_schema.schema"),
    ] {
        let (status, error) = error(chat(&h, format).await).await;
        assert_eq!((status, error["param"].as_str()), (400, Some(param)), "{error}");
    }
    assert!(worker.starts.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_form_that_a_worker_cannot_keep_to_fails_its_request_at_once_and_blames_nobody() {
    let h = Harness::start().await;
    let worker = h.worker("a", COMPUTE).await;
    worker.set(Script::Fail(refused("FormRefused", 0)));
    h.job_of("job-1", &[formed(0, "one two three")]).await;
    let report = h.finished("job-1").await;
    let failure = &report.last_failures[0];
    assert_eq!((failure.custom_id.as_str(), failure.reason.as_str()), ("line-0", "FormRefused"));
    assert_eq!(worker.starts.lock().unwrap().len(), 1, "nobody else would do better");
    let (status, error) = error(chat(&h, json!({"type": "json_object"})).await).await;
    assert_eq!((status, error["param"].as_str()), (400, Some("response_format")), "{error}");
    assert_eq!(error["code"], "FormRefused");
    assert_eq!(h.node(&worker).await.evidence.log10_e, 0.0);
    h.assert_whole().await;
}

#[tokio::test]
async fn a_form_that_nothing_can_follow_in_is_tried_by_no_other_worker() {
    let h = Harness::start().await;
    let (a, b) = (h.worker("a", COMPUTE).await, h.worker("b", COMPUTE).await);
    for worker in [&a, &b] {
        worker.set(Script::FailAfter(2, refused("FormRefused", 0)));
    }
    h.job_of("job-1", &[formed(0, "one two three")]).await;
    assert_eq!(h.finished("job-1").await.last_failures[0].reason, "FormRefused");
    let tries = |worker: &FakeWorker| worker.starts.lock().unwrap().len();
    assert_eq!(tries(&a) + tries(&b), 1);
    // Any other failure in the middle is worth another worker.
    for worker in [&a, &b] {
        worker.set(Script::FailAfter(2, refused("PromptRefused", 0)));
    }
    h.job_of("job-2", &[formed(0, "one two three")]).await;
    assert_eq!(h.finished("job-2").await.last_failures[0].reason, "WorkerFailed");
    assert!(tries(&a) + tries(&b) > 2);
}

#[tokio::test]
async fn an_answer_in_a_form_is_audited_with_it() {
    let h = Harness::start().await;
    h.worker_of("verifier", ONLY_VERIFY, NodeMode::Managed, 0).await;
    let worker = h.worker("a", COMPUTE).await;
    h.job_of("job-1", &[formed(0, "the capital of France")]).await;
    assert_eq!(h.finished("job-1").await.audits_passed, 1);
    worker.set(Script::Cheat);
    h.job_of("job-2", &[formed(0, "the capital of France")]).await;
    h.until("the lie was found", async || h.node(&worker).await.evidence.audits_failed == 1).await;
    assert_eq!(audit_of(&h, "job-2", "line-0").await.state, AuditState::Failed);
    h.assert_whole().await;
}

#[tokio::test]
async fn a_verifier_that_cannot_keep_to_the_form_convicts_nobody_and_is_asked_once() {
    let h = Harness::start().await;
    let verifier = h.worker_of("verifier", ONLY_VERIFY, NodeMode::Managed, 0).await;
    *verifier.audits_refused.lock().unwrap() = Some(refused("FormRefused", 0));
    let worker = h.worker("a", COMPUTE).await;
    h.job_of("job-1", &[formed(0, "one two three")]).await;
    h.finished("job-1").await;
    let audit = audit_of(&h, "job-1", "line-0").await;
    // Not paid: an honest worker would have refused the request as the verifier did.
    assert_eq!((audit.state, audit.reason.as_str()), (AuditState::Inconclusive, "Undecidable"));
    assert!(audit.message.contains("form"), "{}", audit.message);
    assert_eq!(verifier.audits.load(Ordering::Relaxed), 1);
    assert_eq!(h.node(&worker).await.evidence.log10_e, 0.0);
}

#[tokio::test]
async fn nodes_that_keep_to_forms_otherwise_judge_one_anothers_free_answers_only() {
    let h = Harness::start().await;
    computing(&h, "verifier", ONLY_VERIFY, 0, "cpu/1+form2").await;
    let older = computing(&h, "older", COMPUTE, 2, "cpu/1+form1").await;
    h.job_of("job-1", &[line(0, "one two three")]).await;
    let report = h.finished("job-1").await;
    assert_eq!((report.completed, report.audits_passed, report.audits_failed), (1, 1, 0));
    // A form goes to those whose answer somebody can judge.
    h.job_of("job-2", &[formed(0, "one two three")]).await;
    h.until("the job says why it waits", async || h.report("job-2").await.reason == "NoMatchingNode").await;
    assert!(h.report("job-2").await.message.contains("response_format"));
    let (status, error) = error(chat(&h, json!({"type": "json_object"})).await).await;
    assert_eq!((status, error["code"].as_str()), (503, Some("field_unknown")), "{error}");
    let newer = computing(&h, "newer", COMPUTE, 2, "cpu/1+form2").await;
    let report = h.finished("job-2").await;
    assert_eq!((report.completed, report.audits_passed, report.audits_failed), (1, 1, 0));
    assert_eq!((older.starts.lock().unwrap().len(), newer.starts.lock().unwrap().len()), (1, 1));
    h.assert_whole().await;
}
