use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use xdc_grid::cli::{
    Exit,
    output::Format,
    results::{ResultsArgs, run},
};

use super::fake::FakeApi;

const JOB: &str = "/apis/xdcgrid.io/v1alpha1/namespaces/team-a/inferencejobs/hello";
const MAP: &str = "/api/v1/namespaces/team-a/configmaps/hello-results";

fn sha(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

fn condition(type_: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-11-24T00:00:00Z"})
}

fn job(status: Value) -> Value {
    json!({
        "apiVersion": "xdcgrid.io/v1alpha1", "kind": "InferenceJob",
        "metadata": {"name": "hello", "namespace": "team-a"},
        "spec": {"workload": {
            "modelRef": {"name": "tiny"}, "input": {"format": "Lines", "inline": "a"},
            "output": {"configMap": {"name": "hello-results"}}
        }},
        "status": status
    })
}

fn answers() -> String {
    let line = json!({"custom_id": "line-1", "response": {"status_code": 200, "body": {
        "choices": [{"message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
        "usage": {"completion_tokens": 3}}}, "error": null});
    format!("{line}\n")
}

fn failures() -> String {
    format!(
        "{}\n",
        json!({"custom_id": "line-2", "response": null, "error": {"code": "WrongModel", "message": "asks for x"}})
    )
}

fn published(extra: Vec<Value>) -> FakeApi {
    let output = json!({
        "configMap": "hello-results", "resultsSha256": sha(&answers()), "errorsSha256": sha(&failures()), "bytes": 1
    });
    let data = json!({"results.jsonl": answers(), "errors.jsonl": failures(), "manifest.json": "{}"});
    FakeApi::default().with(JOB, job(json!({"output": output, "conditions": extra}))).with(
        MAP,
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "hello-results"}, "data": data}),
    )
}

async fn results(api: &FakeApi, errors: bool, output: Format) -> (Result<Exit, String>, String) {
    let mut out = Vec::new();
    let args = ResultsArgs { job: "hello".into(), errors, gateway: None, output };
    let exit = run(&api.session("team-a"), &args, &mut out).await.map_err(|error| error.to_string());
    (exit, String::from_utf8(out).unwrap())
}

#[tokio::test]
async fn the_answers_of_a_job_are_printed() {
    let api = published(vec![condition("Complete", "True", "Completed", "")]);
    let (exit, text) = results(&api, false, Format::Table).await;
    assert_eq!(exit, Ok(Exit::Done));
    assert_eq!(text, "── line-1 (3 tokens, stop)\nParis.\n\n");
}

#[tokio::test]
async fn failed_requests_are_printed_with_their_reason() {
    let (exit, text) = results(&published(vec![]), true, Format::Table).await;
    assert_eq!(exit, Ok(Exit::Done));
    assert_eq!(text, "ID       REASON       MESSAGE\nline-2   WrongModel   asks for x\n");
}

#[tokio::test]
async fn programs_get_the_lines_as_they_are_stored() {
    let (_, text) = results(&published(vec![]), false, Format::Json).await;
    let lines: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(lines[0]["response"]["body"]["choices"][0]["message"]["content"], "Paris.");
}

#[tokio::test]
async fn a_job_that_still_runs_says_not_yet() {
    let status = json!({"progress": "3/24", "conditions": [
        condition("Accepted", "True", "InputRead", ""),
        condition("ModelReady", "False", "NoWorkerForModel", "no worker can serve tiny"),
    ]});
    let (exit, text) = results(&FakeApi::default().with(JOB, job(status)), false, Format::Table).await;
    assert_eq!((exit, text.as_str()), (Ok(Exit::NotYet), ""));
}

#[tokio::test]
async fn a_job_that_failed_gives_what_it_has_and_fails() {
    let api = published(vec![condition("Failed", "True", "DeadlineExceeded", "too late")]);
    let (exit, text) = results(&api, false, Format::Table).await;
    assert_eq!(exit, Ok(Exit::Failed));
    assert!(text.contains("Paris."));
}

#[tokio::test]
async fn a_missing_job_is_named_with_its_namespace() {
    let (exit, _) = results(&FakeApi::default(), false, Format::Table).await;
    assert_eq!(exit.unwrap_err(), r#"there is no InferenceJob "hello" in the namespace "team-a""#);
}
