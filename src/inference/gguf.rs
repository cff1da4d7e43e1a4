//! Reads GGUF files (versions 2 and 3) that strangers may have made.
//!
//! The header is parsed with a byte budget and every count is compared with the bytes that are left before anything is
//! allocated, so memory stays within a few times the header and no input can panic. candle's own reader is not used here:
//! version 0.11.1 divides by `general.alignment` unchecked, multiplies dimensions unchecked, and keeps 32 bytes for each
//! one-byte array element.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use candle_core::quantized::GgmlDType;

use super::cursor::Cursor;
use super::strings::Strings;

/// The largest header we accept; the biggest vocabularies in use (256k tokens with merges) need about 16 MiB.
const MAX_HEADER_BYTES: u64 = 32 << 20;
/// The longest key or tensor name.
const MAX_NAME_BYTES: u64 = 1024;
const MAX_TENSORS: u64 = 1 << 16;
const MAX_KEYS: u64 = 1 << 12;
const MAX_DIMS: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;

/// Why a file is not a GGUF file that we can read.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    #[error("cannot read the model file: {0}")]
    Io(#[from] std::io::Error),
    #[error("the file does not start with the letters GGUF, so it is not a GGUF model")]
    NotGguf,
    #[error("GGUF version {0} is not supported; convert the file to version 3")]
    Version(u32),
    #[error("the GGUF header is damaged: {0}")]
    Damaged(String),
    #[error("the GGUF header is larger than {} MiB, which no known model needs", MAX_HEADER_BYTES >> 20)]
    HeaderTooLarge,
    #[error("tensor \"{name}\" has the quantization type {type_id}, which this engine does not know")]
    TensorType { name: String, type_id: u32 },
    #[error("the GGUF file has no tensor \"{0}\"")]
    MissingTensor(String),
    #[error("the GGUF file has no metadata key \"{0}\"")]
    MissingKey(String),
    #[error("the metadata key \"{key}\" should be {expected}")]
    KeyType { key: String, expected: &'static str },
}

/// A metadata value; integers and floats are widened, arrays keep their element kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Int(i128),
    Float(f64),
    Bool(bool),
    String(String),
    Strings(Strings),
    Ints(Vec<i32>),
    Floats(Vec<f32>),
    /// An array that this engine has no use for (its elements are checked and dropped).
    Skipped,
}

/// Where a tensor lies in the file. `dims[0]` is the contiguous dimension (the number of inputs of a linear layer).
#[derive(Debug, Clone)]
pub struct TensorInfo {
    pub dtype: GgmlDType,
    pub dims: Vec<usize>,
    /// Bytes from the start of the file.
    pub offset: u64,
    pub bytes: u64,
}

impl TensorInfo {
    /// The number of elements; the parser has checked that it does not overflow.
    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }
}

/// The parsed header of a GGUF file, or what it would be for another file ([`safetensors`](super::safetensors)).
#[derive(Debug, Default)]
pub struct Header {
    pub metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, TensorInfo>,
    pub heads: HeadOrder,
}

/// In which order the elements of a head stand in the rows of queries and keys of the llama family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HeadOrder {
    /// What is rotated together stands together: converters to GGUF sort them so.
    #[default]
    Sorted,
    /// As they were published.
    Published,
}

/// An open file with a header, and the means to read tensor bytes.
#[derive(Debug)]
pub struct GgufFile {
    pub(super) file: File,
    pub header: Header,
    pub bytes: u64,
}

impl GgufFile {
    /// Opens the file and parses its header; tensor data is not read.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let header = Header::parse(BufReader::with_capacity(1 << 16, &file), bytes)?;
        Ok(Self { file, header, bytes })
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Result<&TensorInfo, GgufError> {
        self.header.tensors.get(name).ok_or_else(|| GgufError::MissingTensor(name.to_owned()))
    }

    /// Fills `buffer` with the tensor's bytes from `start` on. Reads instead of mapping, so that a file that shrinks
    /// under us is an error and not a signal, and so that its pages do not count as ours.
    pub fn read_at(&self, tensor: &TensorInfo, start: u64, buffer: &mut [u8]) -> Result<(), GgufError> {
        let within = start.checked_add(buffer.len() as u64).is_some_and(|end| end <= tensor.bytes);
        if !within {
            return Err(GgufError::Damaged("a read goes past the end of a tensor".into()));
        }
        Ok(self.file.read_exact_at(buffer, tensor.offset + start)?)
    }
}

impl Header {
    /// Parses a header from `reader`, the start of a file of `file_bytes` bytes.
    pub fn parse(reader: impl Read, file_bytes: u64) -> Result<Self, GgufError> {
        let mut cursor = Cursor { reader, position: 0, limit: file_bytes.min(MAX_HEADER_BYTES), file_bytes };
        if &cursor.bytes::<4>()? != b"GGUF" {
            return Err(GgufError::NotGguf);
        }
        let version = cursor.u32()?;
        if !(2..=3).contains(&version) {
            return Err(GgufError::Version(version));
        }
        let tensor_count = cursor.count("tensors", MAX_TENSORS, 24)?;
        let key_count = cursor.count("metadata keys", MAX_KEYS, 13)?;
        let metadata = parse_metadata(&mut cursor, key_count)?;
        let entries = parse_tensor_entries(&mut cursor, tensor_count)?;
        let alignment = alignment(&metadata)?;
        let data_start = cursor.position.div_ceil(alignment) * alignment;
        let mut tensors = BTreeMap::new();
        for entry in entries {
            let (name, info) = entry.place(data_start, alignment, file_bytes)?;
            if tensors.insert(name.clone(), info).is_some() {
                return Err(GgufError::Damaged(format!("tensor \"{name}\" appears twice")));
            }
        }
        Ok(Self { metadata, tensors, heads: HeadOrder::Sorted })
    }

    /// An unsigned integer.
    pub fn uint(&self, key: &str) -> Result<Option<u64>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Int(v)) => u64::try_from(*v).map(Some).map_err(|_| key_type(key, "a positive integer")),
            Some(_) => Err(key_type(key, "an integer")),
        }
    }

    /// A number, integers included.
    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(v)) => Ok(Some(*v)),
            Some(Value::Int(v)) => Ok(Some(*v as f64)),
            Some(_) => Err(key_type(key, "a number")),
        }
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(v)) => Ok(Some(*v)),
            Some(_) => Err(key_type(key, "true or false")),
        }
    }

    pub fn string(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::String(v)) => Ok(Some(v)),
            Some(_) => Err(key_type(key, "a string")),
        }
    }

    pub fn strings(&self, key: &str) -> Result<Option<&Strings>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Strings(v)) => Ok(Some(v)),
            Some(_) => Err(key_type(key, "a list of strings")),
        }
    }

    pub fn ints(&self, key: &str) -> Result<Option<&[i32]>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Ints(v)) => Ok(Some(v)),
            Some(_) => Err(key_type(key, "a list of integers")),
        }
    }

    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>, GgufError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Floats(v)) => Ok(Some(v)),
            Some(_) => Err(key_type(key, "a list of numbers")),
        }
    }
}

fn key_type(key: &str, expected: &'static str) -> GgufError {
    GgufError::KeyType { key: key.to_owned(), expected }
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, GgufError> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::Int(v)) => match u64::try_from(*v) {
            Ok(v) if v.is_power_of_two() && v <= 1 << 16 => Ok(v),
            _ => Err(GgufError::Damaged(format!("general.alignment is {v}, not a power of two"))),
        },
        Some(_) => Err(key_type("general.alignment", "an integer")),
    }
}

fn parse_metadata(cursor: &mut Cursor<impl Read>, count: u64) -> Result<BTreeMap<String, Value>, GgufError> {
    let mut metadata = BTreeMap::new();
    for _ in 0..count {
        let key = cursor.string(MAX_NAME_BYTES)?;
        let kind = cursor.u32()?;
        let value = parse_value(cursor, kind)?;
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn parse_value(cursor: &mut Cursor<impl Read>, kind: u32) -> Result<Value, GgufError> {
    Ok(match kind {
        8 => Value::String(cursor.string(MAX_HEADER_BYTES)?),
        9 => parse_array(cursor)?,
        kind => parse_scalar(cursor, kind)?,
    })
}

fn parse_scalar(cursor: &mut Cursor<impl Read>, kind: u32) -> Result<Value, GgufError> {
    Ok(match kind {
        0 => Value::Int(cursor.bytes::<1>()?[0].into()),
        1 => Value::Int(i8::from_le_bytes(cursor.bytes()?).into()),
        2 => Value::Int(u16::from_le_bytes(cursor.bytes()?).into()),
        3 => Value::Int(i16::from_le_bytes(cursor.bytes()?).into()),
        4 => Value::Int(cursor.u32()?.into()),
        5 => Value::Int(i32::from_le_bytes(cursor.bytes()?).into()),
        6 => Value::Float(f32::from_le_bytes(cursor.bytes()?).into()),
        7 => match cursor.bytes::<1>()?[0] {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            other => return Err(GgufError::Damaged(format!("a boolean is stored as {other}"))),
        },
        10 => Value::Int(u64::from_le_bytes(cursor.bytes()?).into()),
        11 => Value::Int(i64::from_le_bytes(cursor.bytes()?).into()),
        12 => Value::Float(f64::from_le_bytes(cursor.bytes()?)),
        other => return Err(GgufError::Damaged(format!("unknown metadata type {other}"))),
    })
}

/// The bytes that one array element takes at least.
fn element_bytes(kind: u32) -> Result<u64, GgufError> {
    Ok(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        other => return Err(GgufError::Damaged(format!("arrays of type {other} are not supported"))),
    })
}

fn parse_array(cursor: &mut Cursor<impl Read>) -> Result<Value, GgufError> {
    let kind = cursor.u32()?;
    // Checked against the bytes that are left, so room for all elements is never more than the file itself.
    let count = cursor.count("array elements", u64::MAX, element_bytes(kind)?)?;
    match kind {
        8 => {
            let mut strings = Strings::with_capacity(count as usize);
            for _ in 0..count {
                if !strings.push(&cursor.string(MAX_HEADER_BYTES)?) {
                    return Err(GgufError::HeaderTooLarge);
                }
            }
            Ok(Value::Strings(strings))
        }
        6 => {
            let mut floats = Vec::with_capacity(count as usize);
            for _ in 0..count {
                floats.push(f32::from_le_bytes(cursor.bytes()?));
            }
            Ok(Value::Floats(floats))
        }
        4 | 5 => {
            let mut ints = Vec::with_capacity(count as usize);
            for _ in 0..count {
                ints.push(i32::from_le_bytes(cursor.bytes()?));
            }
            Ok(Value::Ints(ints))
        }
        kind => {
            for _ in 0..count {
                parse_scalar(cursor, kind)?;
            }
            Ok(Value::Skipped)
        }
    }
}

/// The number of elements of such a shape; `None` where it makes no sense.
pub(super) fn elements(dims: &[u64]) -> Option<u64> {
    dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).filter(|n| *n > 0 && *n < 1 << 48)
}

struct TensorEntry {
    name: String,
    dims: Vec<u64>,
    type_id: u32,
    offset: u64,
}

fn parse_tensor_entries(cursor: &mut Cursor<impl Read>, count: u64) -> Result<Vec<TensorEntry>, GgufError> {
    let mut entries = Vec::new();
    for _ in 0..count {
        let name = cursor.string(MAX_NAME_BYTES)?;
        let n_dims = cursor.u32()?;
        if n_dims == 0 || n_dims > MAX_DIMS {
            return Err(GgufError::Damaged(format!("tensor \"{name}\" has {n_dims} dimensions")));
        }
        let mut dims = Vec::new();
        for _ in 0..n_dims {
            dims.push(cursor.u64()?);
        }
        entries.push(TensorEntry { name, dims, type_id: cursor.u32()?, offset: cursor.u64()? });
    }
    Ok(entries)
}

impl TensorEntry {
    fn place(self, data_start: u64, alignment: u64, file_bytes: u64) -> Result<(String, TensorInfo), GgufError> {
        let Self { name, dims, type_id, offset } = self;
        let dtype = dtype(type_id).ok_or_else(|| GgufError::TensorType { name: name.clone(), type_id })?;
        let damaged = |what: &str| GgufError::Damaged(format!("tensor \"{name}\" {what}"));
        let elements = elements(&dims).ok_or_else(|| damaged("has an impossible shape"))?;
        let (block, block_bytes) = (dtype.block_size() as u64, dtype.type_size() as u64);
        if !dims[0].is_multiple_of(block) {
            return Err(damaged("has rows that are not a whole number of blocks"));
        }
        let bytes = elements / block * block_bytes;
        if !offset.is_multiple_of(alignment) {
            return Err(damaged("is not aligned"));
        }
        let start = data_start.checked_add(offset).ok_or_else(|| damaged("lies outside of the file"))?;
        if start.checked_add(bytes).is_none_or(|end| end > file_bytes) {
            return Err(damaged("ends after the end of the file; the download is probably incomplete"));
        }
        let dims = dims.into_iter().map(|d| d as usize).collect();
        Ok((name, TensorInfo { dtype, dims, offset: start, bytes }))
    }
}

/// candle's type for a GGML type number; candle keeps its own mapping private.
fn dtype(type_id: u32) -> Option<GgmlDType> {
    Some(match type_id {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod writer;
