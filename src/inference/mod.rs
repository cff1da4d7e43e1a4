//! The candle engine: GGUF files and Safetensors bundles, models, KV cache, tokenizer, sampling. Does CPU/GPU work and reads model files; knows
//! nothing of networks, jobs or money.
//!
//! On the CPU its arithmetic is exact in the sense of [`kernels`]: the same tokens give the same bits, however they are batched, on
//! however many threads and with whatever instruction set. That is what lets a verifier replay an answer as one prefill.

pub mod accelerator;
#[cfg(test)]
mod allocation;
pub mod architecture;
pub mod config;
mod cursor;
pub mod encoder;
mod engine;
mod form;
mod formats;
pub mod gguf;
pub mod kernels;
pub mod kv;
mod layers;
mod memory;
pub mod metrics;
pub mod model;
#[cfg(test)]
mod noise;
pub mod pool;
mod safetensors;
mod strings;
pub mod text;
mod threads;
mod weights;

pub use accelerator::{NoDevice, Processor};
pub use encoder::{Encoder, MAX_TEXTS, Vectors};
pub use engine::*;
pub(crate) use engine::{LoadCounters, Ticket};
pub use form::FormError;
pub use kv::KvType;
pub use layers::Compute;
pub use model::ForwardError;
pub use text::{ChatMessage, PromptError};
pub use threads::threads_from_cgroup;

/// A model of either kind.
pub enum LoadedModel {
    /// Writes text.
    Engine(Engine),
    /// Makes embeddings.
    Encoder(Encoder),
}

/// Loads a model file by what it is: a GGUF file, or a bundle of Safetensors with an encoder or a decoder.
pub fn load(path: &std::path::Path, config: EngineConfig) -> Result<LoadedModel, LoadError> {
    if safetensors::is_archive(path) && safetensors::kind(path)? == safetensors::Kind::Encoder {
        return Encoder::load(path, config).map(LoadedModel::Encoder);
    }
    Engine::load(path, config).map(LoadedModel::Engine)
}

/// Opens a decoder's file. What is no bundle should be a GGUF file, and the error says so.
pub fn open(path: &std::path::Path) -> Result<gguf::GgufFile, LoadError> {
    if safetensors::is_archive(path) { safetensors::open(path) } else { Ok(gguf::GgufFile::open(path)?) }
}

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    #[error(transparent)]
    Bundle(#[from] safetensors::BundleError),
    #[error(transparent)]
    Weights(#[from] safetensors::WeightsError),
    #[error("tensor \"{name}\" has the shape {found:?} but the metadata asks for {expected:?}")]
    Shape { name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("tensor \"{name}\" has {inputs} inputs; a multiple of 32 is needed")]
    Inputs { name: String, inputs: usize },
    #[error(
        "the weights need {} MiB of memory and the vocabulary {} MiB, but this process may use {} MiB: raise its memory limit, or take a smaller or more strongly quantized model",
        weights.div_ceil(1 << 20),
        vocabulary.div_ceil(1 << 20),
        limit >> 20
    )]
    Memory { weights: u64, vocabulary: u64, limit: u64 },
    #[error("cannot start the compute threads: {0}")]
    Threads(#[from] std::io::Error),
    #[error(transparent)]
    Tokenizer(#[from] text::TokenizerError),
    #[error("{0}")]
    Template(#[from] PromptError),
    #[error("the self-test failed: {0}")]
    Forward(#[from] ForwardError),
    #[error(
        "the self-test failed: the same input gives different bits together and piece by piece on this machine; please report it"
    )]
    SelfTest,
    #[error(
        "the self-test failed: on this device the same input gives logits that are apart by {apart:.2} of their spread, together and token by token; please report it"
    )]
    DeviceSelfTest { apart: f64 },
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
