//! What sets the decoder families apart. All are the same sequence of layers; this is the list of where one does something
//! that another does not, read from GGUF metadata.

use super::config::{ConfigError, Keys, ModelConfig};
use super::gguf::{HeadOrder, Header};

/// A family of decoders, by the name that GGUF has for it. Mistral's models go by "llama".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Llama,
    Qwen2,
    Qwen3,
    Gemma3,
}

impl Family {
    const ALL: [Self; 4] = [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Gemma3];

    /// The family of a `general.architecture`.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3",
        }
    }
}

/// The names of all families, for a message.
pub fn known() -> String {
    let names: Vec<String> = Family::ALL.iter().map(|family| format!("\"{}\"", family.name())).collect();
    format!("{} models", names.join(", "))
}

/// The function that gates the feed-forward part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// x·sigmoid(x)
    Silu,
    /// GELU by its tanh formula.
    Gelu,
}

/// Which elements of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// Neighbours: 0 with 1, 2 with 3.
    Neighbours,
    /// Element `i` of the first half with element `i` of the second.
    Halves,
}

/// Layers that attend to the last tokens only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sliding {
    /// Tokens that a row sees, itself included.
    pub window: usize,
    /// Every layer whose number + 1 is a multiple of this sees everything; 0: none does.
    pub period: usize,
}

/// RoPE beyond base and linear scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    /// Nothing, or the linear scale of [`ModelConfig`].
    Plain,
    /// A factor for each pair: [`ROPE_FACTORS`].
    Factors,
    Yarn(Yarn),
}

/// YaRN (Peng et al. 2023), with llama.cpp's defaults.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Yarn {
    pub factor: f64,
    /// The context length that the model had before it was stretched, in tokens.
    pub original_context: f64,
    pub attention_factor: f64,
    pub beta_fast: f64,
    pub beta_slow: f64,
}

/// Where a model departs from the plain llama decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    pub family: Family,
    pub gate: Gate,
    pub pairing: Pairing,
    pub scaling: Scaling,
    pub sliding: Option<Sliding>,
    /// The RoPE base of layers with a window, which are not scaled.
    pub local_rope_base: Option<f64>,
    /// Embeddings are multiplied by this.
    pub embedding_scale: f32,
    /// Scores of attention are multiplied by this.
    pub attention_scale: f32,
    /// Queries and keys are normalized head by head.
    pub head_norms: bool,
    /// What attention and feed-forward yield is normalized before it is added.
    pub post_norms: bool,
}

/// The tensor, or the metadata of a file that has no such tensor, with a factor for each pair of a head.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Metadata that changes what a model computes in ways that no family here has.
const REFUSED: [(&str, &str); 7] = [
    ("expert_count", "a mixture of experts"),
    ("attn_logit_softcapping", "capped attention scores"),
    ("final_logit_softcapping", "capped logits"),
    ("logit_scale", "scaled logits"),
    ("residual_scale", "scaled residuals"),
    ("embedding_scale", "an embedding scale of its own"),
    ("attention.scale", "an attention scale of its own"),
];

impl Architecture {
    /// Reads what the metadata says beyond `config`.
    pub fn from_header(header: &Header, config: &ModelConfig) -> Result<Self, ConfigError> {
        let keys = Keys::of(header)?;
        for (key, what) in REFUSED {
            if keys.float(key)?.is_some_and(|value| value != 0.0) {
                return Err(ConfigError::Unsupported(what.into()));
            }
        }
        let factors = header.tensors.contains_key(ROPE_FACTORS) || header.floats(ROPE_FACTORS)?.is_some();
        let family = keys.family;
        let gemma = family == Family::Gemma3;
        let sliding = sliding(&keys, config)?;
        let local = keys.float("rope.freq_base_swa")?.unwrap_or(10_000.0);
        Ok(Self {
            family,
            gate: if gemma { Gate::Gelu } else { Gate::Silu },
            pairing: match (family, header.heads) {
                (Family::Llama, HeadOrder::Sorted) => Pairing::Neighbours,
                _ => Pairing::Halves,
            },
            scaling: scaling(&keys, config, factors)?,
            sliding,
            local_rope_base: Some(local).filter(|base| gemma && *base >= 1.0 && base.is_finite()),
            embedding_scale: if gemma { (config.n_embd as f32).sqrt() } else { 1.0 },
            attention_scale: attention_scale(family, config),
            head_norms: matches!(family, Family::Qwen3 | Family::Gemma3),
            post_norms: gemma,
        })
    }

    /// The window of a layer, `None` where it sees all positions.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let Sliding { window, period } = self.sliding?;
        let global = period > 0 && (layer + 1).is_multiple_of(period);
        (!global).then_some(window)
    }
}

/// 1/√head, but Gemma 3 27B (the one with 62 layers) divides by the width of a head before it was widened.
fn attention_scale(family: Family, config: &ModelConfig) -> f32 {
    let width = match family {
        Family::Gemma3 if config.n_layers == 62 => config.n_embd / config.n_heads,
        _ => config.head_dim,
    };
    1.0 / (width as f32).sqrt()
}

fn sliding(keys: &Keys, config: &ModelConfig) -> Result<Option<Sliding>, ConfigError> {
    const MAX_PERIOD: u64 = 1 << 10;
    let window = keys.uint("attention.sliding_window")?.unwrap_or(0);
    if window == 0 || window >= config.context_length as u64 {
        return Ok(None);
    }
    let period = match keys.family {
        Family::Llama => 0,
        Family::Gemma3 => keys.uint("attention.sliding_window_pattern")?.unwrap_or(6),
        other => return Err(ConfigError::Unsupported(format!("sliding window attention in \"{}\"", other.name()))),
    };
    if period > MAX_PERIOD {
        return Err(ConfigError::Value { what: "period of layers with a sliding window", value: period.to_string() });
    }
    Ok(Some(Sliding { window: window as usize, period: period as usize }))
}

fn scaling(keys: &Keys, config: &ModelConfig, factors: bool) -> Result<Scaling, ConfigError> {
    let plain = if factors { Scaling::Factors } else { Scaling::Plain };
    match keys.string("rope.scaling.type")? {
        None | Some("none" | "linear") => Ok(plain),
        Some("llama3") if factors => Ok(plain),
        Some("llama3") => {
            Err(ConfigError::Unsupported("RoPE scaling of type \"llama3\" without the tensor rope_freqs.weight".into()))
        }
        Some("yarn") if !factors => yarn(keys, config).map(Scaling::Yarn),
        Some(other) => Err(ConfigError::Unsupported(format!("RoPE scaling of type \"{other}\""))),
    }
}

fn yarn(keys: &Keys, config: &ModelConfig) -> Result<Yarn, ConfigError> {
    let number = |key: &'static str, default: f64| -> Result<f64, ConfigError> {
        let value = keys.float(key)?.unwrap_or(default);
        let sensible = value.is_finite() && value > 0.0;
        sensible.then_some(value).ok_or_else(|| ConfigError::Value { what: key, value: value.to_string() })
    };
    Ok(Yarn {
        factor: number("rope.scaling.factor", 1.0)?,
        original_context: number("rope.scaling.original_context_length", config.context_length as f64)?,
        attention_factor: number("rope.scaling.attn_factor", 1.0)?,
        beta_fast: number("rope.scaling.yarn_beta_fast", 32.0)?,
        beta_slow: number("rope.scaling.yarn_beta_slow", 1.0)?,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::gguf::Value;

    fn header(family: &str, more: &[(&str, Value)]) -> Header {
        let mut metadata: BTreeMap<String, Value> = BTreeMap::new();
        metadata.insert("general.architecture".into(), Value::String(family.into()));
        metadata.insert("tokenizer.ggml.tokens".into(), Value::Strings(["a", "b"].into_iter().collect()));
        let sizes = [
            ("embedding_length", 640),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 1),
            ("attention.key_length", 256),
            ("block_count", 18),
            ("feed_forward_length", 2048),
            ("context_length", 32_768),
        ];
        for (key, value) in sizes {
            metadata.insert(format!("{family}.{key}"), Value::Int(value));
        }
        metadata.insert(format!("{family}.attention.layer_norm_rms_epsilon"), Value::Float(1e-6));
        for (key, value) in more {
            metadata.insert(format!("{family}.{key}"), value.clone());
        }
        Header { metadata, ..Header::default() }
    }

    fn read(family: &str, more: &[(&str, Value)]) -> Result<Architecture, ConfigError> {
        let header = header(family, more);
        Architecture::from_header(&header, &ModelConfig::from_header(&header)?)
    }

    fn refusal(family: &str, more: &[(&str, Value)]) -> String {
        read(family, more).unwrap_err().to_string()
    }

    #[test]
    fn gemma_slides_in_five_of_six_layers_with_a_base_of_its_own() {
        let gemma = read("gemma3", &[("attention.sliding_window", Value::Int(512))]).unwrap();
        let global: Vec<usize> = (0..18).filter(|layer| gemma.window(*layer).is_none()).collect();
        assert_eq!(global, [5, 11, 17]);
        assert_eq!((gemma.window(0), gemma.local_rope_base), (Some(512), Some(10_000.0)));
        assert_eq!((gemma.gate, gemma.pairing), (Gate::Gelu, Pairing::Halves));
        assert_eq!((gemma.embedding_scale, gemma.attention_scale), (640f32.sqrt(), 1.0 / 16.0));
        assert!(gemma.head_norms && gemma.post_norms);
    }

    #[test]
    fn a_llama_file_with_a_window_slides_everywhere() {
        let mistral = read("llama", &[("attention.sliding_window", Value::Int(4096))]).unwrap();
        assert!((0..18).all(|layer| mistral.window(layer) == Some(4096)));
        // A window as long as the context hides nothing.
        let wide = read("llama", &[("attention.sliding_window", Value::Int(32_768))]).unwrap();
        assert_eq!(wide.sliding, None);
        assert_eq!((mistral.pairing, mistral.gate, mistral.head_norms), (Pairing::Neighbours, Gate::Silu, false));
    }

    #[test]
    fn rope_scaling_is_read_or_refused_and_never_ignored() {
        let of = |kind: &str| ("rope.scaling.type", Value::String(kind.into()));
        let factor = || ("rope.scaling.factor", Value::Float(4.0));
        let linear = |more: &[(&str, Value)]| ModelConfig::from_header(&header("qwen2", more)).unwrap().rope_scale;
        assert_eq!((linear(&[of("linear"), factor()]), linear(&[factor()])), (4.0, 4.0));
        assert_eq!((linear(&[of("none"), factor()]), linear(&[of("yarn"), factor()])), (1.0, 1.0));
        let yarn = read("qwen2", &[of("yarn"), factor(), ("rope.scaling.original_context_length", Value::Int(8192))]);
        let Scaling::Yarn(yarn) = yarn.unwrap().scaling else { panic!("not yarn") };
        assert_eq!((yarn.factor, yarn.original_context, yarn.beta_fast), (4.0, 8192.0, 32.0));
        assert!(refusal("qwen2", &[of("yarn"), ("rope.scaling.factor", Value::Float(-1.0))]).contains("factor"));
        assert!(refusal("llama", &[of("longrope")]).contains("longrope"));
        assert!(refusal("llama", &[of("llama3")]).contains("rope_freqs"));
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused_by_name() {
        let mamba = refusal("mamba", &[]);
        assert!(mamba.contains("mamba") && mamba.contains("\"gemma3\"") && mamba.contains("\"qwen3\""), "{mamba}");
        assert!(refusal("qwen3", &[("attention.sliding_window", Value::Int(64))]).contains("sliding window"));
        assert!(refusal("gemma3", &[("final_logit_softcapping", Value::Float(30.0))]).contains("capped logits"));
        assert!(refusal("llama", &[("expert_count", Value::Int(8))]).contains("mixture of experts"));
        assert!(refusal("llama", &[("attention.value_length", Value::Int(128))]).contains("values of 128"));
        assert!(read("gemma3", &[("final_logit_softcapping", Value::Float(0.0))]).is_ok());
    }
}
