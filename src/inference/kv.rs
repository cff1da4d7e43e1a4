//! Keys and values of one sequence: blocks of 64 tokens a layer, allocated as the sequence grows, within a byte budget that
//! all sequences share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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

    fn reserve(&self, bytes: u64) -> bool {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.total);
        self.used.fetch_update(Relaxed, Relaxed, fits).is_ok()
    }
}

/// The keys and values of one sequence over all layers.
pub struct KvCache {
    layers: Vec<LayerKv>,
    /// Floats of one head in one block.
    head_floats: usize,
    heads: usize,
    head_dim: usize,
    len: usize,
    capacity: usize,
    reserved: u64,
    budget: Arc<KvBudget>,
}

/// Blocks of `heads × 64 tokens × head_dim`.
#[derive(Default)]
struct LayerKv {
    keys: Vec<Box<[f32]>>,
    values: Vec<Box<[f32]>>,
}

impl KvCache {
    /// Bytes that a sequence of `tokens` tokens reserves.
    pub fn bytes_for(config: &ModelConfig, layers: usize, tokens: usize) -> u64 {
        tokens.next_multiple_of(BLOCK_TOKENS) as u64 * config.kv_bytes_per_token(layers)
    }

    /// An empty cache for up to `tokens` tokens, or `None` when the budget has no room for them now.
    pub fn reserve(config: &ModelConfig, layers: usize, tokens: usize, budget: &Arc<KvBudget>) -> Option<Self> {
        let reserved = Self::bytes_for(config, layers, tokens);
        budget.reserve(reserved).then(|| Self {
            layers: (0..layers).map(|_| LayerKv::default()).collect(),
            head_floats: BLOCK_TOKENS * config.head_dim,
            heads: config.n_kv_heads,
            head_dim: config.head_dim,
            len: 0,
            capacity: tokens,
            reserved,
            budget: budget.clone(),
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

    /// Forgets all tokens from `len` on; the blocks are kept for the next ones.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Allocates blocks for `more` tokens in every layer. The caller has checked that there is room.
    pub(super) fn grow(&mut self, more: usize) {
        let blocks = (self.len + more).div_ceil(BLOCK_TOKENS);
        let floats = self.heads * self.head_floats;
        for layer in &mut self.layers {
            layer.keys.resize_with(blocks.max(layer.keys.len()), || vec![0.0; floats].into_boxed_slice());
            layer.values.resize_with(blocks.max(layer.values.len()), || vec![0.0; floats].into_boxed_slice());
        }
    }

    /// Counts `more` tokens as stored, after all layers have written them.
    pub(super) fn advance(&mut self, more: usize) {
        self.len += more;
    }

    /// Writes one token's keys and values (`heads × head_dim` each).
    pub(super) fn write(&mut self, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let at = position % BLOCK_TOKENS * self.head_dim;
        let layer = &mut self.layers[layer];
        for (block, new) in [(&mut layer.keys, keys), (&mut layer.values, values)] {
            let block = &mut block[position / BLOCK_TOKENS];
            for (head, new) in new.chunks_exact(self.head_dim).enumerate() {
                let start = head * self.head_floats + at;
                block[start..start + self.head_dim].copy_from_slice(new);
            }
        }
    }

    /// One head's keys and values in one layer.
    pub(super) fn head(&self, layer: usize, head: usize) -> HeadKv<'_> {
        HeadKv { layer: &self.layers[layer], start: head * self.head_floats, floats: self.head_floats }
    }
}

/// One head's part of the blocks of a layer: `64 × head_dim` each.
pub(super) struct HeadKv<'a> {
    layer: &'a LayerKv,
    start: usize,
    floats: usize,
}

impl Blocks for HeadKv<'_> {
    fn keys(&self, block: usize) -> &[f32] {
        &self.layer.keys[block][self.start..][..self.floats]
    }

    fn values(&self, block: usize) -> &[f32] {
        &self.layer.values[block][self.start..][..self.floats]
    }
}

impl Drop for KvCache {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.reserved, Relaxed);
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
}
