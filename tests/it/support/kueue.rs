//! As much of Kueue as an operator that only reads it can tell from the real one: its two kinds, and what it would write.

use k8s_openapi::{
    api::batch::v1::Job, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
    runtime::wait::{await_condition, conditions::is_crd_established},
};
use serde_json::{Value, json};
use xdc_grid::api::kueue::{JOB_UID_LABEL, local_queues, workloads};

/// The kinds, with any fields.
pub async fn install(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for resource in [workloads(), local_queues()] {
        let name = format!("{}.{}", resource.plural, resource.group);
        let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let version = json!({"name": resource.version, "served": true, "storage": true,
            "schema": {"openAPIV3Schema": any}, "subresources": {"status": {}}});
        let crd = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": name},
            "spec": {
                "group": resource.group, "scope": "Namespaced", "versions": [version],
                "names": {"kind": resource.kind, "plural": resource.plural},
            },
        });
        api.patch(&name, &PatchParams::apply("it").force(), &Patch::Apply(&crd)).await.unwrap();
        await_condition(api.clone(), &name, is_crd_established()).await.unwrap();
    }
}

/// A LocalQueue and the ClusterQueue whose quota it gives out.
pub async fn local_queue(client: &Client, namespace: &str, name: &str, cluster_queue: &str) {
    let resource = local_queues();
    let queue = json!({
        "apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name},
        "spec": {"clusterQueue": cluster_queue},
    });
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    api.patch(name, &PatchParams::apply("it").force(), &Patch::Apply(&queue)).await.unwrap();
}

/// What Kueue makes for a Job in a queue, and says about it in these conditions.
pub async fn workload(client: &Client, child: &Job, queue: &str, conditions: &[(&str, &str, &str)]) {
    let resource = workloads();
    let name = format!("job-{}", child.name_any());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &child.namespace().unwrap(), &resource);
    let workload = json!({
        "apiVersion": resource.api_version, "kind": resource.kind,
        "metadata": {
            "name": name, "labels": {JOB_UID_LABEL: child.uid()}, "ownerReferences": [child.controller_owner_ref(&())],
        },
        "spec": {"queueName": queue, "active": true},
    });
    api.patch(&name, &PatchParams::apply("it").force(), &Patch::Apply(&workload)).await.unwrap();
    let condition = |(type_, status, message): &(&str, &str, &str)| {
        json!({"type": type_, "status": status, "reason": "Pending", "message": message,
            "lastTransitionTime": "2026-11-27T00:00:00Z", "observedGeneration": 1})
    };
    let conditions: Vec<Value> = conditions.iter().map(condition).collect();
    let status = json!({"status": {"conditions": conditions}});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
}
