//! Pure: the member that the gateway is told of, and the worker of a Managed node.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{StatefulSet, StatefulSetSpec},
        core::v1::{
            Container, ContainerPort, HTTPGetAction, KeyToPath, PersistentVolumeClaim, PersistentVolumeClaimSpec,
            PodSpec, PodTemplateSpec, Probe, SecretVolumeSource, Volume, VolumeMount, VolumeResourceRequirements,
        },
        resource::v1::{ResourceClaimTemplate, ResourceClaimTemplateSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};

use super::{
    identity::KEY_FILE,
    validate::{ValidatedNode, WorkerSpec},
};
use crate::{
    operator::{config::OperatorConfig, pods},
    protocol::internal::{Member, NodeRole},
};

/// On everything that belongs to a node; its value is the GridNode's name.
pub const NODE_LABEL: &str = "xdcgrid.io/node";
const HTTP_PORT: i32 = 8080;
const KEY_FOLDER: &str = "/etc/xdc-grid/key";
const DATA_FOLDER: &str = "/var/lib/xdc-grid";
const DATA: &str = "data";
const KEY: &str = "key";

/// What there is to be for a node.
pub struct NodeResources {
    pub member: Member,
    /// Absent for External nodes, and until the gateway's peer id is known.
    pub stateful_set: Option<StatefulSet>,
    /// Only with dynamic resource allocation.
    pub claim_template: Option<ResourceClaimTemplate>,
}

pub fn build(node: &ValidatedNode, draining: Draining, config: &OperatorConfig) -> NodeResources {
    let worker = node.worker.as_ref().zip(node.gateway_peer.as_deref());
    NodeResources {
        member: member(node, draining),
        stateful_set: worker.map(|(worker, gateway)| stateful_set(node, worker, gateway, config)),
        claim_template: node.worker.as_ref().and_then(|worker| claim_template(node, worker)),
    }
}

/// Whether a node is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draining {
    Yes,
    No,
}

pub fn worker_name(node: &str) -> String {
    format!("worker-{node}")
}

pub fn key_secret_name(node: &str) -> String {
    format!("worker-{node}-key")
}

pub fn labels(node: &str) -> BTreeMap<String, String> {
    let pairs = [
        ("app.kubernetes.io/name", "xdc-grid"),
        ("app.kubernetes.io/component", "worker"),
        ("app.kubernetes.io/managed-by", "xdc-grid-operator"),
        (NODE_LABEL, node),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn member(node: &ValidatedNode, draining: Draining) -> Member {
    Member {
        peer_id: node.identity.peer_id.clone(),
        node_name: node.name.clone(),
        mode: node.mode,
        roles: node.roles.clone(),
        schedulable: !node.cordoned && draining == Draining::No,
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
    StatefulSet {
        metadata: metadata(node, name.clone()),
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(name),
            selector: LabelSelector { match_labels: Some(selector), ..LabelSelector::default() },
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels(&node.name)), ..ObjectMeta::default() }),
                spec: Some(pod(node, worker, gateway, config)),
            },
            volume_claim_templates: worker.storage.as_ref().map(|storage| vec![claim(storage)]),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn pod(node: &ValidatedNode, worker: &WorkerSpec, gateway: &str, config: &OperatorConfig) -> PodSpec {
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        node_selector: Some(worker.node_selector.clone()).filter(|labels| !labels.is_empty()),
        tolerations: Some(worker.tolerations.clone()).filter(|tolerations| !tolerations.is_empty()),
        // A running answer may be finished; a lease that is lost is worked again elsewhere.
        termination_grace_period_seconds: Some(30),
        security_context: Some(pods::pod_security()),
        resource_claims: pods::device_claims(&worker.accelerators, &worker_name(&node.name)),
        containers: vec![container(node, worker, gateway, config)],
        volumes: Some(volumes(node, worker)),
        ..PodSpec::default()
    }
}

fn container(node: &ValidatedNode, worker: &WorkerSpec, gateway: &str, config: &OperatorConfig) -> Container {
    let mount = |name: &str, path: &str, read_only: bool| VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: Some(read_only).filter(|read_only| *read_only),
        ..VolumeMount::default()
    };
    Container {
        name: "worker".into(),
        image: Some(config.worker_image.clone()),
        image_pull_policy: Some(config.worker_image_pull_policy.clone()),
        command: Some(vec!["/usr/local/bin/grid-worker".into()]),
        args: Some(args(node, gateway, config)),
        ports: Some(vec![ContainerPort {
            name: Some("http".into()),
            container_port: HTTP_PORT,
            ..ContainerPort::default()
        }]),
        resources: Some(pods::resources(&worker.accelerators, &worker.resources)),
        security_context: Some(pods::container_security()),
        volume_mounts: Some(vec![
            mount(KEY, KEY_FOLDER, true),
            mount(DATA, DATA_FOLDER, false),
            mount("tmp", "/tmp", false),
        ]),
        // A model takes minutes to come over the grid and to be measured; that is not a failure.
        startup_probe: Some(probe("/health", 1, 60)),
        liveness_probe: Some(probe("/health", 10, 6)),
        readiness_probe: Some(probe("/ready", 2, 3)),
        ..Container::default()
    }
}

fn args(node: &ValidatedNode, gateway: &str, config: &OperatorConfig) -> Vec<String> {
    let mut args = vec![
        "run".to_owned(),
        format!("--key-file={KEY_FOLDER}/{KEY_FILE}"),
        format!("--gateway={}/p2p/{gateway}", config.gateway_multiaddr),
        format!("--chain-id={}", node.network.chain_id),
        format!("--contract={}", node.network.contract),
        format!("--data-dir={DATA_FOLDER}"),
        format!("--roles={}", node.roles.iter().map(role).collect::<Vec<_>>().join(",")),
        format!("--http-address=0.0.0.0:{HTTP_PORT}"),
    ];
    if !node.network.salt.is_empty() {
        args.push(format!("--network-salt={}", node.network.salt));
    }
    args
}

fn role(role: &NodeRole) -> &'static str {
    match role {
        NodeRole::Compute => "Compute",
        NodeRole::Verify => "Verify",
        NodeRole::Storage => "Storage",
    }
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String("http".into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

fn volumes(node: &ValidatedNode, worker: &WorkerSpec) -> Vec<Volume> {
    let key = Volume {
        name: KEY.into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(key_secret_name(&node.name)),
            // 0400, given to the group by fsGroup.
            default_mode: Some(0o400),
            items: Some(vec![KeyToPath { key: KEY_FILE.into(), path: KEY_FILE.into(), ..KeyToPath::default() }]),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    };
    let data = worker.storage.is_none().then(|| pods::scratch(DATA, "20Gi"));
    [key, pods::scratch("tmp", "64Mi")].into_iter().chain(data).collect()
}

fn claim(storage: &crate::api::grid_node::StorageSpec) -> PersistentVolumeClaim {
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

    use super::*;
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
        build(&validate(node, &refs(node)).unwrap(), Draining::No, &config())
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
        assert!(!build(&validated, Draining::Yes, &config()).member.schedulable);
        node.spec.unschedulable = true;
        assert!(!built(&node).member.schedulable);
    }
}
