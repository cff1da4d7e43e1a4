//! A slash case against a node, once its failed audits prove enough: proposed to GridSlashing by an account of its own, once, and then
//! shown as it goes on. What it takes is decided by the contract's rules: the owner can appeal, an arbiter rules. Audits that were
//! inconclusive are no part of the proof. The decision is pure; the transaction is written to the status step by step. `proposal` opens a
//! case, `execution` ends one that nobody appealed against, `leaving` is for a node that is deleted.

mod execution;
pub mod leaving;
mod proposal;

use alloy::primitives::B256;

use super::{dereference::Refs, registration::Moved};
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
        OutboxRecord, OutboxState,
        registration::NodeRegistration,
        slashing::{CaseState, evidence_of},
    },
    operator::{
        chains::{ChainProblem, record_of},
        context::Context,
        contribution_report::status::time,
        error::Error,
    },
};
use execution::CaseFacts;
use proposal::Proposed;

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// The proposal is on its way.
    Follow(Box<OutboxRecord>),
    /// It was never signed, and a dry run keeps it from the chain.
    Drop(Box<OutboxRecord>),
    Propose(Accusation),
    /// A case was proposed on this evidence.
    Watch(B256),
    /// Somebody else was faster with the same evidence.
    Show(B256),
    /// The proposal was reverted, and nobody changed the node since.
    Blocked(String),
    /// The node is convicted, and what it has at stake cannot be read.
    Unread(Finding),
}

/// What a case is to be opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accusation {
    pub evidence: B256,
    /// To be frozen.
    pub amount: Wei,
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

    fn shown(case: &CaseFacts) -> Self {
        SlashSeen { finding: stands(case), ..SlashSeen::default() }
    }
}

/// One step of the case against a node, if there is one.
pub async fn pursue(node: &GridNode, address: NodeAddress, refs: &Refs, context: &Context) -> Result<SlashSeen, Error> {
    let Some(network) = refs.network.as_ref().filter(|network| network.spec.chain.slasher_secret_ref.is_some()) else {
        return Ok(SlashSeen::default());
    };
    match next(node, refs, network) {
        Step::Nothing => Ok(SlashSeen::default()),
        Step::Blocked(why) => Ok(SlashSeen::told(Finding::yes(Reason::TransactionReverted, why))),
        Step::Unread(problem) => Ok(SlashSeen::told(unread(&problem))),
        Step::Watch(evidence) => execution::pursue(node, network, (address, evidence), context).await,
        Step::Show(evidence) => Ok(execution::show(network, (address, evidence), context).await),
        Step::Drop(record) => {
            context.chains.forget(&record).await;
            let moved = Moved { dropped: true, ..Moved::default() };
            Ok(SlashSeen { moved, ..SlashSeen::told(proposal::kept_back()) })
        }
        Step::Follow(record) => Ok(seen(Proposed::UnderWay(proposal::follow(&record, network, context).await?))),
        Step::Propose(accusation) => Ok(seen(proposal::propose(address, accusation, network, context).await?)),
    }
}

fn seen(proposed: Proposed) -> SlashSeen {
    match proposed {
        Proposed::Before(case) => SlashSeen::shown(&case),
        Proposed::KeptBack(finding) => SlashSeen::told(finding),
        Proposed::UnderWay(moved) => {
            let pending = || {
                Finding::yes(Reason::SlashPending, "failed audits prove that the node cheats; a case is being opened")
            };
            let finding = Some(moved.problem.clone().unwrap_or_else(pending));
            SlashSeen { moved, finding, ..SlashSeen::default() }
        }
    }
}

fn unread(problem: &Finding) -> Finding {
    let message = format!(
        "failed audits prove that the node cheats; a case is opened once its stake can be read: {}",
        problem.message
    );
    Finding::yes(Reason::SlashPending, message)
}

/// Decides. A node is accused once: not again for more of the same.
pub fn next(node: &GridNode, refs: &Refs, network: &GridNetwork) -> Step {
    let earlier = node.status.as_ref().and_then(|status| status.slash.as_ref());
    let record = earlier.and_then(record_of);
    match (earlier, record) {
        (_, Some(record)) if record.is_under_way() => return Step::Follow(Box::new(record)),
        (_, Some(record)) if !record.is_finished() => {
            let record = Box::new(record);
            return if network.spec.rewards.dry_run { Step::Drop(record) } else { Step::Follow(record) };
        }
        (Some(status), record) if status.state == TransactionState::Finalized => {
            return record.and_then(|record| evidence_of(&record.intent)).map_or(Step::Nothing, Step::Watch);
        }
        (_, Some(record)) if was_taken(&record) => {
            return evidence_of(&record.intent).map_or(Step::Nothing, Step::Show);
        }
        (Some(status), _) if status.state == TransactionState::Failed && is_unchanged(node) => {
            return Step::Blocked(status.message.clone().unwrap_or_default());
        }
        _ => {}
    }
    match proof(refs) {
        Some(evidence) => accusation(evidence, refs, network),
        None => Step::Nothing,
    }
}

/// Another case on the same evidence was in a block before ours.
fn was_taken(record: &OutboxRecord) -> bool {
    matches!(&record.state, OutboxState::Failed { refusal, .. } if refusal.name == "EvidenceUsed")
}

/// The digest of what convicts the node, as the gateway's ledger has it.
fn proof(refs: &Refs) -> Option<B256> {
    let evidence = &refs.report.as_ref().ok()?.as_ref()?.evidence;
    evidence.proof.as_ref().filter(|_| evidence.quarantined)?.parse().ok()
}

fn accusation(evidence: B256, refs: &Refs, network: &GridNetwork) -> Step {
    let registration = match &refs.chain {
        Ok(facts) => facts.registration,
        Err(ChainProblem { finding }) => return Step::Unread(finding.clone()),
    };
    let amount = registration.map_or(Wei(0), |registration| at_stake(&registration, network));
    if amount.0 == 0 { Step::Nothing } else { Step::Propose(Accusation { evidence, amount }) }
}

fn at_stake(registration: &NodeRegistration, network: &GridNetwork) -> Wei {
    let percent = u128::from(network.spec.verification.slash_percent.unsigned_abs());
    Wei(registration.stake.0 / 100 * percent)
}

fn is_unchanged(node: &GridNode) -> bool {
    node.status.as_ref().and_then(|status| status.observed_generation) == node.metadata.generation
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
    use alloy::sol_types::SolCall;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;
    use crate::{
        chain::{
            Inclusion, Intent, IntentKind, Refusal, TxCall, bindings::GridSlashing::proposeSlashCall,
            slashing::SlashCase,
        },
        operator::{
            chains::status_of,
            grid_node::{
                dereference::ChainFacts,
                registration::tests::{registration, report},
                validate::tests::{managed, refs},
            },
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
        let proposal = proposeSlashCall { node: Default::default(), amount: Default::default(), evidenceHash: PROOF };
        let call = TxCall { to: None, value: Wei(0), data: proposal.abi_encode().into() };
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
        let propose = Step::Propose(Accusation { evidence: PROOF, amount: Wei::XDC });
        assert_eq!(next(&managed(), &found(Some(PROOF), true), &network()), propose);
        let node = accused(OutboxState::Finalized { inclusion: inclusion() });
        let more = found(Some(B256::repeat_byte(9)), true);
        assert_eq!(next(&node, &more, &network()), Step::Watch(PROOF), "not again for more of the same");
    }

    #[test]
    fn a_proposal_that_came_second_shows_the_case_of_the_first() {
        let failed = |name| {
            let mut node = accused(OutboxState::Failed { inclusion: inclusion(), refusal: Refusal::new(name, "no") });
            node.status.get_or_insert_default().observed_generation = node.metadata.generation;
            node
        };
        let more = found(Some(B256::repeat_byte(9)), true);
        assert_eq!(next(&failed("EvidenceUsed"), &more, &network()), Step::Show(PROOF));
        assert!(matches!(next(&failed("MissingRole"), &more, &network()), Step::Blocked(_)));
        let changed =
            |name| GridNode { metadata: ObjectMeta { generation: Some(9), ..managed().metadata }, ..failed(name) };
        assert_eq!(next(&changed("EvidenceUsed"), &more, &network()), Step::Show(PROOF), "it is no use to try again");
        assert!(matches!(next(&changed("MissingRole"), &more, &network()), Step::Propose(_)));
    }

    #[test]
    fn a_dry_run_gives_up_what_is_planned_and_follows_what_is_signed() {
        let mut network = network();
        let convicted = found(Some(PROOF), true);
        assert!(matches!(next(&accused(OutboxState::Planned), &convicted, &network), Step::Follow(_)));
        network.spec.rewards.dry_run = true;
        assert!(matches!(next(&accused(OutboxState::Planned), &convicted, &network), Step::Drop(_)));
        let signed = accused(OutboxState::Signed { attempts: Vec::new() });
        assert!(matches!(next(&signed, &convicted, &network), Step::Follow(_)));
    }

    #[test]
    fn a_convicted_node_is_told_when_its_stake_cannot_be_read() {
        let finding = Finding::unknown(Reason::RpcUnreachable, "nobody answers");
        let away = |proof| Refs { chain: Err(ChainProblem { finding: finding.clone() }), ..found(proof, true) };
        assert_eq!(next(&managed(), &away(Some(PROOF)), &network()), Step::Unread(finding.clone()));
        assert_eq!(unread(&finding).reason, "SlashPending");
        assert_eq!(next(&managed(), &away(None), &network()), Step::Nothing, "nothing is proven against it");
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
