//! Turns the tensors of a GGUF file into the tiles that the kernels read: streamed in groups of 16 rows, by all compute
//! threads, without ever holding a plain copy.
//!
//! The plan: matrices that are wholly Q4_0, Q4_1 or Q4_K keep their 4-bit values, Q8_0 and Q5_0 become 8-bit values without
//! any loss, everything else is rounded to 8 bits. All of it is row by row, so the plan is a function of the file alone.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};

use super::LoadError;
use super::formats::{EightBit, FourBit, eight_bit, four_bit, is_eight_bit, is_four_bit};
use super::gguf::{GgufError, GgufFile, TensorInfo};
use super::kernels::{BLOCK, COLUMNS, Q4Tile, Q8Tile, Tiles};
use super::pool::ThreadPool;

/// A weight matrix of `outputs × inputs` in tiles.
pub struct Matrix {
    pub tiles: Tiles,
    pub outputs: usize,
    pub inputs: usize,
}

impl Matrix {
    /// Loads one matrix whose outputs are those of the named tensors, one after the other. `shape` lists the expected
    /// outputs of each; all have `inputs` inputs.
    pub fn load(file: &GgufFile, pool: &ThreadPool, inputs: usize, parts: &[(&str, usize)]) -> Result<Self, LoadError> {
        let mut source = Source { file, inputs, parts: Vec::new(), outputs: 0 };
        for (name, outputs) in parts {
            source.add(name, *outputs)?;
        }
        let columns = source.outputs.div_ceil(COLUMNS);
        let blocks = inputs / BLOCK;
        let tiles = if source.is_four_bit() {
            Tiles::Q4(load_tiles(pool, Q4Tile::ZERO, columns, blocks, |column, tiles| source.fill_q4(column, tiles))?)
        } else {
            Tiles::Q8(load_tiles(pool, Q8Tile::ZERO, columns, blocks, |column, tiles| source.fill_q8(column, tiles))?)
        };
        Ok(Self { tiles, outputs: source.outputs, inputs })
    }

    /// The weights of one output, as an embedding lookup needs them. `out` has `inputs` elements.
    pub fn row(&self, output: usize, out: &mut [f32]) {
        let blocks = self.inputs / BLOCK;
        let first = output / COLUMNS * blocks;
        for (b, out) in out.chunks_exact_mut(BLOCK).enumerate() {
            let weights = match &self.tiles {
                Tiles::Q8(tiles) => tiles[first + b].weights(output % COLUMNS),
                Tiles::Q4(tiles) => tiles[first + b].weights(output % COLUMNS),
            };
            out.copy_from_slice(&weights);
        }
    }
}

/// Loads a vector of `n` elements as single precision.
pub fn load_vector(file: &GgufFile, name: &str, n: usize) -> Result<Vec<f32>, LoadError> {
    let info = file.tensor(name)?;
    if info.elements() != n {
        return Err(shape_error(name, info, n, 1));
    }
    let mut bytes = AlignedBytes::new(info.bytes as usize);
    file.read_at(info, 0, bytes.as_mut())?;
    Ok(dequantize(info.dtype, bytes.as_ref(), 1, n)?)
}

/// A matrix of that shape in a file.
pub(super) fn matrix_info<'a>(
    file: &'a GgufFile,
    name: &str,
    inputs: usize,
    outputs: usize,
) -> Result<&'a TensorInfo, LoadError> {
    let info = file.tensor(name)?;
    if info.dims != [inputs, outputs] {
        return Err(shape_error(name, info, inputs, outputs));
    }
    Ok(info)
}

fn shape_error(name: &str, info: &TensorInfo, inputs: usize, outputs: usize) -> LoadError {
    LoadError::Shape { name: name.to_owned(), found: info.dims.clone(), expected: vec![inputs, outputs] }
}

fn load_tiles<T: Copy + Send + Sync>(
    pool: &ThreadPool,
    zero: T,
    columns: usize,
    blocks: usize,
    fill: impl Fn(usize, &mut [T]) -> Result<(), LoadError> + Sync,
) -> Result<Vec<T>, LoadError> {
    let mut tiles = vec![zero; columns * blocks];
    let failure = std::sync::Mutex::new(None);
    pool.for_each_chunk(&mut tiles, blocks, |column, tiles| {
        if let Err(error) = fill(column, tiles)
            && let Ok(mut failure) = failure.lock()
        {
            failure.get_or_insert(error);
        }
    });
    match failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        Some(error) => Err(error),
        None => Ok(tiles),
    }
}

/// Tensors stacked by their outputs.
struct Source<'a> {
    file: &'a GgufFile,
    inputs: usize,
    /// Each tensor with the number of its first output.
    parts: Vec<(usize, &'a TensorInfo)>,
    outputs: usize,
}

impl<'a> Source<'a> {
    fn add(&mut self, name: &str, outputs: usize) -> Result<(), LoadError> {
        let info = matrix_info(self.file, name, self.inputs, outputs)?;
        if !self.inputs.is_multiple_of(BLOCK) {
            return Err(LoadError::Inputs { name: name.to_owned(), inputs: self.inputs });
        }
        self.parts.push((self.outputs, info));
        self.outputs += outputs;
        Ok(())
    }

    fn is_four_bit(&self) -> bool {
        self.parts.iter().all(|(_, info)| is_four_bit(info.dtype))
    }

    /// Calls `each` with the rows of one column of tiles: (tensor type, number within the column, bytes of the rows).
    fn rows(
        &self,
        column: usize,
        mut each: impl FnMut(GgmlDType, usize, &AlignedBytes) -> Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        let (start, end) = (column * COLUMNS, ((column + 1) * COLUMNS).min(self.outputs));
        for (first, info) in &self.parts {
            let (from, to) = (start.max(*first), end.min(first + info.dims[1]));
            if from >= to {
                continue;
            }
            let row_bytes = self.row_bytes(info.dtype);
            let mut bytes = AlignedBytes::new((to - from) * row_bytes);
            self.file.read_at(info, ((from - first) * row_bytes) as u64, bytes.as_mut())?;
            each(info.dtype, from - start, &bytes)?;
        }
        Ok(())
    }

    fn row_bytes(&self, dtype: GgmlDType) -> usize {
        self.inputs / dtype.block_size() * dtype.type_size()
    }

    fn fill_q4(&self, column: usize, tiles: &mut [Q4Tile]) -> Result<(), LoadError> {
        self.rows(column, |dtype, first, bytes| {
            for (output, row) in bytes.as_ref().chunks_exact(self.row_bytes(dtype)).enumerate() {
                four_bit(dtype, row, |block, FourBit { scale, offset, q }| {
                    tiles[block].set(first + output, scale, offset, &q);
                });
            }
            Ok(())
        })
    }

    fn fill_q8(&self, column: usize, tiles: &mut [Q8Tile]) -> Result<(), LoadError> {
        self.rows(column, |dtype, first, bytes| {
            let rows = bytes.as_ref().chunks_exact(self.row_bytes(dtype));
            if is_eight_bit(dtype) {
                for (output, row) in rows.enumerate() {
                    eight_bit(dtype, row, |block, EightBit { scale, q }| tiles[block].set(first + output, scale, &q));
                }
                return Ok(());
            }
            let weights = dequantize(dtype, bytes.as_ref(), rows.len(), self.inputs)?;
            for (output, row) in weights.chunks_exact(self.inputs).enumerate() {
                for (weights, tile) in row.as_chunks::<BLOCK>().0.iter().zip(tiles.iter_mut()) {
                    tile.quantize(first + output, weights);
                }
            }
            Ok(())
        })
    }
}

/// The bytes that a tensor takes in memory once it is loaded; for a matrix that shares its tiles with others, at least.
pub(super) fn tile_bytes(info: &TensorInfo) -> u64 {
    let elements = info.elements() as u64;
    let tile = (BLOCK * COLUMNS) as u64;
    match info.dims.len() {
        1 => elements.saturating_mul(size_of::<f32>() as u64),
        _ if is_four_bit(info.dtype) => (elements / tile).saturating_mul(size_of::<Q4Tile>() as u64),
        _ => (elements / tile).saturating_mul(size_of::<Q8Tile>() as u64),
    }
}

/// Expands rows of any type that candle knows.
pub(super) fn dequantize(dtype: GgmlDType, bytes: &[u8], rows: usize, inputs: usize) -> candle_core::Result<Vec<f32>> {
    let storage = QStorage::from_data(Cow::Borrowed(bytes), &Device::Cpu, dtype)?;
    let weights: Tensor = QTensor::new(storage, (rows, inputs))?.dequantize(&Device::Cpu)?;
    weights.flatten_all()?.to_vec1()
}

/// Bytes that start on a multiple of 8, which candle asserts of quantized blocks.
pub(super) struct AlignedBytes {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBytes {
    pub(super) fn new(length: usize) -> Self {
        let bytes = vec![0; length + 8];
        let start = bytes.as_ptr().align_offset(8).min(8);
        Self { bytes, start, length }
    }

    pub(super) fn as_ref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.length]
    }

    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

impl From<GgufError> for LoadError {
    fn from(error: GgufError) -> Self {
        Self::Config(error.into())
    }
}
