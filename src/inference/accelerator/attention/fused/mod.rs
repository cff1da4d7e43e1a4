//! Attention by kernels of our own, `attention.cu`: one launch a layer for the rows of all sequences, that rotates and stores, one that attends, and
//! one more where long contexts were split.
//!
//! They are compiled for GPUs with the feature `cuda`. Nobody who wrote them had a GPU: they were run on the CPU only, compiled from the same source
//! (`tests/cuda/on_cpu.cpp`), so on a device a model takes them only after it has seen them agree with candle's operations there.

#[cfg(feature = "cuda")]
mod cuda;
mod launch;
mod plan;

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor, bail};

use super::Turns;
use crate::accelerator::address::address;
use crate::architecture::Pairing;
use crate::config::ModelConfig;
use crate::kv::KvType;
#[cfg(feature = "cuda")]
pub(in super::super) use cuda::Cuda;
pub use launch::{Arguments, Launch, Launcher};
use plan::Plan;
pub(super) use plan::Sequence;

/// As in `attention.cu`: threads of a block, and the positions that it looks at at once.
const THREADS: u32 = 128;
const POSITIONS: usize = 32;

/// The kernels for a model's heads.
#[derive(Clone)]
pub(in super::super) struct Fused {
    launcher: Arc<dyn Launcher>,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    tile: Tile,
}

/// What a block of `attend` has room for.
#[derive(Clone, Copy)]
struct Tile {
    /// Numbers of a head.
    width: usize,
    queries: usize,
}

impl Tile {
    /// The narrowest that has room for such heads; `None` where there is no kernel for them.
    fn of(head_dim: usize) -> Option<Self> {
        match head_dim {
            _ if !head_dim.is_multiple_of(4) => None,
            1..=64 => Some(Self { width: 64, queries: 16 }),
            65..=128 => Some(Self { width: 128, queries: 16 }),
            129..=256 => Some(Self { width: 256, queries: 8 }),
            _ => None,
        }
    }

    /// Positions with four numbers between them, queries, and their weights.
    fn shared_bytes(self) -> u32 {
        let numbers = POSITIONS * (self.width + 4) + self.queries * (self.width + POSITIONS);
        (numbers * size_of::<f32>()) as u32
    }
}

/// The plan of a forward, on the device.
pub(super) struct Table {
    fused: Fused,
    /// Rows, items and merges, one after the other.
    tensor: Tensor,
    kv_type: KvType,
    rows: usize,
    items: usize,
    merges: usize,
    parts: usize,
}

impl Fused {
    /// `None` where there is no kernel for a model's heads.
    pub(in super::super) fn new(launcher: Arc<dyn Launcher>, config: &ModelConfig) -> Option<Self> {
        let (heads, kv_heads, head_dim) = (config.n_heads, config.n_kv_heads, config.head_dim);
        Some(Self { launcher, heads, kv_heads, head_dim, tile: Tile::of(head_dim)? })
    }

    /// For sequences whose keys and values are stored as `kv_type`, in layers of which each row sees `window` tokens.
    pub(super) fn table(
        &self,
        sequences: &[Sequence],
        kv_type: KvType,
        window: Option<usize>,
        device: &Device,
    ) -> Result<Table> {
        let plan = Plan::of(sequences, window, self.heads / self.kv_heads, self.tile.queries);
        let Plan { rows, items, merges, parts } = &plan;
        let numbers: Vec<i64> = [rows.as_flattened(), items.as_flattened(), merges.as_flattened()].concat();
        let count = numbers.len();
        let tensor = Tensor::from_vec(numbers, count, device)?;
        let (rows, items, merges, parts) = (rows.len(), items.len(), merges.len(), *parts);
        Ok(Table { fused: self.clone(), tensor, kv_type, rows, items, merges, parts })
    }
}

impl Table {
    /// Stores the keys and values of all rows and attends: `rows × heads × head_dim` (keys and values: `kv heads`) to
    /// `rows × heads · head_dim`.
    pub(super) fn attend(&self, layer: usize, turns: &Turns, scale: f64, of: [&Tensor; 3]) -> Result<Tensor> {
        let [queries, keys, values] = of;
        let Fused { heads, kv_heads, head_dim, .. } = self.fused;
        for (tensor, heads) in [(queries, heads), (keys, kv_heads), (values, kv_heads)] {
            if tensor.dims3()? != (self.rows, heads, head_dim) {
                bail!("{:?} are not {heads} heads of {} rows", tensor.shape(), self.rows);
            }
        }
        let rows = address(&self.tensor)?;
        let after = |numbers: usize| rows + (numbers * size_of::<i64>()) as u64;
        let arguments = Arguments {
            queries: 0,
            keys: 0,
            values: 0,
            cosines: address(&turns.cos)?,
            sines: address(&turns.sin)?,
            rows,
            items: after(3 * self.rows),
            merges: after(3 * self.rows + 7 * self.items),
            turned: 0,
            parts: 0,
            out: 0,
            heads: heads as i32,
            kv_heads: kv_heads as i32,
            head_dim: head_dim as i32,
            layer: layer as i32,
            neighbours: i32::from(turns.pairing == Pairing::Neighbours),
            scale: scale as f32,
        };
        queries.apply_op3_no_bwd(keys, values, &Attend { table: self, arguments })
    }
}

/// The operation as candle calls it: with the storage of queries, keys and values.
struct Attend<'a> {
    table: &'a Table,
    /// All but the addresses that are known when it is called.
    arguments: Arguments,
}

impl Attend<'_> {
    /// The output's numbers; `turned` has as many.
    fn outputs(&self) -> usize {
        self.table.rows * self.table.fused.heads * self.table.fused.head_dim
    }

    /// The numbers of all parts.
    fn parts(&self) -> usize {
        self.table.parts * self.table.fused.kv_heads * self.table.fused.tile.queries * (self.table.fused.head_dim + 2)
    }

    fn shape(&self) -> Shape {
        (self.table.rows, self.table.fused.heads * self.table.fused.head_dim).into()
    }

    /// Starts the kernels.
    ///
    /// # Safety
    /// All addresses are of the device's memory: inputs of the shapes that [`Table::attend`] checks, `turned` and `out` of [`outputs`](Self::outputs)
    /// numbers, `parts` of [`parts`](Self::parts).
    unsafe fn run(&self, arguments: Arguments) -> Result<()> {
        let Fused { launcher, heads, kv_heads, tile, .. } = &self.table.fused;
        let stored = match self.table.kv_type {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
        };
        let launch = |kernel: String, width: usize, height: usize, shared_bytes: u32| {
            let launch =
                Launch { kernel, grid: (width as u32, height as u32), threads: THREADS, shared_bytes, arguments };
            // SAFETY: the caller's promise.
            unsafe { launcher.launch(&launch) }
        };
        launch(format!("place_{stored}"), self.table.rows, heads + 2 * kv_heads, 0)?;
        launch(format!("attend_{}_{stored}", tile.width), self.table.items, *kv_heads, tile.shared_bytes())?;
        if self.table.merges > 0 {
            launch(format!("merge_{}", tile.queries), self.table.merges, *kv_heads, 0)?;
        }
        Ok(())
    }
}

impl CustomOp3 for Attend<'_> {
    fn name(&self) -> &'static str {
        "fused-attention"
    }

    fn cpu_fwd(
        &self,
        queries: &CpuStorage,
        of_queries: &Layout,
        keys: &CpuStorage,
        of_keys: &Layout,
        values: &CpuStorage,
        of_values: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let contiguous = |storage: &CpuStorage, layout: &Layout| -> Result<u64> {
            Ok(storage.as_slice::<f32>()?[first_of(layout)?..].as_ptr() as u64)
        };
        let mut turned = vec![0f32; self.outputs()];
        let mut parts = vec![0f32; self.parts()];
        let mut out = vec![0f32; self.outputs()];
        let arguments = Arguments {
            queries: contiguous(queries, of_queries)?,
            keys: contiguous(keys, of_keys)?,
            values: contiguous(values, of_values)?,
            turned: turned.as_mut_ptr() as u64,
            parts: parts.as_mut_ptr() as u64,
            out: out.as_mut_ptr() as u64,
            ..self.arguments
        };
        // SAFETY: as large as it asks for, and kept until it returns.
        unsafe { self.run(arguments)? };
        Ok((CpuStorage::F32(out), self.shape()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        queries: &candle_core::CudaStorage,
        of_queries: &Layout,
        keys: &candle_core::CudaStorage,
        of_keys: &Layout,
        values: &candle_core::CudaStorage,
        of_values: &Layout,
    ) -> Result<(candle_core::CudaStorage, Shape)> {
        let device = &queries.device;
        // Freed by the stream, after the kernels.
        let (_turned, turned) = cuda::room(device, self.outputs())?;
        let (_parts, parts) = cuda::room(device, self.parts())?;
        let (output, out) = cuda::room(device, self.outputs())?;
        let arguments = Arguments {
            queries: cuda::contiguous(queries, of_queries)?,
            keys: cuda::contiguous(keys, of_keys)?,
            values: cuda::contiguous(values, of_values)?,
            turned,
            parts,
            out,
            ..self.arguments
        };
        // SAFETY: as large as it asks for; what is freed is freed after the kernels, by the same stream.
        unsafe { self.run(arguments)? };
        Ok((cuda::storage(output, device), self.shape()))
    }
}

/// Where contiguous elements begin.
fn first_of(layout: &Layout) -> Result<usize> {
    match layout.contiguous_offsets() {
        Some((first, _)) => Ok(first),
        None => bail!("attention needs contiguous rows, not {layout:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_fits_into_what_every_gpu_shares() {
        for (head_dim, width) in [(4, 64), (64, 64), (80, 128), (128, 128), (256, 256)] {
            let tile = Tile::of(head_dim).unwrap();
            assert_eq!(tile.width, width);
            assert!(tile.shared_bytes() <= 48 << 10, "{} bytes", tile.shared_bytes());
        }
        assert!(Tile::of(0).is_none() && Tile::of(66).is_none() && Tile::of(260).is_none());
    }
}
