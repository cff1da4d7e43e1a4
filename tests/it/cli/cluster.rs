//! The binary against a real API server, with the real operator and a scripted gateway behind it. Needs
//! `tests/cluster/with-control-plane`.

use std::path::PathBuf;

use k8s_openapi::api::{batch::v1::Job, core::v1::ConfigMap};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};
use xdc_grid::{
    api::{
        conditions::{self, Truth},
        grid_node::{self, GridNode},
        grid_node_pool::GridNodePool,
        inference_job::{InferenceJob, condition},
    },
    protocol::identity::NodeKey,
};

use super::binary::{BINARY, Ran, command, finish, shell};
use crate::support::{
    client, eventually, kueue,
    world::{MODEL, NETWORK, SYSTEM, World, create, create_in, namespace, world},
};

fn kubeconfig() -> PathBuf {
    std::env::var_os("KUBECONFIG_CONTROL_PLANE").expect("run this through tests/cluster/with-control-plane").into()
}

/// A namespace of the test's own in the shared world, and the commands in it.
struct Place {
    world: &'static World,
    client: Client,
    namespace: String,
    folder: tempfile::TempDir,
}

impl Place {
    async fn new(name: &str) -> Self {
        let world = world().await;
        let client = client().await;
        namespace(&client, name).await;
        Place { world, client, namespace: name.into(), folder: tempfile::tempdir().unwrap() }
    }

    async fn grid(&self, words: &[&str]) -> Ran {
        self.fed(words, "").await
    }

    async fn fed(&self, words: &[&str], input: &str) -> Ran {
        let mut command = command(BINARY, kubeconfig());
        command.args(["--namespace", &self.namespace]).args(words);
        finish(command, input).await
    }

    /// A file with a job.
    fn file(&self, name: &str, spec: Value) -> String {
        let mut workload = json!({
            "modelRef": {"name": MODEL}, "input": {"format": "Lines", "inline": "one\ntwo\n"},
            "output": {"configMap": {"name": format!("{name}-results")}}
        });
        merge(&mut workload, spec);
        let job = json!({
            "apiVersion": "xdcgrid.io/v1alpha1", "kind": "InferenceJob", "metadata": {"name": name},
            "spec": {"workload": workload}
        });
        let path = self.folder.path().join(format!("{name}.yaml"));
        std::fs::write(&path, serde_yaml::to_string(&job).unwrap()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn jobs(&self) -> Api<InferenceJob> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Waits until a condition of a job has a reason.
    async fn until(&self, name: &str, type_: &str, reason: &str) {
        let what = format!("{name} is {type_} {reason}");
        eventually(&what, async || {
            let status = self.jobs().get(name).await.unwrap().status?;
            conditions::find(&status.conditions, type_).filter(|found| found.reason == reason).map(|_| ())
        })
        .await;
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

#[tokio::test]
async fn prompts_are_submitted_waited_for_and_answered_in_one_command() {
    let place = Place::new("cli-prompts").await;
    let _quiet = place.world.quiet.read().await;
    let words = ["submit", "--model", MODEL, "--prompts", "-", "--name", "asked", "--max-tokens", "8"];
    let ran = place.fed(&words, "What is the capital of France?\nName a colour.\n").await;
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("── line-1 (") && ran.out.contains("── line-2 ("), "{ran:?}");
    assert!(ran.err.contains("2/2"), "progress as lines where there is no terminal: {}", ran.err);
    let job = place.jobs().get("asked").await.unwrap();
    assert_eq!(job.spec.workload.generation.max_tokens, 8);
    let managers: Vec<_> = job.managed_fields().iter().filter_map(|entry| entry.manager.as_deref()).collect();
    assert!(managers.contains(&"kubectl-grid"), "{managers:?}");

    let lines = place.grid(&["results", "asked", "-o", "json"]).await.json();
    assert_eq!(lines[1]["custom_id"], "line-2");
    assert_eq!(place.grid(&["results", "asked", "-o", "name"]).await.out, "line-1\nline-2\n");
    let yaml = place.grid(&["results", "asked", "-o", "yaml"]).await.out;
    assert_eq!(serde_yaml::from_str::<Value>(&yaml).unwrap(), lines);
    let why = place.grid(&["why", "asked"]).await;
    assert!(why.code == 0 && why.out.contains("is complete: 2/2 requests done"), "{why:?}");
    eventually("its Event is in the log", async || {
        let logs = place.grid(&["logs", "asked"]).await;
        (logs.code == 0 && logs.out.contains("Completed")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_input_that_does_not_fit_into_the_job_goes_with_it_in_a_config_map() {
    let place = Place::new("cli-large").await;
    let _quiet = place.world.quiet.read().await;
    let prompts = format!("{}\n", "a".repeat(2000)).repeat(80);
    let words = ["submit", "--model", MODEL, "--prompts", "-", "--name", "large", "-o", "name"];
    let ran = place.fed(&words, &prompts).await;
    assert_eq!((ran.code, ran.out.lines().count()), (0, 80), "{}", ran.err);
    let maps: Api<ConfigMap> = Api::namespaced(place.client.clone(), &place.namespace);
    let map = maps.get("large-input").await.unwrap();
    assert_eq!(map.owner_references()[0].name, "large");
}

#[tokio::test]
async fn the_form_of_all_answers_is_a_word_or_a_file_with_a_schema() {
    let place = Place::new("cli-form").await;
    let _quiet = place.world.quiet.read().await;
    let file = |name: &str, text: &str| {
        let path = place.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let submit = async |more: &[&str]| {
        let words = ["submit", "--model", MODEL, "--prompts", "-", "--no-wait", "--response-format"];
        place.fed(&[&words, more].concat(), "Make up an animal.\n").await
    };
    let schema = file("animal.json", "{\n  \"type\": \"object\",\n  \"properties\": {\"zebra\": {}, \"ant\": {}}\n}\n");
    let ran = submit(&[schema.as_str(), "--name", "formed"]).await;
    assert_eq!(ran.code, 0, "{ran:?}");
    let form = place.jobs().get("formed").await.unwrap().spec.workload.generation.response_format.unwrap();
    let kept = r#"{"type":"object","properties":{"zebra":{},"ant":{}}}"#;
    assert_eq!((form.json_schema.as_deref(), form.json_object), (Some(kept), None));
    assert_eq!(submit(&["json_object", "--name", "any"]).await.code, 0);
    let form = place.jobs().get("any").await.unwrap().spec.workload.generation.response_format.unwrap();
    assert!(form.json_object.is_some() && form.json_schema.is_none());

    let (broken, list) = (file("broken.json", "{"), file("list.json", "[]"));
    for (more, says) in [
        (&["json_schema"][..], "cannot read json_schema"),
        (&["-"][..], "standard input"),
        (&[broken.as_str()][..], "is not JSON"),
        (&[list.as_str()][..], "an object"),
        (&["json_object", "--endpoint", "/v1/completions"][..], "--endpoint /v1/chat/completions"),
    ] {
        let refused = submit(more).await;
        assert!(refused.code == 1 && refused.err.contains("--response-format"), "{refused:?}");
        assert!(refused.err.contains(says), "{says}: {refused:?}");
    }
    let both = place.grid(&["submit", "-f", "x", "--response-format", "json_object"]).await;
    assert!(both.code == 1 && both.err.contains("--response-format") && both.err.contains("--filename"), "{both:?}");
}

#[tokio::test]
async fn a_file_is_submitted_once_however_often_the_script_runs() {
    let place = Place::new("cli-file").await;
    let _quiet = place.world.quiet.read().await;
    let file = place.file("twice", json!({}));
    let first = place.grid(&["submit", "-f", &file, "--no-wait", "-o", "name"]).await;
    assert_eq!((first.code, first.out.as_str()), (0, "inferencejob.xdcgrid.io/twice\n"), "{}", first.err);
    let again = place.grid(&["submit", "-f", &file]).await;
    assert!(again.code == 0 && again.err.contains("is there already"), "{again:?}");
    assert!(again.out.contains("── line-2 ("), "{again:?}");

    let other = place.file("twice", json!({"input": {"inline": "three\n"}}));
    let refused = place.grid(&["submit", "-f", &other]).await;
    assert!(refused.code == 1 && refused.err.contains("another workload"), "{refused:?}");
    let misspelt = place.file("misspelt", json!({"generation": {"maxTokns": 8}}));
    let refused = place.grid(&["submit", "-f", &misspelt]).await;
    assert!(refused.code == 1 && refused.err.contains("maxTokns"), "{refused:?}");
    let elsewhere = place.grid(&["submit", "-f", "docs/examples/job.yaml", "--dry-run"]).await;
    assert!(elsewhere.code == 1 && elsewhere.err.contains("--namespace"), "{elsewhere:?}");
    let dry = place.grid(&["submit", "-f", &file, "--dry-run"]).await;
    assert!(dry.code == 0 && dry.out.contains("namespace: cli-file"), "{dry:?}");
}

#[tokio::test]
async fn a_job_that_takes_longer_than_one_waits_is_not_yet_and_can_be_cancelled() {
    let place = Place::new("cli-held").await;
    let _quiet = place.world.quiet.read().await;
    let file = place.file("held-cli", json!({}));
    let ran = place.grid(&["submit", "-f", &file, "--timeout", "2"]).await;
    assert!(ran.code == 2 && ran.err.contains("kubectl grid why held-cli"), "{ran:?}");
    place.until("held-cli", condition::RUNNING, "RequestsRunning").await;
    assert_eq!(place.grid(&["results", "held-cli"]).await.code, 2);
    let why = place.grid(&["why", "ij/held-cli", "-o", "name"]).await;
    assert_eq!((why.code, why.out.as_str()), (2, "RequestsRunning\n"));
    let top = place.grid(&["top", "--once", "-o", "json"]).await.json();
    assert_eq!((&top["jobs"][0]["name"], &top["jobs"][0]["phase"]), (&json!("held-cli"), &json!("Running")));
    let table = place.grid(&["top"]).await;
    assert!(table.code == 0 && table.out.contains("1 jobs, 1 running"), "once where there is no terminal: {table:?}");

    let cancelled = place.grid(&["cancel", "held-cli", "--wait", "--timeout", "120"]).await;
    assert_eq!((cancelled.code, cancelled.out.as_str()), (0, "inferencejob.xdcgrid.io/held-cli cancelled\n"));
    let again = place.grid(&["cancel", "held-cli"]).await;
    assert_eq!((again.code, again.out.as_str()), (0, "inferencejob.xdcgrid.io/held-cli was over already\n"));
    let why = place.grid(&["why", "held-cli", "-o", "json"]).await;
    assert_eq!((why.code, &why.json()["causes"][0]["reason"]), (1, &json!("Cancelled")));
}

#[tokio::test]
async fn why_names_what_is_missing_and_what_was_meant() {
    let place = Place::new("cli-why").await;
    let _quiet = place.world.quiet.read().await;
    let file = place.file("lost", json!({"modelRef": {"name": "smo"}}));
    assert_eq!(place.grid(&["submit", "-f", &file, "--no-wait"]).await.code, 0);
    place.until("lost", condition::ACCEPTED, "ModelNotFound").await;
    let why = place.grid(&["why", "lost"]).await;
    assert_eq!(why.code, 2, "{why:?}");
    assert!(why.out.contains("ModelNotFound: ") && why.out.contains("[misconfigured]"), "{}", why.out);
    assert!(why.out.contains(r#"Did you mean "smol"?"#), "{}", why.out);

    let near = place.grid(&["results", "lots"]).await;
    assert_eq!(near.code, 1);
    let expected = r#"error: there is no InferenceJob "lots" in the namespace "cli-why". Did you mean "lost"?"#;
    assert_eq!(near.err.trim(), expected);
    let neither = place.grid(&["why", "nonesuch"]).await;
    assert!(neither.code == 1 && neither.err.contains("InferenceJob or GridNode"), "{neither:?}");
    let network = place.grid(&["why", &format!("gnet/{NETWORK}")]).await;
    assert!(network.out.starts_with(&format!("gridnetwork/{NETWORK} is ")), "{network:?}");
    assert_eq!(place.grid(&["logs", "lost"]).await.code, 2, "nothing works on it yet");
}

#[tokio::test]
async fn why_of_a_job_in_a_queue_goes_down_to_what_kueue_says_about_it() {
    let place = Place::new("cli-queue").await;
    let _quiet = place.world.quiet.read().await;
    kueue::local_queue(&place.client, &place.namespace, "team", "gpus").await;
    let workload = json!({"modelRef": {"name": MODEL}, "endpoint": "/v1/completions",
        "input": {"format": "Lines", "inline": "one"}, "output": {"configMap": {"name": "queued-results"}}});
    let job = json!({"metadata": {"name": "queued", "labels": {"kueue.x-k8s.io/queue-name": "team"}},
        "spec": {"workload": workload, "placement": {"target": "Local"}}});
    let job = create_in::<InferenceJob>(&place.client, &place.namespace, job).await;
    let of_job = ListParams::default().labels(&format!("xdcgrid.io/job-uid={}", job.uid().unwrap()));
    let children: Api<Job> = Api::namespaced(place.client.clone(), &place.namespace);
    let child = eventually("the child", async || children.list(&of_job).await.unwrap().items.pop()).await;
    let words = "insufficient unused quota for cpu in flavor default, 1 more needed";
    kueue::workload(&place.client, &child, "team", &[("QuotaReserved", "False", words)]).await;
    place.until("queued", condition::ADMITTED, "WaitingForQuota").await;
    let why = place.grid(&["why", "queued"]).await;
    assert_eq!(why.code, 2, "{why:?}");
    let line = format!("waiting for quota in ClusterQueue gpus: {words} [waiting for quota]");
    assert!(why.out.contains(&format!("workload/job-{}: QuotaNotReserved: {line}", child.name_any())), "{}", why.out);
}

#[tokio::test]
async fn why_of_a_pool_goes_down_to_its_nodes() {
    let place = Place::new("cli-pool").await;
    let _quiet = place.world.quiet.read().await;
    let spec =
        json!({"networkRef": {"name": NETWORK}, "mode": "Managed", "accelerators": {"cpuOnly": {}}, "models": [MODEL]});
    let pool = json!({"metadata": {"name": "cli-pool"}, "spec": {"replicas": 2, "template": {"spec": spec}}});
    create_in::<GridNodePool>(&place.client, SYSTEM, pool.clone()).await;
    let pools: Api<GridNodePool> = Api::namespaced(place.client.clone(), SYSTEM);
    let nodes: Api<GridNode> = Api::all(place.client.clone());
    eventually("the pool has two nodes that are looked at", async || {
        let status = pools.get("cli-pool").await.unwrap().status?;
        let ready = conditions::find(&status.conditions, "Ready").cloned()?;
        let looked_at = async |name: &str| nodes.get_opt(name).await.unwrap().and_then(|node| node.status);
        looked_at("cli-pool-0").await?;
        looked_at("cli-pool-1").await?;
        (ready.reason == "NodesNotReady").then_some(())
    })
    .await;
    let why = place.grid(&["why", "gnp/cli-pool", "-o", "json"]).await;
    let found = why.json();
    assert_eq!((why.code, &found["causes"][0]["reason"]), (2, &json!("NodesNotReady")), "{found:#}");
    let nodes = found["causes"][0]["causes"][0]["about"].as_str().unwrap();
    assert!(nodes.contains("gridnode/cli-pool-"), "{found:#}");

    // One in a namespace where pools do nothing is found there first.
    create_in::<GridNodePool>(&place.client, &place.namespace, pool).await;
    let why = eventually("the operator says so", async || {
        let why = place.grid(&["why", "gnp/cli-pool"]).await;
        why.out.contains("WrongNamespace").then_some(why)
    })
    .await;
    assert!(why.out.contains("[misconfigured]") && why.out.contains("in cli-pool: "), "{}", why.out);
    let missing = place.grid(&["why", "gnp/cli-pol"]).await;
    assert!(missing.code == 1 && missing.err.contains(r#"Did you mean "cli-pool"?"#), "{missing:?}");
    pools.delete("cli-pool", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn who_may_not_read_something_is_told_so_and_gets_the_rest() {
    let place = Place::new("cli-rights").await;
    let _quiet = place.world.quiet.read().await;
    let refused = place.grid(&["nodes", "--as", "stranger"]).await;
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("forbidden") && refused.err.contains("xdc-grid-grid-viewer"), "{}", refused.err);

    // As the chart's role for people who look at jobs.
    let role = json!({"metadata": {"name": "jobs"}, "rules": [
        {"apiGroups": ["xdcgrid.io"], "resources": ["inferencejobs"], "verbs": ["get", "list", "watch"]}]});
    let binding = json!({"metadata": {"name": "jobs"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "jobs"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "viewer"}]});
    use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
    create_in::<Role>(&place.client, &place.namespace, role).await;
    create_in::<RoleBinding>(&place.client, &place.namespace, binding).await;
    let file = place.file("seen", json!({"modelRef": {"name": "no-such-model"}}));
    assert_eq!(place.grid(&["submit", "-f", &file, "--no-wait"]).await.code, 0);
    place.until("seen", condition::ACCEPTED, "ModelNotFound").await;
    let why = eventually("the authorizer knows the binding", async || {
        let ran = place.grid(&["why", "seen", "--as", "viewer"]).await;
        (ran.code == 2).then_some(ran)
    })
    .await;
    assert!(why.out.contains("ModelNotFound"), "{}", why.out);
    assert!(why.out.contains("GridNodes: you may not read them"), "{}", why.out);
    let top = place.grid(&["top", "--once", "--as", "viewer"]).await;
    assert!(top.code == 0 && top.out.contains("seen"), "{top:?}");
}

#[tokio::test]
async fn a_node_is_listed_cordoned_drained_and_let_in_again() {
    let place = Place::new("cli-nodes").await;
    let _quiet = place.world.quiet.read().await;
    let peer = NodeKey::generate().peer_id();
    let spec = json!({"networkRef": {"name": NETWORK}, "mode": "External", "peerID": peer, "models": [MODEL], "approved": true});
    create::<GridNode>(&place.client, json!({"metadata": {"name": "cli-home"}, "spec": spec})).await;
    let nodes: Api<GridNode> = Api::all(place.client.clone());
    eventually("the membership", async || place.world.gateway.member(peer.as_str())).await;
    place.world.gateway.prove(peer.as_str());

    let listed = place.grid(&["nodes", "-o", "name"]).await;
    assert!(listed.code == 0 && listed.out.contains("gridnode.xdcgrid.io/cli-home\n"), "{listed:?}");
    let json = place.grid(&["nodes", "-o", "json", "--network", NETWORK]).await.json();
    assert!(json.as_array().unwrap().iter().any(|node| node["name"] == "cli-home"));
    let yaml = place.grid(&["nodes", "-o", "yaml", "--network", "none"]).await;
    assert_eq!(serde_yaml::from_str::<Value>(&yaml.out).unwrap(), json!([]));

    let cordoned = place.grid(&["cordon", "cli-home"]).await;
    assert_eq!((cordoned.code, cordoned.out.as_str()), (0, "gridnode.xdcgrid.io/cli-home cordoned\n"));
    assert!(nodes.get("cli-home").await.unwrap().spec.unschedulable);
    let version = nodes.get("cli-home").await.unwrap().metadata.generation;
    let again = place.grid(&["cordon", "cli-home"]).await;
    assert_eq!(again.out, "gridnode.xdcgrid.io/cli-home already cordoned\n");
    assert_eq!(nodes.get("cli-home").await.unwrap().metadata.generation, version);
    let why = eventually("the operator says so", async || {
        let why = place.grid(&["why", "gn/cli-home"]).await;
        (why.code == 2 && why.out.contains("Cordoned: ")).then_some(why)
    })
    .await;
    assert!(why.out.contains("`kubectl grid uncordon cli-home`"), "{why:?}");

    let drained = place.grid(&["drain", "cli-home", "--timeout", "120"]).await;
    assert_eq!((drained.code, drained.out.as_str()), (0, "gridnode.xdcgrid.io/cli-home drained\n"), "{}", drained.err);
    let in_again = place.grid(&["uncordon", "cli-home"]).await;
    assert_eq!(in_again.out, "gridnode.xdcgrid.io/cli-home uncordoned\n");
    let missing = place.grid(&["drain", "cli-hom"]).await;
    assert!(missing.code == 1 && missing.err.contains(r#"Did you mean "cli-home"?"#), "{missing:?}");

    // Unregistered, the node is told how to get into the contract.
    eventually("the node is connected", async || {
        let status = nodes.get("cli-home").await.unwrap().status?;
        let found = conditions::find(&status.conditions, grid_node::condition::PEER_CONNECTED)?;
        (found.status == Truth::True).then_some(())
    })
    .await;
    eventually("it says that the node is not registered", async || {
        let why = place.grid(&["why", "cli-home", "-o", "name"]).await;
        why.out.lines().any(|line| line == "NotRegistered").then_some(())
    })
    .await;
    nodes.delete("cli-home", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn the_versions_of_everything_are_told() {
    let place = Place::new("cli-version").await;
    let _quiet = place.world.quiet.read().await;
    let ran = place.grid(&["version", "-o", "json"]).await;
    let found = ran.json();
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(found["served"], json!(["v1alpha1"]));
    assert!(found["kubernetes"].as_str().unwrap().starts_with("v1."), "{found}");
    let network = found["networks"].as_array().unwrap().iter().find(|network| network["name"] == NETWORK).unwrap();
    assert_eq!((&network["chainID"], network["contract"].as_str().unwrap().len()), (&json!(51), 42));
}

#[tokio::test]
async fn names_of_jobs_are_completed() {
    let place = Place::new("cli-complete").await;
    let _quiet = place.world.quiet.read().await;
    let file = place.file("completed-by-tab", json!({}));
    assert_eq!(place.grid(&["submit", "-f", &file, "--no-wait"]).await.code, 0);
    let line = "$GRID __complete -- -n cli-complete results completed-";
    // A shell waits two seconds for names, and does without them.
    eventually("the name is there in time", async || {
        let ran = shell(line, &kubeconfig()).await;
        (ran.out == "completed-by-tab\n:4\n").then_some(())
    })
    .await;
}
