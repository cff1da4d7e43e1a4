//! The candle engine: GGUF files, models, KV cache, tokenizer, sampling. Does CPU/GPU work and reads model files; knows
//! nothing of networks, jobs or money.
//!
//! Its arithmetic is exact in the sense of [`kernels`]: the same tokens give the same bits, however they are batched, on
//! however many threads and with whatever instruction set. That is what lets a verifier replay an answer as one prefill.

pub mod config;
pub mod gguf;
pub mod kernels;
pub mod kv;
mod layers;
pub mod model;
pub mod pool;
mod threads;
mod weights;

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
    Candle(#[from] candle_core::Error),
}
