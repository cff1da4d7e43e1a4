//! Why a GridModel is not served, and which nodes could serve it. Pure.

use kube::ResourceExt;

use super::{
    cause::{About, Cause, Explanation, Verdict, ordered},
    conditions::{self as found, stands_in_the_way},
    facts::Facts,
    group, node, operator,
};
use crate::api::{
    conditions,
    grid_model::{GridModel, condition},
    grid_node::GridNode,
};

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
    let (mut serving, mut troubles) = (Vec::new(), Vec::new());
    for node in listed {
        let trouble = node::keeps_from_serving(node, model, facts);
        match trouble.into_iter().next() {
            Some(cause) => troubles.push(cause),
            None => serving.push(node.name_any()),
        }
    }
    let mut causes = group::together(troubles);
    if !serving.is_empty() {
        let message = format!("{} serving it: {}", group::counted(serving.len()), group::some(&serving));
        causes.push(Cause::new(&About::new("gridnodes", name, ""), "NodesBusy", message));
    }
    ordered(causes)
}

pub fn about(name: &str) -> About {
    About::new("gridmodel", name, "")
}
