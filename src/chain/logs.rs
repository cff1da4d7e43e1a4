//! Events of the contract, oldest first, in pieces that XDC's nodes answer, and only from final blocks. The caller keeps the
//! cursor: whatever it has seen once is not asked for again.

use alloy::sol_types::SolEvent;
use serde::{Deserialize, Serialize};

use super::{
    client::ChainClient,
    error::ChainError,
    rpc::{At, LogEntry, LogFilter},
};

/// Blocks in one question. XDC's default limit is 5,000, and public endpoints may allow less.
pub const MAX_BLOCKS: u64 = 2_000;

/// How far a reader has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogCursor {
    /// The first block that was not read yet.
    pub next_block: u64,
}

/// A piece of the history: what was found, and the cursor to go on with.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<E> {
    pub events: Vec<(LogEntry, E)>,
    pub cursor: LogCursor,
    /// Whether the cursor has reached the newest final block.
    pub is_last: bool,
}

impl LogCursor {
    pub fn at(next_block: u64) -> Self {
        LogCursor { next_block }
    }

    /// The next piece, up to the final block `last`; `None` when everything up to it was read.
    fn piece(self, last: u64) -> Option<(u64, u64)> {
        let to = self.next_block.saturating_add(MAX_BLOCKS - 1).min(last);
        (self.next_block <= to).then_some((self.next_block, to))
    }
}

impl ChainClient {
    /// Events of one kind in the next [`MAX_BLOCKS`] final blocks. An entry that is no such event is left out.
    pub async fn events<E: SolEvent>(&self, cursor: LogCursor) -> Result<Page<E>, ChainError> {
        let last = self.rpc().agreed().block(At::Finalized).await?.number;
        let Some((from_block, to_block)) = cursor.piece(last) else {
            return Ok(Page { events: Vec::new(), cursor, is_last: true });
        };
        let filter = LogFilter { address: self.contract(), topic: E::SIGNATURE_HASH, from_block, to_block };
        let mut entries = self.rpc().agreed().logs(&filter).await?;
        entries.sort_by_key(|entry| (entry.block_number, entry.index));
        let events = entries.into_iter().filter_map(|entry| decode::<E>(&entry).map(|event| (entry, event))).collect();
        Ok(Page { events, cursor: LogCursor::at(to_block.saturating_add(1)), is_last: to_block == last })
    }

    /// All events of one kind from `cursor` to the newest final block. For tools: the whole answer is held in memory.
    pub async fn all_events<E: SolEvent>(&self, cursor: LogCursor) -> Result<Vec<(LogEntry, E)>, ChainError> {
        let mut found = Vec::new();
        let mut cursor = cursor;
        loop {
            let page = self.events::<E>(cursor).await?;
            found.extend(page.events);
            if page.is_last {
                return Ok(found);
            }
            cursor = page.cursor;
        }
    }
}

/// `None` for an entry of another event.
pub(super) fn decode<E: SolEvent>(entry: &LogEntry) -> Option<E> {
    E::decode_raw_log(entry.topics.iter().copied(), &entry.data).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_small_and_leave_no_block_out() {
        let mut cursor = LogCursor::at(100);
        let mut pieces = Vec::new();
        while let Some((from, to)) = cursor.piece(5_000) {
            pieces.push((from, to));
            cursor = LogCursor::at(to + 1);
        }
        assert_eq!(pieces, [(100, 2_099), (2_100, 4_099), (4_100, 5_000)]);
        assert_eq!(LogCursor::at(5_001).piece(5_000), None, "nothing is final beyond");
        assert_eq!(LogCursor::at(9).piece(8), None, "an endpoint that lags takes nothing back");
    }
}
