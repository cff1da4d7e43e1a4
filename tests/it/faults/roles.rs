//! What the operator's account may do, held against what it does: the API server's audit log of a whole story, and the roles
//! of the chart, with and without Local jobs. A verb that is missing fails the story; a verb that is granted and never used fails
//! the comparison.

use std::{collections::BTreeSet, fmt};

use k8s_openapi::api::{
    batch::v1::Job,
    coordination::v1::Lease,
    core::v1::{ConfigMap, ServiceAccount},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use xdc_grid::{
    api::{
        conditions::{find, is_true},
        contribution_report::{ContributionReport, ReportState},
        grid_model::GridModel,
        grid_network::GridNetwork,
        grid_node::{self, GridNode},
        grid_node_pool::GridNodePool,
        inference_job::{self, InferenceJob},
        kueue::QUEUE_LABEL,
    },
    protocol::internal::ChangeKind,
};

use super::{
    scene::{TEAM, job, node},
    storms::{operate, operate_with},
};
use crate::{
    chart,
    support::{
        chain::FakeChain,
        eventually,
        gateway::FakeGateway,
        kueue,
        plane::{Island, OPERATOR},
        world::{MODEL, NETWORK, SYSTEM, create, create_in, model, namespace, network},
    },
};

/// Granted and not to be seen in an audit log, each with the reason.
const NOT_SEEN: [(&str, &str); 3] = [
    // Checked by the admission plugin OwnerReferencesPermissionEnforcement, where a cluster has it; never a request.
    ("*/finalizers", "update"),
    // Read when a StatefulSet cannot make its pod or a kubelet prepares it; replacing an idle worker needs a pod. Neither exists without
    // controllers and kubelets; the end-to-end tests have both.
    ("events", "list"),
    ("pods", "delete"),
];

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Deed {
    /// Everywhere, or in the operator's own namespace only.
    everywhere: bool,
    group: String,
    resource: String,
    verb: String,
}

impl fmt::Display for Deed {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.everywhere { "everywhere" } else { "in its namespace" };
        write!(to, "{} {}.{} {place}", self.verb, self.resource, self.group)
    }
}

/// Every verb of the role of that name.
fn granted(documents: &[serde_yaml::Value], name: &str) -> BTreeSet<Deed> {
    let mut granted = BTreeSet::new();
    for role in documents {
        let role = serde_json::to_value(role).unwrap();
        let kind = role["kind"].as_str().unwrap_or_default();
        if !matches!(kind, "Role" | "ClusterRole") || role["metadata"]["name"] != name {
            continue;
        }
        for rule in role["rules"].as_array().unwrap() {
            for group in texts(&rule["apiGroups"]) {
                for resource in texts(&rule["resources"]) {
                    for verb in texts(&rule["verbs"]) {
                        let everywhere = kind == "ClusterRole";
                        granted.insert(Deed { everywhere, group: group.clone(), resource: resource.clone(), verb });
                    }
                }
            }
        }
    }
    granted
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What was done, and in which namespace; a server-side apply that makes an object needs `create` as well as `patch`.
fn done(audit: &[Value]) -> BTreeSet<(Option<String>, String, String, String)> {
    let mut done = BTreeSet::new();
    for event in audit {
        let object = &event["objectRef"];
        let Some(resource) = object["resource"].as_str() else { continue };
        let resource = match object["subresource"].as_str() {
            Some(sub) => format!("{resource}/{sub}"),
            None => resource.to_owned(),
        };
        let group = object["apiGroup"].as_str().unwrap_or_default().to_owned();
        let namespace = object["namespace"].as_str().map(str::to_owned);
        let verb = event["verb"].as_str().unwrap().to_owned();
        if verb == "patch" && event["responseStatus"]["code"] == 201 {
            done.insert((namespace.clone(), group.clone(), resource.clone(), "create".to_owned()));
        }
        done.insert((namespace, group, resource, verb));
    }
    done
}

/// Fails on what was refused, on a Secret of another namespace that was touched, and on what is granted and was not done.
fn compare(granted: BTreeSet<Deed>, audit: &[Value], excused: &[(&str, &str)]) {
    assert!(audit.len() > 50, "the audit log has {} entries", audit.len());
    assert!(!granted.is_empty(), "the chart has no such role");
    let refused: Vec<_> = audit.iter().filter(|event| event["responseStatus"]["code"] == 403).collect();
    assert!(refused.is_empty(), "the chart does not grant what the operator needs: {refused:#?}");

    let done = done(audit);
    let wide_secrets: Vec<_> = done
        .iter()
        .filter(|(namespace, _, resource, _)| resource == "secrets" && namespace.as_deref() != Some(SYSTEM))
        .collect();
    assert!(wide_secrets.is_empty(), "Secrets outside its namespace: {wide_secrets:?}");

    let used = |deed: &Deed| {
        done.iter().any(|(namespace, group, resource, verb)| {
            (deed.everywhere || namespace.as_deref() == Some(SYSTEM))
                && (group, resource, verb) == (&deed.group, &deed.resource, &deed.verb)
        })
    };
    let excused = |deed: &Deed| {
        excused.iter().any(|(resource, verb)| {
            let fits = match resource.strip_prefix('*') {
                Some(end) => deed.resource.ends_with(end),
                None => deed.resource == *resource,
            };
            fits && deed.verb == *verb
        })
    };
    let unused: Vec<_> =
        granted.into_iter().filter(|deed| !used(deed) && !excused(deed)).map(|deed| deed.to_string()).collect();
    assert!(unused.is_empty(), "granted and never used:\n{}", unused.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_may_do_what_it_does_and_nothing_else() {
    let island = Island::land().await;
    let mark = island.audit_mark();
    tell_the_story(&island).await;
    compare(granted(&chart::render(), OPERATOR), &island.audit_since(mark), &NOT_SEEN);
}

/// The role of its own that the chart has for Local jobs: every verb of it is used by one job, none is excused.
#[tokio::test(flavor = "multi_thread")]
async fn what_local_jobs_need_is_all_that_they_add() {
    const VALUES: [&str; 2] = ["localJobs.enabled=true", "localJobs.kueue=true"];
    let island = Island::land().await;
    kueue::install(&island.admin).await;
    island.install_roles_with(&VALUES).await;
    let mark = island.audit_mark();
    let (_gateway, gateway_url) = FakeGateway::start().await;
    namespace(&island.admin, TEAM).await;
    let running = operate_with(island.operator().await, &gateway_url, &FakeChain::new(), &["--local-jobs", "--kueue"]);
    a_local_job_comes_and_goes(&island.admin).await;
    drop(running);
    let role = format!("{OPERATOR}-local-jobs");
    compare(granted(&chart::render_with(&VALUES), &role), &island.audit_since(mark), &[]);
}

/// Everything that the operator does for anybody, once.
async fn tell_the_story(island: &Island) {
    let (gateway, gateway_url) = FakeGateway::start().await;
    let chain = FakeChain::new();
    namespace(&island.admin, TEAM).await;
    let running = operate(island.operator().await, &gateway_url, &chain);
    let admin = &island.admin;
    create::<GridNetwork>(admin, network(NETWORK, "http://chain")).await;
    create::<GridModel>(admin, model(MODEL, "http://models/smol.gguf", 0x11)).await;
    create::<GridNode>(admin, node("on-cpu")).await;
    let mut dra = node("on-devices");
    dra["spec"]["accelerators"] = json!({"dra": {"deviceClassName": "gpu.example.com", "count": 1}});
    create::<GridNode>(admin, dra).await;
    nodes_take_part(island, &gateway, &["on-cpu", "on-devices"]).await;
    reports_are_made(island).await;
    jobs_run(island, &gateway).await;
    a_pool_comes_and_goes(island).await;
    everything_goes(island).await;
    the_lease_is_renewed(admin).await;
    drop(running);
}

async fn the_lease_is_renewed(admin: &Client) {
    let leases: Api<Lease> = Api::namespaced(admin.clone(), SYSTEM);
    eventually("the lease is renewed", async || {
        let lease = leases.get(OPERATOR).await.unwrap().spec?;
        (lease.renew_time?.0 > lease.acquire_time?.0).then_some(())
    })
    .await;
}

async fn nodes_take_part(island: &Island, gateway: &FakeGateway, names: &[&str]) {
    let api: Api<GridNode> = Api::all(island.admin.clone());
    for name in names {
        eventually("the node is registered", async || {
            let status = api.get(name).await.unwrap().status?;
            if let Some(peer) = &status.peer_id
                && gateway.member(peer).is_some()
            {
                gateway.prove(peer);
            }
            is_true(&status.conditions, grid_node::condition::REGISTERED).then_some(())
        })
        .await;
    }
}

async fn reports_are_made(island: &Island) {
    let api: Api<ContributionReport> = Api::all(island.admin.clone());
    eventually("a report is active", async || {
        let reports = api.list(&ListParams::default()).await.unwrap().items;
        reports
            .iter()
            .any(|report| report.status.as_ref().is_some_and(|status| status.state == ReportState::Active))
            .then_some(())
    })
    .await;
    // A dry run is planned, and thrown away when the network sends again. The second time the same Event is told again.
    let networks: Api<GridNetwork> = Api::all(island.admin.clone());
    for dry in [true, false, true, false] {
        let patch = json!({"spec": {"rewards": {"dryRun": dry}}});
        networks.patch(NETWORK, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        eventually("the change was followed", async || {
            let reports = api.list(&ListParams::default()).await.unwrap().items;
            (reports.iter().any(|report| report.spec.dry_run) == dry).then_some(())
        })
        .await;
    }
}

async fn jobs_run(island: &Island, gateway: &FakeGateway) {
    let admin = &island.admin;
    let prompts = json!({"metadata": {"name": "prompts"}, "data": {"p": "a\nb\n"}});
    create_in::<ConfigMap>(admin, TEAM, prompts).await;
    let mut from_map = job("from-map");
    from_map["spec"]["workload"]["input"] = json!({"format": "Lines", "configMap": {"name": "prompts", "key": "p"}});
    create_in::<InferenceJob>(admin, TEAM, from_map).await;
    let jobs: Api<InferenceJob> = Api::namespaced(admin.clone(), TEAM);
    eventually("the job is complete", async || {
        let job = jobs.get("from-map").await.unwrap();
        gateway.changed(ChangeKind::Job, &job.uid().unwrap());
        is_true(&job.status?.conditions, inference_job::condition::COMPLETE).then_some(())
    })
    .await;
    // One that an older operator took still has to be let go.
    let mut old = job("old");
    old["metadata"]["finalizers"] = json!(["xdcgrid.io/forget-text"]);
    create_in::<InferenceJob>(admin, TEAM, old).await;
    jobs.delete("old", &DeleteParams::default()).await.unwrap();
    eventually("the old job is gone", async || jobs.get_opt("old").await.unwrap().is_none().then_some(())).await;
    let mut short = job("short");
    short["spec"]["ttlSecondsAfterFinished"] = json!(0);
    let uid = create_in::<InferenceJob>(admin, TEAM, short).await.uid().unwrap();
    eventually("the short job is gone", async || {
        gateway.changed(ChangeKind::Job, &uid);
        jobs.get_opt("short").await.unwrap().is_none().then_some(())
    })
    .await;
}

async fn a_pool_comes_and_goes(island: &Island) {
    let template = json!({"spec": node("template")["spec"].clone()});
    let spec = json!({"replicas": 1, "template": template});
    create_in::<GridNodePool>(&island.admin, SYSTEM, json!({"metadata": {"name": "pool"}, "spec": spec})).await;
    let nodes: Api<GridNode> = Api::all(island.admin.clone());
    let of_pool = async || {
        let all = nodes.list(&ListParams::default()).await.unwrap().items;
        all.into_iter().filter(|node| node.name_any().starts_with("pool-")).count()
    };
    eventually("the pool has a node", async || (of_pool().await == 1).then_some(())).await;
    let pools: Api<GridNodePool> = Api::namespaced(island.admin.clone(), SYSTEM);
    pools.delete("pool", &DeleteParams::default()).await.unwrap();
    eventually("the pool is gone with its node", async || {
        (of_pool().await == 0 && pools.get_opt("pool").await.unwrap().is_none()).then_some(())
    })
    .await;
}

async fn everything_goes(island: &Island) {
    let nodes: Api<GridNode> = Api::all(island.admin.clone());
    let models: Api<GridModel> = Api::all(island.admin.clone());
    for name in ["on-cpu", "on-devices"] {
        nodes.delete(name, &DeleteParams::default()).await.unwrap();
    }
    models.delete(MODEL, &DeleteParams::default()).await.unwrap();
    eventually("everything is gone", async || {
        let left = nodes.list(&ListParams::default()).await.unwrap().items.len()
            + models.list(&ListParams::default()).await.unwrap().items.len();
        (left == 0).then_some(())
    })
    .await;
}

/// In a queue, on devices, given back and asked for again, let go, cancelled, and cleaned up after. The Job controller and Kueue
/// are played; what a kubelet would do asks nothing of the operator's account.
async fn a_local_job_comes_and_goes(admin: &Client) {
    create::<GridModel>(admin, model(MODEL, "http://models/smol.gguf", 0x11)).await;
    kueue::local_queue(admin, TEAM, "team", "gpus").await;
    a_brief_job_runs(admin).await;
    let mut wanted = job("local");
    wanted["spec"]["workload"]["shardSize"] = json!(1);
    wanted["metadata"]["labels"] = json!({QUEUE_LABEL: "team"});
    let devices = json!({"dra": {"deviceClassName": "gpu.example.com", "count": 1}});
    wanted["spec"]["placement"] = json!({"target": "Local", "local": {"accelerators": devices}});
    let uid = create_in::<InferenceJob>(admin, TEAM, wanted).await.uid().unwrap();
    let jobs: Api<InferenceJob> = Api::namespaced(admin.clone(), TEAM);
    let children: Api<Job> = Api::namespaced(admin.clone(), TEAM);
    let of_job = ListParams::default().labels(&format!("xdcgrid.io/job-uid={uid}"));
    let child = async || children.list(&of_job).await.unwrap().items.pop();
    let change = async |spec: Value| {
        let patch = Patch::Merge(json!({"spec": spec}));
        jobs.patch("local", &PatchParams::default(), &patch).await.unwrap();
    };
    let first = eventually("the child", async || child().await).await;
    kueue::workload(admin, &first, "team", &[("QuotaReserved", "False", "insufficient unused quota")]).await;
    eventually("the job says what it waits for", async || {
        let status = jobs.get("local").await.unwrap().status?;
        let admitted = find(&status.conditions, inference_job::condition::ADMITTED)?;
        admitted.message.contains("ClusterQueue gpus").then_some(())
    })
    .await;
    // What it made for the first child is found again and made as wanted.
    change(json!({"suspend": true})).await;
    eventually("the place is given back", async || child().await.is_none().then_some(())).await;
    change(json!({"suspend": false})).await;
    let second = eventually("a second child", async || child().await).await;
    let let_go = Patch::Merge(json!({"spec": {"suspend": false}}));
    children.patch(&second.name_any(), &PatchParams::default(), &let_go).await.unwrap();
    change(json!({"cancel": true})).await;
    eventually("the Job is told to end", async || {
        let spec = child().await?.spec?;
        (spec.active_deadline_seconds == Some(1)).then_some(())
    })
    .await;
    end(&children, &second.name_any()).await;
    eventually("the job is over and its Job kept for a while only", async || {
        let over = is_true(&jobs.get("local").await.unwrap().status?.conditions, inference_job::condition::FAILED);
        let kept = child().await?.spec?.ttl_seconds_after_finished;
        (over && kept.is_some()).then_some(())
    })
    .await;
    // Role, RoleBinding and shards hang on it; the garbage collector, which nobody plays here, takes them away.
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), TEAM);
    eventually("its access is taken away", async || {
        accounts.get_opt(&second.name_any()).await.unwrap().is_none().then_some(())
    })
    .await;
}

/// A brief one needs what its namespace has once; what the operator looks for when it begins is what may be taken away again.
async fn a_brief_job_runs(admin: &Client) {
    let mut wanted = job("brief");
    wanted["spec"]["placement"] = json!({"target": "Local"});
    let uid = create_in::<InferenceJob>(admin, TEAM, wanted).await.uid().unwrap();
    let children: Api<Job> = Api::namespaced(admin.clone(), TEAM);
    let of_job = ListParams::default().labels(&format!("xdcgrid.io/job-uid={uid}"));
    let child = eventually("the child", async || children.list(&of_job).await.unwrap().items.pop()).await;
    let account = child.spec.unwrap().template.spec.unwrap().service_account_name.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(admin.clone(), TEAM);
    assert!(accounts.get_opt(&account).await.unwrap().is_some(), "{account}");
}

/// What the Job controller writes about a Job that took too long.
async fn end(children: &Api<Job>, name: &str) {
    let holds = |type_: &str| {
        json!({"type": type_, "status": "True", "reason": "DeadlineExceeded", "message": "too late",
            "lastProbeTime": "1970-01-01T00:00:04Z", "lastTransitionTime": "1970-01-01T00:00:04Z"})
    };
    let status = json!({"startTime": "1970-01-01T00:00:00Z", "active": 0, "ready": 0, "failed": 1,
        "conditions": [holds("FailureTarget"), holds("Failed")]});
    let patch = Patch::Merge(json!({"status": status}));
    children.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
}
