//! An API server apart from the one that the other tests share, for tests that run whole operators, break them, or count what
//! they do. Whoever is on the island has it for itself, finds it empty, and acts on it as the chart's own ServiceAccount: a
//! verb that the chart does not grant fails here. The server writes down what that account did.

use std::{path::PathBuf, process::Command, sync::OnceLock};

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, GroupVersionKind},
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

use super::{
    eventually,
    world::{SYSTEM, create_in, install_crds, namespace},
};
use crate::chart;

/// The ServiceAccount, Role, ClusterRole and Lease of the operator in the chart as the tests render it.
pub const OPERATOR: &str = "grid-xdc-grid-operator";
/// The first well-known account of anvil: worth nothing anywhere.
pub const REPORTER: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";

struct Plane {
    folder: PathBuf,
    kubeconfig: PathBuf,
}

/// The server, started by whoever comes first; `with-control-plane` removes it.
fn plane() -> &'static Plane {
    static PLANE: OnceLock<Plane> = OnceLock::new();
    PLANE.get_or_init(|| {
        let folder = PathBuf::from(std::env::var_os("CONTROL_PLANE_APART").expect(
            "CONTROL_PLANE_APART names no folder: run `make test`, or tests/cluster/with-control-plane cargo test --test it",
        ));
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/cluster.sh");
        let output = Command::new(program).args(["control-plane", "--state"]).arg(&folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let kubeconfig = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
        Plane { folder, kubeconfig }
    })
}

static ALONE: Mutex<()> = Mutex::const_new(());

/// The empty server, until it is dropped.
pub struct Island {
    /// May do everything.
    pub admin: Client,
    _alone: MutexGuard<'static, ()>,
}

impl Island {
    pub async fn land() -> Self {
        xdc_grid::telemetry::install_crypto_provider();
        let alone = ALONE.lock().await;
        let plane = tokio::task::spawn_blocking(plane).await.unwrap();
        let admin = client_of(&plane.kubeconfig).await;
        namespace(&admin, SYSTEM).await;
        install_crds(&admin).await;
        clear(&admin).await;
        install_roles(&admin).await;
        let secret = json!({"metadata": {"name": "reporter"}, "stringData": {"key": REPORTER}});
        create_in::<k8s_openapi::api::core::v1::Secret>(&admin, SYSTEM, secret).await;
        Island { admin, _alone: alone }
    }

    /// Gives the operator the roles that the chart has with these values, until the next one lands.
    pub async fn install_roles_with(&self, values: &[&str]) {
        install(&self.admin, chart::render_with(values)).await;
        let jobs: Api<k8s_openapi::api::batch::v1::Job> = Api::all(self.operator().await);
        eventually("the authorizer knows the roles", async || jobs.list(&ListParams::default()).await.ok()).await;
    }

    /// A client with a fresh token of the operator's ServiceAccount.
    pub async fn operator(&self) -> Client {
        client_of(&self.operator_kubeconfig("in-process").await).await
    }

    /// A kubeconfig with a fresh token of the operator's ServiceAccount; every token can be told apart in the audit log.
    pub async fn operator_kubeconfig(&self, name: &str) -> PathBuf {
        let token = self.token().await;
        let text = std::fs::read_to_string(&plane().kubeconfig).unwrap();
        let mut kubeconfig: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
        kubeconfig["users"][0]["user"] = serde_yaml::to_value(json!({"token": token})).unwrap();
        let file = plane().folder.join(format!("operator-{name}.kubeconfig"));
        std::fs::write(&file, serde_yaml::to_string(&kubeconfig).unwrap()).unwrap();
        file
    }

    async fn token(&self) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin.clone(), SYSTEM);
        let wanted = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(24 * 3600), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let made = accounts.create_token_request(OPERATOR, &PostParams::default(), &wanted).await.unwrap();
        made.status.unwrap().token
    }

    /// What the operator's ServiceAccount did since `mark`, oldest first.
    pub fn audit_since(&self, mark: usize) -> Vec<Value> {
        let text = audit_log();
        let account = format!("system:serviceaccount:{SYSTEM}:{OPERATOR}");
        text.lines()
            .skip(mark)
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .filter(|event| event["user"]["username"] == account.as_str())
            .collect()
    }

    /// Where the audit log ends now.
    pub fn audit_mark(&self) -> usize {
        audit_log().lines().count()
    }
}

/// The server's audit log without a last line that it is still writing.
fn audit_log() -> String {
    let mut text = std::fs::read_to_string(plane().folder.join("audit.log")).unwrap_or_default();
    text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    text
}

async fn client_of(kubeconfig: &std::path::Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    Client::try_from(Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()).unwrap()
}

fn kind(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// Everything that a test may have left. Nobody collects garbage here, and nobody waits for finalizers.
async fn clear(admin: &Client) {
    for (name, plural) in [
        ("GridNetwork", "gridnetworks"),
        ("GridNodePool", "gridnodepools"),
        ("GridNode", "gridnodes"),
        ("GridModel", "gridmodels"),
        ("InferenceJob", "inferencejobs"),
        ("ContributionReport", "contributionreports"),
    ] {
        remove_all(admin, &kind("xdcgrid.io", "v1alpha1", name, plural)).await;
    }
    for resource in [
        kind("", "v1", "ConfigMap", "configmaps"),
        kind("", "v1", "Secret", "secrets"),
        kind("", "v1", "Event", "events"),
        kind("apps", "v1", "StatefulSet", "statefulsets"),
        kind("batch", "v1", "Job", "jobs"),
        kind("resource.k8s.io", "v1", "ResourceClaimTemplate", "resourceclaimtemplates"),
        kind("coordination.k8s.io", "v1", "Lease", "leases"),
    ] {
        remove_all(admin, &resource).await;
    }
}

async fn remove_all(admin: &Client, resource: &ApiResource) {
    let everywhere: Api<DynamicObject> = Api::all_with(admin.clone(), resource);
    for object in everywhere.list(&ListParams::default()).await.unwrap() {
        let name = object.name_any();
        let api: Api<DynamicObject> = match object.namespace() {
            Some(namespace) if namespace.starts_with("kube-") => continue,
            Some(namespace) => Api::namespaced_with(admin.clone(), &namespace, resource),
            None => everywhere.clone(),
        };
        if !object.finalizers().is_empty() {
            let patch = json!({"metadata": {"finalizers": null}});
            let _ = api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        }
        let _ = api.delete(&name, &DeleteParams::default()).await;
    }
}

/// The operator's account and roles, as the chart renders them with its defaults, and no others.
async fn install_roles(admin: &Client) {
    for resource in [
        kind("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings"),
        kind("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles"),
    ] {
        let api: Api<DynamicObject> = Api::all_with(admin.clone(), &resource);
        let _ = api.delete(&format!("{OPERATOR}-local-jobs"), &DeleteParams::default()).await;
    }
    install(admin, chart::render()).await;
}

/// Of what the chart renders, what says what the operator may do.
async fn install(admin: &Client, documents: Vec<serde_yaml::Value>) {
    for document in documents {
        let object: Value = serde_json::to_value(&document).unwrap();
        let wanted = match object["kind"].as_str().unwrap_or_default() {
            "ServiceAccount" => kind("", "v1", "ServiceAccount", "serviceaccounts"),
            "Role" => kind("rbac.authorization.k8s.io", "v1", "Role", "roles"),
            "RoleBinding" => kind("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
            "ClusterRole" => kind("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles"),
            "ClusterRoleBinding" => {
                kind("rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings")
            }
            _ => continue,
        };
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        // With the roles of parts that can be switched off.
        if !name.starts_with(OPERATOR) {
            continue;
        }
        let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(admin.clone(), namespace, &wanted),
            None => Api::all_with(admin.clone(), &wanted),
        };
        api.patch(&name, &PatchParams::apply("it").force(), &Patch::Apply(&object)).await.unwrap();
    }
}
