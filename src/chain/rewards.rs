//! Epochs and rewards on the contract: what to report, what is reported, and claims.

use alloy::primitives::{B256, Bytes, keccak256};
use serde::{Deserialize, Serialize};

use super::{
    bindings::{GridComputingRewards as contract, IGridComputingRewards::EpochState as RawState},
    client::ChainClient,
    error::ChainError,
    outbox::{Intent, IntentKind},
    rpc::At,
};
use crate::{
    api::ids::{EpochNumber, NodeAddress, Wei},
    reward::{RewardProof, RewardTree},
};

/// A reported epoch that is not live yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingEpoch {
    pub epoch: EpochNumber,
    pub root: B256,
    pub total: Wei,
    /// Unix seconds from which it can be activated; the end of time while it is challenged.
    pub active_at: u64,
    /// Unix seconds until which a challenge of it can be ruled on; none unless it is challenged.
    pub ruling_due_at: Option<u64>,
}

/// One consistent reading of the contract's epochs and money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EpochState {
    /// The only epoch that can be reported next.
    pub next_epoch: EpochNumber,
    pub pending: Option<PendingEpoch>,
    pub live_root: B256,
    /// Cumulative total of the live root.
    pub live_total: Wei,
    pub claimed_total: Wei,
    /// What epochs can still allocate.
    pub reward_pool: Wei,
    pub stake_total: Wei,
}

impl EpochState {
    /// The last epoch that was reported and not dropped.
    pub fn last_epoch(&self) -> Option<EpochNumber> {
        self.next_epoch.0.checked_sub(1).map(EpochNumber)
    }

    /// Root and cumulative total of the last report, live or not: what the next report continues.
    pub fn last_report(&self) -> (B256, Wei) {
        self.pending.map_or((self.live_root, self.live_total), |pending| (pending.root, pending.total))
    }

    /// Whether the pending epoch's window is over at a moment (unix seconds).
    pub fn can_activate(&self, now: u64) -> bool {
        self.pending.is_some_and(|pending| now >= pending.active_at)
    }
}

impl From<RawState> for EpochState {
    fn from(raw: RawState) -> Self {
        let pending = raw.pending.then(|| PendingEpoch {
            epoch: EpochNumber(raw.nextEpoch.saturating_sub(1)),
            root: raw.pendingRoot,
            total: Wei(raw.pendingTotal),
            active_at: raw.activeAt,
            ruling_due_at: raw.challenged.then_some(raw.rulingDueAt),
        });
        EpochState {
            next_epoch: EpochNumber(raw.nextEpoch),
            pending,
            live_root: raw.liveRoot,
            live_total: Wei(raw.liveTotal),
            claimed_total: Wei(raw.claimedTotal),
            reward_pool: Wei(raw.rewardPool),
            stake_total: Wei(raw.stakeTotal),
        }
    }
}

/// The content of one report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochReport {
    pub epoch: EpochNumber,
    pub root: B256,
    /// Σ of all leaves.
    pub cumulative_total: Wei,
    /// Packed leaves; empty when nothing changed since the last report.
    pub leaves: Vec<u8>,
}

/// What the contract says about a report; decides what to do after a restart or a `WrongEpoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is this epoch's turn.
    Due,
    /// Earlier epochs have to be reported first.
    TooEarly { next: EpochNumber },
    /// It is the last report on chain.
    Reported,
    /// The epoch was reported with another root: stop, a person must look.
    Conflict { root: B256 },
    /// Later epochs are on chain; the state alone no longer tells this one's root.
    Past,
}

impl EpochReport {
    /// The report of `tree` as epoch `epoch`, following `last` on chain. A tree that changed nothing sends no leaves.
    pub fn new(epoch: EpochNumber, tree: &RewardTree, last: &EpochState) -> Self {
        let (root, cumulative_total) = (tree.root(), tree.total());
        let leaves = if (root, cumulative_total) == last.last_report() { Vec::new() } else { tree.packed() };
        EpochReport { epoch, root, cumulative_total, leaves }
    }

    pub fn data_hash(&self) -> B256 {
        keccak256(&self.leaves)
    }

    pub fn standing(&self, state: &EpochState) -> Standing {
        let (root, total) = state.last_report();
        match state.last_epoch() {
            _ if self.epoch == state.next_epoch => Standing::Due,
            _ if self.epoch > state.next_epoch => Standing::TooEarly { next: state.next_epoch },
            Some(last) if self.epoch < last => Standing::Past,
            _ if (root, total) == (self.root, self.cumulative_total) => Standing::Reported,
            _ => Standing::Conflict { root },
        }
    }
}

impl ChainClient {
    pub async fn epoch_state(&self, at: At) -> Result<EpochState, ChainError> {
        Ok(self.view(contract::epochStateCall {}, at).await?.into())
    }

    /// Wei already paid for a node.
    pub async fn claimed(&self, node: NodeAddress, at: At) -> Result<Wei, ChainError> {
        Ok(Wei(self.view(contract::claimedCall { node: node.into() }, at).await?.saturating_to()))
    }

    /// Where a node's claims are paid.
    pub async fn payout_of(&self, node: NodeAddress) -> Result<NodeAddress, ChainError> {
        Ok(self.view(contract::payoutOfCall { node: node.into() }, At::Latest).await?.into())
    }

    /// Whether an account may submit epochs.
    pub async fn is_reporter(&self, account: NodeAddress) -> Result<bool, ChainError> {
        let role = keccak256("REPORTER_ROLE");
        self.view(contract::hasRoleCall { role, account: account.into() }, At::Latest).await
    }

    /// Signed by the reporter.
    pub fn report_intent(&self, report: &EpochReport) -> Intent {
        let call = contract::submitEpochCall {
            epoch: report.epoch.0,
            root: report.root,
            cumulativeTotal: report.cumulative_total.0,
            dataHash: report.data_hash(),
            leaves: Bytes::from(report.leaves.clone()),
        };
        // With the root: an epoch that was dropped in its window is reported again, with other content.
        let key = format!("epoch/{}/{}/{}", self.contract(), report.epoch, report.root);
        self.intent(IntentKind::SubmitEpoch, key, Wei(0), call)
    }

    /// Makes a pending epoch live; anybody may sign it.
    pub fn activate_intent(&self, pending: &PendingEpoch) -> Intent {
        let key = format!("activate/{}/{}/{}", self.contract(), pending.epoch, pending.root);
        self.intent(IntentKind::ActivateEpoch, key, Wei(0), contract::distributeRewardsCall {})
    }

    /// Pays a node's earnings to its payout address; anybody may sign it.
    pub fn claim_intent(&self, proof: &RewardProof) -> Intent {
        let call = contract::claimCall {
            node: proof.node.into(),
            cumulative: alloy::primitives::U256::from(proof.cumulative.0),
            proof: proof.siblings.clone(),
        };
        self.intent(IntentKind::Claim, format!("claim/{}/{}", proof.node, proof.cumulative), Wei(0), call)
    }

    /// Adds to the reward pool. `purpose` names the payment, so that it is not made twice.
    pub fn fund_intent(&self, amount: Wei, purpose: &str) -> Intent {
        self.intent(IntentKind::Fund, format!("fund/{purpose}"), amount, contract::fundCall {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::{RewardLeaf, TreeDomain};

    fn tree(amount: u128) -> RewardTree {
        let domain = TreeDomain { chain_id: 51, contract: NodeAddress([1; 20]) };
        RewardTree::build(domain, [RewardLeaf { node: NodeAddress([2; 20]), cumulative: Wei(amount) }]).unwrap()
    }

    fn state(next: u64, root: B256, total: Wei) -> EpochState {
        EpochState {
            next_epoch: EpochNumber(next),
            pending: None,
            live_root: root,
            live_total: total,
            claimed_total: Wei(0),
            reward_pool: Wei(0),
            stake_total: Wei(0),
        }
    }

    #[test]
    fn a_report_knows_where_it_stands() {
        let report = EpochReport::new(EpochNumber(4), &tree(10), &state(4, B256::ZERO, Wei(0)));
        assert_eq!(report.standing(&state(4, B256::ZERO, Wei(0))), Standing::Due);
        assert_eq!(report.standing(&state(2, B256::ZERO, Wei(0))), Standing::TooEarly { next: EpochNumber(2) });
        assert_eq!(report.standing(&state(5, report.root, Wei(10))), Standing::Reported);
        assert_eq!(report.standing(&state(5, B256::ZERO, Wei(10))), Standing::Conflict { root: B256::ZERO });
        assert_eq!(report.standing(&state(6, report.root, Wei(10))), Standing::Past);
        let pending = PendingEpoch {
            epoch: EpochNumber(4),
            root: report.root,
            total: Wei(10),
            active_at: 9,
            ruling_due_at: None,
        };
        let reported = EpochState { pending: Some(pending), ..state(5, B256::ZERO, Wei(0)) };
        assert_eq!(report.standing(&reported), Standing::Reported);
        assert!(!reported.can_activate(8) && reported.can_activate(9));
    }

    #[test]
    fn an_unchanged_tree_sends_no_leaves() {
        let first = EpochReport::new(EpochNumber(0), &tree(10), &state(0, B256::ZERO, Wei(0)));
        assert_eq!(first.leaves.len(), 36);
        let again = EpochReport::new(EpochNumber(1), &tree(10), &state(1, first.root, Wei(10)));
        assert_eq!((again.leaves.len(), again.root), (0, first.root));
    }
}
