//! One object of each kind from its creation to its end, reconciled by processes that may die, and what the world looks like
//! then.

use std::sync::{Arc, Mutex};

use clap::Parser;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use xdc_grid::{
    api::{
        conditions::{Condition, is_true},
        grid_model::{self, GridModel},
        grid_network::{self, GridNetwork},
        grid_node::{self, GridNode},
        inference_job::{self, InferenceJob},
    },
    chain::ChainRpc,
    operator::{
        chains::Chains, config::OperatorConfig, context::Context, grid_model as model_controller,
        grid_network as network_controller, grid_node as node_controller, inference_job as job_controller,
        metrics::Metrics,
    },
};

use crate::support::{
    chain::FakeChain,
    faults::Faults,
    gateway::FakeGateway,
    plane::Island,
    world::{MODEL, NETWORK, SYSTEM, create, create_in, model, namespace, network},
};

/// Namespace of the jobs.
pub const TEAM: &str = "faults";
/// Far more looks than any object takes.
const LOOKS: usize = 80;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Network,
    Model,
    Node,
    Job,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Network, Kind::Model, Kind::Node, Kind::Job];
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: OperatorConfig,
}

pub struct Scene {
    pub island: Island,
    pub gateway: FakeGateway,
    gateway_url: String,
    pub chain: FakeChain,
    operator: Client,
}

impl Scene {
    pub async fn set() -> Self {
        let island = Island::land().await;
        let (gateway, gateway_url) = FakeGateway::start().await;
        let operator = island.operator().await;
        let scene = Scene { island, gateway, gateway_url, chain: FakeChain::new(), operator };
        namespace(&scene.island.admin, TEAM).await;
        create::<GridNetwork>(&scene.island.admin, network(NETWORK, "http://chain")).await;
        create::<GridModel>(&scene.island.admin, model(MODEL, "http://models/smol.gguf", 0x11)).await;
        let life = scene.life(Faults::none());
        scene.settle(&life, Kind::Network, NETWORK).await;
        scene.settle(&life, Kind::Model, MODEL).await;
        scene
    }

    /// A process with faults at the API server.
    pub fn life(&self, faults: Faults) -> Life {
        let config = Cli::parse_from([
            "it",
            "--worker-image=localhost/xdc-grid:test",
            &format!("--namespace={SYSTEM}"),
            &format!("--gateway-url={}", self.gateway_url),
        ]);
        let chain = self.chain.clone();
        let chains = Chains::new(Arc::new(move |_, _| Ok(Arc::new(chain.clone()) as Arc<dyn ChainRpc>)));
        let metrics = Metrics::new(prometheus::Registry::new()).unwrap();
        let context = Context::new(faults.client(&self.operator), config.config, metrics, chains).unwrap();
        Life { context, faults, stale: Box::new(|_| false), seen: Mutex::default() }
    }

    pub async fn create(&self, kind: Kind, name: &str, digest: u8) {
        let admin = &self.island.admin;
        match kind {
            Kind::Network => drop(create::<GridNetwork>(admin, network(name, "http://chain")).await),
            Kind::Model => drop(create::<GridModel>(admin, model(name, "http://models/other.gguf", digest)).await),
            Kind::Node => drop(create::<GridNode>(admin, node(name)).await),
            Kind::Job => drop(create_in::<InferenceJob>(admin, TEAM, job(name)).await),
        }
    }

    pub async fn delete(&self, kind: Kind, name: &str) {
        let params = DeleteParams::default();
        match kind {
            Kind::Network => drop(self.api::<GridNetwork>().delete(name, &params).await),
            Kind::Model => drop(self.api::<GridModel>().delete(name, &params).await),
            Kind::Node => drop(self.api::<GridNode>().delete(name, &params).await),
            Kind::Job => drop(self.jobs().delete(name, &params).await),
        }
    }

    fn api<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.island.admin.clone())
    }

    fn jobs(&self) -> Api<InferenceJob> {
        Api::namespaced(self.island.admin.clone(), TEAM)
    }

    /// Looks until the object is as it should be. `false` when the process died on the way.
    pub async fn settle(&self, life: &Life, kind: Kind, name: &str) -> bool {
        life.faults.until_death(Box::pin(self.follow(life, kind, name, true))).await.is_some()
    }

    /// Looks until the object is gone.
    pub async fn bury(&self, life: &Life, kind: Kind, name: &str) -> bool {
        life.faults.until_death(Box::pin(self.follow(life, kind, name, false))).await.is_some()
    }

    async fn follow(&self, life: &Life, kind: Kind, name: &str, alive: bool) {
        for _ in 0..LOOKS {
            let found = self.find(kind, name).await;
            if found.is_none() && !alive {
                return;
            }
            if kind == Kind::Node && alive {
                self.play_the_cluster(name).await;
            }
            // What fails is tried again.
            Box::pin(life.look(kind, name, self)).await;
            if alive && self.is_settled(kind, name).await {
                return;
            }
        }
        panic!(
            "{kind:?} {name} is not {} after {LOOKS} looks: {:#}",
            if alive { "ready" } else { "gone" },
            self.dump(kind, name).await
        );
    }

    async fn dump(&self, kind: Kind, name: &str) -> Value {
        self.find(kind, name).await.unwrap_or_default()
    }

    pub async fn find(&self, kind: Kind, name: &str) -> Option<Value> {
        fn json<K: Serialize>(found: Option<K>) -> Option<Value> {
            found.map(|found| serde_json::to_value(found).unwrap())
        }
        match kind {
            Kind::Network => json(self.api::<GridNetwork>().get_opt(name).await.unwrap()),
            Kind::Model => json(self.api::<GridModel>().get_opt(name).await.unwrap()),
            Kind::Node => json(self.api::<GridNode>().get_opt(name).await.unwrap()),
            Kind::Job => json(self.jobs().get_opt(name).await.unwrap()),
        }
    }

    async fn is_settled(&self, kind: Kind, name: &str) -> bool {
        let Some(found) = self.find(kind, name).await else { return false };
        let conditions: Vec<Condition> =
            serde_json::from_value(found["status"]["conditions"].clone()).unwrap_or_default();
        let has = |type_| is_true(&conditions, type_);
        match kind {
            Kind::Network => has(grid_network::condition::READY),
            Kind::Model => has(grid_model::condition::READY),
            Kind::Node => {
                let peer = found["status"]["peerID"].as_str().unwrap_or_default();
                let registered = self.gateway.member(peer).is_some_and(|member| member.registered);
                registered && has(grid_node::condition::READY) && has(grid_node::condition::REGISTERED)
            }
            Kind::Job => has(inference_job::condition::COMPLETE),
        }
    }

    /// What the kubelet, the StatefulSet controller and the worker would do.
    async fn play_the_cluster(&self, name: &str) {
        let sets: Api<StatefulSet> = Api::namespaced(self.island.admin.clone(), SYSTEM);
        let worker = format!("worker-{name}");
        let Some(set) = sets.get_opt(&worker).await.unwrap() else { return };
        if set.status.and_then(|status| status.ready_replicas) != Some(1) {
            let status = json!({"status": {"replicas": 1, "readyReplicas": 1}});
            sets.patch_status(&worker, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
        }
        if let Some(peer) = self.api::<GridNode>().get(name).await.unwrap().status.and_then(|status| status.peer_id)
            && self.gateway.member(&peer).is_some()
        {
            self.gateway.prove(&peer);
        }
    }

    /// The world as far as `name` is in it, without what may differ between two runs: names, uids, keys, times.
    pub async fn picture(&self, kind: Kind, name: &str) -> Vec<String> {
        let mut lines = Vec::new();
        let mut aliases = vec![(name.to_owned(), "NAME".to_owned())];
        if let Some(found) = self.find(kind, name).await {
            aliases.push((text(&found["metadata"]["uid"]), "UID".into()));
            for (field, alias) in [("peerID", "PEER"), ("nodeAddress", "ADDRESS")] {
                aliases.push((text(&found["status"][field]), alias.into()));
            }
            lines.push(format!("finalizers {}", found["metadata"]["finalizers"]));
            for condition in found["status"]["conditions"].as_array().into_iter().flatten() {
                // These follow the chain's epochs, which go on by themselves.
                if condition["type"] == "ReportingCurrent" || condition["type"] == "Settled" {
                    continue;
                }
                lines.push(format!("{} {} {}", condition["type"], condition["status"], condition["reason"]));
            }
        }
        lines.extend(self.children::<ConfigMap>(SYSTEM, name).await);
        lines.extend(self.children::<ConfigMap>(TEAM, name).await);
        lines.extend(self.children::<Secret>(SYSTEM, name).await);
        lines.extend(self.children::<StatefulSet>(SYSTEM, name).await);
        lines.extend(
            self.gateway
                .told()
                .into_iter()
                .filter(|told| aliases.iter().any(|(known, _)| !known.is_empty() && told.contains(known.as_str()))),
        );
        for line in &mut lines {
            for (from, to) in aliases.iter().filter(|(from, _)| !from.is_empty()) {
                *line = line.replace(from.as_str(), to);
            }
        }
        lines.sort();
        lines
    }

    /// Objects that bear the name: what they are, whose, and what they say.
    async fn children<K>(&self, namespace: &str, name: &str) -> Vec<String>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Serialize,
    {
        let api: Api<K> = Api::namespaced(self.island.admin.clone(), namespace);
        let all = api.list(&ListParams::default()).await.unwrap().items;
        let ours = all.into_iter().filter(|object| object.name_any().contains(name));
        ours.map(|object| {
            let owners: Vec<_> = object.owner_references().iter().map(|owner| owner.kind.clone()).collect();
            let data = serde_json::to_value(&object).unwrap()["data"]["manifest.json"].clone();
            let manifest: Value = data.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
            format!("{} {} {owners:?} {}", K::kind(&()), object.name_any(), manifest["counts"])
        })
        .collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

pub fn node(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "networkRef": {"name": NETWORK}, "mode": "Managed", "accelerators": {"cpuOnly": {}}, "models": [MODEL],
        "roles": ["Compute", "Storage"], "rewards": {"payoutAddress": "0x00000000000000000000000000000000000000cc"},
        "drain": {"deadlineSeconds": 600},
    }})
}

pub fn job(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"workload": {
        "modelRef": {"name": MODEL}, "endpoint": "/v1/chat/completions",
        "input": {"format": "Lines", "inline": "one\ntwo\nFAIL"},
        "output": {"configMap": {"name": format!("{name}-results")}},
    }}})
}

/// What one operator process knows.
pub struct Life {
    context: Arc<Context>,
    pub faults: Faults,
    /// Whether the cache is behind at the n-th look.
    stale: Box<dyn Fn(usize) -> bool + Send + Sync>,
    /// Looks so far, and the object as it was at the last one.
    seen: Mutex<(usize, Option<Value>)>,
}

impl Life {
    pub fn with_stale_cache(self, stale: impl Fn(usize) -> bool + Send + Sync + 'static) -> Self {
        Life { stale: Box::new(stale), ..self }
    }

    /// One reconcile of the object as it is now, or as the cache still has it.
    pub async fn look(&self, kind: Kind, name: &str, scene: &Scene) {
        let Some(newest) = scene.find(kind, name).await else { return };
        let shown = {
            let mut seen = self.seen.lock().unwrap();
            let stale = (self.stale)(seen.0);
            let last =
                seen.1.replace(newest.clone()).filter(|last| last["metadata"]["uid"] == newest["metadata"]["uid"]);
            seen.0 += 1;
            last.filter(|_| stale).unwrap_or(newest)
        };
        let context = self.context.clone();
        let _ = match kind {
            Kind::Network => Box::pin(network_controller::reconcile(object(shown), context)).await,
            Kind::Model => Box::pin(model_controller::reconcile(object(shown), context)).await,
            Kind::Node => Box::pin(node_controller::reconcile(object(shown), context)).await,
            Kind::Job => Box::pin(job_controller::reconcile(object(shown), context)).await,
        };
    }
}

fn object<K: DeserializeOwned>(value: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(value).unwrap())
}
