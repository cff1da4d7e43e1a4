//! IO: the nodes that there are.

use std::collections::BTreeSet;

use kube::{Api, ResourceExt, api::ListParams};

use crate::{
    api::{conditions, grid_node, grid_node::GridNode, grid_node_pool::GridNodePool},
    operator::{context::Context, error::Error, grid_node::validate::POOL_LABEL, runner::Guarded},
};

/// What was found.
pub struct Refs {
    /// The pool's nodes, those that leave among them.
    pub nodes: Vec<GridNode>,
    /// Names of all GridNodes, whosever they are.
    pub taken: BTreeSet<String>,
}

impl Refs {
    /// Nodes that nobody deleted.
    pub fn live(&self) -> impl Iterator<Item = &GridNode> {
        self.nodes.iter().filter(|node| node.metadata.deletion_timestamp.is_none())
    }
}

pub async fn dereference(pool: &GridNodePool, context: &Context) -> Result<Refs, Error> {
    let api: Api<Guarded<GridNode>> = Api::all(context.client.clone());
    let name = pool.name_any();
    let mut refs = Refs { nodes: Vec::new(), taken: BTreeSet::new() };
    // All of them, because a name that somebody else has taken cannot be given again. A malformed node has its name all the same.
    for node in api.list(&ListParams::default()).await?.items {
        refs.taken.insert(node.name_any());
        match node.0 {
            Ok(node) if node.labels().get(POOL_LABEL) == Some(&name) => refs.nodes.push(node),
            _ => {}
        }
    }
    refs.nodes.sort_by_key(ResourceExt::name_any);
    Ok(refs)
}

pub fn is_ready(node: &GridNode) -> bool {
    let current = |status: &&grid_node::GridNodeStatus| status.observed_generation == node.metadata.generation;
    let status = node.status.as_ref().filter(current);
    status.is_some_and(|status| conditions::is_true(&status.conditions, grid_node::condition::READY))
}
