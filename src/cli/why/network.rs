//! Why a GridNetwork is not ready. Pure.

use kube::ResourceExt;

use super::{
    cause::{About, Cause, Explanation, Verdict, ordered},
    conditions::{self as found, stands_in_the_way},
    facts::Facts,
    operator,
};
use crate::api::{
    conditions,
    grid_network::{GridNetwork, condition},
};

/// Codes that a network explains.
pub fn explains(reason: &str) -> bool {
    [
        "NetworkNotReady",
        "NetworkPaused",
        "GatewayUnavailable",
        "GatewayRefused",
        "GatewayServesAnotherNetwork",
        "RpcUnreachable",
        "RpcBehind",
        "EndpointsDisagree",
        "ContractCodeDiffers",
        "ReporterKeyLocked",
        "SignerInvalid",
        "SignerUnavailable",
        "WrongChainId",
        "ContractWithoutCode",
        "ContractUnreadable",
        "EpochSecondsMismatch",
        "ReporterSecretMissing",
        "ReporterKeyInvalid",
        "ReporterWithoutRole",
        "ReporterWithoutFunds",
        "ReportsBehind",
    ]
    .contains(&reason)
}

pub fn explain(network: &GridNetwork, facts: &Facts) -> Explanation {
    let about = about(network);
    let causes = causes(network, facts);
    let conditions = network.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let ready = conditions::is_true(conditions, condition::READY);
    let state = if ready { "is ready" } else { "is not ready" };
    Explanation {
        about: about.to_string(),
        verdict: if ready { Verdict::Done } else { Verdict::NotYet },
        summary: format!("{about} {state}"),
        causes,
        not_seen: facts.not_seen.clone(),
    }
}

pub fn causes(network: &GridNetwork, facts: &Facts) -> Vec<Cause> {
    let about = about(network);
    let conditions = network.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let mut causes = Vec::new();
    if network.spec.paused {
        causes.push(Cause::new(&about, "NetworkPaused", "spec.paused is set: no work is given out"));
    }
    if conditions.is_empty() {
        causes.push(operator::not_observed(&about, facts));
    }
    let parts = conditions.iter().filter(|part| part.type_ != condition::READY && stands_in_the_way(part));
    causes.extend(parts.map(|part| found::cause(&about, part)));
    if causes.is_empty() {
        let ready = conditions::find(conditions, condition::READY).filter(|ready| stands_in_the_way(ready));
        causes.extend(ready.map(|ready| found::cause(&about, ready)));
    }
    ordered(causes)
}

/// What of it keeps jobs waiting. A chain that is away holds up the pay and not the work, once the gateway has its network.
pub fn holds_up_work(network: &GridNetwork, facts: &Facts) -> Vec<Cause> {
    let conditions = network.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let serving = conditions::is_true(conditions, condition::GATEWAY_READY);
    causes(network, facts).into_iter().filter(|cause| !serving || cause.reason == "NetworkPaused").collect()
}

fn about(network: &GridNetwork) -> About {
    About::new("gridnetwork", network.name_any(), "")
}
