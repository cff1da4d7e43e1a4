//! The engine as the worker sees it, so that tests and the cheater of the end-to-end tests can put another one in its place.

use std::{path::Path, sync::Arc};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::mpsc;

use crate::inference::{
    Benchmark, ChatMessage, Engine, EngineConfig, GenerateEvent, GenerateRequest, ModelInfo, ReplayOutcome,
    ReplayRequest,
};

/// One loaded model. Errors are sentences for people.
pub trait AnswerEngine: Send + Sync + 'static {
    fn info(&self) -> &ModelInfo;
    /// Token ids of a chat under the model's own template.
    fn render_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, String>;
    fn tokenize(&self, text: &str) -> Result<Vec<u32>, String>;
    /// Events of one answer; dropping the receiver cancels it.
    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<mpsc::Receiver<GenerateEvent>, String>>;
    /// Re-computes an answer in one pass.
    fn replay(&self, request: ReplayRequest) -> BoxFuture<'_, Result<ReplayOutcome, String>>;
    fn benchmark(&self) -> BoxFuture<'_, Result<Benchmark, String>>;
    /// Requests that wait inside the engine.
    fn queued(&self) -> u32;
}

/// How engines are to be loaded.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    pub threads: usize,
    /// Tokens; `None` = what the file says.
    pub context_length: Option<u32>,
    pub kv_budget_bytes: u64,
    pub max_sequences: usize,
}

/// Turns a verified model file into an engine. Runs on a blocking thread.
pub trait EngineProvider: Send + Sync + 'static {
    fn load(&self, path: &Path, settings: &EngineSettings) -> Result<Arc<dyn AnswerEngine>, String>;
}

/// The engine of this product, on this machine.
#[derive(Debug, Clone, Copy)]
pub struct LocalEngines;
