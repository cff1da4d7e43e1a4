//! A decoder's `config.json`, as the metadata of a GGUF file.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value as Json;

use super::bundle::CONFIG;
use crate::architecture::{Family, ROPE_FACTORS};
use crate::config::{ConfigError, json};
use crate::gguf::Value;

/// What is read of a published configuration. Names as in Hugging Face's `transformers`.
#[derive(Debug, Deserialize)]
pub(super) struct Published {
    model_type: String,
    num_hidden_layers: u64,
    pub(super) hidden_size: u64,
    intermediate_size: u64,
    num_attention_heads: u64,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    /// `rope_parameters` since transformers 5, where the base is in it, too.
    #[serde(alias = "rope_parameters")]
    rope_scaling: Option<Rope>,
    max_position_embeddings: u64,
    pub(super) vocab_size: u64,
    #[serde(default)]
    pub(super) tie_word_embeddings: bool,
    hidden_act: String,
    sliding_window: Option<u64>,
    use_sliding_window: Option<bool>,
    layer_types: Option<Vec<String>>,
    pub(super) bos_token_id: Option<u64>,
    pub(super) eos_token_id: Option<Ids>,
    quantization_config: Option<Json>,
}

/// One token, or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Ids {
    One(u64),
    Several(Vec<u64>),
}

#[derive(Debug, Deserialize)]
struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
}

/// The family of a `model_type`.
pub(super) fn family(model_type: &str) -> Option<Family> {
    match model_type {
        "llama" | "mistral" => Some(Family::Llama),
        "qwen2" => Some(Family::Qwen2),
        "qwen3" => Some(Family::Qwen3),
        _ => None,
    }
}

impl Published {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = json(CONFIG, bytes)?;
        let unsupported = |what: String| Err(ConfigError::Unsupported(what));
        if config.hidden_act != "silu" {
            return unsupported(format!("the activation \"{}\"", config.hidden_act));
        }
        if config.quantization_config.is_some() {
            return unsupported(
                "weights that are quantized by another method than GGUF's: take the plain ones, or a GGUF file".into(),
            );
        }
        let window = config.window().is_some();
        if let Some(other) = config.layer_types.iter().flatten().find(|kind| {
            *kind != "full_attention" && !(window && config.model_type == "mistral" && *kind == "sliding_attention")
        }) {
            return unsupported(format!("layers of type \"{other}\""));
        }
        Ok(config)
    }

    fn window(&self) -> Option<u64> {
        self.sliding_window.filter(|_| self.use_sliding_window.unwrap_or(true))
    }

    fn head_dim(&self) -> u64 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    fn rope_base(&self) -> f64 {
        let in_parameters = self.rope_scaling.as_ref().and_then(|rope| rope.rope_theta);
        self.rope_theta.or(in_parameters).unwrap_or(10_000.0)
    }

    /// The metadata that a GGUF file has about the model's shape.
    pub(super) fn metadata(&self) -> Result<BTreeMap<String, Value>, ConfigError> {
        let Some(family) = family(&self.model_type) else {
            return Err(ConfigError::ModelType(self.model_type.clone()));
        };
        let name = family.name();
        let mut metadata = BTreeMap::from([("general.architecture".to_owned(), Value::String(name.to_owned()))]);
        let mut set = |key: &str, value| metadata.insert(format!("{name}.{key}"), value);
        for (key, number) in [
            ("block_count", Some(self.num_hidden_layers)),
            ("embedding_length", Some(self.hidden_size)),
            ("feed_forward_length", Some(self.intermediate_size)),
            ("attention.head_count", Some(self.num_attention_heads)),
            ("attention.head_count_kv", self.num_key_value_heads),
            ("attention.key_length", Some(self.head_dim())),
            ("attention.value_length", Some(self.head_dim())),
            ("attention.sliding_window", self.window()),
            ("context_length", Some(self.max_position_embeddings)),
        ] {
            if let Some(number) = number {
                set(key, Value::Int(number.into()));
            }
        }
        set("attention.layer_norm_rms_epsilon", Value::Float(self.rms_norm_eps));
        set("rope.freq_base", Value::Float(self.rope_base()));
        if let Some(rope) = &self.rope_scaling {
            let kind = rope.rope_type.as_deref().filter(|kind| *kind != "default");
            let kind = kind.unwrap_or("none");
            set("rope.scaling.type", Value::String(kind.to_owned()));
            for (key, number) in [
                ("rope.scaling.factor", rope.factor),
                ("rope.scaling.original_context_length", rope.original_max_position_embeddings),
                ("rope.scaling.yarn_beta_fast", rope.beta_fast),
                ("rope.scaling.yarn_beta_slow", rope.beta_slow),
            ] {
                if let Some(number) = number {
                    set(key, Value::Float(number));
                }
            }
            if kind == "yarn" && rope.attention_factor.is_some() {
                return Err(ConfigError::Unsupported("an attention factor of its own in RoPE scaling".into()));
            }
            if kind == "llama3" {
                metadata.insert(ROPE_FACTORS.to_owned(), Value::Floats(self.llama3_factors(rope)?));
            }
        }
        Ok(metadata)
    }

    /// What Llama 3.1 divides its frequencies by: nothing where a pair turns often within the original context, `factor` where it turns rarely, and a
    /// ramp between (transformers, `_compute_llama3_parameters`).
    fn llama3_factors(&self, rope: &Rope) -> Result<Vec<f32>, ConfigError> {
        let numbers = [rope.factor, rope.low_freq_factor, rope.high_freq_factor, rope.original_max_position_embeddings];
        let [Some(factor), Some(low), Some(high), Some(original)] = numbers else {
            return Err(ConfigError::Unsupported("RoPE scaling of type \"llama3\" without its four numbers".into()));
        };
        let sensible = [factor, low, original].iter().all(|number| number.is_finite() && *number > 0.0) && high > low;
        let head_dim = self.head_dim();
        if !sensible || !high.is_finite() || head_dim > 1024 {
            return Err(ConfigError::Value { what: "RoPE scaling", value: format!("{rope:?}") });
        }
        let base = self.rope_base();
        let of = |pair: u64| {
            let frequency = libm::pow(base, -2.0 * pair as f64 / head_dim as f64);
            let turns = original * frequency / (2.0 * std::f64::consts::PI);
            let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
        };
        Ok((0..head_dim / 2).map(of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::architecture::{Architecture, Pairing, Scaling};
    use crate::config::ModelConfig;
    use crate::gguf::{HeadOrder, Header};

    const LLAMA: &str = r#"{"model_type":"llama","num_hidden_layers":16,"hidden_size":2048,"intermediate_size":8192,"num_attention_heads":32,
        "num_key_value_heads":8,"head_dim":64,"rms_norm_eps":1e-5,"rope_theta":500000.0,"max_position_embeddings":131072,"vocab_size":128256,
        "tie_word_embeddings":true,"hidden_act":"silu","bos_token_id":128000,"eos_token_id":[128001,128008,128009],
        "rope_scaling":{"factor":32.0,"high_freq_factor":4.0,"low_freq_factor":1.0,"original_max_position_embeddings":8192,"rope_type":"llama3"}}"#;

    fn read(text: &str) -> Result<(ModelConfig, Architecture, Header), ConfigError> {
        let mut metadata = Published::read(text.as_bytes())?.metadata()?;
        metadata.insert("tokenizer.ggml.tokens".into(), Value::Strings(["a"].into_iter().collect()));
        let header = Header { metadata, heads: HeadOrder::Published, ..Header::default() };
        let config = ModelConfig::from_header(&header)?;
        let architecture = Architecture::from_header(&header, &config)?;
        Ok((config, architecture, header))
    }

    #[test]
    fn llama_3_2_is_read_with_its_factors() {
        let (config, architecture, header) = read(LLAMA).unwrap();
        assert_eq!((config.n_layers, config.n_heads, config.n_kv_heads, config.head_dim), (16, 32, 8, 64));
        assert_eq!((config.rope_base, config.rope_scale, config.context_length), (500_000.0, 1.0, 131_072));
        assert_eq!((architecture.pairing, architecture.scaling), (Pairing::Halves, Scaling::Factors));
        // As llama.cpp's converter has them for this model: fast pairs as they are, slow ones divided by 32.
        let factors = header.floats(ROPE_FACTORS).unwrap().unwrap();
        assert_eq!((factors.len(), factors[0], factors[31]), (32, 1.0, 32.0));
        assert!(factors.is_sorted() && factors.iter().any(|factor| *factor > 1.1 && *factor < 31.0));
    }

    #[test]
    fn mistral_slides_everywhere_and_qwen_only_says_how_it_would() {
        let mistral = LLAMA.replace("\"llama\"", "\"mistral\"").replace("\"head_dim\":64", "\"sliding_window\":4096");
        let (config, architecture, _) = read(&mistral).unwrap();
        assert_eq!((config.architecture.as_str(), architecture.window(3), config.head_dim), ("llama", Some(4096), 64));
        let qwen = mistral.replace("\"mistral\"", "\"qwen2\"").replace("\"tie", "\"use_sliding_window\":false,\"tie");
        let qwen = qwen.replace("llama3", "default");
        let (_, architecture, header) = read(&qwen).unwrap();
        assert_eq!((architecture.sliding, architecture.scaling), (None, Scaling::Plain));
        assert!(header.metadata.contains_key("qwen2.block_count"));
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused_by_name() {
        for (from, to, word) in [
            ("\"silu\"", "\"gelu\"", "gelu"),
            ("\"llama\"", "\"mamba\"", "mamba"),
            ("llama3", "longrope", "longrope"),
            ("\"factor\":32.0,", "", "four numbers"),
            ("\"low_freq_factor\":1.0", "\"low_freq_factor\":4.0", "RoPE scaling"),
            ("\"tie", "\"quantization_config\":{\"bits\":4},\"tie", "GGUF"),
            ("\"tie", "\"layer_types\":[\"linear_attention\"],\"tie", "linear_attention"),
            ("\"tie", "\"sliding_window\":512,\"layer_types\":[\"sliding_attention\"],\"tie", "sliding_attention"),
            ("\"num_attention_heads\":32", "\"num_attention_heads\":0", "head_count"),
            ("{", "", "config.json"),
        ] {
            let error = read(&LLAMA.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}
