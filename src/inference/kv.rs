//! Keys and values of one sequence: blocks of 64 tokens over all layers, allocated as the sequence grows, within a byte
//! budget that all sequences share.
//!
//! A block that is full never changes again. It can be sealed and then belong to several sequences that begin with the
//! same tokens; its bytes are charged to the budget once, for as long as anybody holds it. A sequence that is computed on a
//! device has its keys and values there instead, and shares none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::ForwardError;
use super::accelerator::DeviceKv;
use super::config::ModelConfig;
use super::kernels::Blocks;

/// Tokens in a block.
pub const BLOCK_TOKENS: usize = 64;

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

/// `layers × (keys, values) × heads × 64 tokens × head_dim`.
type Floats = Box<[f32]>;

/// A full block that does not change any more. Clones share it.
#[derive(Clone)]
pub struct SealedBlock(Arc<Sealed>);

struct Sealed {
    floats: Floats,
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
    own: Vec<Floats>,
    /// In place of blocks, where a device computes.
    device: Option<DeviceKv>,
    shape: Shape,
    len: usize,
    capacity: usize,
    charge: Charge,
}

#[derive(Clone, Copy)]
struct Shape {
    layers: usize,
    heads: usize,
    head_dim: usize,
}

impl Shape {
    /// Floats of one head in one block.
    fn head(self) -> usize {
        BLOCK_TOKENS * self.head_dim
    }

    /// Floats of the keys, or of the values, of one layer in one block.
    fn layer(self) -> usize {
        self.heads * self.head()
    }

    fn block(self) -> usize {
        2 * self.layers * self.layer()
    }
}

impl KvCache {
    /// Bytes that a sequence of `tokens` tokens reserves.
    pub fn bytes_for(config: &ModelConfig, layers: usize, tokens: usize) -> u64 {
        tokens.next_multiple_of(BLOCK_TOKENS) as u64 * config.kv_bytes_per_token(layers)
    }

    /// An empty cache for up to `tokens` tokens, or `None` when the budget has no room for them now.
    pub fn reserve(config: &ModelConfig, layers: usize, tokens: usize, budget: &Arc<KvBudget>) -> Option<Self> {
        Self::reserve_after(Vec::new(), config, layers, tokens, budget)
    }

    /// A cache for up to `tokens` tokens that begins with the blocks of `prefix`, which are not charged again. `None` when
    /// the budget has no room for the rest now, or when the prefix alone is longer.
    pub fn reserve_after(
        prefix: Vec<SealedBlock>,
        config: &ModelConfig,
        layers: usize,
        tokens: usize,
        budget: &Arc<KvBudget>,
    ) -> Option<Self> {
        let len = prefix.len() * BLOCK_TOKENS;
        let rest = tokens.checked_sub(len)?;
        Some(Self {
            charge: budget.reserve(Self::bytes_for(config, layers, rest))?,
            sealed: prefix,
            own: Vec::new(),
            device: None,
            shape: Shape { layers, heads: config.n_kv_heads, head_dim: config.head_dim },
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
        let floats = self.own.remove(0);
        let charge = self.charge.split((floats.len() * size_of::<f32>()) as u64);
        let block = SealedBlock(Arc::new(Sealed { floats, charge }));
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
        let floats = self.shape.block();
        // Zeroed memory comes from the system untouched, so a block costs nothing until it is written.
        self.own.resize_with(blocks.max(self.own.len()), || vec![0.0; floats].into_boxed_slice());
    }

    /// Counts `more` tokens as stored, after all layers have written them.
    pub(super) fn advance(&mut self, more: usize) {
        self.len += more;
    }

    /// Writes one token's keys and values (`heads × head_dim` each).
    pub(super) fn write(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let Shape { head_dim, .. } = self.shape;
        let block = &mut self.own[position / BLOCK_TOKENS - self.sealed.len()];
        for (part, new) in [keys, values].into_iter().enumerate() {
            let first = (2 * layer + part) * self.shape.layer() + position % BLOCK_TOKENS * head_dim;
            for (head, new) in new.chunks_exact(head_dim).enumerate() {
                let start = first + head * self.shape.head();
                block[start..start + head_dim].copy_from_slice(new);
            }
        }
    }

    /// The keys and values on a device; made by `make`, from the number of layers and (heads, tokens, head size), the first time.
    pub(super) fn on_device(
        &mut self,
        make: impl FnOnce(usize, (usize, usize, usize)) -> candle_core::Result<DeviceKv>,
    ) -> Result<&DeviceKv, ForwardError> {
        if self.device.is_none() {
            let Shape { layers, heads, head_dim } = self.shape;
            let room = self.capacity.next_multiple_of(BLOCK_TOKENS);
            let failed = |source| ForwardError::DeviceMemory { bytes: self.charge.bytes, source };
            self.device = Some(make(layers, (heads, room, head_dim)).map_err(failed)?);
        }
        self.device.as_ref().ok_or(ForwardError::NotOnDevice)
    }

    /// One head's keys and values in one layer.
    pub(super) fn head(&self, layer: usize, head: usize) -> HeadKv<'_> {
        let keys = 2 * layer * self.shape.layer() + head * self.shape.head();
        HeadKv { cache: self, keys, values: keys + self.shape.layer(), floats: self.shape.head() }
    }

    fn block(&self, index: usize) -> &[f32] {
        match self.sealed.get(index) {
            Some(block) => &block.0.floats,
            None => &self.own[index - self.sealed.len()],
        }
    }
}

/// One head's part of the blocks in a layer: `64 × head_dim` each.
pub(super) struct HeadKv<'a> {
    cache: &'a KvCache,
    keys: usize,
    values: usize,
    floats: usize,
}

impl Blocks for HeadKv<'_> {
    fn keys(&self, block: usize) -> &[f32] {
        &self.cache.block(block)[self.keys..][..self.floats]
    }

    fn values(&self, block: usize) -> &[f32] {
        &self.cache.block(block)[self.values..][..self.floats]
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A sealed block of no floats that is charged with `bytes`.
    pub fn sealed(bytes: u64) -> SealedBlock {
        let charge = Charge { bytes, budget: Arc::new(KvBudget { total: bytes, used: AtomicU64::new(bytes) }) };
        SealedBlock(Arc::new(Sealed { floats: Vec::new().into_boxed_slice(), charge }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ModelConfig {
        ModelConfig {
            architecture: "llama".into(),
            n_layers: 2,
            n_embd: 32,
            n_ff: 64,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 8,
            rms_eps: 1e-5,
            rope_base: 1e4,
            rope_scale: 1.0,
            context_length: 512,
            vocab_size: 32,
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
        let budget = KvBudget::new(1 << 20);
        let mut cache = KvCache::reserve(&config(), 2, 100, &budget).unwrap();
        cache.grow(70);
        let keys: Vec<f32> = (0..16).map(|x| x as f32).collect();
        let values: Vec<f32> = keys.iter().map(|x| -x).collect();
        cache.write(1, 65, &keys, &values);
        assert_eq!(cache.head(1, 1).keys(1)[8..16], keys[8..]);
        assert_eq!(cache.head(1, 0).values(1)[8..16], values[..8]);
        assert!(cache.head(0, 0).keys(1).iter().all(|x| *x == 0.0));
        cache.advance(70);
        assert_eq!((cache.len(), cache.room()), (70, 30));
    }

    #[test]
    fn the_budget_is_held_and_given_back() {
        let config = config();
        let one = KvCache::bytes_for(&config, 2, 64);
        assert_eq!(one, 64 * 2 * 2 * 16 * 4);
        let budget = KvBudget::new(2 * one);
        let first = KvCache::reserve(&config, 2, 1, &budget).unwrap();
        let second = KvCache::reserve(&config, 2, 64, &budget).unwrap();
        assert!(KvCache::reserve(&config, 2, 1, &budget).is_none());
        drop(first);
        assert_eq!(budget.used(), one);
        assert!(KvCache::reserve(&config, 2, 65, &budget).is_none());
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_sealed_block_is_shared_unchanged_and_charged_once() {
        let config = config();
        let one = KvCache::bytes_for(&config, 2, 64);
        let budget = KvBudget::new(4 * one);
        let mut first = KvCache::reserve(&config, 2, 192, &budget).unwrap();
        fill(&mut first, 63, 0.0);
        assert!(first.seal().is_none(), "the block is not full");
        fill(&mut first, 10, 0.0);
        let block = first.seal().unwrap();
        assert!(first.seal().is_none());
        assert_eq!((block.bytes(), budget.used(), first.sealed_blocks()), (one, 3 * one, 1));

        let mut second = KvCache::reserve_after(vec![block.clone()], &config, 2, 100, &budget).unwrap();
        assert_eq!((second.len(), second.room(), budget.used()), (64, 36, 4 * one));
        fill(&mut second, 9, 0.5);
        fill(&mut first, 100, 0.0);
        assert_eq!(second.head(1, 1).keys(0), first.head(1, 1).keys(0));
        assert_eq!((first.head(1, 1).keys(1)[0], second.head(1, 1).keys(1)[0]), (64.0, 64.5));
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
