//! What the operator has the gateway forget when it compares what that keeps with what there is: real API server, scripted gateway, no
//! controller.

use std::sync::Arc;

use clap::Parser;
use kube::ResourceExt;
use serde_json::json;
use xdc_grid::{
    api::inference_job::InferenceJob,
    operator::{
        chains::Chains, config::OperatorConfig, context::Context, inference_job::gone::compare, metrics::Metrics,
    },
    protocol::internal::{JobName, JobSpec},
};

use crate::support::{
    client,
    faults::{Fault, Faults},
    gateway::FakeGateway,
    world::{create_in, install_crds, namespace},
};

const PLACE: &str = "compared";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    config: OperatorConfig,
}

fn spec(name: &str) -> JobSpec {
    let spec = json!({
        "namespace": PLACE, "name": name, "model": "11".repeat(32), "modelName": "m", "endpoint": "/v1/completions",
        "maxAttempts": 1, "totalRequests": 0,
    });
    serde_json::from_value(spec).unwrap()
}

fn context(client: kube::Client, gateway: &str) -> Arc<Context> {
    let cli = Cli::parse_from(["it", "--worker-image=none", &format!("--gateway-url={gateway}")]);
    let metrics = Metrics::new(prometheus::Registry::new()).unwrap();
    Context::new(client, cli.config, metrics, Chains::default()).unwrap()
}

fn nobody(_: &JobName) -> bool {
    false
}

/// A job that no operator of these tests looks after.
async fn job(client: &kube::Client, name: &str) -> String {
    let workload =
        json!({"modelRef": {"name": "m"}, "input": {"inline": "a"}, "output": {"configMap": {"name": name}}});
    let object = json!({"metadata": {"name": name}, "spec": {"managedBy": "example.com/nobody", "workload": workload}});
    create_in::<InferenceJob>(client, PLACE, object).await.uid().unwrap()
}

#[tokio::test]
async fn only_jobs_that_the_api_server_says_are_gone_are_forgotten() {
    let client = client().await;
    install_crds(&client).await;
    namespace(&client, PLACE).await;
    let (gateway, url) = FakeGateway::start().await;
    let there = job(&client, "there").await;
    gateway.plant_job(&there, spec("there"));
    gateway.plant_job("ffff-known", spec("known"));
    for (uid, name) in [("0000-gone", "gone"), ("ffff-replaced", "there")] {
        gateway.plant_job(uid, spec(name));
    }
    // What leads elsewhere in a path is not asked about.
    gateway.plant_job("ffff-strange", spec("../../secrets"));
    let is_known = |job: &JobName| job.uid == "ffff-known";
    assert_eq!(compare(is_known, &context(client, &url)).await.unwrap(), 2);
    assert!(gateway.has_forgotten("0000-gone") && gateway.has_forgotten("ffff-replaced"));
    for uid in [there.as_str(), "ffff-known", "ffff-strange"] {
        assert!(!gateway.has_forgotten(uid), "{uid}");
    }
}

#[tokio::test]
async fn an_api_server_that_is_away_and_a_kind_that_is_not_served_take_no_job_from_the_gateway() {
    let client = client().await;
    namespace(&client, PLACE).await;
    for status in [503, 404, 403] {
        let (gateway, url) = FakeGateway::start().await;
        gateway.plant_job("0000-unsure", spec("unsure"));
        let refusing = Faults::choosing(move |_| Some(Fault::Refuse(status)));
        let compared = compare(nobody, &context(refusing.client(&client), &url)).await;
        assert!(compared.is_err() && !gateway.has_forgotten("0000-unsure"), "{status}");
    }
}
