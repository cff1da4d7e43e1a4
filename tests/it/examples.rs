//! The examples of the documentation, taken by a real API server with the real CRDs. Needs `tests/cluster/with-control-plane`.

use std::{fs, path::PathBuf, time::Duration};

use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config,
    api::{ApiResource, DynamicObject, ObjectMeta, Patch, PatchParams},
    config::{KubeConfigOptions, Kubeconfig},
    runtime::wait::{await_condition, conditions::is_crd_established},
};
use serde::Deserialize;

async fn client() -> Client {
    xdc_grid::telemetry::install_crypto_provider();
    let path = std::env::var_os("KUBECONFIG_CONTROL_PLANE").expect("run this through tests/cluster/with-control-plane");
    let kubeconfig = Kubeconfig::read_from(PathBuf::from(path)).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

/// The CRDs of the kinds that the examples have.
async fn install_crds(client: &Client, examples: &[(String, DynamicObject)]) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let used = |crd: &CustomResourceDefinition| {
        examples.iter().any(|(_, object)| object.types.as_ref().is_some_and(|types| types.kind == crd.spec.names.kind))
    };
    for crd in xdc_grid::api::crds::all().unwrap().into_iter().filter(used) {
        let name = crd.metadata.name.clone().unwrap();
        api.patch(&name, &PatchParams::apply("tests").force(), &Patch::Apply(&crd)).await.unwrap();
        let established = await_condition(api.clone(), &name, is_crd_established());
        tokio::time::timeout(Duration::from_secs(120), established).await.unwrap().unwrap();
    }
}

/// The namespaces that the examples are in: a dry run wants them, too.
async fn make_namespaces(client: &Client, examples: &[(String, DynamicObject)]) {
    let api: Api<Namespace> = Api::all(client.clone());
    for name in examples.iter().filter_map(|(_, object)| object.metadata.namespace.clone()) {
        let metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        api.patch(&name, &PatchParams::apply("tests").force(), &Patch::Apply(&namespace)).await.unwrap();
    }
}

fn examples() -> Vec<(String, DynamicObject)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let text = fs::read_to_string(&entry).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object =
                DynamicObject::deserialize(document).unwrap_or_else(|error| panic!("{}: {error}", entry.display()));
            found.push((entry.display().to_string(), object));
        }
    }
    found
}

/// The namespace of an example, which a dry run does not make.
async fn namespace(client: &Client, name: &str) {
    let wanted = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let api: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    api.patch(name, &PatchParams::apply("tests").force(), &Patch::Apply(&wanted)).await.unwrap();
}

fn resource(object: &DynamicObject) -> ApiResource {
    let types = object.types.as_ref().unwrap();
    ApiResource::from_gvk(&types.try_into().unwrap())
}

#[tokio::test]
async fn the_api_server_takes_every_example_without_an_unknown_field() {
    let client = client().await;
    let found = examples();
    assert!(found.len() >= 5, "{}", found.len());
    install_crds(&client, &found).await;
    make_namespaces(&client, &found).await;
    for (file, object) in found {
        let api: Api<DynamicObject> = match &object.metadata.namespace {
            Some(name) => {
                namespace(&client, name).await;
                Api::namespaced_with(client.clone(), name, &resource(&object))
            }
            None => Api::all_with(client.clone(), &resource(&object)),
        };
        let name = object.metadata.name.clone().unwrap();
        let parameters = PatchParams::apply("tests").dry_run().validation_strict();
        if let Err(error) = api.patch(&name, &parameters, &Patch::Apply(&object)).await {
            panic!("{file}: {error}");
        }
    }
}
