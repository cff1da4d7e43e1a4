//! The leaves of a report: packed and compressed in a ConfigMap of the operator's namespace, and read back only when they hash
//! to the root that they were written for.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use alloy::primitives::{B256, keccak256};
use k8s_openapi::{
    ByteString,
    api::core::v1::ConfigMap,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, ResourceExt};

use crate::{
    api::{
        contribution_report::ContributionReport,
        grid_network::GridNetwork,
        ids::{NodeAddress, Wei},
    },
    operator::{context::Context, error::Error, grid_network::validate::identity},
    reward::{MAX_LEAVES, RewardTree, TreeDomain, unpack_leaves},
};

/// Binary key of the ConfigMap.
pub const KEY: &str = "leaves.zst";
/// Packed leaves of the largest report.
const MAX_PACKED: usize = MAX_LEAVES * 36;

pub fn config_map_name(report: &str) -> String {
    format!("{report}-leaves")
}

/// The ConfigMap with the leaves of `tree`.
pub fn config_map(report: &str, tree: &RewardTree) -> Result<ConfigMap, Error> {
    let packed = zstd::bulk::compress(&tree.packed(), 9).map_err(|_| Error::Incomplete("leaves that can be packed"))?;
    Ok(ConfigMap {
        metadata: ObjectMeta {
            name: Some(config_map_name(report)),
            labels: Some([("app.kubernetes.io/managed-by".to_owned(), "xdc-grid-operator".to_owned())].into()),
            ..ObjectMeta::default()
        },
        binary_data: Some([(KEY.to_owned(), ByteString(packed))].into()),
        ..ConfigMap::default()
    })
}

/// keccak256 of the packed leaves.
pub fn data_hash(tree: &RewardTree) -> B256 {
    keccak256(tree.packed())
}

/// The tree in a ConfigMap; `None` when it is not the tree of `root`.
pub fn tree_in(found: &ConfigMap, domain: TreeDomain, root: B256) -> Option<RewardTree> {
    let packed = found.binary_data.as_ref()?.get(KEY)?;
    let packed = zstd::bulk::decompress(&packed.0, MAX_PACKED).ok()?;
    let tree = RewardTree::build(domain, unpack_leaves(&packed).ok()?).ok()?;
    (tree.root() == root).then_some(tree)
}

/// The tree of a report; `None` when its leaves are gone or are not those of its root.
pub async fn tree_of(report: &ContributionReport, domain: TreeDomain, context: &Context) -> Result<Option<RewardTree>, Error> {
    let Ok(root) = report.spec.root.parse::<B256>() else { return Ok(None) };
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.config.namespace);
    let found = api.get_opt(&report.spec.leaves.config_map).await?;
    Ok(found.and_then(|found| tree_in(&found, domain, root)))
}

/// The earnings of the last active report, so that reading them for every node costs one read.
#[derive(Default)]
pub struct EarningsCache {
    last: Mutex<Option<(String, Earnings)>>,
}

type Earnings = Arc<BTreeMap<NodeAddress, Wei>>;

impl EarningsCache {
    fn get(&self, report: &str) -> Option<Earnings> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(name, _)| name == report).map(|(_, earnings)| earnings.clone())
    }

    fn set(&self, report: String, earnings: Earnings) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((report, earnings));
    }
}

/// What a node ever earned by reports that are live; `None` when that cannot be read here.
pub async fn earned(network: &GridNetwork, node: NodeAddress, context: &Context) -> Result<Option<Wei>, Error> {
    let last = network.status.as_ref().and_then(|status| status.last_active_epoch);
    let (Some(epoch), Some(identity)) = (last, identity(network)) else { return Ok(None) };
    let name = format!("{}-{epoch}", network.name_any());
    if let Some(earnings) = context.earnings.get(&name) {
        return Ok(Some(earnings.get(&node).copied().unwrap_or_default()));
    }
    let reports: Api<ContributionReport> = Api::all(context.client.clone());
    let Some(report) = reports.get_opt(&name).await? else { return Ok(None) };
    let domain = TreeDomain { chain_id: identity.chain_id, contract: identity.contract };
    let Some(tree) = tree_of(&report, domain, context).await? else { return Ok(None) };
    let earnings: Earnings = Arc::new(tree.leaves().map(|leaf| (leaf.node, leaf.cumulative)).collect());
    let earned = earnings.get(&node).copied().unwrap_or_default();
    context.earnings.set(name, earnings);
    Ok(Some(earned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::RewardLeaf;

    #[test]
    fn leaves_are_believed_only_under_their_root() {
        let domain = TreeDomain { chain_id: 51, contract: NodeAddress([9; 20]) };
        let tree = RewardTree::build(domain, [RewardLeaf { node: NodeAddress([1; 20]), cumulative: Wei(5) }]).unwrap();
        let stored = config_map("demo-3", &tree).unwrap();
        assert_eq!(stored.name_any(), "demo-3-leaves");
        assert_eq!(tree_in(&stored, domain, tree.root()), Some(tree.clone()));
        assert_eq!(tree_in(&stored, domain, B256::repeat_byte(1)), None);
        let elsewhere = TreeDomain { chain_id: 50, ..domain };
        assert_eq!(tree_in(&stored, elsewhere, tree.root()), None);
    }
}
