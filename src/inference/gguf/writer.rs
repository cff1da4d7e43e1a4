//! Writes the parts of a GGUF file, for tests.

/// What was written.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.u64(text.len() as u64);
        self.0.extend(text.as_bytes());
        self
    }

    pub(crate) fn size(&mut self, key: &str, value: u32) {
        self.text(key).u32(4).u32(value);
    }

    pub(crate) fn float(&mut self, key: &str, value: f32) {
        self.text(key).u32(6).u32(value.to_bits());
    }

    pub(crate) fn name(&mut self, key: &str, value: &str) {
        self.text(key).u32(8).text(value);
    }

    pub(crate) fn list(&mut self, key: &str, kind: u32, count: usize) -> &mut Self {
        self.text(key).u32(9).u32(kind).u64(count as u64)
    }

    /// The entry of a tensor; `offset` counts from the end of the header.
    pub(crate) fn tensor(&mut self, name: &str, kind: u32, dims: &[usize], offset: usize) {
        self.text(name).u32(dims.len() as u32);
        for dim in dims {
            self.u64(*dim as u64);
        }
        self.u32(kind).u64(offset as u64);
    }

    /// Ends the header, whose tensors begin at the next multiple of 32.
    pub(crate) fn align(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(32), 0);
    }
}
