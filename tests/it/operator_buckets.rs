//! Jobs whose input or output is in a bucket or in the gateway's store: real API server, real controllers, a real S3 server, a
//! scripted gateway.

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use xdc_grid::api::{
    conditions::{Truth, find},
    inference_job::{InferenceJob, InferenceJobStatus, JobPhase, condition},
};

use crate::{
    operator_jobs::{Place, lines, records},
    support::{
        eventually,
        rbac::{self, ACCOUNT, JOB_SECRETS},
        s3::{OWNER, READER, S3, STRANGER, credentials, s3},
        world::{MODEL, SYSTEM, create_in},
    },
};

/// A namespace whose admin lets the operator read its Secrets, with a Secret `bucket`.
pub async fn place_with_bucket(name: &str, user: (&str, &str)) -> (Place, &'static S3) {
    let place = Place::new(name).await;
    secret(&place, "bucket", user).await;
    rbac::grant_secrets(&place.client, name).await;
    (place, s3().await)
}

pub async fn secret(place: &Place, name: &str, user: (&str, &str)) {
    let object = json!({"metadata": {"name": name}, "stringData": credentials(user)});
    create_in::<Secret>(&place.client, &place.namespace, object).await;
}

pub fn at(endpoint: &str, uri: &str) -> Value {
    json!({"uri": uri, "endpoint": endpoint, "secretRef": {"name": "bucket"}})
}

pub async fn submit(place: &Place, name: &str, input: Value, output: Value) -> InferenceJob {
    let workload = json!({"modelRef": {"name": MODEL}, "input": input, "output": output,
                          "generation": {"maxTokens": 8, "temperature": "0", "seed": 7}});
    let object = json!({"metadata": {"name": name}, "spec": {"workload": workload}});
    create_in(&place.client, &place.namespace, object).await
}

pub fn message(status: &InferenceJobStatus, type_: &str) -> String {
    find(&status.conditions, type_).map(|found| found.message.clone()).unwrap_or_default()
}

#[tokio::test]
async fn a_job_reads_a_bucket_and_leaves_parts_and_a_manifest_in_another() {
    let (place, s3) = place_with_bucket("s3-life", OWNER).await;
    let _quiet = place.world.quiet.read().await;
    let input = "What is the capital of France?\nFAIL\nName a colour.\n";
    s3.bucket("prompts").put("today/input.txt", input).await;
    let from = json!({"format": "Lines", "s3": at(&s3.endpoint, "s3://prompts/today/input.txt"),
                      "sha256": hex::encode(Sha256::digest(input))});
    submit(&place, "hello", from, json!({"s3": at(&s3.endpoint, "s3://answers/today")})).await;
    let status = place.until_true("hello", condition::COMPLETE).await;
    assert_eq!(status.input_sha256, Some(hex::encode(Sha256::digest(input))));
    let output = status.output.unwrap();
    assert_eq!((output.place.as_str(), output.parts), ("s3://answers/today/", Some(2)));
    assert_eq!(output.s3.as_deref(), Some("s3://answers/today/manifest.json"));
    let answers = s3.bucket("answers");
    let text = answers.text("today/manifest.json").await.unwrap();
    assert_eq!(output.manifest_sha256, Some(hex::encode(Sha256::digest(&text))));
    let manifest: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(manifest["counts"], json!({"total": 3, "completed": 2, "failed": 1, "rejected": 0}));
    assert_eq!(manifest["receiptsRoot"], "ab".repeat(32));
    for (file, expected) in [("results.jsonl", 2), ("errors.jsonl", 1)] {
        let part = &manifest["parts"][file][0];
        let found = answers.text(&format!("today/{}", part["name"].as_str().unwrap())).await.unwrap();
        let sha256 = hex::encode(Sha256::digest(&found));
        assert_eq!((part["sha256"].as_str(), manifest["sha256"][file].as_str()), (Some(&*sha256), Some(&*sha256)));
        assert!(part["name"].as_str().unwrap().contains(&sha256), "a part is named by its content");
        assert_eq!((part["lines"].as_u64(), records(&found).len()), (Some(expected), expected as usize));
    }
}

#[tokio::test]
async fn lines_that_are_no_requests_are_kept_before_anything_is_computed_and_published_at_the_end() {
    let (place, s3) = place_with_bucket("s3-rejected", OWNER).await;
    let _quiet = place.world.quiet.read().await;
    let good =
        format!(r#"{{"custom_id":"good","body":{{"model":"{MODEL}","messages":[{{"role":"user","content":"hi"}}]}}}}"#);
    let bucket = s3.bucket("rejected");
    bucket.put("in.jsonl", format!("nonsense\n{good}\n")).await;
    let from = json!({"s3": at(&s3.endpoint, "s3://rejected/in.jsonl")});
    let job = submit(&place, "held-6", from, json!({"s3": at(&s3.endpoint, "s3://rejected/out/")})).await;
    let uid = job.uid().unwrap();
    place.until_true("held-6", condition::RUNNING).await;
    let kept = bucket.text(&format!("out/rejected-{uid}.jsonl")).await.unwrap();
    assert_eq!(records(&kept)[0]["error"]["code"], "InvalidJson");
    // The input is not needed any more.
    bucket.put("in.jsonl", "something else").await;
    place.world.gateway.release("held-6");
    let status = place.until_true("held-6", condition::COMPLETE).await;
    let requests = status.requests.unwrap();
    assert_eq!((requests.total, requests.completed, requests.failed), (2, 1, 1));
    assert_eq!(place.world.gateway.spec(&uid).unwrap().rejected_lines, 1);
}

#[tokio::test]
async fn results_wait_for_a_bucket_that_is_away_and_nothing_is_computed_again() {
    let (place, s3) = place_with_bucket("s3-away", OWNER).await;
    let _quiet = place.world.quiet.read().await;
    let gate = s3.gate().await;
    let output = json!({"s3": at(&gate.endpoint, "s3://away/out/")});
    let job = submit(&place, "held-7", lines(&["a", "b"]), output).await;
    let uid = job.uid().unwrap();
    place.until_true("held-7", condition::RUNNING).await;
    gate.set_open(false);
    place.world.gateway.release("held-7");
    let status = place.until_reason("held-7", condition::OUTPUT_PUBLISHED, "OutputUnreachable").await;
    assert_eq!(find(&status.conditions, condition::OUTPUT_PUBLISHED).unwrap().status, Truth::Unknown);
    assert_eq!((status.phase, status.reason.as_deref()), (Some(JobPhase::Finalizing), Some("OutputUnreachable")));
    assert!(message(&status, condition::OUTPUT_PUBLISHED).contains("s3://away/out/"));
    assert!(find(&status.conditions, condition::RECONCILING).is_some_and(|found| found.status == Truth::True));
    gate.set_open(true);
    place.until_true("held-7", condition::COMPLETE).await;
    assert_eq!(place.world.gateway.submissions(&uid), 1);
    assert!(s3.bucket("away").text("out/manifest.json").await.unwrap().contains(&uid));
}

#[tokio::test]
async fn a_job_waits_until_an_admin_lets_its_secrets_be_read_and_says_how() {
    let place = Place::new("s3-forbidden").await;
    let _quiet = place.world.quiet.read().await;
    let s3 = s3().await;
    secret(&place, "bucket", OWNER).await;
    let job = submit(&place, "hello", lines(&["a"]), json!({"s3": at(&s3.endpoint, "s3://forbidden/out/")})).await;
    let status = place.until_reason("hello", condition::OUTPUT_PUBLISHED, "SecretForbidden").await;
    let command = format!(
        "kubectl -n s3-forbidden create rolebinding xdc-grid-job-secrets --clusterrole={JOB_SECRETS} --serviceaccount={SYSTEM}:{ACCOUNT}"
    );
    assert!(message(&status, condition::OUTPUT_PUBLISHED).ends_with(&command), "{status:#?}");
    assert_eq!(status.reason.as_deref(), Some("SecretForbidden"));
    assert!(find(&status.conditions, condition::STALLED).is_some_and(|found| found.status == Truth::True));
    assert_eq!(place.world.gateway.submissions(&job.uid().unwrap()), 0, "nothing is computed that cannot be left");
    rbac::grant_secrets(&place.client, "s3-forbidden").await;
    let status = place.until_true("hello", condition::COMPLETE).await;
    assert!(find(&status.conditions, condition::STALLED).is_none());
}

#[tokio::test]
async fn credentials_that_do_not_do_are_told_before_anything_is_computed() {
    let (place, s3) = place_with_bucket("s3-denied", READER).await;
    let _quiet = place.world.quiet.read().await;
    s3.bucket("denied").put("in.txt", "a\n").await;
    let from = json!({"format": "Lines", "s3": at(&s3.endpoint, "s3://denied/in.txt")});
    let job = submit(&place, "write", from, json!({"s3": at(&s3.endpoint, "s3://denied/out/")})).await;
    let status = place.until_reason("write", condition::OUTPUT_PUBLISHED, "OutputForbidden").await;
    assert!(message(&status, condition::OUTPUT_PUBLISHED).contains("HTTP 403 AccessDenied"), "{status:#?}");
    assert_eq!(place.world.gateway.submissions(&job.uid().unwrap()), 0);

    secret(&place, "guess", STRANGER).await;
    let mut from = json!({"format": "Lines", "s3": at(&s3.endpoint, "s3://denied/in.txt")});
    from["s3"]["secretRef"]["name"] = "guess".into();
    submit(&place, "read", from, json!({"store": {}})).await;
    let status = place.until_reason("read", condition::ACCEPTED, "InputForbidden").await;
    assert!(message(&status, condition::ACCEPTED).contains("SignatureDoesNotMatch"), "{status:#?}");
}

#[tokio::test]
async fn an_object_that_is_not_there_is_waited_for_and_one_with_another_digest_is_refused() {
    let (place, s3) = place_with_bucket("s3-input", OWNER).await;
    let _quiet = place.world.quiet.read().await;
    let bucket = s3.bucket("late");
    bucket.put("other", "x").await;
    let from = json!({"format": "Lines", "s3": at(&s3.endpoint, "s3://late/in.txt")});
    submit(&place, "patient", from.clone(), json!({"store": {}})).await;
    let status = place.until_reason("patient", condition::ACCEPTED, "InputNotFound").await;
    assert!(message(&status, condition::ACCEPTED).contains("s3://late/in.txt"));
    bucket.put("in.txt", "a\n").await;
    place.until_true("patient", condition::COMPLETE).await;
    let mut wrong = from;
    wrong["sha256"] = "00".repeat(32).into();
    submit(&place, "wrong", wrong, json!({"store": {}})).await;
    place.until_reason("wrong", condition::FAILED, "InputDigestMismatch").await;
}

#[tokio::test]
async fn the_output_of_another_job_in_a_bucket_is_never_overwritten() {
    let (place, s3) = place_with_bucket("s3-conflict", OWNER).await;
    let _quiet = place.world.quiet.read().await;
    let output = json!({"s3": at(&s3.endpoint, "s3://conflict/out/")});
    submit(&place, "first", lines(&["a"]), output.clone()).await;
    place.until_true("first", condition::COMPLETE).await;
    let before = s3.bucket("conflict").text("out/manifest.json").await;
    submit(&place, "second", lines(&["a"]), output).await;
    let status = place.until_reason("second", condition::OUTPUT_PUBLISHED, "OutputConflict").await;
    assert!(message(&status, condition::OUTPUT_PUBLISHED).contains("\"first\""), "{status:#?}");
    assert_eq!(s3.bucket("conflict").text("out/manifest.json").await, before);
}

#[tokio::test]
async fn an_output_in_the_store_is_there_with_its_key_and_goes_with_the_job() {
    let place = Place::new("store-life").await;
    let _quiet = place.world.quiet.read().await;
    let job = submit(&place, "hello", lines(&["a", "FAIL"]), json!({"store": {}})).await;
    let uid = job.uid().unwrap();
    let status = place.until_true("hello", condition::COMPLETE).await;
    let output = status.output.unwrap();
    let store = output.store.unwrap();
    assert_eq!((output.place.as_str(), store.service.as_str()), ("store", "xdc-grid/gateway-api:8080"));
    assert_eq!(store.path, format!("/grid/v1/jobs/{uid}/files/"));
    assert_eq!(store.read_key, "5e".repeat(32));
    let kept = place.world.gateway.kept(&uid);
    assert_eq!(output.manifest_sha256, Some(hex::encode(Sha256::digest(&kept["manifest.json"]))));
    let manifest: Value = serde_json::from_str(&kept["manifest.json"]).unwrap();
    let part = manifest["parts"]["results.jsonl"][0]["name"].as_str().unwrap();
    assert_eq!(records(&kept[part])[0]["response"]["body"]["choices"][0]["message"]["content"], "answer to a");
    place.jobs().delete("hello", &Default::default()).await.unwrap();
    eventually("the files are gone", async || place.world.gateway.kept(&uid).is_empty().then_some(())).await;
}

#[tokio::test]
async fn results_wait_for_room_in_the_store() {
    let place = Place::new("store-full").await;
    let _alone = place.world.quiet.write().await;
    submit(&place, "held-8", lines(&["a", "b"]), json!({"store": {}})).await;
    place.until_true("held-8", condition::RUNNING).await;
    place.world.gateway.set_store_is_full(true);
    place.world.gateway.release("held-8");
    let status = place.until_reason("held-8", condition::OUTPUT_PUBLISHED, "StoreFull").await;
    assert_eq!(status.phase, Some(JobPhase::Finalizing));
    place.world.gateway.set_store_is_full(false);
    place.until_true("held-8", condition::COMPLETE).await;
}
