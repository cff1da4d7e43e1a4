//! The status of a network. Pure up to the last function.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;

use super::{
    MANAGER,
    apply::Applied,
    validate::{ValidatedNetwork, identity},
};
use crate::{
    api::{
        conditions::{self, Finding},
        grid_network::{GatewayStatus, GridNetwork, GridNetworkStatus, condition},
        reasons::Reason,
    },
    operator::{
        context::Context,
        error::Error,
        gateway::GatewayError,
        write::{self, Change},
    },
    protocol::internal::GatewayInfo,
};

pub fn of(network: &GridNetwork, found: &ValidatedNetwork, applied: &Applied, now: Timestamp) -> GridNetworkStatus {
    let mut status = network.status.clone().unwrap_or_default();
    status.observed_generation = network.metadata.generation;
    status.net = identity(network).map(|identity| identity.net().to_string());
    chain(&mut status, found);
    let gateway = gateway(&mut status, applied);
    let parts = [
        (condition::CHAIN_REACHABLE, &found.chain),
        (condition::GATEWAY_READY, &gateway),
        (condition::REPORTER_READY, &found.reporter),
    ];
    let ready = match network.spec.paused {
        true => Finding::yes(Reason::NetworkPaused, "spec.paused keeps new work away"),
        false => Finding::yes(Reason::Ready, "chain, gateway and reporter are ready"),
    };
    let ready = conditions::summarize(parts, ready);
    let now = Time(now);
    let funds = found.funds_low.iter().map(|finding| (condition::REPORTER_FUNDS_LOW, finding));
    for (type_, finding) in parts.into_iter().chain([(condition::READY, &ready)]).chain(funds) {
        conditions::set(&mut status.conditions, type_, finding.clone(), network.metadata.generation, &now);
    }
    status
}

fn chain(status: &mut GridNetworkStatus, found: &ValidatedNetwork) {
    if let Some(address) = found.reporter_address {
        status.reporter = Some(address.to_string());
    }
    let Some(facts) = &found.facts else { return };
    let signed = |value: u64| Some(i64::try_from(value).unwrap_or(i64::MAX));
    status.genesis = signed(facts.parameters.genesis);
    status.epoch_seconds = signed(facts.parameters.epoch_seconds);
    status.challenge_window_seconds = signed(facts.parameters.challenge_window);
    status.last_reported_epoch = facts.epochs.last_epoch().and_then(|epoch| signed(epoch.0));
    let pending = u64::from(facts.epochs.pending.is_some());
    status.last_active_epoch = facts.epochs.next_epoch.0.checked_sub(1 + pending).and_then(signed);
    status.reward_pool_wei = Some(facts.epochs.reward_pool.to_string());
    status.reward_pool = Some(facts.epochs.reward_pool.to_xdc());
}

fn gateway(status: &mut GridNetworkStatus, applied: &Applied) -> Finding {
    match applied {
        Applied::NotAsked => Finding::unknown(Reason::NetworkNotReady, "the gateway is told once the chain is known"),
        Applied::Asked(Ok(info)) => {
            status.gateways = vec![shown(info)];
            Finding::yes(Reason::GatewayConfigured, format!("gateway {}", info.peer_id))
        }
        Applied::Asked(Err(GatewayError::Refused { status: 409, message, .. })) => {
            // It belongs to another network; its addresses are none of ours.
            status.gateways.clear();
            Finding::no(Reason::GatewayServesAnotherNetwork, message.clone())
        }
        Applied::Asked(Err(error)) => error.finding(),
    }
}

/// What the gateway says is cut to what the schema takes.
fn shown(info: &GatewayInfo) -> GatewayStatus {
    GatewayStatus {
        peer_id: info.peer_id.to_string(),
        addresses: info.addresses.iter().filter(|address| address.len() <= 320).take(32).cloned().collect(),
        version: info.version.chars().take(64).collect(),
    }
}

pub async fn update(network: &GridNetwork, status: &GridNetworkStatus, context: &Context) -> Result<(), Error> {
    let api: Api<GridNetwork> = Api::all(context.client.clone());
    let old = network.status.as_ref();
    let change = Change {
        old,
        new: status,
        old_conditions: old.map(|status| status.conditions.as_slice()).unwrap_or_default(),
        new_conditions: &status.conditions,
        abnormal: &[condition::REPORTER_FUNDS_LOW],
    };
    write::status(&api, context, MANAGER, network, change).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{
            conditions::Truth,
            ids::{NodeAddress, Wei},
        },
        operator::grid_network::{
            dereference::{Refs, Reporter},
            validate::{
                tests::{facts, network},
                validate,
            },
        },
        protocol::identity::NodeKey,
    };

    fn found() -> ValidatedNetwork {
        let reporter =
            Ok(Reporter { address: NodeAddress([1; 20]), has_role: true, balance: Wei::XDC, last_fee: None });
        validate(&network(), &Refs { chain: Ok(facts()), reporter })
    }

    fn info() -> GatewayInfo {
        GatewayInfo {
            version: "0.1.0".into(),
            peer_id: NodeKey::from_bytes(&[1; 32]).unwrap().peer_id(),
            network: None,
            addresses: vec!["/ip4/10.0.0.1/tcp/4001".into()],
            connected_peers: 0,
            revision: 0,
        }
    }

    #[test]
    fn a_network_is_ready_when_chain_gateway_and_reporter_are() {
        let status = of(&network(), &found(), &Applied::Asked(Ok(info())), Timestamp::UNIX_EPOCH);
        assert!(conditions::is_true(&status.conditions, condition::READY));
        assert_eq!(status.gateways[0].addresses, ["/ip4/10.0.0.1/tcp/4001"]);
        assert_eq!((status.last_reported_epoch, status.last_active_epoch), (Some(2), Some(2)));
        let again = of(
            &GridNetwork { status: Some(status.clone()), ..network() },
            &found(),
            &Applied::Asked(Ok(info())),
            Timestamp::MAX,
        );
        assert_eq!(again, status, "nothing changed, so nothing is written");
    }

    #[test]
    fn a_reporter_that_cannot_pay_for_a_hundred_reports_is_bad_news_and_no_reason_to_stop() {
        let poor = |balance, last_fee| {
            let reporter = Ok(Reporter { address: NodeAddress([1; 20]), has_role: true, balance, last_fee });
            let found = validate(&network(), &Refs { chain: Ok(facts()), reporter });
            let status = of(&network(), &found, &Applied::Asked(Ok(info())), Timestamp::UNIX_EPOCH);
            assert!(conditions::is_true(&status.conditions, condition::READY));
            (found.reports_left.unwrap(), conditions::is_true(&status.conditions, condition::REPORTER_FUNDS_LOW))
        };
        assert_eq!(poor(Wei::XDC, None), (80, true), "1 XDC pays for 80 reports of a million gas");
        assert_eq!(poor(Wei::XDC, Some(Wei(Wei::XDC.0 / 100))), (100, false));
        assert_eq!(poor(Wei(0), Some(Wei(1))), (0, true));
    }

    #[test]
    fn an_absent_gateway_is_unknown_and_its_address_is_kept() {
        let known = of(&network(), &found(), &Applied::Asked(Ok(info())), Timestamp::UNIX_EPOCH);
        let network = GridNetwork { status: Some(known), ..network() };
        let away = Applied::Asked(Err(GatewayError::Unavailable("connection refused".into())));
        let status = of(&network, &found(), &away, Timestamp::UNIX_EPOCH);
        let ready = conditions::find(&status.conditions, condition::READY).unwrap();
        assert_eq!((ready.status, ready.reason.as_str()), (Truth::Unknown, "GatewayUnavailable"));
        assert_eq!(status.gateways.len(), 1);
    }
}
