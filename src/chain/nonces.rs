//! Who uses which nonce of one account. One pool per key and process; rebuilt from the records after a restart.

use std::{collections::BTreeMap, sync::Mutex};

use super::{error::ChainError, outbox::OutboxRecord};
use crate::api::ids::NodeAddress;

/// XDC's pool refuses a nonce more than 10 ahead; two stay free for a person with the same key.
pub const MAX_IN_FLIGHT: u64 = 8;

/// The nonces of unfinished transactions of one account, by the key of their intent.
#[derive(Debug)]
pub struct NoncePool {
    account: NodeAddress,
    reserved: Mutex<BTreeMap<String, u64>>,
}

impl NoncePool {
    pub fn new(account: NodeAddress) -> Self {
        NoncePool { account, reserved: Mutex::new(BTreeMap::new()) }
    }

    /// Takes up the nonces of all records that are signed and not finished. Call it with every record before the first step.
    pub fn restore<'a>(account: NodeAddress, records: impl IntoIterator<Item = &'a OutboxRecord>) -> Self {
        let pool = NoncePool::new(account);
        for record in records {
            pool.adopt(record);
        }
        pool
    }

    /// Takes up the nonce of one record.
    pub fn adopt(&self, record: &OutboxRecord) {
        if let (true, Some(nonce)) = (record.from == self.account, record.nonce()) {
            self.lock().insert(record.intent.key.clone(), nonce);
        }
    }

    /// The lowest nonce from `next_on_chain` on that nobody else has. Asking again under the same key gives the same nonce, as
    /// long as it can still be used.
    pub fn reserve(&self, key: &str, next_on_chain: u64) -> Result<u64, ChainError> {
        let mut reserved = self.lock();
        if let Some(nonce) = reserved.get(key).filter(|nonce| **nonce >= next_on_chain) {
            return Ok(*nonce);
        }
        let limit = MAX_IN_FLIGHT;
        let free = (next_on_chain..next_on_chain.saturating_add(limit))
            .find(|nonce| !reserved.iter().any(|(owner, taken)| owner != key && taken == nonce))
            .ok_or(ChainError::TooManyInFlight { account: self.account, limit })?;
        reserved.insert(key.to_owned(), free);
        Ok(free)
    }

    /// Gives a nonce back: its transaction is final, or its record was deleted. Steps do the first; the second is the caller's, or
    /// later nonces would wait for a gap that nobody fills.
    pub fn release(&self, key: &str) {
        self.lock().remove(key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u64>> {
        // The map is whole after every operation, so a panic elsewhere does not spoil it.
        self.reserved.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_gets_the_same_nonce_and_others_the_next() {
        let pool = NoncePool::new(NodeAddress([1; 20]));
        assert_eq!(pool.reserve("a", 5), Ok(5));
        assert_eq!(pool.reserve("b", 5), Ok(6));
        assert_eq!(pool.reserve("a", 5), Ok(5));
        assert_eq!(pool.reserve("a", 6), Ok(7), "5 is used up on chain, 6 belongs to b");
        pool.release("b");
        assert_eq!(pool.reserve("c", 6), Ok(6), "a gap is filled first");
    }

    #[test]
    fn the_ninth_waits() {
        let pool = NoncePool::new(NodeAddress([1; 20]));
        for index in 0..8 {
            assert_eq!(pool.reserve(&index.to_string(), 3), Ok(3 + index));
        }
        let refused = pool.reserve("one more", 3).unwrap_err();
        assert!(refused.is_transient());
        assert_eq!(pool.reserve("one more", 4), Ok(11));
    }
}
