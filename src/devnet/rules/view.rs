//! The chain as one answer shows it: possibly some blocks ago, possibly with finality that stands still.

use super::{FINALITY_DEPTH, jsonrpc::RpcError};

/// What `finalized` means at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Finality {
    /// Two blocks behind the head, XDC at its best.
    #[default]
    Following,
    /// Stands still at this block.
    Frozen { at: u64 },
    /// Unknown, as on an XDC node between its start and the next commit.
    Lost,
}

/// What one answer is made from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct View {
    /// Number of the newest block. Asked for only where [`super::questions::needs_head`] says so; 0 elsewhere.
    pub head: u64,
    /// How many of the newest blocks the answer denies.
    pub behind: u64,
    pub finality: Finality,
}

impl View {
    /// Whether the answer is of a node that has fallen behind.
    pub fn is_stale(&self) -> bool {
        self.behind > 0
    }

    /// The newest block that the answer knows.
    pub fn latest(&self) -> u64 {
        self.head.saturating_sub(self.behind)
    }

    /// The newest block that cannot go away. An XDC node that has committed nothing since its start fails on the question.
    pub fn finalized(&self) -> Result<u64, RpcError> {
        match self.finality {
            Finality::Following => Ok(self.latest().saturating_sub(FINALITY_DEPTH)),
            Finality::Frozen { at } => Ok(at.min(self.latest())),
            Finality::Lost => Err(RpcError::internal("method handler crashed")),
        }
    }

    /// How many blocks a reorganisation may replace. Without a committed block nothing stops a node.
    pub fn replaceable(&self) -> u64 {
        self.finalized().map_or(self.head, |finalized| self.head.saturating_sub(finalized))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finality_follows_two_blocks_behind_what_the_answer_knows() {
        let view = View { head: 10, ..View::default() };
        assert_eq!((view.latest(), view.finalized(), view.replaceable()), (10, Ok(8), 2));
        let stale = View { behind: 3, ..view };
        assert_eq!((stale.latest(), stale.finalized()), (7, Ok(5)));
        assert_eq!(View { head: 1, ..View::default() }.finalized(), Ok(0));
    }

    #[test]
    fn finality_can_stand_still_or_be_lost() {
        let frozen = View { head: 10, finality: Finality::Frozen { at: 4 }, ..View::default() };
        assert_eq!((frozen.finalized(), frozen.replaceable()), (Ok(4), 6));
        assert_eq!(View { behind: 8, ..frozen }.finalized(), Ok(2), "nobody knows a final block above his head");
        let lost = View { finality: Finality::Lost, ..frozen };
        assert_eq!((lost.finalized().unwrap_err().code, lost.replaceable()), (-32603, 10));
    }
}
