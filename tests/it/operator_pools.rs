//! Pools of nodes: real API server, real controllers, scripted gateway, simulated chain.

use std::{path::PathBuf, process::Command};

use k8s_openapi::api::autoscaling::v1::Scale;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use xdc_grid::{
    api::{
        conditions::{Condition, Truth, find},
        grid_node::GridNode,
        grid_node_pool::{GridNodePool, GridNodePoolStatus, condition},
    },
    protocol::internal::ChangeKind,
};

use crate::support::{
    client, eventually,
    world::{MODEL, NETWORK, SYSTEM, create, create_in, namespace, world},
};

fn pool(name: &str, replicas: i32) -> Value {
    json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "template": {
        "metadata": {"labels": {"team": "research"}},
        "spec": {
            "networkRef": {"name": NETWORK}, "mode": "Managed", "accelerators": {"cpuOnly": {}}, "models": [MODEL],
            "resources": {"memory": "1.5Gi"}, "drain": {"deadlineSeconds": 30},
        },
    }}})
}

fn pools(client: &Client) -> Api<GridNodePool> {
    Api::namespaced(client.clone(), SYSTEM)
}

async fn members(client: &Client, pool: &str) -> Vec<GridNode> {
    let of_pool = ListParams::default().labels(&format!("xdcgrid.io/pool={pool}"));
    Api::<GridNode>::all(client.clone()).list(&of_pool).await.unwrap().items
}

async fn names(client: &Client, pool: &str) -> Vec<String> {
    let alive = members(client, pool).await.into_iter().filter(|node| node.metadata.deletion_timestamp.is_none());
    alive.map(|node| node.name_any()).collect()
}

async fn until(client: &Client, name: &str, wanted: impl Fn(&GridNodePoolStatus) -> bool) -> GridNodePoolStatus {
    eventually(&format!("pool {name}"), async || pools(client).get(name).await.unwrap().status.filter(&wanted)).await
}

fn ready(status: &GridNodePoolStatus) -> Condition {
    find(&status.conditions, condition::READY).unwrap().clone()
}

async fn remove(client: &Client, name: &str) {
    pools(client).delete(name, &DeleteParams::default()).await.unwrap();
    eventually("the pool is gone", async || pools(client).get_opt(name).await.unwrap().is_none().then_some(())).await;
    eventually("its nodes are gone", async || members(client, name).await.is_empty().then_some(())).await;
}

fn kubectl() -> PathBuf {
    let cache = std::env::var_os("XDC_GRID_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/xdc-grid")));
    let installed = cache.map(|cache| cache.join("bin/kubectl")).filter(|path| path.exists());
    installed.unwrap_or_else(|| "kubectl".into())
}

#[tokio::test]
async fn a_pool_makes_its_nodes_and_kubectl_scale_changes_how_many() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    create_in::<GridNodePool>(&client, SYSTEM, pool("herd", 2)).await;
    let status = until(&client, "herd", |status| status.replicas == 2).await;
    assert_eq!(status.selector.as_deref(), Some("xdcgrid.io/pool=herd"));
    assert_eq!(names(&client, "herd").await, ["herd-0", "herd-1"]);
    let node = &members(&client, "herd").await[0];
    assert_eq!(node.labels()["team"], "research");

    // What a HorizontalPodAutoscaler does.
    let scale: Scale = pools(&client).get_scale("herd").await.unwrap();
    assert_eq!((scale.spec.unwrap().replicas, scale.status.as_ref().unwrap().replicas), (Some(2), 2));
    assert_eq!(scale.status.unwrap().selector.as_deref(), Some("xdcgrid.io/pool=herd"));
    let more = Patch::Merge(json!({"spec": {"replicas": 3}}));
    pools(&client).patch_scale("herd", &PatchParams::default(), &more).await.unwrap();
    until(&client, "herd", |status| status.replicas == 3).await;

    let kubeconfig = std::env::var("KUBECONFIG_CONTROL_PLANE").unwrap();
    let scaled = tokio::task::spawn_blocking(move || {
        Command::new(kubectl())
            .args(["--kubeconfig", &kubeconfig, "-n", SYSTEM, "scale", "gridnodepool/herd", "--replicas=1"])
            .output()
            .expect("kubectl is installed by `make tools`")
    });
    let output = scaled.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    until(&client, "herd", |status| status.replicas == 1 && status.draining_replicas == 0).await;
    assert_eq!(names(&client, "herd").await.len(), 1);
    remove(&client, "herd").await;
}

#[tokio::test]
async fn the_node_that_works_stays_and_idle_ones_go() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    create_in::<GridNodePool>(&client, SYSTEM, pool("crew", 3)).await;
    until(&client, "crew", |status| status.replicas == 3).await;
    let nodes: Api<GridNode> = Api::all(client.clone());
    // The youngest by name among equals would go last, and it is not the first to be looked at.
    let peer = eventually("the peer id", async || nodes.get("crew-1").await.unwrap().status?.peer_id).await;
    eventually("the membership", async || world.gateway.member(&peer)).await;
    world.gateway.prove(&peer);
    world.gateway.set_running(&peer, 1);
    let one = Patch::Merge(json!({"spec": {"replicas": 1}}));
    pools(&client).patch_scale("crew", &PatchParams::default(), &one).await.unwrap();
    eventually("one is left", async || (names(&client, "crew").await == ["crew-1"]).then_some(())).await;
    world.gateway.set_running(&peer, 0);
    remove(&client, "crew").await;
}

#[tokio::test]
async fn a_change_of_the_template_reaches_the_nodes_and_a_cordon_by_hand_stays() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    create_in::<GridNodePool>(&client, SYSTEM, pool("shift", 1)).await;
    until(&client, "shift", |status| status.replicas == 1).await;
    let nodes: Api<GridNode> = Api::all(client.clone());
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    nodes.patch("shift-0", &PatchParams::default(), &cordon).await.unwrap();
    let other = json!({"spec": {"template": {"spec": {"limits": {"maxRequests": 2}}}}});
    pools(&client).patch("shift", &PatchParams::default(), &Patch::Merge(other)).await.unwrap();
    let node = eventually("the new template", async || {
        let node = nodes.get("shift-0").await.unwrap();
        (node.spec.limits.as_ref().and_then(|limits| limits.max_requests) == Some(2)).then_some(node)
    })
    .await;
    assert!(node.spec.unschedulable);
    remove(&client, "shift").await;
}

#[tokio::test]
async fn a_name_that_somebody_else_has_taken_is_left_alone() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    let spec = json!({"networkRef": {"name": NETWORK}, "mode": "Managed", "accelerators": {"cpuOnly": {}}});
    create::<GridNode>(&client, json!({"metadata": {"name": "taken-0"}, "spec": spec})).await;
    create_in::<GridNodePool>(&client, SYSTEM, pool("taken", 1)).await;
    until(&client, "taken", |status| status.replicas == 1).await;
    assert_eq!(names(&client, "taken").await, ["taken-1"]);
    remove(&client, "taken").await;
    let nodes: Api<GridNode> = Api::all(client.clone());
    assert!(nodes.get("taken-0").await.unwrap().metadata.deletion_timestamp.is_none());
    nodes.delete("taken-0", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn a_pool_in_another_namespace_makes_nothing_and_says_where_it_belongs() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    namespace(&client, "tenant").await;
    create_in::<GridNodePool>(&client, "tenant", pool("foreign", 2)).await;
    let api: Api<GridNodePool> = Api::namespaced(client.clone(), "tenant");
    let status = eventually("a status", async || api.get("foreign").await.unwrap().status).await;
    let found = ready(&status);
    assert_eq!((found.status, found.reason.as_str()), (Truth::False, "WrongNamespace"));
    assert!(found.message.contains(SYSTEM) && members(&client, "foreign").await.is_empty());
    api.delete("foreign", &DeleteParams::default()).await.unwrap();
    eventually("it is gone at once", async || api.get_opt("foreign").await.unwrap().is_none().then_some(())).await;
}

#[tokio::test]
async fn while_the_gateway_is_away_no_node_is_removed() {
    let world = world().await;
    let _alone = world.quiet.write().await;
    let client = client().await;
    create_in::<GridNodePool>(&client, SYSTEM, pool("away", 2)).await;
    until(&client, "away", |status| status.replicas == 2).await;
    let nodes: Api<GridNode> = Api::all(client.clone());
    for name in ["away-0", "away-1"] {
        eventually("the peer id", async || nodes.get(name).await.unwrap().status?.peer_id).await;
    }
    world.gateway.set_away(true);
    let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
    pools(&client).patch_scale("away", &PatchParams::default(), &none).await.unwrap();
    let held = |status: &GridNodePoolStatus| ready(status).reason == "GatewayUnavailable";
    until(&client, "away", held).await;
    assert_eq!(names(&client, "away").await.len(), 2);
    world.gateway.set_away(false);
    eventually("they go once it is back", async || names(&client, "away").await.is_empty().then_some(())).await;
    remove(&client, "away").await;
}

#[tokio::test]
async fn a_pool_that_is_looked_at_again_is_not_written_again() {
    let world = world().await;
    let _alone = world.quiet.write().await;
    let client = client().await;
    create_in::<GridNodePool>(&client, SYSTEM, pool("still", 2)).await;
    until(&client, "still", |status| status.replicas == 2 && ready(status).reason == "NodesNotReady").await;
    let nodes: Api<GridNode> = Api::all(client.clone());
    for name in ["still-0", "still-1"] {
        eventually("a settled node", async || {
            let status = nodes.get(name).await.unwrap().status?;
            find(&status.conditions, "Registered").map(|_| ())
        })
        .await;
    }
    let of_pool = || {
        world.writes.of("/gridnodepools/still")
            + world.writes.of("/gridnodes/still-")
            + world.writes.of("worker-still-")
    };
    // What was caused before may still be written in the first rounds; whoever writes at every look writes in all of them.
    let mut written = Vec::new();
    while written.last() != Some(&0) {
        assert!(written.len() < 6, "writes, round by round: {written:?}");
        let (before, round) = (of_pool(), written.len());
        // A label of a node makes the pool and the node be looked at.
        let touched = Patch::Merge(json!({"metadata": {"labels": {"touched": round.to_string()}}}));
        nodes.patch("still-0", &PatchParams::default(), &touched).await.unwrap();
        world.gateway.changed(ChangeKind::Node, "nobody");
        let marker = format!("marker-{round}");
        create_in::<GridNodePool>(&client, SYSTEM, pool(&marker, 0)).await;
        until(&client, &marker, |status| ready(status).reason == "PoolComplete").await;
        written.push(of_pool() - before);
        remove(&client, &marker).await;
    }
    remove(&client, "still").await;
}
