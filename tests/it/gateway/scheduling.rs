//! Who gets a free worker, and what those who do not are told.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use reqwest::Method;
use xdc_grid::{
    protocol::internal::{ChangeKind, JobReport, Member, NetworkConfig, NodeMode, NodeRole, PlacementFilter, Trust},
    schedule::{Class, INTERACTIVE_RUN},
};

use super::{
    harness::{Harness, network},
    workers::{FakeWorker, PROFILE},
};

const COMPUTE: &[NodeRole] = &[NodeRole::Compute];
const ONLY_VERIFY: &[NodeRole] = &[NodeRole::Verify];

/// The prompts that a worker got, in the order in which it got them.
fn prompts(worker: &FakeWorker) -> Vec<String> {
    worker.starts.lock().unwrap().iter().map(|start| start.messages[0].content.clone()).collect()
}

fn lines(what: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{what} {number}")).collect()
}

async fn job(h: &Harness, uid: &str, namespace: &str, lines: &[String], placement: PlacementFilter) {
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    h.job_with(uid, &lines, |spec| {
        spec.namespace = namespace.into();
        spec.placement = placement;
    })
    .await;
}

async fn label(h: &Harness, worker: &Arc<FakeWorker>, name: &str, mode: NodeMode, labels: &[(&str, &str)]) {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    h.gateway.put_member(Member { labels, ..Harness::member(worker, name, COMPUTE, mode) }).await.unwrap();
}

fn region(name: &str) -> PlacementFilter {
    PlacementFilter { regions: vec![name.into()], ..PlacementFilter::default() }
}

fn refusals(report: &JobReport) -> BTreeMap<String, u32> {
    let waiting = report.waiting.as_ref().unwrap();
    waiting.refusals.iter().map(|refusal| (refusal.reason.clone(), refusal.nodes)).collect()
}

#[tokio::test]
async fn a_namespace_with_one_line_is_not_starved_by_one_with_many() {
    let h = Harness::start().await;
    let worker = h.worker_of("a", COMPUTE, NodeMode::Managed, 1).await;
    let brake = worker.brake();
    job(&h, "deep-1", "deep", &lines("deep", 30), PlacementFilter::default()).await;
    job(&h, "deep-2", "deep", &lines("deeper", 30), PlacementFilter::default()).await;
    h.until("the first runs", async || h.report("deep-1").await.running == 1).await;
    job(&h, "shallow", "shallow", &lines("shallow", 1), PlacementFilter::default()).await;
    brake.add_permits(10_000);
    h.finished("shallow").await;
    let place = prompts(&worker).iter().position(|prompt| prompt == "shallow 0").unwrap();
    assert!(place <= 2, "it came as number {place}");
    h.finished("deep-1").await;
    h.finished("deep-2").await;
    let order = prompts(&worker);
    assert_eq!(order.len(), 61);
    let late = order.iter().rposition(|prompt| prompt.starts_with("deep ")).unwrap();
    assert!(late >= 57, "jobs of a namespace take turns: {late}");
    h.assert_whole().await;
}

#[tokio::test]
async fn weights_of_namespaces_are_kept() {
    let h = Harness::start().await;
    let weights = NetworkConfig { namespace_weights: [("heavy".into(), 3)].into(), ..network() };
    assert_eq!(h.request(Method::PUT, "/network").json(&weights).send().await.unwrap().status(), 200);
    let worker = h.worker_of("a", COMPUTE, NodeMode::Managed, 1).await;
    let brake = worker.brake();
    job(&h, "other", "other", &lines("other", 1), PlacementFilter::default()).await;
    h.until("the worker is busy", async || h.report("other").await.running == 1).await;
    job(&h, "light", "light", &lines("light", 20), PlacementFilter::default()).await;
    job(&h, "heavy", "heavy", &lines("heavy", 20), PlacementFilter::default()).await;
    h.until("both wait", async || h.report("heavy").await.reason == "WaitingForCapacity").await;
    brake.add_permits(10_000);
    h.finished("light").await;
    let first: Vec<String> = prompts(&worker).into_iter().skip(1).take(16).collect();
    let heavy = first.iter().filter(|prompt| prompt.starts_with("heavy")).count();
    assert!((11..=13).contains(&heavy), "{first:?}");
    let wrong = NetworkConfig { namespace_weights: [("heavy".into(), 0)].into(), ..network() };
    assert_eq!(h.request(Method::PUT, "/network").json(&wrong).send().await.unwrap().status(), 400);
}

#[tokio::test]
async fn a_job_runs_only_where_its_placement_allows_and_says_when_that_is_nowhere() {
    let h = Harness::start().await;
    let (home, away) = (h.worker("home", COMPUTE).await, h.worker("away", COMPUTE).await);
    label(&h, &home, "home", NodeMode::Managed, &[("topology.kubernetes.io/region", "eu"), ("tier", "gold")]).await;
    label(&h, &away, "away", NodeMode::Managed, &[("topology.kubernetes.io/region", "us")]).await;
    let gold = PlacementFilter { node_labels: [("tier".into(), "gold".into())].into(), ..region("eu") };
    job(&h, "in-eu", "team-a", &lines("word", 8), gold).await;
    assert_eq!(h.finished("in-eu").await.completed, 8);
    assert_eq!((prompts(&home).len(), prompts(&away).len()), (8, 0));

    job(&h, "in-asia", "team-a", &lines("word", 1), region("asia")).await;
    h.until("it says why", async || h.report("in-asia").await.reason == "NoMatchingNode").await;
    let report = h.report("in-asia").await;
    assert!(report.message.contains("2 nodes with model tiny, 0 of them"), "{}", report.message);
    assert!(report.message.contains("region asia"), "{}", report.message);
    assert_eq!(refusals(&report), [("OtherRegion".to_owned(), 2)].into());
    assert_eq!(report.waiting.unwrap().matching, 0);

    label(&h, &away, "away", NodeMode::Managed, &[("topology.kubernetes.io/region", "asia")]).await;
    assert_eq!(h.finished("in-asia").await.nodes[0].node_name, "away");
    h.assert_whole().await;
}

#[tokio::test]
async fn a_job_that_wants_the_networks_own_nodes_stays_off_strangers() {
    let h = Harness::start().await;
    h.worker_of("verifier", ONLY_VERIFY, NodeMode::Managed, 0).await;
    let stranger = h.worker_of("stranger", COMPUTE, NodeMode::External, 2).await;
    h.until("it is proven", async || h.node(&stranger).await.capability.verified).await;
    let own = PlacementFilter { require_trust: Some(Trust::Managed), ..PlacementFilter::default() };
    job(&h, "own", "team-a", &lines("secret", 2), own).await;
    h.until("it says why", async || h.report("own").await.reason == "NoMatchingNode").await;
    assert_eq!(refusals(&h.report("own").await).get("NotTrusted"), Some(&1));
    let approved = PlacementFilter { require_trust: Some(Trust::Approved), ..PlacementFilter::default() };
    job(&h, "any", "team-a", &lines("open", 2), approved).await;
    assert_eq!(h.finished("any").await.completed, 2);
    h.worker("ours", COMPUTE).await;
    assert_eq!(h.finished("own").await.nodes[0].node_name, "ours");
    assert!(prompts(&stranger).iter().all(|prompt| !prompt.starts_with("secret")));
}

#[tokio::test]
async fn a_job_that_waits_hears_numbers_and_a_change_of_the_reason_is_announced() {
    let h = Harness::start().await;
    job(&h, "job-1", "team-a", &lines("word", 1), region("eu")).await;
    assert_eq!(h.report("job-1").await.reason, "NoWorkerForModel");
    let before = *h.ledger.revisions().borrow();
    let worker = h.worker_of("a", COMPUTE, NodeMode::Managed, 1).await;
    h.until("the operator is told", async || {
        let changes = h.ledger.changes(before, 500).await.unwrap();
        changes.iter().any(|change| change.kind == ChangeKind::Job && change.key == "job-1")
    })
    .await;
    assert_eq!(h.report("job-1").await.reason, "NoMatchingNode");

    let brake = worker.brake();
    job(&h, "job-2", "team-a", &lines("word", 1), PlacementFilter::default()).await;
    h.until("it runs", async || h.report("job-2").await.running == 1).await;
    label(&h, &worker, "a", NodeMode::Managed, &[("topology.kubernetes.io/region", "eu")]).await;
    h.until("it waits for the slot", async || h.report("job-1").await.reason == "WaitingForCapacity").await;
    let report = h.report("job-1").await;
    assert!(report.message.starts_with("1 node for model tiny match, all busy; expected wait"), "{}", report.message);
    let waiting = report.waiting.unwrap();
    assert_eq!((waiting.serving, waiting.matching), (1, 1));
    // 16 tokens at 20 a second.
    assert!(waiting.expected_wait_ms.is_some_and(|wait| wait <= 1_000), "{waiting:?}");
    brake.add_permits(1000);
    assert_eq!(h.finished("job-1").await.waiting, None);
}

#[tokio::test]
async fn a_job_longer_than_what_is_kept_in_memory_is_done_completely_across_a_restart() {
    let h = Harness::start().await;
    let worker = h.worker_of("a", COMPUTE, NodeMode::Managed, 16).await;
    let brake = worker.brake();
    job(&h, "long", "team-a", &lines("word", 700), PlacementFilter::default()).await;
    brake.add_permits(900);
    h.until("some are done", async || h.report("long").await.completed > 250).await;
    let h = h.restart().await;
    h.worker_of("b", COMPUTE, NodeMode::Managed, 16).await;
    let report = h.finished("long").await;
    assert_eq!((report.completed, report.failed), (700, 0));
    assert_eq!(h.results("long").await.len(), 700);
    h.assert_whole().await;
}

#[tokio::test]
async fn a_stranger_that_no_verifier_can_judge_stays_on_probation_and_says_why() {
    let h = Harness::start().await;
    let verifier = h.worker_of("verifier", ONLY_VERIFY, NodeMode::Managed, 0).await;
    let stranger = FakeWorker::new(&super::harness::network_id(), 2);
    *stranger.profile.lock().unwrap() = "made-up/9".into();
    h.join(&stranger, "stranger", COMPUTE, NodeMode::External).await;
    h.until("its standing says why", async || h.node(&stranger).await.capability.reason == "KernelProfileUnshared")
        .await;
    let message = h.node(&stranger).await.capability.message;
    assert!(message.contains("made-up/9") && message.contains("Verify"), "{message}");
    job(&h, "job-1", "team-a", &lines("word", 1), PlacementFilter::default()).await;
    h.until("nobody takes the job", async || h.report("job-1").await.reason == "NoMatchingNode").await;
    assert!(prompts(&stranger).is_empty(), "a canary would prove nothing");

    // Absence is no illness: what is known of the verifier stays while it is away.
    h.disconnect(&verifier).await;
    assert_eq!(h.node(&stranger).await.capability.reason, "KernelProfileUnshared");
    // A verifier that computes as it does cures it.
    let like = FakeWorker::new(&super::harness::network_id(), 0);
    *like.profile.lock().unwrap() = "made-up/9".into();
    h.join(&like, "like", ONLY_VERIFY, NodeMode::Managed).await;
    h.until("it is proven", async || h.node(&stranger).await.capability.verified).await;
    assert_eq!(h.finished("job-1").await.completed, 1);
    assert_ne!(PROFILE, "made-up/9");
}

/// Not part of the tests: prints how long a plan takes with 50,000 waiting requests.
/// `cargo test --release --test it -- --ignored --nocapture fifty_thousand`
#[test]
#[ignore = "a measurement"]
fn fifty_thousand_waiting_requests_and_a_plan() {
    use xdc_grid::{
        api::ids::{GridPeerId, ModelDigest, RequestId},
        protocol::fields::RequestFields,
        schedule::{Locality, Needs, Queue, Rates, Serving, Work, Worker, queue::Backlog},
    };
    let model = |number: u8| ModelDigest([number; 32]);
    let peer = |number: u16| {
        let mut key = [7; 33];
        key[0] = 2;
        key[1..3].copy_from_slice(&number.to_le_bytes());
        GridPeerId::from_public_key(key)
    };
    let mut queue = Queue::default();
    for job in 0..1000u32 {
        let (placement, fields) = (PlacementFilter::default(), RequestFields::NONE);
        let needs = Needs { model: model((job % 4) as u8), model_bytes: 0, placement, fields };
        let owner = format!("team-{}", job % 50);
        let spec = Backlog { owner, class: Class::Batch, needs, suspended: false, parallelism: 0 };
        queue.put_backlog(&format!("job-{job}"), spec);
        for line in 0..50u32 {
            let id = blake3::hash(&(1000 * line + job).to_le_bytes());
            let work = Work {
                request: RequestId(*id.as_bytes()),
                order: line.into(),
                attempt: 1,
                prompt_tokens_estimate: line,
                max_tokens: 64,
                exclude: Default::default(),
                avoid: None,
                enqueued_ms: 0,
            };
            queue.put(&format!("job-{job}"), &work);
        }
    }
    let rates = Rates { prefill_milli: 100_000, decode_milli: 20_000, context_length: 2048 };
    let worker = |number: u16| Worker {
        id: peer(number),
        models: [(model((number % 3) as u8), Serving { locality: Locality::Loaded, rates })].into(),
        free_slots: 0,
        running: 4,
        queued_tokens: 200,
        schedulable: true,
        quarantined: false,
        verified: true,
        trust: Trust::Managed,
        region: String::new(),
        labels: BTreeMap::new(),
        memory_bytes: 0,
        knows: RequestFields::all(),
    };
    let mut workers: Vec<Worker> = (0..200).map(worker).collect();
    let mut micros: Vec<u128> = (0..1000usize)
        .map(|round| {
            let index = round % workers.len();
            workers[index].free_slots = 1;
            let start = Instant::now();
            let plan = queue.plan(&workers, &mut || round as u64);
            let took = start.elapsed().as_micros();
            workers[index].free_slots = 0;
            assert_eq!(plan.assignments.len(), 1);
            queue.finished(&plan.assignments[0].request, 64);
            took
        })
        .collect();
    micros.sort_unstable();
    let waiting = queue.depth(Class::Batch);
    println!("a plan with {waiting} waiting, 200 workers: p50 {} µs, p99 {} µs", micros[500], micros[990]);
    println!("interactive requests in a row: {INTERACTIVE_RUN}");
}

/// Not part of the tests: prints the time from one request to the next on one slot while 50,000 wait in the ledger.
/// `cargo test --release --test it -- --ignored --nocapture one_slot_and`
#[tokio::test]
#[ignore = "a measurement"]
async fn one_slot_and_fifty_thousand_queued_requests() {
    let h = Harness::start().await;
    job(&h, "big", "team-a", &lines("word", 50_000), PlacementFilter::default()).await;
    for waiting in ["a full queue", "the same queue, again"] {
        let worker = h.worker_of(waiting, COMPUTE, NodeMode::Managed, 1).await;
        let start = Instant::now();
        h.until("some are done", async || worker.starts.lock().unwrap().len() >= 300).await;
        println!("{waiting}: {:.2} ms from request to request", start.elapsed().as_secs_f64() * 1000.0 / 300.0);
        h.disconnect(&worker).await;
    }
}
