//! The generated CRDs: fresh, small, bounded, described.

use std::path::PathBuf;

use serde_json::Value;
use xdc_grid::api::crds;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("crds")
}

#[test]
fn the_committed_files_are_what_the_types_say() {
    let update = std::env::var_os("UPDATE_CRDS").is_some();
    let files = crds::files().unwrap();
    for (name, text) in &files {
        let path = folder().join(name);
        if update {
            std::fs::create_dir_all(folder()).unwrap();
            std::fs::write(&path, text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == *text, "crds/{name} is stale: run `make crds`");
    }
    let known = std::fs::read_dir(folder()).unwrap().count();
    assert_eq!(known, files.len(), "crds/ holds a file that no type stands for");
}

#[test]
fn every_crd_is_below_100_kb() {
    for (name, text) in crds::files().unwrap() {
        assert!(text.len() < 100_000, "{name} has {} bytes", text.len());
    }
}

#[test]
fn every_field_is_described_and_bounded() {
    let mut faults = Vec::new();
    for crd in crds::all().unwrap() {
        let kind = crd.spec.names.kind.clone();
        let crd = serde_json::to_value(crd).unwrap();
        let schema = crd.pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap();
        for part in ["spec", "status"] {
            check(&format!("{kind}.{part}"), &schema["properties"][part], &mut faults);
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// `kubectl explain` is the documentation that everybody has at hand.
#[test]
fn every_field_that_a_person_writes_on_a_node_or_a_pool_has_an_example() {
    let mut faults = Vec::new();
    for crd in crds::all().unwrap().into_iter().filter(|crd| crd.spec.names.kind.starts_with("GridNode")) {
        let kind = crd.spec.names.kind.clone();
        let crd = serde_json::to_value(crd).unwrap();
        let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
        example(&format!("{kind}.spec"), spec, &mut faults);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn example(path: &str, schema: &Value, faults: &mut Vec<String>) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        // What NameRef says is said for every reference.
        let shared = path.ends_with("networkRef.name") || path.ends_with("imagePullSecrets[].name");
        if !shared && !property["description"].as_str().unwrap_or_default().contains("Example: ") {
            faults.push(format!("{path}: no example"));
        }
        example(&path, property, faults);
    }
    if let Some(items) = schema.get("items") {
        example(&format!("{path}[]"), items, faults);
    }
}

#[test]
fn a_pool_can_be_scaled() {
    let pool = crds::all().unwrap().into_iter().find(|crd| crd.spec.names.kind == "GridNodePool").unwrap();
    let scale = pool.spec.versions[0].subresources.as_ref().unwrap().scale.clone().unwrap();
    assert_eq!(
        (scale.spec_replicas_path.as_str(), scale.status_replicas_path.as_str(), scale.label_selector_path.as_deref()),
        (".spec.replicas", ".status.replicas", Some(".status.selector"))
    );
    assert_eq!(pool.spec.scope, "Namespaced", "a HorizontalPodAutoscaler cannot scale what is cluster-scoped");
}

fn check(path: &str, schema: &Value, faults: &mut Vec<String>) {
    let kind = schema["type"].as_str().unwrap_or_default();
    let bounded = |key: &str| schema.get(key).is_some();
    match kind {
        "string" if !bounded("enum") && !bounded("maxLength") && schema["format"] != "date-time" => {
            faults.push(format!("{path}: a string without maxLength"));
        }
        "array" if !bounded("maxItems") => faults.push(format!("{path}: a list without maxItems")),
        "object" if bounded("additionalProperties") && !bounded("maxProperties") => {
            faults.push(format!("{path}: a map without maxProperties"));
        }
        _ => {}
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if property["description"].as_str().is_none_or(str::is_empty) {
            faults.push(format!("{path}: no description"));
        }
        check(&path, property, faults);
    }
    if let Some(items) = schema.get("items") {
        check(&format!("{path}[]"), items, faults);
    }
    if let Some(values) = schema.get("additionalProperties") {
        check(&format!("{path}{{}}"), values, faults);
    }
}

#[test]
fn every_kind_is_in_the_category_and_has_a_short_name_a_status_and_an_age() {
    let mut short_names = Vec::new();
    for crd in crds::all().unwrap() {
        let names = &crd.spec.names;
        assert_eq!(names.categories.as_deref(), Some(&["grid".to_owned()][..]), "{}", names.kind);
        short_names.extend(names.short_names.clone().unwrap());
        let version = &crd.spec.versions[0];
        assert!(version.subresources.as_ref().unwrap().status.is_some(), "{}", names.kind);
        let columns = version.additional_printer_columns.as_ref().unwrap();
        assert_eq!(columns.last().unwrap().name, "AGE", "{}", names.kind);
        let shown = columns.iter().filter(|column| column.priority.unwrap_or(0) == 0).count();
        assert!(shown <= 8, "{} shows {shown} columns", names.kind);
    }
    assert_eq!(short_names, ["gnet", "gn", "gnp", "gm", "ij", "ctr"]);
}
