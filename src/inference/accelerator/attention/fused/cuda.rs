//! The kernels on a CUDA device.

use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr, DevicePtrMut, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::{CudaDevice, CudaStorage, WrapErr};
use candle_core::{Layout, Result};

use super::{Arguments, Launch, Launcher};

// `ATTENTION`, compiled by build.rs.
include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

// SAFETY: numbers, in C's layout.
unsafe impl DeviceRepr for Arguments {}

/// Starts kernels on a CUDA device, in the order of candle's operations there.
pub(in super::super::super) struct Cuda(pub(in super::super::super) CudaDevice);

impl Launcher for Cuda {
    unsafe fn launch(&self, launch: &Launch) -> Result<()> {
        let function = self.0.get_or_load_custom_func(&launch.kernel, "xdc-grid-attention", ATTENTION)?;
        let mut builder = function.builder();
        builder.arg(&launch.arguments);
        let (width, height) = launch.grid;
        let config = LaunchConfig {
            grid_dim: (width, height, 1),
            block_dim: (launch.threads, 1, 1),
            shared_mem_bytes: launch.shared_bytes,
        };
        // SAFETY: the caller's promise; the kernels take one argument, which is of this layout.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }
}

/// Single precision numbers that nothing was written to yet, and their address.
pub(super) fn room(device: &CudaDevice, count: usize) -> Result<(CudaSlice<f32>, u64)> {
    // SAFETY: whoever asks for it has it written before it is read.
    let mut slice = unsafe { device.alloc::<f32>(count.max(1)) }?;
    let address = slice.device_ptr_mut(&device.cuda_stream()).0;
    Ok((slice, address))
}

/// The address of contiguous single precision numbers.
pub(super) fn contiguous(storage: &CudaStorage, layout: &Layout) -> Result<u64> {
    let first = super::first_of(layout)?;
    let address = storage.as_cuda_slice::<f32>()?.device_ptr(&storage.device.cuda_stream()).0;
    Ok(address + (first * size_of::<f32>()) as u64)
}

/// The output as candle keeps it.
pub(super) fn storage(slice: CudaSlice<f32>, device: &CudaDevice) -> CudaStorage {
    CudaStorage::wrap_cuda_slice(slice, device.clone())
}
