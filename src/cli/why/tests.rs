//! Objects from a YAML file in, the chain of causes out: a file for each tier and for each thing that happens to nodes.

use kube::ResourceExt;
use serde::Deserialize;
use serde_json::Value;

use super::{
    cause::{Cause, Explanation, Verdict},
    facts::Facts,
    job, network, node, pool,
};
use crate::api::{
    grid_network::GridNetwork, grid_node::GridNode, grid_node_pool::GridNodePool, inference_job::InferenceJob,
    remedies::Tier,
};

/// What a fixture is about, its first object, and everything else in it.
enum Subject {
    Job(Box<InferenceJob>),
    Node(Box<GridNode>),
    Pool(Box<GridNodePool>),
}

fn parsed<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"))
}

fn load(name: &str) -> (Subject, Facts) {
    let path = format!("{}/src/cli/why/fixtures/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut facts = Facts { nodes_seen: true, models_seen: true, ..Facts::default() };
    let mut subject = None;
    for document in serde_yaml::Deserializer::from_str(&text) {
        let value = Value::deserialize(document).unwrap();
        let first = subject.is_none();
        match value["kind"].as_str().unwrap() {
            "InferenceJob" => subject = Some(Subject::Job(Box::new(parsed(&value)))),
            "GridNode" => {
                if first {
                    subject = Some(Subject::Node(Box::new(parsed(&value))));
                }
                facts.nodes.push(parsed(&value));
            }
            "GridNodePool" => subject = Some(Subject::Pool(Box::new(parsed(&value)))),
            "GridModel" => facts.models.push(parsed(&value)),
            "GridNetwork" => facts.networks.push(parsed(&value)),
            "Pod" => facts.pods.push(parsed(&value)),
            "Job" => facts.jobs.push(parsed(&value)),
            "Workload" => facts.workloads.push(parsed(&value)),
            "LocalQueue" => facts.local_queues.push(parsed(&value)),
            "Deployment" => facts.deployments.push(parsed(&value)),
            "Event" => facts.events.push(parsed(&value)),
            other => panic!("{path}: {other}"),
        }
    }
    (subject.unwrap(), facts)
}

fn explained(name: &str) -> Explanation {
    match load(name) {
        (Subject::Job(job), facts) => job::explain(&job, &facts),
        (Subject::Node(node), facts) => node::explain(&node, &facts),
        (Subject::Pool(pool), facts) => pool::explain(&pool, &facts),
    }
}

/// The first cause, the first one behind it, and so on.
fn chain(causes: &[Cause]) -> Vec<String> {
    let Some(first) = causes.first() else { return Vec::new() };
    let link = format!("{} {}", first.about, first.reason);
    std::iter::once(link).chain(chain(&first.causes)).collect()
}

fn tops(explanation: &Explanation) -> Vec<&str> {
    explanation.causes.iter().map(|cause| cause.reason.as_str()).collect()
}

#[test]
fn every_cause_of_every_fixture_says_what_to_do() {
    fn check(file: &str, causes: &[Cause]) {
        for cause in causes {
            assert!(cause.remedy.is_some(), "{file}: {} {}", cause.about, cause.reason);
            check(file, &cause.causes);
        }
    }
    let mut files = 0;
    for file in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/why/fixtures")).unwrap() {
        let name = file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        check(&name, &explained(&name).causes);
        files += 1;
    }
    assert!(files >= 20, "{files}");
}

#[test]
fn misconfigured_a_model_that_does_not_exist_is_answered_with_a_near_name() {
    let found = explained("misconfigured");
    assert_eq!(chain(&found.causes), ["inferencejob/hello ModelNotFound"]);
    assert_eq!(found.causes[0].kind_of_cause, Tier::Misconfigured);
    assert!(found.causes[0].remedy.as_ref().unwrap().ends_with(r#"Did you mean "tiny"?"#));
    assert_eq!(found.verdict, Verdict::NotYet);
}

#[test]
fn refused_by_policy_comes_before_what_the_job_would_wait_for_next() {
    assert_eq!(tops(&explained("refused-by-policy")), ["Suspended", "NoWorkerForModel"]);
}

#[test]
fn no_matching_node_goes_down_to_the_pod_of_the_node_that_should_serve() {
    let found = explained("no-matching-node");
    assert_eq!(
        chain(&found.causes),
        [
            "inferencejob/hello NoWorkerForModel",
            "gridnode/gpu-1 ImagePullBackOff",
            "pod/worker-gpu-1-0 ImagePullBackOff"
        ]
    );
    assert_eq!(found.causes.len(), 1, "the same reason in two conditions is told once");
    let nodes: Vec<_> = found.causes[0].causes.iter().map(|cause| cause.reason.as_str()).collect();
    assert_eq!(nodes, ["ImagePullBackOff", "Cordoned"], "a node without the model is not in the way");
    assert!(found.causes[0].causes[0].causes[0].message.contains("registry/xdc-grid:nope: manifest unknown"));
    assert_eq!(found.summary, "inferencejob/hello in team-a is not done yet: 0/1 requests done");
}

#[test]
fn no_matching_node_says_when_no_node_lists_the_model() {
    let expected = ["inferencejob/hello NoWorkerForModel", "gridmodel/tiny NoNodeHasModel"];
    assert_eq!(chain(&explained("no-node-has-the-model").causes), expected);
}

#[test]
fn waiting_for_capacity_names_the_nodes_and_leaves_out_what_only_holds_up_the_pay() {
    let found = explained("waiting-for-capacity");
    assert_eq!(chain(&found.causes), ["inferencejob/hello WaitingForCapacity", "gridnodes/tiny NodesBusy"]);
    assert_eq!(found.causes[0].causes.len(), 1);
    assert!(found.causes[0].causes[0].message.ends_with("cpu-1"));
}

#[test]
fn waiting_for_quota_goes_down_to_the_workload_and_names_the_cluster_queue() {
    let found = explained("waiting-for-quota");
    let expected =
        ["inferencejob/hello WaitingForQuota", "job/hello QueuedByKueue", "workload/job-hello-1a2b3 QuotaNotReserved"];
    assert_eq!(chain(&found.causes), expected);
    let queued = &found.causes[0].causes[0];
    assert!(queued.message.contains("team-queue"));
    assert!(queued.remedy.as_ref().unwrap().contains("-n team-a get workloads"));
    let workload = &queued.causes[0];
    assert!(workload.message.starts_with("waiting for quota in ClusterQueue gpus: "), "{}", workload.message);
    assert!(workload.message.ends_with("1 more needed") && workload.kind_of_cause == Tier::WaitingForQuota);
}

#[test]
fn without_the_right_to_read_kueues_objects_the_queue_is_named_all_the_same() {
    let (Subject::Job(job), mut facts) = load("waiting-for-quota") else { panic!("a job") };
    facts.workloads.clear();
    let found = job::explain(&job, &facts);
    assert_eq!(chain(&found.causes), ["inferencejob/hello WaitingForQuota", "job/hello QueuedByKueue"]);
}

#[test]
fn a_pool_that_lacks_nodes_goes_down_to_the_pods_of_those_that_are_not_ready() {
    let found = explained("pool-nodes-not-ready");
    assert_eq!(found.summary, "gridnodepool/gpus in xdc-grid: 1 of 4 nodes are ready");
    assert_eq!((found.verdict, tops(&found)), (Verdict::NotYet, vec!["NodesNotReady"]));
    let nodes = &found.causes[0].causes;
    let reasons: Vec<_> = nodes.iter().map(|cause| cause.reason.as_str()).collect();
    assert_eq!(reasons, ["ImagePullFailed", "Unschedulable"], "neither the ready node nor one of another pool");
    assert_eq!(nodes[1].about, "2 nodes, such as gridnode/gpus-2");
    assert_eq!(chain(&nodes[1].causes), ["pod/worker-gpus-2-0 Unschedulable"]);
}

#[test]
fn a_pool_in_the_wrong_namespace_is_told_where_pools_work() {
    let found = explained("pool-elsewhere");
    assert_eq!(chain(&found.causes), ["gridnodepool/gpus WrongNamespace"]);
    assert_eq!(found.causes.len(), 1);
}

#[test]
fn a_pool_that_is_complete_is_done_and_says_how_many_are_leaving() {
    let (Subject::Pool(mut pool), facts) = load("pool-nodes-not-ready") else { panic!("a pool") };
    pool.spec.replicas = 1;
    let status = pool.status.as_mut().unwrap();
    status.draining_replicas = 3;
    status.conditions.retain(|condition| condition.type_ == "Ready");
    status.conditions[0].status = crate::api::conditions::Truth::True;
    let found = pool::explain(&pool, &facts);
    assert_eq!((found.verdict, found.causes.len()), (Verdict::Done, 0));
    assert!(found.summary.ends_with("1 of 1 nodes are ready, 3 more are leaving"), "{}", found.summary);
}

#[test]
fn running_says_how_far_it_is() {
    let found = explained("running");
    assert_eq!(tops(&found), ["RequestsRunning"]);
    assert_eq!(found.causes[0].message, "2 of 24 answered, 1 failed on 2 nodes, 81.0 tokens/s");
}

#[test]
fn publishing_is_the_last_thing_to_wait_for_unless_somebody_must_act() {
    assert_eq!(tops(&explained("publishing")), ["AllRequestsDone"]);
    assert_eq!(tops(&explained("publishing-forbidden")), ["Forbidden", "AllRequestsDone"]);
}

#[test]
fn a_job_that_is_over_says_how_it_ended() {
    let failed = explained("failed");
    assert_eq!(failed.verdict, Verdict::Failed);
    assert_eq!(
        chain(&failed.causes),
        ["inferencejob/hello TooManyFailedRequests", "inferencejob/hello ContextExceeded"]
    );
    assert!(failed.causes[0].causes[0].message.starts_with("request line-3: "));
    let complete = explained("complete");
    assert_eq!((complete.verdict, tops(&complete)), (Verdict::Done, vec!["SettlementPending"]));
}

#[test]
fn a_job_that_nobody_looked_at_leads_to_the_operator() {
    let expected = [
        "inferencejob/hello NotObserved",
        "deployment/xdc-grid-operator OperatorNotRunning",
        "pod/xdc-grid-operator-0 CrashLoopBackOff",
    ];
    let found = explained("not-observed");
    assert_eq!(chain(&found.causes), expected);
    let pod = &found.causes[0].causes[0].causes[0];
    assert_eq!(pod.message, "container operator ended with exit code 1, restarted 4 times: no token");
}

#[test]
fn what_follows_from_a_broken_worker_is_left_out() {
    let found = explained("node-image-pull");
    assert_eq!(tops(&found), ["ImagePullBackOff"]);
    assert_eq!(chain(&found.causes)[1], "pod/worker-gpu-1-0 ImagePullBackOff");
    assert_eq!(found.causes[0].causes.len(), 1, "an event that says the same is left out");
}

#[test]
fn the_scheduler_s_words_reach_the_person() {
    let found = explained("node-unschedulable");
    assert_eq!(chain(&found.causes), ["gridnode/gpu-1 Unschedulable", "pod/worker-gpu-1-0 Unschedulable"]);
    assert!(found.causes[0].causes[0].message.contains("Insufficient nvidia.com/gpu"));
}

#[test]
fn memory_is_told_apart_from_other_crashes() {
    let found = explained("node-oom");
    assert_eq!(chain(&found.causes), ["gridnode/gpu-1 CrashLoopBackOff", "pod/worker-gpu-1-0 OOMKilled"]);
    let expected = "container worker used more than its memory limit of 1Gi, restarted 3 times";
    assert_eq!(found.causes[0].causes[0].message, expected);
}

#[test]
fn an_event_says_what_no_condition_does() {
    let found = explained("node-secret-missing");
    assert_eq!(chain(&found.causes), ["gridnode/gpu-1 WorkerStarting", "pod/worker-gpu-1-0 FailedMount"]);
    let expected = ["gridnode/gpu-1 WorkerStarting", "statefulset/worker-gpu-1 FailedCreate"];
    assert_eq!(chain(&explained("node-pod-refused").causes), expected);
}

#[test]
fn a_node_outside_the_contract_is_told_how_to_get_in() {
    let found = explained("node-not-registered");
    assert_eq!(tops(&found), ["NotRegistered"]);
    assert!(found.causes[0].remedy.as_ref().unwrap().contains("grid-worker register"));
}

#[test]
fn a_chain_that_is_away_leads_to_the_network() {
    let found = explained("node-rpc-behind");
    assert_eq!(chain(&found.causes), ["gridnode/cpu-1 RpcUnreachable", "gridnetwork/main RpcBehind"]);
    let (_, facts) = load("node-rpc-behind");
    let network: &GridNetwork = &facts.networks[0];
    let found = network::explain(network, &facts);
    assert_eq!((found.about, tops(&network::explain(network, &facts))), ("gridnetwork/main".into(), vec!["RpcBehind"]));
    assert_eq!(network.name_any(), "main");
}

#[test]
fn decisions_about_a_node_are_told_alone() {
    assert_eq!(tops(&explained("node-quarantined")), ["EvidenceAgainstNode"]);
    let refused = explained("node-not-approved");
    assert_eq!(tops(&refused), ["NotApproved"]);
    assert!(refused.causes[0].remedy.as_ref().unwrap().contains("gridnode home-1"));
}

#[test]
fn a_misspelt_network_is_answered_with_a_near_name() {
    let found = explained("node-network-misspelt");
    assert_eq!(tops(&found), ["NetworkNotFound"]);
    assert!(found.causes[0].remedy.as_ref().unwrap().ends_with(r#"Did you mean "main"?"#));
}

#[test]
fn a_ready_node_is_done() {
    let found = explained("node-ready");
    assert_eq!((found.verdict, found.summary.as_str()), (Verdict::Done, "gridnode/cpu-1 is ready and takes work"));
    assert!(found.causes.iter().all(|cause| cause.kind_of_cause == Tier::Fine), "{:?}", found.causes);
}

#[test]
fn what_may_not_be_read_makes_the_answer_poorer_but_not_wrong() {
    let (Subject::Job(job), mut facts) = load("no-matching-node") else { panic!("a job") };
    facts.nodes.clear();
    facts.nodes_seen = false;
    facts.not_seen.push("GridNodes: you may not read them".into());
    let found = job::explain(&job, &facts);
    assert_eq!(chain(&found.causes), ["inferencejob/hello NoWorkerForModel"]);
    assert_eq!(found.not_seen, ["GridNodes: you may not read them"]);
}
