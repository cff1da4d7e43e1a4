//! Tensors of a file into the layers of a model.

use super::rope::Rope;
use super::{Layer, Model};
use crate::LoadError;
use crate::architecture::{Architecture, ROPE_FACTORS, Scaling};
use crate::config::{ConfigError, ModelConfig};
use crate::gguf::GgufFile;
use crate::kv::KvType;
use crate::layers::{Compute, Gated, Linear, RmsNorm};
use crate::weights::{Matrix, load_vector};

pub(super) struct Loader<'a> {
    pub(super) file: &'a GgufFile,
    pub(super) config: &'a ModelConfig,
    pub(super) architecture: &'a Architecture,
    pub(super) compute: &'a Compute,
}

impl Loader<'_> {
    /// The first `count` layers and what stands around them.
    pub(super) fn model(&self, count: usize) -> Result<Model, LoadError> {
        let Self { config, architecture, compute, .. } = *self;
        Ok(Model {
            layers: (0..count).map(|index| self.layer(index)).collect::<Result<_, _>>()?,
            embedding: self.linear(config.n_embd, &[("token_embd.weight", config.vocab_size)])?,
            norm: self.norm("output_norm.weight")?,
            head: self.head()?,
            gated: Gated { width: config.n_ff, gate: architecture.gate, compute: compute.clone() },
            global: global_rope(self.file, config, architecture)?,
            local: Rope::local(config, architecture),
            embedding_scale: architecture.embedding_scale,
            attention_scale: architecture.attention_scale,
            kv_type: KvType::default(),
            compute: compute.clone(),
            config: config.clone(),
        })
    }

    fn linear(&self, inputs: usize, parts: &[(&str, usize)]) -> Result<Linear, LoadError> {
        let matrix = Matrix::load(self.file, &self.compute.pool, inputs, parts)?;
        Ok(Linear { matrix, bias: None, compute: self.compute.clone() })
    }

    fn norm(&self, name: &str) -> Result<RmsNorm, LoadError> {
        let weight = load_vector(self.file, name, self.config.n_embd)?;
        Ok(RmsNorm { weight, eps: self.config.rms_eps, compute: self.compute.clone() })
    }

    fn layer(&self, index: usize) -> Result<Layer, LoadError> {
        let config = self.config;
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let (gate, up) = (name("ffn_gate"), name("ffn_up"));
        let post_norm = |part| self.architecture.post_norms.then(|| self.norm(&name(part))).transpose();
        let head_norm = |part| -> Result<Option<Vec<f32>>, LoadError> {
            let load = || load_vector(self.file, &name(part), config.head_dim);
            self.architecture.head_norms.then(load).transpose()
        };
        refuse_others(self.file, self.architecture, index)?;
        Ok(Layer {
            attention_norm: self.norm(&name("attn_norm"))?,
            qkv: self.qkv(index)?,
            query_norm: head_norm("attn_q_norm")?,
            key_norm: head_norm("attn_k_norm")?,
            window: self.architecture.window(index),
            attention_out: self.linear(config.n_heads * config.head_dim, &[(&name("attn_output"), config.n_embd)])?,
            attention_post_norm: post_norm("post_attention_norm")?,
            ffn_norm: self.norm(&name("ffn_norm"))?,
            gate_up: self.linear(config.n_embd, &[(&gate, config.n_ff), (&up, config.n_ff)])?,
            down: self.linear(config.n_ff, &[(&name("ffn_down"), config.n_embd)])?,
            ffn_post_norm: post_norm("post_ffw_norm")?,
        })
    }

    /// Queries, keys and values in one matrix, with their biases where the file has them.
    fn qkv(&self, index: usize) -> Result<Linear, LoadError> {
        let (q_width, kv_width) = (self.config.n_heads * self.config.head_dim, self.config.kv_dim());
        let parts = [("attn_q", q_width), ("attn_k", kv_width), ("attn_v", kv_width)];
        let names = parts.map(|(part, width)| (format!("blk.{index}.{part}.weight"), width));
        let mut linear =
            self.linear(self.config.n_embd, &names.each_ref().map(|(name, width)| (name.as_str(), *width)))?;
        let has = |part: &str| self.file.header.tensors.contains_key(&format!("blk.{index}.{part}.bias"));
        if parts.iter().any(|(part, _)| has(part)) {
            let mut bias = Vec::with_capacity(q_width + 2 * kv_width);
            for (part, width) in parts {
                bias.extend(load_vector(self.file, &format!("blk.{index}.{part}.bias"), width)?);
            }
            linear.bias = Some(bias);
        }
        Ok(linear)
    }

    fn head(&self) -> Result<Option<Linear>, LoadError> {
        let name = "output.weight";
        if !self.file.header.tensors.contains_key(name) {
            return Ok(None);
        }
        self.linear(self.config.n_embd, &[(name, self.config.vocab_size)]).map(Some)
    }
}

/// The rotation of layers that see everything.
pub(crate) fn global_rope(
    file: &GgufFile,
    config: &ModelConfig,
    architecture: &Architecture,
) -> Result<Rope, LoadError> {
    let factors = match architecture.scaling {
        Scaling::Factors => match file.header.floats(ROPE_FACTORS)? {
            Some(factors) => Some(factors.to_vec()),
            None => Some(load_vector(file, ROPE_FACTORS, config.head_dim / 2)?),
        },
        Scaling::Plain | Scaling::Yarn(_) => None,
    };
    Ok(Rope::global(config, architecture, factors.as_deref()))
}

/// Tensors of a layer that would have to be used and are not known.
pub(crate) fn refuse_others(file: &GgufFile, architecture: &Architecture, index: usize) -> Result<(), LoadError> {
    const KNOWN: [&str; 9] = [
        "attn_norm.weight",
        "attn_q.",
        "attn_k.",
        "attn_v.",
        "attn_output.weight",
        "ffn_norm.weight",
        "ffn_gate.weight",
        "ffn_up.weight",
        "ffn_down.weight",
    ];
    const HEAD_NORMS: [&str; 2] = ["attn_q_norm.weight", "attn_k_norm.weight"];
    const POST_NORMS: [&str; 2] = ["post_attention_norm.weight", "post_ffw_norm.weight"];
    let prefix = format!("blk.{index}.");
    let known = |part: &str| {
        KNOWN.iter().any(|known| part.starts_with(known))
            || architecture.head_norms && HEAD_NORMS.contains(&part)
            || architecture.post_norms && POST_NORMS.contains(&part)
    };
    let tensors = file.header.tensors.range(prefix.clone()..);
    match tensors.map_while(|(name, _)| name.strip_prefix(&prefix)).find(|part| !known(part)) {
        Some(part) => Err(ConfigError::Unsupported(format!("the tensor \"{prefix}{part}\"")).into()),
        None => Ok(()),
    }
}
