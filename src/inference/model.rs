//! A decoder over candle tensors with exact kernels; where the families differ is the business of [`architecture`](super::architecture).
//!
//! The input of a forward is a ragged list of segments: which sequence (its keys and values), from which position, which
//! tokens. Rows never influence one another except through the keys and values of their own sequence, and those in the
//! order of positions, so logits are the same to the bit however the tokens are cut into forwards.

mod attention;
mod loader;
pub(crate) mod probe;
mod rope;

use std::path::Path;

use candle_core::{Device, Tensor};

use super::architecture::Architecture;
use super::config::ModelConfig;
use super::gguf::GgufFile;
use super::kernels::{HALF_KV_PROFILE, KERNEL_PROFILE};
use super::kv::{KvCache, KvShape, KvType};
use super::layers::{Compute, Gated, Linear, RmsNorm, Sum};
use super::memory;
use super::{LoadError, open};
use attention::{Attention, Rotations};
use loader::Loader;
pub(crate) use loader::{global_rope, refuse_others};
pub(crate) use rope::Rope;

/// Why a forward failed.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("the sequence has {stored} tokens, so it cannot go on at position {start}")]
    Position { start: usize, stored: usize },
    #[error("{tokens} tokens do not fit into the sequence, which has room for {room} more")]
    Room { tokens: usize, room: usize },
    #[error("token {token} is not in the vocabulary of {vocab_size}")]
    Token { token: u32, vocab_size: usize },
    #[error("the device has no room for {} MiB of keys and values: lower the KV budget ({source})", bytes.div_ceil(1 << 20))]
    DeviceMemory { bytes: u64, source: candle_core::Error },
    #[error("the keys and values of the sequence are not on the device")]
    NotOnDevice,
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// A loaded decoder as the engine sees it, whatever computes it.
pub trait Decoder: Send {
    fn config(&self) -> &ModelConfig;
    /// The number of layers that are computed.
    fn n_layers(&self) -> usize;
    /// What the keys and values of its sequences look like.
    fn kv_shape(&self) -> KvShape;
    /// Threads and instruction set of the CPU, which samples whatever device the model is on.
    fn compute(&self) -> &Compute;
    /// Names the arithmetic; whether it is exact: [`xdc_grid_exact::profile`].
    fn kernel_profile(&self) -> String;
    /// Computes all segments at once and stores their keys and values. The states of the rows that were asked for, in the order of segments
    /// and tokens: `rows × n_embd`.
    fn states(&self, batch: &mut [Segment]) -> Result<Vec<f32>, ForwardError>;
    /// Computes the logits of any of the rows of [`states`](Self::states) into `out`, which has `rows × vocab_size` elements.
    fn logits(&self, states: &[f32], out: &mut [f32]) -> Result<(), ForwardError>;

    /// Both at once.
    fn forward(&self, batch: &mut [Segment]) -> Result<Output, ForwardError> {
        let hidden = self.states(batch)?;
        let config = self.config();
        let mut logits = vec![0.0; hidden.len() / config.n_embd * config.vocab_size];
        self.logits(&hidden, &mut logits)?;
        Ok(Output { hidden, logits, n_embd: config.n_embd, vocab_size: config.vocab_size })
    }
}

/// A piece of one sequence to compute.
pub struct Segment<'a> {
    /// Of the model's [`kv_shape`](Decoder::kv_shape).
    pub kv: &'a mut KvCache,
    /// The position of the first token: the number of tokens in `kv`.
    pub start: usize,
    pub tokens: &'a [u32],
    /// How many of the last tokens' rows to return.
    pub wanted: usize,
}

/// The rows that were asked for, in the order of segments and tokens.
pub struct Output {
    /// `rows × n_embd`: the state after the last normalization, before the head.
    pub hidden: Vec<f32>,
    /// `rows × vocab_size`.
    pub logits: Vec<f32>,
    n_embd: usize,
    vocab_size: usize,
}

impl Output {
    pub fn rows(&self) -> usize {
        self.logits.len() / self.vocab_size
    }

    /// The state of one row.
    pub fn hidden(&self, row: usize) -> &[f32] {
        &self.hidden[row * self.n_embd..(row + 1) * self.n_embd]
    }

    /// The logits of one row.
    pub fn logits(&self, row: usize) -> &[f32] {
        &self.logits[row * self.vocab_size..(row + 1) * self.vocab_size]
    }
}

/// A loaded model.
pub struct Model {
    pub config: ModelConfig,
    layers: Vec<Layer>,
    embedding: Linear,
    norm: RmsNorm,
    /// `None` where the head is the embedding.
    head: Option<Linear>,
    gated: Gated,
    /// The rotation of layers that see everything, and of all where `local` is missing.
    global: Rope,
    local: Option<Rope>,
    embedding_scale: f32,
    attention_scale: f32,
    kv_type: KvType,
    compute: Compute,
}

struct Layer {
    attention_norm: RmsNorm,
    /// Queries, keys and values in one matrix.
    qkv: Linear,
    /// Weights of the norms of single heads.
    query_norm: Option<Vec<f32>>,
    key_norm: Option<Vec<f32>>,
    /// Tokens that a row sees, itself included; `None`: all.
    window: Option<usize>,
    attention_out: Linear,
    attention_post_norm: Option<RmsNorm>,
    ffn_norm: RmsNorm,
    gate_up: Linear,
    down: Linear,
    ffn_post_norm: Option<RmsNorm>,
}

impl Model {
    /// Loads the first `layers` layers of a GGUF file or a bundle of Safetensors (all of them when `None`).
    pub fn load(path: &Path, compute: Compute, layers: Option<usize>) -> Result<(Self, GgufFile), LoadError> {
        let file = open(path)?;
        let config = ModelConfig::from_header(&file.header)?;
        let architecture = Architecture::from_header(&file.header, &config)?;
        memory::check(&file.header, config.vocab_size, memory::limit())?;
        let loader = Loader { file: &file, config: &config, architecture: &architecture, compute: &compute };
        let model = loader.model(layers.unwrap_or(config.n_layers).min(config.n_layers))?;
        Ok((model, file))
    }

    /// The same model, with keys and values stored in another way than in single precision.
    pub fn with_kv_type(self, kv_type: KvType) -> Self {
        Self { kv_type, ..self }
    }

    /// The number of layers that are computed.
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// What the keys and values of its sequences look like.
    pub fn kv_shape(&self) -> KvShape {
        KvShape::of(&self.config, self.n_layers(), self.kv_type)
    }

    /// The threads and instruction set that it computes with.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Computes all segments at once and stores their keys and values.
    pub fn forward(&self, batch: &mut [Segment]) -> Result<Output, ForwardError> {
        Decoder::forward(self, batch)
    }

    /// As [`forward`](Self::forward), only the states: `rows × n_embd`. A row of logits takes as much memory as hundreds of them.
    pub fn states(&self, batch: &mut [Segment]) -> Result<Vec<f32>, ForwardError> {
        check_batch(batch, self.config.vocab_size)?;
        batch.iter_mut().for_each(|segment| segment.kv.grow(segment.tokens.len()));
        let rotations = self.rotations(batch);
        let mut x = self.embed(batch)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let qkv = x.apply_op1_no_bwd(&layer.attention_norm)?.apply_op1_no_bwd(&layer.qkv)?;
            let attended = Attention { model: self, index, rotations: &rotations }.run(&qkv, batch)?;
            let attended = attended.apply_op1_no_bwd(&layer.attention_out)?;
            x = x.apply_op2_no_bwd(&normalized(attended, layer.attention_post_norm.as_ref())?, &Sum)?;
            let gate_up = x.apply_op1_no_bwd(&layer.ffn_norm)?.apply_op1_no_bwd(&layer.gate_up)?;
            let down = gate_up.apply_op1_no_bwd(&self.gated)?.apply_op1_no_bwd(&layer.down)?;
            x = x.apply_op2_no_bwd(&normalized(down, layer.ffn_post_norm.as_ref())?, &Sum)?;
        }
        batch.iter_mut().for_each(|segment| segment.kv.advance(segment.tokens.len()));
        self.wanted(x, batch)
    }

    /// Computes the logits of any of the rows of [`states`](Self::states) into `out`, which has `rows × vocab_size` elements.
    pub fn logits(&self, states: &[f32], out: &mut [f32]) {
        self.head.as_ref().unwrap_or(&self.embedding).multiply(states, out);
    }

    fn embed(&self, batch: &[Segment]) -> Result<Tensor, ForwardError> {
        let width = self.config.n_embd;
        let tokens: Vec<u32> = batch.iter().flat_map(|segment| segment.tokens.iter().copied()).collect();
        let mut x = vec![0f32; tokens.len() * width];
        for (token, x) in tokens.iter().zip(x.chunks_exact_mut(width)) {
            self.embedding.matrix.row(*token as usize, x);
        }
        if self.embedding_scale != 1.0 {
            x.iter_mut().for_each(|x| *x *= self.embedding_scale);
        }
        Ok(Tensor::from_vec(x, (tokens.len(), width), &Device::Cpu)?)
    }

    fn rotations(&self, batch: &[Segment]) -> Rotations {
        let positions = || batch.iter().flat_map(|segment| (0..segment.tokens.len()).map(|i| segment.start + i));
        Rotations { global: self.global.at(positions()), local: self.local.as_ref().map(|rope| rope.at(positions())) }
    }

    fn wanted(&self, x: Tensor, batch: &[Segment]) -> Result<Vec<f32>, ForwardError> {
        let wanted = wanted_rows(batch);
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let rows = wanted.len();
        let x = x.index_select(&Tensor::from_vec(wanted, rows, &Device::Cpu)?, 0)?;
        Ok(x.apply_op1_no_bwd(&self.norm)?.flatten_all()?.to_vec1()?)
    }
}

impl Decoder for Model {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn n_layers(&self) -> usize {
        Self::n_layers(self)
    }

    fn kv_shape(&self) -> KvShape {
        Self::kv_shape(self)
    }

    fn compute(&self) -> &Compute {
        Self::compute(self)
    }

    fn kernel_profile(&self) -> String {
        match self.kv_type {
            KvType::F32 => KERNEL_PROFILE.to_owned(),
            KvType::F16 => HALF_KV_PROFILE.to_owned(),
        }
    }

    fn states(&self, batch: &mut [Segment]) -> Result<Vec<f32>, ForwardError> {
        Self::states(self, batch)
    }

    fn logits(&self, states: &[f32], out: &mut [f32]) -> Result<(), ForwardError> {
        Self::logits(self, states, out);
        Ok(())
    }
}

/// Whether the segments can be computed: each goes on where its sequence ends, fits, and has tokens of the vocabulary.
pub(crate) fn check_batch(batch: &[Segment], vocab_size: usize) -> Result<(), ForwardError> {
    for Segment { kv, start, tokens, .. } in batch {
        if kv.len() != *start {
            return Err(ForwardError::Position { start: *start, stored: kv.len() });
        }
        if tokens.len() > kv.room() {
            return Err(ForwardError::Room { tokens: tokens.len(), room: kv.room() });
        }
        if let Some(token) = tokens.iter().find(|token| **token as usize >= vocab_size) {
            return Err(ForwardError::Token { token: *token, vocab_size });
        }
    }
    Ok(())
}

/// The numbers of the rows that were asked for.
pub(crate) fn wanted_rows(batch: &[Segment]) -> Vec<u32> {
    let mut wanted = Vec::new();
    let mut row = 0u32;
    for segment in batch {
        let count = segment.tokens.len();
        wanted.extend((count - segment.wanted.min(count)..count).map(|i| row + i as u32));
        row += count as u32;
    }
    wanted
}

fn normalized(x: Tensor, norm: Option<&RmsNorm>) -> Result<Tensor, ForwardError> {
    Ok(match norm {
        Some(norm) => x.apply_op1_no_bwd(norm)?,
        None => x,
    })
}
