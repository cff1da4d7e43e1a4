//! How a slash case ends that nobody appealed against: the contract lets anybody execute it then, and the operator does, once. A case
//! that was appealed is the arbiter's. Decided at one final block: later ones can take no appeal any more. What nobody has a GridNode
//! for, `operator::slash_cases` executes.

use alloy::primitives::B256;

use super::{SlashSeen, is_unchanged, stands};
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
        At, ChainClient, ChainError, OutboxRecord, OutboxState,
        slashing::{SlashCase, Slashing},
    },
    operator::{
        chains::{self, Session, record_of, status_of},
        context::Context,
        error::Error,
        grid_node::registration::{self, Moved},
    },
};

/// What a final block says about a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaseFacts {
    pub id: u64,
    pub case: SlashCase,
    /// The GridSlashing that has it.
    pub contract: NodeAddress,
    /// Unix seconds of the block.
    pub time: u64,
}

impl CaseFacts {
    /// Nobody appealed, and nobody can any more.
    pub fn is_due(&self) -> bool {
        self.case.is_due(self.time)
    }
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// The execution is on its way.
    Follow(Box<OutboxRecord>),
    /// It was planned and never signed, and is not wanted: the case is decided, or a dry run keeps it from the chain.
    Drop(Box<OutboxRecord>),
    Execute,
    /// It was reverted, and nobody changed the node since.
    Blocked(String),
}

impl Step {
    /// What is left of it while nothing new may go to the chain.
    fn in_a_dry_run(self) -> Self {
        match self {
            Step::Execute => Step::Nothing,
            Step::Follow(record) if !record.is_under_way() => Step::Drop(record),
            other => other,
        }
    }
}

/// Decides. `earlier`: the execution that was written down.
pub fn next(facts: &CaseFacts, earlier: Option<&TransactionStatus>, unchanged: bool) -> Step {
    let record = earlier.and_then(record_of);
    if let Some(record) = record.as_ref().filter(|record| !record.is_finished()) {
        let record = Box::new(record.clone());
        return if record.is_under_way() || facts.is_due() { Step::Follow(record) } else { Step::Drop(record) };
    }
    if !facts.is_due() {
        return Step::Nothing;
    }
    let passes = record
        .is_some_and(|record| matches!(record.state, OutboxState::Failed { refusal, .. } if refusal.passes_with_time));
    match earlier {
        // An endpoint that lags does not know it yet.
        Some(status) if status.state == TransactionState::Finalized => Step::Nothing,
        Some(status) if status.state == TransactionState::Failed && unchanged && !passes => {
            Step::Blocked(status.message.clone().unwrap_or_default())
        }
        _ => Step::Execute,
    }
}

/// Shows the case that was proposed for this node on this evidence, and executes it when it is due.
pub async fn pursue(
    node: &GridNode,
    network: &GridNetwork,
    about: (NodeAddress, B256),
    context: &Context,
) -> Result<SlashSeen, Error> {
    let facts = match find(network, about, context).await {
        Ok(Some(facts)) => facts,
        Ok(None) => return Ok(SlashSeen::default()),
        Err(finding) => return Ok(SlashSeen::told(finding)),
    };
    let earlier = node.status.as_ref().and_then(|status| status.slash_execution.as_ref());
    let step = next(&facts, earlier, is_unchanged(node));
    let step = if network.spec.rewards.dry_run { step.in_a_dry_run() } else { step };
    let execution = match &step {
        Step::Nothing => Moved::default(),
        Step::Blocked(why) => {
            return Ok(SlashSeen::told(Finding::yes(Reason::TransactionReverted, why.clone())));
        }
        Step::Drop(record) => {
            context.chains.forget(record).await;
            Moved { dropped: true, ..Moved::default() }
        }
        Step::Follow(_) | Step::Execute => {
            let session = context.chains.slasher_session(network, &context.client, &context.config.namespace).await;
            match session {
                Ok(session) => carry_out(&step, &facts, &session, context).await?,
                Err(problem) => return Ok(SlashSeen::told(problem.finding)),
            }
        }
    };
    // Refused before anything was signed: somebody else was faster, and the next final block shows it.
    let problem = execution.problem.clone().filter(|_| !execution.dropped);
    let finding = problem.or_else(|| told(&facts, &step, network));
    Ok(SlashSeen { execution, finding, ..SlashSeen::default() })
}

/// Shows a case that this GridNode did not propose.
pub async fn show(network: &GridNetwork, about: (NodeAddress, B256), context: &Context) -> SlashSeen {
    match find(network, about, context).await {
        Ok(Some(facts)) => SlashSeen::shown(&facts),
        Ok(None) => SlashSeen::default(),
        Err(finding) => SlashSeen::told(finding),
    }
}

/// The case against that node on that evidence. `None` while no final block has it.
pub async fn find(
    network: &GridNetwork,
    (node, evidence): (NodeAddress, B256),
    context: &Context,
) -> Result<Option<CaseFacts>, Finding> {
    let chain = context.chains.client(network).await.map_err(|problem| problem.finding)?;
    facts(&chain, node, evidence).await.map_err(|error| chains::finding(&error))
}

/// All in one final block.
async fn facts(chain: &ChainClient, node: NodeAddress, evidence: B256) -> Result<Option<CaseFacts>, ChainError> {
    let Some(slashing) = Slashing::of(chain).await? else { return Ok(None) };
    let last = chain.rpc().agreed().block(At::Finalized).await?;
    let at = At::Hash(last.hash);
    let Some(id) = slashing.case_of(node, evidence, at).await? else { return Ok(None) };
    let case = slashing.case(id, at).await?;
    Ok(case.map(|case| CaseFacts { id, case, contract: slashing.address(), time: last.timestamp }))
}

fn told(facts: &CaseFacts, step: &Step, network: &GridNetwork) -> Option<Finding> {
    if !network.spec.rewards.dry_run || !facts.is_due() || matches!(step, Step::Follow(_)) {
        return stands(facts);
    }
    let message =
        format!("case {}: nobody appealed in time; spec.rewards.dryRun keeps its execution from the chain", facts.id);
    Some(Finding::yes(Reason::DryRun, message))
}

async fn carry_out(step: &Step, facts: &CaseFacts, session: &Session, context: &Context) -> Result<Moved, Error> {
    if let Step::Follow(record) = step {
        return registration::follow(record, session, context).await;
    }
    match Slashing::of(&session.chain).await {
        Ok(Some(slashing)) => {
            let intent = slashing.execute_intent(facts.id);
            let record = OutboxRecord::plan(intent, session.key.address(), session.chain.chain_id());
            Ok(Moved { transaction: Some(status_of(&record)?), ..Moved::default() })
        }
        Ok(None) => Ok(Moved::default()),
        Err(error) => Ok(Moved { problem: Some(chains::finding(&error)), ..Moved::default() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::ids::Wei,
        chain::{Inclusion, Intent, IntentKind, Refusal, TxCall, slashing::CaseState},
        operator::grid_network::validate::tests::network,
    };

    fn facts(state: CaseState, time: u64) -> CaseFacts {
        let (node, contract) = (NodeAddress([1; 20]), NodeAddress([9; 20]));
        let case = SlashCase { node, amount: Wei::XDC, appeal_until: 100, ruling_until: 200, state };
        CaseFacts { id: 3, case, contract, time }
    }

    fn written(state: OutboxState) -> TransactionStatus {
        let call = TxCall { to: None, value: Wei(0), data: Default::default() };
        let intent = Intent { kind: IntentKind::ExecuteSlash, key: "k".into(), call };
        status_of(&OutboxRecord { state, ..OutboxRecord::plan(intent, NodeAddress([5; 20]), 51) }).unwrap()
    }

    fn inclusion() -> Inclusion {
        let (hash, block_hash) = (B256::ZERO, B256::ZERO);
        Inclusion { hash, block_number: 1, block_hash, succeeded: true, gas_used: 1, fee: Wei(1), contract: None }
    }

    #[test]
    fn a_case_is_executed_when_its_time_for_an_appeal_is_over_and_not_before() {
        assert_eq!(next(&facts(CaseState::Proposed, 99), None, true), Step::Nothing);
        assert_eq!(next(&facts(CaseState::Proposed, 100), None, true), Step::Execute);
        for state in [CaseState::Appealed, CaseState::Executed, CaseState::Cancelled] {
            assert_eq!(next(&facts(state, 300), None, true), Step::Nothing, "{state:?}");
        }
    }

    #[test]
    fn an_execution_is_followed_to_its_end_and_not_sent_again() {
        let due = facts(CaseState::Proposed, 100);
        assert!(matches!(next(&due, Some(&written(OutboxState::Planned)), true), Step::Follow(_)));
        let done = written(OutboxState::Finalized { inclusion: inclusion() });
        assert_eq!(next(&due, Some(&done), true), Step::Nothing);
        let failed = |refusal| written(OutboxState::Failed { inclusion: inclusion(), refusal });
        let reverted = failed(Refusal::new("Reverted", "no"));
        assert!(matches!(next(&due, Some(&reverted), true), Step::Blocked(_)));
        assert_eq!(next(&due, Some(&reverted), false), Step::Execute, "somebody changed the node");
        let passes = Refusal { passes_with_time: true, ..Refusal::new("OutOfGas", "no") };
        assert_eq!(next(&due, Some(&failed(passes)), true), Step::Execute);
    }

    fn signed() -> TransactionStatus {
        written(OutboxState::Signed { attempts: Vec::new() })
    }

    #[test]
    fn an_execution_that_was_never_signed_is_dropped_when_the_case_is_decided() {
        for state in [CaseState::Executed, CaseState::Cancelled] {
            let decided = facts(state, 300);
            assert!(matches!(next(&decided, Some(&written(OutboxState::Planned)), true), Step::Drop(_)), "{state:?}");
            assert!(matches!(next(&decided, Some(&signed()), true), Step::Follow(_)), "its nonce is used: {state:?}");
        }
    }

    #[test]
    fn a_dry_run_sends_no_execution_and_follows_what_is_signed() {
        let due = facts(CaseState::Proposed, 100);
        let mut network = network();
        network.spec.rewards.dry_run = true;
        let next = |earlier: Option<&TransactionStatus>| next(&due, earlier, true).in_a_dry_run();
        assert_eq!(next(None), Step::Nothing);
        assert!(matches!(next(Some(&written(OutboxState::Planned))), Step::Drop(_)));
        assert!(matches!(next(Some(&signed())), Step::Follow(_)));
        let reason = |step: &Step| told(&due, step, &network).unwrap().reason;
        assert_eq!(reason(&Step::Nothing), "DryRun");
        assert_eq!(reason(&next(Some(&signed()))), "SlashProposed");
        let young = facts(CaseState::Proposed, 99);
        assert_eq!(told(&young, &Step::Nothing, &network).unwrap().reason, "SlashProposed", "nothing is kept back yet");
    }
}
