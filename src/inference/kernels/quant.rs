//! Weights in tiles: 32 inputs of 16 neighbouring outputs, so that one register holds the same input of 8 outputs and the
//! sum of every output runs over the inputs in order.

/// Inputs that share a scale.
pub const BLOCK: usize = 32;
/// Outputs in a tile.
pub const COLUMNS: usize = 16;

/// 32 inputs × 16 outputs of signed 8-bit weights: weight = `scale[output] · q`.
/// `q` is ordered by group of 4 inputs, then output (in two halves), then input within the group.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub struct Q8Tile {
    /// Half precision bits.
    pub scale: [u16; COLUMNS],
    /// Bytes of signed numbers from -127 to 127; -128 would overflow the product of a pair.
    pub q: [[[u8; 32]; 2]; BLOCK / 4],
}

/// 32 inputs × 16 outputs of unsigned 4-bit weights: weight = `scale[output] · q + offset[output]`.
/// Byte `j` of group `g` holds input `8g + j` in its low and `8g + 4 + j` in its high half.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub struct Q4Tile {
    /// Half precision bits.
    pub scale: [u16; COLUMNS],
    /// Half precision bits.
    pub offset: [u16; COLUMNS],
    pub q: [[[u8; 32]; 2]; BLOCK / 8],
}

/// The tiles of a weight matrix, ordered by group of 16 outputs, then by block of 32 inputs.
pub enum Tiles {
    Q8(Vec<Q8Tile>),
    Q4(Vec<Q4Tile>),
}

impl Q8Tile {
    pub const ZERO: Self = Self { scale: [0; COLUMNS], q: [[[0; 32]; 2]; BLOCK / 4] };

    /// Stores 32 weights of one output.
    pub fn set(&mut self, output: usize, scale: u16, q: &[i8; BLOCK]) {
        self.scale[output] = scale;
        for (group, values) in self.q.iter_mut().zip(q.chunks_exact(4)) {
            let bytes = &mut group[output / 8][output % 8 * 4..][..4];
            bytes.iter_mut().zip(values).for_each(|(to, q)| *to = (*q).max(-127) as u8);
        }
    }

    /// The 8-bit values of one output.
    pub fn q(&self, output: usize) -> [i8; BLOCK] {
        std::array::from_fn(|i| self.q[i / 4][output / 8][output % 8 * 4 + i % 4] as i8)
    }

    /// Rounds 32 weights of one output to 8 bits and stores them. The scale is rounded to half precision first, so that
    /// the weights are the nearest multiples of the scale that is really used.
    pub fn quantize(&mut self, output: usize, weights: &[f32; BLOCK]) {
        let largest = weights.iter().fold(0f32, |most, w| most.max(w.abs()));
        let scale = f32_to_f16((largest / 127.0).min(F16_MAX));
        let step = f16_to_f32(scale);
        let q = weights.map(|w| if step > 0.0 { (w / step).round().clamp(-127.0, 127.0) as i8 } else { 0 });
        self.set(output, scale, &q);
    }

    /// The 32 weights of one output.
    pub fn weights(&self, output: usize) -> [f32; BLOCK] {
        let scale = f16_to_f32(self.scale[output]);
        self.q(output).map(|q| scale * f32::from(q))
    }
}

impl Q4Tile {
    pub const ZERO: Self = Self { scale: [0; COLUMNS], offset: [0; COLUMNS], q: [[[0; 32]; 2]; BLOCK / 8] };

    /// Stores 32 weights of one output.
    pub fn set(&mut self, output: usize, scale: u16, offset: u16, q: &[u8; BLOCK]) {
        self.scale[output] = scale;
        self.offset[output] = offset;
        for (group, values) in self.q.iter_mut().zip(q.chunks_exact(8)) {
            let bytes = &mut group[output / 8][output % 8 * 4..][..4];
            let (low, high) = values.split_at(4);
            bytes.iter_mut().zip(low.iter().zip(high)).for_each(|(to, (low, high))| *to = (low & 15) | (high << 4));
        }
    }

    /// The 4-bit values of one output.
    pub fn q(&self, output: usize) -> [u8; BLOCK] {
        std::array::from_fn(|i| {
            let byte = self.q[i / 8][output / 8][output % 8 * 4 + i % 4];
            if i % 8 < 4 { byte & 15 } else { byte >> 4 }
        })
    }

    /// The 32 weights of one output.
    pub fn weights(&self, output: usize) -> [f32; BLOCK] {
        let (scale, offset) = (f16_to_f32(self.scale[output]), f16_to_f32(self.offset[output]));
        self.q(output).map(|q| scale * f32::from(q) + offset)
    }
}

/// Half precision bits as single precision; exact.
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10 & 0x1f);
    let fraction = u32::from(bits & 0x3ff);
    let magnitude = match exponent {
        // Subnormal: fraction · 2^-24, exact in single precision.
        0 => (fraction as f32 * f32::from_bits(0x3380_0000)).to_bits(),
        31 => 0x7f80_0000 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// The largest finite half precision number.
pub const F16_MAX: f32 = 65_504.0;

/// As [`f32_to_f16`], but what is beyond the largest finite number, infinities among it, becomes that number.
pub fn f32_to_finite_f16(x: f32) -> u16 {
    f32_to_f16(x.clamp(-F16_MAX, F16_MAX))
}

/// The nearest half precision number, ties to even.
pub fn f32_to_f16(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16 & 0x8000) as u16;
    let bits = x.to_bits() & 0x7fff_ffff;
    let round = |value: u32, shift: u32| {
        let half = 1 << (shift - 1);
        (value + half - 1 + (value >> shift & 1)) >> shift
    };
    let magnitude = match bits {
        // Too large, infinite or not a number.
        0x7f80_0001.. => 0x7e00,
        0x477f_f000.. => 0x7c00,
        // Normal: a carry out of the fraction goes to the exponent, as it should.
        0x3880_0000.. => round(bits - (112 << 23), 13),
        // Subnormal.
        0x3300_0000.. => round(bits & 0x7f_ffff | 0x80_0000, 126 - (bits >> 23)),
        _ => 0,
    };
    sign | magnitude as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_precision_round_trips() {
        for bits in 0..=u16::MAX {
            let x = f16_to_f32(bits);
            if !x.is_nan() {
                assert_eq!(f32_to_f16(x), bits, "{bits:#x} is {x}");
            }
        }
    }

    #[test]
    fn half_precision_rounds_to_the_nearest_and_ties_to_even() {
        for bits in 0..0x7bffu16 {
            let (low, high) = (f16_to_f32(bits), f16_to_f32(bits + 1));
            let middle = low + (high - low) / 2.0;
            let even = if bits % 2 == 0 { bits } else { bits + 1 };
            assert_eq!(f32_to_f16(middle), even, "between {low} and {high}");
            assert_eq!(f32_to_f16(f32::from_bits(middle.to_bits() - 1)), bits);
            assert_eq!(f32_to_f16(f32::from_bits(middle.to_bits() + 1)), bits + 1);
        }
        assert_eq!(f32_to_f16(1e9), 0x7c00);
        assert_eq!(f32_to_f16(1e-12), 0);
    }

    #[test]
    fn what_half_precision_cannot_hold_becomes_its_largest_number() {
        for (x, kept) in
            [(65_504.0, 65_504.0), (65_520.0, 65_504.0), (1e9, 65_504.0), (f32::INFINITY, 65_504.0), (0.5, 0.5)]
        {
            assert_eq!(f16_to_f32(f32_to_finite_f16(x)), kept, "{x}");
            assert_eq!(f16_to_f32(f32_to_finite_f16(-x)), -kept, "-{x}");
        }
        assert!(f16_to_f32(f32_to_finite_f16(f32::NAN)).is_nan());
    }

    #[test]
    fn weights_come_back_from_their_tile() {
        let mut tile = Q8Tile::ZERO;
        let weights: [f32; BLOCK] = std::array::from_fn(|i| (i as f32 - 15.5) * 0.01);
        tile.quantize(7, &weights);
        for (a, b) in tile.weights(7).iter().zip(weights) {
            assert!((a - b).abs() < 0.155 / 127.0);
        }
        assert_eq!(tile.weights(6), [0.0; BLOCK]);

        let mut tile = Q4Tile::ZERO;
        let q: [u8; BLOCK] = std::array::from_fn(|i| (i * 7 % 16) as u8);
        tile.set(3, f32_to_f16(0.5), f32_to_f16(-2.0), &q);
        assert_eq!(tile.weights(3), q.map(|q| f32::from(q) * 0.5 - 2.0));
    }
}
