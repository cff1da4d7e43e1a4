//! The real encoder, end to end over loopback: one worker embeds, another computes the same again, and one that saves work is
//! found out.

use std::{path::Path, sync::Arc};

use futures::future::BoxFuture;
use tokio::sync::mpsc;
use xdc_grid::{
    inference::{
        AdmissionError, Benchmark, ChatMessage, Encoder, EngineConfig, GenerateEvent, GenerateRequest, ModelInfo,
        PromptError, ReplayOutcome, ReplayRequest, Vectors,
    },
    protocol::{
        receipt::{Receipt, hash_vectors},
        vector::Vector,
        wire::{Start, infer_event},
    },
    verify::{
        audit::{self, Verdict},
        embedding,
    },
    worker::{AnswerEngine, EngineProvider, EngineSettings, WorkerHooks},
};

use super::gateway::{Blob, TestGateway, TestWorker, start};
use crate::encoder::encoder_path;

fn request(blob: &Blob, number: u8, texts: &[&str]) -> Start {
    Start { inputs: texts.iter().map(|text| text.to_string()).collect(), ..start(blob, number, "", 1) }
}

/// Runs a request to its receipt: the vectors as they were streamed.
async fn embed(gateway: &TestGateway, worker: &TestWorker, request: &Start) -> (Vec<Vector>, Receipt) {
    let mut stream = gateway.start(&worker.peer(), request).await;
    let mut vectors = Vec::new();
    loop {
        match stream.next().await.unwrap().expect("the stream ended").kind.expect("an event of no kind") {
            infer_event::Kind::Vector(vector) => {
                assert_eq!(vector.index as usize, vectors.len());
                vectors.push(Vector::from_bytes(&vector.values).unwrap());
            }
            infer_event::Kind::Heartbeat(_) => {}
            infer_event::Kind::Finished(finished) => {
                assert_eq!(finished.finish_reason, "stop");
                return (vectors, Receipt::from_wire(&finished.receipt.unwrap()).unwrap());
            }
            other => panic!("{other:?}"),
        }
    }
}

/// An encoder that leaves out its last layer once it is past its self-test.
struct Lazy {
    whole: Encoder,
    cut: Encoder,
}

struct LazyEncoders;

impl EngineProvider for LazyEncoders {
    fn load(&self, path: &Path, settings: &EngineSettings) -> Result<Arc<dyn AnswerEngine>, String> {
        let config = EngineConfig { threads: settings.threads, ..EngineConfig::default() };
        let load = |layers| Encoder::load(path, EngineConfig { layers, ..config.clone() });
        let whole = load(None).map_err(|error| error.to_string())?;
        Ok(Arc::new(Lazy { whole, cut: load(Some(5)).map_err(|error| error.to_string())? }))
    }
}

impl AnswerEngine for Lazy {
    fn info(&self) -> &ModelInfo {
        AnswerEngine::info(&self.whole)
    }
    fn render_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, PromptError> {
        AnswerEngine::render_chat(&self.whole, messages)
    }

    fn render_chat_by(&self, template: &str, messages: &[ChatMessage]) -> Result<Vec<u32>, PromptError> {
        AnswerEngine::render_chat_by(&self.whole, template, messages)
    }
    fn tokenize(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        AnswerEngine::tokenize(&self.whole, text)
    }
    fn generate(
        &self,
        request: GenerateRequest,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<GenerateEvent>, AdmissionError>> {
        AnswerEngine::generate(&self.whole, request)
    }
    fn replay(&self, request: ReplayRequest) -> BoxFuture<'_, Result<ReplayOutcome, AdmissionError>> {
        AnswerEngine::replay(&self.whole, request)
    }
    fn benchmark(&self) -> BoxFuture<'_, Result<Benchmark, AdmissionError>> {
        AnswerEngine::benchmark(&self.whole)
    }
    fn queued(&self) -> u32 {
        0
    }
    fn is_encoder(&self) -> bool {
        true
    }
    fn embed(&self, texts: Vec<Vec<u32>>) -> Result<Vectors, AdmissionError> {
        self.cut.embed(texts)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedding_is_receipted_right_and_computed_again_bit_by_bit_elsewhere() {
    let blob = Blob::of(std::fs::read(encoder_path()).unwrap());
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let worker = gateway.worker(WorkerHooks::default()).await;
    let verifier = gateway.worker(WorkerHooks::default()).await;
    let info = gateway.ready(&worker.peer(), &blob, &["Compute"]).await;
    gateway.ready(&verifier.peer(), &blob, &["Verify"]).await;
    let profile = info.models[0].kernel_profile.clone();
    assert_eq!((profile.as_str(), info.models[0].context_length), ("cpu-f32-exact1", 256));
    assert!(info.models[0].prefill_rate_milli > 0);

    let asked = request(&blob, 1, &["The quick brown fox", "jumps over the lazy dog", "once more"]);
    let (vectors, receipt) = embed(&gateway, &worker, &asked).await;
    assert_eq!((vectors.len(), vectors[0].dimensions()), (3, 384));
    assert_eq!((receipt.outputTokens, receipt.promptTokens), (0, 6 + 7 + 4));
    assert_eq!(receipt.outputHash.0, hash_vectors(&vectors));
    assert_eq!(receipt.traceRoot.0, embedding::root(&vectors));
    let replay = gateway.audit(&verifier.peer(), &asked, &[]).await.unwrap();
    assert_eq!(audit::compare(&receipt, &profile, &replay), Verdict::Pass);
    // The same receipt for other texts.
    let other = request(&blob, 1, &["The quick brown fox", "jumps over the lazy dog", "once less"]);
    let replay = gateway.audit(&verifier.peer(), &other, &[]).await.unwrap();
    assert!(matches!(audit::compare(&receipt, &profile, &replay), Verdict::Mismatch(_)));

    // What an encoder cannot do is refused as being about the request.
    let mut stream = gateway.start(&worker.peer(), &start(&blob, 2, "write something", 8)).await;
    let refused = stream.next().await.unwrap().unwrap().kind;
    let Some(infer_event::Kind::Error(refused)) = refused else { panic!("{refused:?}") };
    assert_eq!(refused.reason, "PromptRefused");
    let mut stream = gateway.start(&worker.peer(), &request(&blob, 3, &[&"grid ".repeat(300)])).await;
    let refused = stream.next().await.unwrap().unwrap().kind;
    let Some(infer_event::Kind::Error(refused)) = refused else { panic!("{refused:?}") };
    assert_eq!(refused.reason, "ContextExceeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_encoder_with_a_layer_left_out_is_found_out_by_one_audit() {
    let blob = Blob::of(std::fs::read(encoder_path()).unwrap());
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let lazy = gateway.worker(WorkerHooks { engines: Arc::new(LazyEncoders), ..Default::default() }).await;
    let verifier = gateway.worker(WorkerHooks::default()).await;
    let profile = gateway.ready(&lazy.peer(), &blob, &["Compute"]).await.models[0].kernel_profile.clone();
    gateway.ready(&verifier.peer(), &blob, &["Verify"]).await;
    let asked = request(&blob, 1, &["The quick brown fox"]);
    let (_, receipt) = embed(&gateway, &lazy, &asked).await;
    let replay = gateway.audit(&verifier.peer(), &asked, &[]).await.unwrap();
    let Verdict::Mismatch(sentence) = audit::compare(&receipt, &profile, &replay) else { panic!("it passed") };
    assert!(sentence.contains("vectors"), "{sentence}");
}
