//! Pure: a node's spec, checked against what it points at.

use k8s_openapi::api::core::v1::Toleration;
use kube::{Resource, ResourceExt};
use std::collections::BTreeMap;

use super::{dereference::Refs, identity::NodeIdentity};
use crate::{
    api::{
        conditions::Finding,
        grid_network::GridNetwork,
        grid_node::{Accelerators, GridNode, NodeModeSpec, Role, StorageSpec, TolerationSpec, WorkerResources},
        ids::{ModelDigest, NodeAddress, Wei},
        reasons::Reason,
    },
    operator::grid_network::validate::identity as network_identity,
    protocol::{
        internal::{MAX_PLACEMENT_ITEMS, NodeMode, NodeRole},
        names::NetworkId,
    },
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

/// A node whose every value is known to be sound.
pub struct ValidatedNode {
    pub name: String,
    pub owner: Option<OwnerReference>,
    /// Of the GridNode: what jobs can ask for.
    pub labels: BTreeMap<String, String>,
    pub identity: NodeIdentity,
    pub mode: NodeMode,
    pub roles: Vec<NodeRole>,
    pub models: Vec<ModelDigest>,
    /// Names in spec.models that no GridModel has.
    pub missing_models: Vec<String>,
    pub approved: bool,
    pub cordoned: bool,
    pub network: NetworkId,
    /// Peer id of the gateway that the worker dials; absent until the network knows it.
    pub gateway_peer: Option<String>,
    pub rewards: Option<Rewards>,
    /// Managed only.
    pub worker: Option<WorkerSpec>,
    /// It was registered when the contract was last asked.
    pub registered: bool,
}

/// What a Managed node is registered with, or an External one must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewards {
    pub payout: NodeAddress,
    pub stake: Wei,
}

/// The pod of a Managed node.
pub struct WorkerSpec {
    pub accelerators: Hardware,
    pub node_selector: BTreeMap<String, String>,
    pub tolerations: Vec<Toleration>,
    pub resources: WorkerResources,
    pub storage: Option<StorageSpec>,
}

/// Exactly one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hardware {
    ExtendedResource { name: String, count: i32 },
    Dra { device_class: String, count: i32 },
    CpuOnly,
}

pub fn validate(node: &GridNode, refs: &Refs) -> Result<ValidatedNode, Finding> {
    let network = network(node, refs)?;
    let identity = refs.identity.clone()?;
    let spec = &node.spec;
    let (models, missing_models) = models(node, refs)?;
    Ok(ValidatedNode {
        name: node.name_any(),
        owner: node.controller_owner_ref(&()),
        // The first ones by name; a node with more is hardly wanted by its last.
        labels: node.labels().clone().into_iter().take(MAX_PLACEMENT_ITEMS).collect(),
        mode: mode(spec.mode),
        roles: spec.roles.iter().copied().map(role).collect(),
        models,
        missing_models,
        approved: spec.approved.unwrap_or(spec.mode == NodeModeSpec::Managed),
        cordoned: spec.unschedulable,
        network: network_identity(network).ok_or_else(|| invalid("the network's contract is no address"))?,
        gateway_peer: network
            .status
            .as_ref()
            .and_then(|status| status.gateways.first())
            .map(|gateway| gateway.peer_id.clone()),
        rewards: rewards(node)?,
        worker: worker(node)?,
        registered: registered(node, refs, &identity),
        identity,
    })
}

fn network<'a>(node: &GridNode, refs: &'a Refs) -> Result<&'a GridNetwork, Finding> {
    let name = &node.spec.network_ref.name;
    refs.network
        .as_ref()
        .ok_or_else(|| Finding::no(Reason::NetworkNotFound, format!("there is no GridNetwork {name:?}")))
}

/// The last known truth: a chain that is away takes nobody's registration.
fn registered(node: &GridNode, refs: &Refs, identity: &NodeIdentity) -> bool {
    match &refs.chain {
        Ok(facts) => facts.registration.is_some_and(|registration| {
            registration.status == crate::chain::registration::RegistrationStatus::Registered
        }),
        Err(_) => node.status.as_ref().is_some_and(|status| {
            status.stake.is_some() && status.node_address.as_deref() == Some(identity.address.to_string().as_str())
        }),
    }
}

fn models(node: &GridNode, refs: &Refs) -> Result<(Vec<ModelDigest>, Vec<String>), Finding> {
    let mut digests = Vec::new();
    let mut missing = Vec::new();
    for name in &node.spec.models {
        match refs.models.get(name) {
            Some(digest) => {
                digests.push(digest.parse().map_err(|error| invalid(format!("GridModel {name:?}: {error}")))?)
            }
            None => missing.push(name.clone()),
        }
    }
    Ok((digests, missing))
}

fn rewards(node: &GridNode) -> Result<Option<Rewards>, Finding> {
    let Some(rewards) = &node.spec.rewards else { return Ok(None) };
    let payout =
        rewards.payout_address.parse().map_err(|error| invalid(format!("spec.rewards.payoutAddress: {error}")))?;
    let stake = rewards.stake_wei.parse().map_err(|error| invalid(format!("spec.rewards.stakeWei: {error}")))?;
    if stake < Wei::XDC {
        return Err(invalid("spec.rewards.stakeWei must be at least 1 XDC (1000000000000000000 wei)"));
    }
    Ok(Some(Rewards { payout, stake }))
}

fn worker(node: &GridNode) -> Result<Option<WorkerSpec>, Finding> {
    let spec = &node.spec;
    if spec.mode == NodeModeSpec::External {
        return Ok(None);
    }
    Ok(Some(WorkerSpec {
        accelerators: hardware(spec.accelerators.as_ref())?,
        node_selector: spec.node_selector.clone().unwrap_or_default(),
        tolerations: spec.tolerations.iter().flatten().map(toleration).collect(),
        resources: spec.resources.clone().unwrap_or_default(),
        storage: spec.storage.clone(),
    }))
}

/// What a worker computes on.
pub(in crate::operator) fn hardware(accelerators: Option<&Accelerators>) -> Result<Hardware, Finding> {
    match accelerators {
        Some(Accelerators { extended_resource: Some(resource), dra: None, cpu_only: None }) => {
            Ok(Hardware::ExtendedResource { name: resource.name.clone(), count: resource.count })
        }
        Some(Accelerators { extended_resource: None, dra: Some(devices), cpu_only: None }) => {
            Ok(Hardware::Dra { device_class: devices.device_class_name.clone(), count: devices.count })
        }
        Some(Accelerators { extended_resource: None, dra: None, cpu_only: Some(_) }) => Ok(Hardware::CpuOnly),
        _ => Err(invalid("spec.accelerators must name exactly one of extendedResource, dra, cpuOnly")),
    }
}

pub(in crate::operator) fn toleration(toleration: &TolerationSpec) -> Toleration {
    Toleration {
        key: toleration.key.clone(),
        operator: toleration.operator.map(|operator| format!("{operator:?}")),
        value: toleration.value.clone(),
        effect: toleration.effect.map(|effect| format!("{effect:?}")),
        ..Toleration::default()
    }
}

fn mode(mode: NodeModeSpec) -> NodeMode {
    match mode {
        NodeModeSpec::Managed => NodeMode::Managed,
        NodeModeSpec::External => NodeMode::External,
    }
}

fn role(role: Role) -> NodeRole {
    match role {
        Role::Compute => NodeRole::Compute,
        Role::Verify => NodeRole::Verify,
        Role::Storage => NodeRole::Storage,
    }
}

fn invalid(message: impl Into<String>) -> Finding {
    Finding::no(Reason::InvalidObject, message)
}

#[cfg(test)]
pub(in crate::operator) mod tests {
    use super::*;
    use crate::{
        operator::{chains::ChainProblem, grid_node::dereference::Worker},
        protocol::identity::NodeKey,
    };

    pub(in crate::operator) fn managed() -> GridNode {
        serde_yaml::from_str(
            r#"
            apiVersion: xdcgrid.io/v1alpha1
            kind: GridNode
            metadata: {name: node-a, uid: u1, generation: 1}
            spec:
              networkRef: {name: demo}
              mode: Managed
              accelerators: {cpuOnly: {}}
              nodeSelector: {zone: a}
              tolerations: [{key: gpu, operator: Exists, effect: NoSchedule}]
              resources: {cpu: 2, memory: 1Gi}
              models: [m, nobody-has-this]
              roles: [Compute, Storage]
              rewards: {payoutAddress: "xdc00000000000000000000000000000000000000aa"}
            "#,
        )
        .unwrap()
    }

    pub(in crate::operator) fn external() -> GridNode {
        let peer = NodeKey::from_bytes(&[3; 32]).unwrap().peer_id();
        serde_yaml::from_str(&format!(
            "{{apiVersion: xdcgrid.io/v1alpha1, kind: GridNode, metadata: {{name: home, uid: u2}}, spec: {{networkRef: {{name: demo}}, mode: External, peerID: {peer}}}}}"
        ))
        .unwrap()
    }

    pub(in crate::operator) fn network() -> GridNetwork {
        serde_yaml::from_str(
            r#"
            apiVersion: xdcgrid.io/v1alpha1
            kind: GridNetwork
            metadata: {name: demo}
            spec:
              chain: {chainID: 51, rpcEndpoints: ["http://127.0.0.1:1"], contract: "0x00000000000000000000000000000000000000aa", reporterSecretRef: {name: reporter}}
              rewards: {budgetPerEpochWei: "10"}
            status:
              genesis: 1000
              epochSeconds: 60
              lastReportedEpoch: 4
              gateways: [{peerID: 16Uiu2HAgateway, addresses: [], version: "1"}]
            "#,
        )
        .unwrap()
    }

    pub(in crate::operator) fn refs(node: &GridNode) -> Refs {
        let identity = match &node.spec.peer_id {
            Some(peer) => NodeIdentity::of_peer(peer),
            None => {
                let key = NodeKey::from_bytes(&[2; 32]).unwrap();
                Ok(NodeIdentity { peer_id: key.peer_id(), address: key.address(), key: Some(key) })
            }
        };
        Refs {
            network: Some(network()),
            models: [("m".to_owned(), "11".repeat(32))].into(),
            identity,
            worker: Worker::default(),
            report: Ok(None),
            chain: Err(ChainProblem { finding: Finding::unknown(Reason::RpcUnreachable, "away") }),
            earned: None,
        }
    }

    #[test]
    fn names_become_digests_and_a_name_without_model_is_told_apart() {
        let node = managed();
        let found = validate(&node, &refs(&node)).unwrap();
        assert_eq!(found.models, [ModelDigest([0x11; 32])]);
        assert_eq!(found.missing_models, ["nobody-has-this"]);
        assert_eq!(found.rewards.unwrap().stake, Wei::XDC, "the default");
    }

    #[test]
    fn consent_is_assumed_for_our_own_nodes_only() {
        let (managed, external) = (managed(), external());
        assert!(validate(&managed, &refs(&managed)).unwrap().approved);
        assert!(!validate(&external, &refs(&external)).unwrap().approved);
    }

    #[test]
    fn a_node_without_network_says_so() {
        let node = managed();
        let refs = Refs { network: None, ..refs(&node) };
        assert_eq!(validate(&node, &refs).err().unwrap().reason, "NetworkNotFound");
    }

    #[test]
    fn a_stake_below_one_xdc_is_refused_even_when_an_old_object_has_it() {
        let mut node = managed();
        node.spec.rewards.as_mut().unwrap().stake_wei = "999999999999999999".into();
        let refs = refs(&node);
        assert!(validate(&node, &refs).err().unwrap().message.contains("at least 1 XDC"));
    }

    #[test]
    fn a_chain_that_is_away_takes_nobodys_registration() {
        let mut node = managed();
        let found = refs(&node);
        assert!(!validate(&node, &found).unwrap().registered);
        let status = node.status.get_or_insert_default();
        status.node_address = Some(found.identity.as_ref().unwrap().address.to_string());
        status.stake = Some(crate::api::grid_node::StakeStatus {
            owner: String::new(),
            payout_address: String::new(),
            stake_wei: "1".into(),
            computing_power: 1,
            storage_gib: 0,
        });
        assert!(validate(&node, &found).unwrap().registered);
    }
}
