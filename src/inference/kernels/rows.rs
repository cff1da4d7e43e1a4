//! Operations on one row at a time: normalization, activation, rotation, and the sum of exponentials.

use super::lanes::Lanes;
use super::{Simd, dispatch};

/// The sum of squares in eight running sums.
#[inline(always)]
fn sum_of_squares<V: Lanes>(x: &[f32]) -> f32 {
    let sums = x.chunks_exact(8).fold(V::zero(), |sums, x| sums.add(V::load(x).mul(V::load(x))));
    sums.sum()
}

#[inline(always)]
fn rms_norm_generic<V: Lanes>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mean = sum_of_squares::<V>(x) / x.len() as f32;
    let factor = V::splat(1.0 / (mean + eps).sqrt());
    for ((x, w), out) in x.chunks_exact(8).zip(weight.chunks_exact(8)).zip(out.chunks_exact_mut(8)) {
        V::load(x).mul(factor).mul(V::load(w)).store(out);
    }
}

/// Root-mean-square normalization of one row whose length is a multiple of 8.
pub fn rms_norm(simd: Simd, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    dispatch!(simd, rms_norm_generic(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]))
}

#[inline(always)]
fn layer_norm_generic<V: Lanes>(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = V::splat(x.chunks_exact(8).fold(V::zero(), |sums, x| sums.add(V::load(x))).sum() / n);
    for (x, out) in x.chunks_exact(8).zip(out.chunks_exact_mut(8)) {
        V::load(x).sub(mean).store(out);
    }
    let factor = V::splat(1.0 / (sum_of_squares::<V>(out) / n + eps).sqrt());
    for ((w, b), out) in weight.chunks_exact(8).zip(bias.chunks_exact(8)).zip(out.chunks_exact_mut(8)) {
        V::load(out).mul(factor).mul(V::load(w)).add(V::load(b)).store(out);
    }
}

/// Normalization of one row, whose length is a multiple of 8, to mean 0 and variance 1, then scaled and shifted.
pub fn layer_norm(simd: Simd, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    dispatch!(simd, layer_norm_generic(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]))
}

/// Abramowitz and Stegun 7.1.26: erfc(z) = (a₁t + … + a₅t⁵) · e^(-z²) with t = 1/(1 + pz), z ≥ 0, to 1.5e-7.
const ERFC_P: f32 = 0.327_591_1;
const ERFC: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];

#[inline(always)]
fn gelu_generic<V: Lanes>(x: &[f32], out: &mut [f32]) {
    let one = V::splat(1.0);
    for (x, out) in x.chunks_exact(8).zip(out.chunks_exact_mut(8)) {
        let x = V::load(x);
        let magnitude = x.max(V::zero().sub(x));
        let z = magnitude.mul(V::splat(std::f32::consts::FRAC_1_SQRT_2));
        let t = one.div(one.add(V::splat(ERFC_P).mul(z)));
        let mut polynomial = V::splat(ERFC[0]);
        for a in &ERFC[1..] {
            polynomial = polynomial.mul(t).add(V::splat(*a));
        }
        let erfc = polynomial.mul(t).mul(V::zero().sub(z.mul(z)).exp());
        // x·Φ(x) without a look at the sign: what is missing from max(x, 0) is |x|·Φ(-|x|) either way.
        x.max(V::zero()).sub(magnitude.mul(V::splat(0.5)).mul(erfc)).store(out);
    }
}

/// `x·Φ(x)` with the normal distribution's Φ, for rows whose length is a multiple of 8.
pub fn gelu(simd: Simd, x: &[f32], out: &mut [f32]) {
    dispatch!(simd, gelu_generic(x: &[f32], out: &mut [f32]))
}

#[inline(always)]
fn swiglu_generic<V: Lanes>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let one = V::splat(1.0);
    for ((gate, up), out) in gate.chunks_exact(8).zip(up.chunks_exact(8)).zip(out.chunks_exact_mut(8)) {
        let gate = V::load(gate);
        let sigmoid = one.add(V::zero().sub(gate).exp());
        gate.div(sigmoid).mul(V::load(up)).store(out);
    }
}

/// `silu(gate) · up` for rows whose length is a multiple of 8.
pub fn swiglu(simd: Simd, gate: &[f32], up: &[f32], out: &mut [f32]) {
    dispatch!(simd, swiglu_generic(gate: &[f32], up: &[f32], out: &mut [f32]))
}

#[inline(always)]
fn geglu_generic<V: Lanes>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    /// 2·√(2/π), because ½(1 + tanh u) = 1 / (1 + e^-2u).
    const TWICE_SQRT_2_OVER_PI: f32 = 1.595_769;
    const CUBE: f32 = 0.044_715;
    let one = V::splat(1.0);
    for ((gate, up), out) in gate.chunks_exact(8).zip(up.chunks_exact(8)).zip(out.chunks_exact_mut(8)) {
        let gate = V::load(gate);
        let cubic = one.add(V::splat(CUBE).mul(gate.mul(gate))).mul(gate);
        let sigmoid = one.add(V::zero().sub(cubic.mul(V::splat(TWICE_SQRT_2_OVER_PI))).exp());
        gate.div(sigmoid).mul(V::load(up)).store(out);
    }
}

/// `gelu(gate) · up` with GELU's tanh formula, for rows whose length is a multiple of 8.
pub fn geglu(simd: Simd, gate: &[f32], up: &[f32], out: &mut [f32]) {
    dispatch!(simd, geglu_generic(gate: &[f32], up: &[f32], out: &mut [f32]))
}

/// Rotates neighbouring pairs of a head by the angles whose cosines and sines are given (half as many as elements).
pub fn rotate_pairs(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, cos), sin) in x.chunks_exact_mut(2).zip(cos).zip(sin) {
        let [a, b] = [pair[0], pair[1]];
        pair[0] = a * cos - b * sin;
        pair[1] = a * sin + b * cos;
    }
}

/// As [`rotate_pairs`], for pairs of an element of the first half with its counterpart in the second.
pub fn rotate_halves(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = x.split_at_mut(x.len() / 2);
    for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}

#[inline(always)]
fn exp_sum_generic<V: Lanes>(x: &[f32], largest: f32) -> f64 {
    let largest = V::splat(largest);
    let mut total = 0.0;
    // Single precision within 1024 elements, double between: the error stays near 1e-7 for any vocabulary.
    for part in x.chunks(1024) {
        let lanes = part.chunks_exact(8);
        let mut rest = [f32::NEG_INFINITY; 8];
        rest[..lanes.remainder().len()].copy_from_slice(lanes.remainder());
        let sums = lanes.fold(V::zero(), |sums, x| sums.add(V::load(x).sub(largest).exp()));
        let sums = sums.add(V::load(&rest).sub(largest).exp());
        total += f64::from(sums.sum());
    }
    total
}

/// ln Σ eˣ over a row of finite logits.
pub fn log_sum_exp(simd: Simd, x: &[f32]) -> f64 {
    let largest = x.iter().fold(f32::NEG_INFINITY, |most, x| if *x > most { *x } else { most });
    let total = dispatch!(simd, exp_sum_generic(x: &[f32], largest: f32) -> f64);
    f64::from(largest) + libm::log(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * scale).collect()
    }

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| x.to_bits()).collect()
    }

    #[test]
    fn instances_agree_to_the_bit() {
        let (x, w) = (wave(576, 3.0), wave(576, 1.0));
        let both = [Simd::Portable, Simd::detect()];
        let norms = both.map(|simd| {
            let mut out = vec![0.0; 576];
            rms_norm(simd, &x, &w, 1e-5, &mut out);
            bits(&out)
        });
        assert_eq!(norms[0], norms[1]);
        let gated = both.map(|simd| {
            let mut out = vec![0.0; 576];
            swiglu(simd, &wave(576, 60.0), &w, &mut out);
            bits(&out)
        });
        assert_eq!(gated[0], gated[1]);
        let gated = both.map(|simd| {
            let mut out = vec![0.0; 576];
            geglu(simd, &wave(576, 60.0), &w, &mut out);
            bits(&out)
        });
        assert_eq!(gated[0], gated[1]);
        let normal = both.map(|simd| {
            let mut out = vec![0.0; 576];
            layer_norm(simd, &x, &w, &x, 1e-12, &mut out);
            bits(&out)
        });
        assert_eq!(normal[0], normal[1]);
        let activated = both.map(|simd| {
            let mut out = vec![0.0; 576];
            gelu(simd, &wave(576, 20.0), &mut out);
            bits(&out)
        });
        assert_eq!(activated[0], activated[1]);
        let sums = both.map(|simd| log_sum_exp(simd, &wave(49_155, 20.0)).to_bits());
        assert_eq!(sums[0], sums[1]);
    }

    #[test]
    fn values_are_right() {
        let x = wave(64, 2.0);
        let mut out = vec![0.0; 64];
        rms_norm(Simd::detect(), &x, &vec![2.0; 64], 1e-5, &mut out);
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 64.0;
        for (x, y) in x.iter().zip(&out) {
            assert!((f64::from(*x) * 2.0 / (mean + 1e-5).sqrt() - f64::from(*y)).abs() < 1e-5);
        }
        swiglu(Simd::detect(), &x, &x, &mut out);
        for (x, y) in x.iter().zip(&out) {
            let x = f64::from(*x);
            assert!((x / (1.0 + (-x).exp()) * x - f64::from(*y)).abs() < 1e-5);
        }
        let logits = wave(1_003, 5.0);
        let exact = logits.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
        assert!((log_sum_exp(Simd::detect(), &logits) - exact).abs() < 1e-6);
    }

    #[test]
    fn layer_norm_and_gelu_are_right() {
        let (x, weight, bias) = (wave(64, 3.0), wave(64, 1.0), wave(64, 0.5));
        let mut out = vec![0.0; 64];
        layer_norm(Simd::detect(), &x, &weight, &bias, 1e-12, &mut out);
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / 64.0;
        let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / 64.0;
        for (i, y) in out.iter().enumerate() {
            let exact = (f64::from(x[i]) - mean) / variance.sqrt() * f64::from(weight[i]) + f64::from(bias[i]);
            assert!((exact - f64::from(*y)).abs() < 1e-5, "{i}");
        }
        let x: Vec<f32> = (-4_000..4_000).map(|i| i as f32 / 400.0).collect();
        let mut out = vec![0.0; x.len()];
        gelu(Simd::detect(), &x, &mut out);
        for (x, y) in x.iter().zip(&out) {
            let exact = f64::from(*x) * 0.5 * (1.0 + libm::erf(f64::from(*x) / std::f64::consts::SQRT_2));
            assert!((exact - f64::from(*y)).abs() < 2e-6, "gelu({x}) = {y} but {exact}");
        }
    }

    #[test]
    fn gelu_by_its_tanh_formula_is_right_at_all_sizes() {
        let x: Vec<f32> = (-4_000..4_000).map(|i| i as f32 / 100.0).collect();
        let (ones, mut out) = (vec![1.0; x.len()], vec![0.0; x.len()]);
        geglu(Simd::detect(), &x, &ones, &mut out);
        for (x, y) in x.iter().zip(&out) {
            let x = f64::from(*x);
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            let exact = 0.5 * x * (1.0 + u.tanh());
            assert!((exact - f64::from(*y)).abs() < 2e-6 * x.abs().max(1.0), "gelu({x}) = {y} but {exact}");
        }
    }

    #[test]
    fn rotation_keeps_the_length() {
        let mut x = vec![3.0, 4.0];
        rotate_pairs(&mut x, &[0.6], &[0.8]);
        assert!((x[0] * x[0] + x[1] * x[1] - 25.0).abs() < 1e-5);
        assert!((x[0] - (3.0 * 0.6 - 4.0 * 0.8)).abs() < 1e-6);
    }
}
