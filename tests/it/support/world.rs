//! One API server, one scripted gateway, one simulated chain and one operator for all tests of this binary. Tests keep apart by
//! their names; what disturbs everybody (a gateway that is away) is done under the write lock.

use std::sync::{Arc, OnceLock};

use clap::Parser;
use k8s_openapi::{
    api::core::v1::{Event, Namespace, Secret},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    core::{ClusterResourceScope, NamespaceResourceScope},
    runtime::wait::{await_condition, conditions::is_crd_established},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;
use xdc_grid::{
    api::crds,
    chain::ChainRpc,
    operator::{chains::Chains, config::OperatorConfig, run::run_with},
};

use super::{chain::FakeChain, client, gateway::FakeGateway, kueue, rbac, writes::Writes};

/// Namespace of the operator.
pub const SYSTEM: &str = "xdc-grid";
/// The network that all nodes and reports belong to.
pub const NETWORK: &str = "demo";
/// Model that every job may use.
pub const MODEL: &str = "smol";
/// The first well-known account of anvil: worth nothing anywhere.
const REPORTER: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
const CONTRACT: &str = "0x00000000000000000000000000000000000000aa";

pub struct World {
    pub gateway: FakeGateway,
    pub gateway_url: String,
    pub chain: FakeChain,
    /// What the operator writes.
    pub writes: Writes,
    /// Held for reading by every test; for writing by one that disturbs the others.
    pub quiet: RwLock<()>,
}

/// The world, started by whoever comes first.
pub async fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    let joined = tokio::task::spawn_blocking(|| WORLD.get_or_init(start));
    joined.await.expect("the world starts")
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: OperatorConfig,
}

/// A runtime of its own: that of the first test would end with it.
fn start() -> World {
    let (ready, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async move {
            let client = client().await;
            install_crds(&client).await;
            kueue::install(&client).await;
            prepare(&client).await;
            rbac::bind_operator(&client).await;
            let (gateway, gateway_url) = FakeGateway::start().await;
            let chain = FakeChain::new();
            let config = Cli::parse_from([
                "it",
                "--worker-image=localhost/xdc-grid:test",
                "--local-jobs",
                "--kueue",
                "--http-address=127.0.0.1:0",
                // Nobody else wants it, and an operator that loses it ends every test here.
                "--lease-seconds=120",
                "--chain-poll-seconds=1",
                // The gateway and the buckets of these tests are on the loopback; metadata services stay out of reach.
                "--job-denied-networks=169.254.0.0/16",
                "--results-service=xdc-grid/gateway-api:8080",
                &format!("--namespace={SYSTEM}"),
                &format!("--gateway-url={gateway_url}"),
            ]);
            let writes = Writes::default();
            let counted = writes.counting(rbac::operator_config().await);
            let running = run_with(counted, config.config, chains(&chain), CancellationToken::new());
            ready.send(World { gateway, gateway_url, chain, writes, quiet: RwLock::new(()) }).unwrap();
            running.await.expect("the operator runs until the tests are over");
        });
    });
    wait.recv().expect("the operator starts")
}

/// The name of the endpoint chooses the chain.
fn chains(chain: &FakeChain) -> Chains {
    let good = chain.clone();
    Chains::new(Arc::new(move |endpoints, _| {
        let endpoint = endpoints.first().map(String::as_str).unwrap_or_default();
        let chain: Arc<dyn ChainRpc> = match endpoint {
            "http://wrong-chain" => Arc::new(FakeChain::new().with_chain_id(50)),
            "http://no-code" => Arc::new(FakeChain::new().without_code()),
            "http://no-role" => Arc::new(FakeChain::new().without_role()),
            _ => Arc::new(good.clone()),
        };
        Ok(chain)
    }))
}

pub async fn install_crds(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in crds::all().unwrap() {
        let name = crd.name_any();
        api.patch(&name, &PatchParams::apply("it").force(), &Patch::Apply(&crd)).await.unwrap();
        await_condition(api.clone(), &name, is_crd_established()).await.unwrap();
    }
}

async fn prepare(client: &Client) {
    namespace(client, SYSTEM).await;
    let secret = json!({"metadata": {"name": "reporter"}, "stringData": {"key": REPORTER}});
    create_in::<Secret>(client, SYSTEM, secret).await;
    let mut network = network(NETWORK, "http://chain");
    network["spec"]["chain"]["escrow"] = "0x00000000000000000000000000000000000000bb".into();
    create::<xdc_grid::api::grid_network::GridNetwork>(client, network).await;
    create::<xdc_grid::api::grid_model::GridModel>(client, model(MODEL, "http://models/smol.gguf", 0x11)).await;
}

pub fn network(name: &str, endpoint: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "chain": {"chainID": 51, "rpcEndpoints": [endpoint], "contract": CONTRACT, "reporterSecretRef": {"name": "reporter", "key": "key"}},
        "rewards": {"budgetPerEpochWei": "1000000000000000000"},
    }})
}

pub fn model(name: &str, url: &str, digest: u8) -> Value {
    json!({"metadata": {"name": name}, "spec": {"source": {"url": url}, "sha256": hex::encode([digest; 32])}})
}

/// A namespace of the test's own; again is no error.
pub async fn namespace(client: &Client, name: &str) {
    let api: Api<Namespace> = Api::all(client.clone());
    let wanted: Namespace =
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).unwrap();
    match api.create(&PostParams::default(), &wanted).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => panic!("{error}"),
    }
}

pub async fn create<K>(client: &Client, object: Value) -> K
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    created(Api::all(client.clone()), object).await
}

pub async fn create_in<K>(client: &Client, namespace: &str, object: Value) -> K
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    created(Api::namespaced(client.clone(), namespace), object).await
}

async fn created<K>(api: Api<K>, mut object: Value) -> K
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    object["apiVersion"] = K::api_version(&()).into();
    object["kind"] = K::kind(&()).into();
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    api.patch(&name, &PatchParams::apply("it").force(), &Patch::Apply(&object)).await.unwrap()
}

/// Reasons of the Events about an object.
pub async fn event_reasons(client: &Client, namespace: &str, name: &str) -> Vec<String> {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let events = api.list(&kube::api::ListParams::default()).await.unwrap().items;
    let about = events.into_iter().filter(|event| event.involved_object.name.as_deref() == Some(name));
    about.filter_map(|event| event.reason).collect()
}
