//! A gateway that does what a script says. A job moves one state on each time it is asked about, so nothing depends on time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use futures::StreamExt;
use serde_json::json;
use tokio::sync::broadcast;
use xdc_grid::{
    api::ids::{EscrowId, GridPeerId, ModelDigest, NodeAddress, RequestId},
    protocol::{
        identity::NodeKey,
        internal::{
            Capability, Change, ChangeKind, Contribution, EpochTotals, EvidenceReport, GatewayInfo, InputLine,
            JobControl, JobName, JobNode, JobPage, JobReport, JobSpec, JobState, Member, ModelOrder, ModelReport,
            ModelSource, ModelState, NetworkConfig, NodeModel, NodeReport, NodeTotals, OpenPayment, Outcome,
            PaidJobTotals, RequestFailure, ResultLine, ServedUnits, SettledPayment, Spend, WholeJob,
        },
        vector::Vector,
    },
};

use super::faults::Fault;

/// A prompt with this word fails.
pub const FAIL: &str = "FAIL";
/// A prompt with this word is answered with 2 MB.
pub const HUGE: &str = "HUGE";
/// A job whose name starts so stays Running until it is let go.
pub const HELD: &str = "held";

#[derive(Clone)]
pub struct FakeGateway {
    state: Arc<Mutex<Script>>,
    changes: broadcast::Sender<Change>,
}

#[derive(Default)]
struct Script {
    away: bool,
    revision: u64,
    network: Option<NetworkConfig>,
    jobs: BTreeMap<String, Job>,
    forgotten: BTreeSet<String>,
    released: BTreeSet<String>,
    /// Jobs by name whose input breaks off.
    broken: BTreeSet<String>,
    members: BTreeMap<String, Member>,
    proven: BTreeSet<String>,
    running: BTreeMap<String, u32>,
    worked: BTreeMap<String, u64>,
    refused: BTreeMap<String, String>,
    models: BTreeMap<String, ModelOrder>,
    files: BTreeMap<String, String>,
    asked: BTreeMap<String, u32>,
    submissions: BTreeMap<String, u32>,
    /// Inputs that were taken; the same again is not.
    accepted: u32,
    /// Results in the store, by job and name.
    kept: BTreeMap<(String, String), Bytes>,
    store_is_full: bool,
    /// Payments without a job here, with who served it for how many units.
    owed: BTreeMap<EscrowId, (OpenPayment, Vec<(NodeAddress, u64)>)>,
    settled: BTreeMap<EscrowId, SettledPayment>,
    /// What closing an epoch answers, byte for byte, where a test says it.
    closed: BTreeMap<u64, String>,
    /// Audits have convicted these nodes, by this proof.
    convicted: BTreeMap<String, String>,
    /// The epoch that counts a settled escrow.
    counted: BTreeMap<EscrowId, u64>,
    calls: usize,
    fault: Option<(usize, Fault)>,
}

struct Job {
    spec: JobSpec,
    lines: Vec<InputLine>,
    control: JobControl,
    state: JobState,
}

type Shared = State<FakeGateway>;

impl FakeGateway {
    /// Serves on a free port of the loopback; returns the gateway and its URL.
    pub async fn start() -> (Self, String) {
        let gateway = FakeGateway { state: Arc::default(), changes: broadcast::channel(1024).0 };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = router(gateway.clone());
        tokio::spawn(async move { axum::serve(listener, served).await });
        (gateway, url)
    }

    /// What it was told of a job.
    pub fn job_spec(&self, uid: &str) -> Option<JobSpec> {
        self.lock().jobs.get(uid).map(|job| job.spec.clone())
    }

    /// What it was told of a model last.
    pub fn model_order(&self, digest: &str) -> Option<ModelOrder> {
        self.lock().models.get(digest).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.state.lock().unwrap()
    }

    pub fn set_away(&self, away: bool) {
        self.lock().away = away;
        if away {
            // Ends every open stream.
            let _ = self.changes.send(Change { revision: 0, kind: ChangeKind::Job, key: "end".into() });
        }
    }

    /// What happens to the `n`-th call from now on: lost, answered into the void, or refused.
    pub fn fail_at(&self, n: usize, fault: Fault) {
        let mut script = self.lock();
        (script.calls, script.fault) = (0, Some((n, fault)));
    }

    /// From now on nothing happens to calls.
    pub fn fail_no_more(&self) {
        self.lock().fault = None;
    }

    /// The spec of a job that nobody ever asked for, as a crash between two steps leaves one.
    pub fn plant_job(&self, uid: &str, spec: JobSpec) {
        let job = Job { spec, lines: Vec::new(), control: JobControl::default(), state: JobState::Queued };
        self.lock().jobs.insert(uid.to_owned(), job);
    }

    /// As if it had lost what it was last told about a node.
    pub fn forget_member(&self, peer: &str) {
        self.lock().members.remove(peer);
    }

    fn next_fault(&self) -> Option<Fault> {
        let mut script = self.lock();
        script.calls += 1;
        let (at, fault) = script.fault?;
        (at + 1 == script.calls).then_some(fault)
    }

    /// Everything that it was told and still knows, for a comparison.
    pub fn told(&self) -> Vec<String> {
        let script = self.lock();
        let members = script.members.values().map(|member| serde_json::to_string(member).unwrap());
        let models = script.models.values().map(|model| serde_json::to_string(model).unwrap());
        let jobs = script.jobs.iter().map(|(uid, job)| {
            // What is over can be held back and let go; nobody tells it any more.
            let control = (job.state != JobState::Finished).then_some(job.control);
            format!("{uid} {} {} {control:?}", serde_json::to_string(&job.spec).unwrap(), job.lines.len())
        });
        let network = script.network.iter().map(|network| serde_json::to_string(network).unwrap());
        members.chain(models).chain(jobs).chain(network).collect()
    }

    /// Calls since `fail_at`, the change stream apart.
    pub fn calls(&self) -> usize {
        self.lock().calls
    }

    /// How often it was given the input of a job that had none.
    pub fn all_submissions(&self) -> u32 {
        self.lock().accepted
    }

    /// Whether inputs of jobs of this name break off.
    pub fn set_input_breaks(&self, name: &str, breaks: bool) {
        let mut script = self.lock();
        let _ = if breaks { script.broken.insert(name.to_owned()) } else { script.broken.remove(name) };
    }

    /// Lets a held job finish.
    pub fn release(&self, name: &str) {
        let uid = {
            let mut script = self.lock();
            script.released.insert(name.to_owned());
            script.jobs.iter().find(|(_, job)| job.spec.name == name).map(|(uid, _)| uid.clone())
        };
        if let Some(uid) = uid {
            self.changed(ChangeKind::Job, &uid);
        }
    }

    /// A change that means nothing: the operator looks and finds everything as it was.
    pub fn changed(&self, kind: ChangeKind, key: &str) {
        let mut script = self.lock();
        script.revision += 1;
        let _ = self.changes.send(Change { revision: script.revision, kind, key: key.to_owned() });
    }

    /// How often a job was asked about.
    pub fn asked(&self, uid: &str) -> u32 {
        self.lock().asked.get(uid).copied().unwrap_or(0)
    }

    /// How often a job's input came.
    pub fn submissions(&self, uid: &str) -> u32 {
        self.lock().submissions.get(uid).copied().unwrap_or(0)
    }

    /// Files of a job in the store.
    pub fn kept(&self, uid: &str) -> BTreeMap<String, String> {
        let script = self.lock();
        let of_job = script.kept.iter().filter(|((owner, _), _)| owner == uid);
        of_job.map(|((_, name), bytes)| (name.clone(), String::from_utf8(bytes.to_vec()).unwrap())).collect()
    }

    pub fn set_store_is_full(&self, full: bool) {
        self.lock().store_is_full = full;
    }

    /// The spec that a job came with.
    pub fn spec(&self, uid: &str) -> Option<JobSpec> {
        self.lock().jobs.get(uid).map(|job| job.spec.clone())
    }

    pub fn control(&self, uid: &str) -> Option<JobControl> {
        self.lock().jobs.get(uid).map(|job| job.control)
    }

    pub fn has_forgotten(&self, uid: &str) -> bool {
        self.lock().forgotten.contains(uid)
    }

    pub fn member(&self, peer: &str) -> Option<Member> {
        self.lock().members.get(peer).cloned()
    }

    /// From now on the node is connected and its challenges are passed.
    pub fn prove(&self, peer: &str) {
        self.lock().proven.insert(peer.to_owned());
        self.changed(ChangeKind::Node, peer);
    }

    /// So many requests run on the node now.
    pub fn set_running(&self, peer: &str, count: u32) {
        self.lock().running.insert(peer.to_owned(), count);
        self.changed(ChangeKind::Node, peer);
    }

    /// Closing the epoch answers with these totals.
    pub fn close_with(&self, epoch: u64, totals: &str) {
        self.lock().closed.insert(epoch, totals.to_owned());
    }

    /// Audits convict the node.
    pub fn convict(&self, peer: &str, proof: &str) {
        self.lock().convicted.insert(peer.to_owned(), proof.to_owned());
    }

    /// The node has answered a request in this epoch.
    pub fn set_worked(&self, peer: &str, epoch: u64) {
        self.lock().worked.insert(peer.to_owned(), epoch);
    }

    /// The gateway turns the node away with this code.
    pub fn refuse(&self, peer: &str, reason: &str) {
        self.lock().refused.insert(peer.to_owned(), reason.to_owned());
        self.changed(ChangeKind::Node, peer);
    }

    pub fn network(&self) -> Option<NetworkConfig> {
        self.lock().network.clone()
    }

    /// A paid job that is over, whatever else there is of it.
    pub fn owe(&self, payment: OpenPayment, served: &[(NodeAddress, u64)]) {
        self.lock().owed.insert(payment.payment.escrow, (payment, served.to_vec()));
    }

    /// What it was told of an escrow.
    pub fn settled(&self, escrow: &EscrowId) -> Option<SettledPayment> {
        self.lock().settled.get(escrow).copied()
    }

    /// A file under `/files/`.
    pub fn serve_file(&self, name: &str, content: &str) {
        self.lock().files.insert(name.to_owned(), content.to_owned());
    }
}

fn router(gateway: FakeGateway) -> Router {
    Router::new().route("/files/{name}", get(file)).nest("/internal/v1", internal(gateway.clone())).with_state(gateway)
}

fn internal(gateway: FakeGateway) -> Router<FakeGateway> {
    Router::new()
        .route("/info", get(info))
        .route("/network", put(put_network))
        .route("/members/{peer}", put(put_member).delete(delete_member))
        .route("/nodes/{peer}", get(node))
        .route("/models/{digest}", get(model).put(put_model).delete(delete_model))
        .route("/jobs", get(jobs))
        .route("/jobs/{uid}", get(job).post(take_job).put(put_job).patch(patch_job).delete(delete_job))
        .route("/jobs/{uid}/input", put(put_input))
        .route("/jobs/{uid}/results", get(results))
        .route("/jobs/{uid}/files/{name}", get(kept_file).put(keep_file))
        .route("/changes", get(changes))
        .route("/payments", get(payments))
        .route("/payments/{escrow}", put(settle_payment))
        .route("/epochs/{epoch}/close", post(close))
        .layer(DefaultBodyLimit::disable())
        .layer(axum::middleware::from_fn_with_state(gateway, guard))
}

/// A gateway that is away is a refused connection to the caller; 502 of a proxy is the same to the client.
async fn guard(State(gateway): Shared, request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    if gateway.lock().away {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let streams = request.uri().path().ends_with("/changes");
    match if streams { None } else { gateway.next_fault() } {
        None => next.run(request).await,
        Some(Fault::LoseAnswer) => {
            next.run(request).await;
            StatusCode::BAD_GATEWAY.into_response()
        }
        Some(Fault::Refuse(status)) => refuse(StatusCode::from_u16(status).unwrap(), "Injected", "injected"),
        Some(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

fn refuse(status: StatusCode, reason: &str, message: &str) -> Response {
    (status, Json(json!({"reason": reason, "message": message}))).into_response()
}

fn peer() -> GridPeerId {
    NodeKey::from_bytes(&[77; 32]).unwrap().peer_id()
}

fn info_of(script: &Script) -> GatewayInfo {
    GatewayInfo {
        version: "test".into(),
        peer_id: peer(),
        network: script.network.clone(),
        addresses: vec![format!("/ip4/127.0.0.1/tcp/4001/p2p/{}", peer())],
        connected_peers: 0,
        revision: script.revision,
    }
}

async fn info(State(gateway): Shared) -> Json<GatewayInfo> {
    Json(info_of(&gateway.lock()))
}

async fn put_network(State(gateway): Shared, Json(network): Json<NetworkConfig>) -> Response {
    let mut script = gateway.lock();
    if script.network.as_ref().is_some_and(|kept| kept.network != network.network) {
        return refuse(StatusCode::CONFLICT, "AnotherNetwork", "this gateway serves another network");
    }
    script.network = Some(network);
    Json(info_of(&script)).into_response()
}

async fn put_member(State(gateway): Shared, Path(peer): Path<String>, Json(member): Json<Member>) -> StatusCode {
    gateway.lock().members.insert(peer, member);
    StatusCode::NO_CONTENT
}

async fn delete_member(State(gateway): Shared, Path(peer): Path<String>) -> StatusCode {
    gateway.lock().members.remove(&peer);
    StatusCode::NO_CONTENT
}

async fn node(State(gateway): Shared, Path(peer): Path<String>) -> Response {
    let script = gateway.lock();
    let Some(member) = script.members.get(&peer) else {
        return refuse(StatusCode::NOT_FOUND, "NodeUnknown", "no such node");
    };
    let proven = script.proven.contains(&peer);
    let mut report = node_report(member, proven);
    report.running = script.running.get(&peer).copied().unwrap_or(0);
    if let Some(epoch) = script.worked.get(&peer) {
        report.current_epoch = Contribution { epoch: *epoch, requests: 1, ..Contribution::default() };
    }
    if let Some(proof) = script.convicted.get(&peer) {
        report.evidence = EvidenceReport {
            log10_e: 6.0,
            audits_failed: 3,
            quarantined: true,
            message: "three audits failed".into(),
            proof: Some(proof.clone()),
            ..EvidenceReport::default()
        };
    }
    if let Some(reason) = script.refused.get(&peer) {
        (report.reason, report.message) = (reason.clone(), "the gateway's words".into());
    }
    Json(report).into_response()
}

fn node_report(member: &Member, proven: bool) -> NodeReport {
    let model = |digest: &ModelDigest| NodeModel {
        digest: *digest,
        state: "Ready".into(),
        message: String::new(),
        prefill_rate_milli: 200_000,
        decode_rate_milli: 21_500,
        kernel_profile: "cpu".into(),
    };
    NodeReport {
        peer_id: member.peer_id.clone(),
        node_name: member.node_name.clone(),
        connected: proven,
        reason: String::new(),
        message: String::new(),
        software: "grid-worker/0".into(),
        processor: "Test CPU".into(),
        threads: 2,
        memory_bytes: 1 << 30,
        accelerators: Vec::new(),
        models: if proven { member.models.iter().map(model).collect() } else { Vec::new() },
        running: 0,
        schedulable: member.schedulable,
        queued: 0,
        slots: 1,
        capability: Capability {
            verified: proven,
            reason: if proven { String::new() } else { "ChallengePending".into() },
            gemm_units: if proven { 1234 } else { 0 },
            storage_verified: proven,
            proven_bytes: if proven { 2 << 30 } else { 0 },
            ..Capability::default()
        },
        evidence: EvidenceReport { audits_passed: 3, ..EvidenceReport::default() },
        current_epoch: Contribution::default(),
        last_epoch: Contribution::default(),
    }
}

async fn model(State(gateway): Shared, Path(digest): Path<String>) -> Response {
    match gateway.lock().models.get(&digest) {
        Some(order) => Json(model_report(&order.source)).into_response(),
        None => refuse(StatusCode::NOT_FOUND, "ModelUnknown", "no such model"),
    }
}

async fn put_model(
    State(gateway): Shared,
    Path(digest): Path<String>,
    Json(order): Json<ModelOrder>,
) -> Json<ModelReport> {
    let report = model_report(&order.source);
    gateway.lock().models.insert(digest, order);
    Json(report)
}

async fn delete_model(State(gateway): Shared, Path(digest): Path<String>) -> StatusCode {
    gateway.lock().models.remove(&digest);
    StatusCode::NO_CONTENT
}

/// A place with `wrong` in it gives other bytes than the digest says, one with `slow` none for now.
fn model_report(source: &ModelSource) -> ModelReport {
    let (wrong, slow) = (source.url.contains("wrong"), source.url.contains("slow"));
    ModelReport {
        digest: source.digest,
        state: match (wrong, slow) {
            (true, _) => ModelState::Failed,
            (false, true) => ModelState::Fetching,
            (false, false) => ModelState::Ready,
        },
        reason: if wrong { "ModelDigestMismatch".into() } else { String::new() },
        message: if wrong { format!("sha256 is {}, not {}", "ff".repeat(32), source.digest) } else { String::new() },
        bytes: 1 << 20,
        fetched_bytes: 1 << 20,
        serving: 1,
        copies: source.replicas,
        read_key: "opens-it".into(),
    }
}

/// Two a page, so that every listing of more turns over.
async fn jobs(State(gateway): Shared, Query(query): Query<BTreeMap<String, String>>) -> Json<JobPage> {
    const A_PAGE: usize = 2;
    let after = query.get("after").cloned().unwrap_or_default();
    let script = gateway.lock();
    let later = script.jobs.iter().filter(|(uid, _)| **uid > after).take(A_PAGE);
    let jobs: Vec<_> = later
        .map(|(uid, job)| JobName {
            uid: uid.clone(),
            namespace: job.spec.namespace.clone(),
            name: job.spec.name.clone(),
        })
        .collect();
    let next = if jobs.len() == A_PAGE { jobs.last().map(|job| job.uid.clone()) } else { None };
    Json(JobPage { jobs, next })
}

async fn put_job(State(gateway): Shared, Path(uid): Path<String>, Json(spec): Json<JobSpec>) -> Response {
    let mut script = gateway.lock();
    match script.jobs.get(&uid) {
        Some(job) if job.spec == spec => Json(report(job)).into_response(),
        Some(job) if job.state != JobState::Created => {
            refuse(StatusCode::CONFLICT, "JobConflict", "another spec under this uid")
        }
        // Nothing of a job without its input can have run.
        _ => {
            let job = Job { spec, lines: Vec::new(), control: JobControl::default(), state: JobState::Created };
            let answer = report(&job);
            script.jobs.insert(uid, job);
            Json(answer).into_response()
        }
    }
}

/// As the spec, its control and the input one after the other.
async fn take_job(State(gateway): Shared, Path(uid): Path<String>, Json(whole): Json<WholeJob>) -> Response {
    let kept = put_job(State(gateway.clone()), Path(uid.clone()), Json(whole.spec)).await;
    if !kept.status().is_success() {
        return kept;
    }
    let is_new = gateway.lock().jobs.get(&uid).is_some_and(|job| job.state == JobState::Created);
    let answer = put_input(State(gateway.clone()), Path(uid.clone()), whole.input.into()).await;
    if is_new && whole.control != JobControl::default() {
        return patch_job(State(gateway), Path(uid), Json(whole.control)).await;
    }
    answer
}

async fn put_input(State(gateway): Shared, Path(uid): Path<String>, body: Bytes) -> Response {
    let lines: Vec<InputLine> = body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let answer = {
        let mut script = gateway.lock();
        *script.submissions.entry(uid.clone()).or_default() += 1;
        if script.jobs.get(&uid).is_some_and(|job| script.broken.contains(&job.spec.name)) {
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "Broken", "the input broke off");
        }
        let Some(job) = script.jobs.get_mut(&uid) else {
            return refuse(StatusCode::NOT_FOUND, "JobUnknown", "no such job");
        };
        assert_eq!(job.spec.total_requests as usize, lines.len(), "the input has as many lines as the job said");
        if job.state != JobState::Created {
            // The same again changes nothing; another input under the same job would be a fault of the operator.
            assert_eq!(
                serde_json::to_string(&job.lines).unwrap(),
                serde_json::to_string(&lines).unwrap(),
                "one job, one input"
            );
            return Json(report(job)).into_response();
        }
        job.lines = lines;
        job.state = JobState::Queued;
        let answer = report(job);
        script.accepted += 1;
        answer
    };
    gateway.changed(ChangeKind::Job, &uid);
    Json(answer).into_response()
}

async fn patch_job(State(gateway): Shared, Path(uid): Path<String>, Json(control): Json<JobControl>) -> Response {
    let answer = {
        let mut script = gateway.lock();
        let Some(job) = script.jobs.get_mut(&uid) else {
            return refuse(StatusCode::NOT_FOUND, "JobUnknown", "no such job");
        };
        job.control = control;
        match job.state {
            JobState::Finished | JobState::Created => {}
            _ if control.cancelled => job.state = JobState::Cancelled,
            _ if control.suspended => job.state = JobState::Suspended,
            JobState::Suspended => job.state = JobState::Queued,
            _ => {}
        }
        report(job)
    };
    gateway.changed(ChangeKind::Job, &uid);
    Json(answer).into_response()
}

/// Asking moves a job on: Queued, Running, Finished.
async fn job(State(gateway): Shared, Path(uid): Path<String>) -> Response {
    let (answer, moved) = {
        let mut script = gateway.lock();
        *script.asked.entry(uid.clone()).or_default() += 1;
        let (released, settled) = (script.released.clone(), script.settled.clone());
        let Some(job) = script.jobs.get_mut(&uid) else {
            return refuse(StatusCode::NOT_FOUND, "JobUnknown", "no such job");
        };
        let mut answer = report(job);
        if let Some(spend) = &mut answer.spend {
            spend.settled = settled.get(&spend.payment.escrow).copied();
        }
        let held = job.spec.name.starts_with(HELD) && !released.contains(&job.spec.name);
        let next = match job.state {
            JobState::Queued => JobState::Running,
            JobState::Running if !held => JobState::Finished,
            state => state,
        };
        let moved = next != job.state;
        job.state = next;
        (answer, moved)
    };
    if moved {
        gateway.changed(ChangeKind::Job, &uid);
    }
    Json(answer).into_response()
}

async fn delete_job(State(gateway): Shared, Path(uid): Path<String>) -> StatusCode {
    let mut script = gateway.lock();
    script.jobs.remove(&uid);
    script.kept.retain(|(owner, _), _| *owner != uid);
    script.forgotten.insert(uid);
    StatusCode::NO_CONTENT
}

/// Lines that are answered in this state: none, the first half, all.
fn done(job: &Job) -> &[InputLine] {
    match job.state {
        JobState::Created | JobState::Queued => &[],
        JobState::Running | JobState::Suspended | JobState::Cancelled => &job.lines[..job.lines.len() / 2],
        JobState::Finished => &job.lines,
    }
}

fn prompt(line: &InputLine) -> String {
    line.messages.last().map_or_else(|| line.prompt.clone(), |message| message.content.clone())
}

fn report(job: &Job) -> JobReport {
    let (failed, completed): (Vec<_>, Vec<_>) = done(job).iter().partition(|line| prompt(line).contains(FAIL));
    let started = !matches!(job.state, JobState::Created | JobState::Queued);
    let nodes = if completed.is_empty() {
        Vec::new()
    } else {
        vec![JobNode { node_name: "node-a".into(), requests: completed.len() as u32 }]
    };
    JobReport {
        state: job.state,
        reason: String::new(),
        message: String::new(),
        total: job.spec.total_requests,
        rejected_lines: job.spec.rejected_lines,
        completed: completed.len() as u32,
        failed: failed.len() as u32,
        running: 0,
        prompt_tokens: 10 * completed.len() as u64,
        output_tokens: 5 * completed.len() as u64,
        nodes,
        audits_owed: 0,
        audits_passed: u32::from(job.state == JobState::Finished),
        audits_failed: 0,
        started_at_ms: if started { 1_000 } else { 0 },
        finished_at_ms: if job.state == JobState::Finished { 2_000 } else { 0 },
        receipts_root: if job.state == JobState::Finished { "ab".repeat(32) } else { String::new() },
        last_failures: failed
            .iter()
            .take(5)
            .map(|line| RequestFailure {
                custom_id: line.custom_id.clone(),
                reason: "WorkerFailed".into(),
                message: "told to".into(),
            })
            .collect(),
        waiting: None,
        spend: job.spec.payment.map(|payment| {
            let (read, made) = (10 * completed.len() as u64, 5 * completed.len() as u64);
            let (spent, used_up) = (payment.charge(read, made), payment.is_used_up(read, made));
            Spend { payment, spent, used_up, settled: None }
        }),
    }
}

async fn payments(State(gateway): Shared) -> Json<Vec<OpenPayment>> {
    let script = gateway.lock();
    let of_jobs = script.jobs.iter().filter_map(|(uid, job)| {
        let over = matches!(job.state, JobState::Finished | JobState::Cancelled);
        let spend = report(job).spend.filter(|_| over)?;
        Some(OpenPayment { job: uid.clone(), payment: spend.payment, spent: spend.spent, finished_at_ms: 2_000 })
    });
    let owed = script.owed.values().map(|(payment, _)| payment.clone());
    Json(owed.chain(of_jobs).filter(|open| !script.settled.contains_key(&open.payment.escrow)).collect())
}

async fn settle_payment(
    State(gateway): Shared,
    Path(escrow): Path<String>,
    Json(settled): Json<SettledPayment>,
) -> Response {
    let escrow: EscrowId = escrow.parse().unwrap();
    let of_job = {
        let mut script = gateway.lock();
        let before = script.settled.insert(escrow, settled);
        assert!(before.is_none_or(|before| before == settled), "the chain says one thing of an escrow");
        let pays = |job: &Job| job.spec.payment.as_ref().is_some_and(|payment| payment.escrow == escrow);
        script.jobs.iter().find(|(_, job)| pays(job)).map(|(uid, _)| uid.clone())
    };
    if let Some(uid) = of_job {
        gateway.changed(ChangeKind::Job, &uid);
    }
    StatusCode::NO_CONTENT.into_response()
}

async fn results(State(gateway): Shared, Path(uid): Path<String>) -> Response {
    let script = gateway.lock();
    let Some(job) = script.jobs.get(&uid) else { return refuse(StatusCode::NOT_FOUND, "JobUnknown", "no such job") };
    let lines: String =
        done(job).iter().map(|line| serde_json::to_string(&result(&uid, line)).unwrap() + "\n").collect();
    lines.into_response()
}

fn result(uid: &str, line: &InputLine) -> ResultLine {
    let text = prompt(line);
    let outcome = if !line.inputs.is_empty() {
        // A vector that says how long its text is.
        let vector = |text: &String| Vector::new(vec![0.1, text.len() as f32]).unwrap();
        Outcome::Embedded {
            vectors: line.inputs.iter().map(vector).collect(),
            encoding: line.encoding,
            prompt_tokens: 10,
            node_name: "node-a".into(),
            node_address: NodeAddress([7; 20]),
            created: 1,
        }
    } else if text.contains(FAIL) {
        Outcome::Failed { reason: "WorkerFailed".into(), message: "told to".into() }
    } else {
        Outcome::Completed {
            text: if text.contains(HUGE) { "x".repeat(2 << 20) } else { format!("answer to {text}") },
            finish_reason: "stop".into(),
            logprobs: None,
            prompt_tokens: 10,
            output_tokens: 5,
            node_name: "node-a".into(),
            node_address: NodeAddress([7; 20]),
            created: 1,
        }
    };
    ResultLine {
        index: line.index,
        custom_id: line.custom_id.clone(),
        request_id: RequestId::of_job_line(uid, &line.custom_id),
        outcome,
    }
}

type JobFile = Path<(String, String)>;

async fn keep_file(State(gateway): Shared, Path(key): JobFile, bytes: Bytes) -> Response {
    let mut script = gateway.lock();
    if script.store_is_full {
        return refuse(StatusCode::INSUFFICIENT_STORAGE, "StoreFull", "results take all the room that there is");
    }
    script.kept.insert(key, bytes);
    Json(json!({"readKey": "5e".repeat(32)})).into_response()
}

async fn kept_file(State(gateway): Shared, Path(key): JobFile) -> Response {
    match gateway.lock().kept.get(&key) {
        Some(bytes) => bytes.clone().into_response(),
        None => refuse(StatusCode::NOT_FOUND, "FileUnknown", "no such file"),
    }
}

async fn changes(State(gateway): Shared, Query(query): Query<BTreeMap<String, String>>) -> Body {
    assert!(query.contains_key("after"));
    let receiver = gateway.changes.subscribe();
    let lines = tokio_stream::wrappers::BroadcastStream::new(receiver)
        .filter_map(|change| std::future::ready(change.ok()))
        .take_while(|change| std::future::ready(change.key != "end"))
        .map(|change| Ok::<_, std::io::Error>(serde_json::to_string(&change).unwrap() + "\n"));
    Body::from_stream(lines)
}

/// Every member did the same work.
async fn close(State(gateway): Shared, Path(epoch): Path<u64>) -> Response {
    let mut script = gateway.lock();
    if let Some(totals) = script.closed.get(&epoch) {
        return totals.clone().into_response();
    }
    let escrows: Vec<_> = script.settled.keys().copied().collect();
    for escrow in escrows {
        script.counted.entry(escrow).or_insert(epoch);
    }
    let jobs = script.settled.iter().filter(|(escrow, _)| script.counted.get(*escrow) == Some(&epoch));
    let job = |(escrow, settled): (&EscrowId, &SettledPayment)| {
        let served = script.owed.get(escrow).into_iter().flat_map(|(_, served)| served);
        let mut served: Vec<_> =
            served.map(|(address, units)| ServedUnits { address: *address, units: units.to_string() }).collect();
        served.sort_by_key(|served| served.address);
        PaidJobTotals { escrow: *escrow, spent: settled.spent, fee_bps: settled.fee_bps, served }
    };
    let jobs = jobs.filter(|(_, settled)| settled.spent.0 > 0).map(job).collect();
    let node = |member: &Member| NodeTotals {
        address: member.peer_id.address().unwrap(),
        node_name: member.node_name.clone(),
        requests: 1,
        prompt_tokens: 10,
        output_tokens: 5,
        units: "100".into(),
        capacity_units: 10,
        proven_bytes: 1 << 20,
        eligible: member.registered,
        reason: String::new(),
    };
    let nodes = script.members.values().map(node).collect();
    let totals = EpochTotals {
        epoch: xdc_grid::api::ids::EpochNumber(epoch),
        nodes,
        jobs,
        audit_secret: "00".repeat(32),
        receipts: 0,
        receipts_hash: String::new(),
    };
    Json(serde_json::to_value(totals).unwrap()).into_response()
}

async fn file(State(gateway): Shared, Path(name): Path<String>) -> Response {
    match gateway.lock().files.get(&name) {
        Some(content) => content.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
