//! Why a GridModel is not served, and which nodes could serve it. Pure.

use std::collections::BTreeMap;

use kube::ResourceExt;

use super::{
    cause::{About, Cause, Explanation, Verdict, ordered},
    conditions::{self as found, stands_in_the_way},
    facts::Facts,
    node, operator,
};
use crate::api::{
    conditions,
    grid_model::{GridModel, condition},
    grid_node::GridNode,
};

/// Nodes whose names are told when many have the same trouble.
const MAX_NAMES: usize = 8;
/// Different troubles of nodes that are told.
const MAX_GROUPS: usize = 8;

pub fn explain(model: &GridModel, facts: &Facts) -> Explanation {
    let about = about(&model.name_any());
    let conditions = model.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let ready = conditions::is_true(conditions, condition::READY);
    let mut causes = causes(model, facts);
    if !ready {
        causes.extend(nodes(&model.name_any(), Some(model), facts));
    }
    let serving = model.status.as_ref().and_then(|status| status.serving).unwrap_or(0);
    let state = if ready { format!("is ready: {serving} workers serve it") } else { "is not ready".to_owned() };
    Explanation {
        about: about.to_string(),
        verdict: if ready { Verdict::Done } else { Verdict::NotYet },
        summary: format!("{about} {state}"),
        causes: ordered(causes),
        not_seen: facts.not_seen.clone(),
    }
}

/// What is wrong with the model itself.
pub fn causes(model: &GridModel, facts: &Facts) -> Vec<Cause> {
    let about = about(&model.name_any());
    let conditions = model.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    if conditions.is_empty() {
        return vec![operator::not_observed(&about, facts)];
    }
    // Ready repeats the others.
    let parts = conditions.iter().filter(|part| part.type_ != condition::READY && stands_in_the_way(part));
    let parts: Vec<_> = parts.map(|part| found::cause(&about, part)).collect();
    if !parts.is_empty() {
        return ordered(parts);
    }
    let ready = conditions::find(conditions, condition::READY).filter(|ready| stands_in_the_way(ready));
    ready.map(|ready| found::cause(&about, ready)).into_iter().collect()
}

/// What keeps each node from serving a model; nodes with the same trouble are told together.
pub fn nodes(name: &str, model: Option<&GridModel>, facts: &Facts) -> Vec<Cause> {
    if !facts.nodes_seen {
        return Vec::new();
    }
    if facts.nodes.is_empty() {
        return vec![Cause::new(&about(name), "NoNodes", "there is no GridNode at all")];
    }
    let listed: Vec<&GridNode> = facts.nodes.iter().filter(|node| node.spec.models.iter().any(|m| m == name)).collect();
    if listed.is_empty() {
        let message = format!("none of the {} GridNodes lists it in spec.models", facts.nodes.len());
        return vec![Cause::new(&about(name), "NoNodeHasModel", message)];
    }
    let mut serving = Vec::new();
    let mut groups: BTreeMap<String, Vec<Cause>> = BTreeMap::new();
    for node in listed {
        let trouble = node::keeps_from_serving(node, model, facts);
        match trouble.into_iter().next() {
            Some(cause) => groups.entry(cause.reason.clone()).or_default().push(cause),
            None => serving.push(node.name_any()),
        }
    }
    let mut causes: Vec<Cause> = groups.into_values().take(MAX_GROUPS).filter_map(grouped).collect();
    if !serving.is_empty() {
        let message = format!("{} serving it: {}", counted(serving.len()), some(&serving));
        causes.push(Cause::new(&About::new("gridnodes", name, ""), "NodesBusy", message));
    }
    ordered(causes)
}

/// One cause for all nodes that have it; what is behind the first one stands for all.
fn grouped(mut causes: Vec<Cause>) -> Option<Cause> {
    let names: Vec<String> = causes.iter().map(|cause| cause.about.clone()).collect();
    let first = if causes.is_empty() { return None } else { causes.swap_remove(0) };
    if names.len() == 1 {
        return Some(first);
    }
    let about = format!("{}, such as {}", counted(names.len()), first.about);
    let message = format!("{} ({})", first.message, some(&names));
    Some(Cause { about, message, ..first })
}

fn counted(nodes: usize) -> String {
    if nodes == 1 { "1 node".into() } else { format!("{nodes} nodes") }
}

fn some(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(MAX_NAMES).map(String::as_str).collect();
    let more = names.len().saturating_sub(MAX_NAMES);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

pub fn about(name: &str) -> About {
    About::new("gridmodel", name, "")
}
