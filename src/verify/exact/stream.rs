//! A stream of uniform numbers from the BLAKE3 extendable output: the same on every machine, forever.

use super::merkle::Hash;

/// Bytes fetched at once.
const BUFFER: usize = 1024;

pub struct Stream {
    output: blake3::OutputReader,
    buffer: [u8; BUFFER],
    used: usize,
}

impl Stream {
    /// `context` separates uses (a constant sentence with a version); `parts` are all of one length.
    pub fn new(context: &str, parts: &[&Hash]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        for part in parts {
            hasher.update(*part);
        }
        Stream { output: hasher.finalize_xof(), buffer: [0; BUFFER], used: BUFFER }
    }

    pub fn byte(&mut self) -> u8 {
        if self.used == BUFFER {
            self.output.fill(&mut self.buffer);
            self.used = 0;
        }
        self.used += 1;
        self.buffer.get(self.used - 1).copied().unwrap_or_default()
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// Uniform below `bound` (rejection sampling); 0 for a bound of 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let Some(largest) = (u64::MAX).checked_rem(bound) else { return 0 };
        // Numbers of the last, incomplete run of `bound` would make small results likelier.
        let limit = u64::MAX - (largest + 1) % bound;
        loop {
            let drawn = self.u64();
            if drawn <= limit {
                return drawn % bound;
            }
        }
    }
}
