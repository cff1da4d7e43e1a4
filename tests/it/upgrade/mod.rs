//! From the version before this one to this one and back, with objects in the cluster: what the previous operator and its users
//! stored under the previous CRDs is read, kept, changed and reconciled under today's, and after a downgrade nothing fails.

mod schemas;
mod stored;

use kube::{Api, ResourceExt, api::ListParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use xdc_grid::{
    api::{
        conditions::is_true,
        contribution_report::{ContributionReport, ReportState},
        grid_model::GridModel,
        grid_network::{self, GridNetwork},
        grid_node::GridNode,
        grid_node_pool::GridNodePool,
        inference_job::{self, InferenceJob},
        refs::TransactionStatus,
    },
    operator::chains::record_of,
    protocol::{identity::NodeKey, internal::ChangeKind},
};

use crate::{
    faults::storms::operate,
    support::{
        chain::FakeChain,
        eventually,
        gateway::FakeGateway,
        plane::Island,
        world::{NETWORK, namespace},
    },
};
use schemas::Version;
use stored::Stored;

/// Namespace of the jobs.
const TEAM: &str = "upgrade";
/// No object can have it: a pool makes Managed nodes, and those have no peer id of their own.
const FORBIDDEN: [&str; 1] = ["GridNodePool.spec.template.spec.peerID"];

#[test]
fn the_stored_objects_use_every_field_that_the_previous_schemas_had() {
    let objects = stored::objects(&stored::Words::default());
    let mut missing: Vec<_> =
        schemas::previous().iter().flat_map(|crd| schemas::unused_fields(crd, &objects)).collect();
    missing.retain(|field| !FORBIDDEN.contains(&field.as_str()));
    assert!(missing.is_empty(), "no stored object has\n{}", missing.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_previous_version_stored_goes_on_under_this_one_and_survives_the_way_back() {
    let island = Island::land().await;
    let admin = &island.admin;
    namespace(admin, TEAM).await;
    schemas::serve(admin, Version::Previous).await;
    let key = NodeKey::from_bytes(&[7; 32]).unwrap();
    let before = stored::store(admin, &key).await;

    schemas::serve(admin, Version::Today).await;
    everything_is_read_and_kept(&before).await;
    everything_can_be_changed(&before).await;
    an_odd_name_is_kept_and_no_new_object_gets_one(&before).await;
    the_operator_goes_on_with_all_of_it(&island, &before, &key).await;

    let newer = stored::store_what_only_today_knows(admin).await;
    schemas::serve(admin, Version::Previous).await;
    after_the_way_back_nothing_fails(&before, &newer).await;
    // As the next test expects to find it.
    schemas::serve(admin, Version::Today).await;
}

async fn everything_is_read_and_kept(before: &[Stored]) {
    for object in before {
        let now = object.read().await;
        let lost = stored::lost(&object.was, &now);
        assert!(lost.is_empty(), "{} lost {lost:?}", object.name());
        match object.kind() {
            "GridNetwork" => drop(typed::<GridNetwork>(&now)),
            "GridModel" => drop(typed::<GridModel>(&now)),
            "GridNodePool" => drop(typed::<GridNodePool>(&now)),
            "InferenceJob" => drop(typed::<InferenceJob>(&now)),
            "GridNode" => {
                let status = typed::<GridNode>(&now).status.unwrap_or_default();
                transactions_are_understood(&object.name(), [status.registration, status.exit]);
            }
            "ContributionReport" => {
                let status = typed::<ContributionReport>(&now).status.unwrap_or_default();
                transactions_are_understood(&object.name(), [status.submit, status.activate]);
            }
            other => panic!("{other} is no kind of ours"),
        }
    }
}

fn typed<K: DeserializeOwned>(object: &Value) -> K {
    serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object:#}"))
}

/// What was signed by the previous version is followed to its end by this one, and never signed again.
fn transactions_are_understood(name: &str, found: [Option<TransactionStatus>; 2]) {
    for transaction in found.into_iter().flatten() {
        let record = record_of(&transaction).unwrap_or_else(|| panic!("{name}: the record cannot be read"));
        assert_eq!((record.state_name(), record.is_finished()), ("Finalized", true), "{name}");
    }
}

/// Each takes a change of a field that may change, so that the whole object is validated again.
async fn everything_can_be_changed(before: &[Stored]) {
    for object in before {
        let spec = match object.kind() {
            "GridNetwork" => json!({"paused": false}),
            "GridModel" => json!({"replicas": 2}),
            "GridNode" => json!({"drain": {"deadlineSeconds": 11}}),
            "GridNodePool" => json!({"template": {"spec": {"drain": {"deadlineSeconds": 11}}}}),
            "InferenceJob" => json!({"parallelism": 3}),
            _ => Value::Null,
        };
        let mut change = json!({"metadata": {"labels": {"seen": "by-the-upgrade"}}});
        if !spec.is_null() {
            change["spec"] = spec;
        }
        if let Err(error) = object.change(&change).await {
            panic!("{} cannot be changed: {error}", object.name());
        }
    }
}

async fn an_odd_name_is_kept_and_no_new_object_gets_one(before: &[Stored]) {
    let odd = before.iter().find(|object| object.name() == "InferenceJob odd").unwrap();
    assert_eq!(odd.read().await["spec"]["workload"]["modelRef"]["name"], "My_Model");
    let refused = odd.create_another("odd-too").await.unwrap_err();
    assert!(refused.contains("modelRef.name"), "{refused}");
}

/// This version's operator, with the chart's own roles, looks at everything and ends what the previous one began.
async fn the_operator_goes_on_with_all_of_it(island: &Island, before: &[Stored], key: &NodeKey) {
    let (gateway, gateway_url) = FakeGateway::start().await;
    let chain = FakeChain::new();
    let running = operate(island.operator().await, &gateway_url, &chain);
    let admin = &island.admin;
    let networks: Api<GridNetwork> = Api::all(admin.clone());
    eventually("the network is ready", async || {
        let status = networks.get(NETWORK).await.unwrap().status?;
        is_true(&status.conditions, grid_network::condition::READY).then_some(())
    })
    .await;
    for object in before.iter().filter(|object| object.kind() != "ContributionReport") {
        eventually(&format!("{} as it is now was looked at", object.name()), async || {
            let now = object.read().await;
            (now["status"]["observedGeneration"] == now["metadata"]["generation"]).then_some(())
        })
        .await;
    }
    jobs_end_as_they_should(island, &gateway, before).await;
    let nodes: Api<GridNode> = Api::all(admin.clone());
    let status = nodes.get("worker-cpu").await.unwrap().status.unwrap();
    assert_eq!(status.peer_id, Some(key.peer_id().to_string()), "a node keeps its key");
    let of_pool = ListParams::default().labels("xdcgrid.io/pool=herd");
    eventually("the pool has its node", async || {
        let found = nodes.list(&of_pool).await.unwrap().items;
        (found.len() == 1).then_some(())
    })
    .await;
    the_planned_report_is_sent_once(island, &chain, before).await;
    drop(running);
}

async fn jobs_end_as_they_should(island: &Island, gateway: &FakeGateway, before: &[Stored]) {
    let jobs: Api<InferenceJob> = Api::namespaced(island.admin.clone(), TEAM);
    for name in ["new", "running"] {
        eventually(&format!("job {name} is complete"), async || {
            let job = jobs.get(name).await.unwrap();
            gateway.changed(ChangeKind::Job, &job.uid().unwrap());
            is_true(&job.status?.conditions, inference_job::condition::COMPLETE).then_some(())
        })
        .await;
    }
    assert_eq!(gateway.all_submissions(), 2, "what was over is not done again");
    let over = before.iter().find(|object| object.name() == "InferenceJob over").unwrap();
    let now = over.read().await;
    for field in ["phase", "requests", "output", "receiptsRoot", "completionTime"] {
        assert!(stored::lost(&over.was["status"][field], &now["status"][field]).is_empty(), "{field}: {now:#}");
    }
}

async fn the_planned_report_is_sent_once(island: &Island, chain: &FakeChain, before: &[Stored]) {
    let reports: Api<ContributionReport> = Api::all(island.admin.clone());
    eventually("the planned report is active", async || {
        let status = reports.get("demo-0").await.unwrap().status?;
        (status.state == ReportState::Active).then_some(())
    })
    .await;
    assert_eq!(chain.submitted().iter().filter(|epoch| **epoch == 0).count(), 1, "{:?}", chain.submitted());
    let gone = before.iter().find(|object| object.name() == "ContributionReport gone-7").unwrap();
    assert!(stored::lost(&gone.was["status"], &gone.read().await["status"]).is_empty());
}

/// The previous CRDs over objects that this version wrote: what they do not know is not shown, the rest is as it was, and every
/// object can be listed, changed and deleted.
async fn after_the_way_back_nothing_fails(before: &[Stored], newer: &[Stored]) {
    for object in before {
        let now = object.read().await;
        let lost = stored::lost(&object.was["spec"], &now["spec"]);
        let meant = |path: &String| {
            ["paused", "replicas", "deadlineSeconds", "parallelism"].iter().any(|field| path.ends_with(field))
        };
        let lost: Vec<_> = lost.into_iter().filter(|path| !meant(path)).collect();
        assert!(lost.is_empty(), "{} lost {lost:?}", object.name());
    }
    for object in newer {
        let now = object.read().await;
        for pointer in &object.only_today {
            assert!(object.was.pointer(pointer).is_some(), "{} never had {pointer}", object.name());
            assert!(now.pointer(pointer).is_none(), "{} still shows {pointer}", object.name());
        }
    }
    for object in before.iter().chain(newer) {
        let change = json!({"metadata": {"labels": {"seen": "by-the-downgrade"}}});
        if let Err(error) = object.change(&change).await {
            panic!("{} cannot be changed: {error}", object.name());
        }
        if let Err(error) = object.write_status().await {
            panic!("{}: no status can be written: {error}", object.name());
        }
        assert!(object.is_listed().await, "{} is not listed", object.name());
    }
    for object in before.iter().chain(newer) {
        object.delete().await;
    }
}
