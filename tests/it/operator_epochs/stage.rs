//! Everything that an epoch needs but the operator, and operators as lives: a life is what one process knows, and ends when it
//! is dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use alloy::sol_types::SolEvent;
use clap::Parser;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde_json::{Value, json};
use xdc_grid::{
    api::{
        conditions::{Condition, find},
        contribution_report::{ContributionReport, ReportState},
        grid_network::{GridNetwork, condition},
        ids::{EpochNumber, NodeAddress, Wei},
    },
    chain::{
        At, ChainKey,
        bindings::GridComputingRewards::EpochSubmitted,
        registration::{NodeCapability, NodeConsent},
        rewards::EpochState,
    },
    operator::{
        chains::Chains,
        config::OperatorConfig,
        context::Context,
        contribution_report,
        error::Error,
        gateway::GatewayClient,
        grid_network::validate::identity,
        grid_node::{self, known::KnownNode},
        metrics::Metrics,
        settlement, slash_cases,
    },
    protocol::{
        identity::NodeKey,
        internal::{Member, NetworkConfig, NodeMode, NodeRole},
    },
    reward::{RewardLeaf, RewardTree, decompress_leaves},
};

use crate::{
    chain_anvil::{CHAIN_ID, Grid, key},
    support::{
        faults::Faults,
        gateway::FakeGateway,
        plane::{Island, REPORTER},
        rpc::FaultyRpc,
        world::{SYSTEM, create},
    },
};

pub const NETWORK: &str = "epochs";
/// Odd, so that shares of three leave a remainder.
pub const BUDGET: u128 = 1_000_000_000_000_000_007;
/// Far more looks than an epoch takes.
const LOOKS: usize = 120;

/// Seconds that the operator's clock is ahead of ours.
static AHEAD: AtomicI64 = AtomicI64::new(0);

fn clock() -> Timestamp {
    Timestamp::now() + SignedDuration::from_secs(AHEAD.load(Ordering::SeqCst))
}

/// Moves the clock of every life on this stage.
pub fn jump(seconds: i64) {
    AHEAD.fetch_add(seconds, Ordering::SeqCst);
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: OperatorConfig,
}

pub struct Stage {
    pub island: Island,
    pub grid: Grid,
    pub gateway: FakeGateway,
    pub gateway_url: String,
    pub reporter: ChainKey,
    /// Address and payout of every node.
    nodes: Vec<(NodeAddress, NodeAddress)>,
    /// The operator's API server, without faults.
    operator: Client,
}

impl Stage {
    /// An API server, a chain with three staked nodes, a gateway at which they worked, and a network over all of it.
    pub async fn set() -> Self {
        let island = Island::land().await;
        let grid = Grid::deploy_for(ChainKey::parse(REPORTER.as_bytes(), "the test").unwrap()).await;
        let (gateway, gateway_url) = FakeGateway::start().await;
        AHEAD.store(0, Ordering::SeqCst);
        let operator = island.operator().await;
        let reporter = grid.reporter.clone();
        let mut stage = Stage { island, grid, gateway, gateway_url, reporter, nodes: Vec::new(), operator };
        create::<GridNetwork>(&stage.island.admin, stage.network_spec()).await;
        stage.serve().await;
        for seed in [21, 22, 23] {
            stage.join(seed).await;
        }
        stage
    }

    pub fn network_spec(&self) -> Value {
        json!({"metadata": {"name": NETWORK}, "spec": {
            "chain": {
                "chainID": CHAIN_ID, "rpcEndpoints": [self.grid.anvil.url],
                "contract": self.grid.client.contract().to_string(),
                "reporterSecretRef": {"name": "reporter", "key": "key"},
            },
            "rewards": {"budgetPerEpochWei": BUDGET.to_string()},
        }})
    }

    /// What the network's own controller would tell the gateway.
    async fn serve(&self) {
        let parameters = self.grid.client.parameters().await.unwrap();
        let config = NetworkConfig {
            name: NETWORK.to_owned(),
            network: identity(&self.network().await).unwrap(),
            genesis: parameters.genesis,
            epoch_seconds: parameters.epoch_seconds,
            paused: false,
            external_addresses: Vec::new(),
            sample_percent: 100,
            namespace_weights: Default::default(),
        };
        GatewayClient::new(&self.gateway_url, None).unwrap().put_network(&config).await.unwrap();
    }

    /// A node with a stake on the contract and work at the gateway.
    async fn join(&mut self, seed: u8) {
        let (node, peer) = (key(seed), NodeKey::from_bytes(&[seed; 32]).unwrap().peer_id());
        let payout = NodeAddress([seed; 20]);
        let client = &self.grid.client;
        let consent = NodeConsent {
            node: node.address(),
            payout,
            owner: self.grid.owner.address(),
            nonce: client.binding_nonce(node.address()).await.unwrap(),
            deadline: client.head().await.unwrap().timestamp + 1_000,
        };
        let signature = consent.sign(&node, CHAIN_ID, client.contract()).unwrap();
        let capability = NodeCapability { computing_power: 1_000, storage_gib: 50 };
        let intent = client.register_intent(&consent, signature, capability, Wei::XDC);
        self.grid.anvil.execute(&self.grid.owner, intent).await.unwrap();
        let member = Member {
            peer_id: peer,
            node_name: format!("node-{seed}"),
            mode: NodeMode::External,
            roles: vec![NodeRole::Compute],
            schedulable: true,
            resting: false,
            max_requests: None,
            registered: true,
            models: Vec::new(),
            labels: Default::default(),
        };
        GatewayClient::new(&self.gateway_url, None).unwrap().put_member(&member).await.unwrap();
        self.nodes.push((node.address(), payout));
    }

    // ------------------------------------------------------------------------------------------------ operators

    /// A process that nothing happens to.
    pub fn life(&self) -> Life {
        self.life_with(Faults::none(), Faults::none())
    }

    /// A process with faults at the API server and at the chain.
    pub fn life_with(&self, api: Faults, chain: Faults) -> Life {
        let config = Cli::parse_from([
            "it",
            "--worker-image=none",
            "--keep-reports=10000",
            &format!("--namespace={SYSTEM}"),
            &format!("--gateway-url={}", self.gateway_url),
        ]);
        let metrics = Metrics::new(prometheus::Registry::new()).unwrap();
        let (inner, faults) = (self.grid.anvil.rpc(), chain.clone());
        let chains =
            Chains::new(Arc::new(move |_, _| Ok(Arc::new(FaultyRpc { inner: inner.clone(), faults: faults.clone() }))));
        let mut context = Context::new(api.client(&self.operator), config.config, metrics, chains).unwrap();
        Arc::get_mut(&mut context).unwrap().clock = clock;
        Life { context, api, chain, networks: Api::all(self.island.admin.clone()) }
    }

    /// Lets the next epoch end and brings it to life, while `life` looks after every block. `false` when the process died first.
    pub async fn epoch_by(&self, life: &Life, epoch: u64) -> bool {
        let living = life.api.until_death(life.chain.until_death(Box::pin(self.follow(life, epoch))));
        matches!(living.await, Some(Some(())))
    }

    /// Lets epoch `epoch` end on the chain's clock.
    pub async fn end_epoch(&self, epoch: u64) {
        let ends = self.grid.client.parameters().await.unwrap().epoch_end(EpochNumber(epoch));
        let now = self.grid.client.head().await.unwrap().timestamp;
        if now < ends {
            self.grid.anvil.pass(ends - now).await;
        }
    }

    async fn follow(&self, life: &Life, epoch: u64) {
        self.end_epoch(epoch).await;
        for _ in 0..LOOKS {
            // What is transient is tried again; a test looks at what came of it.
            let _ = life.look().await;
            if self.is_live(epoch).await {
                return;
            }
            self.step().await;
        }
        panic!(
            "epoch {epoch} is not live after {LOOKS} looks: {:#?}\n{:#?}",
            self.state(At::Latest).await,
            self.reports().await
        );
    }

    /// A block; past the window when one is open and final. However many are asked for, no epoch ends by them, only by
    /// [`Stage::end_epoch`]: an operator would rightly plan the next report as well, and a test that counts would find one too many.
    pub async fn step(&self) {
        let parameters = self.grid.client.parameters().await.unwrap();
        let now = self.grid.anvil.time().await;
        let next = match self.state(At::Finalized).await.pending {
            Some(pending) if pending.active_at > now => pending.active_at,
            _ => now + 1,
        };
        let ends = parameters.epoch_end(parameters.epoch_at(now).unwrap());
        self.grid.anvil.mine_at(if next < ends { next } else { now }).await;
    }

    // ------------------------------------------------------------------------------------------------ what is there

    pub async fn network(&self) -> GridNetwork {
        Api::<GridNetwork>::all(self.island.admin.clone()).get(NETWORK).await.unwrap()
    }

    pub async fn state(&self, at: At) -> EpochState {
        self.grid.client.epoch_state(at).await.unwrap()
    }

    /// By ascending epoch.
    pub async fn reports(&self) -> Vec<ContributionReport> {
        let api: Api<ContributionReport> = Api::all(self.island.admin.clone());
        let mut reports = api.list(&ListParams::default()).await.unwrap().items;
        reports.sort_by_key(|report| report.spec.epoch);
        reports
    }

    pub async fn report(&self, epoch: u64) -> Option<ContributionReport> {
        let api: Api<ContributionReport> = Api::all(self.island.admin.clone());
        api.get_opt(&format!("{NETWORK}-{epoch}")).await.unwrap()
    }

    pub async fn report_state(&self, epoch: u64) -> Option<ReportState> {
        self.report(epoch).await.map(|report| report.status.unwrap_or_default().state)
    }

    pub async fn report_condition(&self, epoch: u64, type_: &str) -> Option<Condition> {
        find(&self.report(epoch).await?.status?.conditions, type_).cloned()
    }

    pub async fn reports_current(&self) -> Condition {
        let status = self.network().await.status.unwrap();
        find(&status.conditions, condition::REPORTS_CURRENT).unwrap().clone()
    }

    pub async fn is_live(&self, epoch: u64) -> bool {
        self.report_state(epoch).await == Some(ReportState::Active)
    }

    /// The epochs of all reports that the contract took, in order.
    pub async fn submitted(&self) -> Vec<u64> {
        let filter = json!([{
            "fromBlock": "0x0", "address": self.grid.client.contract().to_string(),
            "topics": [EpochSubmitted::SIGNATURE_HASH.to_string()],
        }]);
        let logs = self.grid.anvil.request("eth_getLogs", filter).await;
        let epoch = |log: &Value| {
            let topic = log["topics"][1].as_str().unwrap().trim_start_matches("0x");
            u64::from_str_radix(topic, 16).unwrap()
        };
        logs.as_array().unwrap().iter().map(epoch).collect()
    }

    /// Transactions that the reporter ever got into a block.
    pub async fn sent(&self) -> u64 {
        self.grid.client.rpc().nonce(self.reporter.address(), At::Latest).await.unwrap()
    }

    /// Each of the first `epochs` epochs was reported once, with one transaction to report it and one to make it live, and every
    /// one of them is written down with leaves that belong to it.
    pub async fn assert_exactly_once(&self, epochs: u64) {
        let expected: Vec<u64> = (0..epochs).collect();
        assert_eq!(self.submitted().await, expected, "each epoch once, in order");
        assert_eq!(self.state(At::Latest).await.next_epoch.0, epochs);
        assert_eq!(self.sent().await, 2 * epochs, "one transaction to report, one to make live");
        let reports = self.reports().await;
        let written: Vec<u64> = reports.iter().map(|report| report.spec.epoch as u64).collect();
        assert_eq!(written, expected, "each epoch is written down once");
        for report in &reports {
            let status = report.status.clone().unwrap_or_default();
            assert_eq!(status.state, ReportState::Active, "{}: {status:#?}", report.name_any());
        }
        self.assert_leaves(&reports).await;
    }

    /// One ConfigMap a report, owned by it: nothing leaked.
    async fn assert_leaves(&self, reports: &[ContributionReport]) {
        let api: Api<ConfigMap> = Api::namespaced(self.island.admin.clone(), SYSTEM);
        let found = api.list(&ListParams::default().labels("xdcgrid.io/leaves=packed")).await.unwrap().items;
        let named: BTreeSet<_> = reports.iter().map(|report| report.spec.leaves.config_map.clone()).collect();
        assert_eq!(found.iter().map(ResourceExt::name_any).collect::<BTreeSet<_>>(), named);
        for leaves in &found {
            let owner = &leaves.owner_references()[0];
            assert_eq!(
                (owner.kind.as_str(), leaves.owner_references().len()),
                ("ContributionReport", 1),
                "{}",
                leaves.name_any()
            );
        }
    }

    /// What the leaves of a report say that each node ever earned.
    pub async fn leaves(&self, epoch: u64) -> BTreeMap<NodeAddress, u128> {
        let leaves = self.leaves_of(&self.report(epoch).await.unwrap()).await;
        leaves.into_iter().map(|leaf| (leaf.node, leaf.cumulative.0)).collect()
    }

    async fn leaves_of(&self, report: &ContributionReport) -> Vec<RewardLeaf> {
        let api: Api<ConfigMap> = Api::namespaced(self.island.admin.clone(), SYSTEM);
        let packed = api.get(&report.spec.leaves.config_map).await.unwrap().binary_data.unwrap();
        decompress_leaves(&packed["leaves.zst"].0, report.spec.leaves.data_hash.parse().unwrap()).unwrap()
    }

    /// Everybody claims by the last report's leaves; every wei that was allocated is paid once, and not one more.
    pub async fn assert_everybody_is_paid(&self) {
        let reports = self.reports().await;
        let allocated: u128 = reports.iter().map(|report| report.spec.allocated_wei.parse::<u128>().unwrap()).sum();
        let last = reports.last().unwrap();
        let leaves = self.leaves_of(last).await;
        assert_eq!(leaves.len(), self.nodes.len());
        let tree = RewardTree::build(self.grid.client.tree_domain(), leaves).unwrap();
        for (node, payout) in &self.nodes {
            let proof = tree.proof(*node).unwrap();
            self.grid.anvil.execute(&self.grid.admin, self.grid.client.claim_intent(&proof)).await.unwrap();
            assert_eq!(self.grid.balance(*payout).await, proof.cumulative, "to the wei");
        }
        let state = self.state(At::Latest).await;
        assert_eq!(allocated, BUDGET * reports.len() as u128, "every epoch gave out its whole budget");
        assert_eq!((state.claimed_total, state.live_total), (Wei(allocated), Wei(allocated)));
        assert_eq!(state.reward_pool, Wei(1_000 * Wei::XDC.0 - allocated));
    }
}

/// What one operator process knows.
pub struct Life {
    pub context: Arc<Context>,
    pub api: Faults,
    pub chain: Faults,
    networks: Api<GridNetwork>,
}

impl Life {
    /// One reconcile of the network as it is now.
    pub async fn look(&self) -> Result<(), Error> {
        let network = self.networks.get(NETWORK).await.unwrap();
        Box::pin(contribution_report::reconcile(Arc::new(network), self.context.clone())).await.map(drop)
    }

    /// One reconcile of a node as it is now.
    pub async fn look_at_node(&self, name: &str) {
        let nodes: Api<KnownNode> = Api::all(self.context.client.clone());
        let node = nodes.get(name).await.unwrap();
        // What is transient is tried again; a test looks at what came of it.
        let _ = Box::pin(grid_node::reconcile(Arc::new(node), self.context.clone())).await;
    }

    /// One look at the payments. `false` when the process died in it.
    pub async fn settle(&self) -> bool {
        let network = self.networks.get(NETWORK).await.unwrap();
        let look = Box::pin(settlement::reconcile(Arc::new(network), self.context.clone()));
        // What is transient is tried again; a test looks at what came of it.
        matches!(self.api.until_death(self.chain.until_death(look)).await, Some(Some(_)))
    }

    /// One look at slash cases that no GridNode pursues. `false` when the process died in it.
    pub async fn look_at_cases(&self) -> bool {
        let network = self.networks.get(NETWORK).await.unwrap();
        let look = Box::pin(slash_cases::reconcile(Arc::new(network), self.context.clone()));
        // What is transient is tried again; a test looks at what came of it.
        matches!(self.api.until_death(self.chain.until_death(look)).await, Some(Some(_)))
    }
}
