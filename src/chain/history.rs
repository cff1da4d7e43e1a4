//! The leaves behind the contract's roots, from the calldata of its reports: what anybody can know without asking us.
//!
//! A report carries all leaves, or only what its epoch raised. So the reports are read back from the one with the root to one with all
//! leaves, or to the first report of all; the operator sends one with all leaves at least once in 24, as long as they fit. Whatever an
//! endpoint says, only leaves that hash to the root are taken.

use std::collections::{BTreeMap, HashMap};

use alloy::{
    primitives::{B256, keccak256},
    sol_types::SolEvent,
};

use super::{
    bindings::GridComputingRewards::{EpochDropped, EpochSubmitted, NodeRegistered},
    client::ChainClient,
    error::ChainError,
    logs::{MAX_BLOCKS, decode},
    reports::{LEAST_BLOCKS, Submission, submission},
    rpc::{At, BlockRef, LogEntry},
};
use crate::{
    api::ids::{EpochNumber, NodeAddress},
    reward::{LeavesBack, RewardTree},
};

/// Pieces of blocks that are searched: half a year of them.
const MAX_PIECES: u32 = 4_000;
/// Reports whose calldata is read. Only a network with more leaves than a report carries whole comes near it.
const MAX_REPORTS: usize = 5_000;
/// What a search looks at.
const TOPICS: [B256; 3] =
    [EpochSubmitted::SIGNATURE_HASH, EpochDropped::SIGNATURE_HASH, NodeRegistered::SIGNATURE_HASH];

impl ChainClient {
    /// The tree of the live root. `None` before the first report is live.
    pub async fn live_tree(&self) -> Result<Option<RewardTree>, ChainError> {
        match self.epoch_state(At::Finalized).await?.live_root {
            root if root == B256::ZERO => Ok(None),
            root => self.tree_of(root).await.map(Some),
        }
    }

    /// The tree of a root that a report in a final block has and that was not dropped.
    pub async fn tree_of(&self, root: B256) -> Result<RewardTree, ChainError> {
        let last = self.rpc().agreed().block(At::Finalized).await?;
        let mut pieces = PiecesBack::from(last.number);
        let mut search = Search::new(root);
        let mut leaves = LeavesBack::default();
        let mut is_complete = false;
        while !is_complete {
            let missing = ChainError::HistoryMissing { root };
            let entries = self.older(&mut pieces, &TOPICS).await?.ok_or(missing)?;
            for submission in search.take(&entries) {
                // The very first report has all leaves that there are.
                is_complete = self.read_into(&mut leaves, &submission).await? || submission.epoch == EpochNumber(0);
                if is_complete {
                    break;
                }
            }
            if search.found > MAX_REPORTS && !is_complete {
                return Err(ChainError::HistoryTooLong { root, reports: MAX_REPORTS });
            }
        }
        let nodes = self.nodes_of(&leaves, search.nodes, pieces, last).await?;
        let found = leaves.finish(|index| nodes.get(&index).copied()).ok();
        let tree = found.and_then(|leaves| RewardTree::build(self.tree_domain(), leaves).ok());
        tree.filter(|tree| tree.root() == root).ok_or(ChainError::HistoryMissing { root })
    }

    /// True when that report has all leaves.
    async fn read_into(&self, leaves: &mut LeavesBack, submission: &Submission) -> Result<bool, ChainError> {
        let packed = self.packed_leaves(submission).await?;
        let unreadable = |what| ChainError::ReportUnreadable { transaction: submission.transaction, what };
        if keccak256(&packed) != submission.data_hash {
            return Err(unreadable(
                "its leaves are not those that the contract took: the endpoint is wrong".to_owned(),
            ));
        }
        leaves.take(&packed).map_err(|error| unreadable(error.to_string()))
    }

    /// Which nodes the indexes of raises stand for: from the registrations that were seen on the way, from the contract for nodes that
    /// are named by their address, and only then from older logs.
    async fn nodes_of(
        &self,
        leaves: &LeavesBack,
        mut nodes: BTreeMap<u32, NodeAddress>,
        mut pieces: PiecesBack,
        last: BlockRef,
    ) -> Result<BTreeMap<u32, NodeAddress>, ChainError> {
        let is_known = |nodes: &BTreeMap<u32, NodeAddress>| leaves.indexes().all(|index| nodes.contains_key(&index));
        if is_known(&nodes) {
            return Ok(nodes);
        }
        let named: Vec<NodeAddress> = leaves.named().collect();
        let registered = named.iter().zip(self.nodes(&named, last.hash).await?);
        nodes.extend(registered.filter_map(|(node, found)| Some((found?.index, *node))));
        while !is_known(&nodes) {
            // Without all of them the leaves do not hash to the root, and that is said.
            let Some(entries) = self.older(&mut pieces, &[NodeRegistered::SIGNATURE_HASH]).await? else { break };
            nodes.extend(entries.iter().filter_map(registration));
        }
        Ok(nodes)
    }

    /// The next older logs, oldest first; `None` when there are none before.
    async fn older(&self, pieces: &mut PiecesBack, topics: &[B256]) -> Result<Option<Vec<LogEntry>>, ChainError> {
        while let Some((from, to)) = pieces.next() {
            match self.entries(self.rpc(), topics, from, to).await {
                Ok(entries) => {
                    pieces.took(from);
                    // Asked late: most searches end in their first piece.
                    if pieces.first.is_none() && from > 0 {
                        pieces.first = Some(self.first_block(to).await?);
                    }
                    return Ok(Some(entries));
                }
                // A public endpoint may allow fewer blocks in one question than most do.
                Err(ChainError::Rpc { .. }) if pieces.step > LEAST_BLOCKS => pieces.step /= 2,
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

fn registration(entry: &LogEntry) -> Option<(u32, NodeAddress)> {
    decode::<NodeRegistered>(entry).map(|event| (event.index, event.node.into()))
}

/// Ranges of blocks, newest first, that leave none out.
struct PiecesBack {
    /// The newest block that was not read; none when all were.
    to: Option<u64>,
    /// The block that the contract began in, once it is known.
    first: Option<u64>,
    step: u64,
    left: u32,
}

impl PiecesBack {
    fn from(newest: u64) -> Self {
        PiecesBack { to: Some(newest), first: None, step: MAX_BLOCKS, left: MAX_PIECES }
    }

    /// From and to, both included. The same again until it was taken.
    fn next(&self) -> Option<(u64, u64)> {
        let first = self.first.unwrap_or(0);
        let to = self.to.filter(|to| *to >= first && self.left > 0)?;
        Some((to.saturating_sub(self.step - 1).max(first), to))
    }

    fn took(&mut self, from: u64) {
        self.to = from.checked_sub(1);
        self.left = self.left.saturating_sub(1);
    }
}

/// Which reports make up the leaves of a root, told from logs that are read back.
struct Search {
    root: B256,
    /// Reports that were dropped, by epoch and root, and are still to be met.
    dropped: HashMap<(u64, B256), u32>,
    /// Reports since the one with the root, that one included.
    found: usize,
    nodes: BTreeMap<u32, NodeAddress>,
}

impl Search {
    fn new(root: B256) -> Self {
        Search { root, dropped: HashMap::new(), found: 0, nodes: BTreeMap::new() }
    }

    /// Takes the next older logs, oldest first. Returns the reports among them that count, newest first.
    fn take(&mut self, entries: &[LogEntry]) -> Vec<Submission> {
        self.nodes.extend(entries.iter().filter_map(registration));
        let mut found = Vec::new();
        for entry in entries.iter().rev() {
            if let Some(event) = decode::<EpochDropped>(entry) {
                *self.dropped.entry((event.epoch, event.root)).or_default() += 1;
            } else if let Some(submission) = submission(entry) {
                found.extend(self.counts(submission));
            }
        }
        found
    }

    fn counts(&mut self, submission: Submission) -> Option<Submission> {
        let name = (submission.epoch.0, submission.root);
        if let Some(left) = self.dropped.get_mut(&name).filter(|left| **left > 0) {
            *left -= 1;
            return None;
        }
        if self.found == 0 && submission.root != self.root {
            return None;
        }
        self.found += 1;
        Some(submission)
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::U256;

    use super::*;

    fn entry(index: u64, event: &impl SolEvent) -> LogEntry {
        let log = event.encode_log_data();
        let (topics, data) = (log.topics().to_vec(), log.data.clone());
        LogEntry { transaction: B256::with_last_byte(index as u8), block_number: 1, index, topics, data }
    }

    fn submitted(epoch: u64, root: u8) -> EpochSubmitted {
        let root = B256::repeat_byte(root);
        let (total, at) = (U256::from(epoch + 1), U256::ZERO);
        EpochSubmitted { epoch, root, cumulativeTotal: total, dataHash: B256::ZERO, activeAt: at }
    }

    fn dropped(epoch: u64, root: u8) -> EpochDropped {
        EpochDropped { epoch, root: B256::repeat_byte(root), released: U256::from(1) }
    }

    fn epochs(found: &[Submission]) -> Vec<(u64, u8)> {
        found.iter().map(|submission| (submission.epoch.0, submission.root[0])).collect()
    }

    #[test]
    fn reports_count_from_the_one_with_the_root_back_and_dropped_ones_never() {
        let mut search = Search::new(B256::repeat_byte(3));
        let newer = [entry(8, &dropped(2, 9)), entry(9, &submitted(2, 3)), entry(10, &submitted(3, 4))];
        assert_eq!(epochs(&search.take(&newer)), [(2, 3)], "what came after the root is not looked at");
        let older = [entry(5, &submitted(0, 1)), entry(6, &submitted(1, 2)), entry(7, &submitted(2, 9))];
        assert_eq!(epochs(&search.take(&older)), [(1, 2), (0, 1)]);
        assert_eq!(search.found, 3);
    }

    #[test]
    fn a_report_that_was_dropped_and_sent_again_counts_once() {
        let mut search = Search::new(B256::repeat_byte(5));
        let logs = [entry(1, &submitted(0, 5)), entry(2, &dropped(0, 5)), entry(3, &submitted(0, 5))];
        let found = search.take(&logs);
        assert_eq!(found.iter().map(|one| one.transaction[31]).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn pieces_go_back_to_the_first_block_and_leave_none_out() {
        let mut pieces = PiecesBack::from(5_000);
        let mut seen = Vec::new();
        while let Some((from, to)) = pieces.next() {
            seen.push((from, to));
            pieces.took(from);
            pieces.first = Some(900);
        }
        assert_eq!(seen, [(3_001, 5_000), (1_001, 3_000), (900, 1_000)]);
        let mut pieces = PiecesBack::from(3);
        assert_eq!(pieces.next(), Some((0, 3)));
        pieces.took(0);
        assert_eq!(pieces.next(), None, "there is no block before the first one");
        pieces = PiecesBack { left: 0, ..PiecesBack::from(3) };
        assert_eq!(pieces.next(), None, "bounded");
    }
}
