//! The engine: one thread owns the model and all keys and values; handles send it requests over a bounded channel.
//!
//! All sequences that decode advance by a token in every step, prefills by chunks beside them, so a long request delays a
//! short one by at most one chunk. Two forwards never run at once: they would only fight for the same cores. What is
//! computed depends neither on what runs beside it nor on what was kept from before.

mod benchmark;
mod check;
mod chooser;
mod load;
mod pace;
mod plan;
mod prefix;
mod queue;
mod row;
mod scheduler;
mod self_test;
mod sequence;
mod text;
mod types;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use tokio::sync::{mpsc, oneshot};

use super::LoadError;
use super::accelerator::{DeviceModel, Processor};
use super::form::{FORM_PROFILE, Forms};
use super::kernels::Simd;
use super::kv::{KvBudget, KvShape};
use super::layers::Compute;
use super::model::{Decoder, Model};
use super::pool::ThreadPool;
use super::text::{ChatMessage, ChatTemplate, PromptError, Replacement, Tokenizer};
pub use load::EngineTotals;
pub(crate) use load::{LoadCounters, Ticket};
use scheduler::{Command, Scheduler};
use self_test::self_test;
use sequence::{Sequence, Start};
pub use types::*;
use xdc_grid_exact::sampler::SamplerParams;

/// Events that may wait for a slow reader before its sequence pauses.
const EVENT_WINDOW: usize = 64;
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 256;

/// A handle on a loaded model. Clones share the model; it is dropped with the last of them.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
    commands: SyncSender<Command>,
}

/// What handles and the engine thread both see.
pub(crate) struct Shared {
    info: ModelInfo,
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    replacement: Replacement,
    forms: Forms,
    budget: Arc<KvBudget>,
    load: Arc<LoadCounters>,
    kv_shape: KvShape,
    max_sequences: usize,
    max_queue: usize,
    step_tokens: usize,
}

impl Engine {
    /// Loads a GGUF file and starts the engine thread. Blocks for about a second per GB.
    pub fn load(path: &Path, config: EngineConfig) -> Result<Engine, LoadError> {
        let compute = Compute { pool: Arc::new(ThreadPool::new(config.threads)?), simd: Simd::detect() };
        let (model, file): (Box<dyn Decoder>, _) = match config.processor {
            Processor::Cpu => {
                let (model, file) = Model::load(path, compute, config.layers)?;
                (Box::new(model.with_kv_type(config.kv_type)), file)
            }
            Processor::Candle(device) => {
                let (model, file) = DeviceModel::load(path, device, compute, config.layers)?;
                (Box::new(model.with_kv_type(config.kv_type).with_kernels()), file)
            }
        };
        let shape = model.config();
        let trained = shape.context_length as u32;
        let context_length = config.context_length.map_or(trained, |limit| limit.clamp(1, trained));
        let tokenizer = Arc::new(Tokenizer::from_header(&file.header, context_length as usize)?);
        let template = file.header.string("tokenizer.chat_template")?.map(ChatTemplate::new).transpose()?;
        let info = ModelInfo {
            architecture: shape.architecture.clone(),
            context_length,
            vocab_size: shape.vocab_size as u32,
            n_layers: shape.n_layers as u32,
            n_params: file.header.tensors.values().map(|tensor| tensor.elements() as u64).sum(),
            file_bytes: file.bytes,
            kernel_profile: format!("{}+{FORM_PROFILE}", model.kernel_profile()),
            has_chat_template: template.is_some(),
            self_test: self_test(model.as_ref())?,
        };
        let shared = Arc::new(Shared {
            info,
            forms: Forms::new(tokenizer.clone()),
            tokenizer,
            template,
            replacement: Replacement::default(),
            budget: KvBudget::new(config.kv_budget_bytes),
            load: Arc::default(),
            kv_shape: model.kv_shape(),
            max_sequences: config.max_sequences.max(1),
            max_queue: config.max_queue,
            step_tokens: config.step_tokens.max(1),
        });
        let (commands, receiver) = sync_channel(shared.max_sequences + shared.max_queue + 1);
        let scheduler = Scheduler::new(model, shared.clone(), receiver);
        std::thread::Builder::new().name("engine".into()).spawn(move || scheduler.run())?;
        Ok(Self { shared, commands })
    }

    /// What is loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    /// The tokens of a conversation, by the model's own template, up to where the assistant begins.
    pub fn render_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, PromptError> {
        self.shared.template.as_ref().ok_or(PromptError::NoTemplate)?.render(messages, &self.shared.tokenizer)
    }

    /// The tokens of a text. Names of control tokens in it are plain text.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        self.shared.tokenizer.encode(text)
    }

    /// Starts an answer. Its events come through the receiver; dropping it cancels within one step. A form that the text
    /// must have is compiled first, off the engine thread.
    pub async fn generate(&self, request: GenerateRequest) -> Result<mpsc::Receiver<GenerateEvent>, AdmissionError> {
        self.check(&request.prompt, &request.prefix, &request.sampling)?;
        check_answer(&request)?;
        let output = request.max_tokens as usize;
        let ticket = self.admit(request.prompt.len(), output)?;
        let form = self.shared.forms.begin(request.tenant, &request.sampling.form).await?;
        let (events, receiver) = mpsc::channel(EVENT_WINDOW);
        self.submit(Command::Start(Box::new(Sequence::new(Start::generate(request, form, events), ticket))))?;
        Ok(receiver)
    }

    /// Repeats an answer as one prefill and checks every token against the seed.
    pub async fn replay(&self, request: ReplayRequest) -> Result<ReplayOutcome, AdmissionError> {
        self.check(&request.prompt, &request.output, &request.sampling)?;
        if request.output.is_empty() {
            return Err(AdmissionError::Invalid("there are no output tokens to replay".into()));
        }
        check_logprobs(request.top_logprobs)?;
        let ticket = self.admit(request.prompt.len(), request.output.len())?;
        let form = self.shared.forms.begin(None, &request.sampling.form).await?;
        let (answer, outcome) = oneshot::channel();
        self.submit(Command::Start(Box::new(Sequence::new(Start::replay(request, form, answer), ticket))))?;
        outcome.await.map_err(|_| AdmissionError::Stopped)?
    }

    /// Measures prefill and decode. Takes some two seconds in which nothing else is computed.
    pub async fn benchmark(&self) -> Result<Benchmark, AdmissionError> {
        let ticket = self.admit(benchmark::TOKENS.min(self.info().context_length as usize), 0)?;
        let (answer, outcome) = oneshot::channel();
        self.submit(Command::Benchmark(ticket, answer))?;
        outcome.await.map_err(|_| AdmissionError::Stopped)?.map_err(AdmissionError::Invalid)
    }

    /// How busy the engine is at this moment.
    pub fn load_now(&self) -> EngineLoad {
        let Shared { load, budget, .. } = &*self.shared;
        let running = load.running.load(Relaxed);
        EngineLoad {
            running,
            queued: load.taken.load(Relaxed).saturating_sub(running),
            kv_used_bytes: budget.used(),
            kv_reusable_bytes: load.kv_reusable.load(Relaxed),
            kv_budget_bytes: budget.total(),
        }
    }

    /// What the engine has done since it was loaded.
    pub fn totals(&self) -> EngineTotals {
        self.shared.load.totals.now()
    }

    fn check(&self, prompt: &[u32], output: &[u32], sampling: &SamplerParams) -> Result<(), AdmissionError> {
        sampling.validate().map_err(|error| AdmissionError::Invalid(error.to_string()))?;
        if prompt.is_empty() {
            return Err(AdmissionError::Invalid("the prompt has no tokens".into()));
        }
        let vocab_size = self.info().vocab_size;
        if let Some(entry) = sampling.logit_bias.iter().find(|entry| entry.id >= vocab_size) {
            let message = format!("logit_bias: {} is no token of a vocabulary of {vocab_size}", entry.id);
            return Err(AdmissionError::Invalid(message));
        }
        match prompt.iter().chain(output).find(|token| **token >= vocab_size) {
            Some(token) => {
                Err(AdmissionError::Invalid(format!("token {token} is not in the vocabulary of {vocab_size}")))
            }
            None => Ok(()),
        }
    }

    fn admit(&self, prompt: usize, output: usize) -> Result<Ticket, AdmissionError> {
        let Shared { load, budget, kv_shape, max_sequences, max_queue, .. } = &*self.shared;
        let context = self.info().context_length;
        let tokens = prompt.saturating_add(output);
        if tokens > context as usize {
            return Err(AdmissionError::Context { prompt, output, context });
        }
        let needed = kv_shape.bytes(tokens);
        if needed > budget.total() {
            return Err(AdmissionError::Memory { needed, budget: budget.total() });
        }
        Ticket::take(load, max_sequences + max_queue, tokens as u64).ok_or_else(|| load.busy())
    }

    fn submit(&self, command: Command) -> Result<(), AdmissionError> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => self.shared.load.busy(),
            TrySendError::Disconnected(_) => AdmissionError::Stopped,
        })
    }
}

fn check_answer(request: &GenerateRequest) -> Result<(), AdmissionError> {
    let GenerateRequest { prefix, max_tokens, stop, top_logprobs, .. } = request;
    if *max_tokens == 0 {
        return Err(AdmissionError::Invalid("max_tokens must be at least 1".into()));
    }
    if prefix.len() > *max_tokens as usize {
        return Err(AdmissionError::Invalid("the prefix is longer than max_tokens".into()));
    }
    if stop.len() > MAX_STOPS || stop.iter().any(|stop| stop.len() > MAX_STOP_BYTES) {
        let message = format!("at most {MAX_STOPS} stop strings of at most {MAX_STOP_BYTES} bytes are allowed");
        return Err(AdmissionError::Invalid(message));
    }
    check_logprobs(*top_logprobs)
}

fn check_logprobs(top: Option<u32>) -> Result<(), AdmissionError> {
    match top {
        Some(count) if count > MAX_TOP_LOGPROBS => {
            Err(AdmissionError::Invalid(format!("top_logprobs must be at most {MAX_TOP_LOGPROBS}")))
        }
        _ => Ok(()),
    }
}
