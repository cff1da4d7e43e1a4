//! Who the operator is for the API server: everything that it may do in the system's namespace, everything but Secrets
//! elsewhere. So a test that reads a tenant's Secret is refused as it would be in a cluster.

use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use super::{config, world::SYSTEM};

/// ServiceAccount of the operator, as its default options have it.
pub const ACCOUNT: &str = "xdc-grid-operator";
/// ClusterRole for the Secrets of a namespace, as the operator's default options have it; bound to nobody here.
pub const JOB_SECRETS: &str = "xdc-grid-job-secrets";

const GROUPS: [&str; 16] = [
    "xdcgrid.io",
    "rbac.authorization.k8s.io",
    "apps",
    "autoscaling",
    "batch",
    "coordination.k8s.io",
    "apiextensions.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "kueue.x-k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
];
const CORE: [&str; 11] = [
    "configmaps",
    "events",
    "endpoints",
    "namespaces",
    "nodes",
    "persistentvolumeclaims",
    "pods",
    "pods/eviction",
    "pods/log",
    "serviceaccounts",
    "services",
];

/// The configuration of a client that is the operator's ServiceAccount.
pub async fn operator_config() -> Config {
    let mut config = config().await;
    let user = format!("system:serviceaccount:{SYSTEM}:{ACCOUNT}");
    config.headers.push((http::HeaderName::from_static("impersonate-user"), user.parse().unwrap()));
    config
}

pub async fn bind_operator(client: &Client) {
    let all = json!(["*"]);
    let rules = json!([
        {"apiGroups": GROUPS, "resources": all, "verbs": all},
        {"apiGroups": [""], "resources": CORE, "verbs": all},
    ]);
    apply(client, None, "ClusterRole", "it-operator", json!({"rules": rules})).await;
    apply(client, None, "ClusterRoleBinding", "it-operator", binding("ClusterRole", "it-operator")).await;
    let secrets = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": all}]);
    apply(client, Some(SYSTEM), "Role", "it-operator", json!({"rules": secrets})).await;
    apply(client, Some(SYSTEM), "RoleBinding", "it-operator", binding("Role", "it-operator")).await;
    let read = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]);
    apply(client, None, "ClusterRole", JOB_SECRETS, json!({"rules": read})).await;
}

/// What `kubectl create rolebinding` of the command that a job prints does.
pub async fn grant_secrets(client: &Client, namespace: &str) {
    apply(client, Some(namespace), "RoleBinding", JOB_SECRETS, binding("ClusterRole", JOB_SECRETS)).await;
}

fn binding(kind: &str, role: &str) -> Value {
    json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": SYSTEM}],
    })
}

async fn apply(client: &Client, namespace: Option<&str>, kind: &str, name: &str, mut object: Value) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("rbac.authorization.k8s.io", "v1", kind));
    let api: Api<DynamicObject> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    object["apiVersion"] = "rbac.authorization.k8s.io/v1".into();
    object["kind"] = kind.into();
    object["metadata"] = json!({"name": name});
    api.patch(name, &PatchParams::apply("it").force(), &Patch::Apply(&object)).await.unwrap();
}
