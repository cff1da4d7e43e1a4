//! Slash cases that no GridNode pursues: those of nodes whose GridNode was deleted before the time for an appeal was over, and those
//! that another slasher opened. Found in the contract itself, a look per network that has a slasher's key, and executed once nobody
//! can appeal any more, so that deleting a GridNode is no way out of a slash. Talks to the API server and the chain; keeps in memory
//! only how far it has read. A case that a GridNode proposed is left to that GridNode while it is there, an appealed one to the arbiter.

pub mod scan;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kube::{Api, ResourceExt, api::ListParams, runtime::controller::Action};
use tokio_util::sync::CancellationToken;

use super::{
    chains::{self, Session},
    context::Context,
    error::Error,
    network_outbox::Place,
    runner::{self, Guarded},
    write,
};
use crate::{
    api::{
        conditions::Finding,
        grid_network::{GridNetwork, condition::SLASH_CASES_CURRENT},
        grid_node::GridNode,
        ids::NodeAddress,
        reasons::Reason,
        refs::TransactionState,
    },
    chain::{
        At, ChainClient, ChainError, Intent, OutboxRecord, OutboxState,
        slashing::{SlashCase, Slashing},
    },
};
use scan::{Cursor, Standing};

/// Field manager of this controller.
pub const MANAGER: &str = "xdc-grid-slash-cases";
/// Where the last execution is written down.
const PLACE: Place = Place {
    manager: MANAGER,
    field: "slashExecution",
    transaction: |status| status.slash_execution.as_ref(),
    condition: SLASH_CASES_CURRENT,
    action: "Slash",
    waiting: Reason::SlashExecutionPending,
};
/// Cases take days; what is due stays due for as long as a stake is held.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// What there is to do next is known already.
const AT_ONCE: Duration = Duration::from_millis(100);

pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let networks: Api<Guarded<GridNetwork>> = Api::all(context.client.clone());
    runner::run(runner::controller(networks, &context), context, stop, reconcile).await;
}

/// What the network is told, if anything, and when to look again.
struct Outcome {
    finding: Option<Finding>,
    again: Duration,
}

impl Outcome {
    fn told(finding: Finding) -> Self {
        Outcome { finding: Some(finding), again: LOOK_AGAIN }
    }

    fn silent(again: Duration) -> Self {
        Outcome { finding: None, again }
    }
}

pub async fn reconcile(network: Arc<GridNetwork>, context: Arc<Context>) -> Result<Action, Error> {
    if network.metadata.deletion_timestamp.is_some() || network.spec.chain.slasher_secret_ref.is_none() {
        return Ok(Action::await_change());
    }
    // The API server is asked, not the watch: a record that was written a moment ago must be seen.
    let networks: Api<GridNetwork> = Api::all(context.client.clone());
    let Some(mut network) = networks.get_opt(&network.name_any()).await? else { return Ok(Action::await_change()) };
    let outcome = match PLACE.record(&network) {
        Err(finding) => Outcome::told(finding),
        Ok(Some(record)) if record.is_under_way() => follow(&mut network, record, &context).await?,
        Ok(record) => next(&mut network, record, &context).await?,
    };
    if let Some(finding) = outcome.finding {
        PLACE.tell(&network, finding, &context).await?;
    }
    Ok(Action::requeue(outcome.again))
}

/// Takes an execution further, to its end.
async fn follow(network: &mut GridNetwork, record: OutboxRecord, context: &Context) -> Result<Outcome, Error> {
    match session(network, context).await {
        Ok(session) => drive(network, record, &session, context).await,
        Err(finding) => Ok(Outcome::told(finding)),
    }
}

async fn drive(
    network: &mut GridNetwork,
    record: OutboxRecord,
    session: &Session,
    context: &Context,
) -> Result<Outcome, Error> {
    let record = match PLACE.advance(network, record, session, context).await? {
        Ok(record) => record,
        Err(error) => return Ok(stopped(network, &error, session)),
    };
    match &record.state {
        OutboxState::Failed { refusal, .. } => {
            Ok(Outcome::told(Finding::no(Reason::TransactionReverted, format!("execution of a slash case: {refusal}"))))
        }
        OutboxState::Finalized { inclusion } => {
            let block = inclusion.block_number;
            let note =
                format!("a slash case that no GridNode pursues was executed in block {block}: {}", inclusion.hash);
            write::publish(context, network, &write::note("Slash", Reason::SlashExecuted.as_str(), note)).await;
            Ok(Outcome::silent(AT_ONCE))
        }
        OutboxState::Planned => Ok(Outcome::silent(AT_ONCE)),
        _ => {
            let message = "a slash case that nobody appealed against in time is being executed";
            let finding = Some(Finding::no(Reason::SlashExecutionPending, message));
            Ok(Outcome { finding, again: context.config.chain_poll() })
        }
    }
}

/// The chain or the contract did not let it go on.
fn stopped(network: &GridNetwork, error: &ChainError, session: &Session) -> Outcome {
    let ChainError::Refused(refusal) = error else { return Outcome::told(chains::finding(error)) };
    if let Ok(Some(record)) = PLACE.record(network)
        && !record.is_under_way()
    {
        // Nothing was signed: a nonce that is set aside for it is free again.
        session.pool.release(&record.intent.key);
    }
    match refusal.name.as_str() {
        // Somebody else was faster; the next final block shows it.
        "CaseClosed" => Outcome::silent(LOOK_AGAIN),
        _ => Outcome::told(chains::finding(error)),
    }
}

async fn session(network: &GridNetwork, context: &Context) -> Result<Session, Finding> {
    let session = context.chains.slasher_session(network, &context.client, &context.config.namespace).await;
    session.map_err(|problem| problem.finding)
}

/// Nothing is under way: reads on in the contract's cases, and executes the oldest that is due.
async fn next(network: &mut GridNetwork, earlier: Option<OutboxRecord>, context: &Context) -> Result<Outcome, Error> {
    let chain = match context.chains.client(network).await {
        Ok(chain) => chain,
        Err(problem) => return Ok(unread(network, problem.finding)),
    };
    let read = match read_on(&chain, context).await {
        Ok(Some(read)) => read,
        // Nobody can be slashed.
        Ok(None) => return Ok(Outcome::silent(LOOK_AGAIN)),
        Err(error) => return Ok(unread(network, chains::finding(&error))),
    };
    let nothing = || match read.is_complete {
        true => Outcome { finding: current(network), again: LOOK_AGAIN },
        false => Outcome::silent(AT_ONCE),
    };
    if read.due.is_empty() {
        return Ok(nothing());
    }
    let pursued = pursued(context).await?;
    match choose(&read, &pursued, earlier.as_ref()) {
        Choice::Nothing => Ok(nothing()),
        Choice::Blocked(why) => Ok(Outcome::told(Finding::no(Reason::TransactionReverted, why))),
        Choice::Execute(case) => execute(network, read.slashing.execute_intent(case), earlier, context).await,
    }
}

/// The cases cannot be read. A network that never had one is spared the condition; ChainReachable says the same.
fn unread(network: &GridNetwork, finding: Finding) -> Outcome {
    Outcome { finding: PLACE.is_used(network).then_some(finding), again: LOOK_AGAIN }
}

async fn execute(
    network: &mut GridNetwork,
    intent: Intent,
    earlier: Option<OutboxRecord>,
    context: &Context,
) -> Result<Outcome, Error> {
    if network.spec.rewards.dry_run {
        let finding = Finding::no(Reason::DryRun, "spec.rewards.dryRun keeps executions of slash cases from the chain");
        return Ok(Outcome::told(finding));
    }
    let session = match session(network, context).await {
        Ok(session) => session,
        Err(finding) => return Ok(Outcome::told(finding)),
    };
    tracing::info!(network = network.name_any(), key = intent.key, "executing a slash case that no GridNode pursues");
    let record = PLACE.plan(network, earlier, intent, &session, context).await?;
    drive(network, record, &session, context).await
}

/// One page of the contract's cases.
struct Read {
    slashing: Slashing,
    /// Cases that anybody may execute now, the oldest first.
    due: Vec<(u64, SlashCase)>,
    /// No page of this round is left.
    is_complete: bool,
}

/// All of a page is about one final block. `None` while the contract has no slashing.
async fn read_on(chain: &ChainClient, context: &Context) -> Result<Option<Read>, ChainError> {
    let Some(slashing) = Slashing::of(chain).await? else { return Ok(None) };
    let last = chain.rpc().agreed().block(At::Finalized).await?;
    let at = At::Hash(last.hash);
    let count = slashing.case_count(at).await?;
    let at_cases = (chain.chain_id(), slashing.address());
    let mut cursor: Cursor = context.slash_cursors.of(at_cases);
    let mut due = Vec::new();
    for id in cursor.page(count) {
        let Some(case) = slashing.case(id, at).await? else {
            // Counted and not there is what no block says; the round ends rather than ask again at once.
            cursor.saw(id, Standing::Appealable);
            break;
        };
        let standing = Standing::of(&case, last.timestamp);
        cursor.saw(id, standing);
        match standing {
            Standing::Due => due.push((id, case)),
            Standing::Over => {}
            // So can the owners of all that were proposed later.
            Standing::Appealable => break,
        }
    }
    let is_complete = cursor.end_page(count);
    context.slash_cursors.keep(at_cases, cursor);
    Ok(Some(Read { slashing, due, is_complete }))
}

/// Nodes whose GridNode pursues a case of its own.
async fn pursued(context: &Context) -> Result<BTreeSet<NodeAddress>, Error> {
    let nodes: Api<Guarded<GridNode>> = Api::all(context.client.clone());
    let nodes = nodes.list(&ListParams::default()).await?.items;
    let address = |node: Guarded<GridNode>| {
        let status = node.0.ok()?.status?;
        let slash = status.slash.filter(|slash| slash.state != TransactionState::Failed);
        slash.and(status.node_address)?.parse().ok()
    };
    Ok(nodes.into_iter().filter_map(address).collect())
}

#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Nothing,
    /// The execution of the only case that is left was reverted.
    Blocked(String),
    Execute(u64),
}

/// The oldest case that no GridNode pursues. Not the one that was executed last, which an endpoint that lags does not know, nor one
/// whose execution was reverted for good.
fn choose(read: &Read, pursued: &BTreeSet<NodeAddress>, earlier: Option<&OutboxRecord>) -> Choice {
    let mut blocked = None;
    for (id, _) in read.due.iter().filter(|(_, case)| !pursued.contains(&case.node)) {
        let same = earlier.filter(|record| record.intent.key == read.slashing.execute_intent(*id).key);
        match same.map(|record| &record.state) {
            Some(OutboxState::Finalized { .. }) => {}
            Some(OutboxState::Failed { refusal, .. }) if !refusal.passes_with_time => {
                blocked = Some(format!("execution of slash case {id}: {refusal}"));
            }
            _ => return Choice::Execute(*id),
        }
    }
    blocked.map_or(Choice::Nothing, Choice::Blocked)
}

/// What is said when nothing is due: nothing at all before anything was.
fn current(network: &GridNetwork) -> Option<Finding> {
    let message = "every slash case that is due, and that no GridNode pursues, is executed";
    PLACE.is_used(network).then(|| Finding::yes(Reason::SlashCasesCurrent, message))
}
