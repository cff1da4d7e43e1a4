//! Jobs with `placement.target: Local`: real API server, real controllers, and the real worker with the pod's own token. Only the
//! Job controller and the kubelet are played: there are none beside the API server of these tests.

use std::{collections::BTreeMap, sync::Arc};

use clap::Parser;
use jiff::Timestamp;
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    batch::v1::Job,
    core::v1::{ConfigMap, Pod, ServiceAccount},
    rbac::v1::Role,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    config::Kubeconfig,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use xdc_grid::{
    api::{
        conditions::{Truth, find},
        grid_model::GridModel,
        inference_job::{InferenceJob, InferenceJobStatus, JobPhase, condition},
    },
    operator::{
        chains::Chains, config::OperatorConfig, context::Context, inference_job::local::identity, metrics::Metrics,
    },
    protocol::shard::{CARRIED_INPUT, Exit},
    worker::batch::{BatchOptions, run_until},
};

use crate::{
    support::{
        client, eventually,
        world::{World, create, create_in, namespace, world},
    },
    worker::parrot::Parrots,
};

const MODEL: &str = "a model for parrots";
pub const QUEUE: &str = "kueue.x-k8s.io/queue-name";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    options: BatchOptions,
}

/// A test's own namespace in the shared world, and the kubelet that it plays.
pub struct Team {
    pub world: &'static World,
    pub client: Client,
    pub namespace: String,
    folder: TempDir,
}

impl Team {
    pub async fn new(name: &str) -> Self {
        let world = world().await;
        let client = client().await;
        namespace(&client, name).await;
        world.gateway.serve_file("parrot.gguf", MODEL);
        let spec =
            json!({"source": {"url": format!("{}/files/parrot.gguf", world.gateway_url)}, "sha256": digest(MODEL)});
        create::<GridModel>(&client, json!({"metadata": {"name": "parrot"}, "spec": spec})).await;
        Team { world, client, namespace: name.into(), folder: tempfile::tempdir().unwrap() }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// A job of these prompts with two requests a shard.
    pub async fn job(&self, name: &str, prompts: &[&str], labels: Value, more: Value) -> InferenceJob {
        let mut spec = json!({
            "workload": {
                "modelRef": {"name": "parrot"}, "endpoint": "/v1/completions", "shardSize": 2,
                "input": {"format": "Lines", "inline": prompts.join("\n")},
                "generation": {"maxTokens": 4, "temperature": "0"}, "output": {"configMap": {"name": format!("{name}-results")}},
            },
            "placement": {"target": "Local"},
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let object = json!({"metadata": {"name": name, "labels": labels}, "spec": spec});
        create_in(&self.client, &self.namespace, object).await
    }

    async fn change(&self, name: &str, spec: Value) {
        let patch = json!({"spec": spec});
        self.api::<InferenceJob>().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    }

    pub async fn until(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&InferenceJobStatus) -> bool,
    ) -> InferenceJobStatus {
        let jobs = self.api::<InferenceJob>();
        eventually(&format!("{name}: {what}"), async || jobs.get(name).await.unwrap().status.filter(&wanted)).await
    }

    pub async fn until_reason(&self, name: &str, type_: &str, reason: &str) -> InferenceJobStatus {
        let wanted = |status: &InferenceJobStatus| find(&status.conditions, type_).is_some_and(|c| c.reason == reason);
        self.until(name, reason, wanted).await
    }

    async fn until_true(&self, name: &str, type_: &str) -> InferenceJobStatus {
        let holds =
            |status: &InferenceJobStatus| find(&status.conditions, type_).is_some_and(|c| c.status == Truth::True);
        self.until(name, type_, holds).await
    }

    /// The child of a job.
    pub async fn child(&self, job: &InferenceJob) -> Job {
        let of_job = ListParams::default().labels(&format!("xdcgrid.io/job-uid={}", job.uid().unwrap()));
        let jobs = self.api::<Job>();
        eventually("the child", async || {
            let found = jobs.list(&of_job).await.unwrap().items;
            found.into_iter().find(|child| child.metadata.deletion_timestamp.is_none())
        })
        .await
    }

    async fn output(&self, name: &str) -> BTreeMap<String, String> {
        self.api::<ConfigMap>().get(&format!("{name}-results")).await.unwrap().data.unwrap()
    }

    // -------------------------------------------------------------------------------------------- the kubelet

    /// Runs the worker as the pod of one shard would: with the child's arguments and a token of its ServiceAccount.
    async fn run_shard(&self, child: &Job, index: u32) -> (Exit, String) {
        self.run_shard_until(child, index, Parrots::default(), CancellationToken::new()).await
    }

    /// The same by parrots of the caller's choice, until the pod is told to stop.
    async fn run_shard_until(
        &self,
        child: &Job,
        index: u32,
        parrots: Parrots,
        stop: CancellationToken,
    ) -> (Exit, String) {
        let pod = child.spec.clone().unwrap().template.spec.unwrap();
        let token = self.token(pod.service_account_name.as_deref().unwrap()).await;
        let (server, ca) = cluster();
        let folder = self.folder.path().join(format!("{}-{index}", child.name_any()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("token"), token).unwrap();
        std::fs::write(folder.join("ca.crt"), ca).unwrap();
        let ours = ["batch", "--credentials-dir", "--data-dir", "--report-file"];
        let container = pod.containers.into_iter().next().unwrap();
        let told = container.args.unwrap();
        let told = told.into_iter().filter(|arg| !ours.iter().any(|name| arg.starts_with(name)));
        // What would be in the pod's environment.
        let carried = container.env.unwrap().into_iter().find(|variable| variable.name == CARRIED_INPUT);
        let carried = carried.map(|variable| format!("--shard-input={}", variable.value.unwrap()));
        let told = told.chain(carried).chain([format!("--owner-uid={}", child.uid().unwrap())]);
        let at = |name: &str| folder.join(name).display().to_string();
        let here = [
            format!("--index={index}"),
            format!("--api-server={server}"),
            format!("--credentials-dir={}", at("")),
            format!("--data-dir={}", at("data")),
            format!("--report-file={}", at("report")),
            "--node-name=node-1".to_owned(),
        ];
        let options = Cli::parse_from(["batch".to_owned()].into_iter().chain(told).chain(here)).options;
        let exit = run_until(options, Arc::new(parrots), stop).await;
        (exit, std::fs::read_to_string(folder.join("report")).unwrap())
    }

    /// As the kubelet puts it into a pod.
    async fn token(&self, account: &str) -> String {
        let request: TokenRequest =
            serde_json::from_value(json!({"spec": {"audiences": [], "expirationSeconds": 600}})).unwrap();
        let accounts = self.api::<ServiceAccount>();
        let made = accounts.create_token_request(account, &PostParams::default(), &request).await;
        made.unwrap().status.unwrap().token
    }

    /// What the API server answers to a token.
    async fn ask(&self, token: &str, method: reqwest::Method, path: &str, body: Value) -> u16 {
        let (server, ca) = cluster();
        let http = reqwest::Client::builder()
            .tls_certs_only(reqwest::Certificate::from_pem_bundle(&ca).unwrap())
            .build()
            .unwrap();
        let url = format!("{server}/api/v1/{path}");
        http.request(method, url).bearer_auth(token).json(&body).send().await.unwrap().status().as_u16()
    }

    /// The ConfigMap with the answers of a brief job.
    async fn answers(&self, child: &Job) -> Option<ConfigMap> {
        self.api::<ConfigMap>().get_opt(&child.annotations()["xdcgrid.io/answers"]).await.unwrap()
    }

    /// The pod that Kubernetes would keep of it.
    async fn pod(&self, child: &Job, index: u32, status: Value) {
        let template = child.spec.clone().unwrap().template;
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("{}-{index}-{}", child.name_any(), Timestamp::now().as_microsecond()),
                "labels": template.metadata.as_ref().unwrap().labels, "annotations": template.metadata.as_ref().unwrap().annotations,
            },
            "spec": template.spec.unwrap(),
        });
        pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] = json!(index.to_string());
        pod["spec"]["nodeName"] = json!("node-1");
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let pods = self.api::<Pod>();
        let name = pods.create(&PostParams::default(), &pod).await.unwrap().name_any();
        pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await.unwrap();
    }

    /// Runs a shard and leaves its pod behind.
    async fn finish_shard(&self, child: &Job, index: u32) {
        let (exit, report) = self.run_shard(child, index).await;
        assert_eq!(exit, Exit::Done, "{report}");
        self.pod(child, index, ended("Succeeded", 0, &report)).await;
    }

    /// What the Job controller would write.
    async fn job_status(&self, child: &Job, status: Value) {
        let mut status = status;
        status["startTime"] = json!(Timestamp::UNIX_EPOCH.to_string());
        let patch = Patch::Merge(json!({"status": status}));
        self.api::<Job>().patch_status(&child.name_any(), &PatchParams::default(), &patch).await.unwrap();
    }

    async fn complete(&self, child: &Job, indexes: &str) {
        let status = json!({"completionTime": "1970-01-01T00:00:04Z", "completedIndexes": indexes, "active": 0, "ready": 0,
            "succeeded": child.spec.as_ref().unwrap().completions, "conditions": [holds("SuccessCriteriaMet", ""), holds("Complete", "")]});
        self.job_status(child, status).await;
    }

    async fn fail(&self, child: &Job, reason: &str, more: Value) {
        let mut status = json!({"active": 0, "ready": 0, "failed": 1, "conditions": [holds("FailureTarget", reason), holds("Failed", reason)]});
        status.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.job_status(child, status).await;
    }
}

fn digest(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

fn holds(type_: &str, reason: &str) -> Value {
    json!({"type": type_, "status": "True", "reason": reason, "message": format!("{reason} says the controller"),
        "lastProbeTime": "1970-01-01T00:00:04Z", "lastTransitionTime": "1970-01-01T00:00:04Z"})
}

fn ended(phase: &str, code: i32, message: &str) -> Value {
    json!({"phase": phase, "containerStatuses": [{"name": "worker", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": code, "message": message}}}]})
}

/// URL and CA certificate of the API server.
fn cluster() -> (String, Vec<u8>) {
    let kubeconfig = Kubeconfig::read_from(std::env::var("KUBECONFIG_CONTROL_PLANE").unwrap()).unwrap();
    let cluster = kubeconfig.clusters.into_iter().next().unwrap().cluster.unwrap();
    let ca = match (cluster.certificate_authority_data, cluster.certificate_authority) {
        (Some(data), _) => serde_json::from_value::<k8s_openapi::ByteString>(json!(data)).unwrap().0,
        (None, Some(path)) => std::fs::read(path).unwrap(),
        (None, None) => panic!("the kubeconfig names no CA"),
    };
    (cluster.server.unwrap().trim_end_matches('/').to_owned(), ca)
}

fn answers(jsonl: &str) -> Vec<(String, String)> {
    let text = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        let text = line["response"]["body"]["choices"][0]["text"].as_str().unwrap().to_owned();
        (line["custom_id"].as_str().unwrap().to_owned(), text)
    };
    jsonl.lines().map(text).collect()
}

fn errors(jsonl: &str) -> Vec<(String, String)> {
    let code = |line: &str| {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["custom_id"].as_str().unwrap().to_owned(), line["error"]["code"].as_str().unwrap().to_owned())
    };
    jsonl.lines().map(code).collect()
}

#[tokio::test]
async fn a_local_job_runs_to_complete_without_a_gateway_and_leaves_the_results_of_a_grid_job() {
    let team = Team::new("local-life").await;
    let _alone = team.world.quiet.write().await;
    team.world.gateway.set_away(true);
    let job = team.job("hello", &["abc", "xy", "pq"], json!({}), json!({})).await;
    let child = team.child(&job).await;
    let spec = child.spec.clone().unwrap();
    assert_eq!((spec.completions, spec.parallelism, spec.suspend), (Some(2), Some(2), Some(false)));
    assert_eq!(spec.ttl_seconds_after_finished, None, "it must not go before its results are published");
    assert_eq!(child.owner_references()[0].uid, job.uid().unwrap());
    let account = team.api::<ServiceAccount>().get(&child.name_any()).await.unwrap();
    assert_eq!(account.owner_references()[0].uid, job.uid().unwrap());
    team.until_reason("hello", condition::ADMITTED, "JobCreated").await;
    team.until_reason("hello", condition::RUNNING, "WorkerStarting").await;
    team.finish_shard(&child, 0).await;
    team.job_status(&child, json!({"active": 1, "ready": 0, "completedIndexes": "0", "succeeded": 1})).await;
    team.until("hello", "half done", |status| status.progress.as_deref() == Some("2/3")).await;
    team.finish_shard(&child, 1).await;
    team.complete(&child, "0,1").await;
    let status = team.until_true("hello", condition::COMPLETE).await;
    team.world.gateway.set_away(false);
    assert_eq!((status.phase, status.progress.as_deref()), (Some(JobPhase::Complete), Some("3/3")));
    assert_eq!((status.tokens.unwrap().output, status.assignments[0].node_name.as_str()), (12, "node-1"));
    let output = team.output("hello").await;
    let found = answers(&output["results.jsonl"]);
    let expected = [("line-1", "abca"), ("line-2", "xyxy"), ("line-3", "pqpq")];
    assert_eq!(found, expected.map(|(id, text)| (id.to_owned(), text.to_owned())));
    let manifest: Value = serde_json::from_str(&output["manifest.json"]).unwrap();
    assert_eq!(manifest["sha256"]["results.jsonl"], digest(&output["results.jsonl"]));
    assert_eq!(manifest["model"]["sha256"], digest(MODEL));
    for grid_only in [condition::VERIFIED, condition::SETTLED] {
        assert!(find(&status.conditions, grid_only).is_none(), "{grid_only}");
    }
    assert!(team.api::<InferenceJob>().get("hello").await.unwrap().finalizers().is_empty());
    // Access is gone, and the garbage collector, which these tests do without, takes role and text with it. The Job stays for its
    // logs.
    let accounts = team.api::<ServiceAccount>();
    eventually("access is taken away", async || {
        accounts.get_opt(&child.name_any()).await.unwrap().is_none().then_some(())
    })
    .await;
    let map = team.api::<ConfigMap>().get(&format!("{}-shard-0", child.name_any())).await.unwrap();
    let role = team.api::<Role>().get(&child.name_any()).await.unwrap();
    for owners in [map.owner_references(), role.owner_references()] {
        let [owner] = owners else { panic!("{owners:?}") };
        assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("ServiceAccount", account.uid().unwrap().as_str()));
    }
    let kept = team.api::<Job>().get(&child.name_any()).await.unwrap();
    assert_eq!(kept.spec.unwrap().ttl_seconds_after_finished, Some(3600));
}

#[tokio::test]
async fn the_token_of_a_pod_opens_the_shards_of_its_job_and_nothing_else() {
    let team = Team::new("local-token").await;
    let _quiet = team.world.quiet.read().await;
    let job = team.job("mine", &["a", "b", "c"], json!({}), json!({})).await;
    let child = team.child(&job).await;
    let other = json!({"metadata": {"name": "secret-plans"}, "data": {"input.jsonl": ""}});
    create_in::<ConfigMap>(&team.client, &team.namespace, other).await;
    let token = team.token(&child.name_any()).await;
    let ask = async |path: &str| {
        let path = format!("namespaces/{}/{path}", team.namespace);
        team.ask(&token, reqwest::Method::GET, &path, Value::Null).await
    };
    assert_eq!(ask(&format!("configmaps/{}-shard-0", child.name_any())).await, 200);
    for forbidden in ["configmaps/secret-plans", "configmaps/mine-results", "configmaps", "secrets", "pods"] {
        assert_eq!(ask(forbidden).await, 403, "{forbidden}");
    }
}

#[tokio::test]
async fn a_brief_job_costs_four_writes_and_its_answers_come_back_in_one() {
    let team = Team::new("local-brief").await;
    let _quiet = team.world.quiet.read().await;
    // The first one of a namespace makes the identity as well.
    let first = team.job("first", &["a"], json!({}), json!({})).await;
    team.child(&first).await;
    team.until_reason("first", condition::ADMITTED, "JobCreated").await;
    let job = team.job("brief", &["abc", "xy"], json!({}), json!({})).await;
    let child = team.child(&job).await;
    assert_eq!(child.owner_references()[0].uid, job.uid().unwrap());
    assert_eq!(child.spec.as_ref().unwrap().ttl_seconds_after_finished, Some(3600));
    team.until_reason("brief", condition::RUNNING, "WorkerStarting").await;
    team.finish_shard(&child, 0).await;
    let answers = team.answers(&child).await.unwrap();
    assert_eq!(answers.owner_references()[0].uid, child.uid().unwrap(), "they go with the Job");
    team.complete(&child, "0").await;
    let status = team.until_true("brief", condition::COMPLETE).await;
    assert_eq!((status.progress.as_deref(), status.tokens.unwrap().output), (Some("2/2"), 8));
    let found = self::answers(&team.output("brief").await["results.jsonl"]);
    assert_eq!(found, [("line-1", "abca"), ("line-2", "xyxy")].map(|(id, text)| (id.to_owned(), text.to_owned())));
    let accounts = team.api::<ServiceAccount>();
    assert!(accounts.get_opt(&child.name_any()).await.unwrap().is_none(), "it has no identity of its own");
    let of_brief = ["/jobs/brief", "/inferencejobs/brief/", "/configmaps/brief"].map(|part| team.world.writes.of(part));
    assert!(of_brief.iter().sum::<u32>() <= 4, "status, perhaps that it runs, output, status: {of_brief:?}");
}

#[tokio::test]
async fn the_token_of_a_brief_jobs_pod_makes_config_maps_and_reads_nothing() {
    let team = Team::new("local-brief-token").await;
    let _quiet = team.world.quiet.read().await;
    let job = team.job("mine", &["a"], json!({}), json!({})).await;
    let child = team.child(&job).await;
    team.finish_shard(&child, 0).await;
    let pod = child.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    let token = team.token(pod.service_account_name.as_deref().unwrap()).await;
    let (get, post) = (reqwest::Method::GET, reqwest::Method::POST);
    let own = &team.namespace;
    let answers = team.answers(&child).await.unwrap().name_any();
    for path in ["configmaps".to_owned(), format!("configmaps/{answers}"), "secrets".into(), "pods".into()] {
        let path = format!("namespaces/{own}/{path}");
        assert_eq!(team.ask(&token, get.clone(), &path, Value::Null).await, 403, "{path}");
    }
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let made = format!("namespaces/{own}/configmaps");
    assert_eq!(team.ask(&token, post.clone(), &made, map("another")).await, 201);
    let merge = reqwest::Method::PATCH;
    assert_eq!(
        team.ask(&token, merge, &format!("{made}/{answers}"), map(&answers)).await,
        403,
        "nor changes what is there"
    );
    assert_eq!(team.ask(&token, post.clone(), "namespaces/default/configmaps", map("elsewhere")).await, 403);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}});
    assert_eq!(team.ask(&token, post, &format!("namespaces/{own}/secrets"), secret).await, 403);
}

#[tokio::test]
async fn a_brief_job_that_is_cancelled_keeps_what_its_pod_had_answered() {
    let team = Team::new("local-brief-cancel").await;
    let _quiet = team.world.quiet.read().await;
    // One is answered at once, the other takes for ever.
    let line = |id: &str, tokens: u32| {
        let body = json!({"model": "parrot", "prompt": "abc", "max_tokens": tokens, "temperature": 0});
        json!({"custom_id": id, "method": "POST", "url": "/v1/completions", "body": body}).to_string()
    };
    let inline = [line("short", 1), line("long", 4_000)].join("\n");
    let workload = json!({"workload": {"modelRef": {"name": "parrot"}, "endpoint": "/v1/completions",
        "input": {"inline": inline}, "output": {"configMap": {"name": "enough-results"}}}});
    let job = team.job("enough", &[], json!({}), workload).await;
    let child = team.child(&job).await;
    let models = team.folder.path().join(format!("{}-0/data/models", child.name_any()));
    let (jobs, stop) = (team.api::<Job>(), CancellationToken::new());
    let parrots = Parrots { pace: std::time::Duration::from_millis(50), ..Parrots::default() };
    let told = async {
        eventually("the pod has its model", async || models.exists().then_some(())).await;
        team.change("enough", json!({"cancel": true})).await;
        eventually("the Job is told to end", async || {
            let spec = jobs.get(&child.name_any()).await.unwrap().spec.unwrap();
            (spec.active_deadline_seconds == Some(1)).then_some(())
        })
        .await;
        stop.cancel();
    };
    let ((exit, report), ()) = tokio::join!(team.run_shard_until(&child, 0, parrots, stop.clone()), told);
    assert_eq!(exit, Exit::Stopped, "{report}");
    assert!(team.answers(&child).await.is_none(), "part of them is not all of them");
    team.fail(&child, "DeadlineExceeded", json!({})).await;
    let status = team.until_true("enough", condition::FAILED).await;
    assert_eq!(status.phase, Some(JobPhase::Cancelled));
    let completed = serde_json::from_str::<Value>(&report).unwrap()["completed"].as_u64().unwrap();
    let output = team.output("enough").await;
    assert_eq!(answers(&output["results.jsonl"]).len() as u64, completed, "what the pod said it had answered");
    let cancelled = ("long".to_owned(), "Cancelled".to_owned());
    assert!(errors(&output["errors.jsonl"]).contains(&cancelled), "{output:?}");
}

#[tokio::test]
async fn answers_that_were_deleted_before_they_were_published_are_computed_again() {
    let team = Team::new("local-brief-lost").await;
    let _quiet = team.world.quiet.read().await;
    let job = team.job("lost", &["abc"], json!({}), json!({})).await;
    let child = team.child(&job).await;
    team.finish_shard(&child, 0).await;
    let answers = team.answers(&child).await.unwrap().name_any();
    team.api::<ConfigMap>().delete(&answers, &DeleteParams::default()).await.unwrap();
    team.complete(&child, "0").await;
    let uid = child.uid();
    let again = eventually("a new child", async || {
        let of_job = ListParams::default().labels(&format!("xdcgrid.io/job-uid={}", job.uid().unwrap()));
        team.api::<Job>().list(&of_job).await.unwrap().items.into_iter().find(|child| child.uid() != uid)
    })
    .await;
    assert_ne!(again.annotations()["xdcgrid.io/answers"], answers);
    team.finish_shard(&again, 0).await;
    // A second pod of the same shard, whose predecessor's end nobody saw.
    team.finish_shard(&again, 0).await;
    team.complete(&again, "0").await;
    let status = team.until_true("lost", condition::COMPLETE).await;
    assert_eq!(status.requests.unwrap().completed, 1);
}

#[tokio::test]
async fn answers_to_another_input_are_not_believed() {
    let team = Team::new("local-brief-forged").await;
    let _quiet = team.world.quiet.read().await;
    let job = team.job("forged", &["abc"], json!({}), json!({})).await;
    let child = team.child(&job).await;
    let part = json!({"inputSha256": "00".repeat(32), "resultsSha256": digest(""), "complete": true, "completed": 1, "failed": 0,
        "promptTokens": 0, "outputTokens": 0});
    let name = &child.annotations()["xdcgrid.io/answers"];
    let map = json!({"metadata": {"name": name}, "data": {"results.jsonl": "", "part.json": part.to_string()}});
    create_in::<ConfigMap>(&team.client, &team.namespace, map).await;
    team.complete(&child, "0").await;
    team.until_true("forged", condition::COMPLETE).await;
    assert_eq!(errors(&team.output("forged").await["errors.jsonl"]), [("line-1".to_owned(), "ShardFailed".to_owned())]);
}

#[tokio::test]
async fn the_shared_identity_stays_while_a_namespace_has_local_jobs_and_somebody_elses_is_never_taken() {
    let team = Team::new("local-identity").await;
    let _alone = team.world.quiet.write().await;
    let theirs = json!({"metadata": {"name": "xdc-grid-job-pods"}});
    create_in::<ServiceAccount>(&team.client, &team.namespace, theirs).await;
    let job = team.job("waits", &["a"], json!({}), json!({})).await;
    team.until_reason("waits", condition::ADMITTED, "NameTaken").await;
    let accounts = team.api::<ServiceAccount>();
    accounts.delete("xdc-grid-job-pods", &DeleteParams::default()).await.unwrap();
    team.child(&job).await;
    let context = context(&team);
    let needed = || [team.namespace.clone()].into();
    identity::tidy(needed, &context).await.unwrap();
    assert!(accounts.get_opt("xdc-grid-job-pods").await.unwrap().is_some());
    identity::tidy(Default::default, &context).await.unwrap();
    assert!(accounts.get_opt("xdc-grid-job-pods").await.unwrap().is_none());
    assert!(accounts.get_opt("default").await.is_ok(), "others are none of its business");
    assert!(identity::ensure(&team.namespace, &context).await.unwrap());
    assert!(accounts.get_opt("xdc-grid-job-pods").await.unwrap().is_some(), "it comes back for the next job");
}

fn context(team: &Team) -> Arc<Context> {
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        config: OperatorConfig,
    }
    let url = format!("--gateway-url={}", team.world.gateway_url);
    let cli = Cli::parse_from(["it", "--worker-image=none", "--local-jobs", &url]);
    let metrics = Metrics::new(prometheus::Registry::new()).unwrap();
    Context::new(team.client.clone(), cli.config, metrics, Chains::default()).unwrap()
}

#[tokio::test]
async fn a_queued_job_waits_for_quota_and_its_suspend_is_the_queues() {
    let team = Team::new("local-queue").await;
    let _quiet = team.world.quiet.read().await;
    let job = team.job("queued", &["abc", "xy", "pq"], json!({QUEUE: "team", "other": "label"}), json!({})).await;
    let child = team.child(&job).await;
    assert_eq!(child.labels()[QUEUE], "team");
    assert!(!child.labels().contains_key("other"));
    assert_eq!(child.spec.as_ref().unwrap().suspend, Some(true));
    let status = team.until_reason("queued", condition::ADMITTED, "WaitingForQuota").await;
    assert_eq!(status.start_time, None, "no deadline runs while it waits");
    // Kueue lets it go; the operator has no opinion.
    let (jobs, params) = (team.api::<Job>(), PatchParams::default());
    let admitted = Patch::Merge(json!({"spec": {"suspend": false}}));
    jobs.patch(&child.name_any(), &params, &admitted).await.unwrap();
    let status = team.until_reason("queued", condition::ADMITTED, "JobCreated").await;
    assert!(status.start_time.is_some());
    assert_eq!(jobs.get(&child.name_any()).await.unwrap().spec.unwrap().suspend, Some(false));
    // Suspended by its owner, it gives the place back; resumed, it asks for a new one and keeps what is done.
    team.finish_shard(&child, 0).await;
    team.change("queued", json!({"suspend": true})).await;
    eventually("the place is given back", async || {
        jobs.get_opt(&child.name_any()).await.unwrap().is_none().then_some(())
    })
    .await;
    team.until_reason("queued", condition::ADMITTED, "Suspended").await;
    team.change("queued", json!({"suspend": false})).await;
    let again = team.child(&job).await;
    assert_eq!(again.spec.as_ref().unwrap().suspend, Some(true));
    let (exit, report) = team.run_shard(&again, 0).await;
    assert_eq!(exit, Exit::Done);
    let data = team.folder.path().join(format!("{}-0/data/models", child.name_any()));
    assert!(data.exists() && report.contains("\"completed\":2"), "{report}");
}

#[tokio::test]
async fn what_somebody_else_does_to_the_child_is_left_alone_and_what_the_owner_asks_is_done() {
    let team = Team::new("local-steer").await;
    let _quiet = team.world.quiet.read().await;
    let job = team.job("steered", &["a", "b", "c"], json!({}), json!({"parallelism": 1})).await;
    let child = team.child(&job).await;
    let (jobs, params) = (team.api::<Job>(), PatchParams::default());
    jobs.patch(&child.name_any(), &params, &Patch::Merge(json!({"spec": {"suspend": true}}))).await.unwrap();
    team.until_reason("steered", condition::RUNNING, "Suspended").await;
    team.change("steered", json!({"parallelism": 2})).await;
    let now = eventually("the width is told", async || {
        let now = jobs.get(&child.name_any()).await.unwrap();
        (now.spec.as_ref().unwrap().parallelism == Some(2)).then_some(now)
    })
    .await;
    assert_eq!(now.spec.unwrap().suspend, Some(true), "not ours");
    let suspended = async |wanted: bool| {
        eventually("the child follows", async || {
            let now = jobs.get(&child.name_any()).await.unwrap().spec.unwrap().suspend;
            (now == Some(wanted)).then_some(())
        })
        .await;
    };
    team.change("steered", json!({"suspend": true})).await;
    eventually("it is noted", async || {
        jobs.get(&child.name_any()).await.unwrap().annotations()["xdcgrid.io/asked"].contains("true").then_some(())
    })
    .await;
    team.change("steered", json!({"suspend": false})).await;
    suspended(false).await;
    team.change("steered", json!({"suspend": true})).await;
    suspended(true).await;
}

#[tokio::test]
async fn a_cancelled_job_keeps_what_was_answered() {
    let team = Team::new("local-cancel").await;
    let _quiet = team.world.quiet.read().await;
    let job = team.job("enough", &["abc", "xy", "pq"], json!({}), json!({})).await;
    let child = team.child(&job).await;
    team.finish_shard(&child, 0).await;
    team.job_status(&child, json!({"active": 1, "completedIndexes": "0", "succeeded": 1})).await;
    team.change("enough", json!({"cancel": true})).await;
    let jobs = team.api::<Job>();
    eventually("the Job is told to end", async || {
        let spec = jobs.get(&child.name_any()).await.unwrap().spec.unwrap();
        (spec.active_deadline_seconds == Some(1)).then_some(())
    })
    .await;
    team.fail(&child, "DeadlineExceeded", json!({"completedIndexes": "0"})).await;
    let status = team.until_true("enough", condition::FAILED).await;
    assert_eq!((status.phase, status.reason.as_deref()), (Some(JobPhase::Cancelled), Some("Cancelled")));
    let output = team.output("enough").await;
    assert_eq!(answers(&output["results.jsonl"]).len(), 2);
    assert_eq!(errors(&output["errors.jsonl"]), [("line-3".to_owned(), "Cancelled".to_owned())]);
}

#[tokio::test]
async fn causes_in_pods_are_lifted_up_and_a_wrong_model_ends_the_job() {
    let team = Team::new("local-causes").await;
    let _quiet = team.world.quiet.read().await;
    let job = team.job("blocked", &["a"], json!({}), json!({})).await;
    let child = team.child(&job).await;
    let unschedulable = json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu"}]});
    team.pod(&child, 0, unschedulable).await;
    let status = team.until_reason("blocked", condition::RUNNING, "Unschedulable").await;
    assert!(find(&status.conditions, condition::RUNNING).unwrap().message.contains("nvidia.com/gpu"));

    team.world.gateway.serve_file("swapped.gguf", MODEL);
    let url = format!("{}/files/swapped.gguf", team.world.gateway_url);
    let swapped = json!({"metadata": {"name": "swapped"}, "spec": {"source": {"url": url}, "sha256": "22".repeat(32)}});
    create::<GridModel>(&team.client, swapped).await;
    let workload = json!({"workload": {"modelRef": {"name": "swapped"}, "endpoint": "/v1/completions",
        "input": {"format": "Lines", "inline": "a"}, "output": {"configMap": {"name": "wrong-results"}}}});
    let job = team.job("wrong", &[], json!({}), workload).await;
    let child = team.child(&job).await;
    let (exit, report) = team.run_shard(&child, 0).await;
    assert_eq!(exit, Exit::ModelDigestMismatch);
    team.pod(&child, 0, ended("Failed", i32::from(exit.code()), &report)).await;
    team.fail(&child, "PodFailurePolicy", json!({})).await;
    let status = team.until_reason("wrong", condition::FAILED, "ModelDigestMismatch").await;
    let message = &find(&status.conditions, condition::FAILED).unwrap().message;
    assert!(message.contains(&"22".repeat(32)) && message.contains(&digest(MODEL)), "{message}");
    assert_eq!(status.last_failures[0].custom_id, "shard-0");
}

#[tokio::test]
async fn a_shard_that_failed_for_good_costs_its_own_requests_only() {
    let team = Team::new("local-shard").await;
    let _quiet = team.world.quiet.read().await;
    let job = team.job("partly", &["abc", "xy", "pq"], json!({}), json!({"retry": {"maxAttempts": 1}})).await;
    let child = team.child(&job).await;
    assert_eq!(child.spec.as_ref().unwrap().backoff_limit_per_index, Some(0));
    team.finish_shard(&child, 0).await;
    let killed = json!({"phase": "Failed", "containerStatuses": [{"name": "worker", "image": "i", "imageID": "", "ready": false,
        "restartCount": 0, "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}]});
    team.pod(&child, 1, killed).await;
    team.fail(&child, "FailedIndexes", json!({"completedIndexes": "0", "failedIndexes": "1", "succeeded": 1})).await;
    let status = team.until_true("partly", condition::COMPLETE).await;
    let requests = status.requests.unwrap();
    assert_eq!((requests.total, requests.completed, requests.failed), (3, 2, 1));
    assert_eq!(status.last_failures[0].reason, "OOMKilled");
    assert_eq!(errors(&team.output("partly").await["errors.jsonl"]), [("line-3".to_owned(), "ShardFailed".to_owned())]);
}

#[tokio::test]
async fn a_shard_that_was_deleted_is_computed_again() {
    let team = Team::new("local-missing").await;
    let _quiet = team.world.quiet.read().await;
    let job = team.job("lost", &["abc", "xy", "pq"], json!({}), json!({})).await;
    let child = team.child(&job).await;
    team.finish_shard(&child, 0).await;
    team.finish_shard(&child, 1).await;
    let maps = team.api::<ConfigMap>();
    maps.delete(&format!("{}-shard-1", child.name_any()), &DeleteParams::default()).await.unwrap();
    team.complete(&child, "0,1").await;
    let uid = child.uid();
    let again = eventually("a new child", async || {
        let of_job = ListParams::default().labels(&format!("xdcgrid.io/job-uid={}", job.uid().unwrap()));
        team.api::<Job>().list(&of_job).await.unwrap().items.into_iter().find(|child| child.uid() != uid)
    })
    .await;
    team.finish_shard(&again, 1).await;
    team.complete(&again, "0,1").await;
    let status = team.until_true("lost", condition::COMPLETE).await;
    assert_eq!(status.requests.unwrap().completed, 3);
}

#[tokio::test]
async fn a_reconcile_in_which_nothing_changed_writes_nothing() {
    let team = Team::new("local-no-op").await;
    let _quiet = team.world.quiet.read().await;
    let job = team.job("calm", &["abc"], json!({}), json!({})).await;
    let child = team.child(&job).await;
    team.pod(&child, 0, json!({"phase": "Running"})).await;
    team.until_true("calm", condition::RUNNING).await;
    let versions = async || {
        let parent = team.api::<InferenceJob>().get("calm").await.unwrap().resource_version();
        (parent, team.api::<Job>().get(&child.name_any()).await.unwrap().resource_version())
    };
    let before = versions().await;
    // Another pod of the same job is a reason to look; another job that is through shows that it was looked at.
    team.pod(&child, 0, json!({"phase": "Running"})).await;
    let marker = team.job("marker", &["abc"], json!({}), json!({})).await;
    team.child(&marker).await;
    team.until_reason("marker", condition::RUNNING, "WorkerStarting").await;
    assert_eq!(versions().await, before);
}

#[tokio::test]
async fn an_input_that_cannot_be_cut_says_what_to_do() {
    let team = Team::new("local-cut").await;
    let _quiet = team.world.quiet.read().await;
    let many = vec!["x"; 2_001].join("\n");
    let prompts: Vec<_> = many.lines().collect();
    let workload = json!({"workload": {"modelRef": {"name": "parrot"}, "endpoint": "/v1/completions", "shardSize": 1,
        "input": {"format": "Lines", "inline": prompts.join("\n")}, "output": {"configMap": {"name": "many-results"}}}});
    team.job("many", &[], json!({}), workload).await;
    let status = team.until_reason("many", condition::FAILED, "InputTooLarge").await;
    assert!(find(&status.conditions, condition::FAILED).unwrap().message.contains("shardSize"));
}
