//! The leaves before a report, from the calldata of the reports before it.

use alloy::primitives::B256;

use super::chain_error;
use crate::{
    api::ids::Wei,
    chain::{ChainClient, reports::ContractHistory},
    cli::CliError,
    reward::{LeavesBack, RewardLeaf},
};

/// The leaves before a report, and what the report before it said they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Before {
    pub leaves: Vec<RewardLeaf>,
    pub root: B256,
    pub total: Wei,
    /// Block of the report before; 0 for the first.
    pub block: u64,
}

/// Remembers the last leaves, so that a range of epochs reads each report once.
pub struct Replay<'a> {
    chain: &'a ChainClient,
    history: &'a ContractHistory,
    /// Position of a report, and the leaves after it.
    kept: Option<(usize, Vec<RewardLeaf>)>,
}

impl<'a> Replay<'a> {
    pub fn new(chain: &'a ChainClient, history: &'a ContractHistory) -> Self {
        Replay { chain, history, kept: None }
    }

    /// Keeps what the report at `position` says for those after it, unless it was dropped.
    pub fn keep(&mut self, position: usize, leaves: Option<Vec<RewardLeaf>>) {
        let dropped = self.history.submissions.get(position).is_none_or(|submission| submission.dropped);
        match leaves {
            Some(leaves) if !dropped => self.kept = Some((position, leaves)),
            _ => {}
        }
    }

    /// The leaves before the report at `position`.
    pub async fn before(&self, position: usize) -> Result<Before, CliError> {
        let earlier = self.history.submissions.iter().enumerate().take(position);
        let standing: Vec<_> = earlier.filter(|(_, submission)| !submission.dropped).collect();
        let Some((_, last)) = standing.last() else { return Ok(Before::default()) };
        let mut back = LeavesBack::default();
        // Back to a report that has all leaves, or to one that was looked at before.
        for (at, submission) in standing.iter().rev() {
            if let Some((kept, known)) = &self.kept
                && kept == at
            {
                back.take_all(known.clone());
                break;
            }
            let packed = self.chain.packed_leaves(submission).await.map_err(chain_error)?;
            let unreadable =
                |error| chain_error(format!("the leaves of epoch {} cannot be read: {error}", submission.epoch));
            if back.take(&packed).map_err(unreadable)? {
                break;
            }
        }
        let leaves = back
            .finish(|index| self.history.registrations.node_of(index))
            .map_err(|error| chain_error(format!("the leaves before this epoch cannot be read: {error}")))?;
        Ok(Before { leaves, root: last.root, total: last.total, block: last.block })
    }
}
