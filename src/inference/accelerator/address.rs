//! Where tensors are in a device's memory: for kernels, which take addresses.

use std::cell::Cell;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor, bail};

/// The address of a tensor's first element. The tensor must be kept for as long as somebody may read or write there.
pub(super) fn address(tensor: &Tensor) -> Result<u64> {
    let found = Address(Cell::new(0));
    tensor.inplace_op1(&found)?;
    Ok(found.0.get() + (tensor.layout().start_offset() * tensor.dtype().size_in_bytes()) as u64)
}

/// An operation on a tensor's storage that changes nothing: it takes its address, for writing, too.
struct Address(Cell<u64>);

impl InplaceOp1 for Address {
    fn name(&self) -> &'static str {
        "address"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
        self.0.set(match storage {
            CpuStorage::F32(values) => values.as_mut_ptr() as u64,
            CpuStorage::F16(values) => values.as_mut_ptr() as u64,
            CpuStorage::I64(values) => values.as_mut_ptr() as u64,
            _ => bail!("no kernel takes tensors of this type"),
        });
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut candle_core::CudaStorage, _: &Layout) -> Result<()> {
        use candle_core::cuda_backend::{CudaStorageSlice, cudarc::driver::DevicePtrMut};
        let stream = storage.device.cuda_stream();
        self.0.set(match &mut storage.slice {
            CudaStorageSlice::F32(values) => values.device_ptr_mut(&stream).0,
            CudaStorageSlice::F16(values) => values.device_ptr_mut(&stream).0,
            CudaStorageSlice::I64(values) => values.device_ptr_mut(&stream).0,
            _ => bail!("no kernel takes tensors of this type"),
        });
        Ok(())
    }
}
