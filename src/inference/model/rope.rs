//! Rotary position embedding: the angles of a model's layers, and the rotations of one forward.

use crate::architecture::{Architecture, Pairing, Scaling, Yarn};
use crate::config::ModelConfig;
use crate::kernels::{rotate_halves, rotate_pairs};

/// The rotation of a kind of layer.
pub(crate) struct Rope {
    /// Rotations per position of each pair of a head.
    frequencies: Vec<f64>,
    /// Cosines and sines are multiplied by this.
    magnitude: f64,
    pairing: Pairing,
}

impl Rope {
    /// The rotation of layers that see everything. `factors` divide the frequencies, a factor for each pair.
    pub(crate) fn global(config: &ModelConfig, architecture: &Architecture, factors: Option<&[f32]>) -> Self {
        let pairing = architecture.pairing;
        let plain = frequencies(config.rope_base, config.head_dim);
        if let Scaling::Yarn(yarn) = architecture.scaling {
            let frequencies = yarn_frequencies(&yarn, config.rope_base, plain);
            let magnitude = yarn.attention_factor * (1.0 + 0.1 * libm::log(yarn.factor));
            return Self { frequencies, magnitude, pairing };
        }
        let factor = |pair: usize| factors.and_then(|all| all.get(pair)).map_or(1.0, |factor| f64::from(*factor));
        let scaled = |(pair, frequency): (usize, f64)| frequency / factor(pair) / config.rope_scale;
        Self { frequencies: plain.enumerate().map(scaled).collect(), magnitude: 1.0, pairing }
    }

    /// The rotation of layers with a window, where they have a base of their own.
    pub(crate) fn local(config: &ModelConfig, architecture: &Architecture) -> Option<Self> {
        let base = architecture.local_rope_base?;
        let frequencies = frequencies(base, config.head_dim).collect();
        Some(Self { frequencies, magnitude: 1.0, pairing: architecture.pairing })
    }

    /// Cosines and sines of rows at these positions. Computed anew for each forward (it costs some microseconds a row), in
    /// double precision by `libm`, whose results do not depend on the machine.
    pub(crate) fn at(&self, positions: impl Iterator<Item = usize>) -> Rotation {
        let angles = positions.flat_map(|position| self.frequencies.iter().map(move |f| position as f64 * f));
        let turn = |angle| ((libm::cos(angle) * self.magnitude) as f32, (libm::sin(angle) * self.magnitude) as f32);
        let (cos, sin) = angles.map(turn).unzip();
        Rotation { cos, sin, pairs: self.frequencies.len(), pairing: self.pairing }
    }
}

/// base^(-2i/d) for each pair of a head.
fn frequencies(base: f64, head_dim: usize) -> impl Iterator<Item = f64> {
    (0..head_dim / 2).map(move |pair| libm::pow(base, -2.0 * pair as f64 / head_dim as f64))
}

/// Pairs that turn often within the original context keep their frequency, those that turn rarely are interpolated, with a
/// ramp between. Same formula as llama.cpp's.
fn yarn_frequencies(yarn: &Yarn, base: f64, plain: impl Iterator<Item = f64>) -> Vec<f64> {
    let plain: Vec<f64> = plain.collect();
    let dimensions = (2 * plain.len()) as f64;
    let turning = |turns: f64| {
        let length = yarn.original_context / (turns * 2.0 * std::f64::consts::PI);
        dimensions * libm::log(length) / (2.0 * libm::log(base))
    };
    let low = libm::floor(turning(yarn.beta_fast)).max(0.0);
    let high = libm::ceil(turning(yarn.beta_slow)).min(dimensions - 1.0);
    let mix = |(pair, frequency): (usize, f64)| {
        let ramp = ((pair as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
        frequency * (1.0 - ramp) + frequency / yarn.factor * ramp
    };
    plain.into_iter().enumerate().map(mix).collect()
}

/// The rotations of the rows of a forward.
pub(crate) struct Rotation {
    /// `rows × pairs`.
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
    pub(crate) pairs: usize,
    pub(crate) pairing: Pairing,
}

impl Rotation {
    /// Rotates one head of a row.
    pub(crate) fn apply(&self, row: usize, head: &mut [f32]) {
        let range = row * self.pairs..(row + 1) * self.pairs;
        let (cos, sin) = (&self.cos[range.clone()], &self.sin[range]);
        match self.pairing {
            Pairing::Neighbours => rotate_pairs(head, cos, sin),
            Pairing::Halves => rotate_halves(head, cos, sin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YARN: Yarn =
        Yarn { factor: 4.0, original_context: 32_768.0, attention_factor: 1.0, beta_fast: 32.0, beta_slow: 1.0 };

    #[test]
    fn yarn_keeps_fast_pairs_and_interpolates_slow_ones() {
        let base = 1e6;
        let plain: Vec<f64> = frequencies(base, 128).collect();
        let stretched = yarn_frequencies(&YARN, base, plain.iter().copied());
        assert_eq!(stretched[0], plain[0]);
        assert_eq!(stretched[63], plain[63] / 4.0);
        let ratios: Vec<f64> = plain.iter().zip(&stretched).map(|(plain, stretched)| plain / stretched).collect();
        assert!(ratios.is_sorted() && ratios.iter().any(|ratio| *ratio > 1.1 && *ratio < 3.9));
        // A pair turns 32 times in 32 768 tokens where its frequency is 2π·32/32768; all faster ones are kept.
        let kept = plain.iter().filter(|f| **f > 64.0 * std::f64::consts::PI / 32_768.0 * 1.3).count();
        assert_eq!(ratios[..kept].iter().filter(|ratio| **ratio != 1.0).count(), 0);
    }

    #[test]
    fn rotations_of_both_pairings_turn_the_same_pairs() {
        let of = |pairing| Rope { frequencies: vec![1.0, 0.01], magnitude: 2.0, pairing }.at([0, 5].into_iter());
        let (mut neighbours, mut halves) = ([1.0f32, 2.0, 3.0, 4.0], [1.0f32, 3.0, 2.0, 4.0]);
        of(Pairing::Neighbours).apply(1, &mut neighbours);
        of(Pairing::Halves).apply(1, &mut halves);
        assert_eq!(neighbours, [halves[0], halves[2], halves[1], halves[3]]);
        assert!((neighbours[0] - 2.0 * (5f32.cos() - 2.0 * 5f32.sin())).abs() < 1e-5);
        of(Pairing::Halves).apply(0, &mut halves);
        assert!((halves[0] - 2.0 * neighbours[0]).abs() < 1e-6);
    }
}
