//! Where a decoder's tensors lie, under the names that a GGUF file has for them.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::FileExt;

use candle_core::quantized::GgmlDType;
use serde::Deserialize;
use serde_json::Value as Json;

use super::bundle::{Bundle, Place};
use super::config::Published;
use crate::LoadError;
use crate::config::ConfigError;
use crate::gguf::{TensorInfo, elements};

/// The largest header of a file of weights; the format itself allows 100 MB.
const MAX_HEADER: u64 = 16 << 20;
const MAX_TENSORS: usize = 1 << 16;

/// Why a file of weights cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error("{file} is damaged: {what}")]
    Damaged { file: String, what: String },
    #[error("the tensor \"{name}\" is of type {dtype}; this engine reads F32, F16 and BF16, or GGUF files")]
    Type { name: String, dtype: String },
    #[error("the tensor \"{0}\" is there twice")]
    Twice(String),
    #[error("the model has more than {MAX_TENSORS} tensors")]
    TooMany,
}

/// An entry of a header. `shape` ends with the contiguous dimension.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

pub(super) fn places(bundle: &Bundle, config: &Published) -> Result<BTreeMap<String, TensorInfo>, LoadError> {
    let mut tensors = BTreeMap::new();
    for (file, place) in bundle.weights() {
        let (entries, data) = header(bundle, file, place)?;
        for (name, entry) in entries {
            let Some(name) = gguf_name(&name, config)? else { continue };
            let info = entry.info(file, &name, data)?;
            if tensors.len() >= MAX_TENSORS {
                return Err(WeightsError::TooMany.into());
            }
            if tensors.insert(name.clone(), info).is_some() {
                return Err(WeightsError::Twice(name).into());
            }
        }
    }
    Ok(tensors)
}

/// The entries of a file's header, and where the file's data lie.
fn header(bundle: &Bundle, file: &str, place: Place) -> Result<(Vec<(String, Entry)>, Place), LoadError> {
    let damaged = |what: String| WeightsError::Damaged { file: file.to_owned(), what };
    let mut length = [0; 8];
    if place.bytes < 8 {
        return Err(damaged("it is empty".into()).into());
    }
    bundle.file.read_exact_at(&mut length, place.offset)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER.min(place.bytes - 8) {
        return Err(damaged(format!("its header would have {length} bytes")).into());
    }
    let text = bundle.read(Place { offset: place.offset + 8, bytes: length })?;
    let entries: HashMap<String, Json> = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    let read = |(name, entry): (String, Json)| match serde_json::from_value(entry) {
        Ok(entry) => Ok((name, entry)),
        Err(error) => Err(damaged(format!("{name}: {error}"))),
    };
    let entries = entries.into_iter().filter(|(name, _)| name != "__metadata__").map(read).collect::<Result<_, _>>()?;
    Ok((entries, Place { offset: place.offset + 8 + length, bytes: place.bytes - 8 - length }))
}

impl Entry {
    fn info(self, file: &str, name: &str, data: Place) -> Result<TensorInfo, WeightsError> {
        let damaged = |what: &str| WeightsError::Damaged { file: file.to_owned(), what: format!("{name} {what}") };
        let dtype = match self.dtype.as_str() {
            "F32" => GgmlDType::F32,
            "F16" => GgmlDType::F16,
            "BF16" => GgmlDType::BF16,
            _ => return Err(WeightsError::Type { name: name.to_owned(), dtype: self.dtype }),
        };
        if self.shape.is_empty() || self.shape.len() > 2 {
            return Err(damaged("is no vector or matrix"));
        }
        let elements = elements(&self.shape).ok_or_else(|| damaged("has an impossible shape"))?;
        let bytes = elements * dtype.type_size() as u64;
        let (begin, end) = self.data_offsets;
        if end.checked_sub(begin) != Some(bytes) {
            return Err(damaged("has another size than its shape says"));
        }
        if end > data.bytes {
            return Err(damaged("ends after the end of the file"));
        }
        let dims = self.shape.iter().rev().map(|d| *d as usize).collect();
        Ok(TensorInfo { dtype, dims, offset: data.offset + begin, bytes })
    }
}

/// The name that converters to GGUF give a tensor; `None` where the engine has no use for it.
fn gguf_name(name: &str, config: &Published) -> Result<Option<String>, ConfigError> {
    let whole = match name {
        "model.embed_tokens.weight" => Some("token_embd.weight"),
        "model.norm.weight" => Some("output_norm.weight"),
        "lm_head.weight" if config.tie_word_embeddings => return Ok(None),
        "lm_head.weight" => Some("output.weight"),
        _ => None,
    };
    if let Some(whole) = whole {
        return Ok(Some(whole.to_owned()));
    }
    let unknown = || ConfigError::Unsupported(format!("the tensor \"{name}\""));
    let (layer, part) = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')).ok_or_else(unknown)?;
    // Older models have a table of frequencies, which are computed here.
    if part == "self_attn.rotary_emb.inv_freq" {
        return Ok(None);
    }
    let (part, kind) = part.rsplit_once('.').ok_or_else(unknown)?;
    let part = match part {
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return Err(unknown()),
    };
    let number: u16 = layer.parse().map_err(|_| unknown())?;
    Ok(Some(format!("blk.{number}.{part}.{kind}")))
}
