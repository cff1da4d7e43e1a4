//! The candle engine: GGUF files, models, KV cache, tokenizer, sampling. Does CPU/GPU work and reads model files; knows
//! nothing of networks, jobs or money.
//!
//! Its arithmetic is exact in the sense of [`kernels`]: the same tokens give the same bits, however they are batched, on
//! however many threads and with whatever instruction set. That is what lets a verifier replay an answer as one prefill.

pub mod config;
mod cursor;
mod engine;
pub mod gguf;
pub mod kernels;
pub mod kv;
mod layers;
pub mod model;
pub mod pool;
pub mod text;
mod threads;
mod weights;

pub use engine::*;
pub use layers::Compute;
pub use model::ForwardError;
pub use text::{ChatMessage, PromptError};
pub use threads::threads_from_cgroup;

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    #[error("tensor \"{name}\" has the shape {found:?} but the metadata asks for {expected:?}")]
    Shape { name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("tensor \"{name}\" has {inputs} inputs; a multiple of 32 is needed")]
    Inputs { name: String, inputs: usize },
    #[error("cannot start the compute threads: {0}")]
    Threads(#[from] std::io::Error),
    #[error(transparent)]
    Tokenizer(#[from] text::TokenizerError),
    #[error("{0}")]
    Template(#[from] PromptError),
    #[error("the self-test failed: {0}")]
    Forward(#[from] ForwardError),
    #[error("the self-test failed: a prefill and single steps give different bits on this machine; please report it")]
    SelfTest,
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
