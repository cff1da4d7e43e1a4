//! A Managed node on the contract: registered with its stake once its compute is proven, and out again when it goes. The
//! decision is pure; carrying it out takes one step of the outbox at a time, written to the status before the next one.

use super::{
    dereference::{ChainFacts, Refs},
    validate::{Rewards, ValidatedNode},
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
    chain::{
        ChainError, ChainKey, OutboxRecord,
        registration::{NodeCapability, NodeConsent, NodeRegistration, RegistrationStatus},
    },
    operator::{
        chains::{Session, finding, record_of, status_of},
        context::Context,
        error::Error,
    },
    protocol::internal::{Capability, NodeMode, NodeReport},
};

/// How long a node's consent is good for: far longer than a registration takes, short enough to be harmless.
const CONSENT_SECONDS: u64 = 3600;

/// What there is to do on the chain.
#[derive(Debug, Clone, PartialEq)]
pub enum Move {
    Nothing,
    Register {
        rewards: Rewards,
        capability: NodeCapability,
    },
    /// A transaction is on its way.
    Follow(Box<OutboxRecord>),
}

pub fn next_move(node: &GridNode, validated: &ValidatedNode, refs: &Refs) -> Move {
    let earlier = node.status.as_ref().and_then(|status| status.registration.as_ref());
    if let Some(record) = earlier.and_then(record_of).filter(|record| !record.is_finished()) {
        return Move::Follow(Box::new(record));
    }
    let (Some(rewards), NodeMode::Managed, true) = (validated.rewards, validated.mode, validated.approved) else {
        return Move::Nothing;
    };
    let Ok(ChainFacts { registration: None, .. }) = refs.chain else { return Move::Nothing };
    if blocked(node, earlier) {
        return Move::Nothing;
    }
    match proven(refs.report.as_ref().ok().and_then(Option::as_ref)) {
        Some(capability) => Move::Register { rewards, capability },
        None => Move::Nothing,
    }
}

/// A registration that was reverted is tried again only after somebody changed the node.
fn blocked(node: &GridNode, earlier: Option<&TransactionStatus>) -> bool {
    let seen = node.status.as_ref().and_then(|status| status.observed_generation);
    earlier.is_some_and(|status| status.state == TransactionState::Failed) && seen == node.metadata.generation
}

fn proven(report: Option<&NodeReport>) -> Option<NodeCapability> {
    let Capability { verified, gemm_units, proven_bytes, .. } = &report?.capability;
    let measured = NodeCapability { computing_power: *gemm_units, storage_gib: proven_bytes >> 30 };
    (*verified && (measured.computing_power > 0 || measured.storage_gib > 0)).then_some(measured)
}

/// What came of a move.
#[derive(Debug, Default)]
pub struct Moved {
    /// To be written before the next step; `None` leaves the status as it was.
    pub transaction: Option<TransactionStatus>,
    /// Drops a record of which nothing was ever signed.
    pub dropped: bool,
    pub problem: Option<Finding>,
}

impl Moved {
    fn problem(finding: Finding) -> Self {
        Moved { problem: Some(finding), ..Moved::default() }
    }
}

pub async fn carry_out(
    step: Move,
    validated: &ValidatedNode,
    network: &GridNetwork,
    context: &Context,
) -> Result<Moved, Error> {
    if step == Move::Nothing {
        return Ok(Moved::default());
    }
    let session = match context.chains.session(network, &context.client, &context.config.namespace).await {
        Ok(session) => session,
        Err(problem) => return Ok(Moved::problem(problem.finding)),
    };
    match step {
        Move::Nothing => Ok(Moved::default()),
        Move::Follow(record) => follow(&record, &session, context).await,
        Move::Register { rewards, capability } => {
            match plan(validated, rewards, capability, &session, context.unix_seconds()).await {
                Ok(record) => Ok(Moved { transaction: Some(status_of(&record)?), ..Moved::default() }),
                Err(error) => Ok(Moved::problem(finding(&error))),
            }
        }
    }
}

/// One step. A contract that refuses before anything was signed costs nothing: the plan is dropped and made anew later.
pub async fn follow(record: &OutboxRecord, session: &Session, context: &Context) -> Result<Moved, Error> {
    match session.step(record, context.unix_seconds()).await {
        Ok(next) => Ok(Moved { transaction: Some(status_of(&next)?), ..Moved::default() }),
        Err(error) => {
            let unsigned = record.attempts().is_empty() && !record.is_finished();
            let dropped = unsigned && matches!(error, ChainError::Refused(_) | ChainError::WrongSigner { .. });
            if dropped {
                session.pool.release(&record.intent.key);
            }
            Ok(Moved { dropped, ..Moved::problem(finding(&error)) })
        }
    }
}

async fn plan(
    node: &ValidatedNode,
    rewards: Rewards,
    capability: NodeCapability,
    session: &Session,
    now: u64,
) -> Result<OutboxRecord, ChainError> {
    let (chain, owner) = (&session.chain, session.key.address());
    let key = node.identity.key.as_ref().ok_or_else(|| ChainError::Signing("the node's key is not here".into()))?;
    let consent = NodeConsent {
        node: node.identity.address,
        payout: rewards.payout,
        owner,
        nonce: chain.binding_nonce(node.identity.address).await?,
        deadline: now + CONSENT_SECONDS,
    };
    let key = ChainKey::from_bytes(&key.secret_bytes())?;
    let signature = consent.sign(&key, chain.chain_id(), chain.contract())?;
    let intent = chain.register_intent(&consent, signature, capability, rewards.stake);
    Ok(OutboxRecord::plan(intent, owner, chain.chain_id()))
}

/// The Registered condition.
pub fn registered(
    node: &ValidatedNode,
    refs: &Refs,
    transaction: Option<&TransactionStatus>,
    moved: &Moved,
) -> Finding {
    let facts = match &refs.chain {
        Ok(facts) => facts,
        Err(problem) => return problem.finding.clone(),
    };
    match &facts.registration {
        Some(registration) if registration.status == RegistrationStatus::Exiting => {
            let at = registration.exit_at.unwrap_or_default();
            Finding::no(
                Reason::Exiting,
                format!("the node is leaving the contract; its stake is free at {at} (unix seconds)"),
            )
        }
        Some(registration) => as_asked(registration, node),
        None => unregistered(node, refs, transaction, moved),
    }
}

/// A Managed node is registered by us, with what was asked for then; an External one must be what the admin asks for.
fn as_asked(registration: &NodeRegistration, node: &ValidatedNode) -> Finding {
    let stated = format!(
        "{} XDC staked by {}, paid to {}",
        registration.stake.to_xdc(),
        registration.owner,
        registration.payout
    );
    if let (NodeMode::External, Some(wanted)) = (node.mode, node.rewards)
        && (registration.payout != wanted.payout || registration.stake < wanted.stake)
    {
        let message =
            format!("{stated}; spec.rewards asks for {} XDC, paid to {}", wanted.stake.to_xdc(), wanted.payout);
        return Finding::no(Reason::RegistrationDiffers, message);
    }
    Finding::yes(Reason::Registered, stated)
}

fn unregistered(node: &ValidatedNode, refs: &Refs, transaction: Option<&TransactionStatus>, moved: &Moved) -> Finding {
    if let Some(problem) = &moved.problem {
        return problem.clone();
    }
    match (node.mode, node.rewards, transaction) {
        (NodeMode::External, ..) => Finding::no(
            Reason::NotRegistered,
            format!("node {} is not in the contract; its owner runs: grid-worker register", node.identity.address),
        ),
        (NodeMode::Managed, None, _) => Finding::no(
            Reason::NoRewardsConfigured,
            "spec.rewards is absent: the node works unpaid and is not registered",
        ),
        (_, _, Some(status)) if status.state == TransactionState::Failed => {
            Finding::no(Reason::TransactionReverted, status.message.clone().unwrap_or_default())
        }
        (_, _, Some(status)) => {
            Finding::no(Reason::RegistrationPending, format!("the transaction is {:?}", status.state))
        }
        (_, Some(_), None) if proven(refs.report.as_ref().ok().and_then(Option::as_ref)).is_none() => {
            Finding::no(Reason::WaitingForCapability, "registration waits until the node's compute is proven")
        }
        (_, Some(_), None) => Finding::no(Reason::RegistrationPending, "the transaction is being prepared"),
    }
}

/// Whether a node that goes still has something to settle with the contract that only the reporter can.
pub fn must_exit(registration: Option<&NodeRegistration>, owner: NodeAddress, now: u64) -> bool {
    registration.is_some_and(|registration| {
        registration.owner == owner
            && match registration.status {
                RegistrationStatus::Registered => true,
                RegistrationStatus::Exiting => registration.exit_at.is_some_and(|at| at <= now),
            }
    })
}

#[cfg(test)]
pub(in crate::operator) mod tests {
    use super::*;
    use crate::{
        api::ids::Wei,
        operator::grid_node::validate::{
            tests::{external, managed, refs},
            validate,
        },
        protocol::internal::{Contribution, EvidenceReport},
    };

    pub(in crate::operator) fn report(verified: bool) -> NodeReport {
        let peer_id = crate::protocol::identity::NodeKey::from_bytes(&[2; 32]).unwrap().peer_id();
        NodeReport {
            peer_id,
            node_name: "node-a".into(),
            connected: true,
            reason: String::new(),
            message: String::new(),
            software: String::new(),
            processor: String::new(),
            threads: 1,
            memory_bytes: 0,
            accelerators: Vec::new(),
            models: Vec::new(),
            running: 0,
            schedulable: false,
            queued: 0,
            slots: 1,
            capability: Capability { verified, gemm_units: 500, proven_bytes: 3 << 30, ..Capability::default() },
            evidence: EvidenceReport::default(),
            current_epoch: Contribution::default(),
            last_epoch: Contribution::default(),
        }
    }

    fn on_chain(registration: Option<NodeRegistration>, verified: bool, node: &GridNode) -> Refs {
        let chain = Ok(ChainFacts { registration, claimed: Wei(0) });
        Refs { chain, report: Ok(Some(report(verified))), ..refs(node) }
    }

    /// Of a node that is registered with that stake.
    pub(in crate::operator) fn registration(stake: Wei) -> NodeRegistration {
        NodeRegistration {
            owner: NodeAddress([1; 20]),
            payout: NodeAddress([2; 20]),
            stake,
            computing_power: 1,
            storage_gib: 0,
            registered_at: 1,
            exit_at: None,
            status: RegistrationStatus::Registered,
            index: 1,
            frozen: Wei(0),
        }
    }

    fn decide(node: &GridNode, refs: &Refs) -> Move {
        next_move(node, &validate(node, refs).unwrap(), refs)
    }

    #[test]
    fn a_proven_node_registers_with_what_was_measured() {
        let node = managed();
        let Move::Register { capability, rewards } = decide(&node, &on_chain(None, true, &node)) else { panic!() };
        assert_eq!((capability.computing_power, capability.storage_gib, rewards.stake), (500, 3, Wei::XDC));
    }

    #[test]
    fn nothing_is_sent_before_the_proof_after_the_registration_or_while_the_chain_is_away() {
        let node = managed();
        assert_eq!(decide(&node, &on_chain(None, false, &node)), Move::Nothing);
        assert_eq!(decide(&node, &on_chain(Some(registration(Wei::XDC)), true, &node)), Move::Nothing);
        let away = Refs { report: Ok(Some(report(true))), ..refs(&node) };
        assert_eq!(decide(&node, &away), Move::Nothing);
    }

    #[test]
    fn an_external_node_is_never_registered_by_us() {
        let mut node = external();
        node.spec.approved = Some(true);
        let found = on_chain(None, true, &node);
        assert_eq!(decide(&node, &found), Move::Nothing);
        let finding = registered(&validate(&node, &found).unwrap(), &found, None, &Moved::default());
        assert!(finding.message.contains("grid-worker register"), "{}", finding.message);
    }

    #[test]
    fn an_external_node_that_staked_less_than_asked_is_not_accepted() {
        let mut node = external();
        node.spec.rewards = managed().spec.rewards;
        let found = on_chain(Some(registration(Wei(1))), true, &node);
        let finding = registered(&validate(&node, &found).unwrap(), &found, None, &Moved::default());
        assert_eq!(finding.reason, "RegistrationDiffers");
    }

    #[test]
    fn only_the_owner_exits_and_only_when_it_can() {
        let owner = NodeAddress([1; 20]);
        let exiting =
            NodeRegistration { status: RegistrationStatus::Exiting, exit_at: Some(10), ..registration(Wei::XDC) };
        assert!(must_exit(Some(&registration(Wei::XDC)), owner, 0));
        assert!(!must_exit(Some(&registration(Wei::XDC)), NodeAddress([9; 20]), 0));
        assert!(!must_exit(Some(&exiting), owner, 9) && must_exit(Some(&exiting), owner, 10));
        assert!(!must_exit(None, owner, 0));
    }
}
