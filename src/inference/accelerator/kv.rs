//! Keys and values of one sequence on a device.

use candle_core::{DType, Device, Result, Tensor};

use super::address::address;
use crate::kernels::F16_MAX;
use crate::kv::{KvShape, KvType};

/// Keys and values of all layers, with room for every token that the sequence may have: what its charge on the budget is for.
pub(crate) struct DeviceKv {
    /// `layers × 2 × kv heads × room × head_dim`: of each layer keys and values.
    all: Tensor,
    room: usize,
    kv_type: KvType,
}

impl DeviceKv {
    /// Takes the memory for `room` tokens at once, so that a sequence that has begun never runs out of it.
    pub(crate) fn new(device: &Device, shape: KvShape, room: usize) -> Result<Self> {
        let KvShape { layers, heads, head_dim, kv_type } = shape;
        let dtype = match kv_type {
            KvType::F32 => DType::F32,
            KvType::F16 => DType::F16,
        };
        Ok(Self { all: Tensor::zeros((layers, 2, heads, room, head_dim), dtype, device)?, room, kv_type })
    }

    /// Stores `kv heads × count × head_dim` from position `start` on.
    pub(super) fn store(&self, layer: usize, start: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        let (all_keys, all_values) = self.layer(layer)?;
        all_keys.slice_set(&self.narrowed(keys)?, 1, start)?;
        all_values.slice_set(&self.narrowed(values)?, 1, start)
    }

    /// The keys and values of `count` positions from `first` on, in single precision. Views, where they are stored so.
    pub(super) fn read(&self, layer: usize, first: usize, count: usize) -> Result<(Tensor, Tensor)> {
        let (keys, values) = self.layer(layer)?;
        let part = |all: &Tensor| all.narrow(1, first, count)?.to_dtype(DType::F32);
        Ok((part(&keys)?, part(&values)?))
    }

    /// Tokens that there is room for.
    pub(super) fn room(&self) -> usize {
        self.room
    }

    /// Where they begin in the device's memory.
    pub(super) fn address(&self) -> Result<u64> {
        address(&self.all)
    }

    /// Views of a layer's keys and values: `kv heads × room × head_dim`.
    fn layer(&self, layer: usize) -> Result<(Tensor, Tensor)> {
        let layer = self.all.get(layer)?;
        Ok((layer.get(0)?, layer.get(1)?))
    }

    /// As [`KvType`] says.
    fn narrowed(&self, x: &Tensor) -> Result<Tensor> {
        match self.kv_type {
            KvType::F32 => Ok(x.clone()),
            KvType::F16 => x.clamp(-F16_MAX, F16_MAX)?.to_dtype(DType::F16),
        }
    }
}
