//! Blocks of keys and values that are kept for the next request that begins with the same tokens.
//!
//! A block is found by the hash of everything before its end, chained block by block from the tenant, so one tenant's
//! requests never meet another's blocks, and how long a request takes tells nothing about what others have asked. The
//! arithmetic is exact, so a block is the same to the bit whoever computed it.

use std::collections::{BTreeSet, HashMap};

use crate::Tenant;
use crate::kv::{BLOCK_TOKENS, SealedBlock};

/// Names a block and everything before it.
pub(super) type Key = [u8; 32];

const CONTEXT: &str = "xdc-grid 2026-11 engine prefix block v1";

/// The keys of a sequence's blocks, as far as its tokens are known.
pub(super) struct Chain {
    keys: Vec<Key>,
    /// What the next key is made from.
    last: Key,
}

impl Chain {
    pub fn new(tenant: Tenant) -> Self {
        Self { keys: Vec::new(), last: *tenant.as_bytes() }
    }

    /// Extends the chain by the full blocks of `tokens`, which begin with the tokens that it was extended by before.
    pub fn extend(&mut self, tokens: &[u32]) {
        for block in tokens.chunks_exact(BLOCK_TOKENS).skip(self.keys.len()) {
            let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
            hasher.update(&self.last);
            block.iter().for_each(|token| {
                hasher.update(&token.to_le_bytes());
            });
            self.last = *hasher.finalize().as_bytes();
            self.keys.push(self.last);
        }
    }

    pub fn keys(&self) -> &[Key] {
        &self.keys
    }
}

/// The kept blocks. Those that no sequence uses are given up, the longest unused first, when their room is needed.
#[derive(Default)]
pub(super) struct PrefixCache {
    blocks: HashMap<Key, Entry>,
    /// Last use, then depth from the deepest on, so that no block is given up before the ones that follow it.
    order: BTreeSet<(u64, std::cmp::Reverse<usize>, Key)>,
    clock: u64,
}

struct Entry {
    block: SealedBlock,
    used: u64,
    depth: usize,
}

impl PrefixCache {
    /// The blocks that are kept of a beginning, at most `most`.
    pub fn find(&mut self, keys: &[Key], most: usize) -> Vec<SealedBlock> {
        let found: Vec<SealedBlock> =
            keys.iter().take(most).map_while(|key| self.blocks.get(key)).map(|entry| entry.block.clone()).collect();
        self.touch(keys.get(..found.len()).unwrap_or_default());
        found
    }

    /// Whether a block is kept.
    pub fn contains(&self, key: &Key) -> bool {
        self.blocks.contains_key(key)
    }

    /// Keeps the block at `depth` of a chain.
    pub fn keep(&mut self, key: Key, depth: usize, block: SealedBlock) {
        if self.contains(&key) {
            return;
        }
        self.order.insert((self.clock, std::cmp::Reverse(depth), key));
        self.blocks.insert(key, Entry { block, used: self.clock, depth });
    }

    /// Notes that the blocks of a chain were used just now.
    pub fn touch(&mut self, keys: &[Key]) {
        self.clock += 1;
        for key in keys {
            let Some(entry) = self.blocks.get_mut(key) else { continue };
            self.order.remove(&(entry.used, std::cmp::Reverse(entry.depth), *key));
            entry.used = self.clock;
            self.order.insert((entry.used, std::cmp::Reverse(entry.depth), *key));
        }
    }

    /// Gives up the unused block that was used longest ago. Returns whether there was one.
    pub fn evict(&mut self) -> bool {
        let unused = |key: &Key| self.blocks.get(key).is_some_and(|entry| entry.block.is_unshared());
        let Some(oldest) = self.order.iter().find(|(_, _, key)| unused(key)).copied() else { return false };
        self.order.remove(&oldest);
        self.blocks.remove(&oldest.2);
        true
    }

    /// Bytes of the blocks that no sequence uses.
    pub fn unused_bytes(&self) -> u64 {
        self.blocks.values().map(|entry| &entry.block).filter(|block| block.is_unshared()).map(SealedBlock::bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::testing::sealed;

    fn keys(tenant: &str, tokens: &[u32]) -> Vec<Key> {
        let mut chain = Chain::new(Tenant::of(tenant.as_bytes()));
        chain.extend(tokens);
        chain.keys().to_vec()
    }

    #[test]
    fn a_key_stands_for_all_tokens_before_it_and_for_the_tenant() {
        let tokens: Vec<u32> = (0..200).collect();
        let whole = keys("a", &tokens);
        assert_eq!(whole.len(), 3);
        assert_eq!(keys("a", &tokens[..130]), whole[..2]);
        assert!(keys("b", &tokens).iter().all(|key| !whole.contains(key)));
        let mut other = tokens.clone();
        other[5] = 6;
        assert!(keys("a", &other).iter().all(|key| !whole.contains(key)));
        let mut grown = Chain::new(Tenant::of(b"a"));
        (0..=tokens.len()).for_each(|end| grown.extend(&tokens[..end]));
        assert_eq!(grown.keys(), whole);
    }

    #[test]
    fn the_longest_known_beginning_is_found() {
        let whole = keys("a", &(0..256).collect::<Vec<_>>());
        let mut cache = PrefixCache::default();
        for depth in [0, 1, 3] {
            cache.keep(whole[depth], depth, sealed(1));
        }
        assert_eq!(cache.find(&whole, 9).len(), 2, "after a gap nothing can be used");
        assert_eq!(cache.find(&whole, 1).len(), 1);
        assert_eq!(cache.find(&whole[1..], 9).len(), 1);
        assert_eq!(cache.find(&[], 9).len(), 0);
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_nothing_goes_that_is_in_use() {
        let (old, new) = (keys("a", &[1; 192]), keys("a", &[2; 192]));
        let mut cache = PrefixCache::default();
        for chain in [&old, &new] {
            for (depth, key) in chain.iter().enumerate() {
                cache.keep(*key, depth, sealed(10));
            }
            cache.touch(chain);
        }
        assert_eq!(cache.unused_bytes(), 60);
        let used = cache.find(&old, 1);
        cache.touch(&new);
        assert_eq!(cache.unused_bytes(), 50);
        let mut left = || -> (usize, usize) {
            assert!(cache.evict());
            let count = |chain: &[Key]| chain.iter().filter(|key| cache.contains(key)).count();
            (count(&old), count(&new))
        };
        assert_eq!([left(), left()], [(2, 3), (1, 3)], "the deepest first, the used one not at all");
        assert_eq!(left(), (1, 2));
        drop(used);
        assert_eq!([left(), left(), left()], [(0, 2), (0, 1), (0, 0)]);
        assert!(!cache.evict());
    }
}
