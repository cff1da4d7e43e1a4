//! Attention by matrix products: each sequence's rows against its own keys and values, masked where rows see different parts of them.

use candle_core::{D, Device, Result, Tensor};

use super::super::DeviceModel;
use super::Turns;
use crate::architecture::Pairing;
use crate::model::{ForwardError, Segment};

/// The positions that any row of a segment sees.
pub(super) struct Span {
    first: usize,
    count: usize,
    /// `rows × count`: 0 where a row sees a position, −∞ elsewhere. `None` where there is one row, which sees all of the span.
    mask: Option<Tensor>,
}

impl Span {
    pub(super) fn all(batch: &[Segment], window: Option<usize>, device: &Device) -> Result<Vec<Self>> {
        batch.iter().map(|segment| Self::of(segment, window, device)).collect()
    }

    fn of(segment: &Segment, window: Option<usize>, device: &Device) -> Result<Self> {
        let (start, rows) = (segment.start, segment.tokens.len());
        let first_seen = |position: usize| window.map_or(0, |window| (position + 1).saturating_sub(window));
        let first = first_seen(start);
        let count = start + rows - first;
        if rows <= 1 {
            return Ok(Self { first, count, mask: None });
        }
        let row = |row: usize| {
            let position = start + row;
            let seen = first_seen(position)..=position;
            (first..first + count).map(move |other| if seen.contains(&other) { 0.0 } else { f32::NEG_INFINITY })
        };
        let mask: Vec<f32> = (0..rows).flat_map(row).collect();
        Ok(Self { first, count, mask: Some(Tensor::from_vec(mask, (rows, count), device)?) })
    }
}

impl Turns {
    /// Rotates `rows × heads × head_dim`.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, heads, width) = x.dims3()?;
        let (split, of) = match self.pairing {
            Pairing::Neighbours => (x.reshape((rows, heads, width / 2, 2))?, 3),
            Pairing::Halves => (x.reshape((rows, heads, 2, width / 2))?, 2),
        };
        let (a, b) = (split.narrow(of, 0, 1)?, split.narrow(of, 1, 1)?);
        let turned_a = (a.broadcast_mul(&self.cos)? - b.broadcast_mul(&self.sin)?)?;
        let turned_b = (a.broadcast_mul(&self.sin)? + b.broadcast_mul(&self.cos)?)?;
        Tensor::cat(&[turned_a, turned_b], of)?.reshape((rows, heads, width))
    }
}

impl DeviceModel {
    /// Queries, keys and values of all rows, `rows × heads × head_dim`, to `rows × heads · head_dim`.
    pub(super) fn attend_composed(
        &self,
        layer: usize,
        turns: &Turns,
        spans: &[Span],
        [queries, keys, values]: [Tensor; 3],
        batch: &mut [Segment],
    ) -> std::result::Result<Tensor, ForwardError> {
        let (queries, keys) = (turns.apply(&queries)?, turns.apply(&keys)?);
        let mut attended = Vec::with_capacity(batch.len());
        let mut row = 0;
        for (segment, span) in batch.iter_mut().zip(spans) {
            let count = segment.tokens.len();
            if count == 0 {
                continue;
            }
            let by_head = |rows: &Tensor| rows.narrow(0, row, count)?.transpose(0, 1)?.contiguous();
            let kv = self.kv(segment.kv)?;
            kv.store(layer, segment.start, &by_head(&keys)?, &by_head(&values)?)?;
            let (seen_keys, seen_values) = kv.read(layer, span.first, span.count)?;
            let rows = by_head(&queries)?;
            attended.push(self.one(&rows, &seen_keys, &seen_values, span.mask.as_ref())?);
            row += count;
        }
        Ok(Tensor::cat(&attended, 0)?)
    }

    /// Attention of one sequence: `queries` of `heads × rows × head_dim` over `kv heads × positions × head_dim`.
    fn one(&self, queries: &Tensor, keys: &Tensor, values: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let (heads, rows, head_dim) = queries.dims3()?;
        let kv_heads = self.config.n_kv_heads;
        // Heads that share keys and values stand one after the other, so theirs are rows of one product.
        let shared = heads / kv_heads * rows;
        let scores = queries.reshape((kv_heads, shared, head_dim))?.matmul(&keys.t()?)?;
        let mut scores = (scores.reshape((heads, rows, ()))? * self.attention_scale)?;
        if let Some(mask) = mask {
            scores = scores.broadcast_add(mask)?;
        }
        let weights = softmax(&scores)?.reshape((kv_heads, shared, ()))?;
        let out = weights.matmul(values)?.reshape((heads, rows, head_dim))?;
        out.transpose(0, 1)?.contiguous()?.reshape((rows, heads * head_dim))
    }
}

/// Over the last dimension.
fn softmax(x: &Tensor) -> Result<Tensor> {
    let powers = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)
}
