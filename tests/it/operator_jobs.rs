//! The life of jobs: real API server, real controllers, scripted gateway.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use xdc_grid::{
    api::{
        conditions::{Truth, find},
        grid_model::GridModel,
        inference_job::{InferenceJob, InferenceJobStatus, JobPhase, condition},
    },
    protocol::internal::{ChangeKind, PlacementFilter, Trust},
};

use crate::support::{
    PATIENCE, client, eventually,
    world::{MODEL, World, create, create_in, event_reasons, model, namespace, world},
};

/// A test's own namespace in the shared world.
pub struct Place {
    pub world: &'static World,
    pub client: Client,
    pub namespace: String,
}

impl Place {
    pub async fn new(name: &str) -> Self {
        let world = world().await;
        let client = client().await;
        namespace(&client, name).await;
        Place { world, client, namespace: name.into() }
    }

    pub fn jobs(&self) -> Api<InferenceJob> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub async fn job(&self, name: &str, input: Value, more: Value) -> InferenceJob {
        let mut spec = json!({"workload": {
            "modelRef": {"name": MODEL}, "input": input, "generation": {"maxTokens": 8, "temperature": "0", "seed": 7},
            "output": {"configMap": {"name": format!("{name}-results")}},
        }});
        merge(&mut spec, more);
        create_in(&self.client, &self.namespace, json!({"metadata": {"name": name}, "spec": spec})).await
    }

    /// Waits until the job's status satisfies `wanted`.
    pub async fn until(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&InferenceJobStatus) -> bool,
    ) -> InferenceJobStatus {
        let jobs = self.jobs();
        let last = std::cell::RefCell::new(None);
        let ask = async || {
            let status = jobs.get(name).await.unwrap().status;
            *last.borrow_mut() = status.clone();
            status.filter(&wanted)
        };
        let asked = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(status) = ask().await {
                    return status;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        });
        asked.await.unwrap_or_else(|_| panic!("{name} is not {what}: {:#?}", last.borrow()))
    }

    pub async fn until_true(&self, name: &str, type_: &'static str) -> InferenceJobStatus {
        self.until(name, type_, |status| {
            find(&status.conditions, type_).is_some_and(|found| found.status == Truth::True)
        })
        .await
    }

    pub async fn until_reason(&self, name: &str, type_: &'static str, reason: &'static str) -> InferenceJobStatus {
        self.until(name, reason, |status| find(&status.conditions, type_).is_some_and(|found| found.reason == reason))
            .await
    }

    pub async fn output(&self, name: &str) -> std::collections::BTreeMap<String, String> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        maps.get(&format!("{name}-results")).await.unwrap().data.unwrap()
    }

    pub async fn change(&self, name: &str, spec: Value) {
        let patch = json!({"spec": spec});
        self.jobs().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

pub fn lines(prompts: &[&str]) -> Value {
    json!({"format": "Lines", "inline": prompts.join("\n")})
}

pub fn records(jsonl: &str) -> Vec<Value> {
    jsonl.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn a_job_runs_to_complete_and_leaves_its_results_with_a_manifest() {
    let place = Place::new("life").await;
    let _quiet = place.world.quiet.read().await;
    place.job("hello", lines(&["What is the capital of France?", "Name a colour."]), json!({})).await;
    let status = place.until_true("hello", condition::COMPLETE).await;
    assert_eq!((status.phase, status.progress.as_deref()), (Some(JobPhase::Complete), Some("2/2")));
    assert_eq!((status.nodes, status.throughput.as_deref()), (Some(1), Some("10.0")));
    assert_eq!(status.assignments[0].node_name, "node-a");
    for type_ in [condition::ACCEPTED, condition::ADMITTED, condition::OUTPUT_PUBLISHED, condition::VERIFIED] {
        assert_eq!(find(&status.conditions, type_).unwrap().status, Truth::True, "{type_}");
    }
    let output = place.output("hello").await;
    let manifest: Value = serde_json::from_str(&output["manifest.json"]).unwrap();
    for file in ["results.jsonl", "errors.jsonl"] {
        assert_eq!(manifest["sha256"][file], hex::encode(Sha256::digest(&output[file])), "{file}");
    }
    assert_eq!(status.output.unwrap().results_sha256, manifest["sha256"]["results.jsonl"]);
    let results = records(&output["results.jsonl"]);
    assert_eq!((results.len(), results[0]["custom_id"].as_str()), (2, Some("line-1")));
    assert_eq!(
        results[0]["response"]["body"]["choices"][0]["message"]["content"],
        "answer to What is the capital of France?"
    );
    eventually("the Event", async || {
        let reasons = event_reasons(&place.client, &place.namespace, "hello").await;
        reasons.contains(&"Completed".to_owned()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn bad_batch_lines_become_errors_and_the_rest_runs() {
    let place = Place::new("batch").await;
    let _quiet = place.world.quiet.read().await;
    let line = |id: &str, model: &str, more: &str| {
        format!(
            r#"{{"custom_id":"{id}","method":"POST","url":"/v1/chat/completions","body":{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]{more}}}}}"#
        )
    };
    let input = [
        line("good", MODEL, ""),
        r#"{"custom_id":"broken", "#.into(),
        line("other", "another", ""),
        line("good", MODEL, ""),
        line("field", MODEL, r#","tools":[{}]"#),
    ];
    place.job("mixed", json!({"format": "OpenAIBatch", "inline": input.join("\n")}), json!({})).await;
    let status = place.until_true("mixed", condition::COMPLETE).await;
    let requests = status.requests.unwrap();
    assert_eq!((requests.total, requests.completed, requests.failed, status.rejected_lines), (5, 1, 4, Some(4)));
    let errors = records(&place.output("mixed").await["errors.jsonl"]);
    let found: Vec<_> = errors
        .iter()
        .map(|error| (error["custom_id"].as_str().unwrap(), error["error"]["code"].as_str().unwrap()))
        .collect();
    assert_eq!(
        found,
        [("broken", "InvalidJson"), ("other", "OtherModel"), ("good", "DuplicateCustomId"), ("field", "UnknownField")]
    );
}

#[tokio::test]
async fn more_failures_than_allowed_end_the_job_and_keep_what_was_done() {
    let place = Place::new("failures").await;
    let _quiet = place.world.quiet.read().await;
    place.job("some", lines(&["a", "FAIL"]), json!({"maxFailedRequests": 1})).await;
    let status = place.until_true("some", condition::COMPLETE).await;
    assert_eq!(status.last_failures[0].reason, "WorkerFailed");
    place.job("too-many", lines(&["a", "FAIL", "FAIL"]), json!({"maxFailedRequests": 1})).await;
    let status = place.until_true("too-many", condition::FAILED).await;
    assert_eq!(find(&status.conditions, condition::FAILED).unwrap().reason, "TooManyFailedRequests");
    assert!(place.output("too-many").await.contains_key("manifest.json"));
    let bad = json!({"format": "OpenAIBatch", "inline": "nonsense\nmore nonsense"});
    place.job("nonsense", bad, json!({"maxFailedRequests": 1})).await;
    place.until_reason("nonsense", condition::FAILED, "TooManyFailedRequests").await;
}

#[tokio::test]
async fn a_job_waits_for_a_missing_model_and_says_which() {
    let place = Place::new("no-model").await;
    let _quiet = place.world.quiet.read().await;
    place.job("early", lines(&["a"]), json!({"workload": {"modelRef": {"name": "late"}}})).await;
    let status = place.until_reason("early", condition::ACCEPTED, "ModelNotFound").await;
    assert!(find(&status.conditions, condition::ACCEPTED).unwrap().message.contains("late"));
    create::<GridModel>(&place.client, model("late", "http://models/late.gguf", 0x22)).await;
    place.until_true("early", condition::COMPLETE).await;
}

#[tokio::test]
async fn an_input_that_is_not_there_is_waited_for_and_an_empty_one_is_refused() {
    let place = Place::new("input").await;
    let _quiet = place.world.quiet.read().await;
    let from_map = json!({"format": "Lines", "configMap": {"name": "prompts", "key": "p"}});
    place.job("from-map", from_map, json!({})).await;
    place.until_reason("from-map", condition::ACCEPTED, "InputNotFound").await;
    create_in::<ConfigMap>(&place.client, "input", json!({"metadata": {"name": "prompts"}, "data": {"p": "a\nb\n"}}))
        .await;
    place.until_true("from-map", condition::COMPLETE).await;
    place.job("empty", lines(&["  ", ""]), json!({})).await;
    place.until_reason("empty", condition::FAILED, "InvalidInput").await;
    let many = "x\n".repeat(50_001);
    place.world.gateway.serve_file("many", &many);
    let url = format!("{}/files/many", place.world.gateway_url);
    place
        .job("many", json!({"format": "Lines", "url": url, "sha256": hex::encode(Sha256::digest(&many))}), json!({}))
        .await;
    place.until_reason("many", condition::FAILED, "InputTooLarge").await;
}

#[tokio::test]
async fn a_large_input_that_changes_between_two_tries_runs_as_it_is_now() {
    let place = Place::new("changed").await;
    let _quiet = place.world.quiet.read().await;
    // Too long for one call: the spec goes first, the input after it.
    let input = |count: usize| (0..count).map(|number| format!("{number} {}\n", "x".repeat(9_000))).collect::<String>();
    let map = |count| json!({"metadata": {"name": "prompts"}, "data": {"p": input(count)}});
    create_in::<ConfigMap>(&place.client, "changed", map(40)).await;
    place.world.gateway.set_input_breaks("large", true);
    let from_map = json!({"format": "Lines", "configMap": {"name": "prompts", "key": "p"}});
    let uid = place.job("large", from_map, json!({})).await.uid().unwrap();
    place.until_reason("large", condition::ADMITTED, "GatewayUnavailable").await;
    assert_eq!(place.world.gateway.spec(&uid).unwrap().total_requests, 40);
    let maps: Api<ConfigMap> = Api::namespaced(place.client.clone(), "changed");
    let patch = Patch::Merge(json!({"data": {"p": input(41)}}));
    maps.patch("prompts", &PatchParams::default(), &patch).await.unwrap();
    // A try that began with the old text may still be on its way.
    let gateway = &place.world.gateway;
    eventually("it is tried with the new text", async || (gateway.spec(&uid)?.total_requests == 41).then_some(()))
        .await;
    gateway.set_input_breaks("large", false);
    let status = place.until_true("large", condition::COMPLETE).await;
    assert_eq!(status.progress.as_deref(), Some("41/41"));
    assert!(!place.world.gateway.has_forgotten(&uid), "a deleted uid never comes back");
}

#[tokio::test]
async fn an_input_from_a_url_runs_only_with_the_right_digest() {
    let place = Place::new("url").await;
    let _quiet = place.world.quiet.read().await;
    place.world.gateway.serve_file("prompts", "one\ntwo\n");
    let input = |sha256: String| json!({"format": "Lines", "url": format!("{}/files/prompts", place.world.gateway_url), "sha256": sha256});
    place.job("right", input(hex::encode(Sha256::digest("one\ntwo\n"))), json!({})).await;
    place.until_true("right", condition::COMPLETE).await;
    let wrong = place.job("wrong", input("00".repeat(32)), json!({})).await;
    let status = place.until_reason("wrong", condition::FAILED, "InputDigestMismatch").await;
    assert!(find(&status.conditions, condition::FAILED).unwrap().message.contains(&"00".repeat(32)));
    assert!(place.world.gateway.control(&wrong.uid().unwrap()).is_none(), "nothing of it reached the gateway");
}

#[tokio::test]
async fn results_that_do_not_fit_say_what_to_do() {
    let place = Place::new("huge").await;
    let _quiet = place.world.quiet.read().await;
    place.job("huge", lines(&["HUGE"]), json!({})).await;
    let status = place.until_reason("huge", condition::FAILED, "OutputTooLarge").await;
    assert!(find(&status.conditions, condition::FAILED).unwrap().message.contains("split the input"));
}

#[tokio::test]
async fn somebody_elses_config_map_is_never_overwritten() {
    let place = Place::new("conflict").await;
    let _quiet = place.world.quiet.read().await;
    create_in::<ConfigMap>(
        &place.client,
        "conflict",
        json!({"metadata": {"name": "mine-results"}, "data": {"precious": "1"}}),
    )
    .await;
    place.job("mine", lines(&["a"]), json!({})).await;
    place.until_reason("mine", condition::OUTPUT_PUBLISHED, "OutputConflict").await;
    assert_eq!(place.output("mine").await.into_iter().collect::<Vec<_>>(), [("precious".to_owned(), "1".to_owned())]);
}

#[tokio::test]
async fn a_job_is_suspended_resumed_and_cancelled_with_its_results_kept() {
    let place = Place::new("control").await;
    let _quiet = place.world.quiet.read().await;
    let held = place.job("held-1", lines(&["a", "b"]), json!({"suspend": true, "parallelism": 1})).await;
    let uid = held.uid().unwrap();
    place.until_reason("held-1", condition::ADMITTED, "Suspended").await;
    assert_eq!(place.world.gateway.control(&uid), None, "a suspended job is not even submitted");
    place.change("held-1", json!({"suspend": false})).await;
    place.until_true("held-1", condition::RUNNING).await;
    assert_eq!(place.world.gateway.control(&uid).unwrap().parallelism, 1);
    place.change("held-1", json!({"suspend": true})).await;
    place.until_reason("held-1", condition::RUNNING, "Suspended").await;
    place.change("held-1", json!({"suspend": false, "cancel": true})).await;
    let status = place.until_true("held-1", condition::FAILED).await;
    assert_eq!((status.phase, status.reason.as_deref()), (Some(JobPhase::Cancelled), Some("Cancelled")));
    assert_eq!(records(&place.output("held-1").await["results.jsonl"]).len(), 1, "the half that was done");
}

#[tokio::test]
async fn a_job_past_its_deadline_ends_with_what_it_has() {
    let place = Place::new("deadline").await;
    let _quiet = place.world.quiet.read().await;
    place.job("held-2", lines(&["a", "b"]), json!({"activeDeadlineSeconds": 1})).await;
    place.until_reason("held-2", condition::FAILED, "DeadlineExceeded").await;
    assert!(place.output("held-2").await.contains_key("manifest.json"));
}

#[tokio::test]
async fn a_job_that_does_not_start_in_time_ends_but_time_in_suspension_does_not_count() {
    // Once it is let go it must start within as many, so it has time for that.
    const START: i64 = 15;
    let place = Place::new("start-deadline").await;
    let _quiet = place.world.quiet.read().await;
    // Nothing is started for a job whose model is not there.
    let late = json!({"workload": {"modelRef": {"name": "never"}}, "startDeadlineSeconds": 1});
    place.job("late", lines(&["a"]), late).await;
    let held = place.job("held-9", lines(&["a", "b"]), json!({"suspend": true, "startDeadlineSeconds": START})).await;
    place.until_true("held-9", condition::SUSPENDED).await;
    place.until_true("late", condition::FAILED).await;
    place.until_reason("late", condition::FAILED, "StartDeadlineExceeded").await;
    let created = held.creation_timestamp().unwrap().0;
    eventually("its deadline would have passed", async || {
        (jiff::Timestamp::now().as_second() > created.as_second() + START + 1).then_some(())
    })
    .await;
    place.change("held-9", json!({"suspend": false})).await;
    let status = place.until_true("held-9", condition::RUNNING).await;
    assert_eq!(find(&status.conditions, condition::SUSPENDED).unwrap().reason, "Resumed");
    place.world.gateway.release("held-9");
    place.until_true("held-9", condition::COMPLETE).await;
}

#[tokio::test]
async fn what_a_job_asks_of_nodes_and_checks_goes_to_the_gateway() {
    let place = Place::new("placement").await;
    let _quiet = place.world.quiet.read().await;
    let asks = json!({
        "placement": {"regions": ["eu"], "nodeSelector": {"tier": "gold"}, "requireTrust": "Managed"},
        "verification": {"mode": "Full"}, "retry": {"maxAttempts": 5},
    });
    let job = place.job("picky", lines(&["a"]), asks).await;
    place.until_true("picky", condition::COMPLETE).await;
    let spec = place.world.gateway.spec(&job.uid().unwrap()).unwrap();
    let placement = PlacementFilter {
        regions: vec!["eu".into()],
        require_trust: Some(Trust::Managed),
        node_labels: [("tier".to_owned(), "gold".to_owned())].into(),
    };
    assert_eq!((spec.placement, spec.sample_percent, spec.max_attempts), (placement, Some(100), 5));
}

#[tokio::test]
async fn parallelism_changes_while_the_job_runs() {
    let place = Place::new("parallelism").await;
    let _quiet = place.world.quiet.read().await;
    let job = place.job("held-10", lines(&["a", "b"]), json!({"parallelism": 1})).await;
    let uid = job.uid().unwrap();
    place.until_true("held-10", condition::RUNNING).await;
    place.change("held-10", json!({"parallelism": 4})).await;
    let gateway = &place.world.gateway;
    eventually("the gateway knows", async || (gateway.control(&uid)?.parallelism == 4).then_some(())).await;
    place.change("held-10", json!({"parallelism": null})).await;
    eventually("the gateway knows", async || (gateway.control(&uid)?.parallelism == 0).then_some(())).await;
    gateway.release("held-10");
    place.until_true("held-10", condition::COMPLETE).await;
}

#[tokio::test]
async fn jobs_are_found_by_model_and_phase() {
    let place = Place::new("fields").await;
    let _quiet = place.world.quiet.read().await;
    place.job("done", lines(&["a"]), json!({})).await;
    place.job("waits", lines(&["a"]), json!({"workload": {"modelRef": {"name": "never"}}})).await;
    place.until_true("done", condition::COMPLETE).await;
    place.until_reason("waits", condition::ACCEPTED, "ModelNotFound").await;
    let named = async |selector: &str| -> Vec<String> {
        let found = place.jobs().list(&ListParams::default().fields(selector)).await.unwrap();
        found.items.iter().map(ResourceExt::name_any).collect()
    };
    assert_eq!(named("status.phase=Complete").await, ["done"]);
    assert_eq!(named("status.phase=Pending").await, ["waits"]);
    assert_eq!(named("spec.workload.modelRef.name=never").await, ["waits"]);
}

#[tokio::test]
async fn a_reconcile_in_which_nothing_changed_writes_nothing() {
    let place = Place::new("no-op").await;
    let _quiet = place.world.quiet.read().await;
    let job = place.job("held-3", lines(&["a", "b"]), json!({})).await;
    let uid = job.uid().unwrap();
    place.until_true("held-3", condition::RUNNING).await;
    let settled = eventually("the job is at rest", async || {
        let before = place.jobs().get("held-3").await.unwrap().resource_version();
        // What the first of two looks writes is written when the second one begins.
        for _ in 0..2 {
            let asked = place.world.gateway.asked(&uid);
            place.world.gateway.changed(ChangeKind::Job, &uid);
            eventually("another look", async || (place.world.gateway.asked(&uid) > asked).then_some(())).await;
        }
        (place.jobs().get("held-3").await.unwrap().resource_version() == before).then_some(before)
    })
    .await;
    for _ in 0..3 {
        let asked = place.world.gateway.asked(&uid);
        place.world.gateway.changed(ChangeKind::Job, &uid);
        eventually("another look", async || (place.world.gateway.asked(&uid) > asked).then_some(())).await;
    }
    assert_eq!(place.jobs().get("held-3").await.unwrap().resource_version(), settled);
    place.world.gateway.release("held-3");
    place.until_true("held-3", condition::COMPLETE).await;
}

#[tokio::test]
async fn a_deleted_job_is_forgotten_by_the_gateway_and_an_expired_one_goes_by_itself() {
    let place = Place::new("delete").await;
    let _quiet = place.world.quiet.read().await;
    let job = place.job("held-4", lines(&["a", "b"]), json!({})).await;
    place.until_true("held-4", condition::RUNNING).await;
    place.jobs().delete("held-4", &DeleteParams::default()).await.unwrap();
    let jobs = place.jobs();
    eventually("the job is gone", async || jobs.get_opt("held-4").await.unwrap().is_none().then_some(())).await;
    let uid = job.uid().unwrap();
    eventually("its text is forgotten", async || place.world.gateway.has_forgotten(&uid).then_some(())).await;
    place.job("short", lines(&["a"]), json!({"ttlSecondsAfterFinished": 0})).await;
    eventually("the job is gone", async || jobs.get_opt("short").await.unwrap().is_none().then_some(())).await;
    assert!(place.output("short").await.contains_key("manifest.json"), "the output stays");
}

#[tokio::test]
async fn a_job_that_goes_while_the_gateway_is_away_is_not_held_up_and_is_forgotten_later() {
    let place = Place::new("delete-away").await;
    let _alone = place.world.quiet.write().await;
    let job = place.job("held-11", lines(&["a", "b"]), json!({})).await;
    let uid = job.uid().unwrap();
    place.until_true("held-11", condition::RUNNING).await;
    place.world.gateway.set_away(true);
    place.jobs().delete("held-11", &DeleteParams::default()).await.unwrap();
    let gone = place.jobs().get_opt("held-11").await.unwrap();
    assert!(gone.is_none() && !place.world.gateway.has_forgotten(&uid));
    place.world.gateway.set_away(false);
    eventually("its text is forgotten", async || place.world.gateway.has_forgotten(&uid).then_some(())).await;
}

#[tokio::test]
async fn a_job_that_an_older_operator_took_is_let_go() {
    let place = Place::new("old-finalizer").await;
    let _quiet = place.world.quiet.read().await;
    let workload =
        json!({"modelRef": {"name": MODEL}, "input": lines(&["a"]), "output": {"configMap": {"name": "old-results"}}});
    let object =
        json!({"metadata": {"name": "old", "finalizers": ["xdcgrid.io/forget-text"]}, "spec": {"workload": workload}});
    let job: InferenceJob = create_in(&place.client, &place.namespace, object).await;
    place.until_true("old", condition::COMPLETE).await;
    place.jobs().delete("old", &DeleteParams::default()).await.unwrap();
    let jobs = place.jobs();
    eventually("the job is gone", async || jobs.get_opt("old").await.unwrap().is_none().then_some(())).await;
    assert!(place.world.gateway.has_forgotten(&job.uid().unwrap()), "before it went");
}

#[tokio::test]
async fn a_job_waits_while_the_gateway_is_away_says_why_and_goes_on() {
    let place = Place::new("away").await;
    let _alone = place.world.quiet.write().await;
    place.job("held-5", lines(&["a", "b"]), json!({})).await;
    place.until_true("held-5", condition::RUNNING).await;
    place.world.gateway.set_away(true);
    place.job("patient", lines(&["a"]), json!({})).await;
    let status = place.until_reason("patient", condition::ADMITTED, "GatewayUnavailable").await;
    assert_eq!(find(&status.conditions, condition::ADMITTED).unwrap().status, Truth::Unknown);
    let status = place.until_reason("held-5", condition::RUNNING, "GatewayUnavailable").await;
    assert_eq!(status.phase, Some(JobPhase::Running), "what was known stays");
    place.world.gateway.set_away(false);
    place.world.gateway.release("held-5");
    place.until_true("patient", condition::COMPLETE).await;
    place.until_true("held-5", condition::COMPLETE).await;
}

#[tokio::test]
async fn a_job_of_the_same_name_replaces_the_results_of_the_one_before() {
    let place = Place::new("again").await;
    let _quiet = place.world.quiet.read().await;
    place.job("again", lines(&["first"]), json!({})).await;
    place.until_true("again", condition::COMPLETE).await;
    place.jobs().delete("again", &DeleteParams::default()).await.unwrap();
    let jobs = place.jobs();
    eventually("the job is gone", async || jobs.get_opt("again").await.unwrap().is_none().then_some(())).await;
    place.job("again", lines(&["second"]), json!({})).await;
    place.until_true("again", condition::COMPLETE).await;
    assert!(place.output("again").await["results.jsonl"].contains("answer to second"));
}

#[tokio::test]
async fn an_embedding_job_leaves_vectors_in_openais_form() {
    let place = Place::new("embed").await;
    let _quiet = place.world.quiet.read().await;
    let mut encoder = model("encoder", "http://models/encoder.tar", 0x45);
    encoder["spec"]["format"] = json!("Safetensors");
    create::<GridModel>(&place.client, encoder).await;
    let embed = json!({"workload": {"endpoint": "/v1/embeddings", "modelRef": {"name": "encoder"}}});
    let line = |id: &str, body: Value| {
        json!({"custom_id": id, "method": "POST", "url": "/v1/embeddings", "body": body}).to_string()
    };
    let input = [
        line("a", json!({"model": "encoder", "input": ["x", "three"]})),
        line("b", json!({"model": "encoder", "input": "xx", "encoding_format": "base64"})),
        line("c", json!({"model": "encoder", "input": "x", "dimensions": 8})),
    ];
    place.job("vectors", json!({"inline": input.join("\n")}), embed.clone()).await;
    place.until_true("vectors", condition::COMPLETE).await;
    let output = place.output("vectors").await;
    let results = records(&output["results.jsonl"]);
    let body = &results[0]["response"]["body"];
    assert_eq!(body["data"][1], json!({"object": "embedding", "index": 1, "embedding": [0.1, 5.0]}));
    assert_eq!(body["usage"], json!({"prompt_tokens": 10, "total_tokens": 10}));
    assert_eq!(results[1]["response"]["body"]["data"][0]["embedding"], "zczMPQAAAEA=");
    let errors = records(&output["errors.jsonl"]);
    assert_eq!(
        (errors[0]["custom_id"].as_str(), errors[0]["error"]["code"].as_str()),
        (Some("c"), Some("UnknownField"))
    );
    let manifest: Value = serde_json::from_str(&output["manifest.json"]).unwrap();
    assert_eq!(manifest["endpoint"], "/v1/embeddings");

    place.job("plain", lines(&["one", "three"]), embed).await;
    place.until_true("plain", condition::COMPLETE).await;
    let results = records(&place.output("plain").await["results.jsonl"]);
    assert_eq!(results[1]["response"]["body"]["data"][0]["embedding"], json!([0.1, 5.0]));
}

#[tokio::test]
async fn a_job_for_an_endpoint_that_its_model_does_not_serve_fails_at_once() {
    let place = Place::new("endpoints").await;
    let _quiet = place.world.quiet.read().await;
    let embed = json!({"workload": {"endpoint": "/v1/embeddings"}});
    place.job("decoder", lines(&["x"]), embed).await;
    let status = place.until_reason("decoder", condition::ACCEPTED, "EndpointNotServed").await;
    let accepted = find(&status.conditions, condition::ACCEPTED).unwrap();
    assert!(accepted.message.contains("/v1/chat/completions"), "{}", accepted.message);
    place.until_true("decoder", condition::FAILED).await;
}
