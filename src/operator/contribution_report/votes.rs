//! Our vote for a report, where the contract wants several reporters to agree, and how it stands with those of the others. Whoever
//! makes up the number carries the report, which counts as its vote; that may be us or another reporter. Decided from what is
//! written down and a final block, so a restart decides the same.

use super::{
    decide::{ChainView, Step, Stuck},
    drive::{self, Slot},
    report::Report,
    round::Round,
    status::Said,
};
use crate::{
    api::{conditions::Finding, ids::NodeAddress, reasons::Reason},
    chain::{
        At, ChainError, Intent, OutboxState,
        logs::MAX_BLOCKS,
        votes::{Ballot, Tally},
    },
    operator::error::Error,
};

/// Blocks in which votes of others are looked for: five questions to an endpoint, more than five hours.
const LOOK_BACK: u64 = 5 * MAX_BLOCKS;

/// How a vote stands, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poll {
    /// Reporters who voted for the report.
    pub agreeing: usize,
    /// Reporters that must agree.
    pub needed: usize,
    /// Reporters who voted for another report of the same epoch.
    pub against: Vec<NodeAddress>,
}

/// What to do about a vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Voting {
    /// With us enough agree: the report can go.
    Carry,
    Vote,
    /// The others have to vote.
    Wait,
    /// The endpoint has not seen the block of our vote.
    Lags,
    Stuck(Stuck),
}

/// Pure. `tally` is that of the final block `final_block`.
pub fn decide(report: &Report, ballot: &Ballot, tally: &Tally, me: NodeAddress, final_block: u64) -> Voting {
    if tally.lets_carry(me) {
        return Voting::Carry;
    }
    if tally.has_voted(me) {
        return Voting::Wait;
    }
    let Some(vote) = &report.vote else { return Voting::Vote };
    match &vote.state {
        OutboxState::Finalized { inclusion } if vote.from == me && Ballot::of_vote(&vote.intent) == Some(*ballot) => {
            if final_block < inclusion.block_number {
                Voting::Lags
            } else {
                Voting::Stuck(Stuck::VoteGone)
            }
        }
        OutboxState::Failed { refusal, .. } if !refusal.passes_with_time && refusal.name != "WrongEpoch" => {
            Voting::Stuck(Stuck::Reverted(refusal.to_string()))
        }
        _ => Voting::Vote,
    }
}

impl Round<'_> {
    /// Votes for the report that `submission` sends. `None`: it can be sent.
    pub(super) async fn vote(&self, report: &mut Report, submission: &Intent) -> Result<Option<Said>, Error> {
        let Some(ballot) = Ballot::of_submission(submission) else { return Ok(None) };
        let said = |step, trouble| Ok(Some(Said { step, trouble }));
        let me = self.session.key.address();
        let tally = match self.session.chain.tally(&ballot, At::Hash(self.chain.final_hash)).await {
            Ok(None) => return Ok(None),
            Ok(Some(tally)) => tally,
            Err(error) => return said(Step::Submit, Some(self.trouble(&error))),
        };
        match decide(report, &ballot, &tally, me, self.chain.final_block) {
            Voting::Carry => {
                drive::plan(report, Slot::Submit, submission.clone(), &self.session, self.context).await?;
                Ok(None)
            }
            Voting::Lags => said(Step::Wait("the endpoint lags behind the final block"), None),
            Voting::Stuck(stuck) => said(Step::Stuck(stuck), None),
            Voting::Wait => match self.against(report, &ballot, &tally).await {
                Ok(against) => {
                    let poll = Poll { agreeing: tally.agreeing(), needed: tally.needed, against };
                    said(Step::Votes(poll), None)
                }
                Err(error) => said(Step::Submit, Some(self.trouble(&error))),
            },
            Voting::Vote => {
                // Others vote for these very bytes: from now on nothing else is sent.
                drive::plan(report, Slot::Submit, submission.clone(), &self.session, self.context).await?;
                let intent = self.session.chain.vote_intent(&ballot, report.recipe.as_ref());
                self.cast(report, intent).await.map(Some)
            }
        }
    }

    /// Takes our vote as far as it goes now.
    pub(super) async fn cast(&self, report: &mut Report, intent: Intent) -> Result<Said, Error> {
        let outcome = drive::advance(report, Slot::Vote, || intent, &self.session, self.context).await?;
        Ok(Said { step: Step::Vote, trouble: outcome.err().map(|error| self.trouble(&error)) })
    }

    /// Who voted for something else. Only those whose last vote it still is.
    async fn against(&self, report: &Report, ballot: &Ballot, tally: &Tally) -> Result<Vec<NodeAddress>, ChainError> {
        let ChainView { final_block, .. } = self.chain;
        let planned_at = report.recipe.map_or(0, |recipe| recipe.block);
        let first = planned_at.max(final_block.saturating_sub(LOOK_BACK - 1));
        let cast = self.session.chain.votes_cast(ballot.epoch, first, final_block).await?;
        let against = cast.into_iter().filter(|vote| vote.hash != tally.hash);
        Ok(against
            .filter(|vote| tally.votes.get(&vote.reporter) == Some(&vote.hash))
            .map(|vote| vote.reporter)
            .collect())
    }
}

impl Poll {
    /// What a condition says.
    pub fn message(&self) -> String {
        let Poll { agreeing, needed, against } = self;
        let mut message = format!("waiting for votes: {agreeing} of {needed}");
        if !against.is_empty() {
            let named: Vec<_> = against.iter().map(ToString::to_string).collect();
            message = format!("{message}; another report of this epoch has the vote of {}", named.join(", "));
        }
        message
    }

    /// What is said of it.
    pub fn finding(&self) -> Finding {
        let reason = if self.against.is_empty() { Reason::WaitingForVotes } else { Reason::VotesDiffer };
        Finding::no(reason, self.message())
    }
}

#[cfg(test)]
mod tests {
    use alloy::{primitives::B256, sol_types::SolCall};

    use super::{super::decide::tests::report, *};
    use crate::{
        api::ids::{EpochNumber, Wei},
        chain::{Inclusion, IntentKind, OutboxRecord, Refusal, TxCall, bindings::GridComputingRewards::voteEpochCall},
    };

    const ME: NodeAddress = NodeAddress([1; 20]);
    const OTHER: NodeAddress = NodeAddress([2; 20]);
    const HASH: B256 = B256::repeat_byte(7);
    const BALLOT: Ballot =
        Ballot { epoch: EpochNumber(3), root: B256::ZERO, total: Wei(5), data_hash: B256::repeat_byte(3) };

    fn tally(votes: &[(NodeAddress, B256)]) -> Tally {
        Tally { needed: 2, hash: HASH, votes: votes.iter().copied().collect() }
    }

    fn voted(state: OutboxState) -> Report {
        let Ballot { epoch, root, total, data_hash } = BALLOT;
        let call = voteEpochCall { epoch: epoch.0, root, cumulativeTotal: total.0, dataHash: data_hash };
        let call = TxCall { to: None, value: Wei(0), data: call.abi_encode().into() };
        let intent = Intent { kind: IntentKind::VoteEpoch, key: String::new(), call };
        let record = OutboxRecord { state, ..OutboxRecord::plan(intent, ME, 51) };
        Report { vote: Some(record), ..report(3) }
    }

    fn inclusion(block_number: u64) -> Inclusion {
        let (hash, block_hash) = (B256::ZERO, B256::ZERO);
        Inclusion { hash, block_number, block_hash, succeeded: true, gas_used: 0, fee: Wei(0), contract: None }
    }

    #[test]
    fn we_vote_once_then_wait_and_whoever_makes_up_the_number_carries_the_report() {
        let none = tally(&[(ME, B256::ZERO), (OTHER, B256::ZERO)]);
        assert_eq!(decide(&report(3), &BALLOT, &none, ME, 9), Voting::Vote);
        let ours = tally(&[(ME, HASH), (OTHER, B256::ZERO)]);
        assert_eq!(decide(&report(3), &BALLOT, &ours, ME, 9), Voting::Wait);
        for mine in [B256::ZERO, HASH] {
            let theirs = tally(&[(ME, mine), (OTHER, HASH)]);
            assert_eq!(decide(&report(3), &BALLOT, &theirs, ME, 9), Voting::Carry);
        }
    }

    #[test]
    fn a_vote_that_does_not_stand_any_more_is_a_persons_business() {
        let none = tally(&[(ME, B256::ZERO), (OTHER, B256::ZERO)]);
        let report = voted(OutboxState::Finalized { inclusion: inclusion(9) });
        assert_eq!(decide(&report, &BALLOT, &none, ME, 8), Voting::Lags);
        assert_eq!(decide(&report, &BALLOT, &none, ME, 9), Voting::Stuck(Stuck::VoteGone));
        assert_eq!(decide(&report, &BALLOT, &none, OTHER, 9), Voting::Vote, "another key has not voted yet");
        let other = Ballot { root: HASH, ..BALLOT };
        assert_eq!(decide(&report, &other, &none, ME, 9), Voting::Vote, "that was for another report");
    }

    #[test]
    fn a_vote_that_reverted_is_cast_again_if_that_can_help() {
        let none = tally(&[(ME, B256::ZERO), (OTHER, B256::ZERO)]);
        let failed = |name| OutboxState::Failed { inclusion: inclusion(9), refusal: Refusal::new(name, "no") };
        assert_eq!(decide(&voted(failed("WrongEpoch")), &BALLOT, &none, ME, 9), Voting::Vote);
        let stuck = decide(&voted(failed("MissingRole")), &BALLOT, &none, ME, 9);
        assert!(matches!(stuck, Voting::Stuck(Stuck::Reverted(_))), "{stuck:?}");
    }

    #[test]
    fn a_poll_says_how_many_agree_and_who_does_not() {
        let poll = Poll { agreeing: 1, needed: 2, against: vec![] };
        assert_eq!(poll.finding().reason, "WaitingForVotes");
        assert_eq!(poll.message(), "waiting for votes: 1 of 2");
        let split = Poll { against: vec![OTHER], ..poll };
        assert_eq!(split.finding().reason, "VotesDiffer");
        assert!(split.message().contains(&OTHER.to_string()));
    }
}
