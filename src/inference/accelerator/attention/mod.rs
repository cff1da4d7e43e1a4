//! Attention of a batch, in one of two ways: by candle's operations, sequence by sequence ([`composed`]), or by kernels of our own, all
//! sequences at once ([`fused`]).

mod composed;
mod fused;

use candle_core::{Device, Result, Tensor};

use super::layers::RmsNorm;
use super::{DeviceKv, DeviceModel, Layer};
use crate::architecture::Pairing;
use crate::kv::KvCache;
use crate::model::{ForwardError, Rope, Segment};
#[cfg(feature = "cuda")]
pub(super) use fused::Cuda;
pub(super) use fused::Fused;
pub use fused::{Arguments, Launch, Launcher};

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
    pub(super) fn of(model: &DeviceModel, batch: &mut [Segment]) -> std::result::Result<Self, ForwardError> {
        let window = model.layers.iter().find_map(|layer| layer.window);
        let local = model.local.as_ref().unwrap_or(&model.global);
        let windowed = window.map(|window| View::of(model, local, Some(window), batch)).transpose()?;
        Ok(Self { global: View::of(model, &model.global, None, batch)?, windowed })
    }

    fn for_layer(&self, layer: &Layer) -> &View {
        match (&self.windowed, layer.window) {
            (Some(windowed), Some(_)) => windowed,
            _ => &self.global,
        }
    }
}

impl View {
    fn of(
        model: &DeviceModel,
        rope: &Rope,
        window: Option<usize>,
        batch: &mut [Segment],
    ) -> std::result::Result<Self, ForwardError> {
        let turns = Turns::of(rope, batch, &model.device)?;
        let seen = match &model.fused {
            Some(fused) => {
                let sequence = |segment: &mut Segment| {
                    let kv = model.kv(segment.kv)?;
                    let (kv, room) = (kv.address()?, kv.room());
                    Ok(fused::Sequence { kv, room, start: segment.start, rows: segment.tokens.len() })
                };
                let sequences: Vec<_> =
                    batch.iter_mut().map(sequence).collect::<std::result::Result<_, ForwardError>>()?;
                Seen::Fused(fused.table(&sequences, model.kv_type, window, &model.device)?)
            }
            None => {
                let spans = batch.iter().map(|segment| composed::Span::of(segment, window, &model.device));
                Seen::Composed(spans.collect::<Result<_>>()?)
            }
        };
        Ok(Self { turns, seen })
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
        match (&self.fused, &view.seen) {
            (Some(fused), Seen::Fused(table)) => {
                let turns = &view.turns;
                Ok(fused.attend(table, index, turns, self.attention_scale, [&queries, &keys, &values])?)
            }
            (_, Seen::Composed(spans)) => {
                self.attend_composed(index, &view.turns, spans, [queries, keys, values], batch)
            }
            (None, Seen::Fused(_)) => Err(ForwardError::NotOnDevice),
        }
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
