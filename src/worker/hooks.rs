//! What a program built around the worker may replace. The product replaces nothing; the cheater of the end-to-end tests
//! answers with another model than it was asked for.

use std::{fmt, sync::Arc};

use super::engine::{AnswerEngine, EngineProvider, LocalEngines};
use crate::protocol::wire::Start;

/// Chooses which engine answers a request, given the one that should.
pub type AnswerWith = dyn Fn(&Start, Arc<dyn AnswerEngine>) -> Arc<dyn AnswerEngine> + Send + Sync;

#[derive(Clone)]
pub struct WorkerHooks {
    /// Turns a model file into an engine.
    pub engines: Arc<dyn EngineProvider>,
    /// Absent: the model that was asked for answers.
    pub answer_with: Option<Arc<AnswerWith>>,
}

impl Default for WorkerHooks {
    fn default() -> Self {
        WorkerHooks { engines: Arc::new(LocalEngines), answer_with: None }
    }
}

impl fmt::Debug for WorkerHooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerHooks").field("answer_with", &self.answer_with.is_some()).finish_non_exhaustive()
    }
}
