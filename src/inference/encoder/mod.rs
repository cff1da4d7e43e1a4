//! Encoders: BERT models in Safetensors that turn a text into a vector (`/v1/embeddings`).
//!
//! As with [`Engine`](super::Engine), one thread owns the model and handles send it requests over a bounded channel. Requests
//! take turns group by group. The arithmetic is single precision in a fixed order ([`DENSE_PROFILE`]), so a vector is
//! the same to the bit whatever is computed beside it: an audit is simply the same computation again.

mod config;
mod layers;
mod model;
mod scheduler;
mod tokenizer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use tokio::sync::{mpsc, oneshot};

use super::config::ConfigError;
use super::kernels::{DENSE_PROFILE, Simd};
use super::layers::Compute;
use super::pool::ThreadPool;
use super::safetensors::{Bundle, TOKENIZER};
use super::{AdmissionError, Benchmark, EngineConfig, LoadCounters, LoadError, ModelInfo, PromptError, Ticket};
pub use config::EncoderConfig;
pub use model::EncoderModel;
use scheduler::{Command, Scheduler};
use tokenizer::WordPieces;

/// Most texts of one request.
pub const MAX_TEXTS: usize = 256;

/// A handle on a loaded encoder. Clones share the model; it is dropped with the last of them.
#[derive(Clone)]
pub struct Encoder {
    shared: Arc<Shared>,
    commands: SyncSender<Command>,
}

struct Shared {
    info: ModelInfo,
    dimensions: usize,
    tokenizer: WordPieces,
    load: Arc<LoadCounters>,
    max_requests: usize,
}

/// The vectors of a request in the order of its texts, or why there are no more.
pub type Vectors = mpsc::Receiver<Result<Vec<f32>, String>>;

/// Encoders are small: their weights are in one file, which is read whole.
fn only_weights(bundle: &Bundle) -> Result<Vec<u8>, LoadError> {
    let mut files = bundle.weights();
    match (files.next(), files.next()) {
        (Some((_, place)), None) => Ok(bundle.read(place)?),
        _ => Err(ConfigError::Unsupported("an encoder whose weights are in several files".into()).into()),
    }
}

impl Encoder {
    /// Loads a [`Bundle`] and starts the thread. Of `config` the memory for keys and values does not apply:
    /// an encoder keeps none.
    pub fn load(path: &Path, config: EngineConfig) -> Result<Self, LoadError> {
        let compute = Compute { pool: Arc::new(ThreadPool::new(config.threads)?), simd: Simd::detect() };
        let bundle = Bundle::open(path)?;
        let shape = EncoderConfig::from_bundle(&bundle)?;
        let trained = shape.max_tokens as u32;
        let context_length = config.context_length.map_or(trained, |limit| limit.clamp(1, trained));
        let tokenizer = WordPieces::new(bundle.text(TOKENIZER)?, context_length as usize, shape.vocab_size)?;
        let model = EncoderModel::load(&only_weights(&bundle)?, shape, compute, config.layers)?;
        let info = ModelInfo {
            architecture: "bert".to_owned(),
            context_length,
            vocab_size: model.config.vocab_size as u32,
            n_layers: model.config.n_layers as u32,
            n_params: model.n_params,
            file_bytes: bundle.bytes,
            kernel_profile: DENSE_PROFILE.to_owned(),
            has_chat_template: false,
            self_test: model.self_test()?,
        };
        let max_requests = config.max_sequences.max(1) + config.max_queue;
        let dimensions = model.config.hidden;
        let shared = Arc::new(Shared { info, dimensions, tokenizer, load: Arc::default(), max_requests });
        let (commands, receiver) = sync_channel(max_requests + 1);
        let scheduler = Scheduler::new(model, shared.load.clone(), receiver);
        std::thread::Builder::new().name("encoder".into()).spawn(move || scheduler.run())?;
        Ok(Self { shared, commands })
    }

    /// What is loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    /// Elements of a vector.
    pub fn dimensions(&self) -> usize {
        self.shared.dimensions
    }

    /// The tokens of a text, with those that mark its beginning and end.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        self.shared.tokenizer.encode(text)
    }

    /// Starts computing the vectors of some texts. Dropping the receiver cancels what is not computed yet.
    pub fn embed(&self, texts: Vec<Vec<u32>>) -> Result<Vectors, AdmissionError> {
        self.check(&texts)?;
        let tokens = texts.iter().map(Vec::len).sum::<usize>() as u64;
        let ticket = self.admit(tokens)?;
        // Room for all: the thread never waits for a slow reader.
        let (vectors, receiver) = mpsc::channel(texts.len());
        self.submit(Command::Embed { texts, vectors, ticket })?;
        Ok(receiver)
    }

    /// Measures tokens a second. Takes about a second in which nothing else is computed.
    pub async fn benchmark(&self) -> Result<Benchmark, AdmissionError> {
        let ticket = self.admit(0)?;
        let (answer, outcome) = oneshot::channel();
        self.submit(Command::Benchmark { answer, ticket })?;
        let rate = outcome.await.map_err(|_| AdmissionError::Stopped)?.map_err(AdmissionError::Invalid)?;
        // An encoder decodes nothing. One rate stands for both, so that the scheduler's estimate of a wait holds.
        Ok(Benchmark { prefill_tokens_per_second: rate, decode_tokens_per_second: rate })
    }

    /// Requests that were taken and wait for the one that is computed.
    pub fn queued(&self) -> usize {
        self.shared.load.taken.load(Relaxed).saturating_sub(1)
    }

    fn check(&self, texts: &[Vec<u32>]) -> Result<(), AdmissionError> {
        if texts.is_empty() || texts.len() > MAX_TEXTS {
            return Err(AdmissionError::Invalid(format!("{} texts; 1 to {MAX_TEXTS} are taken", texts.len())));
        }
        let ModelInfo { context_length, vocab_size, .. } = *self.info();
        for text in texts {
            if text.is_empty() {
                return Err(AdmissionError::Invalid("a text has no tokens".into()));
            }
            if text.len() > context_length as usize {
                return Err(AdmissionError::Context { prompt: text.len(), output: 0, context: context_length });
            }
            if let Some(token) = text.iter().find(|token| **token >= vocab_size) {
                let message = format!("token {token} is not in the vocabulary of {vocab_size}");
                return Err(AdmissionError::Invalid(message));
            }
        }
        Ok(())
    }

    fn admit(&self, tokens: u64) -> Result<Ticket, AdmissionError> {
        let Shared { load, max_requests, .. } = &*self.shared;
        Ticket::take(load, *max_requests, tokens).ok_or_else(|| load.busy())
    }

    fn submit(&self, command: Command) -> Result<(), AdmissionError> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => self.shared.load.busy(),
            TrySendError::Disconnected(_) => AdmissionError::Stopped,
        })
    }
}
