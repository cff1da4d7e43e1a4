//! The engines of the cheater: for each model the whole one and one with fewer layers, and the choice between them.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tracing::info;
use xdc_grid::{
    inference::{Engine, EngineConfig},
    worker::{AnswerEngine, EngineProvider, EngineSettings, LocalEngines},
};

/// A model as it should be and as it is run.
struct Pair {
    whole: Arc<dyn AnswerEngine>,
    shallow: Arc<dyn AnswerEngine>,
}

/// Loads pairs of engines and decides which of the two answers.
pub struct Impostor {
    layers: usize,
    honest_answers: u64,
    answered: AtomicU64,
    pairs: Mutex<Vec<Pair>>,
}

impl Impostor {
    /// Lies after `honest_answers` answers, by computing the first `layers` layers only.
    pub fn new(layers: usize, honest_answers: u64) -> Self {
        Impostor { layers, honest_answers, answered: AtomicU64::new(0), pairs: Mutex::default() }
    }

    /// The engine that answers in the place of `asked`. Counts answers.
    pub fn choose(&self, asked: Arc<dyn AnswerEngine>) -> Arc<dyn AnswerEngine> {
        let number = self.answered.fetch_add(1, Ordering::Relaxed) + 1;
        if number <= self.honest_answers {
            info!(number, "answering honestly");
            return asked;
        }
        info!(number, layers = self.layers, "answering with a part of the model");
        let pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = pairs.iter().find(|pair| Arc::ptr_eq(&pair.whole, &asked));
        pair.map_or(asked, |pair| pair.shallow.clone())
    }
}

impl EngineProvider for Impostor {
    /// The worker tests, measures and announces the whole model: nothing about it looks odd until it answers.
    fn load(&self, path: &Path, settings: &EngineSettings) -> Result<Arc<dyn AnswerEngine>, String> {
        let whole = LocalEngines.load(path, settings)?;
        if whole.info().n_layers as usize <= self.layers {
            return Err(format!("--layers {}: the model has no more, so its answers would be honest", self.layers));
        }
        let config = EngineConfig {
            threads: settings.threads,
            context_length: settings.context_length,
            kv_budget_bytes: settings.kv_budget_bytes,
            kv_type: settings.kv_type,
            max_sequences: settings.max_sequences,
            layers: Some(self.layers),
            ..EngineConfig::default()
        };
        let shallow = Engine::load(path, config).map_err(|error| error.to_string())?;
        let pair = Pair { whole: whole.clone(), shallow: Arc::new(shallow) };
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner).push(pair);
        Ok(whole)
    }
}
