//! What the controller tests stand on: a real API server, a scripted gateway, a simulated chain, and one operator over them.

pub mod chain;
#[cfg(feature = "devnet")]
pub mod devnet;
pub mod faults;
pub mod gateway;
pub mod kueue;
pub mod plane;
pub mod rbac;
pub mod rpc;
pub mod s3;
pub mod signer;
#[cfg(feature = "operator")]
pub mod statement;
pub mod world;
pub mod writes;

use std::time::Duration;

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// A client of the API server that `tests/cluster/with-control-plane` started.
pub async fn client() -> Client {
    Client::try_from(config().await).unwrap()
}

/// Its configuration.
pub async fn config() -> Config {
    xdc_grid::telemetry::install_crypto_provider();
    let path = std::env::var("KUBECONFIG_CONTROL_PLANE").expect(
        "KUBECONFIG_CONTROL_PLANE names no API server: run `make test`, or tests/cluster/with-control-plane cargo test --test it",
    );
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap()
}

/// Asks until there is an answer, for at most 60 s; `what` is what the failure says.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(Duration::from_secs(60), asking).await {
        Ok(answer) => answer,
        Err(_) => panic!("not within 60 s: {what}"),
    }
}
