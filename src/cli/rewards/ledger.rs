//! Reads what is needed to know a node's money: the network, its reports and leaves, and the contract.

use alloy::primitives::B256;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt, api::ListParams};

use super::{
    SourceOptions, chain_error,
    entitlement::{self, Entitlement},
};
use crate::{
    api::{
        contribution_report::ContributionReport,
        grid_network::GridNetwork,
        grid_node::GridNode,
        ids::{GridPeerId, NodeAddress, Wei},
    },
    chain::{At, ChainClient},
    cli::{
        CliError,
        output::{self, note},
        session::Session,
    },
    reward::{RewardProof, RewardTree, decompress_leaves},
};

/// Reports of one root whose leaves are tried.
const MAX_TRIES: usize = 50;
/// Key of the leaves in their ConfigMap.
const LEAVES: &str = "leaves.zst";

/// One network's money at one moment.
pub struct NetworkLedger {
    pub name: String,
    pub chain: ChainClient,
    /// The tree that claims are checked against; none before the first report is live.
    live: Option<RewardTree>,
    /// The tree of the newest report, live or not.
    newest: Option<RewardTree>,
}

impl NetworkLedger {
    pub async fn read(session: &Session, network: &GridNetwork, source: &SourceOptions) -> Result<Self, CliError> {
        let name = network.name_any();
        let chain = connect(network, source).await?;
        let reports = reports(session, &name).await?;
        let state = chain.epoch_state(At::Latest).await.map_err(chain_error)?;
        let live = match state.live_root {
            root if root == B256::ZERO => None,
            root => Some(live_tree(session, source, &chain, &reports, root).await?),
        };
        let newest = match entitlement::last_report(&reports).and_then(|report| report.spec.root.parse::<B256>().ok()) {
            Some(root) if root != B256::ZERO && root != state.live_root => {
                // Only what is not yet payable hangs on it: a report that cannot be read does not hide what is.
                tree_of_root(session, source, &chain, &reports, root).await.ok()
            }
            _ => None,
        };
        Ok(NetworkLedger { name, chain, live, newest })
    }

    /// What a node earned, was paid, and can have.
    pub async fn entitlement(&self, node: NodeAddress) -> Result<Entitlement, CliError> {
        let of = |tree: &Option<RewardTree>| tree.as_ref().map_or(Wei(0), |tree| entitlement::cumulative(tree, node));
        let earned = of(&self.live);
        let claimed = self.chain.claimed(node, At::Latest).await.map_err(chain_error)?;
        Ok(Entitlement { earned, pending: Wei(of(&self.newest).0.saturating_sub(earned.0)), claimed })
    }

    /// The proof that the contract accepts now; none for a node that earned nothing.
    pub fn proof(&self, node: NodeAddress) -> Option<RewardProof> {
        self.live.as_ref()?.proof(node)
    }

    /// Everybody who ever earned something, by address.
    pub fn earners(&self) -> Vec<NodeAddress> {
        let trees = [&self.live, &self.newest].into_iter().flatten();
        let mut nodes: Vec<_> = trees.flat_map(|tree| tree.leaves().map(|leaf| leaf.node)).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

/// The networks that the flags mean.
pub async fn networks(session: &Session, name: Option<&str>) -> Result<Vec<GridNetwork>, CliError> {
    let api: Api<GridNetwork> = Api::all(session.client.clone());
    match name {
        Some(name) => {
            let network = api.get(name).await.map_err(|error| CliError::from_kube(error, "GridNetwork", name, None))?;
            Ok(vec![network])
        }
        None => {
            let list = api.list(&ListParams::default()).await;
            Ok(list.map_err(|error| CliError::from_kube(error, "GridNetwork", "", None))?.items)
        }
    }
}

pub async fn nodes(session: &Session) -> Result<Vec<GridNode>, CliError> {
    let list = Api::<GridNode>::all(session.client.clone()).list(&ListParams::default()).await;
    Ok(list.map_err(|error| CliError::from_kube(error, "GridNode", "", None))?.items)
}

/// Chain address of a node: that of its key, from its status or from its peer id.
pub fn address_of(node: &GridNode) -> Option<NodeAddress> {
    let status = node.status.as_ref();
    let stated = status.and_then(|status| status.node_address.as_ref()).and_then(|address| address.parse().ok());
    let peer = || node.spec.peer_id.as_ref().or(status.and_then(|status| status.peer_id.as_ref()));
    stated.or_else(|| peer()?.parse::<GridPeerId>().ok()?.address().ok())
}

async fn connect(network: &GridNetwork, source: &SourceOptions) -> Result<ChainClient, CliError> {
    let chain = &network.spec.chain;
    let endpoints = if source.rpc_url.is_empty() { &chain.rpc_endpoints } else { &source.rpc_url };
    let chain_id = u64::try_from(chain.chain_id).map_err(|_| CliError::Other("the chain id is negative".into()))?;
    ChainClient::connect(endpoints, chain_id, chain.contract.parse()?).await.map_err(chain_error)
}

async fn reports(session: &Session, network: &str) -> Result<Vec<ContributionReport>, CliError> {
    let list = Api::<ContributionReport>::all(session.client.clone()).list(&ListParams::default()).await;
    let list = list.map_err(|error| CliError::from_kube(error, "ContributionReport", "", None))?;
    Ok(list.items.into_iter().filter(|report| report.spec.network_ref.name == network).collect())
}

/// From the leaves that the operator keeps.
async fn tree_of_root(
    session: &Session,
    source: &SourceOptions,
    chain: &ChainClient,
    reports: &[ContributionReport],
    root: B256,
) -> Result<RewardTree, CliError> {
    let mut failure = CliError::Other(format!("no ContributionReport has the root {root} that the contract names"));
    // A network at rest repeats its root every epoch; one of the reports has the leaves.
    for report in entitlement::reports_of_root(reports, root).into_iter().take(MAX_TRIES) {
        match tree_of_report(session, source, chain, report, root).await {
            Ok(tree) => return Ok(tree),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// From the leaves that the operator keeps; where they are gone or not for this person's eyes, from the chain.
async fn live_tree(
    session: &Session,
    source: &SourceOptions,
    chain: &ChainClient,
    reports: &[ContributionReport],
    root: B256,
) -> Result<RewardTree, CliError> {
    let failure = match tree_of_root(session, source, chain, reports, root).await {
        Ok(tree) => return Ok(tree),
        Err(failure) => failure,
    };
    note(format_args!("{}; reading the reports on chain", output::one_line(&failure.to_string())));
    chain.tree_of(root).await.map_err(chain_error)
}

async fn tree_of_report(
    session: &Session,
    source: &SourceOptions,
    chain: &ChainClient,
    report: &ContributionReport,
    root: B256,
) -> Result<RewardTree, CliError> {
    let name = &report.spec.leaves.config_map;
    let damaged = |why: String| CliError::Other(format!("the leaves in the ConfigMap {name:?} cannot be used: {why}"));
    let found = match stored(session, &source.grid_namespace, name).await {
        Ok(compressed) => {
            let hash = report.spec.leaves.data_hash.parse().map_err(|_| damaged("the report names no hash".into()))?;
            decompress_leaves(&compressed, hash).map_err(|error| damaged(error.to_string()))?
        }
        // All leaves that went to the chain are in the report itself, too.
        Err(error) => entitlement::leaves_of_submission(report).ok_or(error)?,
    };
    entitlement::checked_tree(chain.tree_domain(), root, found).map_err(damaged)
}

async fn stored(session: &Session, namespace: &str, name: &str) -> Result<Vec<u8>, CliError> {
    let api: Api<ConfigMap> = Api::namespaced(session.client.clone(), namespace);
    let map = api.get(name).await.map_err(|error| CliError::from_kube(error, "ConfigMap", name, Some(namespace)))?;
    let missing = || CliError::Other(format!("the ConfigMap {name:?} in {namespace:?} has no {LEAVES}"));
    Ok(map.binary_data.and_then(|mut data| data.remove(LEAVES)).ok_or_else(missing)?.0)
}
