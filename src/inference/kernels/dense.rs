//! Products of single precision rows with single precision weights.
//!
//! For output `n` and inputs `k` in order: `y = y + w·x`, from zero, and the bias at the end. Lanes run over outputs, never
//! over inputs, so the order of every sum is the same on every instruction set, alone and in a batch.

use super::lanes::Lanes;
use super::quant::COLUMNS;
use super::{Simd, dispatch};

/// A weight matrix of `outputs × inputs` with a bias, in columns of 16 outputs: of each column the 16 weights of the first
/// input, then those of the second, and so on. Outputs beyond the last are zero.
pub struct DenseMatrix {
    pub outputs: usize,
    pub inputs: usize,
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl DenseMatrix {
    /// Stacks matrices over each other: each has rows of `inputs` weights, an output a row, and a bias an output.
    pub fn new(inputs: usize, parts: &[(Vec<f32>, Vec<f32>)]) -> Self {
        let outputs = parts.iter().map(|(_, bias)| bias.len()).sum::<usize>();
        let columns = outputs.div_ceil(COLUMNS);
        let mut weights = vec![0.0; columns * COLUMNS * inputs];
        let rows = parts.iter().flat_map(|(weights, _)| weights.chunks_exact(inputs));
        for (output, row) in rows.enumerate().take(outputs) {
            let column = &mut weights[output / COLUMNS * COLUMNS * inputs..][..COLUMNS * inputs];
            for (place, weight) in column.iter_mut().skip(output % COLUMNS).step_by(COLUMNS).zip(row) {
                *place = *weight;
            }
        }
        let mut bias: Vec<f32> = parts.iter().flat_map(|(_, bias)| bias.iter().copied()).collect();
        bias.resize(columns * COLUMNS, 0.0);
        Self { outputs, inputs, weights, bias }
    }

    /// Groups of 16 outputs.
    pub fn columns(&self) -> usize {
        self.outputs.div_ceil(COLUMNS)
    }

    /// Computes the outputs of one column for all rows of `x`; `out` has 16 elements for each.
    pub fn column(&self, simd: Simd, column: usize, x: &[f32], out: &mut [f32]) {
        let weights = &self.weights[column * COLUMNS * self.inputs..][..COLUMNS * self.inputs];
        let bias = &self.bias[column * COLUMNS..][..COLUMNS];
        dense(simd, weights, bias, x, out);
    }
}

fn dense(simd: Simd, weights: &[f32], bias: &[f32], x: &[f32], out: &mut [f32]) {
    dispatch!(simd, dense_generic(weights: &[f32], bias: &[f32], x: &[f32], out: &mut [f32]))
}

#[inline(always)]
fn dense_generic<V: Lanes>(weights: &[f32], bias: &[f32], x: &[f32], out: &mut [f32]) {
    let inputs = weights.len() / COLUMNS;
    let fours = x.chunks_exact(4 * inputs);
    let rest = fours.remainder().chunks_exact(inputs);
    let mut out = out.chunks_exact_mut(COLUMNS);
    for four in fours {
        rows::<V, 4>(weights, bias, four, inputs, &mut out);
    }
    for one in rest {
        rows::<V, 1>(weights, bias, one, inputs, &mut out);
    }
}

/// `N` rows at a time, so that a weight that was loaded is used `N` times; each row's sums are its own.
#[inline(always)]
fn rows<'a, V: Lanes, const N: usize>(
    weights: &[f32],
    bias: &[f32],
    x: &[f32],
    inputs: usize,
    out: &mut impl Iterator<Item = &'a mut [f32]>,
) {
    let x: [&[f32]; N] = std::array::from_fn(|row| &x[row * inputs..][..inputs]);
    let mut sums = [[V::zero(); 2]; N];
    for (k, w) in weights.chunks_exact(COLUMNS).enumerate() {
        let (low, high) = (V::load(w), V::load(&w[8..]));
        for (x, sums) in x.iter().zip(&mut sums) {
            let x = V::splat(x[k]);
            sums[0] = sums[0].add(low.mul(x));
            sums[1] = sums[1].add(high.mul(x));
        }
    }
    for ([low, high], out) in sums.into_iter().zip(out) {
        low.add(V::load(bias)).store(out);
        high.add(V::load(&bias[8..])).store(&mut out[8..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize, step: usize) -> Vec<f32> {
        (0..n).map(|i| (i * step % 211) as f32 / 100.0 - 1.0).collect()
    }

    fn product(matrix: &DenseMatrix, simd: Simd, x: &[f32]) -> Vec<Vec<f32>> {
        let rows = x.len() / matrix.inputs;
        let mut y = vec![vec![0.0; matrix.columns() * COLUMNS]; rows];
        for column in 0..matrix.columns() {
            let mut out = vec![0.0; rows * COLUMNS];
            matrix.column(simd, column, x, &mut out);
            for (y, out) in y.iter_mut().zip(out.chunks_exact(COLUMNS)) {
                y[column * COLUMNS..][..COLUMNS].copy_from_slice(out);
            }
        }
        y
    }

    #[test]
    fn instances_agree_to_the_bit_and_are_close_to_the_exact_result() {
        let (inputs, rows) = (40, 7);
        // Two parts of 10 and 15 outputs: the second does not begin at a column, and the last column is not full.
        let parts = [(wave(10 * inputs, 13), wave(10, 3)), (wave(15 * inputs, 29), wave(15, 7))];
        let matrix = DenseMatrix::new(inputs, &parts);
        let x = wave(rows * inputs, 31);
        let [portable, fast] = [Simd::Portable, Simd::detect()].map(|simd| product(&matrix, simd, &x));
        assert_eq!(portable, fast);
        let weights: Vec<f32> = parts.iter().flat_map(|(weights, _)| weights.clone()).collect();
        let bias: Vec<f32> = parts.iter().flat_map(|(_, bias)| bias.clone()).collect();
        for (x, y) in x.chunks_exact(inputs).zip(&fast) {
            for (output, y) in y.iter().take(25).enumerate() {
                let row = &weights[output * inputs..][..inputs];
                let exact: f64 = row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
                assert!((f64::from(*y) - exact - f64::from(bias[output])).abs() < 1e-4, "output {output}");
            }
        }
    }

    #[test]
    fn a_row_alone_gives_the_same_bits_as_in_a_batch() {
        let matrix = DenseMatrix::new(24, &[(wave(16 * 24, 17), wave(16, 5))]);
        let x = wave(6 * 24, 11);
        let batch = product(&matrix, Simd::detect(), &x);
        for (row, x) in x.chunks_exact(24).enumerate() {
            assert_eq!(product(&matrix, Simd::detect(), x)[0], batch[row]);
        }
    }
}
