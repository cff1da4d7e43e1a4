//! Tensors of a file onto a device.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{Device, Tensor};

use super::layers::{Embedding, Linear, RmsNorm};
use super::{DeviceModel, Layer};
use crate::LoadError;
use crate::architecture::Architecture;
use crate::config::ModelConfig;
use crate::gguf::{GgufFile, TensorInfo};
use crate::kv::KvType;
use crate::layers::Compute;
use crate::model::{Rope, global_rope, refuse_others};
use crate::weights::{AlignedBytes, dequantize, load_vector, matrix_info};

pub(super) struct Loader<'a> {
    pub(super) file: &'a GgufFile,
    pub(super) config: &'a ModelConfig,
    pub(super) architecture: &'a Architecture,
    pub(super) device: &'a Device,
}

impl Loader<'_> {
    /// The first `count` layers and what stands around them.
    pub(super) fn model(&self, count: usize, compute: Compute) -> Result<DeviceModel, LoadError> {
        let Self { config, architecture, device, file } = *self;
        let embedding = "token_embd.weight";
        // Where there is no head of its own, the embedding is it.
        let head = if file.header.tensors.contains_key("output.weight") { "output.weight" } else { embedding };
        Ok(DeviceModel {
            layers: (0..count).map(|index| self.layer(index)).collect::<Result<_, _>>()?,
            embedding: self.embedding(embedding)?,
            norm: self.norm("output_norm.weight", config.n_embd)?,
            head: self.linear(head, config.n_embd, config.vocab_size)?,
            gate: architecture.gate,
            global: global_rope(file, config, architecture)?,
            local: Rope::local(config, architecture),
            attention_scale: f64::from(architecture.attention_scale),
            kv_type: KvType::default(),
            fused: None,
            compute,
            device: device.clone(),
            config: config.clone(),
        })
    }

    fn layer(&self, index: usize) -> Result<Layer, LoadError> {
        let Self { config, architecture, .. } = *self;
        let (width, q_width, kv_width) = (config.n_embd, config.n_heads * config.head_dim, config.kv_dim());
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let norm = |part: &str| self.norm(&name(part), width);
        let post_norm = |part: &str| architecture.post_norms.then(|| norm(part)).transpose();
        let head_norm =
            |part: &str| architecture.head_norms.then(|| self.norm(&name(part), config.head_dim)).transpose();
        let linear = |part: &str, inputs, outputs| self.linear(&name(part), inputs, outputs);
        let biased = |part: &str, outputs| -> Result<Linear, LoadError> {
            let bias = self.bias(&format!("blk.{index}.{part}.bias"), outputs)?;
            Ok(Linear { bias, ..linear(part, width, outputs)? })
        };
        refuse_others(self.file, architecture, index)?;
        Ok(Layer {
            attention_norm: norm("attn_norm")?,
            query: biased("attn_q", q_width)?,
            key: biased("attn_k", kv_width)?,
            value: biased("attn_v", kv_width)?,
            query_norm: head_norm("attn_q_norm")?,
            key_norm: head_norm("attn_k_norm")?,
            window: architecture.window(index),
            attention_out: linear("attn_output", q_width, width)?,
            attention_post_norm: post_norm("post_attention_norm")?,
            ffn_norm: norm("ffn_norm")?,
            gate: linear("ffn_gate", width, config.n_ff)?,
            up: linear("ffn_up", width, config.n_ff)?,
            down: linear("ffn_down", config.n_ff, width)?,
            ffn_post_norm: post_norm("post_ffw_norm")?,
        })
    }

    fn norm(&self, name: &str, width: usize) -> Result<RmsNorm, LoadError> {
        Ok(RmsNorm { weight: self.vector(name, width)?, eps: f64::from(self.config.rms_eps) })
    }

    fn bias(&self, name: &str, width: usize) -> Result<Option<Tensor>, LoadError> {
        self.file.header.tensors.contains_key(name).then(|| self.vector(name, width)).transpose()
    }

    fn vector(&self, name: &str, width: usize) -> Result<Tensor, LoadError> {
        Ok(Tensor::from_vec(load_vector(self.file, name, width)?, width, self.device)?)
    }

    fn embedding(&self, name: &str) -> Result<Embedding, LoadError> {
        let (width, scale) = (self.config.n_embd, self.architecture.embedding_scale);
        let info = matrix_info(self.file, name, width, self.config.vocab_size)?;
        Ok(Embedding { bytes: self.bytes(info)?, dtype: info.dtype, width, scale })
    }

    /// A matrix in the file's own type; floats become single precision, which every device multiplies.
    fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear, LoadError> {
        let info = matrix_info(self.file, name, inputs, outputs)?;
        let bytes = self.bytes(info)?;
        let weights = match info.dtype {
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => {
                let weights = dequantize(info.dtype, bytes.as_ref(), outputs, inputs)?;
                QMatMul::Tensor(Tensor::from_vec(weights, (outputs, inputs), self.device)?)
            }
            dtype => {
                let storage = QStorage::from_data(Cow::Borrowed(bytes.as_ref()), self.device, dtype)?;
                QMatMul::from_qtensor(QTensor::new(storage, (outputs, inputs))?)?
            }
        };
        Ok(Linear { weights, bias: None })
    }

    fn bytes(&self, info: &TensorInfo) -> Result<AlignedBytes, LoadError> {
        let mut bytes = AlignedBytes::new(info.bytes as usize);
        self.file.read_at(info, 0, bytes.as_mut())?;
        Ok(bytes)
    }
}
