//! The internal API over HTTP: who is let in, what is refused and in which words, and that every write may be repeated.

use futures::StreamExt;
use reqwest::{Method, StatusCode};
use serde_json::json;
use xdc_grid::{
    api::ids::RequestId,
    protocol::{
        identity::NodeKey,
        internal::{
            ApiError, Change, ChangeKind, GatewayInfo, JOBS_A_PAGE, JobControl, JobName, JobPage, JobReport, JobState,
            NetworkConfig, NodeMode, NodeReport, NodeRole, Outcome, WholeJob,
        },
    },
};

use super::harness::{Harness, PATIENCE, TOKEN, input, line, network, settings, spec};

const COMPUTE: &[NodeRole] = &[NodeRole::Compute];

async fn refusal(request: reqwest::RequestBuilder) -> (StatusCode, ApiError) {
    let response = request.send().await.unwrap();
    let (status, text) = (response.status(), response.text().await.unwrap());
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {status} {text}")))
}

#[tokio::test]
async fn without_the_token_nobody_is_let_in() {
    let h = Harness::start().await;
    let url = format!("{}/internal/v1/info", h.internal);
    for request in
        [h.client.get(&url), h.client.get(&url).bearer_auth("wrong"), h.client.get(&url).basic_auth("a", Some(TOKEN))]
    {
        let (status, error) = refusal(request).await;
        assert_eq!((status, error.reason.as_str()), (StatusCode::UNAUTHORIZED, "Unauthorized"));
    }
    // Not even to learn which paths there are.
    let (status, _) = refusal(h.client.get(format!("{}/internal/v1/none", h.internal))).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(refusal(h.request(Method::GET, "/none")).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_network_is_kept_and_another_one_is_a_conflict() {
    let h = Harness::bare(tempfile::tempdir().unwrap(), settings(), NodeKey::generate(), Default::default()).await;
    assert_eq!(h.get::<GatewayInfo>("/info").await.network, None);
    let put = |config: &NetworkConfig| h.request(Method::PUT, "/network").json(config);
    let info: GatewayInfo = put(&network()).send().await.unwrap().json().await.unwrap();
    assert_eq!((info.network, info.peer_id.clone()), (Some(network()), h.key.peer_id()));
    assert!(
        info.addresses.contains(&format!("/dns4/gateway.example/tcp/4001/p2p/{}", h.key.peer_id())),
        "{:?}",
        info.addresses
    );
    // What may change, may.
    let paused = NetworkConfig { paused: true, sample_percent: 9, ..network() };
    assert_eq!(put(&paused).send().await.unwrap().status(), 200);
    let other = NetworkConfig { genesis: 5, ..network() };
    let (status, error) = refusal(put(&other)).await;
    assert_eq!((status, error.reason.as_str()), (StatusCode::CONFLICT, "NetworkConflict"));
    assert!(error.message.contains("data directory"), "{}", error.message);
    let zero = NetworkConfig { epoch_seconds: 0, ..network() };
    assert_eq!(refusal(put(&zero)).await.0, StatusCode::BAD_REQUEST);
    let h = h.restart().await;
    assert_eq!(h.get::<GatewayInfo>("/info").await.network, Some(paused));
}

#[tokio::test]
async fn a_job_is_idempotent_under_its_uid() {
    let h = Harness::start().await;
    let put = |spec| h.request(Method::PUT, "/jobs/job-1").json(&spec);
    let put_input = |text: String| h.request(Method::PUT, "/jobs/job-1/input").body(text);
    let report: JobReport = put(spec(2)).send().await.unwrap().json().await.unwrap();
    assert_eq!((report.state, report.total), (JobState::Created, 2));
    assert_eq!(put(spec(2)).send().await.unwrap().status(), 200);

    let text = input(&["one two", "three four"]);
    assert_eq!(put_input(text.clone()).send().await.unwrap().status(), 200);
    let (status, error) = refusal(put(spec(3))).await;
    assert_eq!((status, error.reason.as_str()), (StatusCode::CONFLICT, "JobConflict"));
    let revision = h.get::<GatewayInfo>("/info").await.revision;
    assert_eq!(put_input(text).send().await.unwrap().status(), 200);
    assert_eq!(h.get::<GatewayInfo>("/info").await.revision, revision, "nothing changed");
    let (status, error) = refusal(put_input(input(&["another", "input"]))).await;
    assert_eq!((status, error.reason.as_str()), (StatusCode::CONFLICT, "InputConflict"));
}

#[tokio::test]
async fn a_spec_without_input_gives_way_to_another_one_and_runs_with_the_input_of_that() {
    let h = Harness::start().await;
    h.worker("a", &[NodeRole::Compute]).await;
    let put = |spec| h.request(Method::PUT, "/jobs/job-1").json(&spec).send();
    let put_input = |text: String| h.request(Method::PUT, "/jobs/job-1/input").body(text);
    assert_eq!(put(spec(3)).await.unwrap().status(), 200);
    // The input broke off; when it is read again it has changed.
    let (status, error) = refusal(put_input(input(&["one two"]))).await;
    assert_eq!((status, error.reason.as_str()), (StatusCode::BAD_REQUEST, "InputCountMismatch"));
    let report: JobReport = put(spec(2)).await.unwrap().json().await.unwrap();
    assert_eq!((report.state, report.total), (JobState::Created, 2));
    assert_eq!(put_input(input(&["one two", "three four"])).send().await.unwrap().status(), 200);
    assert_eq!(h.finished("job-1").await.completed, 2);
    // A deleted one does not come back.
    assert_eq!(h.request(Method::DELETE, "/jobs/job-1").send().await.unwrap().status(), 204);
    let response = put(spec(2)).await.unwrap();
    assert_eq!(response.json::<ApiError>().await.unwrap().reason, "JobDeleted");
    h.assert_whole().await;
}

#[tokio::test]
async fn a_small_job_comes_with_its_input_and_again_changes_nothing() {
    let h = Harness::start().await;
    let whole = |prompts: &[&str]| {
        let count = u32::try_from(prompts.len()).unwrap();
        WholeJob { spec: spec(count), control: JobControl::default(), input: input(prompts) }
    };
    let post = |uid: &str, job: &WholeJob| h.request(Method::POST, &format!("/jobs/{uid}")).json(job);
    let job = whole(&["one two", "three four"]);
    let report: JobReport = post("job-1", &job).send().await.unwrap().json().await.unwrap();
    assert_eq!((report.state, report.total), (JobState::Queued, 2));
    let revision = h.get::<GatewayInfo>("/info").await.revision;
    assert_eq!(post("job-1", &job).send().await.unwrap().status(), 200);
    // In two steps it is the same job.
    let spec_again = h.request(Method::PUT, "/jobs/job-1").json(&job.spec).send().await.unwrap();
    let input_again = h.request(Method::PUT, "/jobs/job-1/input").body(job.input.clone()).send().await.unwrap();
    assert_eq!((spec_again.status(), input_again.status()), (StatusCode::OK, StatusCode::OK));
    assert_eq!(h.get::<GatewayInfo>("/info").await.revision, revision, "nothing changed");
    for other in [whole(&["another", "input"]), whole(&["one two"])] {
        let (status, error) = refusal(post("job-1", &other)).await;
        assert_eq!((status, error.reason.as_str()), (StatusCode::CONFLICT, "JobConflict"));
    }
    // A spec without its input gives way: nothing of it can have run.
    h.request(Method::PUT, "/jobs/job-2").json(&spec(7)).send().await.unwrap();
    let held = WholeJob { control: JobControl { suspended: true, ..JobControl::default() }, ..job.clone() };
    let report: JobReport = post("job-2", &held).send().await.unwrap().json().await.unwrap();
    assert_eq!((report.state, report.total), (JobState::Suspended, 2));
    h.request(Method::DELETE, "/jobs/job-2").send().await.unwrap();
    assert_eq!(refusal(post("job-2", &job)).await.1.reason, "JobDeleted");
    let short = WholeJob { spec: spec(3), ..job.clone() };
    assert_eq!(refusal(post("job-3", &short)).await.1.reason, "InputCountMismatch");
    assert_eq!(h.request(Method::GET, "/jobs/job-3").send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_crowd_of_jobs_is_kept_each_for_itself() {
    let h = Harness::start().await;
    // Two of one name: the ledger has a request once, so such a job cannot be kept, and nothing of it is.
    let twice = format!("{}{}", input(&["a"]), input(&["a"]));
    let job = |number: u32| WholeJob {
        spec: spec(if number == 7 { 2 } else { 1 }),
        control: JobControl::default(),
        input: if number == 7 { twice.clone() } else { input(&["one two"]) },
    };
    let post = |number: u32| h.request(Method::POST, &format!("/jobs/job-{number}")).json(&job(number)).send();
    let answers = futures::future::join_all((0..40).map(post)).await;
    for (number, answer) in answers.into_iter().enumerate() {
        let expected = if number == 7 { StatusCode::CONFLICT } else { StatusCode::OK };
        assert_eq!(answer.unwrap().status(), expected, "{number}");
    }
    let kept: JobPage = h.get("/jobs").await;
    assert_eq!(kept.jobs.len(), 39);
}

#[tokio::test]
async fn the_jobs_that_are_kept_are_listed_page_by_page_and_deleted_ones_are_not() {
    let h = Harness::start().await;
    let uids: Vec<_> = (0..=JOBS_A_PAGE).map(|number| format!("job-{number:04}")).collect();
    for uid in &uids {
        h.ledger.put_job(uid, &spec(1), 1).await.unwrap();
    }
    let first: JobPage = h.get("/jobs").await;
    assert_eq!((first.jobs.len(), first.next.as_deref()), (JOBS_A_PAGE as usize, Some(uids[499].as_str())));
    let named = JobName { uid: uids[0].clone(), namespace: spec(1).namespace, name: spec(1).name };
    assert_eq!(first.jobs[0], named);
    let second: JobPage = h.get(&format!("/jobs?after={}", first.next.unwrap())).await;
    assert_eq!((second.jobs.len(), second.next), (1, None));
    assert_eq!(h.request(Method::DELETE, &format!("/jobs/{}", uids[0])).send().await.unwrap().status(), 204);
    let first: JobPage = h.get("/jobs").await;
    assert_eq!((first.jobs[0].uid.as_str(), first.jobs.len(), first.next.is_some()), (uids[1].as_str(), 500, true));
}

#[tokio::test]
async fn a_bad_line_is_named_and_nothing_of_the_input_is_kept() {
    let h = Harness::start().await;
    h.request(Method::PUT, "/jobs/job-1").json(&spec(3)).send().await.unwrap();
    let put = |lines: Vec<String>| h.request(Method::PUT, "/jobs/job-1/input").body(lines.join("\n"));
    let good = |index| serde_json::to_string(&line(index, "one two")).unwrap();
    let with = |index, change: &dyn Fn(&mut serde_json::Value)| {
        let mut value = serde_json::to_value(line(index, "one two")).unwrap();
        change(&mut value);
        value.to_string()
    };
    for (bad, says) in [
        ("{\"index\": 1".to_owned(), "EOF"),
        (with(1, &|line| line["colour"] = json!("red")), "colour"),
        (with(1, &|line| line["messages"] = json!([])), "at least one message"),
        (with(1, &|line| line["maxTokens"] = json!(0)), "maxTokens"),
        (with(1, &|line| line["temperature"] = json!(-1.0)), "temperature"),
        (with(1, &|line| line["customId"] = json!("")), "customId"),
    ] {
        let (status, error) = refusal(put(vec![good(0), bad, good(2)])).await;
        assert_eq!((status, error.reason.as_str()), (StatusCode::BAD_REQUEST, "InvalidInput"));
        assert!(error.message.contains("line 2") && error.message.contains(says), "{says}: {}", error.message);
    }
    let (status, error) = refusal(put(vec![good(0), good(1)])).await;
    assert_eq!((status, error.reason.as_str()), (StatusCode::BAD_REQUEST, "InputCountMismatch"));
    let (_, error) = refusal(put(vec![good(0), good(1), good(2), good(3)])).await;
    assert_eq!(error.reason, "InputCountMismatch");
    let twice = with(2, &|line| line["customId"] = json!("line-0"));
    let (status, error) = refusal(put(vec![good(0), good(1), twice])).await;
    assert_eq!((status, error.reason.as_str()), (StatusCode::CONFLICT, "DuplicateCustomId"));
    assert!(error.message.contains("line-0"));
    assert_eq!(h.report("job-1").await.state, JobState::Created);
    assert!(h.ledger.work(&RequestId::of_job_line("job-1", "line-0")).await.unwrap().is_none());
    // And then it is right, with blank lines between.
    let right = put(vec![good(0), String::new(), good(1), good(2), String::new()]);
    assert_eq!(right.send().await.unwrap().status(), 200);
    assert_eq!(h.report("job-1").await.state, JobState::Queued);
}

#[tokio::test]
async fn a_body_over_its_limit_is_refused() {
    let h = Harness::start().await;
    let mut large = spec(1);
    large.name = "x".repeat(2 << 20);
    let response = h.request(Method::PUT, "/jobs/job-1").json(&large).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    h.request(Method::PUT, "/jobs/job-1").json(&spec(1)).send().await.unwrap();
    let long = serde_json::to_string(&line(0, &"x".repeat(1 << 20))).unwrap();
    let (status, error) = refusal(h.request(Method::PUT, "/jobs/job-1/input").body(long)).await;
    assert_eq!((status, error.reason.as_str()), (StatusCode::BAD_REQUEST, "InvalidInput"));
}

#[tokio::test]
async fn an_input_over_200_mib_is_refused() {
    let h = Harness::start().await;
    h.request(Method::PUT, "/jobs/job-1").json(&spec(1)).send().await.unwrap();
    let chunk = bytes::Bytes::from(vec![b'\n'; 1 << 20]);
    // One byte too many: the answer comes to a client that has sent everything, and not to one whose connection breaks under it.
    let chunks = (0..200).map(move |_| chunk.clone()).chain([bytes::Bytes::from_static(b"\n")]);
    let chunks = futures::stream::iter(chunks.map(Ok::<_, std::io::Error>));
    let request = h.request(Method::PUT, "/jobs/job-1/input").body(reqwest::Body::wrap_stream(chunks));
    let (status, error) = refusal(request).await;
    assert_eq!((status, error.reason.as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "InputTooLarge"));
}

#[tokio::test]
async fn names_that_are_no_names_are_refused_with_a_sentence() {
    let h = Harness::start().await;
    let key = NodeKey::generate().peer_id();
    for (method, path, reason) in [
        (Method::GET, "/nodes/nobody".to_owned(), "InvalidPeerId"),
        (Method::GET, "/models/abc".to_owned(), "InvalidDigest"),
        (Method::GET, "/jobs/none".to_owned(), "JobUnknown"),
        (Method::GET, format!("/nodes/{key}"), "NodeUnknown"),
        (Method::GET, format!("/models/{}", "0".repeat(64)), "ModelUnknown"),
        (Method::PUT, "/jobs/none/input".to_owned(), "JobUnknown"),
        (Method::GET, "/jobs/none/results".to_owned(), "JobUnknown"),
    ] {
        let (_, error) = refusal(h.request(method, &path)).await;
        assert_eq!(error.reason, reason, "{path}");
        assert!(error.message.len() > 10);
    }
    let (status, error) =
        refusal(h.request(Method::PUT, "/jobs/job-1").body("{").header("content-type", "application/json")).await;
    assert_eq!((status, error.reason.as_str()), (StatusCode::BAD_REQUEST, "InvalidBody"));
    let (_, error) = refusal(h.request(Method::PUT, "/jobs/a.b").json(&spec(1))).await;
    assert_eq!(error.reason, "InvalidJob");
    // A peer id that is no point of the curve.
    let mut public = [2u8; 33];
    public[1..].fill(0xff);
    let peer = xdc_grid::api::ids::GridPeerId::from_public_key(public);
    let worker = super::workers::FakeWorker::new(&super::harness::network_id(), 1);
    let mut member = Harness::member(&worker, "a", COMPUTE, NodeMode::Managed);
    member.peer_id = peer.clone();
    let (_, error) = refusal(h.request(Method::PUT, &format!("/members/{peer}")).json(&member)).await;
    assert_eq!(error.reason, "InvalidPeerId");
    let (_, error) = refusal(h.request(Method::PUT, &format!("/members/{}", worker.peer())).json(&member)).await;
    assert_eq!(error.reason, "InvalidMember");
}

#[tokio::test]
async fn the_change_stream_tells_what_to_read_again() {
    let h = Harness::start().await;
    let start = h.get::<GatewayInfo>("/info").await.revision;
    let response = h.request(Method::GET, &format!("/changes?after={start}")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut chunks = response.bytes_stream();
    h.worker("a", COMPUTE).await;
    h.job("job-1", &["one two three"]).await;
    let mut text = String::new();
    let reading = async {
        while !(text.contains("job-1") && text.contains("Node")) {
            text += std::str::from_utf8(&chunks.next().await.unwrap().unwrap()).unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap();
    let changes: Vec<Change> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(changes.windows(2).all(|pair| pair[0].revision < pair[1].revision));
    assert!(changes.iter().all(|change| change.revision > start));
    assert!(changes.iter().any(|change| change.kind == ChangeKind::Job && change.key == "job-1"));

    let (status, error) = refusal(h.request(Method::GET, "/changes?after=999999999")).await;
    assert_eq!((status, error.reason.as_str()), (StatusCode::GONE, "RevisionUnknown"));
}

#[tokio::test]
async fn nodes_say_whether_and_why_not_they_are_connected() {
    let h = Harness::start().await;
    let worker = h.worker("a", &[NodeRole::Compute, NodeRole::Storage]).await;
    h.until("its storage is proven", async || h.node(&worker).await.capability.storage_verified).await;
    let node = h.node(&worker).await;
    assert!(node.connected && node.reason.is_empty());
    assert_eq!((node.slots, node.models.len(), node.models[0].state.as_str()), (2, 1, "Ready"));
    assert!(node.capability.verified && node.capability.gemm_units > 0);
    assert_eq!(node.capability.proven_bytes, super::harness::MODEL_BYTES.len() as u64);
    let report: xdc_grid::protocol::internal::ModelReport =
        h.get(&format!("/models/{}", super::harness::model_digest())).await;
    assert_eq!((report.serving, report.copies), (1, 1));
    h.disconnect(&worker).await;
    let node = h.node(&worker).await;
    assert_eq!((node.connected, node.reason.as_str()), (false, "Disconnected"));
    let other = NodeKey::generate();
    let mut member = Harness::member(&worker, "b", COMPUTE, NodeMode::External);
    member.peer_id = other.peer_id();
    let path = format!("/members/{}", other.peer_id());
    assert_eq!(h.request(Method::PUT, &path).json(&member).send().await.unwrap().status(), 204);
    assert_eq!(h.get::<NodeReport>(&format!("/nodes/{}", other.peer_id())).await.reason, "NeverConnected");
    assert_eq!(h.get::<Vec<NodeReport>>("/nodes").await.len(), 2);
    assert_eq!(h.request(Method::DELETE, &path).send().await.unwrap().status(), 204);
    assert_eq!(h.get::<Vec<NodeReport>>("/nodes").await.len(), 1);
}

#[tokio::test]
async fn results_are_complete_and_name_the_node() {
    let h = Harness::start().await;
    let worker = h.worker("a", COMPUTE).await;
    let prompts: Vec<String> = (0..450).map(|i| format!("say number {i}")).collect();
    worker.brake().add_permits(100_000);
    h.job("job-1", &prompts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    h.finished("job-1").await;
    let results = h.results("job-1").await;
    assert_eq!(results.len(), 450);
    assert!(results.iter().enumerate().all(|(index, result)| result.index == index as u32));
    let Outcome::Completed { node_name, node_address, finish_reason, output_tokens, created, .. } = &results[7].outcome
    else {
        panic!("{:?}", results[7]);
    };
    assert_eq!((node_name.as_str(), *node_address, finish_reason.as_str()), ("a", worker.key.address(), "stop"));
    assert_eq!(*output_tokens, 3);
    assert!(*created > 1_700_000_000);
    assert_eq!(results[7].request_id, RequestId::of_job_line("job-1", "line-7"));
}
