//! The building blocks of an encoder as candle operations, on the exact kernels.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape};

use crate::kernels::{self, COLUMNS, DenseMatrix};
use crate::layers::{Compute, output, rows};
use crate::pool::Disjoint;

/// `y = W·x + b` for every row, in single precision.
pub(super) struct Dense {
    pub matrix: DenseMatrix,
    pub compute: Compute,
}

impl CustomOp1 for Dense {
    fn name(&self) -> &'static str {
        "exact-dense"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let DenseMatrix { outputs, inputs, .. } = self.matrix;
        let x = rows(storage, layout, inputs, self.name())?;
        let count = x.len() / inputs;
        let mut y = vec![0f32; count * outputs];
        let places = Disjoint::new(&mut y);
        self.compute.pool.run(self.matrix.columns(), |column| {
            let mut out = vec![0f32; count * COLUMNS];
            self.matrix.column(self.compute.simd, column, x, &mut out);
            let width = COLUMNS.min(outputs - column * COLUMNS);
            for (row, out) in out.chunks_exact(COLUMNS).enumerate() {
                // SAFETY: each pair of row and column is written once.
                let place = unsafe { places.slice(row * outputs + column * COLUMNS, width) };
                place.copy_from_slice(&out[..width]);
            }
        });
        Ok(output(y, layout, outputs))
    }
}

/// Normalization of every row to mean 0 and variance 1, scaled and shifted.
pub(super) struct LayerNorm {
    pub weight: Vec<f32>,
    pub bias: Vec<f32>,
    pub eps: f32,
    pub compute: Compute,
}

impl CustomOp1 for LayerNorm {
    fn name(&self) -> &'static str {
        "exact-layer-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = self.weight.len();
        let x = rows(storage, layout, width, self.name())?;
        let mut y = vec![0f32; x.len()];
        self.compute.pool.for_each_chunk(&mut y, 16 * width, |part, y| {
            let x = &x[part * 16 * width..][..y.len()];
            for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
                kernels::layer_norm(self.compute.simd, x, &self.weight, &self.bias, self.eps, y);
            }
        });
        Ok(output(y, layout, width))
    }
}

/// `x·Φ(x)` of every element.
pub(super) struct Gelu {
    /// Elements of a row.
    pub width: usize,
    pub compute: Compute,
}

impl CustomOp1 for Gelu {
    fn name(&self) -> &'static str {
        "exact-gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = self.width;
        let x = rows(storage, layout, width, self.name())?;
        let mut y = vec![0f32; x.len()];
        self.compute.pool.for_each_chunk(&mut y, 4 * width, |part, y| {
            kernels::gelu(self.compute.simd, &x[part * 4 * width..][..y.len()], y);
        });
        Ok(output(y, layout, width))
    }
}
