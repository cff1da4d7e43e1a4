//! Blocks of GGML's quantized formats, taken apart. Only those that fit a tile as they are or nearly so; all others are
//! expanded by candle and rounded anew.

use candle_core::quantized::GgmlDType;

use super::kernels::{BLOCK, f16_to_f32, f32_to_f16};

/// 32 weights of 4 bits: `scale · q + offset`, both in half precision bits.
#[derive(Debug, PartialEq)]
pub(super) struct FourBit {
    pub(super) scale: u16,
    pub(super) offset: u16,
    pub(super) q: [u8; BLOCK],
}

/// 32 weights of 8 bits: `scale · q`, the scale in half precision bits.
#[derive(Debug, PartialEq)]
pub(super) struct EightBit {
    pub(super) scale: u16,
    pub(super) q: [i8; BLOCK],
}

/// Whether [`four_bit`] reads the format.
pub(super) fn is_four_bit(dtype: GgmlDType) -> bool {
    matches!(dtype, GgmlDType::Q4_0 | GgmlDType::Q4_1 | GgmlDType::Q4K)
}

/// Whether [`eight_bit`] reads the format.
pub(super) fn is_eight_bit(dtype: GgmlDType) -> bool {
    matches!(dtype, GgmlDType::Q8_0 | GgmlDType::Q4_0 | GgmlDType::Q5_0)
}

/// Calls `each` with the number and the weights of every 32 of a row of whole blocks. Q4_0 and Q4_1 are exact; Q4_K has
/// products of two numbers for scale and offset, which are rounded to half precision (1 part in 2048).
pub(super) fn four_bit(dtype: GgmlDType, row: &[u8], mut each: impl FnMut(usize, FourBit)) {
    match dtype {
        GgmlDType::Q4K => {
            for (index, block) in row.as_chunks::<144>().0.iter().enumerate() {
                four_bit_k(block, |part, weights| each(8 * index + part, weights));
            }
        }
        GgmlDType::Q4_1 => {
            for (index, block) in row.as_chunks::<20>().0.iter().enumerate() {
                each(index, FourBit { scale: half(block, 0), offset: half(block, 2), q: nibbles(&block[4..]) });
            }
        }
        _ => {
            for (index, block) in row.as_chunks::<18>().0.iter().enumerate() {
                let scale = half(block, 0);
                let offset = f32_to_f16(-8.0 * f16_to_f32(scale));
                each(index, FourBit { scale, offset, q: nibbles(&block[2..]) });
            }
        }
    }
}

/// A Q4_K block: 256 weights in 8 parts, each with a scale and a minimum of 6 bits that count in units of the block's own.
fn four_bit_k(block: &[u8; 144], mut each: impl FnMut(usize, FourBit)) {
    let (unit, least) = (f16_to_f32(half(block, 0)), f16_to_f32(half(block, 2)));
    let packed = &block[4..16];
    for part in 0..8 {
        let (scale, minimum) = match part {
            0..4 => (packed[part] & 63, packed[part + 4] & 63),
            _ => (packed[part + 4] & 15 | packed[part - 4] >> 6 << 4, packed[part + 4] >> 4 | packed[part] >> 6 << 4),
        };
        // Two parts share 32 bytes: the first has the low halves, the second the high ones.
        let bytes = &block[16 + part / 2 * BLOCK..][..BLOCK];
        let q = std::array::from_fn(|i| if part % 2 == 0 { bytes[i] & 15 } else { bytes[i] >> 4 });
        let (scale, offset) = (unit * f32::from(scale), -least * f32::from(minimum));
        each(part, FourBit { scale: f32_to_f16(scale), offset: f32_to_f16(offset), q });
    }
}

/// Calls `each` with the number and the weights of every 32 of a row. All of these formats are exact.
pub(super) fn eight_bit(dtype: GgmlDType, row: &[u8], mut each: impl FnMut(usize, EightBit)) {
    match dtype {
        GgmlDType::Q5_0 => {
            for (index, block) in row.as_chunks::<22>().0.iter().enumerate() {
                let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
                let low = nibbles(&block[6..]);
                let q = std::array::from_fn(|i| (low[i] + 16 * (high >> i & 1) as u8) as i8 - 16);
                each(index, EightBit { scale: half(block, 0), q });
            }
        }
        GgmlDType::Q4_0 => {
            for (index, block) in row.as_chunks::<18>().0.iter().enumerate() {
                each(index, EightBit { scale: half(block, 0), q: nibbles(&block[2..]).map(|q| q as i8 - 8) });
            }
        }
        _ => {
            for (index, block) in row.as_chunks::<34>().0.iter().enumerate() {
                each(index, EightBit { scale: half(block, 0), q: std::array::from_fn(|i| block[2 + i] as i8) });
            }
        }
    }
}

fn half(block: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// GGML keeps element `j` in the low and element `j + 16` in the high half of byte `j`.
fn nibbles(bytes: &[u8]) -> [u8; BLOCK] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::QTensor;
    use candle_core::{Device, Tensor};

    use super::*;

    /// Weights of many sizes, quantized by candle, and candle's own expansion of them.
    fn quantized(dtype: GgmlDType) -> (Vec<u8>, Vec<f32>) {
        let weights: Vec<f32> =
            (0..2048).map(|i| ((i * 37 % 101) as f32 / 50.0 - 0.9) * (1.0 + (i / 64 % 7) as f32) * 0.01).collect();
        let tensor = Tensor::from_vec(weights, (1, 2048), &Device::Cpu).unwrap();
        let tensor = QTensor::quantize(&tensor, dtype).unwrap();
        let expanded = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        (tensor.data().unwrap().into_owned(), expanded)
    }

    #[test]
    fn eight_bit_formats_keep_every_weight() {
        for dtype in [GgmlDType::Q8_0, GgmlDType::Q5_0, GgmlDType::Q4_0] {
            assert!(is_eight_bit(dtype));
            let (bytes, expected) = quantized(dtype);
            let mut weights = vec![0.0; 2048];
            eight_bit(dtype, &bytes, |index, block| {
                let scale = f16_to_f32(block.scale);
                let values = block.q.map(|q| scale * f32::from(q));
                weights[index * BLOCK..][..BLOCK].copy_from_slice(&values);
            });
            assert_eq!(weights, expected, "{dtype:?}");
        }
    }

    #[test]
    fn four_bit_formats_keep_every_weight_but_for_the_rounding_of_scales() {
        for (dtype, tolerance) in [(GgmlDType::Q4_0, 0.0), (GgmlDType::Q4_1, 1e-7), (GgmlDType::Q4K, 1.5e-4)] {
            assert!(is_four_bit(dtype));
            let (bytes, expected) = quantized(dtype);
            let mut weights = vec![0.0; 2048];
            four_bit(dtype, &bytes, |index, block| {
                let (scale, offset) = (f16_to_f32(block.scale), f16_to_f32(block.offset));
                let values = block.q.map(|q| scale * f32::from(q) + offset);
                weights[index * BLOCK..][..BLOCK].copy_from_slice(&values);
            });
            for (weight, expected) in weights.iter().zip(&expected) {
                assert!((weight - expected).abs() <= tolerance, "{dtype:?}: {weight} but {expected}");
            }
        }
    }
}
