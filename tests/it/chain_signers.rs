//! Keys that are not in the process: a signer over HTTP, as the operator uses it, against a real chain.

use std::sync::{Arc, Mutex};

use alloy::primitives::{Bytes, keccak256};
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use serde_json::Value;
use xdc_grid::{
    api::ids::Wei,
    chain::{
        ChainError, ChainKey, Signer,
        signer::{RemoteSigner, RemoteSignerOptions},
    },
};

use crate::chain_anvil::{CHAIN_ID, Grid, key, pace};

/// A signer in the way of Web3Signer's eth1 mode: it holds keys, and hashes what it is handed before it signs.
struct SigningServer {
    keys: Mutex<Vec<ChainKey>>,
    /// Signs with another key than the one that was asked for.
    swapped: Mutex<bool>,
}

async fn start(keys: &[&ChainKey]) -> (Arc<SigningServer>, String) {
    let keys = Mutex::new(keys.iter().map(|key| (*key).clone()).collect());
    let server = Arc::new(SigningServer { keys, swapped: Mutex::new(false) });
    let app = Router::new()
        .route("/api/v1/eth1/publicKeys", get(public_keys))
        .route("/api/v1/eth1/sign/{identifier}", post(sign))
        .with_state(server.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (server, url)
}

fn identifier(key: &ChainKey) -> String {
    Bytes::from(key.public_key().to_vec()).to_string()
}

async fn public_keys(State(server): State<Arc<SigningServer>>) -> Json<Vec<String>> {
    Json(server.keys.lock().unwrap().iter().map(identifier).collect())
}

async fn sign(
    State(server): State<Arc<SigningServer>>,
    Path(asked): Path<String>,
    Json(body): Json<Value>,
) -> Result<String, StatusCode> {
    let data: Bytes = serde_json::from_value(body["data"].clone()).map_err(|_| StatusCode::BAD_REQUEST)?;
    let keys = server.keys.lock().unwrap();
    let found = keys.iter().find(|key| identifier(key) == asked).ok_or(StatusCode::NOT_FOUND)?;
    let signer = if *server.swapped.lock().unwrap() { key(77) } else { found.clone() };
    Ok(Bytes::from(signer.sign_digest(keccak256(data)).unwrap().as_bytes().to_vec()).to_string())
}

fn options(url: &str, key: &ChainKey) -> RemoteSignerOptions {
    RemoteSignerOptions { url: url.to_owned(), address: key.address(), client_identity: None, authority: None }
}

#[tokio::test]
async fn a_remote_signer_sends_what_the_key_itself_would_have_sent() {
    let grid = Grid::deploy().await;
    let (_server, url) = start(&[&key(50), &grid.owner]).await;
    let remote = RemoteSigner::connect(&options(&url, &grid.owner)).await.unwrap();
    assert_eq!(remote.address(), grid.owner.address());
    let payload = b"an unsigned transaction";
    assert_eq!(remote.sign(payload).await.unwrap(), Signer::sign(&grid.owner, payload).await.unwrap());

    let before = grid.client.epoch_state(xdc_grid::chain::At::Latest).await.unwrap().reward_pool;
    let intent = grid.client.fund_intent(Wei::XDC, "by a remote signer");
    let rpc = grid.anvil.rpc();
    let sent = xdc_grid::chain::deploy::execute(rpc.as_ref(), CHAIN_ID, &remote, intent, pace());
    grid.anvil.mining(sent).await.unwrap();
    let after = grid.client.epoch_state(xdc_grid::chain::At::Latest).await.unwrap().reward_pool;
    assert_eq!(after.0, before.0 + Wei::XDC.0);
}

#[tokio::test]
async fn a_remote_signer_that_has_not_the_key_or_signs_with_another_is_not_believed() {
    let (ours, other) = (key(3), key(4));
    let (server, url) = start(&[&other]).await;
    let missing = RemoteSigner::connect(&options(&url, &ours)).await.unwrap_err();
    assert!(matches!(&missing, ChainError::InvalidSigner { .. }) && !missing.is_transient(), "{missing}");
    assert!(missing.to_string().contains(&ours.address().to_string()), "{missing}");

    let remote = RemoteSigner::connect(&options(&url, &other)).await.unwrap();
    *server.swapped.lock().unwrap() = true;
    let swapped = remote.sign(b"payload").await.unwrap_err();
    assert!(swapped.to_string().contains(&key(77).address().to_string()), "{swapped}");
    server.keys.lock().unwrap().clear();
    let gone = remote.sign(b"payload").await.unwrap_err();
    assert!(gone.is_transient(), "{gone}");
    let nobody = RemoteSigner::connect(&options("http://127.0.0.1:9", &ours)).await.unwrap_err();
    assert_eq!((nobody.label(), nobody.is_transient()), ("SignerUnavailable", true));
}
