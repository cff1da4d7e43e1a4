//! How nodes change and leave: real API server, real controllers, scripted gateway, simulated chain. What the StatefulSet
//! controller and the kubelet would do is done by hand.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Event, Pod},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use xdc_grid::{
    api::{
        conditions::{Condition, Truth, find},
        grid_node::{GridNode, condition},
        ids::NodeAddress,
    },
    protocol::internal::ChangeKind,
};

use crate::support::{
    client, eventually,
    world::{MODEL, NETWORK, SYSTEM, World, create, event_reasons, world},
};

fn nodes(client: &Client) -> Api<GridNode> {
    Api::all(client.clone())
}

fn pods(client: &Client) -> Api<Pod> {
    Api::namespaced(client.clone(), SYSTEM)
}

fn sets(client: &Client) -> Api<StatefulSet> {
    Api::namespaced(client.clone(), SYSTEM)
}

/// A Managed node without rewards, with more fields.
fn node(name: &str, more: Value) -> Value {
    let mut spec = json!({
        "networkRef": {"name": NETWORK}, "mode": "Managed", "accelerators": {"cpuOnly": {}}, "models": [MODEL],
        "drain": {"deadlineSeconds": 60},
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    json!({"metadata": {"name": name}, "spec": spec})
}

async fn until(client: &Client, name: &str, type_: &str, wanted: impl Fn(&Condition) -> bool) -> Condition {
    eventually(&format!("{name}: {type_}"), async || {
        let status = nodes(client).get(name).await.unwrap().status?;
        find(&status.conditions, type_).filter(|found| wanted(found)).cloned()
    })
    .await
}

async fn peer(client: &Client, name: &str) -> String {
    eventually("the peer id", async || nodes(client).get(name).await.unwrap().status?.peer_id).await
}

/// The pod that the StatefulSet controller would make.
async fn pod(client: &Client, node: &str, revision: &str) -> Pod {
    let name = format!("worker-{node}-0");
    let labels = json!({
        "xdcgrid.io/node": node, "app.kubernetes.io/component": "worker", "controller-revision-hash": revision,
    });
    let spec =
        json!({"containers": [{"name": "worker", "image": "localhost/none:1"}], "automountServiceAccountToken": false});
    let wanted = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec});
    pods(client).create(&PostParams::default(), &serde_json::from_value(wanted).unwrap()).await.unwrap()
}

async fn pod_status(client: &Client, node: &str, status: Value) {
    let name = format!("worker-{node}-0");
    let patch = Patch::Strategic(json!({"status": status}));
    pods(client).patch_status(&name, &PatchParams::default(), &patch).await.unwrap();
}

fn ready() -> Value {
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
}

/// The StatefulSet controller has seen the newest spec and calls its revision `revision`.
async fn revision(client: &Client, node: &str, revision: &str) {
    let name = format!("worker-{node}");
    let set = eventually("the worker", async || sets(client).get_opt(&name).await.unwrap()).await;
    let status = json!({"status": {
        "replicas": 1, "observedGeneration": set.metadata.generation, "currentRevision": "r1", "updateRevision": revision,
    }});
    sets(client).patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}

async fn gone(client: &Client, name: &str) {
    nodes(client).delete(name, &DeleteParams::default()).await.unwrap();
    eventually("the node is gone", async || nodes(client).get_opt(name).await.unwrap().is_none().then_some(())).await;
    let _ = pods(client).delete(&format!("worker-{name}-0"), &DeleteParams::default().grace_period(0)).await;
}

fn schedulable(world: &World, peer: &str) -> Option<bool> {
    world.gateway.member(peer).map(|member| member.schedulable)
}

#[tokio::test]
async fn a_pod_that_becomes_ready_is_noticed_at_once() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    create::<GridNode>(&client, node("prompt", json!({}))).await;
    revision(&client, "prompt", "r1").await;
    pod(&client, "prompt", "r1").await;
    until(&client, "prompt", condition::WORKER_AVAILABLE, |found| found.reason == "WorkerStarting").await;
    let since = std::time::Instant::now();
    pod_status(&client, "prompt", ready()).await;
    until(&client, "prompt", condition::WORKER_AVAILABLE, |found| found.status == Truth::True).await;
    let took = since.elapsed();
    // The regular look comes 20 s after the one before; only a watch is faster.
    assert!(took.as_secs() < 15, "{took:?}");
    gone(&client, "prompt").await;
}

#[tokio::test]
async fn causes_are_lifted_up_from_the_pod_and_its_events() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    let gpu = json!({"accelerators": {"extendedResource": {"name": "example.com/gpu", "count": 1}}});
    create::<GridNode>(&client, node("troubled", gpu)).await;
    revision(&client, "troubled", "r1").await;
    let set = sets(&client).get("worker-troubled").await.unwrap();
    let refused = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "troubled.1", "namespace": SYSTEM}, "type": "Warning",
        "reason": "FailedCreate", "message": "no PriorityClass with name spare was found",
        "involvedObject": {"kind": "StatefulSet", "name": "worker-troubled", "namespace": SYSTEM, "uid": set.uid()},
    });
    let events: Api<Event> = Api::namespaced(client.clone(), SYSTEM);
    events.create(&PostParams::default(), &serde_json::from_value(refused).unwrap()).await.unwrap();
    // Events trigger nothing; somebody touches the node.
    let touch = json!({"spec": {"unschedulable": true}});
    nodes(&client).patch("troubled", &PatchParams::default(), &Patch::Merge(touch)).await.unwrap();
    let found = until(&client, "troubled", condition::READY, |found| found.reason == "PodRefused").await;
    assert!(found.message.contains("PriorityClass"), "{}", found.message);
    until(&client, "troubled", condition::STALLED, |found| found.status == Truth::True).await;

    pod(&client, "troubled", "r1").await;
    let unscheduled = json!({"conditions": [{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient example.com/gpu.",
    }]});
    pod_status(&client, "troubled", unscheduled).await;
    let found = until(&client, "troubled", condition::READY, |found| found.reason == "Unschedulable").await;
    assert!(found.message.contains("no Kubernetes node has 1 example.com/gpu free"), "{}", found.message);
    until(&client, "troubled", condition::RECONCILING, |found| found.reason == "Unschedulable").await;
    let preempted = json!({"conditions": [
        {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "by a more important pod"},
    ]});
    pod_status(&client, "troubled", preempted).await;
    until(&client, "troubled", condition::READY, |found| found.reason == "Preempted").await;
    gone(&client, "troubled").await;
}

#[tokio::test]
async fn a_refused_peer_outweighs_the_pod_that_waits_for_it() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    create::<GridNode>(&client, node("stranger", json!({}))).await;
    let peer = peer(&client, "stranger").await;
    world.gateway.refuse(&peer, "WrongNetwork");
    let found = until(&client, "stranger", condition::READY, |found| found.reason == "PeerRefused").await;
    assert!(found.message.contains("WrongNetwork"), "{}", found.message);
    gone(&client, "stranger").await;
}

#[tokio::test]
async fn a_worker_is_replaced_only_when_nothing_runs_on_it() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    create::<GridNode>(&client, node("roller", json!({}))).await;
    let peer = peer(&client, "roller").await;
    revision(&client, "roller", "r1").await;
    let before = pod(&client, "roller", "r1").await;
    pod_status(&client, "roller", ready()).await;
    world.gateway.prove(&peer);
    until(&client, "roller", condition::READY, |found| found.status == Truth::True).await;
    assert_eq!(schedulable(world, &peer), Some(true));
    let strategy = sets(&client).get("worker-roller").await.unwrap().spec.unwrap().update_strategy.unwrap();
    assert_eq!(strategy.type_.as_deref(), Some("OnDelete"), "Kubernetes leaves the pod alone");

    world.gateway.set_running(&peer, 1);
    revision(&client, "roller", "r2").await;
    until(&client, "roller", condition::UPDATING, |found| found.reason == "UpdateWaitsForIdle").await;
    eventually("no new work", async || schedulable(world, &peer).filter(|may| !may)).await;
    until(&client, "roller", condition::READY, |found| found.status == Truth::True).await;
    // The operator has looked again, and again found work.
    let annotated = json!({"metadata": {"annotations": {"touched": "1"}}});
    nodes(&client).patch("roller", &PatchParams::default(), &Patch::Merge(annotated)).await.unwrap();
    world.gateway.changed(ChangeKind::Node, &peer);
    let still = pods(&client).get("worker-roller-0").await.unwrap();
    assert_eq!((still.uid(), still.metadata.deletion_timestamp.is_none()), (before.uid(), true));

    world.gateway.set_running(&peer, 0);
    eventually("the pod is gone", async || {
        pods(&client).get_opt("worker-roller-0").await.unwrap().is_none().then_some(())
    })
    .await;
    pod(&client, "roller", "r2").await;
    pod_status(&client, "roller", ready()).await;
    eventually("new work", async || schedulable(world, &peer).filter(|may| *may)).await;
    eventually("Updating is over", async || {
        let status = nodes(&client).get("roller").await.unwrap().status?;
        find(&status.conditions, condition::UPDATING).is_none().then_some(())
    })
    .await;
    gone(&client, "roller").await;
}

#[tokio::test]
async fn outside_its_windows_a_node_is_cordoned_and_inside_them_it_is_not() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    // A window of one minute on the day after tomorrow is closed now, whatever the time.
    let day = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(48)).strftime("%A").to_string();
    let closed = json!({"availability": {"windows": [{"days": [day], "start": "12:00", "end": "12:01"}]}});
    create::<GridNode>(&client, node("weekend", closed)).await;
    let peer = peer(&client, "weekend").await;
    let member = eventually("the membership", async || world.gateway.member(&peer)).await;
    assert_eq!((member.schedulable, member.resting), (false, true));
    let found = until(&client, "weekend", condition::READY, |found| found.reason == "OutsideWindow").await;
    assert_eq!(found.status, Truth::Unknown, "nothing is expected of it");
    let shown = nodes(&client).get("weekend").await.unwrap().status.unwrap().availability.unwrap();
    assert!(!shown.open && shown.until.is_some());
    let always = json!({"spec": {"availability": {"windows": [{"start": "00:00", "end": "24:00"}]}}});
    nodes(&client).patch("weekend", &PatchParams::default(), &Patch::Merge(always)).await.unwrap();
    eventually("it is given work", async || schedulable(world, &peer).filter(|may| *may)).await;
    assert!(!world.gateway.member(&peer).unwrap().resting);
    gone(&client, "weekend").await;
}

#[tokio::test]
async fn a_payout_address_that_is_changed_later_is_paid_after_the_contracts_two_days_and_the_node_says_so() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    let rewards = json!({"rewards": {"payoutAddress": "0x00000000000000000000000000000000000000cc"}});
    create::<GridNode>(&client, node("payee", rewards)).await;
    let peer = peer(&client, "payee").await;
    world.gateway.prove(&peer);
    until(&client, "payee", condition::REGISTERED, |found| found.status == Truth::True).await;
    let other = json!({"spec": {"rewards": {"payoutAddress": "0x00000000000000000000000000000000000000dd"}}});
    nodes(&client).patch("payee", &PatchParams::default(), &Patch::Merge(other)).await.unwrap();
    let address: NodeAddress =
        nodes(&client).get("payee").await.unwrap().status.unwrap().node_address.unwrap().parse().unwrap();
    let other: NodeAddress = "0x00000000000000000000000000000000000000dd".parse().unwrap();
    eventually("the new address is paid", async || {
        world.chain.node(address).filter(|node| NodeAddress::from(node.payout) == other).map(|_| ())
    })
    .await;
    eventually("nothing differs any more", async || {
        let status = nodes(&client).get("payee").await.unwrap().status.unwrap();
        find(&status.conditions, condition::PAYOUT_DIFFERS).is_none().then_some(())
    })
    .await;
    for told in ["PayoutRequested", "PayoutApplied"] {
        eventually(told, async || {
            event_reasons(&client, "default", "payee").await.contains(&told.to_owned()).then_some(())
        })
        .await;
    }
    gone(&client, "payee").await;
}

#[tokio::test]
async fn a_node_that_leaves_keeps_its_claim_on_work_whose_epoch_is_not_over() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    let rewards = json!({"rewards": {"payoutAddress": "0x00000000000000000000000000000000000000cc"}, "drain": {"deadlineSeconds": 600}});
    create::<GridNode>(&client, node("leaver", rewards)).await;
    let peer = peer(&client, "leaver").await;
    world.gateway.prove(&peer);
    until(&client, "leaver", condition::REGISTERED, |found| found.status == Truth::True).await;
    // An epoch that is not over for years: its report cannot come before the deadline.
    world.gateway.set_worked(&peer, 1 << 40);
    world.gateway.set_running(&peer, 1);
    nodes(&client).delete("leaver", &DeleteParams::default()).await.unwrap();
    let draining = until(&client, "leaver", condition::DRAINING, |found| found.status == Truth::True).await;
    assert!(draining.message.contains("running work"), "{}", draining.message);
    let member = world.gateway.member(&peer).unwrap();
    assert_eq!((member.schedulable, member.registered), (false, true), "no new work, and what it did is paid");
    world.gateway.set_running(&peer, 0);
    eventually("the node is gone", async || nodes(&client).get_opt("leaver").await.unwrap().is_none().then_some(()))
        .await;
    let events = eventually("an Event", async || {
        let events = event_reasons(&client, "default", "leaver").await;
        events.contains(&"LastContributionOutstanding".to_owned()).then_some(events)
    })
    .await;
    assert!(!events.contains(&"DrainDeadlineExceeded".to_owned()), "{events:?}");
}

#[tokio::test]
async fn a_node_that_never_gets_idle_is_removed_after_its_deadline_with_an_event() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    create::<GridNode>(&client, node("stuck", json!({"drain": {"deadlineSeconds": 2}}))).await;
    let peer = peer(&client, "stuck").await;
    eventually("the membership", async || world.gateway.member(&peer)).await;
    world.gateway.set_running(&peer, 1);
    nodes(&client).delete("stuck", &DeleteParams::default()).await.unwrap();
    eventually("the node is gone", async || nodes(&client).get_opt("stuck").await.unwrap().is_none().then_some(()))
        .await;
    eventually("an Event", async || {
        event_reasons(&client, "default", "stuck").await.contains(&"DrainDeadlineExceeded".to_owned()).then_some(())
    })
    .await;
    assert!(world.gateway.member(&peer).is_none());
}

#[tokio::test]
async fn a_node_whose_key_went_first_leaves_as_itself_and_gets_no_other_key() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    create::<GridNode>(&client, node("keyless", json!({}))).await;
    let peer = peer(&client, "keyless").await;
    eventually("the membership", async || world.gateway.member(&peer)).await;
    world.gateway.set_running(&peer, 1);
    nodes(&client).delete("keyless", &DeleteParams::default()).await.unwrap();
    until(&client, "keyless", condition::DRAINING, |found| found.status == Truth::True).await;
    let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(client.clone(), SYSTEM);
    secrets.delete("worker-keyless-key", &DeleteParams::default()).await.unwrap();
    world.gateway.set_running(&peer, 0);
    eventually("the node is gone", async || nodes(&client).get_opt("keyless").await.unwrap().is_none().then_some(()))
        .await;
    assert!(world.gateway.member(&peer).is_none(), "the member that it was is forgotten");
    assert!(secrets.get_opt("worker-keyless-key").await.unwrap().is_none());
}

#[tokio::test]
async fn a_node_that_is_looked_at_again_is_not_written_again() {
    let world = world().await;
    let _alone = world.quiet.write().await;
    let client = client().await;
    // Quantities that the API server writes in other words than the spec does.
    let more = json!({
        "resources": {"cpu": "0.5", "memory": "1.5Gi"}, "storage": {"capacity": "0.5Gi"},
        "podLabels": {"team": "research"}, "podAnnotations": {"example.com/owner": "anna"},
        "topologySpreadConstraints": [{"topologyKey": "zone"}], "imagePullSecrets": [{"name": "reporter"}],
        "availability": {"windows": [{"start": "00:00", "end": "24:00"}]},
    });
    create::<GridNode>(&client, node("calm", more)).await;
    let peer = peer(&client, "calm").await;
    revision(&client, "calm", "r1").await;
    pod(&client, "calm", "r1").await;
    pod_status(&client, "calm", ready()).await;
    world.gateway.prove(&peer);
    until(&client, "calm", condition::READY, |found| found.status == Truth::True).await;
    let of_node = || world.writes.of("/gridnodes/calm") + world.writes.of("worker-calm");
    // What was caused before may still be written in the first rounds; whoever writes at every look writes in all of them.
    let mut written = Vec::new();
    while written.last() != Some(&0) {
        assert!(written.len() < 6, "writes, round by round: {written:?}");
        let before = of_node();
        for _ in 0..3 {
            world.gateway.changed(ChangeKind::Node, &peer);
        }
        // A node that comes after them is through: so are they.
        let marker = format!("marker-{}", written.len());
        create::<GridNode>(&client, node(&marker, json!({}))).await;
        until(&client, &marker, condition::WORKER_AVAILABLE, |_| true).await;
        written.push(of_node() - before);
        gone(&client, &marker).await;
    }
    gone(&client, "calm").await;
}
