//! An operator whose reporter's key is with a remote signer, over mutual TLS with the certificates of a Secret.

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use xdc_grid::api::grid_network::GridNetwork;

use super::stage::{NETWORK, Stage};
use crate::support::{
    signer::{Authority, SigningServer},
    world::{SYSTEM, create_in},
};

const SECRET: &str = "signer-tls";

/// The content of the Secret: a new client certificate each time.
fn files(client: &Authority, server: &Authority) -> Value {
    let identity = client.client();
    json!({"stringData": {"tls.crt": identity.certificate, "tls.key": identity.key, "ca.crt": server.pem()}})
}

async fn put_files(stage: &Stage, files: &Value) {
    let secrets: Api<Secret> = Api::namespaced(stage.island.admin.clone(), SYSTEM);
    secrets.patch(SECRET, &PatchParams::default(), &Patch::Merge(files)).await.unwrap();
}

#[tokio::test]
async fn an_operator_reports_by_a_remote_signer_over_mutual_tls_and_takes_up_new_certificates() {
    let stage = Stage::set().await;
    let (authority, another) = (Authority::new(), Authority::new());
    let (server, url) = SigningServer::start_tls(&[&stage.reporter], &authority).await;
    let mut secret = files(&authority, &authority);
    secret["metadata"] = json!({"name": SECRET});
    create_in::<Secret>(&stage.island.admin, SYSTEM, secret).await;
    let remote = json!({"url": url, "address": stage.reporter.address().to_string(), "tlsSecretName": SECRET});
    let patch = json!({"spec": {"chain": {"reporterSecretRef": null, "remoteSigner": remote}}});
    let networks: Api<GridNetwork> = Api::all(stage.island.admin.clone());
    networks.patch(NETWORK, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();

    let life = stage.life();
    assert!(stage.epoch_by(&life, 0).await);
    assert_eq!(server.signed(), 2, "report and activation");

    // A certificate of a stranger opens nothing: the epoch waits, and goes on once there is a right one.
    put_files(&stage, &files(&another, &authority)).await;
    stage.end_epoch(1).await;
    for _ in 0..5 {
        let _ = life.look().await;
        stage.step().await;
    }
    assert_eq!((stage.submitted().await, server.signed()), (vec![0], 2));
    put_files(&stage, &files(&authority, &authority)).await;
    assert!(stage.epoch_by(&life, 1).await);
    assert_eq!(server.signed(), 4);
    stage.assert_exactly_once(2).await;
}
