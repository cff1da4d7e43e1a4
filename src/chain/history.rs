//! The leaves behind the contract's roots, from the calldata of its reports: what anybody can know without asking us.

use alloy::{primitives::B256, sol_types::SolEvent};

use super::{
    bindings::GridComputingRewards::EpochSubmitted,
    client::ChainClient,
    error::ChainError,
    logs::MAX_BLOCKS,
    reports::{leaves_in, submission},
    rpc::{At, LogFilter},
};
use crate::reward::{RewardTree, unpack_leaves};

/// Blocks that are searched for a report: half a year of them. A network at rest repeats its root without leaves.
const MAX_PIECES: u64 = 4_000;

impl ChainClient {
    /// The tree of the live root, rebuilt from the calldata of the newest report that carries its leaves. `None` before the first
    /// report is live.
    pub async fn live_tree(&self) -> Result<Option<RewardTree>, ChainError> {
        let root = self.epoch_state(At::Finalized).await?.live_root;
        if root == B256::ZERO {
            return Ok(None);
        }
        let missing = || ChainError::HistoryMissing { root };
        let mut to_block = self.rpc().agreed().block(At::Finalized).await?.number;
        for _ in 0..MAX_PIECES {
            let from_block = to_block.saturating_sub(MAX_BLOCKS - 1);
            if let Some(tree) = self.tree_in(root, from_block, to_block).await? {
                return Ok(Some(tree));
            }
            to_block = from_block.checked_sub(1).ok_or_else(missing)?;
        }
        Err(missing())
    }

    /// The tree with that root, if one of the reports in these blocks carries it.
    async fn tree_in(&self, root: B256, from_block: u64, to_block: u64) -> Result<Option<RewardTree>, ChainError> {
        let filter =
            LogFilter { address: self.contract(), topic: EpochSubmitted::SIGNATURE_HASH, from_block, to_block };
        for entry in self.rpc().logs(&filter).await?.into_iter().rev() {
            if submission(&entry).is_none_or(|submission| submission.root != root) {
                continue;
            }
            // Whatever endpoint this came from: only leaves that hash to the root are taken.
            let sent = self.rpc().transaction(entry.transaction).await?;
            let tree = sent.and_then(|sent| self.tree_of(&sent.data)).filter(|tree| tree.root() == root);
            if tree.is_some() {
                return Ok(tree);
            }
        }
        Ok(None)
    }

    fn tree_of(&self, calldata: &[u8]) -> Option<RewardTree> {
        RewardTree::build(self.tree_domain(), unpack_leaves(&leaves_in(calldata)?).ok()?).ok()
    }
}
