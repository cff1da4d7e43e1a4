//! How much memory the operator takes for the largest job that there can be: 50 000 requests, 200 MB in, 200 MB out, through S3. A
//! measurement of a process of its own, so it needs an API server of its own:
//!
//!     tests/cluster/with-control-plane cargo test --locked --test it -- --ignored --nocapture operator_flat

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use xdc_grid::api::{
    conditions::is_true,
    grid_model::GridModel,
    inference_job::{InferenceJob, condition},
};

use crate::support::{
    client,
    gateway::FakeGateway,
    s3::{OWNER, credentials, s3},
    world::{MODEL, SYSTEM, create, create_in, install_crds, model, namespace},
};

const REQUESTS: usize = 50_000;
/// Together with the frame of each line just below 200 MB.
const PROMPT_BYTES: usize = 4_080;
/// Beyond what it takes at rest: parts on their way, and buffers of two connections.
const MAX_GROWTH_MIB: u64 = 64;

struct Operator(Child);

impl Operator {
    fn start(gateway: &str) -> Self {
        let kubeconfig = std::env::var_os("KUBECONFIG_CONTROL_PLANE").map(PathBuf::from).unwrap();
        let log = std::fs::File::create(std::env::temp_dir().join("grid-operator-flat.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_grid-operator"));
        command.args(["run", "--worker-image=none", "--http-address=127.0.0.1:0", "--job-denied-networks=none"]);
        command.args([&format!("--namespace={SYSTEM}"), &format!("--gateway-url={gateway}")]);
        command.env("KUBECONFIG", kubeconfig).stdout(log).stderr(Stdio::inherit());
        Operator(command.spawn().unwrap())
    }

    /// A line of /proc/PID/status, in MiB.
    fn memory(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).unwrap();
        found.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn input() -> String {
    let mut text = String::with_capacity(REQUESTS * (PROMPT_BYTES + 128));
    for index in 0..REQUESTS {
        let words = format!("request {index} ").repeat(PROMPT_BYTES / 14);
        text.push_str(&format!(
            "{{\"custom_id\":\"r{index}\",\"body\":{{\"model\":\"{MODEL}\",\"messages\":[{{\"role\":\"user\",\"content\":\"{words}\"}}]}}}}\n"
        ));
    }
    text
}

#[tokio::test]
#[ignore = "a measurement with an API server of its own; see the top of this file"]
async fn fifty_thousand_requests_through_s3_take_no_memory_of_their_size() {
    let client = client().await;
    install_crds(&client).await;
    namespace(&client, SYSTEM).await;
    namespace(&client, "flat").await;
    create::<GridModel>(&client, model(MODEL, "http://models/smol.gguf", 0x11)).await;
    let secret = json!({"metadata": {"name": "bucket"}, "stringData": credentials(OWNER)});
    create_in::<Secret>(&client, "flat", secret).await;
    let (s3, text) = (s3().await, input());
    assert!(text.len() > 190_000_000 && text.len() < 200 << 20, "{} bytes", text.len());
    let megabytes = text.len() / 1_000_000;
    s3.bucket("flat").put("in.jsonl", text).await;
    let (_gateway, url) = FakeGateway::start().await;
    let operator = Operator::start(&url);
    let jobs: Api<InferenceJob> = Api::namespaced(client.clone(), "flat");
    let submit = async |name: &str, input: Value, output: &str| {
        let at = |uri: &str| json!({"uri": uri, "endpoint": s3.endpoint, "secretRef": {"name": "bucket"}});
        let input = if input.is_null() { json!({"s3": at("s3://flat/in.jsonl")}) } else { input };
        let workload = json!({"modelRef": {"name": MODEL}, "input": input, "output": {"s3": at(output)}});
        let object = json!({"metadata": {"name": name}, "spec": {"workload": workload}});
        create_in::<InferenceJob>(&client, "flat", object).await;
        let started = Instant::now();
        loop {
            let job = jobs.get(name).await.unwrap();
            let status = job.status.clone().unwrap_or_default();
            if is_true(&status.conditions, condition::COMPLETE) {
                return (status, started.elapsed());
            }
            assert!(started.elapsed() < Duration::from_secs(580), "{} does not end: {status:#?}", job.name_any());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    // A job of one request warms up every path; what it takes is no growth.
    submit("small", json!({"format": "Lines", "inline": "a"}), "s3://flat/small/").await;
    let before = operator.memory("VmHWM");
    let (status, took) = submit("large", Value::Null, "s3://flat/large/").await;
    let (peak, at_rest) = (operator.memory("VmHWM"), operator.memory("VmRSS"));
    let output = status.output.unwrap();
    assert_eq!(status.requests.unwrap().completed, REQUESTS as i64);
    println!(
        "{REQUESTS} requests, {megabytes} MB in, {} MB out in {} parts, {:.0} s: {before} MiB before, {peak} MiB at the peak, {at_rest} MiB after",
        output.bytes / 1_000_000,
        output.parts.unwrap(),
        took.as_secs_f64(),
    );
    assert!(peak.saturating_sub(before) <= MAX_GROWTH_MIB, "{before} MiB before, {peak} MiB at the peak");
}
