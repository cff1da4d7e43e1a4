//! The least gateway that a worker can work for.

use std::{sync::Arc, time::Duration};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::{
    sync::{Mutex, mpsc},
    time::timeout,
};
use xdc_grid::{
    api::ids::{GridPeerId, ModelDigest},
    grid::{BlobServer, GridEvent, InferClient},
    inference::KvType,
    protocol::{
        identity::NodeKey,
        receipt::{self, Acceptance, Receipt},
        wire::{
            self, Assign, AssignedModel, BlobEvent, NodeInfo, Offer, Sampling, Start, blob_event, infer_command,
            infer_event, limits, offer_reply,
        },
    },
    worker::{DeviceChoice, Quantity, Worker, WorkerHooks, WorkerOptions},
};

use super::parrot::Parrots;
use crate::grid::node::{Members, PATIENCE, TCP, TestNode, eventually, gateway_limits, network};

/// What the blob server gives.
#[derive(Clone)]
pub struct Blob {
    pub digest: ModelDigest,
    pub bytes: Arc<Vec<u8>>,
    /// Transfers break off after so many bytes, as often as there are entries.
    pub breaks: Arc<Mutex<Vec<usize>>>,
    /// Offsets that were asked for.
    pub asked: Arc<Mutex<Vec<u64>>>,
}

impl Blob {
    pub fn of(bytes: Vec<u8>) -> Self {
        let digest = ModelDigest(Sha256::digest(&bytes).into());
        Blob { digest, bytes: Arc::new(bytes), breaks: Arc::default(), asked: Arc::default() }
    }
}

pub struct TestGateway {
    pub node: TestNode,
    pub members: Members,
    pub address: libp2p::Multiaddr,
    pub folder: TempDir,
}

/// A worker with the node key and data folder that it lives in.
pub struct TestWorker {
    pub worker: Worker,
    pub key: NodeKey,
    pub data: std::path::PathBuf,
}

impl TestGateway {
    pub async fn serving(blob: Blob) -> Self {
        let members = Members::default();
        let key = NodeKey::generate();
        let mut node = TestNode::gateway(&key, "", members.clone(), &[TCP], gateway_limits()).await;
        let address = node.address("127.0.0.1").await;
        let streams = std::mem::replace(&mut node.grid.blob, mpsc::channel(1).1);
        tokio::spawn(serve_blobs(streams, blob));
        TestGateway { node, members, address, folder: tempfile::tempdir().unwrap() }
    }

    /// A worker of this gateway, authenticated.
    pub async fn worker(&mut self, hooks: WorkerHooks) -> TestWorker {
        self.worker_with(hooks, |_| {}).await
    }

    pub async fn worker_with(&mut self, hooks: WorkerHooks, change: impl FnOnce(&mut WorkerOptions)) -> TestWorker {
        let key = NodeKey::generate();
        let data = self.folder.path().join(key.peer_id().as_str());
        std::fs::create_dir_all(&data).unwrap();
        let key_file = data.join("node.key");
        std::fs::write(&key_file, hex::encode(key.secret_bytes())).unwrap();
        self.members.0.lock().unwrap().insert(key.peer_id());
        let network = network("");
        let mut options = WorkerOptions {
            key_file,
            gateways: vec![self.address.clone()],
            chain_id: network.chain_id,
            contract: network.contract,
            network_salt: network.salt,
            data_dir: data.clone(),
            http_address: ([127, 0, 0, 1], 0).into(),
            device: DeviceChoice::Cpu,
            threads: Some(2),
            max_sequences: 2,
            kv_budget: Quantity(256 << 20),
            kv_type: KvType::F32,
            region: "test".into(),
            accelerators: vec![],
            roles: vec![
                xdc_grid::protocol::internal::NodeRole::Compute,
                xdc_grid::protocol::internal::NodeRole::Verify,
                xdc_grid::protocol::internal::NodeRole::Storage,
            ],
            max_model_size: Quantity(1 << 30),
            drain_seconds: 120,
        };
        change(&mut options);
        let worker = Worker::start(options, hooks).await.unwrap();
        self.node.authenticated(&key.peer_id()).await;
        TestWorker { worker, key, data }
    }

    pub async fn assign(&self, worker: &GridPeerId, blob: &Blob, roles: &[&str]) {
        self.assign_as(worker, blob, blob.bytes.len() as u64, roles).await;
    }

    /// Says another size of it.
    pub async fn assign_as(&self, worker: &GridPeerId, blob: &Blob, bytes: u64, roles: &[&str]) {
        let model = AssignedModel { digest: blob.digest.0.to_vec(), name: "test".into(), bytes, context_length: 0 };
        let roles = roles.iter().map(|role| role.to_string()).collect();
        self.node.grid.handle.assign(worker, Assign { models: vec![model], roles }).await.unwrap();
    }

    /// Assigns and waits until the worker serves it.
    pub async fn ready(&self, worker: &GridPeerId, blob: &Blob, roles: &[&str]) -> NodeInfo {
        self.assign(worker, blob, roles).await;
        self.info_with(worker, |info| !info.models.is_empty()).await
    }

    /// Waits until the worker says what is wanted of itself.
    pub async fn info_with(&self, worker: &GridPeerId, wanted: impl Fn(&NodeInfo) -> bool) -> NodeInfo {
        let mut last = NodeInfo::default();
        let found = timeout(PATIENCE * 3, async {
            loop {
                // Its own rate limit holds this gateway back at times.
                if let Ok(info) = self.node.grid.handle.info(worker).await {
                    last = info;
                    if wanted(&last) {
                        return last.clone();
                    }
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        match found.await {
            Ok(info) => info,
            Err(_) => panic!("never said: {last:?}"),
        }
    }

    pub async fn offer(&self, worker: &GridPeerId, start: &Start) -> Result<wire::Accept, wire::Refused> {
        let offer = Offer {
            request_id: start.request_id.clone(),
            attempt: start.attempt,
            model: start.model.clone(),
            prompt_bytes: start.prompt.len() as u32,
            max_tokens: start.max_tokens,
        };
        match self.node.grid.handle.offer(worker, offer).await.unwrap().kind.unwrap() {
            offer_reply::Kind::Accept(accept) => Ok(accept),
            offer_reply::Kind::Reject(refused) => Err(refused),
        }
    }

    /// Offers, opens the stream and starts.
    pub async fn start(&self, worker: &GridPeerId, start: &Start) -> InferClient {
        let accept = self.offer(worker, start).await.unwrap();
        let start = Start { lease_id: accept.lease_id, ..start.clone() };
        let mut stream = self.node.grid.handle.open_infer(worker).await.unwrap();
        stream.receiver.set_idle(PATIENCE);
        send(&mut stream, infer_command::Kind::Start(start)).await;
        stream
    }

    /// Runs one request to its end and checks the receipt.
    pub async fn infer(&self, worker: &TestWorker, start: &Start) -> Answer {
        let mut stream = self.start(&worker.key.peer_id(), start).await;
        let mut answer = finish(&mut stream).await;
        answer.check(start, &worker.key);
        let acceptance = Acceptance { receipt: answer.receipt.content_hash(), epoch: 5 };
        let signature = receipt::sign(&acceptance, &network(""), &self.node.key).unwrap().to_vec();
        send(&mut stream, infer_command::Kind::Ack(wire::Ack { epoch: 5, signature })).await;
        stream.sender.close().await.unwrap();
        answer.acknowledged = true;
        answer
    }

    /// Has a Verify node replay an answer.
    pub async fn audit(
        &self,
        worker: &GridPeerId,
        start: &Start,
        output: &[u32],
    ) -> Result<wire::Replay, wire::Refused> {
        let mut stream = self.node.grid.handle.open_audit(worker).await.unwrap();
        stream.receiver.set_idle(PATIENCE);
        let request = wire::AuditRequest { start: Some(start.clone()), output: output.to_vec() };
        stream.send(&request).await.unwrap();
        loop {
            match stream.next().await.unwrap().expect("the stream ended").kind {
                Some(wire::audit_event::Kind::Heartbeat(_)) => {}
                Some(wire::audit_event::Kind::Replay(replay)) => return Ok(replay),
                Some(wire::audit_event::Kind::Error(refused)) => return Err(refused),
                None => panic!("an event of no kind"),
            }
        }
    }
}

impl TestWorker {
    pub fn peer(&self) -> GridPeerId {
        self.key.peer_id()
    }

    /// Status code and body of `/ready`.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let address = self.worker.http_address();
        let answer = reqwest::get(format!("http://{address}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Lines of the claims file once there are so many.
    pub async fn claims(&self, count: usize) -> Vec<String> {
        let path = self.data.join("claims.ndjson");
        let read = || std::fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>();
        eventually("the claims are kept", async || read().len() >= count).await;
        read()
    }
}

pub struct Answer {
    pub tokens: Vec<u32>,
    pub text: String,
    /// Where they were asked for.
    pub logprobs: Vec<wire::TokenLogprobs>,
    pub finish: String,
    pub receipt: Receipt,
    pub signature: Vec<u8>,
    pub acknowledged: bool,
}

impl Answer {
    /// What a gateway checks before it accepts a receipt.
    fn check(&self, start: &Start, worker: &NodeKey) {
        let Receipt { requestId, attempt, model, outputHash, outputTokens, .. } = &self.receipt;
        assert_eq!(
            (requestId.to_vec(), *attempt, model.to_vec()),
            (start.request_id.clone(), start.attempt, start.model.clone())
        );
        assert_eq!(outputHash.0, receipt::hash_tokens(&self.tokens));
        assert_eq!(*outputTokens as usize, self.tokens.len());
        // By ecrecover, as the contract would.
        assert_eq!(receipt::signer_of(&self.receipt, &network(""), &self.signature), Some(worker.address()));
    }
}

/// Reads a stream to its receipt.
pub async fn finish(stream: &mut InferClient) -> Answer {
    let (mut tokens, mut text, mut logprobs) = (vec![], String::new(), vec![]);
    loop {
        match stream.next().await.unwrap().expect("the stream ended").kind.expect("an event of no kind") {
            infer_event::Kind::Token(token) => {
                assert_eq!(token.index as usize, tokens.len());
                tokens.push(token.id);
                text.push_str(&token.text);
                logprobs.extend(token.logprobs);
            }
            infer_event::Kind::Heartbeat(heartbeat) => {
                assert_eq!(heartbeat.tokens as usize, tokens.len());
            }
            infer_event::Kind::Finished(finished) => {
                let wire = finished.receipt.unwrap();
                let (receipt, signature) = (Receipt::from_wire(&wire).unwrap(), wire.signature);
                let finish = finished.finish_reason;
                return Answer { tokens, text, logprobs, finish, receipt, signature, acknowledged: false };
            }
            infer_event::Kind::Error(refused) => panic!("refused: {refused:?}"),
            infer_event::Kind::Vector(_) => panic!("a vector where tokens were due"),
        }
    }
}

pub async fn send(stream: &mut InferClient, kind: infer_command::Kind) {
    stream.send(&wire::InferCommand { kind: Some(kind) }).await.unwrap();
}

/// A completion request; `number` makes it a request of its own.
pub fn start(blob: &Blob, number: u8, prompt: &str, max_tokens: u32) -> Start {
    Start {
        request_id: vec![number; 32],
        attempt: 1,
        model: blob.digest.0.to_vec(),
        prompt: prompt.into(),
        max_tokens,
        sampling: Some(Sampling { top_p: 1.0, ..Default::default() }),
        client_nonce: vec![4; 32],
        beacon: vec![5; 32],
        ..Default::default()
    }
}

pub fn parrots(how: Parrots) -> WorkerHooks {
    WorkerHooks { engines: Arc::new(how), ..Default::default() }
}

async fn serve_blobs(mut streams: mpsc::Receiver<(GridPeerId, BlobServer)>, blob: Blob) {
    while let Some((_, stream)) = streams.recv().await {
        tokio::spawn(serve_blob(stream, blob.clone()));
    }
}

async fn serve_blob(mut stream: BlobServer, blob: Blob) {
    let Ok(Some(request)) = stream.next().await else { return };
    blob.asked.lock().await.push(request.offset);
    let event = |kind| BlobEvent { kind: Some(kind) };
    if request.digest != blob.digest.0 {
        let refused = wire::Refused { reason: "BlobUnknown".into(), message: "not here".into(), retry_after_ms: 0 };
        let _ = stream.send(&event(blob_event::Kind::Refused(refused))).await;
        return;
    }
    let until = blob.breaks.lock().await.pop().unwrap_or(blob.bytes.len());
    let _ = stream.send(&event(blob_event::Kind::Total(blob.bytes.len() as u64))).await;
    for chunk in blob.bytes[request.offset as usize..until.max(request.offset as usize)].chunks(limits::BLOB_CHUNK) {
        if stream.send(&event(blob_event::Kind::Chunk(chunk.to_vec()))).await.is_err() {
            return;
        }
    }
    let _ = stream.sender.close().await;
}

/// Waits for an advert of a worker.
pub async fn advert(gateway: &mut TestGateway, wanted: impl Fn(&NodeInfo) -> bool) {
    gateway.node.event(|event| matches!(event, GridEvent::Advert { info, .. } if wanted(info))).await;
}
