//! What the contract's logs tell about its reports and registrations, read by somebody who keeps nothing: a stranger with an endpoint.
//! Only final blocks are believed.

use std::collections::BTreeMap;

use alloy::{
    primitives::{B256, Bytes},
    sol_types::{SolCall, SolEvent},
};

use super::{
    bindings::GridComputingRewards::{EpochDropped, EpochSubmitted, NodeRegistered, StakeWithdrawn, submitEpochCall},
    client::ChainClient,
    error::ChainError,
    logs::{MAX_BLOCKS, decode},
    rpc::{At, ChainRpc, LogEntry, LogFilter},
};
use crate::api::ids::{EpochNumber, NodeAddress, Wei};

/// A report as the contract logged it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Submission {
    pub epoch: EpochNumber,
    pub root: B256,
    /// Σ of all leaves.
    pub total: Wei,
    /// keccak256 of the packed leaves in its calldata.
    pub data_hash: B256,
    pub transaction: B256,
    pub block: u64,
    /// Dropped in its window: the epoch was reported again, or will be.
    pub dropped: bool,
}

/// Which nodes were registered when, and under which index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registrations {
    /// The node of the index n is at n − 1: the contract counts registrations from 1.
    by_index: Vec<NodeAddress>,
    /// Changes by block, oldest first: registered (with the index), or gone with the stake.
    changes: BTreeMap<NodeAddress, Vec<(u64, Option<u32>)>>,
}

impl Registrations {
    /// Logs must come oldest first.
    pub fn registered(&mut self, node: NodeAddress, block: u64) {
        self.by_index.push(node);
        let index = u32::try_from(self.by_index.len()).unwrap_or(u32::MAX);
        self.changes.entry(node).or_default().push((block, Some(index)));
    }

    /// The stake went back to its owner.
    pub fn withdrawn(&mut self, node: NodeAddress, block: u64) {
        self.changes.entry(node).or_default().push((block, None));
    }

    pub fn node_of(&self, index: u32) -> Option<NodeAddress> {
        let at = usize::try_from(index).ok()?.checked_sub(1)?;
        self.by_index.get(at).copied()
    }

    /// The index under which the contract holds a stake of the node at the end of a block. A node that is leaving still
    /// counts.
    pub fn index_of(&self, node: NodeAddress, block: u64) -> Option<u32> {
        self.changes.get(&node)?.iter().rfind(|(at, _)| *at <= block)?.1
    }

    /// Whether that changed in a block above `after`, up to and with `until`.
    pub fn changed(&self, node: NodeAddress, after: u64, until: u64) -> bool {
        let changes = self.changes.get(&node).map(Vec::as_slice).unwrap_or_default();
        changes.iter().any(|(at, _)| *at > after && *at <= until)
    }
}

/// Everything that checking reports needs from the logs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContractHistory {
    /// Oldest first.
    pub submissions: Vec<Submission>,
    pub registrations: Registrations,
    /// The last block that was read.
    pub until: u64,
}

impl ContractHistory {
    /// Takes logs of the contract, oldest first. What is none of the four events is left out.
    fn take(&mut self, entry: &LogEntry) {
        if let Some(submission) = submission(entry) {
            self.submissions.push(submission);
        } else if let Some(event) = decode::<EpochDropped>(entry) {
            let last = self.submissions.iter_mut().rfind(|submission| submission.epoch.0 == event.epoch);
            if let Some(submission) = last {
                submission.dropped = true;
            }
        } else if let Some(event) = decode::<NodeRegistered>(entry) {
            self.registrations.registered(event.node.into(), entry.block_number);
        } else if let Some(event) = decode::<StakeWithdrawn>(entry) {
            self.registrations.withdrawn(event.node.into(), entry.block_number);
        }
    }
}

pub(super) fn submission(entry: &LogEntry) -> Option<Submission> {
    let event = decode::<EpochSubmitted>(entry)?;
    Some(Submission {
        epoch: EpochNumber(event.epoch),
        root: event.root,
        total: Wei(u128::try_from(event.cumulativeTotal).ok()?),
        data_hash: event.dataHash,
        transaction: entry.transaction,
        block: entry.block_number,
        dropped: false,
    })
}

/// The packed leaves in the calldata of a report; `None` for any other call.
fn leaves_in(calldata: &[u8]) -> Option<Bytes> {
    submitEpochCall::abi_decode(calldata).ok().map(|call| call.leaves)
}

/// How far a reading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    pub block: u64,
    pub last: u64,
}

impl ChainClient {
    /// Reads all reports and registrations up to the newest final block. `from_block` spares looking for the block that the contract
    /// began in; it must not be later.
    pub async fn report_history(
        &self,
        from_block: Option<u64>,
        progress: impl FnMut(Reading),
    ) -> Result<ContractHistory, ChainError> {
        let last = self.rpc().agreed().block(At::Finalized).await?.number;
        let first = match from_block {
            Some(block) => block,
            None => self.first_block(last).await?,
        };
        let mut history = ContractHistory::default();
        self.read_into_history(&mut history, first, last, progress).await?;
        Ok(history)
    }

    /// Reads what came after the last block of `history`, up to the newest final block. After an error it can be called again.
    pub async fn read_on(&self, history: &mut ContractHistory) -> Result<(), ChainError> {
        let last = self.rpc().agreed().block(At::Finalized).await?.number;
        let first = history.until.saturating_add(1);
        self.read_into_history(history, first, last, |_| ()).await
    }

    async fn read_into_history(
        &self,
        history: &mut ContractHistory,
        first: u64,
        last: u64,
        mut progress: impl FnMut(Reading),
    ) -> Result<(), ChainError> {
        let topics = [
            EpochSubmitted::SIGNATURE_HASH,
            EpochDropped::SIGNATURE_HASH,
            NodeRegistered::SIGNATURE_HASH,
            StakeWithdrawn::SIGNATURE_HASH,
        ];
        self.scan(&topics, first, last, |entries, at| {
            entries.iter().for_each(|entry| history.take(entry));
            history.until = at.block;
            progress(at);
        })
        .await
    }

    /// Logs of some events from block `first` to `last`, which are final, oldest first and piece by piece.
    pub(super) async fn scan(
        &self,
        topics: &[B256],
        first: u64,
        last: u64,
        mut take: impl FnMut(Vec<LogEntry>, Reading),
    ) -> Result<(), ChainError> {
        let (mut next, mut step) = (first, MAX_BLOCKS);
        while next <= last {
            let to = next.saturating_add(step - 1).min(last);
            match self.entries(self.rpc().agreed(), topics, next, to).await {
                Ok(entries) => take(entries, Reading { block: to, last }),
                // A public endpoint may allow fewer blocks in one question than most do.
                Err(ChainError::Rpc { .. }) if step > LEAST_BLOCKS => {
                    step /= 2;
                    continue;
                }
                Err(error) => return Err(error),
            }
            next = to.saturating_add(1);
        }
        Ok(())
    }

    /// The packed leaves that a report's transaction carries, whatever the contract logged about them.
    pub async fn packed_leaves(&self, submission: &Submission) -> Result<Bytes, ChainError> {
        let transaction = submission.transaction;
        let unreadable = |what: &str| ChainError::ReportUnreadable { transaction, what: what.to_owned() };
        let found = self.rpc().transaction(transaction).await?.ok_or_else(|| unreadable("no endpoint knows it"))?;
        if found.to != Some(self.contract()) {
            // A wallet contract that reports: the bytes are inside its own call.
            return Err(unreadable("it does not call the contract itself"));
        }
        leaves_in(&found.data).ok_or_else(|| unreadable("it does not call submitEpoch"))
    }

    /// Logs of some events, oldest first.
    pub(super) async fn entries(
        &self,
        rpc: &dyn ChainRpc,
        topics: &[B256],
        from_block: u64,
        to_block: u64,
    ) -> Result<Vec<LogEntry>, ChainError> {
        let mut entries = Vec::new();
        for topic in topics {
            let filter = LogFilter { address: self.contract(), topic: *topic, from_block, to_block };
            entries.extend(rpc.logs(&filter).await?);
        }
        entries.sort_by_key(|entry| (entry.block_number, entry.index));
        Ok(entries)
    }

    /// The block that epoch 0 began in: the one that deployed the contract.
    pub(super) async fn first_block(&self, last: u64) -> Result<u64, ChainError> {
        let genesis = self.parameters().await?.genesis;
        self.block_since(genesis, last).await
    }

    /// The first block up to `last` that is not before a time (unix seconds); `last` when all are.
    pub async fn block_since(&self, time: u64, last: u64) -> Result<u64, ChainError> {
        let (mut low, mut high) = (0, last);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.rpc().block(At::Number(middle)).await?.timestamp < time {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

/// The fewest blocks that are asked for at once.
pub(super) const LEAST_BLOCKS: u64 = 16;

#[cfg(test)]
mod tests {
    use alloy::primitives::U256;

    use super::*;

    fn entry(block_number: u64, event: &impl SolEvent) -> LogEntry {
        let log = event.encode_log_data();
        LogEntry {
            transaction: B256::repeat_byte(block_number as u8),
            block_number,
            index: 0,
            topics: log.topics().to_vec(),
            data: log.data.clone(),
        }
    }

    fn submitted(epoch: u64, total: u128) -> EpochSubmitted {
        EpochSubmitted {
            epoch,
            root: B256::repeat_byte(epoch as u8),
            cumulativeTotal: U256::from(total),
            dataHash: B256::ZERO,
            activeAt: U256::ZERO,
        }
    }

    #[test]
    fn a_dropped_report_is_marked_and_the_one_after_it_is_not() {
        let mut history = ContractHistory::default();
        let dropped = EpochDropped { epoch: 1, root: B256::ZERO, released: U256::from(5) };
        for log in
            [entry(1, &submitted(0, 5)), entry(2, &submitted(1, 9)), entry(3, &dropped), entry(4, &submitted(1, 8))]
        {
            history.take(&log);
        }
        let seen: Vec<_> =
            history.submissions.iter().map(|found| (found.epoch.0, found.total.0, found.dropped)).collect();
        assert_eq!(seen, [(0, 5, false), (1, 9, true), (1, 8, false)]);
    }

    #[test]
    fn a_node_has_the_index_of_its_registration_until_its_stake_went_back() {
        let (a, b) = (NodeAddress([1; 20]), NodeAddress([2; 20]));
        let mut found = Registrations::default();
        found.registered(a, 10);
        found.registered(b, 10);
        found.withdrawn(a, 20);
        found.registered(a, 30);
        assert_eq!(
            [found.node_of(0), found.node_of(1), found.node_of(2), found.node_of(3)],
            [None, Some(a), Some(b), Some(a)]
        );
        assert_eq!([9, 10, 19, 20, 30].map(|block| found.index_of(a, block)), [None, Some(1), Some(1), None, Some(3)]);
        assert!(found.changed(a, 19, 20) && !found.changed(a, 20, 29) && !found.changed(b, 10, 99));
    }
}
