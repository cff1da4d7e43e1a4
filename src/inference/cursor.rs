//! Reading from a file that may lie about its own size.

use std::io::Read;

use super::gguf::GgufError;

/// A reader that knows how many bytes it may still take.
pub(super) struct Cursor<R> {
    pub(super) reader: R,
    pub(super) position: u64,
    pub(super) limit: u64,
    pub(super) file_bytes: u64,
}

impl<R: Read> Cursor<R> {
    pub(super) fn reserve(&self, bytes: u64) -> Result<(), GgufError> {
        if bytes <= self.limit - self.position {
            Ok(())
        } else if self.limit < self.file_bytes {
            Err(GgufError::HeaderTooLarge)
        } else {
            Err(GgufError::Damaged("the file ends in the middle of the header".into()))
        }
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        self.reserve(N as u64)?;
        let mut buffer = [0; N];
        self.reader.read_exact(&mut buffer)?;
        self.position += N as u64;
        Ok(buffer)
    }

    pub(super) fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    /// A count of things that take at least `each` bytes, checked against the bytes that are left.
    pub(super) fn count(&mut self, what: &str, most: u64, each: u64) -> Result<u64, GgufError> {
        let count = self.u64()?;
        if count > most {
            return Err(GgufError::Damaged(format!("it claims {count} {what}")));
        }
        self.reserve(count.saturating_mul(each))?;
        Ok(count)
    }

    pub(super) fn string(&mut self, most: u64) -> Result<String, GgufError> {
        let length = self.count("bytes in a string", most, 1)?;
        let mut buffer = vec![0; length as usize];
        self.reader.read_exact(&mut buffer)?;
        self.position += length;
        String::from_utf8(buffer).map_err(|_| GgufError::Damaged("a string is not UTF-8".into()))
    }
}
