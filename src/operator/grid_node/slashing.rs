//! A slash case against a node, once its failed audits prove enough: proposed to GridSlashing by an account of its own, once, and then
//! shown as it goes on. What it takes is decided by the contract's rules: the owner can appeal, an arbiter rules. Audits that were
//! inconclusive are no part of the proof. The decision is pure; the transaction is written to the status step by step. `execution` ends a
//! case that nobody appealed against.

mod execution;

use alloy::primitives::B256;

use super::{
    dereference::Refs,
    registration::{self, Moved},
};
use crate::{
    api::{
        conditions::Finding,
        grid_network::GridNetwork,
        grid_node::GridNode,
        ids::{NodeAddress, Wei},
        reasons::Reason,
        refs::TransactionState,
    },
    chain::{
        ChainError, Inclusion, OutboxRecord,
        registration::NodeRegistration,
        slashing::{CaseState, Slashing},
    },
    operator::{
        chains::{self, Session, record_of, status_of},
        context::Context,
        contribution_report::status::time,
        error::Error,
    },
};
use execution::CaseFacts;

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// The proposal is on its way.
    Follow(Box<OutboxRecord>),
    Propose {
        evidence: B256,
        amount: Wei,
    },
    /// It was proposed.
    Watch(Inclusion),
    /// The proposal was reverted, and nobody changed the node since.
    Blocked(String),
}

/// What came of it.
#[derive(Debug, Default)]
pub struct SlashSeen {
    /// The proposal.
    pub moved: Moved,
    /// The execution of the case that it opened.
    pub execution: Moved,
    /// Absent when there is no case, or when it was dropped.
    pub finding: Option<Finding>,
}

impl SlashSeen {
    fn told(finding: Finding) -> Self {
        SlashSeen { finding: Some(finding), ..SlashSeen::default() }
    }
}

/// One step of the case against a node, if there is one.
pub async fn pursue(node: &GridNode, address: NodeAddress, refs: &Refs, context: &Context) -> Result<SlashSeen, Error> {
    let Some(network) = refs.network.as_ref().filter(|network| network.spec.chain.slasher_secret_ref.is_some()) else {
        return Ok(SlashSeen::default());
    };
    let step = next(node, refs, network);
    match &step {
        Step::Nothing => Ok(SlashSeen::default()),
        Step::Blocked(why) => Ok(SlashSeen::told(Finding::yes(Reason::TransactionReverted, why.clone()))),
        Step::Watch(proposal) => execution::pursue(node, network, proposal, context).await,
        Step::Follow(_) | Step::Propose { .. } => {
            let session = context.chains.slasher_session(network, &context.client, &context.config.namespace).await;
            let session = match session {
                Ok(session) => session,
                Err(problem) => return Ok(SlashSeen::told(problem.finding)),
            };
            let moved = carry_out(&step, address, &session, context).await?;
            let pending = || {
                Finding::yes(Reason::SlashPending, "failed audits prove that the node cheats; a case is being opened")
            };
            let finding = Some(moved.problem.clone().unwrap_or_else(pending));
            Ok(SlashSeen { moved, finding, ..SlashSeen::default() })
        }
    }
}

/// Decides. A node is accused once: not again for more of the same.
pub fn next(node: &GridNode, refs: &Refs, network: &GridNetwork) -> Step {
    let earlier = node.status.as_ref().and_then(|status| status.slash.as_ref());
    let record = earlier.and_then(record_of);
    if let Some(record) = record.as_ref().filter(|record| !record.is_finished()) {
        return Step::Follow(Box::new(record.clone()));
    }
    match earlier {
        Some(status) if status.state == TransactionState::Failed && is_unchanged(node) => {
            return Step::Blocked(status.message.clone().unwrap_or_default());
        }
        Some(status) if status.state == TransactionState::Finalized => {
            let inclusion = record.as_ref().and_then(OutboxRecord::inclusion).cloned();
            return inclusion.map_or(Step::Nothing, Step::Watch);
        }
        _ => {}
    }
    let registration = refs.chain.as_ref().ok().and_then(|facts| facts.registration);
    match (proof(refs), registration) {
        (Some(evidence), Some(registration)) => accusation(evidence, &registration, network),
        _ => Step::Nothing,
    }
}

/// The digest of what convicts the node, as the gateway's ledger has it.
fn proof(refs: &Refs) -> Option<B256> {
    let evidence = &refs.report.as_ref().ok()?.as_ref()?.evidence;
    evidence.proof.as_ref().filter(|_| evidence.quarantined)?.parse().ok()
}

fn accusation(evidence: B256, registration: &NodeRegistration, network: &GridNetwork) -> Step {
    let percent = u128::from(network.spec.verification.slash_percent.unsigned_abs());
    let amount = Wei(registration.stake.0 / 100 * percent);
    if amount.0 == 0 { Step::Nothing } else { Step::Propose { evidence, amount } }
}

fn is_unchanged(node: &GridNode) -> bool {
    node.status.as_ref().and_then(|status| status.observed_generation) == node.metadata.generation
}

async fn carry_out(step: &Step, node: NodeAddress, session: &Session, context: &Context) -> Result<Moved, Error> {
    match step {
        Step::Follow(record) => registration::follow(record, session, context).await,
        Step::Propose { evidence, amount } => match plan(node, *evidence, *amount, session).await {
            Ok(Some(record)) => Ok(Moved { transaction: Some(status_of(&record)?), ..Moved::default() }),
            Ok(None) => {
                let message = "the contract has no GridSlashing bound to it: nobody can be slashed";
                Ok(Moved { problem: Some(Finding::yes(Reason::SlashPending, message)), ..Moved::default() })
            }
            Err(error) => Ok(Moved { problem: Some(chains::finding(&error)), ..Moved::default() }),
        },
        Step::Nothing | Step::Watch(_) | Step::Blocked(_) => Ok(Moved::default()),
    }
}

async fn plan(
    node: NodeAddress,
    evidence: B256,
    amount: Wei,
    session: &Session,
) -> Result<Option<OutboxRecord>, ChainError> {
    let Some(slashing) = Slashing::of(&session.chain).await? else { return Ok(None) };
    let intent = slashing.propose_intent(node, amount, evidence);
    Ok(intent.map(|intent| OutboxRecord::plan(intent, session.key.address(), session.chain.chain_id())))
}

/// How a case stands; `None` for one that was dropped.
fn stands(facts: &CaseFacts) -> Option<Finding> {
    let CaseFacts { id, case, contract, .. } = facts;
    let amount = case.amount.to_xdc();
    match case.state {
        CaseState::Proposed if facts.is_due() => {
            let message =
                format!("case {id}: nobody appealed in time; {amount} XDC of the stake are about to be taken");
            Some(Finding::yes(Reason::SlashProposed, message))
        }
        CaseState::Proposed => {
            let message = format!(
                "case {id} of {contract}: {amount} XDC of the stake are frozen; the owner can appeal until {}, after which they are taken",
                time(case.appeal_until)
            );
            Some(Finding::yes(Reason::SlashProposed, message))
        }
        CaseState::Appealed => {
            let until = time(case.ruling_until);
            Some(Finding::yes(
                Reason::SlashAppealed,
                format!("case {id}: the owner appealed; an arbiter rules until {until}, and {amount} XDC stay frozen"),
            ))
        }
        CaseState::Executed => {
            Some(Finding::yes(Reason::SlashExecuted, format!("case {id}: {amount} XDC of the stake were taken")))
        }
        CaseState::Cancelled => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::{Intent, IntentKind, OutboxState, TxCall, slashing::SlashCase},
        operator::grid_node::{
            dereference::ChainFacts,
            registration::tests::{registration, report},
            validate::tests::{managed, refs},
        },
        protocol::internal::EvidenceReport,
    };

    const PROOF: B256 = B256::repeat_byte(7);

    fn network() -> GridNetwork {
        let mut network = crate::operator::grid_network::validate::tests::network();
        network.spec.verification.slash_percent = 20;
        network
    }

    fn found(proof: Option<B256>, quarantined: bool) -> Refs {
        let registration = registration(Wei(5 * Wei::XDC.0));
        let mut report = report(true);
        let proof = proof.map(|proof| proof.to_string());
        report.evidence = EvidenceReport { proof, quarantined, ..EvidenceReport::default() };
        let chain = Ok(ChainFacts { registration: Some(registration), claimed: Wei(0) });
        Refs { chain, report: Ok(Some(report)), ..refs(&managed()) }
    }

    fn accused(state: OutboxState) -> GridNode {
        let call = TxCall { to: None, value: Wei(0), data: Default::default() };
        let intent = Intent { kind: IntentKind::ProposeSlash, key: "k".into(), call };
        let record = OutboxRecord { state, ..OutboxRecord::plan(intent, NodeAddress([5; 20]), 51) };
        let mut node = managed();
        node.status.get_or_insert_default().slash = Some(status_of(&record).unwrap());
        node
    }

    fn inclusion() -> Inclusion {
        Inclusion {
            hash: B256::repeat_byte(1),
            block_number: 7,
            block_hash: B256::repeat_byte(2),
            succeeded: true,
            gas_used: 1,
            fee: Wei(1),
            contract: None,
        }
    }

    #[test]
    fn a_proof_opens_one_case_for_the_share_that_the_network_says() {
        let propose = Step::Propose { evidence: PROOF, amount: Wei::XDC };
        assert_eq!(next(&managed(), &found(Some(PROOF), true), &network()), propose);
        let node = accused(OutboxState::Finalized { inclusion: inclusion() });
        let more = found(Some(B256::repeat_byte(9)), true);
        assert_eq!(next(&node, &more, &network()), Step::Watch(inclusion()), "not again for more of the same");
    }

    #[test]
    fn nobody_is_accused_without_a_proof_or_a_stake_or_while_the_gateway_is_away() {
        assert_eq!(next(&managed(), &found(None, true), &network()), Step::Nothing);
        assert_eq!(next(&managed(), &found(Some(PROOF), false), &network()), Step::Nothing);
        let unstaked =
            Refs { chain: Ok(ChainFacts { registration: None, claimed: Wei(0) }), ..found(Some(PROOF), true) };
        assert_eq!(next(&managed(), &unstaked, &network()), Step::Nothing);
        let away = Refs {
            report: Err(crate::operator::gateway::GatewayError::Unavailable("x".into())),
            ..found(Some(PROOF), true)
        };
        assert_eq!(next(&managed(), &away, &network()), Step::Nothing);
    }

    #[test]
    fn a_proposal_on_its_way_is_followed_and_a_case_is_told_in_every_state() {
        let node = accused(OutboxState::Planned);
        assert!(matches!(next(&node, &found(None, false), &network()), Step::Follow(_)));
        let facts = |state, time| {
            let node = NodeAddress([1; 20]);
            let case = SlashCase { node, amount: Wei::XDC, appeal_until: 100, ruling_until: 200, state };
            CaseFacts { id: 3, case, contract: NodeAddress([9; 20]), time }
        };
        let reason = |state| stands(&facts(state, 99)).map(|finding| finding.reason);
        assert_eq!(reason(CaseState::Proposed).as_deref(), Some("SlashProposed"));
        assert_eq!(reason(CaseState::Appealed).as_deref(), Some("SlashAppealed"));
        assert_eq!(reason(CaseState::Executed).as_deref(), Some("SlashExecuted"));
        assert_eq!(reason(CaseState::Cancelled), None);
        let due = stands(&facts(CaseState::Proposed, 100)).unwrap();
        assert!(due.message.contains("about to be taken"), "{}", due.message);
    }
}
