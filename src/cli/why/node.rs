//! Why a GridNode is not ready, or gets no work. Pure.

use kube::ResourceExt;

use super::{
    cause::{About, Cause, Explanation, Verdict, ordered},
    conditions::{self as found, stands_in_the_way},
    facts::{Facts, NODE_LABEL},
    network, operator, pod,
};
use crate::{
    api::{
        conditions::{self, Condition},
        grid_model::GridModel,
        grid_node::{GridNode, GridNodeStatus, NodeModeSpec, condition},
    },
    cli::lookup::did_you_mean,
};

/// Each step needs the one before: what follows the first that fails says nothing new.
const CHAIN: [&str; 3] = [condition::WORKER_AVAILABLE, condition::PEER_CONNECTED, condition::CAPABILITY_VERIFIED];

pub fn explain(node: &GridNode, facts: &Facts) -> Explanation {
    let about = about(node);
    let status = node.status.clone().unwrap_or_default();
    let ready = conditions::is_true(&status.conditions, condition::READY);
    let state = match (ready, node.spec.unschedulable) {
        (true, false) => "is ready and takes work",
        (true, true) => "is ready, but takes no new work",
        (false, _) => "is not ready",
    };
    Explanation {
        about: about.to_string(),
        verdict: if ready && !node.spec.unschedulable { Verdict::Done } else { Verdict::NotYet },
        summary: format!("{about} {state}"),
        causes: causes(node, facts),
        not_seen: facts.not_seen.clone(),
    }
}

/// Everything that keeps a node from work, the most useful first.
pub fn causes(node: &GridNode, facts: &Facts) -> Vec<Cause> {
    let about = about(node);
    let status = node.status.clone().unwrap_or_default();
    let mut causes = Vec::new();
    if node.metadata.deletion_timestamp.is_some() && conditions::find(&status.conditions, condition::DRAINING).is_none()
    {
        causes.push(Cause::new(&about, "Terminating", "it is deleted and leaves"));
    }
    if node.spec.unschedulable {
        causes.push(Cause::new(&about, "Cordoned", "spec.unschedulable is set: it takes no new work"));
    }
    if status.conditions.is_empty() {
        causes.push(operator::not_observed(&about, facts));
        return ordered(causes);
    }
    causes.extend(standing(node, &about, &status.conditions, facts));
    causes.extend(models(&about, &status));
    // Ready may know what no other condition says.
    let ready = conditions::find(&status.conditions, condition::READY).filter(|ready| stands_in_the_way(ready));
    if let Some(ready) = ready.filter(|ready| !causes.iter().any(|cause| cause.reason == ready.reason)) {
        causes.push(deeper(node, &about, ready, facts));
    }
    ordered(causes)
}

/// The conditions that stand in the way, without those that only follow from another one.
fn standing(node: &GridNode, about: &About, all: &[Condition], facts: &Facts) -> Vec<Cause> {
    let bars = |type_: &str| conditions::find(all, type_).filter(|condition| stands_in_the_way(condition));
    let by_decision = bars(condition::READY).filter(|ready| ready.reason == "NotApproved");
    if let Some(refused) = by_decision {
        return vec![deeper(node, about, refused, facts)];
    }
    let broken = CHAIN.iter().position(|type_| bars(type_).is_some());
    let mut causes = Vec::new();
    for condition in all.iter().filter(|condition| condition.type_ != condition::READY && stands_in_the_way(condition))
    {
        let at = CHAIN.iter().position(|type_| *type_ == condition.type_);
        let follows = match (at, broken) {
            (Some(at), Some(broken)) => at > broken,
            // Models and storage are known over the connection, and registration waits for what is proven.
            (None, Some(broken)) => {
                ([condition::STORAGE_VERIFIED, "ModelsReady"].contains(&condition.type_.as_str()) && broken < 2)
                    || condition.reason == "WaitingForCapability"
            }
            (_, None) => false,
        };
        if !follows {
            causes.push(deeper(node, about, condition, facts));
        }
    }
    causes
}

/// A condition with what is behind it.
fn deeper(node: &GridNode, about: &About, condition: &Condition, facts: &Facts) -> Cause {
    let cause = found::cause(about, condition);
    if condition.type_ == condition::WORKER_AVAILABLE {
        return cause.because(worker(node, facts));
    }
    let name = &node.spec.network_ref.name;
    if condition.reason == "NetworkNotFound" {
        let known = facts.networks.iter().map(ResourceExt::name_any);
        return cause.hint(&did_you_mean(name, known));
    }
    if network::explains(&condition.reason) {
        let network = facts.networks.iter().find(|network| network.name_any() == *name);
        let behind = network.map(|network| network::causes(network, facts)).unwrap_or_default();
        return cause.because(behind);
    }
    cause
}

/// The worker's pod; where there is none, what was said about its StatefulSet.
fn worker(node: &GridNode, facts: &Facts) -> Vec<Cause> {
    let name = node.name_any();
    let mut pods = facts.pods.iter().filter(|pod| pod.labels().get(NODE_LABEL) == Some(&name)).peekable();
    if pods.peek().is_none() {
        let set = About::new("statefulset", format!("worker-{name}"), "");
        return pod::events_about(&set, facts, &[]);
    }
    pods.flat_map(|pod| pod::causes(pod, facts)).collect()
}

/// Models that the node was to serve and does not.
fn models(about: &About, status: &GridNodeStatus) -> Vec<Cause> {
    let waiting = status.models.iter().filter(|model| model.state != "Ready");
    let cause = |model: &crate::api::grid_node::NodeModelStatus| {
        let digest: String = model.digest.chars().take(12).collect();
        let message = model.message.clone().unwrap_or_default();
        Cause::new(about, &model.state, format!("model {digest}…: {message}"))
    };
    waiting.map(cause).collect()
}

/// What keeps a node from serving one model; nothing when it does.
pub fn keeps_from_serving(node: &GridNode, model: Option<&GridModel>, facts: &Facts) -> Vec<Cause> {
    let about = about(node);
    let status = node.status.clone().unwrap_or_default();
    // A stake that is missing or another model that is loading does not keep it from this one.
    let beside_the_point = |cause: &Cause| {
        let at = [condition::REGISTERED, condition::REPORTING_CURRENT]
            .iter()
            .filter_map(|type_| conditions::find(&status.conditions, type_).map(|condition| condition.reason.as_str()));
        at.into_iter().any(|reason| reason == cause.reason)
            || status.models.iter().any(|model| model.state == cause.reason)
    };
    let mut causes: Vec<Cause> = causes(node, facts).into_iter().filter(|cause| !beside_the_point(cause)).collect();
    let digest = model.map(|model| model.spec.sha256.as_str());
    let here = status.models.iter().find(|here| Some(here.digest.as_str()) == digest);
    match here {
        Some(here) if here.state != "Ready" => {
            causes.push(Cause::new(&about, &here.state, here.message.clone().unwrap_or_default()));
        }
        None if causes.is_empty() && node.spec.mode == NodeModeSpec::Managed && digest.is_some() => {
            causes.push(Cause::new(&about, "ModelNotReady", "it does not say yet that it can serve the model"));
        }
        _ => {}
    }
    ordered(causes)
}

pub fn about(node: &GridNode) -> About {
    About::new("gridnode", node.name_any(), "")
}
