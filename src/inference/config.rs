//! The shape of a model, read from GGUF metadata and refused with a sentence where this engine would compute it wrongly.

use super::architecture::{self, Family};
use super::gguf::{GgufError, Header};

/// The largest size of any dimension; a bound on what a hostile header can make us allocate.
const MAX_DIMENSION: u64 = 1 << 20;
const MAX_LAYERS: u64 = 1 << 10;
const MAX_CONTEXT: u64 = 1 << 20;

/// Why a model cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("the model architecture \"{0}\" is not supported; this engine runs {known}", known = architecture::known())]
    Architecture(String),
    #[error(
        "the model type \"{0}\" is not supported; from Safetensors this engine runs \"bert\" encoders and \"llama\", \"mistral\", \"qwen2\" and \"qwen3\" decoders"
    )]
    ModelType(String),
    #[error("{name} of the model cannot be read: {source}")]
    Json { name: &'static str, source: serde_json::Error },
    #[error("the model uses {0}, which this engine does not support")]
    Unsupported(String),
    #[error("the model's {what} is {value}, which makes no sense")]
    Value { what: &'static str, value: String },
}

/// The shape of a decoder. Sizes are numbers of elements.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    pub architecture: String,
    pub n_layers: usize,
    pub n_embd: usize,
    pub n_ff: usize,
    pub n_heads: usize,
    pub n_kv_heads: usize,
    pub head_dim: usize,
    pub rms_eps: f32,
    pub rope_base: f64,
    /// Positions are divided by this before the rotation (1 = none).
    pub rope_scale: f64,
    /// The context that the model was trained for, in tokens.
    pub context_length: usize,
    pub vocab_size: usize,
}

impl ModelConfig {
    /// Reads the configuration of a model of any family that this engine runs.
    pub fn from_header(header: &Header) -> Result<Self, ConfigError> {
        let keys = Keys::of(header)?;
        let n_embd = keys.size("embedding_length", MAX_DIMENSION)?;
        let n_heads = keys.size("attention.head_count", MAX_DIMENSION)?;
        let head_dim = keys.size_or("attention.key_length", n_embd / n_heads, MAX_DIMENSION)?;
        let config = Self {
            architecture: keys.family.name().to_owned(),
            n_layers: keys.size("block_count", MAX_LAYERS)?,
            n_embd,
            n_ff: keys.size("feed_forward_length", MAX_DIMENSION)?,
            n_heads,
            n_kv_heads: keys.size_or("attention.head_count_kv", n_heads, MAX_DIMENSION)?,
            head_dim,
            rms_eps: keys.required_float("attention.layer_norm_rms_epsilon")? as f32,
            rope_base: keys.float("rope.freq_base")?.unwrap_or(10_000.0),
            rope_scale: keys.linear_scale()?,
            context_length: keys.size("context_length", MAX_CONTEXT)?,
            vocab_size: vocab_size(header)?,
        };
        config.check(&keys)?;
        Ok(config)
    }

    fn check(&self, keys: &Keys) -> Result<(), ConfigError> {
        let bad = |what, value: String| Err(ConfigError::Value { what, value });
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return bad("number of key-value heads", self.n_kv_heads.to_string());
        }
        if !self.head_dim.is_multiple_of(8) || self.head_dim > 1024 {
            return bad("head size (a multiple of 8 up to 1024 is needed)", self.head_dim.to_string());
        }
        if self.n_heads.saturating_mul(self.head_dim) > MAX_DIMENSION as usize {
            return bad("width of attention", (self.n_heads * self.head_dim).to_string());
        }
        if !(self.rms_eps > 0.0 && self.rms_eps < 1.0) {
            return bad("RMS norm epsilon", self.rms_eps.to_string());
        }
        if !(self.rope_base >= 1.0 && self.rope_base.is_finite()) {
            return bad("RoPE base", self.rope_base.to_string());
        }
        if !(self.rope_scale > 0.0 && self.rope_scale.is_finite()) {
            return bad("RoPE scaling factor", self.rope_scale.to_string());
        }
        self.check_heads(keys)
    }

    /// Heads whose parts differ in size.
    fn check_heads(&self, keys: &Keys) -> Result<(), ConfigError> {
        let rotated = keys.size_or("rope.dimension_count", self.head_dim, MAX_DIMENSION)?;
        if rotated != self.head_dim {
            return Err(ConfigError::Unsupported(format!("RoPE over {rotated} of {} dimensions", self.head_dim)));
        }
        let values = keys.size_or("attention.value_length", self.head_dim, MAX_DIMENSION)?;
        if values != self.head_dim {
            return Err(ConfigError::Unsupported(format!("values of {values} and keys of {} elements", self.head_dim)));
        }
        Ok(())
    }

    /// Floats of keys (and again of values) that one token needs in one layer.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }
}

/// A JSON file of a model.
pub(super) fn json<'a, T: serde::Deserialize<'a>>(name: &'static str, bytes: &'a [u8]) -> Result<T, ConfigError> {
    serde_json::from_slice(bytes).map_err(|source| ConfigError::Json { name, source })
}

/// The metadata keys of one family: all begin with its name.
pub(super) struct Keys<'a> {
    header: &'a Header,
    pub(super) family: Family,
}

impl<'a> Keys<'a> {
    /// The keys of the file's architecture, or a refusal by name.
    pub(super) fn of(header: &'a Header) -> Result<Self, ConfigError> {
        let name = header.string("general.architecture")?.ok_or_else(|| missing("general.architecture"))?;
        let family = Family::named(name).ok_or_else(|| ConfigError::Architecture(name.to_owned()))?;
        Ok(Self { header, family })
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.family.name())
    }

    pub(super) fn uint(&self, name: &str) -> Result<Option<u64>, ConfigError> {
        Ok(self.header.uint(&self.key(name))?)
    }

    pub(super) fn float(&self, name: &str) -> Result<Option<f64>, ConfigError> {
        Ok(self.header.float(&self.key(name))?)
    }

    pub(super) fn string(&self, name: &str) -> Result<Option<&'a str>, ConfigError> {
        Ok(self.header.string(&self.key(name))?)
    }

    fn size(&self, name: &'static str, most: u64) -> Result<usize, ConfigError> {
        let value = self.uint(name)?.ok_or_else(|| missing(&self.key(name)))?;
        bounded(name, value, most)
    }

    fn size_or(&self, name: &'static str, default: usize, most: u64) -> Result<usize, ConfigError> {
        bounded(name, self.uint(name)?.unwrap_or(default as u64), most)
    }

    fn required_float(&self, name: &str) -> Result<f64, ConfigError> {
        self.float(name)?.ok_or_else(|| missing(&self.key(name)))
    }

    /// Linear RoPE scaling, which is a division of positions; a factor without a type means the same, as it does in
    /// llama.cpp. The other types are the business of [`architecture`].
    fn linear_scale(&self) -> Result<f64, ConfigError> {
        let factor = match self.float("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.float("rope.scale_linear")?.filter(|factor| *factor != 0.0),
        };
        Ok(match self.string("rope.scaling.type")? {
            None | Some("linear") => factor.unwrap_or(1.0),
            Some(_) => 1.0,
        })
    }
}

fn missing(key: &str) -> ConfigError {
    ConfigError::Gguf(GgufError::MissingKey(key.to_owned()))
}

fn bounded(what: &'static str, value: u64, most: u64) -> Result<usize, ConfigError> {
    if value == 0 || value > most {
        return Err(ConfigError::Value { what, value: value.to_string() });
    }
    Ok(value as usize)
}

fn vocab_size(header: &Header) -> Result<usize, ConfigError> {
    let tokens = header.strings("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
    bounded("vocabulary size", tokens.len() as u64, 1 << 22)
}
