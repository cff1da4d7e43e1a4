//! The CustomResourceDefinitions, as generated from the types and made structural, small and free of warnings.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use super::{
    contribution_report::ContributionReport, grid_model::GridModel, grid_network::GridNetwork, grid_node::GridNode,
    grid_node_pool::GridNodePool, inference_job::InferenceJob,
};

/// First line of every generated file.
const HEADER: &str = "# Generated from src/api by `grid-operator crds`. Do not edit.\n";

/// All kinds, in the order in which a person meets them.
pub fn all() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    let kinds = [
        GridNetwork::crd(),
        GridNode::crd(),
        GridNodePool::crd(),
        GridModel::crd(),
        InferenceJob::crd(),
        ContributionReport::crd(),
    ];
    kinds.into_iter().map(tidy).collect()
}

/// File name and content of every kind, as `grid-operator crds` writes them.
pub fn files() -> Result<Vec<(String, String)>, Box<dyn std::error::Error + Send + Sync>> {
    let mut files = Vec::new();
    for crd in all()? {
        let name = format!("{}.yaml", crd.spec.names.plural);
        files.push((name, format!("{HEADER}{}", serde_yaml::to_string(&crd)?)));
    }
    Ok(files)
}

fn tidy(crd: CustomResourceDefinition) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut value = serde_json::to_value(crd)?;
    tidy_value(&mut value);
    if let Some(schema) = value.pointer_mut("/spec/versions/0/schema/openAPIV3Schema") {
        tidy_schema(schema);
    }
    serde_json::from_value(value)
}

/// Empty lists in the names and subresources only make the file longer.
fn tidy_value(value: &mut Value) {
    if let Some(names) = value.pointer_mut("/spec/names").and_then(Value::as_object_mut) {
        names.retain(|_, entry| !entry.as_array().is_some_and(Vec::is_empty));
    }
}

fn tidy_schema(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            // An explicit null would be kept where `nullable` is set, and `has()` in a CEL rule would then be true for it.
            object.remove("nullable");
            // The API server knows int32 and int64 only and warns about everything else.
            if object.get("format").and_then(Value::as_str).is_some_and(|format| !KNOWN_FORMATS.contains(&format)) {
                object.remove("format");
            }
            if let Some(Value::String(description)) = object.get_mut("description") {
                *description = description.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            for entry in object.values_mut() {
                tidy_schema(entry);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(tidy_schema),
        _ => {}
    }
}

const KNOWN_FORMATS: [&str; 3] = ["int32", "int64", "date-time"];
