//! A node that is deleted before the case against it is where it has to be. What is signed is followed to its end, or its nonce blocks the
//! slasher's account; a convicted node is accused before it leaves the contract, or nothing would be left to take. From then on the
//! case needs no GridNode: `operator::slash_cases` executes it.

use super::{
    Step, next,
    proposal::{self, Proposed},
    unread,
};
use crate::{
    api::{grid_network::GridNetwork, grid_node::GridNode, ids::NodeAddress, refs::TransactionStatus},
    chain::OutboxRecord,
    operator::{
        chains::record_of,
        context::Context,
        error::Error,
        grid_node::{
            dereference::Refs,
            drain::{self, Written},
            registration::Moved,
        },
    },
};

const OPENING: &str = "a slash case against it is being opened";

/// What the node waits for.
pub struct Open {
    /// A sentence for people.
    pub message: String,
    /// To be written before the next step.
    pub written: Option<Written>,
}

impl Open {
    fn told(message: impl Into<String>) -> Self {
        Open { message: message.into(), written: None }
    }
}

/// One step. `None` when there is nothing to wait for.
pub async fn settle(
    node: &GridNode,
    address: NodeAddress,
    refs: &Refs,
    context: &Context,
) -> Result<Option<Open>, Error> {
    let Some(network) = &refs.network else { return Ok(None) };
    let status = node.status.as_ref();
    if let Some(record) = status.and_then(|status| signed(status.slash.as_ref())) {
        return follow(&record, |status| Written::Slash(Some(status)), network, context).await.map(Some);
    }
    if let Some(record) = status.and_then(|status| signed(status.slash_execution.as_ref())) {
        return follow(&record, Written::SlashExecution, network, context).await.map(Some);
    }
    if network.spec.chain.slasher_secret_ref.is_none() {
        return Ok(None);
    }
    let proposed = match next(node, refs, network) {
        Step::Nothing | Step::Watch(_) | Step::Show(_) => return Ok(None),
        Step::Drop(record) => {
            context.chains.forget(&record).await;
            return Ok(None);
        }
        Step::Unread(problem) => return Ok(Some(Open::told(unread(&problem).message))),
        Step::Blocked(why) => return Ok(Some(Open::told(why))),
        Step::Follow(record) if drain::is_late(node, context) => {
            // What would be signed now could not be written down any more.
            context.chains.forget(&record).await;
            return Ok(Some(Open::told(OPENING)));
        }
        Step::Follow(record) => Proposed::UnderWay(proposal::follow(&record, network, context).await?),
        Step::Propose(accusation) => proposal::propose(address, accusation, network, context).await?,
    };
    Ok(open(proposed))
}

fn signed(written: Option<&TransactionStatus>) -> Option<OutboxRecord> {
    written.and_then(record_of).filter(OutboxRecord::is_under_way)
}

async fn follow(
    record: &OutboxRecord,
    place: fn(TransactionStatus) -> Written,
    network: &GridNetwork,
    context: &Context,
) -> Result<Open, Error> {
    let Moved { transaction, problem, .. } = proposal::follow(record, network, context).await?;
    let message = problem
        .map_or_else(|| "a slash case against it is being opened or executed".to_owned(), |problem| problem.message);
    Ok(Open { message, written: transaction.map(place) })
}

/// A case on the same evidence needs nobody here, and what cannot be done however long it waits holds no node up.
fn open(proposed: Proposed) -> Option<Open> {
    let Proposed::UnderWay(Moved { transaction, dropped, problem }) = proposed else { return None };
    let message = problem.map_or_else(|| OPENING.to_owned(), |problem| problem.message);
    let written = (dropped || transaction.is_some()).then_some(Written::Slash(transaction));
    Some(Open { message, written })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{conditions::Finding, ids::Wei, reasons::Reason},
        chain::{
            Intent, IntentKind, OutboxState, TxCall,
            slashing::{CaseState, SlashCase},
        },
        operator::{chains::status_of, grid_node::slashing::CaseFacts},
    };

    fn written(state: OutboxState) -> TransactionStatus {
        let call = TxCall { to: None, value: Wei(0), data: Default::default() };
        let intent = Intent { kind: IntentKind::ProposeSlash, key: "k".into(), call };
        status_of(&OutboxRecord { state, ..OutboxRecord::plan(intent, NodeAddress([5; 20]), 51) }).unwrap()
    }

    #[test]
    fn a_node_waits_for_its_case_and_not_for_one_that_is_open_or_cannot_be_opened() {
        let planned = Moved { transaction: Some(written(OutboxState::Planned)), ..Moved::default() };
        let waiting = open(Proposed::UnderWay(planned)).unwrap();
        assert_eq!(waiting.message, OPENING);
        assert!(matches!(waiting.written, Some(Written::Slash(Some(_)))));
        let node = NodeAddress([1; 20]);
        let case = SlashCase { node, amount: Wei::XDC, appeal_until: 1, ruling_until: 2, state: CaseState::Cancelled };
        assert!(open(Proposed::Before(CaseFacts { id: 3, case, contract: node, time: 9 })).is_none());
        assert!(open(Proposed::KeptBack(proposal::kept_back())).is_none());
    }

    #[test]
    fn a_proposal_that_is_refused_before_it_is_signed_is_written_down_no_more() {
        let problem = Some(Finding::no(Reason::TransactionReverted, "the contract refuses"));
        let refused = open(Proposed::UnderWay(Moved { dropped: true, problem, ..Moved::default() })).unwrap();
        assert_eq!(refused.message, "the contract refuses");
        assert!(matches!(refused.written, Some(Written::Slash(None))));
        let away = Some(Finding::unknown(Reason::RpcUnreachable, "nobody answers"));
        let waiting = open(Proposed::UnderWay(Moved { problem: away, ..Moved::default() })).unwrap();
        assert!(waiting.written.is_none(), "what is written down stands");
    }

    #[test]
    fn only_what_is_signed_is_followed_whatever_is_proven() {
        assert!(signed(Some(&written(OutboxState::Signed { attempts: Vec::new() }))).is_some());
        assert!(signed(Some(&written(OutboxState::Planned))).is_none());
        assert!(signed(None).is_none());
    }
}
