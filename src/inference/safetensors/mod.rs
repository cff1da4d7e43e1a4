//! Models as Hugging Face publishes them: a bundle of Safetensors, configuration and tokenizer in one tar.
//!
//! A decoder is read as the GGUF file that a converter would make of it: its JSON files become the metadata of such a file, its tensors keep
//! their places under the names that such a file has for them. What the engine does with it from there on is the same.

mod bundle;
mod config;
mod decoder_tokenizer;
mod tensors;

use std::path::Path;

use serde::Deserialize;

use super::LoadError;
use super::config::{ConfigError, json};
use super::gguf::{GgufFile, HeadOrder, Header};
pub use bundle::{Bundle, BundleError};
pub(super) use bundle::{CONFIG, LIMITS, POOLING, TOKENIZER};
pub use tensors::WeightsError;

/// What a bundle holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Encoder,
    Decoder,
}

/// What a bundle holds, by what its configuration says.
pub(super) fn kind(path: &Path) -> Result<Kind, LoadError> {
    #[derive(Deserialize)]
    struct Typed {
        model_type: String,
    }
    let Typed { model_type } = json(CONFIG, Bundle::open(path)?.text(CONFIG)?)?;
    match model_type.as_str() {
        "bert" => Ok(Kind::Encoder),
        other if config::family(other).is_some() => Ok(Kind::Decoder),
        _ => Err(ConfigError::ModelType(model_type).into()),
    }
}

/// Opens a decoder's bundle as the GGUF file that it could be converted to. Weights are not read.
pub(super) fn open(path: &Path) -> Result<GgufFile, LoadError> {
    let bundle = Bundle::open(path)?;
    let config = config::Published::read(bundle.text(CONFIG)?)?;
    let mut metadata = config.metadata()?;
    metadata.extend(decoder_tokenizer::metadata(&bundle, &config)?);
    let tensors = tensors::places(&bundle, &config)?;
    let header = Header { metadata, tensors, heads: HeadOrder::Published };
    let Bundle { file, bytes, .. } = bundle;
    Ok(GgufFile { file, header, bytes })
}

/// Whether a file has the mark of a tar archive.
pub(super) fn is_archive(path: &Path) -> bool {
    let mut block = [0; 512];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut block));
    read.is_ok() && block.get(257..262) == Some(b"ustar")
}
