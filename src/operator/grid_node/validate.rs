//! Pure: a node's spec, checked against what it points at.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Toleration, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{Resource, ResourceExt};

use super::{
    availability::{self, Window},
    dereference::Refs,
    identity::NodeIdentity,
};
use crate::{
    api::{
        conditions::Finding,
        grid_network::GridNetwork,
        grid_node::{
            Accelerators, GridNode, GridNodeSpec, NodeModeSpec, Role, StorageSpec, TolerationSpec, TopologySpread,
            UpdatePolicy, WorkerResources,
        },
        ids::{ModelDigest, NodeAddress, Wei},
        reasons::Reason,
        refs::is_qualified_name,
    },
    operator::grid_network::validate::identity as network_identity,
    protocol::{
        internal::{MAX_PLACEMENT_ITEMS, NodeMode, NodeRole},
        names::NetworkId,
    },
};

/// On a GridNode and its worker's pod: the pool that it belongs to.
pub const POOL_LABEL: &str = "xdcgrid.io/pool";

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
    pub windows: Vec<Window>,
    pub max_requests: Option<u32>,
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
    pub runtime_class_name: Option<String>,
    pub priority_class_name: Option<String>,
    pub topology_spread: Vec<TopologySpread>,
    pub image_pull_secrets: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub update_policy: UpdatePolicy,
    /// The GridNodePool that it belongs to.
    pub pool: Option<String>,
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
        windows: availability::windows(spec.availability.as_ref())?,
        max_requests: spec.limits.as_ref().and_then(|limits| limits.max_requests).and_then(|most| most.try_into().ok()),
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
        runtime_class_name: spec.runtime_class_name.clone(),
        priority_class_name: spec.priority_class_name.clone(),
        topology_spread: spec.topology_spread_constraints.clone().unwrap_or_default(),
        image_pull_secrets: pull_secrets(spec),
        labels: foreign("spec.podLabels", spec.pod_labels.as_ref(), &RESERVED_LABELS)?,
        annotations: foreign("spec.podAnnotations", spec.pod_annotations.as_ref(), &RESERVED_ANNOTATIONS)?,
        update_policy: spec.update_policy,
        pool: node.labels().get(POOL_LABEL).cloned(),
    }))
}

/// What of a node's spec can be judged without knowing what it points at.
pub fn validate_pod(node: &GridNode) -> Result<(), Finding> {
    rewards(node)?;
    worker(node)?;
    availability::windows(node.spec.availability.as_ref()).map(drop)
}

/// Names of the pull secrets of a spec.
pub fn pull_secrets(spec: &GridNodeSpec) -> Vec<String> {
    spec.image_pull_secrets.iter().flatten().map(|secret| secret.name.clone()).collect()
}

/// Keys that the operator and Kubernetes itself put on a worker's pod. The schema refuses them as well; an object that was
/// stored before the schema did, is refused here.
const RESERVED_LABELS: [&str; 5] = [
    "xdcgrid.io/",
    "app.kubernetes.io/",
    "apps.kubernetes.io/",
    "statefulset.kubernetes.io/",
    "controller-revision-hash",
];
const RESERVED_ANNOTATIONS: [&str; 1] = ["xdcgrid.io/"];

fn foreign(
    field: &str,
    pairs: Option<&BTreeMap<String, String>>,
    reserved: &[&str],
) -> Result<BTreeMap<String, String>, Finding> {
    for key in pairs.into_iter().flat_map(BTreeMap::keys) {
        if reserved.iter().any(|prefix| key.starts_with(prefix)) {
            return Err(invalid(format!(
                "{field}: {key:?} belongs to the operator or to Kubernetes; take another key"
            )));
        }
        if !is_qualified_name(key) {
            return Err(invalid(format!("{field}: {key:?} is no key; a key looks like team or example.com/team")));
        }
    }
    Ok(pairs.cloned().unwrap_or_default())
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
        toleration_seconds: toleration.toleration_seconds,
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
    fn labels_of_the_operator_cannot_be_taken_over_and_a_bad_key_is_named() {
        for (key, words) in [
            ("xdcgrid.io/node", "belongs to the operator"),
            ("app.kubernetes.io/name", "belongs to the operator"),
            ("controller-revision-hash", "belongs to the operator"),
            ("no key", "is no key"),
        ] {
            let mut node = managed();
            node.spec.pod_labels = Some([(key.to_owned(), "x".to_owned())].into());
            let finding = validate(&node, &refs(&node)).err().unwrap();
            assert!(finding.message.contains(words) && finding.message.contains("spec.podLabels"), "{finding:?}");
        }
        let mut node = managed();
        node.spec.pod_annotations = Some([("xdcgrid.io/applied".to_owned(), String::new())].into());
        assert!(validate(&node, &refs(&node)).err().unwrap().message.contains("spec.podAnnotations"));
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
