//! A BERT encoder over candle tensors with exact kernels.
//!
//! A forward takes several texts, one after the other in the rows. Rows meet only in attention, and there only those of one
//! text, so a vector is the same to the bit alone or beside others.

use candle_core::safetensors::SliceSafetensors;
use candle_core::{DType, Device, Tensor};

use super::config::EncoderConfig;
use super::layers::{Dense, Gelu, LayerNorm};
use crate::kernels::{AttentionShape, Blocks, DenseMatrix, Stored, attend};
use crate::layers::{Compute, Sum};
use crate::pool::Disjoint;
use crate::{ForwardError, LoadError};

/// A loaded encoder.
pub struct EncoderModel {
    pub config: EncoderConfig,
    /// Weights and biases that are used.
    pub n_params: u64,
    words: Tensor,
    /// Position embeddings with that of the first token type, the only one that a single text has.
    positions: Vec<f32>,
    norm: LayerNorm,
    layers: Vec<Layer>,
    gelu: Gelu,
    compute: Compute,
}

struct Layer {
    /// Queries, keys and values in one matrix.
    qkv: Dense,
    attention_out: Dense,
    attention_norm: LayerNorm,
    up: Dense,
    down: Dense,
    norm: LayerNorm,
}

impl EncoderModel {
    /// Loads the first `layers` layers of a Safetensors file (all of them when `None`).
    pub fn load(
        file: &[u8],
        config: EncoderConfig,
        compute: Compute,
        layers: Option<usize>,
    ) -> Result<Self, LoadError> {
        let mut loader = Loader { file: SliceSafetensors::new(file)?, compute: &compute, eps: config.eps, n_params: 0 };
        let EncoderConfig { hidden, intermediate, .. } = config;
        let words = loader.tensor("embeddings.word_embeddings.weight", &[config.vocab_size, hidden])?;
        let mut positions = loader.values("embeddings.position_embeddings.weight", &[config.positions, hidden])?;
        let types = loader.values("embeddings.token_type_embeddings.weight", &[config.token_types, hidden])?;
        for row in positions.chunks_exact_mut(hidden) {
            row.iter_mut().zip(&types).for_each(|(position, kind)| *position += kind);
        }
        let count = layers.unwrap_or(config.n_layers).min(config.n_layers);
        Ok(Self {
            words,
            positions,
            norm: loader.norm("embeddings.LayerNorm", hidden)?,
            layers: (0..count).map(|index| loader.layer(index, hidden, intermediate)).collect::<Result<_, _>>()?,
            gelu: Gelu { width: intermediate, compute: compute.clone() },
            n_params: loader.n_params,
            compute,
            config,
        })
    }

    /// The vectors of some texts: mean over the tokens, scaled to length 1.
    pub fn forward(&self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, ForwardError> {
        self.check(texts)?;
        let mut x = self.embed(texts)?.apply_op1_no_bwd(&self.norm)?;
        for layer in &self.layers {
            let attended = self.attention(&x.apply_op1_no_bwd(&layer.qkv)?, texts)?;
            let attended = attended.apply_op1_no_bwd(&layer.attention_out)?;
            x = attended.apply_op2_no_bwd(&x, &Sum)?.apply_op1_no_bwd(&layer.attention_norm)?;
            let inner = x.apply_op1_no_bwd(&layer.up)?.apply_op1_no_bwd(&self.gelu)?;
            let inner = inner.apply_op1_no_bwd(&layer.down)?;
            x = inner.apply_op2_no_bwd(&x, &Sum)?.apply_op1_no_bwd(&layer.norm)?;
        }
        let x: Vec<f32> = x.flatten_all()?.to_vec1()?;
        let mut rows = x.as_slice();
        let pooled = texts.iter().map(|text| {
            let (own, rest) = rows.split_at(text.len() * self.config.hidden);
            rows = rest;
            pool(own, self.config.hidden)
        });
        Ok(pooled.collect())
    }

    /// Computes fixed texts together and one by one; the vectors must be the same to the bit. The hash is the same for all
    /// honest workers with the same file and kernels.
    pub fn self_test(&self) -> Result<[u8; 32], LoadError> {
        let token = |i: usize| (i * 7919 % self.config.vocab_size) as u32;
        let texts: Vec<Vec<u32>> = [5, 1, 3]
            .iter()
            .map(|length| (0..self.config.positions.min(*length)).map(|i| token(length * 13 + i + 1)).collect())
            .collect();
        let together = self.forward(&texts.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
        let mut hasher = blake3::Hasher::new();
        for (text, vector) in texts.iter().zip(&together) {
            let alone = self.forward(&[text.as_slice()])?;
            if alone.iter().flatten().map(|x| x.to_bits()).ne(vector.iter().map(|x| x.to_bits())) {
                return Err(LoadError::SelfTest);
            }
            vector.iter().for_each(|x| {
                hasher.update(&x.to_le_bytes());
            });
        }
        Ok(*hasher.finalize().as_bytes())
    }

    fn check(&self, texts: &[&[u32]]) -> Result<(), ForwardError> {
        let EncoderConfig { vocab_size, positions, .. } = self.config;
        for text in texts {
            if text.is_empty() || text.len() > positions {
                return Err(ForwardError::Room { tokens: text.len(), room: positions });
            }
            if let Some(token) = text.iter().find(|token| **token as usize >= vocab_size) {
                return Err(ForwardError::Token { token: *token, vocab_size });
            }
        }
        Ok(())
    }

    fn embed(&self, texts: &[&[u32]]) -> Result<Tensor, ForwardError> {
        let tokens: Vec<u32> = texts.concat();
        let rows = tokens.len();
        let positions = texts.iter().flat_map(|text| self.positions.iter().take(text.len() * self.config.hidden));
        let positions = Tensor::from_vec(positions.copied().collect(), (rows, self.config.hidden), &Device::Cpu)?;
        let words = self.words.index_select(&Tensor::from_vec(tokens, rows, &Device::Cpu)?, 0)?;
        Ok(words.apply_op2_no_bwd(&positions, &Sum)?)
    }

    /// Every token attends to all tokens of its text; `qkv` is `rows × 3 · hidden`.
    fn attention(&self, qkv: &Tensor, texts: &[&[u32]]) -> Result<Tensor, ForwardError> {
        let (storage, layout) = qkv.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else {
            return Err(candle_core::Error::Msg("exact attention runs on the CPU only".into()).into());
        };
        let qkv = &storage.as_slice::<f32>()?[layout.start_offset()..];
        let (hidden, head_dim) = (self.config.hidden, self.config.head_dim());
        let starts = texts.iter().scan(0, |next, text| Some(std::mem::replace(next, *next + text.len())));
        let spans: Vec<(usize, usize)> = starts.zip(texts.iter().map(|text| text.len())).collect();
        let rows = spans.iter().map(|(_, length)| length).sum::<usize>();
        let mut out = vec![0f32; rows * hidden];
        let places = Disjoint::new(&mut out);
        self.compute.pool.run(spans.len() * self.config.n_heads, |item| {
            let ((start, length), head) = (spans[item / self.config.n_heads], item % self.config.n_heads);
            let part =
                |row: usize, which: usize| &qkv[row * 3 * hidden + which * hidden + head * head_dim..][..head_dim];
            let gather =
                |which| (start..start + length).flat_map(|row| part(row, which)).copied().collect::<Vec<f32>>();
            let text = OneText { keys: gather(1), values: gather(2) };
            let scale = 1.0 / (head_dim as f32).sqrt();
            let shape = AttentionShape { head_dim, group: 1, block_len: length, first: 0, positions: length, scale };
            for row in start..start + length {
                // SAFETY: each pair of row and head is computed once.
                let out = unsafe { places.slice(row * hidden + head * head_dim, head_dim) };
                attend(self.compute.simd, shape, part(row, 0), &text, out);
            }
        });
        Ok(Tensor::from_vec(out, (rows, hidden), &Device::Cpu)?)
    }
}

/// Keys and values of one head of one text, in one block.
struct OneText {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Blocks for OneText {
    fn keys(&self, _: usize) -> Stored<'_> {
        Stored::F32(&self.keys)
    }
    fn values(&self, _: usize) -> Stored<'_> {
        Stored::F32(&self.values)
    }
}

/// Mean over the rows, in their order, scaled to length 1.
fn pool(rows: &[f32], hidden: usize) -> Vec<f32> {
    let mut mean = vec![0f32; hidden];
    for row in rows.chunks_exact(hidden) {
        mean.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    let count = (rows.len() / hidden) as f32;
    mean.iter_mut().for_each(|sum| *sum /= count);
    let square = mean.iter().fold(0f64, |sum, x| sum + f64::from(*x) * f64::from(*x));
    let length = square.sqrt() as f32;
    mean.iter_mut().for_each(|x| *x /= length);
    mean
}

struct Loader<'a> {
    file: SliceSafetensors<'a>,
    compute: &'a Compute,
    eps: f32,
    n_params: u64,
}

impl Loader<'_> {
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let found = self.file.get(name)?.shape().to_vec();
        if found != shape {
            return Err(LoadError::Shape { name: name.to_owned(), found, expected: shape.to_vec() });
        }
        self.n_params += shape.iter().product::<usize>() as u64;
        Ok(self.file.load(name, &Device::Cpu)?.to_dtype(DType::F32)?)
    }

    fn values(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        Ok(self.tensor(name, shape)?.flatten_all()?.to_vec1()?)
    }

    fn norm(&mut self, name: &str, width: usize) -> Result<LayerNorm, LoadError> {
        let (weight, bias) = (format!("{name}.weight"), format!("{name}.bias"));
        Ok(LayerNorm {
            weight: self.values(&weight, &[width])?,
            bias: self.values(&bias, &[width])?,
            eps: self.eps,
            compute: self.compute.clone(),
        })
    }

    /// One matrix of several, their outputs one after the other.
    fn dense(&mut self, names: &[String], inputs: usize, outputs: usize) -> Result<Dense, LoadError> {
        let mut parts = Vec::new();
        for name in names {
            let weight = self.values(&format!("{name}.weight"), &[outputs, inputs])?;
            parts.push((weight, self.values(&format!("{name}.bias"), &[outputs])?));
        }
        Ok(Dense { matrix: DenseMatrix::new(inputs, &parts), compute: self.compute.clone() })
    }

    fn layer(&mut self, index: usize, hidden: usize, intermediate: usize) -> Result<Layer, LoadError> {
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let qkv = ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
        Ok(Layer {
            qkv: self.dense(&qkv, hidden, hidden)?,
            attention_out: self.dense(&[name("attention.output.dense")], hidden, hidden)?,
            attention_norm: self.norm(&name("attention.output.LayerNorm"), hidden)?,
            up: self.dense(&[name("intermediate.dense")], hidden, intermediate)?,
            down: self.dense(&[name("output.dense")], intermediate, hidden)?,
            norm: self.norm(&name("output.LayerNorm"), hidden)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pooled_vector_is_the_mean_at_length_one() {
        assert_eq!(pool(&[1.0, 2.0, 5.0, 6.0], 2), [0.6, 0.8]);
    }
}
