//! Where a Managed node's rewards are paid, when spec.rewards.payoutAddress changes after the registration: asked of the contract, which
//! lets two days pass, and applied after them. The decision is pure and made at one final block; each transaction is written to
//! the status step by step.

use super::{
    dereference::Refs,
    registration::{self, Moved},
    validate::ValidatedNode,
};
use crate::{
    api::{
        conditions::Finding,
        grid_network::GridNetwork,
        grid_node::GridNode,
        ids::NodeAddress,
        reasons::Reason,
        refs::{TransactionState, TransactionStatus},
    },
    chain::{At, ChainClient, ChainError, IntentKind, OutboxRecord, registration::PayoutRequest},
    operator::{
        chains::{self, Session, record_of, status_of},
        context::Context,
        contribution_report::status::time,
        error::Error,
        write,
    },
    protocol::internal::NodeMode,
};

/// What a final block says about a node's payout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayoutFacts {
    pub owner: NodeAddress,
    /// Where claims are paid.
    pub current: NodeAddress,
    /// Where spec.rewards wants them paid.
    pub wanted: NodeAddress,
    pub request: Option<PayoutRequest>,
    /// Unix seconds of the block.
    pub time: u64,
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// A transaction is on its way.
    Follow(Box<OutboxRecord>),
    Request,
    /// The contract still waits, until then (unix seconds).
    Cool(u64),
    Apply,
    /// The stake is another account's, and only that can ask.
    NotOurs,
    /// The last transaction was reverted, and nobody changed the node since.
    Blocked(String),
}

/// What came of it.
#[derive(Debug, Default)]
pub struct PayoutChange {
    pub moved: Moved,
    /// Absent when rewards are paid where they are wanted.
    pub finding: Option<Finding>,
}

/// One step towards the payout address that the spec asks for.
pub async fn change(
    node: &GridNode,
    found: &ValidatedNode,
    refs: &Refs,
    context: &Context,
) -> Result<PayoutChange, Error> {
    let earlier = node.status.as_ref().and_then(|status| status.payout.as_ref());
    let (Some(network), Some(wanted)) = (&refs.network, wanted(found, refs, earlier)) else {
        return Ok(PayoutChange::default());
    };
    let session = match context.chains.session(network, &context.client, &context.config.namespace).await {
        Ok(session) => session,
        Err(problem) => return Ok(unknown(problem.finding)),
    };
    let facts = match facts(&session.chain, found.identity.address, wanted).await {
        Ok(Some(facts)) => facts,
        Ok(None) => return Ok(PayoutChange::default()),
        Err(error) => return Ok(unknown(chains::finding(&error))),
    };
    let step = next(&facts, earlier, is_unchanged(node), session.key.address());
    let moved = carry_out(&step, &facts, found.identity.address, &session, context).await?;
    if is_applied(&step, &moved) {
        let note = format!("rewards of the node are paid to {} from now on", facts.wanted);
        write::publish(context, node, &write::note("Payout", Reason::PayoutApplied.as_str(), note)).await;
    }
    let finding = moved.problem.clone().or_else(|| finding(&step, &facts, network));
    Ok(PayoutChange { moved, finding })
}

/// The address that is to be looked after; `None` while there is nothing that could have to be done, which asks nobody.
fn wanted(found: &ValidatedNode, refs: &Refs, earlier: Option<&TransactionStatus>) -> Option<NodeAddress> {
    let registration = refs.chain.as_ref().ok()?.registration?;
    let wanted = found.rewards.filter(|_| found.mode == NodeMode::Managed)?.payout;
    // After an applied change the contract keeps no request; after a mere request it may keep one for another address.
    let open = earlier
        .and_then(record_of)
        .is_some_and(|record| !record.is_finished() || record.intent.kind == IntentKind::RequestPayout);
    (registration.payout != wanted || open).then_some(wanted)
}

/// All at one final block: what is decided here is signed. `None` for a node that the contract does not have there yet.
async fn facts(chain: &ChainClient, node: NodeAddress, wanted: NodeAddress) -> Result<Option<PayoutFacts>, ChainError> {
    let last = chain.rpc().agreed().block(At::Finalized).await?;
    let Some(registration) = chain.node(node, At::Hash(last.hash)).await? else { return Ok(None) };
    let request = chain.payout_request(node, At::Hash(last.hash)).await?;
    Ok(Some(PayoutFacts {
        owner: registration.owner,
        current: registration.payout,
        wanted,
        request,
        time: last.timestamp,
    }))
}

fn is_unchanged(node: &GridNode) -> bool {
    node.status.as_ref().and_then(|status| status.observed_generation) == node.metadata.generation
}

/// Decides. `ours`: the account that signs.
pub fn next(facts: &PayoutFacts, earlier: Option<&TransactionStatus>, unchanged: bool, ours: NodeAddress) -> Step {
    if let Some(record) = earlier.and_then(record_of).filter(|record| !record.is_finished()) {
        return Step::Follow(Box::new(record));
    }
    let differs = facts.current != facts.wanted;
    // A request for another address would be anybody's to apply: one for the present address takes its place.
    let stray = facts.request.is_some_and(|request| request.payout != facts.wanted);
    if !differs && !stray {
        return Step::Nothing;
    }
    if facts.owner != ours {
        return if differs { Step::NotOurs } else { Step::Nothing };
    }
    match (earlier, facts.request) {
        (Some(status), _) if status.state == TransactionState::Failed && unchanged => {
            Step::Blocked(status.message.clone().unwrap_or_default())
        }
        (_, Some(request)) if request.payout == facts.wanted && facts.time >= request.applicable_at => Step::Apply,
        (_, Some(request)) if request.payout == facts.wanted => Step::Cool(request.applicable_at),
        _ => Step::Request,
    }
}

async fn carry_out(
    step: &Step,
    facts: &PayoutFacts,
    node: NodeAddress,
    session: &Session,
    context: &Context,
) -> Result<Moved, Error> {
    let intent = match step {
        Step::Follow(record) => return registration::follow(record, session, context).await,
        Step::Request => session.chain.request_payout_intent(node, facts.wanted),
        Step::Apply => session.chain.apply_payout_intent(node, facts.wanted),
        Step::Nothing | Step::Cool(_) | Step::NotOurs | Step::Blocked(_) => return Ok(Moved::default()),
    };
    let record = OutboxRecord::plan(intent, session.key.address(), session.chain.chain_id());
    Ok(Moved { transaction: Some(status_of(&record)?), ..Moved::default() })
}

fn is_applied(step: &Step, moved: &Moved) -> bool {
    let Step::Follow(record) = step else { return false };
    let final_ = moved.transaction.as_ref().is_some_and(|status| status.state == TransactionState::Finalized);
    record.intent.kind == IntentKind::ApplyPayout && final_
}

fn unknown(finding: Finding) -> PayoutChange {
    PayoutChange { finding: Some(finding), ..PayoutChange::default() }
}

fn finding(step: &Step, facts: &PayoutFacts, network: &GridNetwork) -> Option<Finding> {
    let PayoutFacts { owner, current, wanted, .. } = facts;
    if current == wanted {
        return None;
    }
    Some(match step {
        Step::NotOurs => {
            let message = format!(
                "spec.rewards.payoutAddress is {wanted}, but the contract pays {current}; the node's owner {owner} asks it for another with requestPayout of {}, and two days later with applyPayout",
                network.spec.chain.contract
            );
            Finding::yes(Reason::PayoutFixed, message)
        }
        Step::Blocked(why) => Finding::yes(Reason::TransactionReverted, why.clone()),
        Step::Cool(until) => {
            let message = format!("rewards are paid to {current} until {}, then to {wanted}", time(*until));
            Finding::yes(Reason::PayoutCooling, message)
        }
        Step::Apply => {
            Finding::yes(Reason::PayoutCooling, format!("the two days are over; payouts are about to go to {wanted}"))
        }
        Step::Follow(record) if record.intent.kind == IntentKind::ApplyPayout => {
            Finding::yes(Reason::PayoutCooling, format!("the two days are over; payouts are about to go to {wanted}"))
        }
        Step::Nothing | Step::Request | Step::Follow(_) => {
            let message = format!(
                "the contract is asked to pay {wanted} instead of {current}; that applies two days after it has the request"
            );
            Finding::yes(Reason::PayoutRequested, message)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::ids::Wei,
        chain::{Intent, OutboxState, TxCall},
    };

    const OURS: NodeAddress = NodeAddress([1; 20]);
    const OLD: NodeAddress = NodeAddress([2; 20]);
    const NEW: NodeAddress = NodeAddress([3; 20]);

    fn facts(current: NodeAddress, wanted: NodeAddress, request: Option<(NodeAddress, u64)>, time: u64) -> PayoutFacts {
        let request = request.map(|(payout, applicable_at)| PayoutRequest { payout, applicable_at });
        PayoutFacts { owner: OURS, current, wanted, request, time }
    }

    fn status(kind: IntentKind, state: OutboxState) -> TransactionStatus {
        let call = TxCall { to: None, value: Wei(0), data: Default::default() };
        let record = OutboxRecord::plan(Intent { kind, key: "k".into(), call }, OURS, 51);
        status_of(&OutboxRecord { state, ..record }).unwrap()
    }

    fn decide(facts: PayoutFacts) -> Step {
        next(&facts, None, true, OURS)
    }

    #[test]
    fn a_change_is_requested_waits_for_the_contracts_two_days_and_is_applied() {
        assert_eq!(decide(facts(OLD, NEW, None, 10)), Step::Request);
        assert_eq!(decide(facts(OLD, NEW, Some((NEW, 100)), 99)), Step::Cool(100));
        assert_eq!(decide(facts(OLD, NEW, Some((NEW, 100)), 100)), Step::Apply);
        assert_eq!(decide(facts(NEW, NEW, None, 101)), Step::Nothing);
    }

    #[test]
    fn another_wish_meanwhile_starts_the_two_days_anew_and_the_old_one_takes_the_request_back() {
        assert_eq!(decide(facts(OLD, NEW, Some((NodeAddress([4; 20]), 100)), 200)), Step::Request);
        assert_eq!(decide(facts(OLD, OLD, Some((NEW, 100)), 200)), Step::Request, "anybody could apply it");
        assert_eq!(decide(facts(OLD, OLD, Some((OLD, 100)), 200)), Step::Nothing);
    }

    #[test]
    fn only_the_owner_asks_and_what_was_reverted_waits_for_a_person() {
        let foreign = PayoutFacts { owner: NodeAddress([9; 20]), ..facts(OLD, NEW, None, 1) };
        assert_eq!(decide(foreign), Step::NotOurs);
        let mut failed = status(IntentKind::RequestPayout, OutboxState::Planned);
        (failed.state, failed.message) = (TransactionState::Failed, Some("ZeroPayout".into()));
        let finished = TransactionStatus { record: Default::default(), ..failed };
        assert_eq!(next(&facts(OLD, NEW, None, 1), Some(&finished), true, OURS), Step::Blocked("ZeroPayout".into()));
        assert_eq!(next(&facts(OLD, NEW, None, 1), Some(&finished), false, OURS), Step::Request);
    }

    #[test]
    fn a_transaction_that_is_on_its_way_is_followed_whatever_the_spec_says_now() {
        let planned = status(IntentKind::RequestPayout, OutboxState::Planned);
        assert!(matches!(next(&facts(OLD, OLD, None, 1), Some(&planned), true, OURS), Step::Follow(_)));
    }
}
