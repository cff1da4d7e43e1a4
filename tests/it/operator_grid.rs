//! Networks, models, nodes and epochs: real API server, real controllers, scripted gateway, simulated chain.

use std::time::Duration;

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, Secret},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::ApiResource,
};
use serde_json::{Value, json};
use xdc_grid::{
    api::{
        conditions::{Condition, Truth, find, is_true},
        contribution_report::{ContributionReport, ReportState},
        grid_model::{self, GridModel},
        grid_network::{self, GridNetwork},
        grid_node::{self, GridNode},
        ids::GridPeerId,
    },
    protocol::identity::NodeKey,
};

use crate::support::{
    client, eventually, eventually_within,
    world::{MODEL, NETWORK, SYSTEM, create, event_reasons, install_crds, model, network, world},
};

/// Waits for a condition of an object, whatever its kind; a time-out shows all its conditions.
async fn until(
    client: &Client,
    resource: &ApiResource,
    name: &str,
    type_: &str,
    wanted: impl Fn(&Condition) -> bool,
) -> Condition {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), resource);
    let what = format!("{} {name}: {type_}", resource.kind);
    eventually(&what, async || {
        let object = api.get(name).await.unwrap();
        let conditions: Vec<Condition> = serde_json::from_value(object.data["status"]["conditions"].clone()).ok()?;
        find(&conditions, type_).filter(|found| wanted(found)).cloned()
    })
    .await
}

fn networks() -> ApiResource {
    ApiResource::erase::<GridNetwork>(&())
}

fn nodes() -> ApiResource {
    ApiResource::erase::<GridNode>(&())
}

#[tokio::test]
async fn a_network_configures_the_gateway_and_says_where_it_is() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    until(&client, &networks(), NETWORK, grid_network::condition::READY, |found| found.status == Truth::True).await;
    let status = Api::<GridNetwork>::all(client).get(NETWORK).await.unwrap().status.unwrap();
    assert!(status.gateways[0].addresses[0].contains("/tcp/4001"));
    assert_eq!(status.net.unwrap().len(), 8);
    let told = world.gateway.network().unwrap();
    assert_eq!((told.name.as_str(), told.epoch_seconds), (NETWORK, crate::support::chain::EPOCH_SECONDS));
}

#[tokio::test]
async fn what_is_wrong_with_a_network_is_named() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    let ready = grid_network::condition::READY;
    for (name, endpoint, reason) in
        [("wrong-chain", "http://wrong-chain", "WrongChainId"), ("no-code", "http://no-code", "ContractWithoutCode")]
    {
        create::<GridNetwork>(&client, network(name, endpoint)).await;
        until(&client, &networks(), name, ready, |found| found.reason == reason).await;
    }
    create::<GridNetwork>(&client, network("no-role", "http://no-role")).await;
    let reporter = grid_network::condition::REPORTER_READY;
    until(&client, &networks(), "no-role", reporter, |found| found.reason == "ReporterWithoutRole").await;
    let mut other = network("another", "http://chain");
    other["spec"]["chain"]["contract"] = json!("0x00000000000000000000000000000000000000bb");
    other["spec"]["rewards"]["dryRun"] = json!(true);
    create::<GridNetwork>(&client, other).await;
    let gateway = grid_network::condition::GATEWAY_READY;
    until(&client, &networks(), "another", gateway, |found| found.reason == "GatewayServesAnotherNetwork").await;
    let mut epochs = network("other-epochs", "http://chain");
    epochs["spec"]["rewards"]["epochSeconds"] = json!(61);
    create::<GridNetwork>(&client, epochs).await;
    until(&client, &networks(), "other-epochs", ready, |found| found.reason == "EpochSecondsMismatch").await;
    let mut keyless = network("keyless", "http://chain");
    keyless["spec"]["chain"]["reporterSecretRef"]["name"] = json!("nobody");
    create::<GridNetwork>(&client, keyless).await;
    until(&client, &networks(), "keyless", reporter, |found| found.reason == "ReporterSecretMissing").await;
    let api: Api<GridNetwork> = Api::all(client);
    for name in ["wrong-chain", "no-code", "no-role", "another", "other-epochs", "keyless"] {
        api.delete(name, &DeleteParams::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_model_with_another_digest_is_named_with_both_values() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    create::<GridModel>(&client, model("mismatched", "http://models/wrong.gguf", 0x33)).await;
    let models = ApiResource::erase::<GridModel>(&());
    let found = until(&client, &models, "mismatched", grid_model::condition::READY, |found| {
        found.reason == "ModelDigestMismatch"
    })
    .await;
    assert!(found.message.contains(&"33".repeat(32)) && found.message.contains(&"ff".repeat(32)), "{}", found.message);
    let api: Api<GridModel> = Api::all(client);
    api.delete("mismatched", &DeleteParams::default()).await.unwrap();
    eventually("the model is gone", async || api.get_opt("mismatched").await.unwrap().is_none().then_some(())).await;
}

fn managed(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "networkRef": {"name": NETWORK}, "mode": "Managed", "accelerators": {"cpuOnly": {}}, "models": [MODEL],
        "roles": ["Compute", "Storage"], "rewards": {"payoutAddress": "0x00000000000000000000000000000000000000cc"},
        "drain": {"deadlineSeconds": 30},
    }})
}

/// What the kubelet and the StatefulSet controller would do.
async fn become_ready(client: &Client, name: &str) {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), SYSTEM);
    let status = json!({"status": {"replicas": 1, "readyReplicas": 1}});
    sets.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}

#[tokio::test]
async fn a_managed_node_gets_a_key_a_worker_a_membership_and_a_registration_and_leaves_again() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    create::<GridNode>(&client, managed("life")).await;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), SYSTEM);
    let secret = eventually("the key", async || secrets.get_opt("worker-life-key").await.unwrap()).await;
    assert_eq!(secret.immutable, Some(true));
    let key = NodeKey::from_hex(std::str::from_utf8(&secret.data.unwrap()["node.key"].0).unwrap()).unwrap();
    let peer = key.peer_id();
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), SYSTEM);
    eventually("the worker", async || sets.get_opt("worker-life").await.unwrap()).await;
    let member = eventually("the membership", async || world.gateway.member(peer.as_str())).await;
    assert_eq!((member.node_name.as_str(), member.models.len(), member.registered), ("life", 1, false));
    let registered = grid_node::condition::REGISTERED;
    until(&client, &nodes(), "life", registered, |found| found.reason == "WaitingForCapability").await;
    assert!(world.chain.node(key.address()).is_none());

    world.gateway.prove(peer.as_str());
    until(&client, &nodes(), "life", registered, |found| found.status == Truth::True).await;
    let on_chain = world.chain.node(key.address()).unwrap();
    assert_eq!((on_chain.computingPower, on_chain.storageCapacity), (1234, 2));
    eventually("the gateway knows", async || world.gateway.member(peer.as_str()).filter(|member| member.registered))
        .await;
    become_ready(&client, "worker-life").await;
    until(&client, &nodes(), "life", grid_node::condition::READY, |found| found.status == Truth::True).await;
    let status = Api::<GridNode>::all(client.clone()).get("life").await.unwrap().status.unwrap();
    let columns = status.columns.unwrap();
    assert_eq!(
        (columns.gpu.as_deref(), columns.tokens_per_second.as_deref(), columns.score.as_deref()),
        (Some("cpu"), Some("21.5"), Some("3/3"))
    );

    let api: Api<GridNode> = Api::all(client.clone());
    api.delete("life", &DeleteParams::default()).await.unwrap();
    eventually("the node is gone", async || api.get_opt("life").await.unwrap().is_none().then_some(())).await;
    assert!(world.chain.node(key.address()).is_none(), "its stake is free");
    assert!(world.gateway.member(peer.as_str()).is_none());
}

#[tokio::test]
async fn an_external_node_takes_part_only_when_it_is_approved() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    let peer: GridPeerId = NodeKey::generate().peer_id();
    let spec = json!({"networkRef": {"name": NETWORK}, "mode": "External", "peerID": peer, "models": [MODEL]});
    create::<GridNode>(&client, json!({"metadata": {"name": "home"}, "spec": spec})).await;
    until(&client, &nodes(), "home", grid_node::condition::READY, |found| found.reason == "NotApproved").await;
    assert!(world.gateway.member(peer.as_str()).is_none());
    let api: Api<GridNode> = Api::all(client.clone());
    api.patch("home", &PatchParams::default(), &Patch::Merge(json!({"spec": {"approved": true}}))).await.unwrap();
    eventually("the membership", async || world.gateway.member(peer.as_str())).await;
    world.gateway.prove(peer.as_str());
    let found =
        until(&client, &nodes(), "home", grid_node::condition::READY, |found| found.reason == "NotRegistered").await;
    assert!(found.message.contains("grid-worker register"), "{}", found.message);
    api.patch("home", &PatchParams::default(), &Patch::Merge(json!({"spec": {"approved": false}}))).await.unwrap();
    eventually("the membership is over", async || world.gateway.member(peer.as_str()).is_none().then_some(())).await;
    api.delete("home", &DeleteParams::default()).await.unwrap();
    eventually("the node is gone", async || api.get_opt("home").await.unwrap().is_none().then_some(())).await;
}

#[tokio::test]
async fn epochs_are_written_down_reported_once_each_and_become_active() {
    let world = world().await;
    let _quiet = world.quiet.read().await;
    let client = client().await;
    create::<GridNode>(&client, managed("earner")).await;
    let api: Api<GridNode> = Api::all(client.clone());
    let peer = eventually("the peer id", async || api.get("earner").await.unwrap().status?.peer_id).await;
    world.gateway.prove(&peer);
    until(&client, &nodes(), "earner", grid_node::condition::REGISTERED, |found| found.status == Truth::True).await;
    let reports: Api<ContributionReport> = Api::all(client.clone());
    // Epochs end every three seconds and are reported in order, also where reporting one takes longer than that.
    let paid = eventually_within(Duration::from_secs(600), "a paid and active report", async || {
        let list = reports.list(&ListParams::default()).await.unwrap().items;
        list.into_iter().find(|report| {
            let active = report.status.as_ref().is_some_and(|status| status.state == ReportState::Active);
            active && report.spec.network_ref.name == NETWORK && report.spec.allocated_wei != "0"
        })
    })
    .await;
    assert!(world.chain.live_total() > 0);
    let leaves: Api<ConfigMap> = Api::namespaced(client.clone(), SYSTEM);
    assert!(leaves.get(&paid.spec.leaves.config_map).await.unwrap().binary_data.is_some());
    let submitted = world.chain.submitted();
    let expected: Vec<u64> = (0..submitted.len() as u64).collect();
    assert_eq!(submitted, expected, "each epoch once, none left out");
    eventually_within(Duration::from_secs(600), "the node's earnings", async || {
        api.get("earner").await.unwrap().status?.earned_wei.filter(|wei| wei != "0")
    })
    .await;
}

#[tokio::test]
async fn a_malformed_object_does_not_stop_the_watch() {
    let world = world().await;
    let _alone = world.quiet.write().await;
    let client = client().await;
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    // A schema of tomorrow lets in what this operator cannot read.
    let format = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/format/enum/-";
    let patch = serde_json::from_value(json!([{"op": "add", "path": format, "value": "Exotic"}])).unwrap();
    crds.patch("gridmodels.xdcgrid.io", &PatchParams::default(), &Patch::<()>::Json(patch)).await.unwrap();
    let resource = ApiResource::erase::<GridModel>(&());
    let models: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut exotic = model("exotic", "http://models/exotic", 0x44);
    exotic["apiVersion"] = json!("xdcgrid.io/v1alpha1");
    exotic["kind"] = json!("GridModel");
    exotic["spec"]["format"] = json!("Exotic");
    let exotic: DynamicObject = serde_json::from_value(exotic).unwrap();
    eventually("the new schema is served", async || models.create(&PostParams::default(), &exotic).await.ok()).await;
    create::<GridModel>(&client, model("plain", "http://models/plain.gguf", 0x55)).await;
    until(&client, &resource, "plain", grid_model::condition::READY, |found| found.status == Truth::True).await;
    eventually("the Event", async || {
        event_reasons(&client, "default", "exotic").await.contains(&"InvalidObject".to_owned()).then_some(())
    })
    .await;
    models.delete("exotic", &DeleteParams::default()).await.unwrap();
    install_crds(&client).await;
    let untouched = Api::<GridModel>::all(client).get(MODEL).await.unwrap();
    assert!(
        is_true(&untouched.status.unwrap().conditions, grid_model::condition::READY),
        "{}",
        untouched.metadata.name.unwrap()
    );
}

#[tokio::test]
async fn resources_keep_their_version_while_nothing_changes() {
    let world = world().await;
    let _alone = world.quiet.write().await;
    let client = client().await;
    let models: Api<GridModel> = Api::all(client.clone());
    until(&client, &ApiResource::erase::<GridModel>(&()), MODEL, grid_model::condition::READY, |found| {
        found.status == Truth::True
    })
    .await;
    // What was caused before may still be written in the first rounds; whoever writes at every look writes in all of them.
    let mut versions = vec![models.get(MODEL).await.unwrap().resource_version()];
    loop {
        for _ in 0..3 {
            world.gateway.changed(xdc_grid::protocol::internal::ChangeKind::Model, &"11".repeat(32));
        }
        // Another model that comes after them is through: so are they.
        let marker = format!("marker-{}", versions.len());
        let digest = 0xa0 + u8::try_from(versions.len()).unwrap();
        create::<GridModel>(&client, model(&marker, &format!("http://models/{marker}.gguf"), digest)).await;
        until(&client, &ApiResource::erase::<GridModel>(&()), &marker, grid_model::condition::READY, |found| {
            found.status == Truth::True
        })
        .await;
        versions.push(models.get(MODEL).await.unwrap().resource_version());
        if versions.iter().rev().take(2).all(|version| Some(version) == versions.last()) {
            break;
        }
        assert!(versions.len() < 6, "versions, round by round: {versions:?}");
    }
}
