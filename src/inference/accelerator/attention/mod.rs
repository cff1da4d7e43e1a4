//! Attention of a batch, in one of two ways: by candle's operations, sequence by sequence ([`composed`]), or by kernels of our own, all
//! sequences at once ([`fused`]).

mod composed;
mod fused;

use candle_core::{Device, Result, Tensor};

use super::layers::RmsNorm;
use super::{DeviceKv, DeviceModel, Layer};
use crate::architecture::Pairing;
use crate::kv::KvCache;
use crate::model::probe::{apart, prompt, sequence_of};
use crate::model::{ForwardError, Rope, Segment};
#[cfg(feature = "cuda")]
pub(super) use fused::Cuda;
pub(super) use fused::Fused;
pub use fused::{Arguments, Launch, Launcher};

/// Tokens by which the two ways are compared: so many that the last one's look is split between blocks.
const COMPARED: usize = 300;

/// What layers with and without a window see in one forward.
pub(super) struct Views {
    global: View,
    /// For layers with a window, where the model has any.
    windowed: Option<View>,
}

/// Rotations of all rows, and what they see.
struct View {
    turns: Turns,
    seen: Seen,
}

enum Seen {
    Composed(Vec<composed::Span>),
    Fused(fused::Table),
}

/// Cosines and sines in the shape of a head's pairs.
struct Turns {
    cos: Tensor,
    sin: Tensor,
    pairing: Pairing,
}

impl Views {
    /// Of a batch whose keys are not stored yet.
    pub(super) fn of(
        model: &DeviceModel,
        fused: Option<&Fused>,
        batch: &mut [Segment],
    ) -> std::result::Result<Self, ForwardError> {
        let window = model.layers.iter().find_map(|layer| layer.window);
        let local = model.local.as_ref().unwrap_or(&model.global);
        let mut view = |rope: &Rope, window: Option<usize>| -> std::result::Result<View, ForwardError> {
            let seen = match fused {
                Some(fused) => Seen::Fused(model.table(fused, window, batch)?),
                None => Seen::Composed(composed::Span::all(batch, window, &model.device)?),
            };
            Ok(View { turns: Turns::of(rope, batch, &model.device)?, seen })
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
        let view = views.for_layer(layer);
        let (heads, kv_heads) = (self.config.n_heads, self.config.n_kv_heads);
        let queries = self.heads(&layer.query.forward(x)?, heads, layer.query_norm.as_ref())?;
        let keys = self.heads(&layer.key.forward(x)?, kv_heads, layer.key_norm.as_ref())?;
        let values = self.heads(&layer.value.forward(x)?, kv_heads, None)?;
        match &view.seen {
            Seen::Composed(spans) => self.attend_composed(index, &view.turns, spans, [queries, keys, values], batch),
            Seen::Fused(table) => {
                Ok(table.attend(index, &view.turns, self.attention_scale, [&queries, &keys, &values])?)
            }
        }
    }

    /// The work of a forward for our own kernels, in layers with such a window.
    fn table(
        &self,
        fused: &Fused,
        window: Option<usize>,
        batch: &mut [Segment],
    ) -> std::result::Result<fused::Table, ForwardError> {
        let sequence = |segment: &mut Segment| {
            let kv = self.kv(segment.kv)?;
            let (kv, room) = (kv.address()?, kv.room());
            Ok(fused::Sequence { kv, room, start: segment.start, rows: segment.tokens.len() })
        };
        let sequences = batch.iter_mut().map(sequence).collect::<std::result::Result<Vec<_>, ForwardError>>()?;
        Ok(fused.table(&sequences, self.kv_type, window, &self.device)?)
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

    /// How far attention by our own kernels is from attention by candle's operations: of any layer, as [`apart`] says, for a prefill and one
    /// token after it.
    pub(super) fn distance(&self, fused: &Fused) -> std::result::Result<f64, ForwardError> {
        let tokens = prompt(self.config.vocab_size, COMPARED.min(self.config.context_length));
        let x = self.embedding.look_up(tokens.iter().copied(), &self.device)?;
        let mut furthest = 0.0;
        for (index, layer) in self.layers.iter().enumerate() {
            let x = layer.attention_norm.forward(&x)?;
            let expected = self.attended(index, layer, &x, &tokens, None)?;
            let distance = apart(&expected, &self.attended(index, layer, &x, &tokens, Some(fused))?);
            // A NaN is the furthest.
            furthest = if distance <= furthest { furthest } else { distance };
        }
        Ok(furthest)
    }

    /// What a layer's attention makes of the rows of one sequence, the last one after the others.
    fn attended(
        &self,
        index: usize,
        layer: &Layer,
        x: &Tensor,
        tokens: &[u32],
        fused: Option<&Fused>,
    ) -> std::result::Result<Vec<f32>, ForwardError> {
        let mut kv = sequence_of(self, tokens.len())?;
        let mut found = Vec::new();
        for rows in [0..tokens.len() - 1, tokens.len() - 1..tokens.len()] {
            if rows.is_empty() {
                continue;
            }
            let x = x.narrow(0, rows.start, rows.len())?;
            let mut batch = [Segment { kv: &mut kv, start: rows.start, tokens: &tokens[rows.clone()], wanted: 0 }];
            let views = Views::of(self, fused, &mut batch)?;
            found.extend(self.attend(index, layer, &x, &views, &mut batch)?.flatten_all()?.to_vec1::<f32>()?);
            kv.advance(rows.len());
        }
        Ok(found)
    }
}
