//! Attention by matrix products: each sequence's rows against its own keys and values, masked where rows see different parts of them.

use candle_core::{D, Device, Result, Tensor};

use super::layers::RmsNorm;
use super::{DeviceKv, DeviceModel, Layer};
use crate::architecture::Pairing;
use crate::kv::KvCache;
use crate::model::{ForwardError, Rope, Segment};

/// What layers with and without a window see in one forward.
pub(super) struct Views {
    global: View,
    /// For layers with a window, where the model has any.
    windowed: Option<View>,
}

/// Rotations of all rows, and what the rows of each segment see.
struct View {
    rotation: Turns,
    spans: Vec<Span>,
}

/// The positions that any row of a segment sees.
struct Span {
    first: usize,
    count: usize,
    /// `rows × count`: 0 where a row sees a position, −∞ elsewhere. `None` where there is one row, which sees all of the span.
    mask: Option<Tensor>,
}

/// Cosines and sines in the shape of a head's pairs.
struct Turns {
    cos: Tensor,
    sin: Tensor,
    pairing: Pairing,
}

impl Views {
    /// Of a batch whose keys are not stored yet.
    pub(super) fn of(model: &DeviceModel, batch: &[Segment]) -> Result<Self> {
        let window = model.layers.iter().find_map(|layer| layer.window);
        let local = model.local.as_ref().unwrap_or(&model.global);
        let view = |rope: &Rope, window: Option<usize>| -> Result<View> {
            let spans = batch.iter().map(|segment| Span::of(segment, window, &model.device)).collect::<Result<_>>()?;
            Ok(View { rotation: Turns::of(rope, batch, &model.device)?, spans })
        };
        let windowed = window.map(|window| view(local, Some(window))).transpose()?;
        Ok(Self { global: view(&model.global, None)?, windowed })
    }

    fn for_layer(&self, layer: &Layer) -> &View {
        match (&self.windowed, layer.window) {
            (Some(windowed), Some(_)) => windowed,
            _ => &self.global,
        }
    }
}

impl Span {
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
    fn of(rope: &Rope, batch: &[Segment], device: &Device) -> Result<Self> {
        let positions = batch.iter().flat_map(|segment| (0..segment.tokens.len()).map(|i| segment.start + i));
        let turn = rope.at(positions);
        let rows = turn.cos.len() / turn.pairs.max(1);
        // A head is `pairs × 2` of neighbours, or `2 × pairs` of halves.
        let shape = match turn.pairing {
            Pairing::Neighbours => (rows, 1, turn.pairs, 1),
            Pairing::Halves => (rows, 1, 1, turn.pairs),
        };
        let tensor = |values| Tensor::from_vec(values, shape, device);
        Ok(Self { cos: tensor(turn.cos)?, sin: tensor(turn.sin)?, pairing: turn.pairing })
    }

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
    /// Stores the rows' keys and values, then attends: `rows × heads · head_dim`.
    pub(super) fn attend(
        &self,
        index: usize,
        layer: &Layer,
        x: &Tensor,
        views: &Views,
        batch: &mut [Segment],
    ) -> std::result::Result<Tensor, ForwardError> {
        let View { rotation, spans } = views.for_layer(layer);
        let (heads, kv_heads) = (self.config.n_heads, self.config.n_kv_heads);
        let queries = rotation.apply(&self.heads(&layer.query.forward(x)?, heads, layer.query_norm.as_ref())?)?;
        let keys = rotation.apply(&self.heads(&layer.key.forward(x)?, kv_heads, layer.key_norm.as_ref())?)?;
        let values = self.heads(&layer.value.forward(x)?, kv_heads, None)?;
        let mut attended = Vec::with_capacity(batch.len());
        let mut row = 0;
        for (segment, span) in batch.iter_mut().zip(spans) {
            let count = segment.tokens.len();
            if count == 0 {
                continue;
            }
            let by_head = |rows: &Tensor| rows.narrow(0, row, count)?.transpose(0, 1)?.contiguous();
            let kv = self.kv(segment.kv)?;
            kv.store(index, segment.start, &by_head(&keys)?, &by_head(&values)?)?;
            let (seen_keys, seen_values) = kv.read(index, span.first, span.count)?;
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

    /// `rows × heads · head_dim` as `rows × heads × head_dim`, normalized where the model does that.
    fn heads(&self, x: &Tensor, heads: usize, norm: Option<&RmsNorm>) -> Result<Tensor> {
        let x = x.reshape(((), heads, self.config.head_dim))?;
        match norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        }
    }

    /// A sequence's keys and values; its first forward makes them.
    fn kv<'a>(&self, kv: &'a mut KvCache) -> std::result::Result<&'a DeviceKv, ForwardError> {
        kv.on_device(|shape, room| DeviceKv::new(&self.device, shape, room))
    }
}

/// Over the last dimension.
fn softmax(x: &Tensor) -> Result<Tensor> {
    let powers = x.broadcast_sub(&x.max_keepdim(D::Minus1)?)?.exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)
}
