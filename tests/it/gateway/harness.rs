//! A gateway on a temporary directory, with scripted workers and its HTTP servers on loopback.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use prometheus::Registry;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use xdc_grid::{
    api::ids::{ModelDigest, NodeAddress},
    download::FetchLimits,
    gateway::{
        Clock, Gateway, Settings,
        http::{Tokens, internal_router, openai_router},
        serve_http, start_tasks,
    },
    protocol::{
        identity::NodeKey,
        internal::{
            Endpoint, InputLine, JobReport, JobSpec, JobState, Member, Message, ModelFormat, ModelReport, ModelSource,
            ModelState, NetworkConfig, NodeMode, NodeReport, NodeRole, Outcome, PlacementFilter, ResultLine,
        },
        names::NetworkId,
    },
    store::{Blobs, Ledger, fsck},
    telemetry,
    verify::gemm::GemmParams,
};

use super::workers::{FakeGrid, FakeWorker};

pub const TOKEN: &str = "internal-token";
pub const MODEL_BYTES: &[u8] = b"not really a model, but bytes with a digest";
pub const ENCODER_BYTES: &[u8] = b"not really an encoder, but other bytes with a digest";
pub const EPOCH_SECONDS: u64 = 3600;
const GENESIS: u64 = 1_700_000_000;
/// For what happens at once where the machine has time.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running gateway and everything around it.
pub struct Harness {
    pub folder: TempDir,
    pub gateway: Arc<Gateway>,
    pub ledger: Ledger,
    pub grid: Arc<FakeGrid>,
    pub internal: String,
    pub openai: String,
    pub client: reqwest::Client,
    pub settings: Settings,
    pub key: NodeKey,
    /// Added to the system's clock, in milliseconds.
    pub shift_ms: Arc<AtomicI64>,
}

pub fn network_id() -> NetworkId {
    NetworkId { chain_id: 51, contract: NodeAddress([9; 20]), salt: "test".into() }
}

pub fn network() -> NetworkConfig {
    NetworkConfig {
        name: "test".into(),
        network: network_id(),
        genesis: GENESIS,
        epoch_seconds: EPOCH_SECONDS,
        paused: false,
        external_addresses: vec!["/dns4/gateway.example/tcp/4001".into()],
        sample_percent: 0,
        namespace_weights: BTreeMap::new(),
    }
}

pub fn model_digest() -> ModelDigest {
    ModelDigest(Sha256::digest(MODEL_BYTES).into())
}

pub fn encoder_digest() -> ModelDigest {
    ModelDigest(Sha256::digest(ENCODER_BYTES).into())
}

/// Limits that a machine which is busy with something else does not meet: tests of a limit set it themselves.
pub fn settings() -> Settings {
    Settings {
        fetch: FetchLimits {
            max_bytes: 1 << 20,
            idle: Duration::from_secs(30),
            tries: 3,
            pause: Duration::from_millis(20),
            ..FetchLimits::default()
        },
        heartbeat_limit: Duration::from_secs(60),
        audit_timeout: Duration::from_secs(60),
        online_wait: Duration::from_secs(60),
        stall: Duration::from_secs(60),
        info_interval: Duration::from_millis(100),
        gemm: GemmParams { m: 2, n: 256, k: 8, rounds: 2 },
        epoch_grace: Duration::from_secs(5),
        ..Settings::default()
    }
}

impl Harness {
    /// With a network, a ready model and no worker.
    pub async fn start() -> Self {
        Self::start_with(settings()).await
    }

    pub async fn start_with(settings: Settings) -> Self {
        let harness =
            Self::bare(tempfile::tempdir().unwrap(), settings, NodeKey::generate(), early_in_an_epoch()).await;
        harness.gateway.put_network(network()).await.unwrap();
        harness.have_model().await;
        harness
    }

    pub async fn bare(folder: TempDir, settings: Settings, key: NodeKey, shift_ms: Arc<AtomicI64>) -> Self {
        telemetry::install_crypto_provider();
        let ledger = Ledger::open(&folder.path().join("ledger.db")).await.unwrap();
        let blobs = Blobs::open(&folder.path().join("blobs")).unwrap();
        let clock = clock(shift_ms.clone());
        let registry = Registry::new();
        let gateway =
            Gateway::open(ledger.clone(), blobs, key.clone(), settings.clone(), clock, &registry).await.unwrap();
        let grid = Arc::new(FakeGrid::default());
        gateway.connect(grid.clone());
        start_tasks(&gateway).await.unwrap();
        let internal = serve(&gateway, internal_router(gateway.clone(), Tokens::new([TOKEN]))).await;
        let openai = serve(&gateway, openai_router(gateway.clone(), None)).await;
        let client = reqwest::Client::new();
        Harness { folder, gateway, ledger, grid, internal, openai, client, settings, key, shift_ms }
    }

    /// Kills the gateway without any good-bye (as far as one process can) and starts another on the same directory.
    pub async fn restart(self) -> Self {
        // The tasks are dropped where they are; nothing is written on the way out.
        self.gateway.shutdown().await;
        Self::bare(self.folder, self.settings, self.key, self.shift_ms).await
    }

    /// The model is in the blob store and ready, as after a fetch.
    pub async fn have_model(&self) {
        self.have("tiny", ModelFormat::Gguf, MODEL_BYTES).await;
    }

    /// As `have_model`, an encoder called `embedder`.
    pub async fn have_encoder(&self) {
        self.have("embedder", ModelFormat::Safetensors, ENCODER_BYTES).await;
    }

    async fn have(&self, name: &str, format: ModelFormat, bytes: &[u8]) {
        let digest = ModelDigest(Sha256::digest(bytes).into());
        std::fs::write(self.folder.path().join("blobs").join(digest.to_string()), bytes).unwrap();
        let source = ModelSource {
            digest,
            name: name.into(),
            url: "http://127.0.0.1:9/never-asked".into(),
            context_length: 0,
            format,
            cost_per_token: 3,
            replicas: 1,
            chat_template: String::new(),
        };
        self.gateway.put_model(source.into()).await.unwrap();
        self.until("the model is ready", async || {
            let report: ModelReport = self.get(&format!("/models/{digest}")).await;
            report.state == ModelState::Ready
        })
        .await;
    }

    /// A member that is connected and, unless External, proven.
    pub async fn worker(&self, name: &str, roles: &[NodeRole]) -> Arc<FakeWorker> {
        self.worker_of(name, roles, NodeMode::Managed, 2).await
    }

    pub async fn worker_of(&self, name: &str, roles: &[NodeRole], mode: NodeMode, slots: u32) -> Arc<FakeWorker> {
        let worker = FakeWorker::new(&network_id(), slots);
        self.join(&worker, name, roles, mode).await;
        if mode == NodeMode::Managed {
            self.until("the worker is proven", async || self.node(&worker).await.capability.verified).await;
        }
        worker
    }

    pub fn member(worker: &FakeWorker, name: &str, roles: &[NodeRole], mode: NodeMode) -> Member {
        Member {
            peer_id: worker.peer(),
            node_name: name.into(),
            mode,
            roles: roles.to_vec(),
            schedulable: true,
            resting: false,
            max_requests: None,
            registered: true,
            models: vec![model_digest()],
            labels: BTreeMap::new(),
        }
    }

    pub async fn join(&self, worker: &Arc<FakeWorker>, name: &str, roles: &[NodeRole], mode: NodeMode) {
        *worker.serves.lock().unwrap() = vec![model_digest()];
        worker.holds.lock().unwrap().insert(model_digest(), MODEL_BYTES.to_vec());
        self.gateway.put_member(Self::member(worker, name, roles, mode)).await.unwrap();
        self.connect(worker).await;
    }

    /// A member that serves the encoder only. `have_encoder` comes first.
    pub async fn encoding_worker(&self, name: &str, roles: &[NodeRole], mode: NodeMode, slots: u32) -> Arc<FakeWorker> {
        let worker = FakeWorker::new(&network_id(), slots);
        *worker.serves.lock().unwrap() = vec![encoder_digest()];
        worker.holds.lock().unwrap().insert(encoder_digest(), ENCODER_BYTES.to_vec());
        let member = Member { models: vec![encoder_digest()], ..Self::member(&worker, name, roles, mode) };
        self.gateway.put_member(member).await.unwrap();
        self.connect(&worker).await;
        if mode == NodeMode::Managed {
            self.until("the worker is proven", async || self.node(&worker).await.capability.verified).await;
        }
        worker
    }

    pub async fn connect(&self, worker: &Arc<FakeWorker>) {
        self.grid.workers.lock().unwrap().insert(worker.peer(), worker.clone());
        self.gateway.peer_connected(worker.peer(), "grid-worker/test").await;
    }

    pub async fn disconnect(&self, worker: &Arc<FakeWorker>) {
        self.grid.workers.lock().unwrap().remove(&worker.peer());
        self.gateway.peer_gone(&worker.peer(), "closed").await;
    }

    pub async fn node(&self, worker: &FakeWorker) -> NodeReport {
        self.get(&format!("/nodes/{}", worker.peer())).await
    }

    /// Submits a chat job with these prompts.
    pub async fn job(&self, uid: &str, prompts: &[&str]) {
        self.job_with(uid, prompts, |_| {}).await;
    }

    pub async fn job_with(&self, uid: &str, prompts: &[&str], change: impl FnOnce(&mut JobSpec)) {
        let mut spec = spec(prompts.len() as u32);
        change(&mut spec);
        let response = self.request(reqwest::Method::PUT, &format!("/jobs/{uid}")).json(&spec).send().await.unwrap();
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
        self.put_input(uid, input(prompts)).await;
    }

    pub async fn put_input(&self, uid: &str, input: String) {
        let request = self.request(reqwest::Method::PUT, &format!("/jobs/{uid}/input")).body(input);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    }

    /// A job of these lines.
    pub async fn job_of(&self, uid: &str, lines: &[InputLine]) {
        let spec = spec(lines.len() as u32);
        let response = self.request(reqwest::Method::PUT, &format!("/jobs/{uid}")).json(&spec).send().await.unwrap();
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
        self.put_input(uid, lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect()).await;
    }

    pub async fn report(&self, uid: &str) -> JobReport {
        self.get(&format!("/jobs/{uid}")).await
    }

    pub async fn finished(&self, uid: &str) -> JobReport {
        let done = |report: &JobReport| matches!(report.state, JobState::Finished | JobState::Cancelled);
        let waiting = async {
            loop {
                let report = self.report(uid).await;
                if done(&report) {
                    return report;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, waiting).await {
            Ok(report) => report,
            Err(_) => panic!("job {uid} did not finish: {:?}", self.report(uid).await),
        }
    }

    pub async fn results(&self, uid: &str) -> Vec<ResultLine> {
        let response = self.request(reqwest::Method::GET, &format!("/jobs/{uid}/results")).send().await.unwrap();
        assert_eq!(response.status(), 200);
        response.text().await.unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub async fn texts(&self, uid: &str) -> Vec<String> {
        let text = |line: ResultLine| match line.outcome {
            Outcome::Completed { text, .. } => text,
            Outcome::Embedded { vectors, .. } => format!("{} vectors", vectors.len()),
            Outcome::Failed { reason, message } => format!("{reason}: {message}"),
        };
        self.results(uid).await.into_iter().map(text).collect()
    }

    /// The ledger keeps all its invariants.
    pub async fn assert_whole(&self) {
        assert_eq!(fsck(&self.ledger).await.unwrap(), Vec::<String>::new());
    }

    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}/internal/v1{path}", self.internal)).bearer_auth(TOKEN)
    }

    pub async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let response = self.request(reqwest::Method::GET, path).send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let waiting = async {
            while !condition().await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
    }

    /// Moves the gateway's clock.
    pub fn pass(&self, time: Duration) {
        self.shift_ms.fetch_add(time.as_millis() as i64, Ordering::Relaxed);
    }

    pub fn now_ms(&self) -> u64 {
        clock(self.shift_ms.clone()).now_ms()
    }

    pub fn epoch(&self) -> u64 {
        (self.now_ms() / 1000 - GENESIS) / EPOCH_SECONDS
    }
}

/// How far a clock is ahead of the system's when it is ten minutes into an epoch: no test lasts until that ends.
fn early_in_an_epoch() -> Arc<AtomicI64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let left = EPOCH_SECONDS - (now - GENESIS) % EPOCH_SECONDS;
    Arc::new(AtomicI64::new((left as i64 + 600) * 1000))
}

fn clock(shift_ms: Arc<AtomicI64>) -> Clock {
    Clock::from_fn(move || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64;
        (now + shift_ms.load(Ordering::Relaxed)) as u64
    })
}

async fn serve(gateway: &Arc<Gateway>, router: axum::Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(serve_http(gateway.clone(), "test", listener, router));
    address
}

pub fn spec(total_requests: u32) -> JobSpec {
    JobSpec {
        namespace: "team-a".into(),
        name: "hello".into(),
        model: model_digest(),
        model_name: "tiny".into(),
        endpoint: Endpoint::ChatCompletions,
        max_attempts: 3,
        total_requests,
        rejected_lines: 0,
        sample_percent: None,
        placement: PlacementFilter::default(),
        payment: None,
        chat_template: String::new(),
    }
}

pub fn line(index: u32, prompt: &str) -> InputLine {
    InputLine {
        messages: vec![Message { role: "user".into(), content: prompt.into() }],
        max_tokens: 16,
        seed: 7,
        ..InputLine::blank(index, format!("line-{index}"))
    }
}

pub fn input(prompts: &[&str]) -> String {
    let lines =
        prompts.iter().enumerate().map(|(index, prompt)| serde_json::to_string(&line(index as u32, prompt)).unwrap());
    lines.map(|line| line + "\n").collect()
}
