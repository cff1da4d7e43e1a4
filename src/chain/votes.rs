//! Votes of reporters. A contract may ask for several that agree on a report: all but one vote for its hash, and the one who makes
//! up the number carries the data, which counts as its vote. Whoever votes first says, after the arguments of the call, what the
//! leaves were made from; so another reporter can work them out from the published receipts and needs to be told nothing else.

use std::collections::BTreeMap;

use alloy::{
    primitives::{B256, keccak256},
    sol_types::{SolCall, SolEvent},
};

use super::{
    bindings::GridComputingRewards::{self as contract, EpochVoted, submitEpochCall, voteEpochCall},
    client::ChainClient,
    error::ChainError,
    logs::decode,
    outbox::{Intent, IntentKind},
    rewards::EpochReport,
    rpc::At,
};
use crate::{
    api::ids::{EpochNumber, NodeAddress, Wei},
    reward::{Recipe, pack_recipe, unpack_recipe},
};

/// Bytes of a `voteEpoch` call: the selector and four words. The contract reads no further.
const ARGUMENTS: usize = 4 + 4 * 32;

/// What is voted for: a report without its leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ballot {
    pub epoch: EpochNumber,
    pub root: B256,
    /// Σ of all leaves.
    pub total: Wei,
    /// keccak256 of the packed leaves that the report carries.
    pub data_hash: B256,
}

impl Ballot {
    pub fn of(report: &EpochReport) -> Self {
        Ballot { epoch: report.epoch, root: report.root, total: report.cumulative_total, data_hash: report.data_hash() }
    }

    /// Of a submission; `None` for any other intent.
    pub fn of_submission(intent: &Intent) -> Option<Self> {
        let call = submitEpochCall::abi_decode(&intent.call.data).ok()?;
        Some(Ballot {
            epoch: EpochNumber(call.epoch),
            root: call.root,
            total: Wei(call.cumulativeTotal),
            data_hash: keccak256(&call.leaves),
        })
    }

    /// Of a vote; `None` for any other intent.
    pub fn of_vote(intent: &Intent) -> Option<Self> {
        proposal_in(&intent.call.data).map(|proposal| proposal.ballot)
    }
}

/// How the vote on a report stands in one block. There is none where one reporter is enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Reporters that must agree, the one who carries the data among them.
    pub needed: usize,
    /// What a vote for this report is.
    pub hash: B256,
    /// The last vote of each reporter, whatever it was for.
    pub votes: BTreeMap<NodeAddress, B256>,
}

impl Tally {
    /// Reporters whose last vote is for this report.
    pub fn agreeing(&self) -> usize {
        self.votes.values().filter(|vote| **vote == self.hash).count()
    }

    pub fn has_voted(&self, reporter: NodeAddress) -> bool {
        self.votes.get(&reporter) == Some(&self.hash)
    }

    /// Whether `reporter` can carry the data: that counts as its vote.
    pub fn lets_carry(&self, reporter: NodeAddress) -> bool {
        let others = self.agreeing().saturating_sub(usize::from(self.has_voted(reporter)));
        others.saturating_add(1) >= self.needed
    }
}

/// A vote as the contract logged it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CastVote {
    pub reporter: NodeAddress,
    pub hash: B256,
    pub transaction: B256,
    pub block: u64,
}

/// What a transaction voted for, and what it says of the leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposal {
    pub ballot: Ballot,
    /// None when the vote does not say it.
    pub recipe: Option<Recipe>,
}

fn proposal_in(calldata: &[u8]) -> Option<Proposal> {
    let (arguments, rest) = calldata.split_at_checked(ARGUMENTS)?;
    let call = voteEpochCall::abi_decode(arguments).ok()?;
    let ballot = Ballot {
        epoch: EpochNumber(call.epoch),
        root: call.root,
        total: Wei(call.cumulativeTotal),
        data_hash: call.dataHash,
    };
    Some(Proposal { ballot, recipe: unpack_recipe(rest).ok() })
}

impl ChainClient {
    /// How the vote on a report stands; `None` where one reporter is enough. `at` is a final state.
    pub async fn tally(&self, ballot: &Ballot, at: At) -> Result<Option<Tally>, ChainError> {
        let needed = self.quorum(at).await?;
        if needed <= 1 {
            return Ok(None);
        }
        let hash = self.vote_hash(ballot, at).await?;
        let reporters = self.reporters(at).await?;
        let vote_of = |reporter: &NodeAddress| contract::voteOfCall { reporter: (*reporter).into() };
        let votes = self.views(&reporters.iter().map(vote_of).collect::<Vec<_>>(), at).await?;
        Ok(Some(Tally { needed, hash, votes: reporters.into_iter().zip(votes).collect() }))
    }

    /// Reporters that must agree on a report.
    pub async fn quorum(&self, at: At) -> Result<usize, ChainError> {
        Ok(self.view(contract::parametersCall {}, at).await?.inForce.quorum.into())
    }

    /// All reporters, at most 16.
    pub async fn reporters(&self, at: At) -> Result<Vec<NodeAddress>, ChainError> {
        Ok(self.view(contract::reportersCall {}, at).await?.into_iter().map(NodeAddress::from).collect())
    }

    /// What a vote for this report is, as long as no report of its epoch is dropped.
    pub async fn vote_hash(&self, ballot: &Ballot, at: At) -> Result<B256, ChainError> {
        let Ballot { epoch, root, total, data_hash } = *ballot;
        let call = contract::reportHashCall { epoch: epoch.0, root, cumulativeTotal: total.0, dataHash: data_hash };
        self.view(call, at).await
    }

    /// A reporter's last vote, whatever it was for.
    pub async fn vote_of(&self, reporter: NodeAddress, at: At) -> Result<B256, ChainError> {
        self.view(contract::voteOfCall { reporter: reporter.into() }, at).await
    }

    /// The last vote that each account cast for an epoch from block `first` to `last`, which are final.
    pub async fn votes_cast(&self, epoch: EpochNumber, first: u64, last: u64) -> Result<Vec<CastVote>, ChainError> {
        let mut cast = BTreeMap::new();
        self.scan(&[EpochVoted::SIGNATURE_HASH], first, last, |entries, _| {
            for entry in &entries {
                let Some(event) = decode::<EpochVoted>(entry).filter(|event| event.epoch == epoch.0) else { continue };
                let (reporter, transaction) = (NodeAddress::from(event.reporter), entry.transaction);
                cast.insert(reporter, CastVote { reporter, hash: event.hash, transaction, block: entry.block_number });
            }
        })
        .await?;
        Ok(cast.into_values().collect())
    }

    /// What the transaction of a vote voted for; `None` for one that no endpoint has, or that is no direct call of the contract.
    /// Whether it is what was logged, its [`ChainClient::vote_hash`] tells.
    pub async fn proposal(&self, vote: &CastVote) -> Result<Option<Proposal>, ChainError> {
        let found = self.rpc().transaction(vote.transaction).await?;
        let found = found.filter(|found| found.to == Some(self.contract()));
        Ok(found.and_then(|found| proposal_in(&found.data)))
    }

    /// Votes for a report. Signed by a reporter; with the recipe another one can tell whether to agree.
    pub fn vote_intent(&self, ballot: &Ballot, recipe: Option<&Recipe>) -> Intent {
        let Ballot { epoch, root, total, data_hash } = *ballot;
        let key = format!("vote/{}/{epoch}/{root}/{data_hash}", self.contract());
        let call = voteEpochCall { epoch: epoch.0, root, cumulativeTotal: total.0, dataHash: data_hash };
        let mut intent = self.intent(IntentKind::VoteEpoch, key, Wei(0), call);
        if let Some(recipe) = recipe {
            intent.call.data = [&intent.call.data[..], &pack_recipe(recipe)].concat().into();
        }
        intent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{chain::TxCall, reward::RewardSplit};

    const BALLOT: Ballot = Ballot {
        epoch: EpochNumber(7),
        root: B256::repeat_byte(1),
        total: Wei(u128::MAX),
        data_hash: B256::repeat_byte(2),
    };

    fn call(more: &[u8]) -> Vec<u8> {
        let Ballot { epoch, root, total, data_hash } = BALLOT;
        let call = voteEpochCall { epoch: epoch.0, root, cumulativeTotal: total.0, dataHash: data_hash };
        [&call.abi_encode()[..], more].concat()
    }

    #[test]
    fn a_vote_says_what_it_is_for_and_what_the_leaves_were_made_from() {
        let recipe =
            Recipe { statement: B256::repeat_byte(9), block: 5, split: RewardSplit::default(), budget: Wei(3) };
        let with = proposal_in(&call(&pack_recipe(&recipe))).unwrap();
        assert_eq!(with, Proposal { ballot: BALLOT, recipe: Some(recipe) });
        assert_eq!(proposal_in(&call(&[])), Some(Proposal { ballot: BALLOT, recipe: None }));
        assert_eq!(proposal_in(&call(&[1, 2, 3])).unwrap().recipe, None, "what is no recipe is none");
        assert_eq!(proposal_in(&call(&[])[1..]), None);
    }

    #[test]
    fn the_ballot_of_a_submission_is_that_of_the_votes_for_it() {
        let report = EpochReport {
            epoch: EpochNumber(7),
            root: B256::repeat_byte(1),
            cumulative_total: Wei(5),
            leaves: vec![1, 2, 3],
        };
        let data = submitEpochCall {
            epoch: 7,
            root: report.root,
            cumulativeTotal: 5,
            dataHash: report.data_hash(),
            leaves: report.leaves.clone().into(),
        };
        let call = TxCall { to: None, value: Wei(0), data: data.abi_encode().into() };
        let intent = Intent { kind: IntentKind::SubmitEpoch, key: String::new(), call };
        assert_eq!(Ballot::of_submission(&intent), Some(Ballot::of(&report)));
        assert_eq!(Ballot::of_vote(&intent), None);
    }

    #[test]
    fn the_data_counts_as_the_vote_of_whoever_carries_it() {
        let [a, b, c] = [1, 2, 3].map(|byte| NodeAddress([byte; 20]));
        let (hash, other) = (B256::repeat_byte(7), B256::repeat_byte(8));
        let tally =
            |needed, votes: &[(NodeAddress, B256)]| Tally { needed, hash, votes: votes.iter().copied().collect() };
        let one = tally(2, &[(a, hash), (b, other), (c, B256::ZERO)]);
        assert_eq!((one.agreeing(), one.has_voted(a), one.has_voted(b)), (1, true, false));
        assert!(!one.lets_carry(a), "its own vote does not count twice");
        assert!(one.lets_carry(b), "whatever it voted for before");
        let two = tally(3, &[(a, hash), (b, hash), (c, B256::ZERO)]);
        assert_eq!([a, b, c].map(|reporter| two.lets_carry(reporter)), [false, false, true]);
        let three = tally(3, &[(a, hash), (b, hash), (c, hash)]);
        assert_eq!([a, b, c].map(|reporter| three.lets_carry(reporter)), [true, true, true]);
    }
}
