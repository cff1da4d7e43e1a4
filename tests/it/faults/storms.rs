//! The whole operator, watches and all, while its calls fail: everything it is given ends as it should, and nothing is lost,
//! deleted or blamed for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Parser;
use kube::{Api, Client, ResourceExt, api::DeleteParams};

use tokio_util::sync::CancellationToken;
use xdc_grid::{
    api::{
        conditions::{Truth, find, is_true},
        grid_model::{self, GridModel},
        grid_network::{self, GridNetwork},
        grid_node::{self, GridNode},
        inference_job::{self, InferenceJob},
    },
    chain::ChainRpc,
    operator::{chains::Chains, config::OperatorConfig, run::run_with},
};

use super::scene::{TEAM, job, node};
use crate::support::{
    chain::FakeChain,
    eventually,
    faults::{Fault, Faults},
    gateway::FakeGateway,
    plane::{Island, OPERATOR},
    world::{MODEL, NETWORK, SYSTEM, create, create_in, model, namespace, network},
};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: OperatorConfig,
}

/// A whole operator in this process, ended when dropped.
pub struct Running(tokio::task::JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub fn operate(client: Client, gateway_url: &str, chain: &FakeChain) -> Running {
    operate_with(client, gateway_url, chain, &[])
}

pub fn operate_with(client: Client, gateway_url: &str, chain: &FakeChain, more: &[&str]) -> Running {
    let namespace = format!("--namespace={SYSTEM}");
    let (lease, gateway) = (format!("--lease-name={OPERATOR}"), format!("--gateway-url={gateway_url}"));
    let always = [
        "it",
        "--worker-image=localhost/xdc-grid:test",
        "--http-address=127.0.0.1:0",
        // Nobody else wants it, and an operator that loses it ends.
        "--lease-seconds=60",
        "--chain-poll-seconds=1",
        &lease,
        &namespace,
        &gateway,
    ];
    let config = Cli::parse_from(always.iter().chain(more));
    let chain = chain.clone();
    let chains = Chains::new(Arc::new(move |_, _| Ok(Arc::new(chain.clone()) as Arc<dyn ChainRpc>)));
    let running = run_with(client, config.config, chains, CancellationToken::new());
    Running(tokio::spawn(async move { running.await.expect("the operator runs until the test is over") }))
}

/// One network with everything under it, and an operator whose calls a storm can reach.
struct Weather {
    // Ends before the island is somebody else's.
    _operator: Running,
    island: Island,
    gateway: FakeGateway,
    chain: FakeChain,
    storm: Arc<AtomicBool>,
    faults: Faults,
}

impl Weather {
    /// `fault` is asked for every call while the storm lasts.
    async fn forecast(fault: impl Fn(usize, &str) -> Option<Fault> + Send + Sync + 'static) -> Self {
        let storm = Arc::new(AtomicBool::new(false));
        let blows = storm.clone();
        // The lease has its own tests.
        let faults = Faults::choosing(move |call| {
            let reached = blows.load(Ordering::SeqCst) && !call.name.contains("/leases/");
            reached.then(|| fault(call.index, &call.name)).flatten()
        });
        Weather::under(faults, storm).await
    }

    async fn under(faults: Faults, storm: Arc<AtomicBool>) -> Self {
        let island = Island::land().await;
        let (gateway, gateway_url) = FakeGateway::start().await;
        let chain = FakeChain::new();
        namespace(&island.admin, TEAM).await;
        let operator = operate(faults.client(&island.operator().await), &gateway_url, &chain);
        create::<GridNetwork>(&island.admin, network(NETWORK, "http://chain")).await;
        Weather { island, gateway, chain, storm, faults, _operator: operator }
    }

    fn set_storm(&self, on: bool) {
        self.storm.store(on, Ordering::SeqCst);
    }

    fn jobs(&self) -> Api<InferenceJob> {
        Api::namespaced(self.island.admin.clone(), TEAM)
    }

    async fn network_is_ready(&self) {
        let api: Api<GridNetwork> = Api::all(self.island.admin.clone());
        eventually("the network is ready", async || {
            let status = api.get(NETWORK).await.unwrap().status?;
            is_true(&status.conditions, grid_network::condition::READY).then_some(())
        })
        .await;
    }

    /// A model, a node and a job, from nothing to ready, registered and complete.
    async fn everything_works(&self, suffix: &str) {
        let admin = &self.island.admin;
        create::<GridModel>(admin, model(MODEL, "http://models/smol.gguf", 0x11)).await;
        let name = format!("worker{suffix}");
        create::<GridNode>(admin, node(&name)).await;
        let nodes: Api<GridNode> = Api::all(admin.clone());
        eventually("the node is registered", async || {
            let status = nodes.get(&name).await.unwrap().status?;
            if let Some(peer) = &status.peer_id
                && self.gateway.member(peer).is_some()
            {
                self.gateway.prove(peer);
            }
            is_true(&status.conditions, grid_node::condition::REGISTERED).then_some(())
        })
        .await;
        let models: Api<GridModel> = Api::all(admin.clone());
        eventually("the model is ready", async || {
            let status = models.get(MODEL).await.unwrap().status?;
            is_true(&status.conditions, grid_model::condition::READY).then_some(())
        })
        .await;
        let name = format!("job{suffix}");
        create_in::<InferenceJob>(admin, TEAM, job(&name)).await;
        let jobs = self.jobs();
        eventually("the job is complete", async || {
            let job = jobs.get(&name).await.unwrap();
            self.gateway.changed(xdc_grid::protocol::internal::ChangeKind::Job, &job.uid().unwrap());
            is_true(&job.status?.conditions, inference_job::condition::COMPLETE).then_some(())
        })
        .await;
    }
}

fn dice(index: usize) -> usize {
    let hash = blake3::hash(&index.to_le_bytes());
    hash.as_bytes()[0].into()
}

#[tokio::test(flavor = "multi_thread")]
async fn under_a_storm_of_failing_calls_everything_still_gets_done() {
    let storm = |index: usize, _: &str| match dice(index) {
        0..8 => Some(Fault::Refuse(409)),
        8..16 => Some(Fault::Refuse(429)),
        16..24 => Some(Fault::Refuse(500)),
        24..32 => Some(Fault::LoseRequest),
        32..40 => Some(Fault::LoseAnswer),
        40..56 => Some(Fault::Delay),
        _ => None,
    };
    let weather = Weather::forecast(storm).await;
    weather.set_storm(true);
    weather.network_is_ready().await;
    weather.everything_works("-storm").await;
    assert_eq!(weather.chain.nodes(), 1, "one node, one stake");
    assert_eq!(weather.gateway.all_submissions(), 1, "one job, one submission");
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_that_expire_are_begun_again_and_miss_nothing() {
    // A watch is a GET of a collection, as a listing is. Of each kind every other one of the first eight is told that its version is gone:
    // not by chance, and not for ever, because a watch that fails each time it begins hears of nothing between two listings.
    let turns: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let expired = move |_: usize, name: &str| {
        let collection = ["gridnetworks", "gridnodes", "gridmodels", "inferencejobs", "contributionreports"]
            .iter()
            .any(|plural| name == format!("GET /apis/xdcgrid.io/v1alpha1/{plural}"));
        let mut turns = turns.lock().unwrap();
        let turn = turns.entry(name.to_owned()).or_default();
        *turn += 1;
        (collection && *turn <= 8 && turn.is_multiple_of(2)).then_some(Fault::Refuse(410))
    };
    let weather = Weather::forecast(expired).await;
    weather.set_storm(true);
    weather.network_is_ready().await;
    weather.everything_works("-expired").await;
}

/// The first watch of every kind of ours loses what it has to tell and ends as one does whose version is gone: only a new listing
/// shows what happened meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_never_arrive_are_made_up_for_by_the_next_listing() {
    let begun: Mutex<BTreeSet<String>> = Mutex::default();
    let faults = Faults::none().losing_events(move |watch| {
        // A pool hears of its own nodes only.
        let all = !watch.selects && watch.name.contains("/xdcgrid.io/");
        all && begun.lock().unwrap().insert(watch.name.clone())
    });
    let weather = Weather::under(faults, Arc::default()).await;
    weather.network_is_ready().await;
    weather.everything_works("-unheard").await;
    for plural in ["gridnetworks", "gridmodels", "gridnodes", "inferencejobs"] {
        let watch = format!("GET /apis/xdcgrid.io/v1alpha1/{plural}");
        eventually(&format!("{plural} had something to tell"), async || {
            weather.faults.lost_events().contains(&watch).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_gateway_is_away_nothing_is_blamed_deleted_or_restarted() {
    let weather = Weather::forecast(|_, _| None).await;
    weather.network_is_ready().await;
    weather.everything_works("-before").await;
    let admin = &weather.island.admin;
    let nodes: Api<GridNode> = Api::all(admin.clone());
    let networks: Api<GridNetwork> = Api::all(admin.clone());
    let before = nodes.get("worker-before").await.unwrap();
    weather.gateway.set_away(true);
    eventually("the network says that nothing is known of the gateway", async || {
        let status = networks.get(NETWORK).await.unwrap().status?;
        find(&status.conditions, grid_network::condition::READY).filter(|ready| ready.status == Truth::Unknown).cloned()
    })
    .await;
    eventually("the node says so too", async || {
        let status = nodes.get("worker-before").await.unwrap().status?;
        let connected = find(&status.conditions, grid_node::condition::PEER_CONNECTED)?;
        (connected.status == Truth::Unknown).then_some(())
    })
    .await;
    let during = nodes.get("worker-before").await.unwrap();
    let registered = |node: &GridNode| {
        let status = node.status.as_ref().unwrap();
        (status.peer_id.clone(), is_true(&status.conditions, grid_node::condition::REGISTERED))
    };
    assert_eq!(registered(&during), registered(&before), "what the chain says is still known");
    assert_eq!((weather.chain.nodes(), during.uid()), (1, before.uid()));
    let quarantined = find(&during.status.unwrap().conditions, "Quarantined").map(|found| found.status);
    assert_ne!(quarantined, Some(Truth::True), "absence is not illness");
    weather.gateway.set_away(false);
    weather.network_is_ready().await;
    weather.everything_works("-after").await;
    assert_eq!(weather.chain.nodes(), 2);
    nodes.delete("worker-before", &DeleteParams::default()).await.unwrap();
    eventually("a node leaves after all that", async || {
        nodes.get_opt("worker-before").await.unwrap().is_none().then_some(())
    })
    .await;
    assert_eq!(weather.chain.nodes(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_was_away_finds_everything_as_it_was() {
    let weather = Weather::forecast(|_, _| Some(Fault::LoseRequest)).await;
    weather.network_is_ready().await;
    weather.everything_works("-before").await;
    let (transactions, submissions) = (weather.chain.nodes(), weather.gateway.all_submissions());
    weather.set_storm(true);
    // Something is asked for while nobody can hear it.
    let admin = &weather.island.admin;
    create_in::<InferenceJob>(admin, TEAM, job("job-unheard")).await;
    let calls = weather.faults.calls();
    weather.gateway.set_away(true);
    weather.gateway.set_away(false);
    eventually("the operator tried", async || (weather.faults.calls() > calls + 20).then_some(())).await;
    assert_eq!((weather.chain.nodes(), weather.gateway.all_submissions()), (transactions, submissions));
    weather.set_storm(false);
    let jobs = weather.jobs();
    eventually("the job that nobody heard of is complete", async || {
        let job = jobs.get("job-unheard").await.unwrap();
        weather.gateway.changed(xdc_grid::protocol::internal::ChangeKind::Job, &job.uid().unwrap());
        is_true(&job.status?.conditions, inference_job::condition::COMPLETE).then_some(())
    })
    .await;
}
