//! A llama-family decoder over candle tensors with exact kernels.
//!
//! The input of a forward is a ragged list of segments: which sequence (its keys and values), from which position, which
//! tokens. Rows never influence one another except through the keys and values of their own sequence, and those in the
//! order of positions, so logits are the same to the bit however the tokens are cut into forwards.

use std::path::Path;

use candle_core::{Device, Tensor};

use super::LoadError;
use super::config::ModelConfig;
use super::gguf::GgufFile;
use super::kernels::{AttentionShape, attend, rotate_pairs};
use super::kv::{BLOCK_TOKENS, KvCache};
use super::layers::{Compute, Linear, RmsNorm, Sum, SwiGlu};
use super::pool::Disjoint;
use super::weights::{Matrix, load_vector};

/// Why a forward failed.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("the sequence has {stored} tokens, so it cannot go on at position {start}")]
    Position { start: usize, stored: usize },
    #[error("{tokens} tokens do not fit into the sequence, which has room for {room} more")]
    Room { tokens: usize, room: usize },
    #[error("token {token} is not in the vocabulary of {vocab_size}")]
    Token { token: u32, vocab_size: usize },
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// A piece of one sequence to compute.
pub struct Segment<'a> {
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
    swiglu: SwiGlu,
    /// Rotations per position of each pair of a head.
    frequencies: Vec<f64>,
    compute: Compute,
}

struct Layer {
    attention_norm: RmsNorm,
    /// Queries, keys and values in one matrix.
    qkv: Linear,
    attention_out: Linear,
    ffn_norm: RmsNorm,
    gate_up: Linear,
    down: Linear,
}

impl Model {
    /// Loads the first `layers` layers of a GGUF file (all of them when `None`).
    pub fn load(path: &Path, compute: Compute, layers: Option<usize>) -> Result<(Self, GgufFile), LoadError> {
        let file = GgufFile::open(path)?;
        let config = ModelConfig::from_header(&file.header)?;
        let loader = Loader { file: &file, config: &config, compute: &compute };
        let count = layers.unwrap_or(config.n_layers).min(config.n_layers);
        let model = Self {
            layers: (0..count).map(|index| loader.layer(index)).collect::<Result<_, _>>()?,
            embedding: loader.linear(config.n_embd, &[("token_embd.weight", config.vocab_size)])?,
            norm: loader.norm("output_norm.weight")?,
            head: loader.head()?,
            swiglu: SwiGlu { width: config.n_ff, compute: compute.clone() },
            frequencies: loader.frequencies()?,
            compute,
            config,
        };
        Ok((model, file))
    }

    /// The number of layers that are computed.
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// The threads and instruction set that it computes with.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Computes all segments at once and stores their keys and values.
    pub fn forward(&self, batch: &mut [Segment]) -> Result<Output, ForwardError> {
        self.check(batch)?;
        batch.iter_mut().for_each(|segment| segment.kv.grow(segment.tokens.len()));
        let rotation = self.rotation(batch);
        let mut x = self.embed(batch)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let qkv = x.apply_op1_no_bwd(&layer.attention_norm)?.apply_op1_no_bwd(&layer.qkv)?;
            let attended = self.attention(index, &qkv, &rotation, batch)?;
            x = x.apply_op2_no_bwd(&attended.apply_op1_no_bwd(&layer.attention_out)?, &Sum)?;
            let gate_up = x.apply_op1_no_bwd(&layer.ffn_norm)?.apply_op1_no_bwd(&layer.gate_up)?;
            x = x.apply_op2_no_bwd(&gate_up.apply_op1_no_bwd(&self.swiglu)?.apply_op1_no_bwd(&layer.down)?, &Sum)?;
        }
        batch.iter_mut().for_each(|segment| segment.kv.advance(segment.tokens.len()));
        self.output(x, batch)
    }

    fn check(&self, batch: &[Segment]) -> Result<(), ForwardError> {
        let vocab_size = self.config.vocab_size;
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

    fn embed(&self, batch: &[Segment]) -> Result<Tensor, ForwardError> {
        let width = self.config.n_embd;
        let tokens: Vec<u32> = batch.iter().flat_map(|segment| segment.tokens.iter().copied()).collect();
        let mut x = vec![0f32; tokens.len() * width];
        for (token, x) in tokens.iter().zip(x.chunks_exact_mut(width)) {
            self.embedding.matrix.row(*token as usize, x);
        }
        Ok(Tensor::from_vec(x, (tokens.len(), width), &Device::Cpu)?)
    }

    /// Cosines and sines of every row. Computed anew for each forward (it costs some microseconds a row), in double
    /// precision by `libm`, whose results do not depend on the machine.
    fn rotation(&self, batch: &[Segment]) -> Rotation {
        let positions = batch.iter().flat_map(|segment| (0..segment.tokens.len()).map(|i| segment.start + i));
        let angles = positions.flat_map(|position| self.frequencies.iter().map(move |f| position as f64 * f));
        let (cos, sin) = angles.map(|angle| (libm::cos(angle) as f32, libm::sin(angle) as f32)).unzip();
        Rotation { cos, sin, pairs: self.frequencies.len() }
    }

    /// Stores the rows' keys and values, then attends; `qkv` is `rows × (heads + 2 · kv heads) · head_dim`.
    fn attention(
        &self,
        layer: usize,
        qkv: &Tensor,
        rotation: &Rotation,
        batch: &mut [Segment],
    ) -> Result<Tensor, ForwardError> {
        let (storage, layout) = qkv.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else {
            return Err(candle_core::Error::Msg("exact attention runs on the CPU only".into()).into());
        };
        let qkv = &storage.as_slice::<f32>()?[layout.start_offset()..];
        let ModelConfig { n_heads, n_kv_heads, head_dim, .. } = self.config;
        let (q_width, kv_width) = (n_heads * head_dim, n_kv_heads * head_dim);
        let width = q_width + 2 * kv_width;
        let mut places = Vec::new();
        let mut rows = qkv.chunks_exact(width).enumerate();
        for (index, segment) in batch.iter_mut().enumerate() {
            for (offset, (row, x)) in (0..segment.tokens.len()).zip(rows.by_ref()) {
                let (keys, values) = x[q_width..].split_at(kv_width);
                let keys = rotation.apply(row, keys, head_dim);
                segment.kv.write(layer, segment.start + offset, &keys, values);
                places.push((index, segment.start + offset));
            }
        }
        let caches: Vec<&KvCache> = batch.iter().map(|segment| &*segment.kv).collect();
        let mut out = vec![0f32; places.len() * q_width];
        let out_places = Disjoint::new(&mut out);
        let group = n_heads / n_kv_heads;
        self.compute.pool.run(places.len() * n_kv_heads, |item| {
            // Late rows attend to more positions: start with them, so that no thread is left with a long one.
            let (row, head) = (places.len() - 1 - item / n_kv_heads, item % n_kv_heads);
            let (index, position) = places[row];
            let at = head * group * head_dim;
            let q = rotation.apply(row, &qkv[row * width + at..][..group * head_dim], head_dim);
            let shape = AttentionShape { head_dim, group, block_len: BLOCK_TOKENS, positions: position + 1 };
            // SAFETY: each pair of row and head is computed once.
            let out = unsafe { out_places.slice(row * q_width + at, group * head_dim) };
            attend(self.compute.simd, shape, &q, &caches[index].head(layer, head), out);
        });
        Ok(Tensor::from_vec(out, (places.len(), q_width), &Device::Cpu)?)
    }

    fn output(&self, x: Tensor, batch: &[Segment]) -> Result<Output, ForwardError> {
        let mut wanted = Vec::new();
        let mut row = 0u32;
        for segment in batch {
            let count = segment.tokens.len();
            wanted.extend((count - segment.wanted.min(count)..count).map(|i| row + i as u32));
            row += count as u32;
        }
        let (n_embd, vocab_size) = (self.config.n_embd, self.config.vocab_size);
        if wanted.is_empty() {
            return Ok(Output { hidden: Vec::new(), logits: Vec::new(), n_embd, vocab_size });
        }
        let rows = wanted.len();
        let x = x.index_select(&Tensor::from_vec(wanted, rows, &Device::Cpu)?, 0)?;
        let hidden = x.apply_op1_no_bwd(&self.norm)?;
        let logits = hidden.apply_op1_no_bwd(self.head.as_ref().unwrap_or(&self.embedding))?;
        let (hidden, logits) = (hidden.flatten_all()?.to_vec1()?, logits.flatten_all()?.to_vec1()?);
        Ok(Output { hidden, logits, n_embd, vocab_size })
    }
}

/// The rotations of the rows of a forward.
struct Rotation {
    /// `rows × pairs`.
    cos: Vec<f32>,
    sin: Vec<f32>,
    pairs: usize,
}

impl Rotation {
    /// Rotated copies of the heads in `x`.
    fn apply(&self, row: usize, x: &[f32], head_dim: usize) -> Vec<f32> {
        let range = row * self.pairs..(row + 1) * self.pairs;
        let mut x = x.to_vec();
        for head in x.chunks_exact_mut(head_dim) {
            rotate_pairs(head, &self.cos[range.clone()], &self.sin[range.clone()]);
        }
        x
    }
}

struct Loader<'a> {
    file: &'a GgufFile,
    config: &'a ModelConfig,
    compute: &'a Compute,
}

impl Loader<'_> {
    fn linear(&self, inputs: usize, parts: &[(&str, usize)]) -> Result<Linear, LoadError> {
        let matrix = Matrix::load(self.file, &self.compute.pool, inputs, parts)?;
        Ok(Linear { matrix, compute: self.compute.clone() })
    }

    fn norm(&self, name: &str) -> Result<RmsNorm, LoadError> {
        let weight = load_vector(self.file, name, self.config.n_embd)?;
        Ok(RmsNorm { weight, eps: self.config.rms_eps, compute: self.compute.clone() })
    }

    fn layer(&self, index: usize) -> Result<Layer, LoadError> {
        let config = self.config;
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        for part in ["attn_q", "attn_k", "attn_v"] {
            if self.file.header.tensors.contains_key(&format!("blk.{index}.{part}.bias")) {
                return Err(super::config::ConfigError::Unsupported("biases in attention".into()).into());
            }
        }
        let (q_width, kv_width) = (config.n_heads * config.head_dim, config.kv_dim());
        let (q, k, v) = (name("attn_q"), name("attn_k"), name("attn_v"));
        let (gate, up) = (name("ffn_gate"), name("ffn_up"));
        Ok(Layer {
            attention_norm: self.norm(&name("attn_norm"))?,
            qkv: self.linear(config.n_embd, &[(&q, q_width), (&k, kv_width), (&v, kv_width)])?,
            attention_out: self.linear(q_width, &[(&name("attn_output"), config.n_embd)])?,
            ffn_norm: self.norm(&name("ffn_norm"))?,
            gate_up: self.linear(config.n_embd, &[(&gate, config.n_ff), (&up, config.n_ff)])?,
            down: self.linear(config.n_ff, &[(&name("ffn_down"), config.n_embd)])?,
        })
    }

    fn head(&self) -> Result<Option<Linear>, LoadError> {
        let name = "output.weight";
        if !self.file.header.tensors.contains_key(name) {
            return Ok(None);
        }
        self.linear(self.config.n_embd, &[(name, self.config.vocab_size)]).map(Some)
    }

    /// Rotations per position: base^(-2i/d), divided by the linear scale and by Llama 3's factors where the file has them.
    fn frequencies(&self) -> Result<Vec<f64>, LoadError> {
        let pairs = self.config.head_dim / 2;
        let factors = match self.file.header.tensors.contains_key("rope_freqs.weight") {
            true => load_vector(self.file, "rope_freqs.weight", pairs)?,
            false => vec![1.0; pairs],
        };
        let base = |i: usize| libm::pow(self.config.rope_base, -2.0 * i as f64 / self.config.head_dim as f64);
        let scaled = |(i, factor): (usize, f32)| base(i) / f64::from(factor) / self.config.rope_scale;
        Ok(factors.into_iter().enumerate().map(scaled).collect())
    }
}
