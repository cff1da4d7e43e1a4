//! Keys and values of one sequence: blocks of 64 tokens over all layers, allocated as the sequence grows, within a byte
//! budget that all sequences share. They are stored as they were computed, or rounded to half precision ([`KvType`]), and
//! never rounded again: whatever reads a block reads the same numbers.
//!
//! A block that is full never changes again. It can be sealed and then belong to several sequences that begin with the
//! same tokens; its bytes are charged to the budget once, for as long as anybody holds it. A sequence that is computed on a
//! device has its keys and values there instead, and shares none.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::ForwardError;
use super::accelerator::DeviceKv;
use super::config::ModelConfig;
use super::kernels::{Blocks, Stored, f32_to_finite_f16};

/// Tokens in a block.
pub const BLOCK_TOKENS: usize = 64;

/// How keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvType {
    /// In single precision, as they were computed.
    #[default]
    F32,
    /// Rounded to the nearest half precision number, ties to even; what is beyond the largest finite one, 65504, becomes
    /// that. Half the memory, and other results: the kernel profile names it.
    F16,
}

impl KvType {
    pub const ALL: [Self; 2] = [Self::F32, Self::F16];

    /// Bytes of a number.
    fn size(self) -> usize {
        match self {
            Self::F32 => size_of::<f32>(),
            Self::F16 => size_of::<u16>(),
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for KvType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|kind| kind.to_string() == text);
        named.ok_or_else(|| format!("{text:?} is not one of f32, f16"))
    }
}

/// Bytes of key-value memory, reserved when a sequence is admitted so that it can never run out half-way.
#[derive(Debug)]
pub struct KvBudget {
    total: u64,
    used: AtomicU64,
}

impl KvBudget {
    pub fn new(total: u64) -> Arc<Self> {
        Arc::new(Self { total, used: AtomicU64::new(0) })
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes reserved now.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Charge> {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.total);
        self.used.fetch_update(Relaxed, Relaxed, fits).ok()?;
        Some(Charge { bytes, budget: self.clone() })
    }
}

/// Bytes taken from the budget; given back when dropped.
struct Charge {
    bytes: u64,
    budget: Arc<KvBudget>,
}

impl Charge {
    /// Moves at most `bytes` of it to a charge of their own.
    fn split(&mut self, bytes: u64) -> Charge {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Charge { bytes, budget: self.budget.clone() }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}

/// What the keys and values of a model's sequences look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvShape {
    pub layers: usize,
    /// Heads of keys, and again of values, in a layer.
    pub heads: usize,
    pub head_dim: usize,
    pub kv_type: KvType,
}

impl KvShape {
    /// Of the first `layers` layers of a model.
    pub fn of(config: &ModelConfig, layers: usize, kv_type: KvType) -> Self {
        Self { layers, heads: config.n_kv_heads, head_dim: config.head_dim, kv_type }
    }

    /// Bytes that a sequence of `tokens` tokens reserves: those of whole blocks.
    pub fn bytes(self, tokens: usize) -> u64 {
        tokens.div_ceil(BLOCK_TOKENS) as u64 * (self.block() * self.kv_type.size()) as u64
    }

    /// Numbers of one head in one block.
    fn head(self) -> usize {
        BLOCK_TOKENS * self.head_dim
    }

    /// Numbers of the keys, or of the values, of one layer in one block.
    fn layer(self) -> usize {
        self.heads * self.head()
    }

    fn block(self) -> usize {
        2 * self.layers * self.layer()
    }
}

/// `layers × (keys, values) × heads × 64 tokens × head_dim`.
enum Block {
    F32(Box<[f32]>),
    F16(Box<[u16]>),
}

impl Block {
    /// Zeroed memory comes from the system untouched, so a block costs nothing until it is written.
    fn new(shape: KvShape) -> Self {
        match shape.kv_type {
            KvType::F32 => Self::F32(vec![0.0; shape.block()].into_boxed_slice()),
            KvType::F16 => Self::F16(vec![0; shape.block()].into_boxed_slice()),
        }
    }

    fn bytes(&self) -> u64 {
        let bytes = match self {
            Self::F32(floats) => size_of_val::<[f32]>(floats),
            Self::F16(halves) => size_of_val::<[u16]>(halves),
        };
        bytes as u64
    }

    fn write(&mut self, start: usize, new: &[f32]) {
        match self {
            Self::F32(floats) => floats[start..start + new.len()].copy_from_slice(new),
            Self::F16(halves) => {
                let halves = &mut halves[start..start + new.len()];
                halves.iter_mut().zip(new).for_each(|(half, new)| *half = f32_to_finite_f16(*new));
            }
        }
    }

    fn stored(&self) -> Stored<'_> {
        match self {
            Self::F32(floats) => Stored::F32(floats),
            Self::F16(halves) => Stored::F16(halves),
        }
    }
}

/// A full block that does not change any more. Clones share it.
#[derive(Clone)]
pub struct SealedBlock(Arc<Sealed>);

struct Sealed {
    block: Block,
    charge: Charge,
}

impl SealedBlock {
    /// Whether this is its only holder, so that dropping it frees its memory.
    pub fn is_unshared(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Its share of the budget.
    pub fn bytes(&self) -> u64 {
        self.0.charge.bytes
    }
}

/// The keys and values of one sequence over all layers.
pub struct KvCache {
    /// The first blocks, which others may share.
    sealed: Vec<SealedBlock>,
    /// The blocks after them.
    own: Vec<Block>,
    /// In place of blocks, where a device computes.
    device: Option<DeviceKv>,
    shape: KvShape,
    len: usize,
    capacity: usize,
    charge: Charge,
}

impl KvCache {
    /// An empty cache for up to `tokens` tokens, or `None` when the budget has no room for them now.
    pub fn reserve(shape: KvShape, tokens: usize, budget: &Arc<KvBudget>) -> Option<Self> {
        Self::reserve_after(Vec::new(), shape, tokens, budget)
    }

    /// A cache for up to `tokens` tokens that begins with the blocks of `prefix`, which have the same shape and are not
    /// charged again. `None` when the budget has no room for the rest now, or when the prefix alone is longer.
    pub fn reserve_after(
        prefix: Vec<SealedBlock>,
        shape: KvShape,
        tokens: usize,
        budget: &Arc<KvBudget>,
    ) -> Option<Self> {
        let len = prefix.len() * BLOCK_TOKENS;
        let rest = tokens.checked_sub(len)?;
        Some(Self {
            charge: budget.reserve(shape.bytes(rest))?,
            sealed: prefix,
            own: Vec::new(),
            device: None,
            shape,
            len,
            capacity: tokens,
        })
    }

    /// Tokens whose keys and values are stored.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that still fit.
    pub fn room(&self) -> usize {
        self.capacity - self.len
    }

    /// Blocks that are sealed.
    pub fn sealed_blocks(&self) -> usize {
        self.sealed.len()
    }

    /// Seals the first block that is full and not sealed yet, and hands out a share of it.
    pub fn seal(&mut self) -> Option<SealedBlock> {
        if self.own.is_empty() || self.len < (self.sealed.len() + 1) * BLOCK_TOKENS {
            return None;
        }
        let block = self.own.remove(0);
        let charge = self.charge.split(block.bytes());
        let block = SealedBlock(Arc::new(Sealed { block, charge }));
        self.sealed.push(block.clone());
        Some(block)
    }

    /// Forgets all tokens from `len` on, but none of a sealed block; blocks are kept for the next tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len.max(self.sealed.len() * BLOCK_TOKENS));
    }

    /// Allocates blocks for `more` tokens. The caller has checked that there is room.
    pub(super) fn grow(&mut self, more: usize) {
        let blocks = (self.len + more).div_ceil(BLOCK_TOKENS).saturating_sub(self.sealed.len());
        let shape = self.shape;
        self.own.resize_with(blocks.max(self.own.len()), || Block::new(shape));
    }

    /// Counts `more` tokens as stored, after all layers have written them.
    pub(super) fn advance(&mut self, more: usize) {
        self.len += more;
    }

    /// Writes one token's keys and values (`heads × head_dim` each).
    pub(super) fn write(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let KvShape { head_dim, .. } = self.shape;
        let block = &mut self.own[position / BLOCK_TOKENS - self.sealed.len()];
        for (part, new) in [keys, values].into_iter().enumerate() {
            let first = (2 * layer + part) * self.shape.layer() + position % BLOCK_TOKENS * head_dim;
            for (head, new) in new.chunks_exact(head_dim).enumerate() {
                block.write(first + head * self.shape.head(), new);
            }
        }
    }

    /// The keys and values on a device; made by `make`, for so many tokens, the first time.
    pub(super) fn on_device(
        &mut self,
        make: impl FnOnce(KvShape, usize) -> candle_core::Result<DeviceKv>,
    ) -> Result<&DeviceKv, ForwardError> {
        if self.device.is_none() {
            let room = self.capacity.next_multiple_of(BLOCK_TOKENS);
            let failed = |source| ForwardError::DeviceMemory { bytes: self.charge.bytes, source };
            self.device = Some(make(self.shape, room).map_err(failed)?);
        }
        self.device.as_ref().ok_or(ForwardError::NotOnDevice)
    }

    /// One head's keys and values in one layer.
    pub(super) fn head(&self, layer: usize, head: usize) -> HeadKv<'_> {
        let keys = 2 * layer * self.shape.layer() + head * self.shape.head();
        HeadKv { cache: self, keys, values: keys + self.shape.layer(), count: self.shape.head() }
    }

    fn block(&self, index: usize) -> Stored<'_> {
        match self.sealed.get(index) {
            Some(block) => block.0.block.stored(),
            None => self.own[index - self.sealed.len()].stored(),
        }
    }
}

/// One head's part of the blocks in a layer: `64 × head_dim` each.
pub(super) struct HeadKv<'a> {
    cache: &'a KvCache,
    keys: usize,
    values: usize,
    count: usize,
}

impl Blocks for HeadKv<'_> {
    fn keys(&self, block: usize) -> Stored<'_> {
        self.cache.block(block).slice(self.keys..self.keys + self.count)
    }

    fn values(&self, block: usize) -> Stored<'_> {
        self.cache.block(block).slice(self.values..self.values + self.count)
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A sealed block of no numbers that is charged with `bytes`.
    pub fn sealed(bytes: u64) -> SealedBlock {
        let charge = Charge { bytes, budget: Arc::new(KvBudget { total: bytes, used: AtomicU64::new(bytes) }) };
        SealedBlock(Arc::new(Sealed { block: Block::F32(Box::default()), charge }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::f16_to_f32;

    fn shape(kv_type: KvType) -> KvShape {
        KvShape { layers: 2, heads: 2, head_dim: 8, kv_type }
    }

    fn floats(stored: Stored) -> Vec<f32> {
        match stored {
            Stored::F32(floats) => floats.to_vec(),
            Stored::F16(halves) => halves.iter().map(|half| f16_to_f32(*half)).collect(),
        }
    }

    /// Stores `count` tokens whose keys and values are their position plus `seed`.
    fn fill(cache: &mut KvCache, count: usize, seed: f32) {
        let start = cache.len();
        cache.grow(count);
        for position in start..start + count {
            let keys = vec![position as f32 + seed; 16];
            for layer in 0..2 {
                cache.write(layer, position, &keys, &keys);
            }
        }
        cache.advance(count);
    }

    #[test]
    fn what_was_written_is_read_back_per_head() {
        for kv_type in KvType::ALL {
            let budget = KvBudget::new(1 << 20);
            let mut cache = KvCache::reserve(shape(kv_type), 100, &budget).unwrap();
            cache.grow(70);
            let keys: Vec<f32> = (0..16).map(|x| x as f32).collect();
            let values: Vec<f32> = keys.iter().map(|x| -x).collect();
            cache.write(1, 65, &keys, &values);
            assert_eq!(floats(cache.head(1, 1).keys(1))[8..16], keys[8..]);
            assert_eq!(floats(cache.head(1, 0).values(1))[8..16], values[..8]);
            assert!(floats(cache.head(0, 0).keys(1)).iter().all(|x| *x == 0.0));
            cache.advance(70);
            assert_eq!((cache.len(), cache.room()), (70, 30));
        }
    }

    #[test]
    fn half_precision_keeps_the_nearest_number_and_never_an_infinity() {
        let budget = KvBudget::new(1 << 20);
        let mut cache = KvCache::reserve(shape(KvType::F16), 1, &budget).unwrap();
        cache.grow(1);
        let keys: [f32; 8] =
            [0.1, 1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 65_519.0, 65_520.0, -1e30, 1e-9, f32::INFINITY];
        let kept = [0.099_975_586, 1.0, 1.0 + 2.0 / 1024.0, 65_504.0, 65_504.0, -65_504.0, 0.0, 65_504.0];
        cache.write(0, 0, &[keys, keys].concat(), &[0.0; 16]);
        assert_eq!(floats(cache.head(0, 1).keys(0))[..8], kept);
    }

    #[test]
    fn the_budget_is_held_and_given_back() {
        for (kv_type, size) in [(KvType::F32, 4), (KvType::F16, 2)] {
            let shape = shape(kv_type);
            let one = shape.bytes(64);
            assert_eq!(one, 64 * 2 * 2 * 16 * size);
            let budget = KvBudget::new(2 * one);
            let first = KvCache::reserve(shape, 1, &budget).unwrap();
            let second = KvCache::reserve(shape, 64, &budget).unwrap();
            assert!(KvCache::reserve(shape, 1, &budget).is_none());
            drop(first);
            assert_eq!(budget.used(), one);
            assert!(KvCache::reserve(shape, 65, &budget).is_none());
            drop(second);
            assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn half_precision_fits_twice_the_positions() {
        let budget = KvBudget::new(shape(KvType::F32).bytes(640));
        for (kv_type, most) in [(KvType::F32, 640), (KvType::F16, 1280)] {
            assert!(KvCache::reserve(shape(kv_type), most + 1, &budget).is_none());
            let cache = KvCache::reserve(shape(kv_type), most, &budget).unwrap();
            assert_eq!((cache.room(), budget.used()), (most, budget.total()));
        }
    }

    #[test]
    fn types_are_named_as_people_write_them() {
        for kv_type in KvType::ALL {
            assert_eq!(kv_type.to_string().parse(), Ok(kv_type));
        }
        assert_eq!(KvType::default().to_string(), "f32");
        for bad in ["", "F16", "bf16", "q8_0"] {
            assert!(bad.parse::<KvType>().unwrap_err().contains("f32, f16"), "{bad}");
        }
    }

    #[test]
    fn a_sealed_block_is_shared_unchanged_and_charged_once() {
        for kv_type in KvType::ALL {
            let shape = shape(kv_type);
            let one = shape.bytes(64);
            let budget = KvBudget::new(4 * one);
            let mut first = KvCache::reserve(shape, 192, &budget).unwrap();
            fill(&mut first, 63, 0.0);
            assert!(first.seal().is_none(), "the block is not full");
            fill(&mut first, 10, 0.0);
            let block = first.seal().unwrap();
            assert!(first.seal().is_none());
            assert_eq!((block.bytes(), budget.used(), first.sealed_blocks()), (one, 3 * one, 1));

            let mut second = KvCache::reserve_after(vec![block.clone()], shape, 100, &budget).unwrap();
            assert_eq!((second.len(), second.room(), budget.used()), (64, 36, 4 * one));
            fill(&mut second, 9, 0.5);
            fill(&mut first, 100, 0.0);
            assert_eq!(second.head(1, 1).keys(0), first.head(1, 1).keys(0));
            let at_64 = |cache: &KvCache| floats(cache.head(1, 1).keys(1))[0];
            assert_eq!((at_64(&first), at_64(&second)), (64.0, 64.5));
            second.truncate(3);
            assert_eq!(second.len(), 64, "a sealed block stays");

            drop(first);
            assert_eq!(budget.used(), 2 * one);
            drop(second);
            assert!(block.is_unshared());
            assert_eq!(budget.used(), one);
            drop(block);
            assert_eq!(budget.used(), 0);
        }
    }
}
