//! The engine as the worker sees it, so that tests and the cheater of the end-to-end tests can put another one in its place.

use std::{path::Path, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::leases::rejected;
use crate::{
    inference::{
        AdmissionError, Benchmark, ChatMessage, Encoder, Engine, EngineConfig, EngineLoad, EngineTotals, FormError,
        GenerateEvent, GenerateRequest, KvType, LoadedModel, ModelInfo, Processor, PromptError, ReplayOutcome,
        ReplayRequest, Vectors,
    },
    openai::{Message, ToolCall},
    protocol::wire::Refused,
};

/// The reason of a request whose form cannot be kept to.
pub(super) const FORM_REFUSED: &str = "FormRefused";

/// One loaded model: either one that writes text or one that makes embeddings.
pub trait AnswerEngine: Send + Sync + 'static {
    fn info(&self) -> &ModelInfo;
    /// Token ids of a chat under the model's own template.
    fn render_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, PromptError>;
    /// As [`render_chat`](Self::render_chat), by another template.
    fn render_chat_by(&self, template: &str, messages: &[ChatMessage]) -> Result<Vec<u32>, PromptError>;
    fn tokenize(&self, text: &str) -> Result<Vec<u32>, PromptError>;
    /// Events of one answer; dropping the receiver cancels it.
    fn generate(
        &self,
        request: GenerateRequest,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<GenerateEvent>, AdmissionError>>;
    /// Re-computes an answer in one pass.
    fn replay(&self, request: ReplayRequest) -> BoxFuture<'_, Result<ReplayOutcome, AdmissionError>>;
    fn benchmark(&self) -> BoxFuture<'_, Result<Benchmark, AdmissionError>>;
    /// Requests that wait inside the engine.
    fn queued(&self) -> u32;
    /// The bytes that a token stands for; none for control tokens.
    fn token_bytes(&self, token: u32) -> Vec<u8> {
        let _ = token;
        Vec::new()
    }
    /// Whether the model's chat template knows of tools.
    fn takes_tools(&self) -> bool {
        false
    }
    /// As [`render_chat`](Self::render_chat), for a conversation that speaks of tools.
    fn render_tools(&self, messages: &[Message], tools: &[Value]) -> Result<Vec<u32>, PromptError> {
        let _ = (messages, tools);
        Err(PromptError::NoTemplate)
    }
    /// How busy it is and what it has done, where it keeps count.
    fn measured(&self) -> Option<(EngineLoad, EngineTotals)> {
        None
    }
    /// Whether it makes embeddings, and no text.
    fn is_encoder(&self) -> bool {
        false
    }
    /// Vectors of texts in their order; dropping the receiver cancels the rest. Computing them again is their audit.
    fn embed(&self, texts: Vec<Vec<u32>>) -> Result<Vectors, AdmissionError> {
        drop(texts);
        Err(AdmissionError::Invalid("this model writes text; it makes no embeddings".into()))
    }
}

/// How engines are to be loaded.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// What text models are computed on.
    pub processor: Processor,
    pub threads: usize,
    /// Tokens; `None` = what the file says.
    pub context_length: Option<u32>,
    pub kv_budget_bytes: u64,
    pub kv_type: KvType,
    pub max_sequences: usize,
    /// Requests that wait for a turn before more are refused.
    pub max_queue: usize,
}

/// Turns a verified model file into an engine. Runs on a blocking thread; the error is a sentence for people.
pub trait EngineProvider: Send + Sync + 'static {
    fn load(&self, path: &Path, settings: &EngineSettings) -> Result<Arc<dyn AnswerEngine>, String>;
}

/// The engine of this product, on this machine.
#[derive(Debug, Clone, Copy)]
pub struct LocalEngines;

impl EngineProvider for LocalEngines {
    fn load(&self, path: &Path, settings: &EngineSettings) -> Result<Arc<dyn AnswerEngine>, String> {
        let config = EngineConfig {
            processor: settings.processor.clone(),
            threads: settings.threads,
            context_length: settings.context_length,
            kv_budget_bytes: settings.kv_budget_bytes,
            kv_type: settings.kv_type,
            max_sequences: settings.max_sequences,
            max_queue: settings.max_queue,
            ..EngineConfig::default()
        };
        Ok(match crate::inference::load(path, config).map_err(|error| error.to_string())? {
            LoadedModel::Engine(engine) => Arc::new(engine),
            LoadedModel::Encoder(encoder) => Arc::new(encoder),
        })
    }
}

impl AnswerEngine for Engine {
    fn info(&self) -> &ModelInfo {
        Engine::info(self)
    }

    fn render_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, PromptError> {
        Engine::render_chat(self, messages)
    }

    fn render_chat_by(&self, template: &str, messages: &[ChatMessage]) -> Result<Vec<u32>, PromptError> {
        Engine::render_chat_by(self, template, messages)
    }

    fn tokenize(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        Engine::tokenize(self, text)
    }

    fn generate(
        &self,
        request: GenerateRequest,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<GenerateEvent>, AdmissionError>> {
        Engine::generate(self, request).boxed()
    }

    fn replay(&self, request: ReplayRequest) -> BoxFuture<'_, Result<ReplayOutcome, AdmissionError>> {
        Engine::replay(self, request).boxed()
    }

    fn benchmark(&self) -> BoxFuture<'_, Result<Benchmark, AdmissionError>> {
        Engine::benchmark(self).boxed()
    }

    fn queued(&self) -> u32 {
        u32::try_from(self.load_now().queued).unwrap_or(u32::MAX)
    }

    fn token_bytes(&self, token: u32) -> Vec<u8> {
        Engine::token_bytes(self, token).to_vec()
    }

    fn takes_tools(&self) -> bool {
        Engine::takes_tools(self)
    }

    fn render_tools(&self, messages: &[Message], tools: &[Value]) -> Result<Vec<u32>, PromptError> {
        let messages: Vec<Value> = messages.iter().map(shown).collect();
        Engine::render_tools(self, &messages, tools)
    }

    fn measured(&self) -> Option<(EngineLoad, EngineTotals)> {
        Some((self.load_now(), self.totals()))
    }
}

impl AnswerEngine for Encoder {
    fn info(&self) -> &ModelInfo {
        Encoder::info(self)
    }

    fn render_chat(&self, _: &[ChatMessage]) -> Result<Vec<u32>, PromptError> {
        Err(PromptError::NoTemplate)
    }

    fn render_chat_by(&self, _: &str, _: &[ChatMessage]) -> Result<Vec<u32>, PromptError> {
        Err(PromptError::NoTemplate)
    }

    fn tokenize(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        Encoder::tokenize(self, text)
    }

    fn generate(&self, _: GenerateRequest) -> BoxFuture<'_, Result<mpsc::Receiver<GenerateEvent>, AdmissionError>> {
        std::future::ready(Err(writes_no_text())).boxed()
    }

    fn replay(&self, _: ReplayRequest) -> BoxFuture<'_, Result<ReplayOutcome, AdmissionError>> {
        std::future::ready(Err(writes_no_text())).boxed()
    }

    fn benchmark(&self) -> BoxFuture<'_, Result<Benchmark, AdmissionError>> {
        Encoder::benchmark(self).boxed()
    }

    fn queued(&self) -> u32 {
        u32::try_from(Encoder::queued(self)).unwrap_or(u32::MAX)
    }

    fn is_encoder(&self) -> bool {
        true
    }

    fn embed(&self, texts: Vec<Vec<u32>>) -> Result<Vectors, AdmissionError> {
        Encoder::embed(self, texts)
    }
}

/// A message in the form of Hugging Face's templates.
fn shown(message: &Message) -> Value {
    let mut value = json!({"role": message.role, "content": message.content});
    if !message.tool_calls.is_empty() {
        let call =
            |call: &ToolCall| json!({"type": "function", "function": {"name": call.name, "arguments": call.arguments}});
        value["tool_calls"] = message.tool_calls.iter().map(call).collect();
    }
    value
}

fn writes_no_text() -> AdmissionError {
    AdmissionError::Invalid("this model makes embeddings; it writes no text".into())
}

/// A refused request, in words for the gateway: what may work elsewhere or later, and what never will.
pub(super) fn not_admitted(error: &AdmissionError) -> Refused {
    let (reason, retry_after) = match error {
        AdmissionError::Busy { retry_after } => ("Busy", *retry_after),
        AdmissionError::Context { .. } => ("ContextExceeded", Duration::ZERO),
        AdmissionError::Memory { .. } => ("MemoryExceeded", Duration::ZERO),
        AdmissionError::Invalid(_) => ("PromptRefused", Duration::ZERO),
        AdmissionError::Form(error) => return form_refused(error),
        AdmissionError::Stopped => ("EngineFailed", Duration::from_secs(1)),
    };
    rejected(reason, error.to_string(), retry_after)
}

/// The text cannot have the form that is asked for; no other worker's could.
pub(super) fn form_refused(error: &FormError) -> Refused {
    rejected(FORM_REFUSED, error.to_string(), Duration::ZERO)
}

/// A replay that there is none of. Who had not the time to compile a form, or failed at it, says nothing about the request.
pub(super) fn not_replayed(error: &AdmissionError) -> Refused {
    match error {
        AdmissionError::Form(FormError::Slow(_) | FormError::Compiler) => engine_failed(error.to_string()),
        error => not_admitted(error),
    }
}

/// The engine broke while it worked.
pub(super) fn engine_failed(message: impl Into<String>) -> Refused {
    rejected("EngineFailed", message, Duration::from_secs(1))
}
