//! The frame around the controllers: the lease, and a kind that is not installed yet.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Parser;
use kube::{Api, Client, client::Body, core::PartialObjectMeta};
use serde_json::json;
use xdc_grid::{
    api::grid_model::GridModel,
    operator::{
        chains::Chains, config::OperatorConfig, context::Context, lease::LeaseHolder, metrics::Metrics, runner,
    },
    telemetry::readiness::Readiness,
};

use crate::support::{
    client,
    faults::{Fault, Faults},
    world::namespace,
};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: OperatorConfig,
}

/// Long enough for a machine that is busy with something else: a holder stops after two thirds of it.
const LASTS: Duration = Duration::from_secs(15);
/// For what happens at once, or once a lease has expired.
const PATIENCE: Duration = Duration::from_secs(120);

fn holder(client: &Client, who: &str) -> LeaseHolder {
    LeaseHolder::new(client.clone(), "lease", "writer", who, LASTS)
}

#[tokio::test]
async fn one_holds_the_lease_and_the_next_gets_it_when_it_is_given_up() {
    let client = client().await;
    namespace(&client, "lease").await;
    let (first, second) = (holder(&client, "first"), holder(&client, "second"));
    first.acquire().await;
    let held = async {
        tokio::select! {
            () = first.hold() => panic!("the first lost it"),
            taken = tokio::time::timeout(LASTS + LASTS / 3, second.acquire()) => taken,
        }
    };
    assert!(held.await.is_err(), "the second had to wait for longer than the lease lasts");
    first.release().await.unwrap();
    tokio::time::timeout(PATIENCE, second.acquire()).await.expect("the second gets it");
    tokio::time::timeout(PATIENCE, first.hold()).await.expect("the first notices that it is another's");
}

#[tokio::test]
async fn a_lease_whose_holder_died_is_taken_over() {
    let client = client().await;
    namespace(&client, "lease").await;
    let dead = LeaseHolder::new(client.clone(), "lease", "orphan", "dead", Duration::from_secs(3));
    dead.acquire().await;
    let heir = LeaseHolder::new(client, "lease", "orphan", "heir", Duration::from_secs(3));
    tokio::time::timeout(PATIENCE, heir.acquire()).await.expect("the lease expires");
}

#[tokio::test]
async fn a_holder_whose_renewals_hang_stops_before_anybody_can_take_over() {
    let client = client().await;
    namespace(&client, "lease").await;
    let hang = Faults::choosing(|call| call.write.is_some_and(|n| n > 0).then_some(Fault::Sleep));
    let holder = LeaseHolder::new(hang.client(&client), "lease", "hanging", "holder", LASTS);
    holder.acquire().await;
    let acquired = Instant::now();
    tokio::time::timeout(PATIENCE, holder.hold()).await.expect("it gives up");
    assert!(acquired.elapsed() < LASTS, "after {:?}", acquired.elapsed());
}

/// An API server that does not know the kind the first two times.
fn server_without_crd(asked: Arc<AtomicU32>) -> Client {
    let service = tower::service_fn(move |_: http::Request<Body>| {
        let missing = asked.fetch_add(1, Ordering::SeqCst) < 2;
        let (code, body) = if missing {
            (
                404,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "not found", "reason": "NotFound", "code": 404}),
            )
        } else {
            (
                200,
                json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": []}),
            )
        };
        let response = http::Response::builder().status(code).body(Body::from(body.to_string().into_bytes())).unwrap();
        std::future::ready(Ok::<_, std::convert::Infallible>(response))
    });
    Client::new(service, "default")
}

#[tokio::test]
async fn a_kind_that_is_not_installed_is_waited_for_and_named() {
    xdc_grid::telemetry::install_crypto_provider();
    let asked = Arc::new(AtomicU32::new(0));
    let client = server_without_crd(asked.clone());
    let config = Cli::parse_from(["it", "--worker-image=x"]).config;
    let metrics = Metrics::new(prometheus::Registry::new()).unwrap();
    let context = Context::new(client.clone(), config, metrics, Chains::default()).unwrap();
    let readiness = Readiness::default();
    let api: Api<PartialObjectMeta<GridModel>> = Api::all(client);
    let waiting = runner::wait_for_crd(&api, &context, &readiness);
    let named = async {
        loop {
            match readiness.missing() {
                Some(text) => return text,
                None => tokio::task::yield_now().await,
            }
        }
    };
    let (text, ()) = tokio::time::timeout(PATIENCE, async { tokio::join!(named, waiting) }).await.unwrap();
    assert!(text.contains("GridModel is not installed"), "{text}");
    assert_eq!((readiness.missing(), asked.load(Ordering::SeqCst)), (None, 3));
}
