//! Decoders by candle's own operations, on any device that candle has: what a GPU computes with. May touch: the device, model files. Never:
//! claims to be exact. How candle multiplies depends on the device and on how many rows there are, so the same answer computed twice may
//! differ in the last bits, and its profile says so ([`profile`]).
//!
//! Weights stay as the file has them and are multiplied by candle's kernels for GGML types; everything between is single precision. Attention
//! has CUDA kernels of our own. The same code runs on the CPU, which is how it is tested where there is no GPU. The exact kernels of
//! [`kernels`](crate::kernels) are for the CPU alone.

mod address;
mod attention;
mod kv;
mod layers;
mod loader;
mod processor;

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, DeviceLocation, Tensor};

use crate::architecture::{Architecture, Gate};
use crate::config::ModelConfig;
use crate::gguf::GgufFile;
use crate::kv::{KvShape, KvType};
use crate::layers::Compute;
use crate::model::{Decoder, ForwardError, Rope, Segment, check_batch, wanted_rows};
use crate::{LoadError, open};
pub use attention::{Arguments, Launch, Launcher};
use attention::{Fused, Views};
pub(crate) use kv::DeviceKv;
use layers::{Embedding, Linear, RmsNorm};
use loader::Loader;
pub use processor::{NoDevice, Processor};

/// The name of this arithmetic on a device, with or without our own kernels for attention. Never exact in the sense of
/// [`xdc_grid_exact::profile`].
pub fn profile(device: &Device, fused: bool, kv_type: KvType) -> String {
    let place = match device {
        Device::Cuda(_) => "cuda",
        Device::Metal(_) => "metal",
        Device::Cpu => "cpu",
    };
    let attention = if fused { "-attend1" } else { "" };
    let kept = match kv_type {
        KvType::F32 => "",
        KvType::F16 => "-kvf16",
    };
    format!("candle-{place}/qmatmul1{attention}{kept}")
}

/// How far attention by our own kernels may be from attention by candle's operations, as a part of the spread of the numbers. Sums in another
/// order make 10⁻⁵ of it, keys and values in half precision 10⁻⁴.
const APART: f64 = 0.01;

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
    /// Attention by our own kernels; else by candle's operations.
    fused: Option<Fused>,
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
    /// Loads the first `layers` layers of a GGUF file or a bundle of Safetensors (all of them when `None`) onto a device.
    pub fn load(
        path: &Path,
        device: Device,
        compute: Compute,
        layers: Option<usize>,
    ) -> Result<(Self, GgufFile), LoadError> {
        let file = open(path)?;
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

    /// The same model with attention by our own kernels, where the device has them and they prove themselves.
    pub fn with_kernels(self) -> Self {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(device) = &self.device {
            let launcher = Arc::new(attention::Cuda(device.clone()));
            return self.with_fused_attention(launcher);
        }
        self
    }

    /// The same model with attention by the kernels that `launcher` starts, if they find what candle's operations find. If not, the model as it
    /// was, and the log says why.
    pub fn with_fused_attention(self, launcher: Arc<dyn Launcher>) -> Self {
        let Some(fused) = Fused::new(launcher, &self.config) else {
            let head_dim = self.config.head_dim;
            tracing::info!(
                head_dim,
                "there is no attention kernel for heads of this size: candle's operations are used"
            );
            return self;
        };
        let why = match self.distance(&fused) {
            Ok(distance) if distance <= APART => return Self { fused: Some(fused), ..self },
            Ok(distance) => format!("what they find differs by {distance:.3} of its spread"),
            Err(error) => error.to_string(),
        };
        tracing::warn!(why, "attention kernels not used: candle's operations are, which are slower");
        self
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

    fn kernel_profile(&self) -> String {
        profile(&self.device, self.fused.is_some(), self.kv_type)
    }

    fn states(&self, batch: &mut [Segment]) -> Result<Vec<f32>, ForwardError> {
        check_batch(batch, self.config.vocab_size)?;
        if batch.iter().all(|segment| segment.tokens.is_empty()) {
            return Ok(Vec::new());
        }
        let mut x = self.embed(batch)?;
        let views = Views::of(self, self.fused.as_ref(), batch)?;
        for index in 0..self.layers.len() {
            x = self.layer(index, x, &views, batch)?;
        }
        batch.iter_mut().for_each(|segment| segment.kv.advance(segment.tokens.len()));
        let states = self.wanted(&x, batch)?;
        if self.fused.is_some() && states.is_empty() {
            // Our kernels know keys and values by their addresses: they must be done before anybody may free them.
            self.device.synchronize()?;
        }
        Ok(states)
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
