//! The shape of a model, read from GGUF metadata and refused with a sentence where this engine would compute it wrongly.

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
    #[error("the model architecture \"{0}\" is not supported; this engine runs \"llama\" models")]
    Architecture(String),
    #[error("the model type \"{0}\" is not supported; this engine runs \"bert\" encoders from Safetensors")]
    Encoder(String),
    #[error("{name} of the model cannot be read: {source}")]
    Json { name: &'static str, source: serde_json::Error },
    #[error("the model uses {0}, which this engine does not support")]
    Unsupported(String),
    #[error("the model's {what} is {value}, which makes no sense")]
    Value { what: &'static str, value: String },
}

/// The shape of a llama-family decoder. Sizes are numbers of elements.
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
    /// Reads the configuration of a llama-family model.
    pub fn from_header(header: &Header) -> Result<Self, ConfigError> {
        let architecture = header.string("general.architecture")?;
        let architecture = architecture.ok_or_else(|| missing("general.architecture"))?;
        if architecture != "llama" {
            return Err(ConfigError::Architecture(architecture.to_owned()));
        }
        refuse_unsupported(header)?;
        let size = |key: &'static str, most: u64| required_size(header, key, most);
        let n_embd = size("llama.embedding_length", MAX_DIMENSION)?;
        let n_heads = size("llama.attention.head_count", MAX_DIMENSION)?;
        let n_kv_heads = optional_size(header, "llama.attention.head_count_kv", n_heads, MAX_DIMENSION)?;
        let head_dim = optional_size(header, "llama.attention.key_length", n_embd / n_heads, MAX_DIMENSION)?;
        let config = Self {
            architecture: architecture.to_owned(),
            n_layers: size("llama.block_count", MAX_LAYERS)?,
            n_embd,
            n_ff: size("llama.feed_forward_length", MAX_DIMENSION)?,
            n_heads,
            n_kv_heads,
            head_dim,
            rms_eps: required_float(header, "llama.attention.layer_norm_rms_epsilon")? as f32,
            rope_base: header.float("llama.rope.freq_base")?.unwrap_or(10_000.0),
            rope_scale: rope_scale(header)?,
            context_length: size("llama.context_length", MAX_CONTEXT)?,
            vocab_size: vocab_size(header)?,
        };
        config.check(header)?;
        Ok(config)
    }

    fn check(&self, header: &Header) -> Result<(), ConfigError> {
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
        let rotated = optional_size(header, "llama.rope.dimension_count", self.head_dim, MAX_DIMENSION)?;
        if rotated != self.head_dim {
            return Err(ConfigError::Unsupported(format!("RoPE over {rotated} of {} dimensions", self.head_dim)));
        }
        Ok(())
    }

    /// Floats of keys (and again of values) that one token needs in one layer.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Bytes of keys and values that one token needs over `layers` layers.
    pub fn kv_bytes_per_token(&self, layers: usize) -> u64 {
        (2 * self.kv_dim() * layers * size_of::<f32>()) as u64
    }
}

fn missing(key: &str) -> ConfigError {
    ConfigError::Gguf(GgufError::MissingKey(key.to_owned()))
}

fn required_size(header: &Header, key: &'static str, most: u64) -> Result<usize, ConfigError> {
    let value = header.uint(key)?.ok_or_else(|| missing(key))?;
    bounded(key, value, most)
}

fn optional_size(header: &Header, key: &'static str, default: usize, most: u64) -> Result<usize, ConfigError> {
    bounded(key, header.uint(key)?.unwrap_or(default as u64), most)
}

fn bounded(what: &'static str, value: u64, most: u64) -> Result<usize, ConfigError> {
    if value == 0 || value > most {
        return Err(ConfigError::Value { what, value: value.to_string() });
    }
    Ok(value as usize)
}

fn required_float(header: &Header, key: &'static str) -> Result<f64, ConfigError> {
    header.float(key)?.ok_or_else(|| missing(key))
}

fn vocab_size(header: &Header) -> Result<usize, ConfigError> {
    let tokens = header.strings("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
    bounded("vocabulary size", tokens.len() as u64, 1 << 22)
}

/// Linear scaling is a division of positions; Llama 3's is a tensor (`rope_freqs.weight`) that the model reads.
fn rope_scale(header: &Header) -> Result<f64, ConfigError> {
    match header.string("llama.rope.scaling.type")? {
        None | Some("none") => Ok(1.0),
        Some("linear") => Ok(header.float("llama.rope.scaling.factor")?.unwrap_or(1.0)),
        Some(other) => Err(ConfigError::Unsupported(format!("RoPE scaling of type \"{other}\""))),
    }
}

fn refuse_unsupported(header: &Header) -> Result<(), ConfigError> {
    if header.uint("llama.expert_count")?.unwrap_or(0) > 0 {
        return Err(ConfigError::Unsupported("a mixture of experts".into()));
    }
    if header.uint("llama.attention.sliding_window")?.unwrap_or(0) > 0 {
        return Err(ConfigError::Unsupported("sliding window attention".into()));
    }
    Ok(())
}
