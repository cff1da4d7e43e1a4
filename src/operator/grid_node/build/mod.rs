//! Pure: the member that the gateway is told of, and the worker of a Managed node.

mod pod;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy},
        core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, PodTemplateSpec, VolumeResourceRequirements},
        resource::v1::{ResourceClaimTemplate, ResourceClaimTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};

use super::validate::{POOL_LABEL, ValidatedNode, WorkerSpec};
use crate::{
    api::grid_node::{StorageSpec, UpdatePolicy},
    operator::{config::OperatorConfig, pods},
    protocol::internal::Member,
};

/// On everything that belongs to a node; its value is the GridNode's name.
pub const NODE_LABEL: &str = "xdcgrid.io/node";
/// What an object is part of.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Value of that label on workers.
pub const WORKER: &str = "worker";
const DATA: &str = "data";

/// What there is to be for a node.
pub struct NodeResources {
    pub member: Member,
    /// Absent for External nodes, and until the gateway's peer id is known.
    pub stateful_set: Option<StatefulSet>,
    /// Only with dynamic resource allocation.
    pub claim_template: Option<ResourceClaimTemplate>,
}

pub fn build(node: &ValidatedNode, intake: Intake, config: &OperatorConfig) -> NodeResources {
    let worker = node.worker.as_ref().zip(node.gateway_peer.as_deref());
    NodeResources {
        member: member(node, intake),
        stateful_set: worker.map(|(worker, gateway)| stateful_set(node, worker, gateway, config)),
        claim_template: node.worker.as_ref().and_then(|worker| claim_template(node, worker)),
    }
}

/// Whether a node may be given new work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intake {
    Open,
    /// On its way out, or about to be updated.
    Closed,
    /// Outside its availability windows: it is asked to prove nothing either.
    Resting,
}

pub fn worker_name(node: &str) -> String {
    format!("worker-{node}")
}

/// The one pod of the worker, as its StatefulSet names it.
pub fn pod_name(node: &str) -> String {
    format!("{}-0", worker_name(node))
}

pub fn key_secret_name(node: &str) -> String {
    format!("worker-{node}-key")
}

pub fn labels(node: &str) -> BTreeMap<String, String> {
    let pairs = [
        ("app.kubernetes.io/name", "xdc-grid"),
        (COMPONENT_LABEL, WORKER),
        ("app.kubernetes.io/managed-by", "xdc-grid-operator"),
        (NODE_LABEL, node),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn member(node: &ValidatedNode, intake: Intake) -> Member {
    Member {
        peer_id: node.identity.peer_id.clone(),
        node_name: node.name.clone(),
        mode: node.mode,
        roles: node.roles.clone(),
        schedulable: !node.cordoned && intake == Intake::Open,
        resting: intake == Intake::Resting,
        max_requests: node.max_requests,
        registered: node.registered,
        models: node.models.clone(),
        labels: node.labels.clone(),
    }
}

fn metadata(node: &ValidatedNode, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        labels: Some(labels(&node.name)),
        owner_references: node.owner.clone().map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

fn stateful_set(node: &ValidatedNode, worker: &WorkerSpec, gateway: &str, config: &OperatorConfig) -> StatefulSet {
    let name = worker_name(&node.name);
    let selector = [(NODE_LABEL.to_owned(), node.name.clone())].into();
    let strategy = match worker.update_policy {
        // The operator deletes the pod itself, when nothing runs in it.
        UpdatePolicy::OnIdle => "OnDelete",
        UpdatePolicy::Immediate => "RollingUpdate",
    };
    StatefulSet {
        metadata: metadata(node, name.clone()),
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(name),
            selector: LabelSelector { match_labels: Some(selector), ..LabelSelector::default() },
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some(strategy.into()),
                ..StatefulSetUpdateStrategy::default()
            }),
            template: PodTemplateSpec {
                metadata: Some(pod_metadata(node, worker)),
                spec: Some(pod::pod(node, worker, gateway, config)),
            },
            volume_claim_templates: worker.storage.as_ref().map(|storage| vec![claim(storage)]),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

/// Ours come last: nobody can take them over.
fn pod_metadata(node: &ValidatedNode, worker: &WorkerSpec) -> ObjectMeta {
    let mut all = worker.labels.clone();
    all.extend(labels(&node.name));
    all.extend(worker.pool.clone().map(|pool| (POOL_LABEL.to_owned(), pool)));
    ObjectMeta {
        labels: Some(all),
        annotations: Some(worker.annotations.clone()).filter(|annotations| !annotations.is_empty()),
        ..ObjectMeta::default()
    }
}

fn claim(storage: &StorageSpec) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some(DATA.into()), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            storage_class_name: storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), storage.capacity.clone())].into()),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

fn claim_template(node: &ValidatedNode, worker: &WorkerSpec) -> Option<ResourceClaimTemplate> {
    let spec = pods::claim_spec(&worker.accelerators)?;
    Some(ResourceClaimTemplate {
        metadata: metadata(node, worker_name(&node.name)),
        spec: ResourceClaimTemplateSpec { spec, ..ResourceClaimTemplateSpec::default() },
    })
}

#[cfg(test)]
pub(in crate::operator) mod tests {
    use clap::Parser;

    use k8s_openapi::api::core::v1::PodSpec;

    use super::{pod::KEY, *};
    use crate::operator::grid_node::validate::{
        tests::{external, managed, refs},
        validate,
    };

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        config: OperatorConfig,
    }

    pub(in crate::operator) fn config() -> OperatorConfig {
        Cli::parse_from(["x", "--worker-image=w:1", "--gateway-multiaddr=/dns4/gw/tcp/4001"]).config
    }

    fn built(node: &crate::api::grid_node::GridNode) -> NodeResources {
        build(&validate(node, &refs(node)).unwrap(), Intake::Open, &config())
    }

    fn pod_of(resources: &NodeResources) -> PodSpec {
        resources.stateful_set.clone().unwrap().spec.unwrap().template.spec.unwrap()
    }

    #[test]
    fn the_worker_pod_meets_the_restricted_standard_and_has_no_token() {
        let pod = pod_of(&built(&managed()));
        assert_eq!((pod.automount_service_account_token, pod.enable_service_links), (Some(false), Some(false)));
        let security = pod.security_context.unwrap();
        assert_eq!((security.run_as_non_root, security.run_as_user), (Some(true), Some(65532)));
        assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
        let container = pod.containers[0].security_context.clone().unwrap();
        assert_eq!(container.read_only_root_filesystem, Some(true));
        assert_eq!(container.allow_privilege_escalation, Some(false));
        assert_eq!(container.capabilities.unwrap().drop.unwrap(), ["ALL"]);
        let key = pod.volumes.unwrap().into_iter().find(|volume| volume.name == KEY).unwrap().secret.unwrap();
        assert_eq!(key.default_mode, Some(0o400));
    }

    #[test]
    fn the_worker_is_told_its_network_and_gateway() {
        let args = pod_of(&built(&managed())).containers[0].args.clone().unwrap();
        for expected in [
            "run",
            "--gateway=/dns4/gw/tcp/4001/p2p/16Uiu2HAgateway",
            "--chain-id=51",
            "--contract=0x00000000000000000000000000000000000000aa",
            "--roles=Compute,Storage",
        ] {
            assert!(args.iter().any(|arg| arg == expected), "{expected} in {args:?}");
        }
    }

    #[test]
    fn requests_equal_limits_and_devices_are_counted() {
        let mut node = managed();
        node.spec.accelerators = serde_yaml::from_str("{extendedResource: {name: nvidia.com/gpu, count: 2}}").unwrap();
        let resources = pod_of(&built(&node)).containers[0].resources.clone().unwrap();
        assert_eq!(resources.requests, resources.limits);
        let limits = resources.limits.unwrap();
        assert_eq!((limits["nvidia.com/gpu"].0.as_str(), limits["cpu"].0.as_str()), ("2", "2"));
    }

    #[test]
    fn devices_of_a_class_are_claimed_through_a_template() {
        let mut node = managed();
        node.spec.accelerators = serde_yaml::from_str("{dra: {deviceClassName: gpu.example.com}}").unwrap();
        let resources = built(&node);
        let pod = pod_of(&resources);
        assert_eq!(pod.resource_claims.unwrap()[0].resource_claim_template_name.as_deref(), Some("worker-node-a"));
        assert!(resources.claim_template.is_some());
    }

    #[test]
    fn data_is_on_a_volume_when_storage_is_asked_for_and_in_scratch_space_otherwise() {
        let mut node = managed();
        let scratch = built(&node).stateful_set.unwrap().spec.unwrap();
        assert!(scratch.volume_claim_templates.is_none());
        node.spec.storage = serde_yaml::from_str("{capacity: 2Gi, storageClassName: fast}").unwrap();
        let resources = built(&node);
        assert!(!pod_of(&resources).volumes.unwrap().iter().any(|volume| volume.name == DATA));
        let claims = resources.stateful_set.unwrap().spec.unwrap().volume_claim_templates.unwrap();
        assert_eq!(claims[0].spec.as_ref().unwrap().storage_class_name.as_deref(), Some("fast"));
    }

    #[test]
    fn what_an_admin_says_about_the_pod_passes_through_and_labels_of_the_operator_stay() {
        let mut node = managed();
        node.metadata.labels = Some([(POOL_LABEL.to_owned(), "gpus".to_owned())].into());
        let more: crate::api::grid_node::GridNodeSpec = serde_yaml::from_str(
            r#"
            networkRef: {name: demo}
            mode: Managed
            tolerations: [{key: gpu, operator: Exists, effect: NoExecute, tolerationSeconds: 300}]
            runtimeClassName: nvidia
            priorityClassName: spare
            topologySpreadConstraints: [{topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}]
            imagePullSecrets: [{name: registry}]
            podLabels: {team: research}
            podAnnotations: {example.com/owner: anna}
            "#,
        )
        .unwrap();
        node.spec = crate::api::grid_node::GridNodeSpec { accelerators: node.spec.accelerators, ..more };
        let template = built(&node).stateful_set.unwrap().spec.unwrap().template;
        let (metadata, pod) = (template.metadata.unwrap(), template.spec.unwrap());
        assert_eq!(
            (pod.runtime_class_name.as_deref(), pod.priority_class_name.as_deref()),
            (Some("nvidia"), Some("spare"))
        );
        assert_eq!(pod.image_pull_secrets.unwrap()[0].name, "registry");
        assert_eq!(pod.tolerations.unwrap()[0].toleration_seconds, Some(300));
        let spread = &pod.topology_spread_constraints.unwrap()[0];
        assert_eq!((spread.max_skew, spread.when_unsatisfiable.as_str()), (1, "ScheduleAnyway"));
        assert_eq!(spread.label_selector.as_ref().unwrap().match_labels.as_ref().unwrap()[POOL_LABEL], "gpus");
        let labels = metadata.labels.unwrap();
        assert_eq!(
            (labels["team"].as_str(), labels[NODE_LABEL].as_str(), labels[POOL_LABEL].as_str()),
            ("research", "node-a", "gpus")
        );
        assert_eq!(metadata.annotations.unwrap()["example.com/owner"], "anna");
    }

    #[test]
    fn a_worker_is_replaced_by_the_operator_unless_the_node_says_immediate() {
        let strategy = |node: &crate::api::grid_node::GridNode| {
            built(node).stateful_set.unwrap().spec.unwrap().update_strategy.unwrap().type_.unwrap()
        };
        let mut node = managed();
        assert_eq!(strategy(&node), "OnDelete");
        node.spec.update_policy = UpdatePolicy::Immediate;
        assert_eq!(strategy(&node), "RollingUpdate");
    }

    #[test]
    fn outside_its_windows_a_node_is_given_nothing_and_asked_nothing() {
        let mut node = managed();
        node.spec.limits = serde_yaml::from_str("{maxRequests: 2}").unwrap();
        let validated = validate(&node, &refs(&node)).unwrap();
        let member = build(&validated, Intake::Resting, &config()).member;
        assert_eq!((member.schedulable, member.resting, member.max_requests), (false, true, Some(2)));
    }

    #[test]
    fn an_external_node_is_a_member_and_nothing_else() {
        let node = external();
        let resources = built(&node);
        assert!(resources.stateful_set.is_none());
        assert_eq!(resources.member.node_name, "home");
    }

    #[test]
    fn a_cordoned_or_draining_node_takes_no_new_leases() {
        let mut node = managed();
        assert!(built(&node).member.schedulable);
        let validated = validate(&node, &refs(&node)).unwrap();
        assert!(!build(&validated, Intake::Closed, &config()).member.schedulable);
        node.spec.unschedulable = true;
        assert!(!built(&node).member.schedulable);
    }
}
