//! What other reporters voted for.

use std::collections::BTreeMap;

use alloy::primitives::B256;

use super::Voter;
use crate::{
    api::ids::EpochNumber,
    chain::{
        At,
        votes::{Ballot, Proposal},
    },
    cli::{CliError, audit_epoch::chain_error},
    reward::Recipe,
};

/// A report that another reporter voted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposed {
    /// What a vote for it is.
    pub hash: B256,
    pub ballot: Ballot,
    /// What that reporter says that it was made from.
    pub recipe: Recipe,
    /// Its vote.
    pub transaction: B256,
    pub block: u64,
}

impl Voter<'_> {
    /// What others voted for in final blocks since the epoch was over, each report once. Votes for a report that was dropped since do
    /// not count, nor do those that do not say what they are about.
    pub(super) async fn proposed(&self, epoch: EpochNumber) -> Result<Vec<Proposed>, CliError> {
        let last = self.history.until;
        let first = self.chain.block_since(self.parameters.epoch_end(epoch), last).await.map_err(chain_error)?;
        let cast = self.chain.votes_cast(epoch, first, last).await.map_err(chain_error)?;
        let mut found = BTreeMap::new();
        for vote in cast.iter().filter(|vote| vote.reporter != self.signer.address()) {
            let proposal = self.chain.proposal(vote).await.map_err(chain_error)?;
            let Some(Proposal { ballot, recipe: Some(recipe) }) = proposal else { continue };
            // An endpoint could name any transaction: what counts is the hash that the contract keeps.
            if self.chain.vote_hash(&ballot, At::Finalized).await.map_err(chain_error)? != vote.hash {
                continue;
            }
            let (hash, transaction, block) = (vote.hash, vote.transaction, vote.block);
            found.entry(hash).or_insert(Proposed { hash, ballot, recipe, transaction, block });
        }
        Ok(found.into_values().collect())
    }
}
