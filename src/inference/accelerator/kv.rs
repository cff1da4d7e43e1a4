//! Keys and values of one sequence on a device.

use candle_core::{DType, Device, Result, Tensor};

/// Keys and values of all layers, with room for every token that the sequence may have: what its charge on the budget is for.
pub(crate) struct DeviceKv {
    /// Of each layer keys and values: `kv heads × room × head_dim`.
    layers: Vec<(Tensor, Tensor)>,
}

impl DeviceKv {
    /// Takes the memory at once, so that a sequence that has begun never runs out of it.
    pub(crate) fn new(device: &Device, layers: usize, (heads, room, head_dim): (usize, usize, usize)) -> Result<Self> {
        let zeros = || Tensor::zeros((heads, room, head_dim), DType::F32, device);
        let layers = (0..layers).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_>>()?;
        Ok(Self { layers })
    }

    /// Stores `kv heads × count × head_dim` from position `start` on.
    pub(super) fn store(&self, layer: usize, start: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        let (all_keys, all_values) = self.layer(layer)?;
        all_keys.slice_set(keys, 1, start)?;
        all_values.slice_set(values, 1, start)
    }

    /// The keys and values of `count` positions from `first` on; views, nothing is copied.
    pub(super) fn read(&self, layer: usize, first: usize, count: usize) -> Result<(Tensor, Tensor)> {
        let (keys, values) = self.layer(layer)?;
        Ok((keys.narrow(1, first, count)?, values.narrow(1, first, count)?))
    }

    fn layer(&self, layer: usize) -> Result<&(Tensor, Tensor)> {
        self.layers.get(layer).ok_or_else(|| candle_core::Error::Msg(format!("there are no keys of layer {layer}")))
    }
}
