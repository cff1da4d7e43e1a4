//! Pure: the pod of a worker, by the restricted pod security standard.

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerPort, HTTPGetAction, KeyToPath, LocalObjectReference, PodSpec, Probe, SecretVolumeSource,
        TopologySpreadConstraint, Volume,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{COMPONENT_LABEL, DATA, WORKER, key_secret_name, worker_name};
use crate::{
    api::grid_node::TopologySpread,
    operator::{
        config::OperatorConfig,
        grid_node::{
            identity::KEY_FILE,
            validate::{POOL_LABEL, ValidatedNode, WorkerSpec},
        },
        pods,
    },
    protocol::internal::NodeRole,
};

const HTTP_PORT: i32 = 8080;
const KEY_FOLDER: &str = "/etc/xdc-grid/key";
const DATA_FOLDER: &str = "/var/lib/xdc-grid";
pub(super) const KEY: &str = "key";

pub(super) fn pod(node: &ValidatedNode, worker: &WorkerSpec, gateway: &str, config: &OperatorConfig) -> PodSpec {
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        node_selector: Some(worker.node_selector.clone()).filter(|labels| !labels.is_empty()),
        tolerations: some(worker.tolerations.clone()),
        runtime_class_name: worker.runtime_class_name.clone(),
        priority_class_name: worker.priority_class_name.clone(),
        topology_spread_constraints: some(worker.topology_spread.iter().map(|one| spread(one, worker)).collect()),
        image_pull_secrets: some(
            worker.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect(),
        ),
        // A running answer may be finished; a lease that is lost is worked again elsewhere.
        termination_grace_period_seconds: Some(30),
        security_context: Some(pods::pod_security()),
        resource_claims: pods::device_claims(&worker.accelerators, &worker_name(&node.name)),
        containers: vec![container(node, worker, gateway, config)],
        volumes: Some(volumes(node, worker)),
        ..PodSpec::default()
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

/// Workers of the same pool are counted, or all workers for one without a pool.
fn spread(one: &TopologySpread, worker: &WorkerSpec) -> TopologySpreadConstraint {
    let among = match &worker.pool {
        Some(pool) => (POOL_LABEL.to_owned(), pool.clone()),
        None => (COMPONENT_LABEL.to_owned(), WORKER.to_owned()),
    };
    TopologySpreadConstraint {
        topology_key: one.topology_key.clone(),
        max_skew: one.max_skew,
        when_unsatisfiable: format!("{:?}", one.when_unsatisfiable),
        label_selector: Some(LabelSelector { match_labels: Some([among].into()), ..LabelSelector::default() }),
        ..TopologySpreadConstraint::default()
    }
}

fn container(node: &ValidatedNode, worker: &WorkerSpec, gateway: &str, config: &OperatorConfig) -> Container {
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
            pods::mount(KEY, KEY_FOLDER, true),
            pods::mount(DATA, DATA_FOLDER, false),
            pods::mount("tmp", "/tmp", false),
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
