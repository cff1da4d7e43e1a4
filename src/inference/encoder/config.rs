//! The shape of an encoder, read from its JSON files and refused with a sentence where this engine would compute it wrongly.

use serde::Deserialize;

use crate::LoadError;
use crate::config::{ConfigError, json};
use crate::safetensors::{Bundle, CONFIG, LIMITS, POOLING};

/// Bounds on what a hostile file can make us allocate.
const MAX_WIDTH: usize = 1 << 14;
const MAX_LAYERS: usize = 1 << 8;
const MAX_ROWS: usize = 1 << 20;

/// The shape of a BERT encoder. Sizes are numbers of elements.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderConfig {
    pub n_layers: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub n_heads: usize,
    pub vocab_size: usize,
    pub positions: usize,
    pub token_types: usize,
    pub eps: f32,
    /// Tokens of a text, those that mark its beginning and end included.
    pub max_tokens: usize,
}

#[derive(Deserialize)]
struct Published {
    model_type: String,
    num_hidden_layers: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f64,
    hidden_act: String,
    position_embedding_type: Option<String>,
}

#[derive(Deserialize)]
struct Limits {
    max_seq_length: Option<usize>,
}

/// Only what this engine needs to know; every other mode that is switched on is refused by name.
type Modes = serde_json::Map<String, serde_json::Value>;

impl EncoderConfig {
    pub fn from_bundle(bundle: &Bundle) -> Result<Self, LoadError> {
        Ok(Self::from_texts(bundle.text(CONFIG)?, bundle.optional(POOLING), bundle.optional(LIMITS))?)
    }

    fn from_texts(config: &[u8], pooling: Option<&[u8]>, limits: Option<&[u8]>) -> Result<Self, ConfigError> {
        let published: Published = json(CONFIG, config)?;
        if let Some(modes) = pooling {
            check_pooling(&json(POOLING, modes)?)?;
        }
        let limits = limits.map(|limits| json::<Limits>(LIMITS, limits));
        let trained = limits.transpose()?.and_then(|limits| limits.max_seq_length);
        Self::new(published, trained)
    }

    fn new(from: Published, trained: Option<usize>) -> Result<Self, ConfigError> {
        if from.model_type != "bert" {
            return Err(ConfigError::ModelType(from.model_type));
        }
        if from.hidden_act != "gelu" {
            return Err(ConfigError::Unsupported(format!("the activation \"{}\"", from.hidden_act)));
        }
        if let Some(kind) = from.position_embedding_type.filter(|kind| kind != "absolute") {
            return Err(ConfigError::Unsupported(format!("position embeddings of type \"{kind}\"")));
        }
        let positions = bounded("number of positions", from.max_position_embeddings, MAX_ROWS)?;
        let config = Self {
            n_layers: bounded("number of layers", from.num_hidden_layers, MAX_LAYERS)?,
            hidden: bounded("hidden size", from.hidden_size, MAX_WIDTH)?,
            intermediate: bounded("intermediate size", from.intermediate_size, 4 * MAX_WIDTH)?,
            n_heads: bounded("number of heads", from.num_attention_heads, MAX_WIDTH)?,
            vocab_size: bounded("vocabulary size", from.vocab_size, MAX_ROWS)?,
            positions,
            token_types: bounded("number of token types", from.type_vocab_size, MAX_ROWS)?,
            eps: from.layer_norm_eps as f32,
            max_tokens: bounded("number of tokens", trained.unwrap_or(positions), MAX_ROWS)?.min(positions),
        };
        config.check()?;
        Ok(config)
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.hidden / self.n_heads
    }

    fn check(&self) -> Result<(), ConfigError> {
        let Self { hidden, n_heads, intermediate, eps, .. } = *self;
        // The kernels compute eight elements at a time.
        if !hidden.is_multiple_of(n_heads) || !(hidden / n_heads).is_multiple_of(8) {
            return Err(value("hidden size", format!("{hidden} for {n_heads} heads")));
        }
        if !intermediate.is_multiple_of(8) {
            return Err(value("intermediate size", intermediate));
        }
        if !(eps > 0.0 && eps < 1.0) {
            return Err(value("layer_norm_eps", eps));
        }
        Ok(())
    }
}

fn check_pooling(modes: &Modes) -> Result<(), ConfigError> {
    let on = |(name, value): (&String, &serde_json::Value)| {
        (name.starts_with("pooling_mode_") && value.as_bool() == Some(true)).then(|| name.clone())
    };
    let on: Vec<String> = modes.iter().filter_map(on).collect();
    if on == ["pooling_mode_mean_tokens"] {
        return Ok(());
    }
    Err(ConfigError::Unsupported(format!("the pooling {}; only pooling_mode_mean_tokens is known", on.join(" with "))))
}

fn bounded(what: &'static str, found: usize, most: usize) -> Result<usize, ConfigError> {
    if (1..=most).contains(&found) { Ok(found) } else { Err(value(what, found)) }
}

fn value(what: &'static str, value: impl ToString) -> ConfigError {
    ConfigError::Value { what, value: value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BERT: &str = r#"{"model_type":"bert","num_hidden_layers":6,"hidden_size":384,"intermediate_size":1536,
        "num_attention_heads":12,"vocab_size":30522,"max_position_embeddings":512,"type_vocab_size":2,
        "layer_norm_eps":1e-12,"hidden_act":"gelu","position_embedding_type":"absolute","use_cache":true}"#;
    const MEAN: &str =
        r#"{"word_embedding_dimension":384,"pooling_mode_mean_tokens":true,"pooling_mode_cls_token":false}"#;

    fn config(text: &str, pooling: Option<&str>, limits: Option<&str>) -> Result<EncoderConfig, ConfigError> {
        EncoderConfig::from_texts(text.as_bytes(), pooling.map(str::as_bytes), limits.map(str::as_bytes))
    }

    #[test]
    fn a_published_shape_is_read_with_its_limit() {
        let limited = config(BERT, Some(MEAN), Some(r#"{"max_seq_length":256,"do_lower_case":false}"#)).unwrap();
        assert_eq!((limited.hidden, limited.head_dim(), limited.max_tokens), (384, 32, 256));
        assert_eq!(config(BERT, None, None).unwrap().max_tokens, 512);
        assert_eq!(config(BERT, None, Some(r#"{"max_seq_length":9999}"#)).unwrap().max_tokens, 512);
    }

    #[test]
    fn what_would_be_computed_wrongly_is_refused_by_name() {
        for (from, to, word) in [
            (r#""bert""#, r#""roberta""#, "roberta"),
            (r#""gelu""#, r#""relu""#, "relu"),
            ("absolute", "relative_key", "relative_key"),
            (r#""num_attention_heads":12"#, r#""num_attention_heads":7"#, "7 heads"),
            (r#""hidden_size":384"#, r#""hidden_size":99999999"#, "hidden size"),
            (r#""num_hidden_layers":6"#, r#""num_hidden_layers":0"#, "layers"),
            ("1e-12", "0.0", "layer_norm_eps"),
            ("{", "", "config.json"),
        ] {
            let error = config(&BERT.replacen(from, to, 1), None, None).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let first = r#"{"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":false}"#;
        assert!(config(BERT, Some(first), None).unwrap_err().to_string().contains("pooling_mode_cls_token"));
    }
}
