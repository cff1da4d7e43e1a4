//! Decoders by candle's own operations, on any device that candle has: what a GPU computes with. May touch: the device, model files. Never:
//! claims to be exact. How candle multiplies depends on the device and on how many rows there are, so the same answer computed twice may
//! differ in the last bits, and its profile says so ([`profile`]).
//!
//! Weights stay as the file has them and are multiplied by candle's kernels for GGML types; everything between is single precision. The
//! same code runs on the CPU, which is how it is tested where there is no GPU. The exact kernels of [`kernels`](crate::kernels) are
//! for the CPU alone.

mod attention;
mod kv;
mod layers;
mod loader;
mod processor;

use std::path::Path;

use candle_core::{Device, DeviceLocation, Tensor};

use crate::LoadError;
use crate::architecture::{Architecture, Gate};
use crate::config::ModelConfig;
use crate::gguf::GgufFile;
use crate::kv::{KvShape, KvType};
use crate::layers::Compute;
use crate::model::{Decoder, ForwardError, Rope, Segment, check_batch, wanted_rows};
use attention::Views;
pub(crate) use kv::DeviceKv;
use layers::{Embedding, Linear, RmsNorm};
use loader::Loader;
pub use processor::{NoDevice, Processor};

/// The name of this arithmetic on a device. Never exact in the sense of [`xdc_grid_exact::profile`].
pub fn profile(device: &Device, kv_type: KvType) -> &'static str {
    match (device, kv_type) {
        (Device::Cuda(_), KvType::F32) => "candle-cuda/qmatmul1",
        (Device::Cuda(_), KvType::F16) => "candle-cuda/qmatmul1-kvf16",
        (Device::Metal(_), KvType::F32) => "candle-metal/qmatmul1",
        (Device::Metal(_), KvType::F16) => "candle-metal/qmatmul1-kvf16",
        (Device::Cpu, KvType::F32) => "candle-cpu/qmatmul1",
        (Device::Cpu, KvType::F16) => "candle-cpu/qmatmul1-kvf16",
    }
}

/// A decoder on a device.
pub struct DeviceModel {
    config: ModelConfig,
    device: Device,
    layers: Vec<Layer>,
    embedding: Embedding,
    norm: RmsNorm,
    head: Linear,
    gate: Gate,
    /// The rotation of layers that see everything, and of all where `local` is missing.
    global: Rope,
    local: Option<Rope>,
    attention_scale: f64,
    kv_type: KvType,
    /// For the CPU's part: sampling.
    compute: Compute,
}

struct Layer {
    attention_norm: RmsNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    /// Norms of single heads.
    query_norm: Option<RmsNorm>,
    key_norm: Option<RmsNorm>,
    /// Tokens that a row sees, itself included; `None`: all.
    window: Option<usize>,
    attention_out: Linear,
    attention_post_norm: Option<RmsNorm>,
    ffn_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
    ffn_post_norm: Option<RmsNorm>,
}

impl DeviceModel {
    /// Loads the first `layers` layers of a GGUF file (all of them when `None`) onto a device.
    pub fn load(
        path: &Path,
        device: Device,
        compute: Compute,
        layers: Option<usize>,
    ) -> Result<(Self, GgufFile), LoadError> {
        let file = GgufFile::open(path)?;
        let config = ModelConfig::from_header(&file.header)?;
        let architecture = Architecture::from_header(&file.header, &config)?;
        let device = own(device)?;
        let loader = Loader { file: &file, config: &config, architecture: &architecture, device: &device };
        let model = loader.model(layers.unwrap_or(config.n_layers).min(config.n_layers), compute)?;
        // Another thread will compute, and a device's threads have streams of their own: all must have arrived before.
        device.synchronize()?;
        Ok((model, file))
    }

    /// The same model, with keys and values stored in another way than in single precision.
    pub fn with_kv_type(self, kv_type: KvType) -> Self {
        Self { kv_type, ..self }
    }

    fn embed(&self, batch: &[Segment]) -> Result<Tensor, ForwardError> {
        let tokens = batch.iter().flat_map(|segment| segment.tokens.iter().copied());
        Ok(self.embedding.look_up(tokens, &self.device)?)
    }

    fn layer(&self, index: usize, x: Tensor, views: &Views, batch: &mut [Segment]) -> Result<Tensor, ForwardError> {
        let Some(layer) = self.layers.get(index) else { return Ok(x) };
        let normed = layer.attention_norm.forward(&x)?;
        let attended = layer.attention_out.forward(&self.attend(index, layer, &normed, views, batch)?)?;
        let x = (x + normalized(attended, layer.attention_post_norm.as_ref())?)?;
        let normed = layer.ffn_norm.forward(&x)?;
        let gate = layer.gate.forward(&normed)?;
        let gate = match self.gate {
            Gate::Silu => gate.silu()?,
            Gate::Gelu => gate.gelu()?,
        };
        let down = layer.down.forward(&(gate * layer.up.forward(&normed)?)?)?;
        Ok((x + normalized(down, layer.ffn_post_norm.as_ref())?)?)
    }

    fn wanted(&self, x: &Tensor, batch: &[Segment]) -> Result<Vec<f32>, ForwardError> {
        let wanted = wanted_rows(batch);
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let rows = wanted.len();
        let hidden = self.norm.forward(&x.index_select(&Tensor::from_vec(wanted, rows, &self.device)?, 0)?)?;
        Ok(hidden.flatten_all()?.to_vec1()?)
    }
}

impl Decoder for DeviceModel {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn n_layers(&self) -> usize {
        self.layers.len()
    }

    fn kv_shape(&self) -> KvShape {
        KvShape::of(&self.config, self.layers.len(), self.kv_type)
    }

    fn compute(&self) -> &Compute {
        &self.compute
    }

    fn kernel_profile(&self) -> &'static str {
        profile(&self.device, self.kv_type)
    }

    fn states(&self, batch: &mut [Segment]) -> Result<Vec<f32>, ForwardError> {
        check_batch(batch, self.config.vocab_size)?;
        if batch.iter().all(|segment| segment.tokens.is_empty()) {
            return Ok(Vec::new());
        }
        let mut x = self.embed(batch)?;
        let views = Views::of(self, batch)?;
        for index in 0..self.layers.len() {
            x = self.layer(index, x, &views, batch)?;
        }
        batch.iter_mut().for_each(|segment| segment.kv.advance(segment.tokens.len()));
        self.wanted(&x, batch)
    }

    fn logits(&self, states: &[f32], out: &mut [f32]) -> Result<(), ForwardError> {
        let width = self.config.n_embd;
        let hidden = Tensor::from_slice(states, (states.len() / width, width), &self.device)?;
        let logits = self.head.forward(&hidden)?.flatten_all()?.to_vec1::<f32>()?;
        out.iter_mut().zip(logits).for_each(|(out, logit)| *out = logit);
        Ok(())
    }
}

/// A handle of this model's own. Engines compute on threads of their own, and what candle keeps for a CUDA handle (scratch memory, cuBLAS)
/// is for one stream at a time.
fn own(device: Device) -> candle_core::Result<Device> {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => Device::new_cuda(gpu_id),
        _ => Ok(device),
    }
}

fn normalized(x: Tensor, norm: Option<&RmsNorm>) -> Result<Tensor, ForwardError> {
    Ok(match norm {
        Some(norm) => norm.forward(&x)?,
        None => x,
    })
}
