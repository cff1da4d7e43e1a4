//! What the chart grants: read from its rendered objects, so that no template can widen it unseen.

use std::{path::PathBuf, process::Command};

use serde::Deserialize;
use serde_yaml::Value;

/// The pods that may hold a Kubernetes token.
const WITH_TOKEN: [&str; 2] = ["operator", "test"];
/// Nobody needs these across the cluster, but the one role for job credentials, to which the chart binds nobody.
const NOT_CLUSTER_WIDE: [&str; 9] = [
    "secrets",
    "pods",
    "pods/exec",
    "serviceaccounts/token",
    "deployments",
    "statefulsets",
    "daemonsets",
    "jobs",
    "nodes",
];

fn helm() -> PathBuf {
    let cache = std::env::var_os("XDC_GRID_CACHE").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/xdc-grid")));
    let installed = cache.map(|cache| cache.join("bin/helm")).filter(|path| path.exists());
    installed.unwrap_or_else(|| "helm".into())
}

/// All objects of the chart with its defaults, as release `grid` in namespace `xdc-grid`.
pub fn render() -> Vec<Value> {
    render_with(&[])
}

/// The same with these values, each as `key=value`.
pub fn render_with(values: &[&str]) -> Vec<Value> {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/xdc-grid");
    let mut command = Command::new(helm());
    command.args(["template", "grid", chart, "--namespace", "xdc-grid"]);
    for value in values {
        command.args(["--set", value]);
    }
    let output = command.output();
    let output = output.expect("helm is installed by `make tools`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let documents = serde_yaml::Deserializer::from_slice(&output.stdout);
    documents.map(|document| Value::deserialize(document).unwrap()).filter(|document| !document.is_null()).collect()
}

fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, key| value.get(key).unwrap_or(&Value::Null))
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, path: &str) -> Vec<&'a str> {
    at(value, path).as_sequence().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn name(document: &Value) -> String {
    format!("{} {}", text(document, "kind"), text(document, "metadata.name"))
}

fn rules(role: &Value) -> impl Iterator<Item = &Value> {
    at(role, "rules").as_sequence().into_iter().flatten()
}

fn pod_specs(documents: &[Value]) -> Vec<(String, &str, &Value)> {
    let spec = |document| match text(document, "kind") {
        "Pod" => Some(at(document, "spec")),
        "Deployment" | "StatefulSet" | "Job" => Some(at(document, "spec.template.spec")),
        _ => None,
    };
    let component = |document| {
        at(document, "metadata.labels").get("app.kubernetes.io/component").and_then(Value::as_str).unwrap_or_default()
    };
    documents.iter().filter_map(|document| Some((name(document), component(document), spec(document)?))).collect()
}

#[test]
fn the_chart_grants_no_wildcards_and_nobody_may_change_roles() {
    for role in render().iter().filter(|document| text(document, "kind").ends_with("Role")) {
        for rule in rules(role) {
            let groups = list(rule, "apiGroups");
            for granted in [&groups, &list(rule, "resources"), &list(rule, "verbs")] {
                assert!(!granted.contains(&"*"), "{}: {rule:?}", name(role));
            }
            assert!(!groups.contains(&"rbac.authorization.k8s.io"), "{}: {rule:?}", name(role));
        }
    }
}

#[test]
fn the_chart_binds_nobody_to_secrets_or_workloads_across_the_cluster() {
    let documents = render();
    let kind = |kind: &'static str| documents.iter().filter(move |document| text(document, "kind") == kind);
    let bound: Vec<_> = kind("ClusterRoleBinding").map(|binding| text(binding, "roleRef.name")).collect();
    assert!(bound.contains(&"grid-xdc-grid-operator"));
    let secrets = |role: &&Value| rules(role).any(|rule| list(rule, "resources").contains(&"secrets"));
    let unbound: Vec<_> = kind("ClusterRole").filter(secrets).map(|role| text(role, "metadata.name")).collect();
    assert_eq!(unbound, ["grid-xdc-grid-job-secrets"]);
    for role in kind("ClusterRole").filter(|role| bound.contains(&text(role, "metadata.name"))) {
        for rule in rules(role) {
            let wide: Vec<_> =
                list(rule, "resources").into_iter().filter(|name| NOT_CLUSTER_WIDE.contains(name)).collect();
            assert!(wide.is_empty(), "{} grants {wide:?} across the cluster", name(role));
        }
    }
}

#[test]
fn every_pod_of_the_chart_is_restricted_and_only_the_operator_holds_a_token() {
    let documents = render();
    let pods = pod_specs(&documents);
    assert_eq!(pods.len(), 3, "operator, gateway, test: {pods:?}");
    for (name, component, spec) in pods {
        assert_eq!(at(spec, "securityContext.runAsNonRoot").as_bool(), Some(true), "{name}");
        assert_eq!(text(spec, "securityContext.seccompProfile.type"), "RuntimeDefault", "{name}");
        let token = at(spec, "automountServiceAccountToken").as_bool();
        assert_eq!(token, Some(WITH_TOKEN.contains(&component)), "{name}");
        for container in at(spec, "containers").as_sequence().into_iter().flatten() {
            assert_eq!(at(container, "securityContext.allowPrivilegeEscalation").as_bool(), Some(false), "{name}");
            assert_eq!(at(container, "securityContext.readOnlyRootFilesystem").as_bool(), Some(true), "{name}");
            assert_eq!(list(container, "securityContext.capabilities.drop"), ["ALL"], "{name}");
            assert!(!at(container, "resources.limits.memory").is_null(), "{name} has no memory limit");
        }
    }
}

/// Hashes of guessable prompts are in statements: nobody publishes them without having said so.
#[test]
fn statements_are_published_only_where_the_values_say_so() {
    let publishes = |documents: &[Value]| {
        let pods = pod_specs(documents);
        let (_, _, gateway) = pods.iter().find(|(_, component, _)| *component == "gateway").unwrap();
        let containers = at(gateway, "containers").as_sequence().unwrap();
        containers.iter().any(|container| list(container, "args").contains(&"--publish-statements"))
    };
    assert!(!publishes(&render()));
    assert!(publishes(&render_with(&["gateway.publishStatements=true"])));
}
