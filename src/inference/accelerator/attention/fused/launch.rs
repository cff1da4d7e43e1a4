//! Starting a kernel, on whatever has them.

use candle_core::Result;

/// Starts the kernels of `attention.cu`: on a CUDA device, or, in tests, as they were compiled for the CPU.
pub trait Launcher: Send + Sync {
    /// Starts a kernel after all that was started before.
    ///
    /// # Safety
    /// The addresses in its arguments are of memory of the device, as large as the kernel expects.
    unsafe fn launch(&self, launch: &Launch) -> Result<()>;
}

/// A kernel, how many threads it takes, and its arguments.
#[derive(Debug, Clone)]
pub struct Launch {
    /// As in `attention.cu`.
    pub kernel: String,
    /// Blocks: width and height.
    pub grid: (u32, u32),
    /// Threads of a block, in whole warps of 32.
    pub threads: u32,
    /// Memory that a block's threads share.
    pub shared_bytes: u32,
    pub arguments: Arguments,
}

/// `Arguments` of `attention.cu`, which explains them, in the same order. Addresses are the device's.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Arguments {
    pub queries: u64,
    pub keys: u64,
    pub values: u64,
    pub cosines: u64,
    pub sines: u64,
    pub rows: u64,
    pub items: u64,
    pub merges: u64,
    pub turned: u64,
    pub parts: u64,
    pub out: u64,
    pub heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    pub layer: i32,
    pub neighbours: i32,
    pub scale: f32,
}
