//! One object of each kind from its creation to its end, reconciled by processes that may die, and what the world looks like
//! then.

use std::{fmt::Debug, sync::Arc};

use clap::Parser;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    core::NamespaceResourceScope,
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
    operator::{chains::Chains, config::OperatorConfig, context::Context, metrics::Metrics},
};

use super::life::{Fate, Life};
use crate::support::{
    chain::FakeChain,
    gateway::FakeGateway,
    plane::Island,
    rpc::FaultyRpc,
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

/// What a namespace may hold of an object.
trait Child:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize
{
}

impl Child for ConfigMap {}
impl Child for Secret {}
impl Child for StatefulSet {}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: OperatorConfig,
}

/// A network with a gateway, a chain and a reporter of its own, beside others on the same API server.
pub struct Scene {
    pub island: Arc<Island>,
    /// Of its nodes.
    network: String,
    /// Secret with the key that registers them: the nonces of one account belong together.
    reporter: String,
    pub gateway: FakeGateway,
    gateway_url: String,
    pub chain: FakeChain,
    operator: Client,
    /// Of the models that it makes: no two scenes share a file.
    digest: u8,
}

impl Scene {
    pub async fn set() -> Self {
        let island = Arc::new(Island::land().await);
        namespace(&island.admin, TEAM).await;
        create::<GridModel>(&island.admin, model(MODEL, "http://models/smol.gguf", 0x11)).await;
        let operator = island.operator().await;
        Scene::on(island, operator, FakeChain::new(), 0).await
    }

    /// One that shares the API server and nothing else. Scenes with different numbers do not meet.
    pub async fn beside(&self, number: u8) -> Self {
        Scene::on(self.island.clone(), self.operator.clone(), self.chain.beside(), number).await
    }

    async fn on(island: Arc<Island>, operator: Client, chain: FakeChain, number: u8) -> Self {
        let (gateway, gateway_url) = FakeGateway::start().await;
        let (network, reporter) = (format!("{NETWORK}-{number}"), format!("reporter-{number}"));
        let key = hex::encode(blake3::hash(reporter.as_bytes()).as_bytes());
        let secret = json!({"metadata": {"name": reporter}, "stringData": {"key": key}});
        create_in::<Secret>(&island.admin, SYSTEM, secret).await;
        let digest = 0x77_u8.wrapping_add(number);
        let scene = Scene { island, network, reporter, gateway, gateway_url, chain, operator, digest };
        let (life, network) = (scene.life(Fate::none()), scene.network.clone());
        scene.create(Kind::Network, &network).await;
        assert!(scene.settle(&life, Kind::Network, &network).await && scene.settle(&life, Kind::Model, MODEL).await);
        scene
    }

    /// A process that this will befall.
    pub fn life(&self, fate: Fate) -> Life {
        let config = Cli::parse_from([
            "it",
            "--worker-image=localhost/xdc-grid:test",
            &format!("--namespace={SYSTEM}"),
            &format!("--gateway-url={}", self.gateway_url),
        ]);
        let (chain, faults) = (self.chain.clone(), fate.chain.clone());
        let chains = Chains::new(Arc::new(move |_, _| {
            let rpc = FaultyRpc { inner: Arc::new(chain.clone()), faults: faults.clone() };
            Ok(Arc::new(rpc) as Arc<dyn ChainRpc>)
        }));
        let metrics = Metrics::new(prometheus::Registry::new()).unwrap();
        let context = Context::new(fate.api.client(&self.operator), config.config, metrics, chains).unwrap();
        Life::new(context, fate)
    }

    pub async fn create(&self, kind: Kind, name: &str) {
        let admin = &self.island.admin;
        match kind {
            Kind::Network => {
                let mut wanted = network(name, "http://chain");
                wanted["spec"]["chain"]["reporterSecretRef"]["name"] = json!(self.reporter);
                drop(create::<GridNetwork>(admin, wanted).await);
            }
            Kind::Model => drop(create::<GridModel>(admin, model(name, "http://models/other.gguf", self.digest)).await),
            Kind::Node => {
                let mut wanted = node(name);
                wanted["spec"]["networkRef"]["name"] = json!(self.network);
                drop(create::<GridNode>(admin, wanted).await);
            }
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

    pub async fn patch(&self, kind: Kind, name: &str, change: Value) {
        let (params, change) = (PatchParams::default(), Patch::Merge(&change));
        match kind {
            Kind::Network => drop(self.api::<GridNetwork>().patch(name, &params, &change).await.unwrap()),
            Kind::Model => drop(self.api::<GridModel>().patch(name, &params, &change).await.unwrap()),
            Kind::Node => drop(self.api::<GridNode>().patch(name, &params, &change).await.unwrap()),
            Kind::Job => drop(self.jobs().patch(name, &params, &change).await.unwrap()),
        }
    }

    /// Looks until the object is as it should be: after a look at it as it is, with nothing that happened since. `false` when
    /// the process died on the way.
    pub async fn settle(&self, life: &Life, kind: Kind, name: &str) -> bool {
        for _ in 0..LOOKS {
            if kind == Kind::Node {
                self.play_the_cluster(name).await;
            }
            let unseen = life.unseen();
            if let Some(unseen) = unseen {
                Box::pin(self.happen(unseen, kind, name, life)).await;
            }
            let Some(looked) = life.look(kind, name, self).await else { return false };
            if looked.fresh && looked.done && unseen.is_none() && self.is_settled(kind, name).await {
                return true;
            }
        }
        panic!("{kind:?} {name} is not ready after {LOOKS} looks: {:#}", self.dump(kind, name).await);
    }

    /// Looks until the object is gone, and once more. `false` when the process died on the way.
    pub async fn bury(&self, life: &Life, kind: Kind, name: &str) -> bool {
        for _ in 0..LOOKS {
            if self.find(kind, name).await.is_none() {
                return life.look_too_late(kind).await && (kind != Kind::Job || self.is_forgotten(life).await);
            }
            if life.look(kind, name, self).await.is_none() {
                return false;
            }
        }
        panic!("{kind:?} {name} is not gone after {LOOKS} looks: {:#}", self.dump(kind, name).await);
    }

    /// Nobody hears here of a job that goes, so it is found by comparing. `false` when the process died on the way.
    async fn is_forgotten(&self, life: &Life) -> bool {
        for _ in 0..LOOKS {
            match life.compare_jobs().await {
                Some(true) => return true,
                Some(false) => {}
                None => return false,
            }
        }
        panic!("the gateway's jobs are not compared after {LOOKS} tries");
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

    pub async fn is_settled(&self, kind: Kind, name: &str) -> bool {
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
                // Two follow the chain's epochs, which go on by themselves; one remembers what is over.
                if ["ReportingCurrent", "Settled", "Suspended"].iter().any(|own| condition["type"] == *own) {
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

    /// Takes away what bears the name: nobody collects garbage here, and a thousand lives leave a lot of it.
    pub async fn clear_away(&self, name: &str) {
        self.remove_children::<ConfigMap>(SYSTEM, name).await;
        self.remove_children::<ConfigMap>(TEAM, name).await;
        self.remove_children::<Secret>(SYSTEM, name).await;
        self.remove_children::<StatefulSet>(SYSTEM, name).await;
    }

    async fn remove_children<K: Child>(&self, namespace: &str, name: &str) {
        let api: Api<K> = Api::namespaced(self.island.admin.clone(), namespace);
        for child in api.list_metadata(&ListParams::default()).await.unwrap() {
            if child.name_any().contains(name) {
                let _ = api.delete(&child.name_any(), &DeleteParams::default()).await;
            }
        }
    }

    /// Objects that bear the name: what they are, whose, and what they say.
    async fn children<K: Child>(&self, namespace: &str, name: &str) -> Vec<String> {
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
