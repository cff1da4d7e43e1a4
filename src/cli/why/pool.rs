//! Why a GridNodePool has not as many Ready nodes as it should, down to the pods of those nodes. Pure.

use kube::ResourceExt;

use super::{
    cause::{About, Cause, Explanation, Verdict, ordered},
    conditions::{self as found, stands_in_the_way},
    facts::{Facts, POOL_LABEL},
    group, network, node, operator,
};
use crate::api::{
    conditions,
    grid_node::{self, GridNode},
    grid_node_pool::{GridNodePool, condition},
    remedies::Tier,
};

pub fn explain(pool: &GridNodePool, facts: &Facts) -> Explanation {
    let about = about(pool);
    let status = pool.status.clone().unwrap_or_default();
    let ready = conditions::is_true(&status.conditions, condition::READY);
    let leaving = match status.draining_replicas {
        0 => String::new(),
        leaving => format!(", {leaving} more are leaving"),
    };
    let state = format!("{} of {} nodes are ready{leaving}", status.ready_replicas, pool.spec.replicas);
    Explanation {
        summary: format!("{about} in {}: {state}", about.namespace),
        about: about.to_string(),
        verdict: if ready { Verdict::Done } else { Verdict::NotYet },
        causes: causes(pool, &about, facts),
        not_seen: facts.not_seen.clone(),
    }
}

fn causes(pool: &GridNodePool, about: &About, facts: &Facts) -> Vec<Cause> {
    let status = pool.status.clone().unwrap_or_default();
    let mut causes = Vec::new();
    if pool.metadata.deletion_timestamp.is_some() {
        causes.push(Cause::new(about, "Terminating", "it is deleted; its nodes leave first"));
    }
    if status.conditions.is_empty() {
        causes.push(operator::not_observed(about, facts));
        return ordered(causes);
    }
    let bars = status.conditions.iter().filter(|condition| stands_in_the_way(condition));
    causes.extend(bars.map(|condition| found::cause(about, condition)));
    let mut causes = ordered(causes);
    if let Some(first) = causes.first_mut() {
        *first = first.clone().because(behind(pool, &first.reason, facts));
    }
    causes
}

/// What is behind the pool's first cause: the network, or the nodes that are not Ready.
fn behind(pool: &GridNodePool, reason: &str, facts: &Facts) -> Vec<Cause> {
    if network::explains(reason) {
        let name = &pool.spec.template.spec.network_ref.name;
        let network = facts.networks.iter().find(|network| network.name_any() == *name);
        return network.map(|network| network::causes(network, facts)).unwrap_or_default();
    }
    let nodes = facts.nodes.iter().filter(|node| is_of(node, pool));
    // A node may be unpaid or measured again and Ready all the same.
    let troubles = nodes.filter_map(|node| {
        let first = node::causes(node, facts).into_iter().next()?;
        (first.kind_of_cause < Tier::Fine && !is_ready(node)).then_some(first)
    });
    group::together(troubles)
}

fn is_of(node: &GridNode, pool: &GridNodePool) -> bool {
    node.labels().get(POOL_LABEL) == Some(&pool.name_any())
}

/// A node that leaves is none of the pool's replicas any more.
fn is_ready(node: &GridNode) -> bool {
    let conditions = node.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions::is_true(conditions, grid_node::condition::READY) && node.metadata.deletion_timestamp.is_none()
}

fn about(pool: &GridNodePool) -> About {
    About::new("gridnodepool", pool.name_any(), pool.namespace().unwrap_or_default())
}
