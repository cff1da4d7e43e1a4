//! What the controller tests stand on: a real API server, a scripted gateway, a simulated chain, and one operator over them.

pub mod chain;
#[cfg(feature = "devnet")]
pub mod devnet;
pub mod faults;
pub mod gateway;
pub mod kueue;
pub mod plane;
pub mod rbac;
pub mod registry;
pub mod rpc;
pub mod s3;
pub mod signer;
#[cfg(feature = "operator")]
pub mod statement;
pub mod world;
pub mod writes;

use std::{net::TcpListener, time::Duration};

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

/// For what takes moments where the machine has time.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A port of the loopback that nobody listens on, for a program that has to be told one. It is below those that the kernel gives out by
/// itself, so nobody comes upon it before that program does.
pub fn free_port() -> u16 {
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let candidates = std::iter::repeat_with(|| rand::random_range(20_000..32_000_u16));
    candidates.take(1000).find(free).expect("a free port")
}

/// Asks until there is an answer, for at most [`PATIENCE`]; `what` is what the failure says.
pub async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, ask).await
}

/// The same for what stands in line behind other work: how long that takes is a matter of the machine.
pub async fn eventually_within<T>(longest: Duration, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(longest, asking).await {
        Ok(answer) => answer,
        Err(_) => panic!("not within {longest:?}: {what}"),
    }
}
