//! Numbers that look random and are the same on every machine, for tests.

/// Knuth's linear congruential generator, of which the upper bits are taken.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }

    pub(crate) fn byte(&mut self) -> u8 {
        (self.bits() >> 24) as u8
    }

    /// From -`size` to `size`.
    pub(crate) fn float(&mut self, size: f32) -> f32 {
        ((self.bits() >> 8) as f32 / (1 << 23) as f32 - 1.0) * size
    }

    pub(crate) fn floats(&mut self, count: usize, size: f32) -> Vec<f32> {
        (0..count).map(|_| self.float(size)).collect()
    }
}
