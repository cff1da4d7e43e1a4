//! IO: opens a case, one step at a time. Not where there is one on the same evidence already: a GridNode that was made anew under its old
//! key remembers no proposal, another slasher was faster, or an arbiter dropped it. Such a case is the network's to execute
//! (`operator::slash_cases`).

use super::{
    Accusation,
    execution::{self, CaseFacts},
};
use crate::{
    api::{conditions::Finding, grid_network::GridNetwork, ids::NodeAddress, reasons::Reason},
    chain::{ChainError, OutboxRecord, slashing::Slashing},
    operator::{
        chains::{self, Session, status_of},
        context::Context,
        error::Error,
        grid_node::registration::{self, Moved},
    },
};

/// What became of a proposal.
pub enum Proposed {
    /// A final block has a case on the same evidence.
    Before(CaseFacts),
    /// Nobody can be accused, or not now, and waiting changes nothing.
    KeptBack(Finding),
    /// It is on its way, or something has to be mended first.
    UnderWay(Moved),
}

/// Takes a proposal that is written down one step further.
pub async fn follow(record: &OutboxRecord, network: &GridNetwork, context: &Context) -> Result<Moved, Error> {
    match context.chains.slasher_session(network, &context.client, &context.config.namespace).await {
        Ok(session) => registration::follow(record, &session, context).await,
        Err(problem) => Ok(stopped(problem.finding)),
    }
}

fn stopped(problem: Finding) -> Moved {
    Moved { problem: Some(problem), ..Moved::default() }
}

/// Looks for a case on the same evidence in a final block first. One that is in no final block yet makes the contract refuse ours.
pub async fn propose(
    node: NodeAddress,
    accusation: Accusation,
    network: &GridNetwork,
    context: &Context,
) -> Result<Proposed, Error> {
    match execution::find(network, (node, accusation.evidence), context).await {
        Ok(Some(case)) => return Ok(Proposed::Before(case)),
        Ok(None) if network.spec.rewards.dry_run => return Ok(Proposed::KeptBack(kept_back())),
        Ok(None) => {}
        Err(problem) => return Ok(Proposed::UnderWay(stopped(problem))),
    }
    let session = match context.chains.slasher_session(network, &context.client, &context.config.namespace).await {
        Ok(session) => session,
        Err(problem) => return Ok(Proposed::UnderWay(stopped(problem.finding))),
    };
    match plan(node, accusation, &session).await {
        Ok(Some(record)) => {
            Ok(Proposed::UnderWay(Moved { transaction: Some(status_of(&record)?), ..Moved::default() }))
        }
        Ok(None) => {
            let message = "the contract has no GridSlashing bound to it: nobody can be slashed";
            Ok(Proposed::KeptBack(Finding::yes(Reason::SlashPending, message)))
        }
        Err(error) => Ok(Proposed::UnderWay(stopped(chains::finding(&error)))),
    }
}

async fn plan(
    node: NodeAddress,
    accusation: Accusation,
    session: &Session,
) -> Result<Option<OutboxRecord>, ChainError> {
    let Some(slashing) = Slashing::of(&session.chain).await? else { return Ok(None) };
    let intent = slashing.propose_intent(node, accusation.amount, accusation.evidence);
    Ok(intent.map(|intent| OutboxRecord::plan(intent, session.key.address(), session.chain.chain_id())))
}

/// What a dry run says of a convicted node.
pub fn kept_back() -> Finding {
    let message = "failed audits prove that the node cheats; spec.rewards.dryRun keeps a slash case from the chain";
    Finding::yes(Reason::DryRun, message)
}
