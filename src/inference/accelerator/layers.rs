//! The building blocks: matrices of quantized weights, norms, and the embedding, which stays on the host.

use candle_core::quantized::{GgmlDType, QMatMul};
use candle_core::{D, Device, Module, Result, Tensor};

use crate::weights::{AlignedBytes, dequantize};

/// `y = W·x + b` for every row.
pub(super) struct Linear {
    pub(super) weights: QMatMul,
    pub(super) bias: Option<Tensor>,
}

impl Linear {
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.weights.forward(x)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

/// Root-mean-square normalization over the last dimension.
pub(super) struct RmsNorm {
    pub(super) weight: Tensor,
    pub(super) eps: f64,
}

impl RmsNorm {
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let root = (x.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?.sqrt()?;
        x.broadcast_div(&root)?.broadcast_mul(&self.weight)
    }
}

/// The embedding as the file has it. Only the rows that a forward needs are expanded, by the CPU: on the device it would take up to eight
/// times its size.
pub(super) struct Embedding {
    pub(super) bytes: AlignedBytes,
    pub(super) dtype: GgmlDType,
    pub(super) width: usize,
    pub(super) scale: f32,
}

impl Embedding {
    /// The rows of tokens, `tokens × width`. The caller has checked that they are in the vocabulary.
    pub(super) fn look_up(&self, tokens: impl Iterator<Item = u32>, device: &Device) -> Result<Tensor> {
        let row_bytes = self.width / self.dtype.block_size() * self.dtype.type_size();
        let all = self.bytes.as_ref();
        let rows: Vec<&[u8]> = tokens
            .map(|token| all.get(token as usize * row_bytes..).and_then(|rest| rest.get(..row_bytes)))
            .collect::<Option<_>>()
            .ok_or_else(|| candle_core::Error::Msg("a token has no embedding".into()))?;
        let mut picked = AlignedBytes::new(rows.len() * row_bytes);
        for (place, row) in picked.as_mut().chunks_exact_mut(row_bytes).zip(&rows) {
            place.copy_from_slice(row);
        }
        let mut x = dequantize(self.dtype, picked.as_ref(), rows.len(), self.width)?;
        if self.scale != 1.0 {
            x.iter_mut().for_each(|x| *x *= self.scale);
        }
        Tensor::from_vec(x, (rows.len(), self.width), device)
    }
}
