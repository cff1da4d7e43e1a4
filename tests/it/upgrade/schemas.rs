//! The CRDs of both versions, and which of them an API server serves.

use std::path::PathBuf;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
    runtime::wait::{await_condition, conditions::is_crd_established},
};
use serde_json::{Value, json};
use xdc_grid::api::crds;

use super::{TEAM, stored::api_of};
use crate::support::{eventually, world::SYSTEM};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Previous,
    Today,
}

/// The CRDs that the version before this one had.
pub fn previous() -> Vec<CustomResourceDefinition> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/upgrade/previous/crds"));
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<CustomResourceDefinition> =
        files.map(|path| serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()).collect();
    found.sort_by_key(ResourceExt::name_any);
    assert_eq!(found.len(), 6);
    found
}

/// Applies one version's CRDs over whatever is there and returns once they are what objects are held against.
pub async fn serve(client: &Client, version: Version) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let wanted = match version {
        Version::Previous => previous(),
        Version::Today => crds::all().unwrap(),
    };
    for crd in wanted {
        let name = crd.name_any();
        api.patch(&name, &PatchParams::apply("it").force(), &Patch::Apply(&crd)).await.unwrap();
        await_condition(api.clone(), &name, is_crd_established()).await.unwrap();
    }
    // The condition was there before: only an object that the versions judge differently tells them apart.
    for (object, taken_by) in probes() {
        let what = format!("the schemas of {version:?} for {}", object["kind"]);
        eventually(&what, async || (is_taken(client, &object).await == (taken_by == version)).then_some(())).await;
    }
}

async fn is_taken(client: &Client, object: &Value) -> bool {
    let api: Api<DynamicObject> = api_of(client, object);
    let trial = PatchParams::apply("it-probe").dry_run().validation_strict();
    api.patch(object["metadata"]["name"].as_str().unwrap(), &trial, &Patch::Apply(object)).await.is_ok()
}

/// For each kind an object that one version takes and the other refuses.
fn probes() -> [(Value, Version); 6] {
    let object = |kind: &str, namespace: Option<&str>, name: &str, spec: Value| {
        let mut metadata = json!({"name": name});
        if let Some(namespace) = namespace {
            metadata["namespace"] = namespace.into();
        }
        json!({"apiVersion": "xdcgrid.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
    };
    let address = "0x00000000000000000000000000000000000000aa";
    let network = json!({
        "chain": {"chainID": 51, "rpcEndpoints": ["http://chain"], "contract": address, "reporterSecretRef": {"name": "r"}},
        "rewards": {"budgetPerEpochWei": "1"}, "scheduling": {"namespaceWeights": {"a": 2}},
    });
    let model = json!({"source": {"url": "http://x/y"}, "sha256": "ab".repeat(32), "format": "Safetensors"});
    // Names have become stricter.
    let node = json!({"networkRef": {"name": "a_b"}, "mode": "Managed", "accelerators": {"cpuOnly": {}}});
    let job = json!({
        "workload": {"modelRef": {"name": "m"}, "input": {"inline": "a"}, "output": {"configMap": {"name": "o"}}},
        "managedBy": "example.com/somebody",
    });
    let report = json!({
        "networkRef": {"name": "a-"}, "epoch": 3, "root": format!("0x{}", "ab".repeat(32)), "cumulativeWei": "0", "allocatedWei": "0",
        "allocated": "0", "leaves": {"configMap": "x", "dataHash": "0x"}, "reporter": address, "auditSecret": "",
        "totals": {"nodes": 0, "requests": 0, "promptTokens": 0, "outputTokens": 0, "units": "0"},
    });
    [
        (object("GridNetwork", None, "probe", network), Version::Today),
        (object("GridModel", None, "probe", model), Version::Today),
        (object("GridNode", None, "probe", node.clone()), Version::Previous),
        (object("GridNodePool", Some(SYSTEM), "probe", json!({"template": {"spec": node}})), Version::Previous),
        (object("InferenceJob", Some(TEAM), "probe", job), Version::Today),
        (object("ContributionReport", None, "a--3", report), Version::Previous),
    ]
}

/// Fields of spec and status that no object of the kind has.
pub fn unused_fields(crd: &CustomResourceDefinition, objects: &[Value]) -> Vec<String> {
    let kind = &crd.spec.names.kind;
    let schema = serde_json::to_value(&crd.spec.versions[0]).unwrap();
    let schema = &schema["schema"]["openAPIV3Schema"]["properties"];
    let ours: Vec<&Value> = objects.iter().filter(|object| object["kind"] == kind.as_str()).collect();
    let mut unused = Vec::new();
    for part in ["spec", "status"] {
        let values: Vec<_> = ours.iter().filter_map(|object| object.get(part)).collect();
        unused_below(&format!("{kind}.{part}"), &schema[part], &values, &mut unused);
    }
    unused
}

fn unused_below(path: &str, schema: &Value, values: &[&Value], unused: &mut Vec<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let found: Vec<_> = values.iter().filter_map(|value| value.get(name)).collect();
        if found.is_empty() {
            unused.push(path);
        } else {
            unused_below(&path, property, &found, unused);
        }
    }
    if let Some(items) = schema.get("items") {
        let entries: Vec<_> = values.iter().filter_map(|value| value.as_array()).flatten().collect();
        if entries.is_empty() {
            unused.push(format!("{path}[]"));
        }
        unused_below(&format!("{path}[]"), items, &entries, unused);
    }
    if schema.get("additionalProperties").is_some()
        && values.iter().all(|value| value.as_object().is_none_or(serde_json::Map::is_empty))
    {
        unused.push(format!("{path}{{}}"));
    }
}
