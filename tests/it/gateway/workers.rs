//! Scripted workers: they speak the whole protocol, compute nothing, and misbehave on command.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc};
use xdc_grid::{
    api::ids::{GridPeerId, ModelDigest},
    gateway::{FrameSink, FrameSource, Link, WorkerError, Workers},
    protocol::{
        fields::RequestField,
        identity::NodeKey,
        names::NetworkId,
        receipt::{Receipt, hash_inputs, hash_tokens, hash_vectors, sign},
        vector::Vector,
        wire::{
            self, Accept, Ack, Assign, AuditEvent, AuditRequest, BlobEvent, BlobRequest, ChallengeReply,
            ChallengeRequest, Finished, GemmCommit, GemmTile, GemmTiles, Heartbeat, InferCommand, InferEvent, NodeInfo,
            Offer, OfferReply, Refused, Replay, ServedModel, Start, StorageProof, Token, TokenLogprobs, TopLogprob,
            audit_event, blob_event, challenge_reply, challenge_request, infer_command, infer_event, offer_reply,
        },
    },
    verify::{
        embedding,
        gemm::{GemmParams, GemmProof, prove},
        sampler::{SamplerParams, asked_hash, seed},
        storage::{StorageAnswer, leaf_range},
        told,
    },
};

pub const PROFILE: &str = "scripted/1";

/// What a worker does with the next streams.
#[derive(Debug, Clone, PartialEq)]
pub enum Script {
    Honest,
    /// Closes the stream after so many tokens.
    DieAfter(usize),
    /// Says nothing more after so many tokens, no heartbeat either.
    SilentAfter(usize),
    /// Sends heartbeats for ever and no token.
    Stall,
    /// Answers with other tokens than the model gives.
    Cheat,
    /// Signs a receipt that counts one token too many.
    Overcount,
    /// Sends other vectors than its receipt stands for.
    Swap,
    /// Tells other log-probabilities than the model gives.
    MakeUp,
    /// Tells no log-probabilities, whoever asks.
    KeepQuiet,
    /// Rejects every offer.
    Reject(Refused),
    /// Fails on the stream.
    Fail(Refused),
    /// Fails on the stream after so many tokens.
    FailAfter(usize, Refused),
}

/// One worker.
pub struct FakeWorker {
    pub key: NodeKey,
    pub network: NetworkId,
    pub script: Mutex<Script>,
    /// Tokens may only be sent with a permit when this is set.
    pub brake: Mutex<Option<Arc<Semaphore>>>,
    pub slots: u32,
    pub profile: Mutex<String>,
    /// Fields of a request that it says it knows.
    pub knows: Mutex<Vec<String>>,
    pub serves: Mutex<Vec<ModelDigest>>,
    pub holds: Mutex<HashMap<ModelDigest, Vec<u8>>>,
    /// Offsets from which it was asked for what it holds.
    pub given: Mutex<Vec<u64>>,
    /// The next blob ends after two pieces.
    pub breaks_off: AtomicBool,
    pub acks: Mutex<Vec<Ack>>,
    pub starts: Mutex<Vec<Start>>,
    pub cancels: AtomicU64,
    pub audits: AtomicU64,
    /// A Verify node that never answers.
    pub audits_fail: Mutex<bool>,
    /// A Verify node that refuses every replay.
    pub audits_refused: Mutex<Option<Refused>>,
    sequence: AtomicU64,
    proofs: Mutex<HashMap<Vec<u8>, GemmProof>>,
}

impl FakeWorker {
    pub fn new(network: &NetworkId, slots: u32) -> Arc<Self> {
        Arc::new(FakeWorker {
            key: NodeKey::generate(),
            network: network.clone(),
            script: Mutex::new(Script::Honest),
            brake: Mutex::default(),
            slots,
            profile: Mutex::new(PROFILE.into()),
            knows: Mutex::new(RequestField::ALL.map(|field| field.name().to_owned()).into()),
            serves: Mutex::default(),
            holds: Mutex::default(),
            given: Mutex::default(),
            breaks_off: AtomicBool::new(false),
            acks: Mutex::default(),
            starts: Mutex::default(),
            cancels: AtomicU64::new(0),
            audits: AtomicU64::new(0),
            audits_fail: Mutex::new(false),
            audits_refused: Mutex::default(),
            sequence: AtomicU64::new(1),
            proofs: Mutex::default(),
        })
    }

    pub fn peer(&self) -> GridPeerId {
        self.key.peer_id()
    }

    pub fn set(&self, script: Script) {
        *self.script.lock().unwrap() = script;
    }

    /// From now on every token needs a permit of this semaphore.
    pub fn brake(&self) -> Arc<Semaphore> {
        let brake = Arc::new(Semaphore::new(0));
        *self.brake.lock().unwrap() = Some(brake.clone());
        brake
    }

    pub fn info(&self) -> NodeInfo {
        let served = |digest: &ModelDigest| ServedModel {
            digest: digest.0.to_vec(),
            context_length: 2048,
            prefill_rate_milli: 100_000,
            decode_rate_milli: 20_000,
            kernel_profile: self.profile.lock().unwrap().clone(),
        };
        NodeInfo {
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
            models: self.serves.lock().unwrap().iter().map(served).collect(),
            slots: self.slots,
            request_fields: self.knows.lock().unwrap().clone(),
            ..NodeInfo::default()
        }
    }

    async fn serve(
        self: Arc<Self>,
        start: Start,
        mut commands: mpsc::Receiver<InferCommand>,
        events: mpsc::Sender<InferEvent>,
    ) {
        self.starts.lock().unwrap().push(start.clone());
        let script = self.script.lock().unwrap().clone();
        let send = |kind| events.send(InferEvent { kind: Some(kind) });
        if let Script::Fail(refused) = script {
            let _ = send(infer_event::Kind::Error(refused)).await;
            return;
        }
        if !start.inputs.is_empty() {
            self.embed(&start, &script, &mut commands, &events).await;
            return;
        }
        let mut answer = honest_answer(&start);
        if script == Script::Cheat {
            answer[0] = (answer[0].0 + 1, " Rome".into());
        }
        let prefix = start.prefix.len();
        let mut made: Vec<u32> = start.prefix.clone();
        for (index, (id, text)) in answer.iter().enumerate().skip(prefix) {
            match &script {
                Script::FailAfter(n, refused) if made.len() - prefix >= *n => {
                    let _ = send(infer_event::Kind::Error(refused.clone())).await;
                    return;
                }
                Script::DieAfter(n) if made.len() - prefix >= *n => return,
                Script::SilentAfter(n) if made.len() - prefix >= *n => {
                    self.wait_for_end(&mut commands).await;
                    return;
                }
                Script::Stall => {
                    while !self.is_over(&mut commands, Duration::from_millis(50)).await {
                        if send(infer_event::Kind::Heartbeat(Heartbeat { tokens: 0 })).await.is_err() {
                            return;
                        }
                    }
                    return;
                }
                _ => {}
            }
            let brake = self.brake.lock().unwrap().clone();
            if let Some(brake) = brake {
                loop {
                    tokio::select! {
                        permit = brake.acquire() => { permit.unwrap().forget(); break; }
                        over = self.is_over(&mut commands, Duration::from_millis(200)) => {
                            if over || send(infer_event::Kind::Heartbeat(Heartbeat { tokens: 0 })).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            }
            let told = start.top_logprobs.filter(|_| script != Script::KeepQuiet);
            let mut logprobs = told.map(|top| logprobs(text, top));
            if let (Script::MakeUp, Some(logprobs)) = (&script, &mut logprobs) {
                logprobs.logprob -= 1.0;
            }
            let token = Token { index: index as u32, id: *id, text: text.clone(), logprobs };
            if send(infer_event::Kind::Token(token)).await.is_err() {
                return;
            }
            made.push(*id);
        }
        let receipt = self.receipt(&start, &made, script == Script::Overcount);
        let full = made.len() >= start.max_tokens as usize;
        let finish_reason = if full { "length" } else { "stop" }.to_owned();
        let _ = send(infer_event::Kind::Finished(Finished { finish_reason, receipt: Some(receipt) })).await;
        if let Some(InferCommand { kind: Some(infer_command::Kind::Ack(ack)) }) = commands.recv().await {
            self.acks.lock().unwrap().push(ack);
        }
    }

    /// Answers an embedding request. `Swap` and `DieAfter` are for the first one only.
    async fn embed(
        &self,
        start: &Start,
        script: &Script,
        commands: &mut mpsc::Receiver<InferCommand>,
        events: &mpsc::Sender<InferEvent>,
    ) {
        let mut vectors = honest_vectors(start);
        let first = self.starts.lock().unwrap().len() == 1;
        if *script == Script::Cheat {
            vectors[0] = nudged(&vectors[0]);
        }
        for (index, vector) in vectors.iter().enumerate() {
            if first && matches!(script, Script::DieAfter(n) if index >= *n) {
                return;
            }
            let shown = if first && *script == Script::Swap { nudged(vector) } else { vector.clone() };
            let vector = wire::Vector { index: index as u32, values: shown.to_bytes() };
            if events.send(InferEvent { kind: Some(infer_event::Kind::Vector(vector)) }).await.is_err() {
                return;
            }
        }
        let receipt = Receipt {
            promptHash: hash_inputs(&input_ids(start)).into(),
            outputHash: hash_vectors(&vectors).into(),
            promptTokens: input_ids(start).iter().map(Vec::len).sum::<usize>() as u32,
            outputTokens: 0,
            traceRoot: embedding::root(&vectors).into(),
            ..Receipt::from_wire(&self.receipt(start, &[], false)).unwrap()
        };
        let receipt = receipt.to_wire(&sign(&receipt, &self.network, &self.key).unwrap());
        let finished = Finished { finish_reason: "stop".into(), receipt: Some(receipt) };
        let _ = events.send(InferEvent { kind: Some(infer_event::Kind::Finished(finished)) }).await;
        if let Some(InferCommand { kind: Some(infer_command::Kind::Ack(ack)) }) = commands.recv().await {
            self.acks.lock().unwrap().push(ack);
        }
    }

    async fn wait_for_end(&self, commands: &mut mpsc::Receiver<InferCommand>) {
        while !self.is_over(commands, Duration::from_secs(60)).await {}
    }

    /// Whether the gateway cancelled or hung up within `wait`.
    async fn is_over(&self, commands: &mut mpsc::Receiver<InferCommand>, wait: Duration) -> bool {
        match tokio::time::timeout(wait, commands.recv()).await {
            Ok(Some(_)) => {
                self.cancels.fetch_add(1, Ordering::Relaxed);
                true
            }
            Ok(None) => true,
            Err(_) => false,
        }
    }

    fn receipt(&self, start: &Start, made: &[u32], overcount: bool) -> xdc_grid::protocol::wire::Receipt {
        let hash = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).unwrap();
        let prompt = prompt_ids(start);
        let receipt = Receipt {
            requestId: hash(&start.request_id).into(),
            attempt: start.attempt,
            model: hash(&start.model).into(),
            promptHash: hash_tokens(&prompt).into(),
            outputHash: hash_tokens(made).into(),
            promptTokens: prompt.len() as u32,
            outputTokens: made.len() as u32 + u32::from(overcount),
            sampler: sampler_hash(start).into(),
            seed: seed_of(start).into(),
            traceRoot: trace(made).into(),
            startedAt: 1,
            finishedAt: 2,
        };
        receipt.to_wire(&sign(&receipt, &self.network, &self.key).unwrap())
    }

    fn challenge(&self, challenge: ChallengeRequest) -> ChallengeReply {
        let hash = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).unwrap();
        let mut proofs = self.proofs.lock().unwrap();
        let kind = match challenge.kind.unwrap() {
            challenge_request::Kind::Gemm(gemm) => {
                let params = GemmParams { m: gemm.m, n: gemm.n, k: gemm.k, rounds: gemm.rounds };
                let proof = prove(params, &hash(&gemm.seed_a), &hash(&gemm.seed_b), &matmul).unwrap();
                let roots = proof.roots().iter().map(|root| root.to_vec()).collect();
                proofs.insert(challenge.challenge_id, proof);
                challenge_reply::Kind::Commit(GemmCommit { roots })
            }
            challenge_request::Kind::GemmOpen(open) => {
                let tiles = proofs[&challenge.challenge_id].open(&open.tiles).unwrap();
                let tile = |tile: xdc_grid::verify::gemm::Tile| GemmTile {
                    index: tile.index,
                    values: tile.values,
                    path: tile.path.iter().map(|hash| hash.to_vec()).collect(),
                };
                challenge_reply::Kind::Tiles(GemmTiles { tiles: tiles.into_iter().map(tile).collect() })
            }
            challenge_request::Kind::Storage(storage) => {
                let held = self.holds.lock().unwrap();
                match held.get(&ModelDigest(hash(&storage.blob))) {
                    None => challenge_reply::Kind::Refused(refused("BlobNotHeld", 0)),
                    Some(bytes) => {
                        let mut answer = StorageAnswer::new(&hash(&storage.nonce));
                        for leaf in storage.leaves {
                            let (offset, length) = leaf_range(leaf, bytes.len() as u64).unwrap();
                            answer.push(&bytes[offset as usize..offset as usize + length]);
                        }
                        challenge_reply::Kind::Storage(StorageProof { tag: answer.finish().to_vec() })
                    }
                }
            }
        };
        ChallengeReply { kind: Some(kind) }
    }

    fn replay(&self, request: &AuditRequest) -> Replay {
        let start = request.start.as_ref().unwrap();
        if !start.inputs.is_empty() {
            let inputs = input_ids(start);
            return Replay {
                prompt_hash: hash_inputs(&inputs).to_vec(),
                prompt_tokens: inputs.iter().map(Vec::len).sum::<usize>() as u32,
                trace_root: embedding::root(&honest_vectors(start)).to_vec(),
                kernel_profile: self.profile.lock().unwrap().clone(),
                sampler: sampler_hash(start).to_vec(),
                seed: seed_of(start).to_vec(),
                ..Replay::default()
            };
        }
        let honest: Vec<u32> = honest_answer(start).iter().map(|(id, _)| *id).collect();
        let mismatch = honest.iter().zip(&request.output).position(|(right, given)| right != given);
        let prompt = prompt_ids(start);
        Replay {
            prompt_hash: hash_tokens(&prompt).to_vec(),
            prompt_tokens: prompt.len() as u32,
            trace_root: trace(&honest).to_vec(),
            first_mismatch: mismatch.map_or(0, |index| index as u32 + 1),
            max_margin: if mismatch.is_some() { 5.0 } else { 0.0 },
            mean_margin: 0.0,
            kernel_profile: self.profile.lock().unwrap().clone(),
            sampler: sampler_hash(start).to_vec(),
            seed: seed_of(start).to_vec(),
            logprobs_hash: match start.top_logprobs {
                None => Vec::new(),
                Some(top) => {
                    let told = honest_answer(start).into_iter().skip(start.prefix.len());
                    told::hash(&told.map(|(_, text)| logprobs(&text, top)).collect::<Vec<_>>()).to_vec()
                }
            },
        }
    }
}

/// The answer that the scripted model gives: (token id, text).
fn honest_answer(start: &Start) -> Vec<(u32, String)> {
    let prompt = prompt_text(start);
    let words: Vec<String> = match prompt.contains("France") {
        true => vec![" Paris".into(), " is".into(), " it".into(), ".".into()],
        false => prompt.split_whitespace().take(8).map(|word| format!(" {word}")).collect(),
    };
    let id = |word: &String| u32::from_le_bytes(blake3::hash(word.as_bytes()).as_bytes()[..4].try_into().unwrap()) >> 1;
    words.into_iter().take(start.max_tokens as usize).map(|word| (id(&word), word)).collect()
}

/// What the scripted model tells of a token: as likely as its text is short.
fn logprobs(text: &str, top: u32) -> TokenLogprobs {
    let logprob = -(text.len() as f32) / 4.0;
    let other = |rank: u32| TopLogprob { bytes: text.as_bytes().to_vec(), logprob: logprob - rank as f32 };
    TokenLogprobs { bytes: text.as_bytes().to_vec(), logprob, top: (0..top).map(other).collect() }
}

/// The vectors that the scripted encoder gives: four bytes of a hash of each text.
pub fn honest_vectors(start: &Start) -> Vec<Vector> {
    let vector = |text: &String| {
        let bytes = *blake3::hash(text.as_bytes()).as_bytes();
        Vector::new(bytes.iter().take(4).map(|byte| f32::from(*byte) / 256.0 - 0.5).collect()).unwrap()
    };
    start.inputs.iter().map(vector).collect()
}

/// The same but for one bit.
fn nudged(vector: &Vector) -> Vector {
    let mut values = vector.values().to_vec();
    values[0] = f32::from_bits(values[0].to_bits() ^ 1);
    Vector::new(values).unwrap()
}

fn input_ids(start: &Start) -> Vec<Vec<u32>> {
    start.inputs.iter().map(|text| text.bytes().map(u32::from).collect()).collect()
}

fn prompt_text(start: &Start) -> String {
    // A template makes another prompt of the same messages.
    let contents = start.messages.iter().map(|message| message.content.clone());
    contents.chain([start.prompt.clone(), start.chat_template.clone()]).collect()
}

fn prompt_ids(start: &Start) -> Vec<u32> {
    prompt_text(start).bytes().map(u32::from).collect()
}

fn trace(ids: &[u32]) -> [u8; 32] {
    *blake3::hash(&hash_tokens(ids)).as_bytes()
}

fn seed_of(start: &Start) -> [u8; 32] {
    let hash = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).unwrap();
    seed(&hash(&start.request_id), &hash(&start.client_nonce), &hash(&start.beacon), &hash(&start.model))
}

fn sampler_hash(start: &Start) -> [u8; 32] {
    let params = SamplerParams::try_from(start.sampling.as_ref().unwrap()).unwrap();
    asked_hash(&params, start.top_logprobs)
}

pub fn refused(reason: &str, retry_after_ms: u64) -> Refused {
    Refused { reason: reason.into(), message: format!("scripted: {reason}"), retry_after_ms }
}

fn matmul(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f32> {
    let mut c = vec![0.0; m * n];
    for row in 0..m {
        for inner in 0..k {
            for column in 0..n {
                c[row * n + column] += a[row * k + inner] * b[inner * n + column];
            }
        }
    }
    c
}

/// All scripted workers of one gateway.
#[derive(Default)]
pub struct FakeGrid {
    pub workers: Mutex<HashMap<GridPeerId, Arc<FakeWorker>>>,
    pub assigned: Mutex<HashMap<GridPeerId, Assign>>,
    pub disconnected: Mutex<Vec<GridPeerId>>,
}

impl FakeGrid {
    fn get(&self, peer: &GridPeerId) -> Result<Arc<FakeWorker>, WorkerError> {
        self.workers.lock().unwrap().get(peer).cloned().ok_or(WorkerError::NotConnected)
    }
}

impl Workers for FakeGrid {
    fn offer<'a>(&'a self, peer: &'a GridPeerId, _: Offer) -> BoxFuture<'a, Result<OfferReply, WorkerError>> {
        Box::pin(async move {
            let kind = match self.get(peer)?.script.lock().unwrap().clone() {
                Script::Reject(refused) => offer_reply::Kind::Reject(refused),
                _ => offer_reply::Kind::Accept(Accept { lease_id: vec![1; 16], hold_ms: 1000, queued: 0 }),
            };
            Ok(OfferReply { kind: Some(kind) })
        })
    }

    fn infer<'a>(&'a self, peer: &'a GridPeerId) -> BoxFuture<'a, Result<Link<InferCommand, InferEvent>, WorkerError>> {
        Box::pin(async move {
            let worker = self.get(peer)?;
            let (command_sender, mut commands) = mpsc::channel(8);
            let (events, event_receiver) = mpsc::channel(8);
            tokio::spawn(async move {
                if let Some(InferCommand { kind: Some(infer_command::Kind::Start(start)) }) = commands.recv().await {
                    worker.serve(start, commands, events).await;
                }
            });
            Ok(Link { sink: Box::new(Sink(command_sender)), source: Box::new(Source(event_receiver)) })
        })
    }

    fn audit<'a>(&'a self, peer: &'a GridPeerId) -> BoxFuture<'a, Result<Link<AuditRequest, AuditEvent>, WorkerError>> {
        Box::pin(async move {
            let worker = self.get(peer)?;
            if *worker.audits_fail.lock().unwrap() {
                return Err(WorkerError::Broken("scripted".into()));
            }
            let (request_sender, mut requests) = mpsc::channel::<AuditRequest>(8);
            let (events, event_receiver) = mpsc::channel(8);
            tokio::spawn(async move {
                if let Some(request) = requests.recv().await {
                    worker.audits.fetch_add(1, Ordering::Relaxed);
                    let refused = worker.audits_refused.lock().unwrap().clone().map(audit_event::Kind::Error);
                    let kind = refused.unwrap_or_else(|| audit_event::Kind::Replay(worker.replay(&request)));
                    let _ = events.send(AuditEvent { kind: Some(kind) }).await;
                }
            });
            Ok(Link { sink: Box::new(Sink(request_sender)), source: Box::new(Source(event_receiver)) })
        })
    }

    /// Gives what `holds` has under the digest, right or wrong, in pieces.
    fn blob<'a>(&'a self, peer: &'a GridPeerId) -> BoxFuture<'a, Result<Link<BlobRequest, BlobEvent>, WorkerError>> {
        Box::pin(async move {
            let worker = self.get(peer)?;
            let (request_sender, mut requests) = mpsc::channel::<BlobRequest>(1);
            let (events, event_receiver) = mpsc::channel(8);
            tokio::spawn(async move {
                let Some(request) = requests.recv().await else { return };
                let digest = ModelDigest(request.digest.try_into().unwrap());
                worker.given.lock().unwrap().push(request.offset);
                let held = worker.holds.lock().unwrap().get(&digest).cloned();
                let Some(bytes) = held else {
                    let kind = blob_event::Kind::Refused(refused("BlobNotHere", 0));
                    let _ = events.send(BlobEvent { kind: Some(kind) }).await;
                    return;
                };
                let total = blob_event::Kind::Total(bytes.len() as u64);
                let chunks = bytes[request.offset as usize..].chunks(64 << 10);
                let kinds = std::iter::once(total).chain(chunks.map(|chunk| blob_event::Kind::Chunk(chunk.to_vec())));
                let breaks_off = worker.breaks_off.swap(false, Ordering::Relaxed);
                for kind in kinds.take(if breaks_off { 3 } else { usize::MAX }) {
                    let _ = events.send(BlobEvent { kind: Some(kind) }).await;
                }
            });
            Ok(Link { sink: Box::new(Sink(request_sender)), source: Box::new(Source(event_receiver)) })
        })
    }

    fn challenge<'a>(
        &'a self,
        peer: &'a GridPeerId,
        challenge: ChallengeRequest,
    ) -> BoxFuture<'a, Result<ChallengeReply, WorkerError>> {
        Box::pin(async move { Ok(self.get(peer)?.challenge(challenge)) })
    }

    fn assign<'a>(&'a self, peer: &'a GridPeerId, assign: Assign) -> BoxFuture<'a, Result<(), WorkerError>> {
        Box::pin(async move {
            self.get(peer)?;
            self.assigned.lock().unwrap().insert(peer.clone(), assign);
            Ok(())
        })
    }

    fn info<'a>(&'a self, peer: &'a GridPeerId) -> BoxFuture<'a, Result<NodeInfo, WorkerError>> {
        Box::pin(async move { Ok(self.get(peer)?.info()) })
    }

    fn disconnect<'a>(&'a self, peer: &'a GridPeerId) -> BoxFuture<'a, ()> {
        self.disconnected.lock().unwrap().push(peer.clone());
        Box::pin(async {})
    }

    fn peers(&self) -> BoxFuture<'_, Vec<GridPeerId>> {
        Box::pin(async { self.workers.lock().unwrap().keys().cloned().collect() })
    }

    fn addresses(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(async { vec!["/ip4/127.0.0.1/tcp/4001/p2p/scripted".into()] })
    }
}

struct Sink<T>(mpsc::Sender<T>);

impl<T: Clone + Send + Sync + 'static> FrameSink<T> for Sink<T> {
    fn send<'a>(&'a mut self, message: &'a T) -> BoxFuture<'a, Result<(), WorkerError>> {
        Box::pin(async move { self.0.send(message.clone()).await.map_err(|_| WorkerError::Broken("closed".into())) })
    }

    fn close(&mut self) -> BoxFuture<'_, Result<(), WorkerError>> {
        Box::pin(async { Ok(()) })
    }
}

struct Source<T>(mpsc::Receiver<T>);

impl<T: Send + 'static> FrameSource<T> for Source<T> {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<T>, WorkerError>> {
        Box::pin(async move { Ok(self.0.recv().await) })
    }
}
