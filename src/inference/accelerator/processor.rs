//! The choice of what decoders are computed on.

use candle_core::Device;

/// What decoders are computed on. Encoders stay on the CPU.
#[derive(Debug, Clone, Default)]
pub enum Processor {
    /// The CPU, by the exact kernels.
    #[default]
    Cpu,
    /// A device of candle's, by candle's operations.
    Candle(Device),
}

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
pub enum NoDevice {
    #[error("this program was built without CUDA: take the GPU image, or build it with the feature \"cuda\"")]
    NotBuilt,
    #[error(
        "CUDA device {ordinal} cannot be used: is there such a GPU (`nvidia-smi`), a driver from 580 on, and has this container got it? ({source})"
    )]
    Unusable { ordinal: usize, source: candle_core::Error },
}

impl Processor {
    /// The CUDA device of that number, counted from 0.
    pub fn cuda(ordinal: usize) -> Result<Self, NoDevice> {
        if !candle_core::utils::cuda_is_available() {
            return Err(NoDevice::NotBuilt);
        }
        let device = Device::new_cuda(ordinal).map_err(|source| NoDevice::Unusable { ordinal, source })?;
        Ok(Self::Candle(device))
    }
}
