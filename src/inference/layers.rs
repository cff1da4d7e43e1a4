//! The building blocks of the model as candle operations: each takes and gives tensors of `rows × width` and computes with
//! the exact kernels. On a device other than the CPU they say that they do not exist there.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, bail};

use super::architecture::Gate;
use super::kernels::{self, Activations, COLUMNS, Simd};
use super::pool::{Disjoint, ThreadPool};
use super::weights::Matrix;

/// What every operation needs: threads and the instruction set.
#[derive(Clone)]
pub struct Compute {
    pub pool: Arc<ThreadPool>,
    pub simd: Simd,
}

/// The elements of a contiguous tensor whose rows have `width` elements.
pub(super) fn rows<'a>(storage: &'a CpuStorage, layout: &Layout, width: usize, name: &str) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else { bail!("{name} needs contiguous rows") };
    if layout.shape().dims().last() != Some(&width) {
        bail!("{name} needs rows of {width} elements, not {:?}", layout.shape());
    }
    Ok(&storage.as_slice::<f32>()?[start..end])
}

pub(super) fn output(values: Vec<f32>, layout: &Layout, width: usize) -> (CpuStorage, Shape) {
    let mut dims = layout.shape().dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = width;
    }
    (CpuStorage::F32(values), dims.into())
}

/// `y = W·x + b` for every row.
pub struct Linear {
    pub matrix: Matrix,
    /// A number for each output.
    pub bias: Option<Vec<f32>>,
    pub compute: Compute,
}

impl Linear {
    /// Computes `rows × outputs` into `y` for the `rows × inputs` of `x`.
    pub fn multiply(&self, x: &[f32], y: &mut [f32]) {
        let Matrix { tiles, outputs, inputs } = &self.matrix;
        let Compute { pool, simd } = &self.compute;
        let activations = Activations::quantize(*simd, pool, x, *inputs);
        let places = Disjoint::new(y);
        let columns = outputs.div_ceil(COLUMNS);
        let grain = columns.div_ceil(pool.threads() * 8);
        pool.run(columns.div_ceil(grain), |item| {
            for column in item * grain..((item + 1) * grain).min(columns) {
                let count = COLUMNS.min(outputs - column * COLUMNS);
                let bias = self.bias.as_deref().map(|bias| &bias[column * COLUMNS..][..count]);
                kernels::matmul_column(*simd, tiles, column, &activations, |row, values| {
                    // SAFETY: each pair of row and column is written once.
                    let place = unsafe { places.slice(row * outputs + column * COLUMNS, count) };
                    place.copy_from_slice(&values[..count]);
                    for (y, bias) in place.iter_mut().zip(bias.unwrap_or_default()) {
                        *y += bias;
                    }
                });
            }
        });
    }
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "exact-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Matrix { outputs, inputs, .. } = &self.matrix;
        let x = rows(storage, layout, *inputs, self.name())?;
        let mut y = vec![0f32; x.len() / inputs * outputs];
        self.multiply(x, &mut y);
        Ok(output(y, layout, *outputs))
    }
}

/// Root-mean-square normalization of every row.
pub struct RmsNorm {
    pub weight: Vec<f32>,
    pub eps: f32,
    pub compute: Compute,
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "exact-rms-norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = self.weight.len();
        let x = rows(storage, layout, width, self.name())?;
        let mut y = vec![0f32; x.len()];
        self.compute.pool.for_each_chunk(&mut y, 16 * width, |part, y| {
            let x = &x[part * 16 * width..][..y.len()];
            for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
                kernels::rms_norm(self.compute.simd, x, &self.weight, self.eps, y);
            }
        });
        Ok(output(y, layout, width))
    }
}

/// `f(gate) · up` for rows that hold gate and up side by side.
pub struct Gated {
    /// Elements of gate, and of up.
    pub width: usize,
    pub gate: Gate,
    pub compute: Compute,
}

impl CustomOp1 for Gated {
    fn name(&self) -> &'static str {
        "exact-gated"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = self.width;
        let x = rows(storage, layout, 2 * width, self.name())?;
        let mut y = vec![0f32; x.len() / 2];
        let gated = match self.gate {
            Gate::Silu => kernels::swiglu,
            Gate::Gelu => kernels::geglu,
        };
        self.compute.pool.for_each_chunk(&mut y, 4 * width, |part, y| {
            let x = &x[part * 8 * width..][..2 * y.len()];
            for (x, y) in x.chunks_exact(2 * width).zip(y.chunks_exact_mut(width)) {
                let (gate, up) = x.split_at(width);
                gated(self.compute.simd, gate, up, y);
            }
        });
        Ok(output(y, layout, width))
    }
}

/// The sum of two tensors of the same shape. candle's own addition would start its process-wide thread pool, sized by the
/// machine and not by our limit, from 65 536 elements on.
pub struct Sum;

impl CustomOp2 for Sum {
    fn name(&self) -> &'static str {
        "exact-sum"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = la.shape().dims().last().copied().unwrap_or(0);
        if la.shape() != lb.shape() {
            bail!("{} needs equal shapes, not {:?} and {:?}", self.name(), la.shape(), lb.shape());
        }
        let (a, b) = (rows(a, la, width, self.name())?, rows(b, lb, width, self.name())?);
        Ok(output(a.iter().zip(b).map(|(a, b)| a + b).collect(), la, width))
    }
}
