//! Pure: the findings about the chain, and what the gateway is to be told.

use std::collections::BTreeMap;

use kube::ResourceExt;

use super::dereference::{ChainFacts, Refs, Reporter};
use crate::{
    api::{
        conditions::Finding,
        grid_network::GridNetwork,
        ids::{NodeAddress, Wei},
        reasons::Reason,
    },
    chain::fees::MIN_GAS_PRICE,
    protocol::{internal::NetworkConfig, names::NetworkId},
};

pub struct ValidatedNetwork {
    pub chain: Finding,
    pub facts: Option<ChainFacts>,
    pub reporter: Finding,
    pub reporter_address: Option<NodeAddress>,
    /// Bad news when true; absent while the account is not known.
    pub funds_low: Option<Finding>,
    /// How many reports the reporter's account pays for.
    pub reports_left: Option<u64>,
    /// Absent until the chain was read once.
    pub gateway: Option<NetworkConfig>,
}

pub fn validate(network: &GridNetwork, refs: &Refs) -> ValidatedNetwork {
    let facts = refs.chain.as_ref().ok().copied();
    let chain = match &refs.chain {
        Err(problem) => problem.finding.clone(),
        Ok(facts) => epochs_agree(network, facts),
    };
    let gateway = facts.filter(|_| chain.is_true()).and_then(|facts| config(network, &facts));
    let (reporter, reporter_address) = match &refs.reporter {
        Err(problem) => (problem.finding.clone(), None),
        Ok(reporter) => (may_report(network, reporter.address, reporter.has_role), Some(reporter.address)),
    };
    let (funds_low, reports_left) = refs.reporter.as_ref().map_or((None, None), |found| {
        let left = reports_left(found);
        (Some(funds(found, left)), Some(left))
    });
    ValidatedNetwork { chain, facts, reporter, reporter_address, funds_low, reports_left, gateway }
}

/// What a report is taken to cost before the first one is there: 1 million gas, that of about 1,000 nodes.
const FIRST_REPORT: Wei = Wei(1_000_000 * MIN_GAS_PRICE.0);
/// Fewer than these are worth an alert: with epochs of an hour, four days.
const ENOUGH_REPORTS: u64 = 100;

fn reports_left(reporter: &Reporter) -> u64 {
    let cost = reporter.last_fee.unwrap_or(FIRST_REPORT).0.max(1);
    u64::try_from(reporter.balance.0 / cost).unwrap_or(u64::MAX)
}

fn funds(reporter: &Reporter, left: u64) -> Finding {
    let Reporter { address, balance, .. } = reporter;
    if left >= ENOUGH_REPORTS {
        // No numbers: they would be others after every report.
        let message = format!("{address} pays for {ENOUGH_REPORTS} reports and more");
        return Finding::no(Reason::ReporterFunded, message);
    }
    let message = format!(
        "{address} holds {} XDC, enough for {left} reports as the last one was; send it XDC before it runs out",
        balance.to_xdc()
    );
    Finding::yes(Reason::ReporterFundsLow, message)
}

fn epochs_agree(network: &GridNetwork, facts: &ChainFacts) -> Finding {
    let contract = facts.parameters.epoch_seconds;
    match network.spec.rewards.epoch_seconds {
        Some(wanted) if u64::try_from(wanted) != Ok(contract) => {
            let message = format!(
                "spec.rewards.epochSeconds is {wanted}, the contract's epochs have {contract} s; correct or remove it"
            );
            Finding::no(Reason::EpochSecondsMismatch, message)
        }
        _ => Finding::yes(
            Reason::ChainReachable,
            format!("chain {}, contract {}", network.spec.chain.chain_id, network.spec.chain.contract),
        ),
    }
}

fn may_report(network: &GridNetwork, address: NodeAddress, has_role: bool) -> Finding {
    if has_role || network.spec.rewards.dry_run {
        return Finding::yes(Reason::ReporterReady, format!("{address} reports epochs and registers nodes"));
    }
    let message = format!(
        "{address} lacks REPORTER_ROLE; the contract's admin grants it with grantRole(keccak256(\"REPORTER_ROLE\"), {address})"
    );
    Finding::no(Reason::ReporterWithoutRole, message)
}

/// Identity of a network; `None` for an address that the schema should have refused.
pub fn identity(network: &GridNetwork) -> Option<NetworkId> {
    Some(NetworkId {
        chain_id: u64::try_from(network.spec.chain.chain_id).ok()?,
        contract: network.spec.chain.contract.parse().ok()?,
        salt: network.spec.libp2p.network_salt.clone(),
    })
}

fn config(network: &GridNetwork, facts: &ChainFacts) -> Option<NetworkConfig> {
    Some(NetworkConfig {
        name: network.name_any(),
        network: identity(network)?,
        genesis: facts.parameters.genesis,
        epoch_seconds: facts.parameters.epoch_seconds,
        paused: network.spec.paused,
        external_addresses: network.spec.libp2p.external_addresses.clone(),
        sample_percent: u8::try_from(network.spec.verification.sample_percent).unwrap_or(100),
        namespace_weights: weights(network),
    })
}

/// The schema has checked them.
fn weights(network: &GridNetwork) -> BTreeMap<String, u32> {
    let weights = &network.spec.scheduling.namespace_weights;
    weights.iter().map(|(namespace, weight)| (namespace.clone(), u32::try_from(*weight).unwrap_or(1).max(1))).collect()
}

#[cfg(test)]
pub(in crate::operator) mod tests {
    use super::*;
    use crate::{
        api::ids::{EpochNumber, Wei},
        chain::{ContractParameters, rewards::EpochState},
        operator::{chains::ChainProblem, grid_network::dereference::Reporter},
    };

    pub(in crate::operator) fn network() -> GridNetwork {
        serde_yaml::from_str(
            r#"
            apiVersion: xdcgrid.io/v1alpha1
            kind: GridNetwork
            metadata: {name: demo, generation: 1}
            spec:
              chain:
                chainID: 51
                rpcEndpoints: ["http://127.0.0.1:1"]
                contract: "0x00000000000000000000000000000000000000aa"
                reporterSecretRef: {name: reporter, key: key}
              rewards: {epochSeconds: 60, budgetPerEpochWei: "10"}
            "#,
        )
        .unwrap()
    }

    pub(in crate::operator) fn facts() -> ChainFacts {
        ChainFacts {
            parameters: ContractParameters {
                genesis: 1000,
                epoch_seconds: 60,
                challenge_window: 10,
                unbonding: 60,
                min_stake: Wei::XDC,
                max_epoch_increase: Wei(u128::MAX),
            },
            epochs: EpochState {
                next_epoch: EpochNumber(3),
                pending: None,
                live_root: Default::default(),
                live_total: Wei(0),
                claimed_total: Wei(0),
                reward_pool: Wei(5),
                stake_total: Wei(0),
            },
        }
    }

    fn refs(has_role: bool) -> Refs {
        Refs {
            chain: Ok(facts()),
            reporter: Ok(Reporter { address: NodeAddress([1; 20]), has_role, balance: Wei::XDC, last_fee: None }),
        }
    }

    #[test]
    fn a_sound_network_configures_the_gateway_with_the_contracts_epochs() {
        let found = validate(&network(), &refs(true));
        let config = found.gateway.unwrap();
        assert_eq!((config.genesis, config.epoch_seconds, config.network.chain_id), (1000, 60, 51));
        assert!(found.chain.is_true() && found.reporter.is_true());
    }

    #[test]
    fn weights_of_namespaces_reach_the_gateway() {
        let mut network = network();
        network.spec.scheduling.namespace_weights = [("team-a".to_owned(), 3)].into();
        let told = validate(&network, &refs(true)).gateway.unwrap();
        assert_eq!(told.namespace_weights, [("team-a".to_owned(), 3)].into());
    }

    #[test]
    fn other_epochs_than_the_contracts_are_refused_and_the_gateway_is_not_told() {
        let mut network = network();
        network.spec.rewards.epoch_seconds = Some(61);
        let found = validate(&network, &refs(true));
        assert_eq!(found.chain.reason, "EpochSecondsMismatch");
        assert!(found.gateway.is_none());
    }

    #[test]
    fn a_reporter_without_the_role_is_named_with_the_cure() {
        let found = validate(&network(), &refs(false)).reporter;
        assert_eq!(found.reason, "ReporterWithoutRole");
        assert!(found.message.contains("grantRole"));
        let mut dry = network();
        dry.spec.rewards.dry_run = true;
        assert!(validate(&dry, &refs(false)).reporter.is_true(), "a dry run sends nothing");
    }

    #[test]
    fn a_wrong_chain_leaves_the_gateway_alone() {
        let finding = Finding::no(Reason::WrongChainId, "50");
        let problem = ChainProblem { finding: finding.clone() };
        let found = validate(&network(), &Refs { chain: Err(problem.clone()), reporter: Err(problem) });
        assert_eq!(found.chain, finding);
        assert!(found.gateway.is_none());
    }
}
