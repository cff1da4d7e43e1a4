//! How a node leaves: no new work, accused if it is convicted, running work finished, its last contribution reported, out of the contract,
//! no member any more. All of it before a deadline, after which the node goes anyway and an Event says what was left undone.

use std::time::Duration;

use jiff::Timestamp;
use kube::runtime::controller::Action;

use super::{
    apply,
    build::{Intake, build},
    dereference::{self, Refs},
    registration::{self, Moved},
    slashing::leaving,
    status,
    validate::{ValidatedNode, validate},
};
use crate::{
    api::{
        conditions,
        grid_network::GridNetwork,
        grid_node::{GridNode, GridNodeStatus, condition},
        ids::{EpochNumber, GridPeerId},
        reasons::Reason,
        refs::TransactionStatus,
    },
    chain::{At, ChainError, OutboxRecord},
    operator::{
        chains::{Session, finding, record_of, status_of},
        context::Context,
        error::Error,
        finalizers::deadline_passed,
        write,
    },
    protocol::internal::{Contribution, NodeReport},
};

/// An epoch that is over takes a while to be closed, signed and included.
const REPORT_TAKES: u64 = 60;

/// What is still to be waited for.
enum Left {
    Nothing,
    /// A sentence for people, and the transaction to write down.
    Wait(String, Option<Written>),
}

/// A transaction, and where in the status it belongs. A node can be deleted while its registration, or a change of its payout, is
/// still on its way.
pub enum Written {
    Registration(TransactionStatus),
    Exit(TransactionStatus),
    Payout(TransactionStatus),
    /// `None` drops a proposal of which nothing was signed.
    Slash(Option<TransactionStatus>),
    SlashExecution(TransactionStatus),
}

pub async fn drain(node: &GridNode, context: &Context) -> Result<Action, Error> {
    let late = is_late(node, context);
    let refs = dereference::dereference(node, context).await?;
    let mut validated = match validate(node, &refs) {
        Ok(validated) => validated,
        // Without a network or with a spec that nobody can read there is no contract to leave; the gateway forgets it all the same.
        Err(_) => {
            return forget(node, refs.identity.as_ref().ok().map(|identity| &identity.peer_id), late, context).await;
        }
    };
    // Its last work is owed to it although it is leaving the contract meanwhile.
    validated.registered |= was_registered(node);
    match leave(node, &validated, &refs, context).await? {
        Left::Nothing => {}
        Left::Wait(message, _) if late => {
            let note = format!("removed before it was done: {message}");
            write::publish(context, node, &write::warning("Delete", Reason::DrainDeadlineExceeded.as_str(), note))
                .await;
        }
        Left::Wait(message, transaction) => {
            let status = status::draining(node, &message, transaction.as_ref(), (context.clock)());
            status::update(node, &status, context).await?;
            // The finalizer stays for as long as this is an error; the object's next turn comes with the backoff.
            return Err(Error::Waiting(message));
        }
    }
    if let Some(epoch) = outstanding(&refs) {
        let note = format!("epoch {epoch} has work of this node; it is reported when the epoch is over, and paid");
        let event = write::note("Delete", Reason::LastContributionOutstanding.as_str(), note);
        write::publish(context, node, &event).await;
    }
    forget(node, Some(&validated.identity.peer_id), late, context).await
}

/// Whether the node had its time, and goes now whatever is left to do.
pub fn is_late(node: &GridNode, context: &Context) -> bool {
    deadline_passed(node, (context.clock)(), deadline(node))
}

fn deadline(node: &GridNode) -> Duration {
    Duration::from_secs(node.spec.drain.deadline_seconds.unsigned_abs())
}

fn was_registered(node: &GridNode) -> bool {
    node.status.as_ref().is_some_and(|status| conditions::is_true(&status.conditions, condition::REGISTERED))
}

async fn leave(node: &GridNode, validated: &ValidatedNode, refs: &Refs, context: &Context) -> Result<Left, Error> {
    let wanted = build(validated, Intake::Closed, &context.config);
    if validated.approved
        && let Err(error) = apply::tell(&wanted.member, apply::Admission::Approved, context).await
    {
        return Ok(Left::Wait(error.to_string(), None));
    }
    // First: no wait for anything else may use up the time for it.
    if let Some(open) = leaving::settle(node, validated.identity.address, refs, context).await? {
        return Ok(Left::Wait(open.message, open.written));
    }
    match &refs.report {
        Err(error) => return Ok(Left::Wait(error.to_string(), None)),
        Ok(Some(report)) if !report.is_emptied() => {
            return Ok(Left::Wait("the node finishes its running work".into(), None));
        }
        Ok(_) => {}
    }
    if let Some(epoch) = outstanding(refs)
        && waits_for(epoch, node, refs)
    {
        return Ok(Left::Wait(format!("epoch {epoch} with the node's last work is not reported yet"), None));
    }
    match &refs.network {
        Some(network) if validated.worker.is_some() => exit(node, validated, network, context).await,
        _ => Ok(Left::Nothing),
    }
}

/// The newest epoch in which the node worked and that is not reported yet.
fn outstanding(refs: &Refs) -> Option<EpochNumber> {
    let network = refs.network.as_ref()?;
    // Nothing is ever reported in a dry run.
    if network.spec.rewards.dry_run {
        return None;
    }
    let report = refs.report.as_ref().ok()?.as_ref()?;
    let last = last_work(report)?;
    let reported = network.status.as_ref()?.last_reported_epoch.and_then(|epoch| u64::try_from(epoch).ok());
    reported.is_none_or(|reported| reported < last.0).then_some(last)
}

fn last_work(report: &NodeReport) -> Option<EpochNumber> {
    let worked = |contribution: &&Contribution| contribution.requests > 0;
    let newest_first = [&report.current_epoch, &report.last_epoch];
    newest_first.into_iter().find(worked).map(|contribution| EpochNumber(contribution.epoch))
}

/// Whether the report of `epoch` can be there before the node's deadline. If not, waiting for it would only end with the deadline;
/// the ledger pays that work also when the node is gone.
fn waits_for(epoch: EpochNumber, node: &GridNode, refs: &Refs) -> bool {
    let due = || {
        let status = refs.network.as_ref()?.status.as_ref()?;
        let (genesis, length) = (u64::try_from(status.genesis?).ok()?, u64::try_from(status.epoch_seconds?).ok()?);
        let end = genesis.checked_add(epoch.0.checked_add(1)?.checked_mul(length)?)?;
        let asked: Timestamp = node.metadata.deletion_timestamp.as_ref()?.0;
        let deadline = u64::try_from(asked.as_second()).ok()?.checked_add(deadline(node).as_secs())?;
        Some(end.saturating_add(REPORT_TAKES) <= deadline)
    };
    due().unwrap_or(false)
}

/// Out of the contract, one step at a time.
async fn exit(
    node: &GridNode,
    validated: &ValidatedNode,
    network: &GridNetwork,
    context: &Context,
) -> Result<Left, Error> {
    let session = match context.chains.session(network, &context.client, &context.config.namespace).await {
        Ok(session) => session,
        Err(problem) => return Ok(Left::Wait(problem.finding.message, None)),
    };
    if let Some((record, place)) = node.status.as_ref().and_then(earlier) {
        let Moved { transaction, problem, .. } = registration::follow(&record, &session, context).await?;
        let message =
            problem.map_or_else(|| format!("the transaction is {}", record.state_name()), |finding| finding.message);
        return Ok(Left::Wait(message, transaction.map(place)));
    }
    match plan_exit(validated, &session, context.unix_seconds()).await {
        Ok(Some(record)) => {
            Ok(Left::Wait("the node leaves the contract".into(), Some(Written::Exit(status_of(&record)?))))
        }
        Ok(None) => Ok(Left::Nothing),
        Err(error) => Ok(Left::Wait(finding(&error).message, None)),
    }
}

/// Puts a transaction where it belongs.
type Place = fn(TransactionStatus) -> Written;

/// The transaction that is on its way, and where it was written down.
fn earlier(status: &GridNodeStatus) -> Option<(OutboxRecord, Place)> {
    let exit = status.exit.as_ref().and_then(unfinished).map(|record| (record, Written::Exit as Place));
    let registration = || status.registration.as_ref().and_then(unfinished);
    let payout = || status.payout.as_ref().and_then(unfinished).map(|record| (record, Written::Payout as Place));
    exit.or_else(|| registration().map(|record| (record, Written::Registration as Place))).or_else(payout)
}

fn unfinished(status: &TransactionStatus) -> Option<OutboxRecord> {
    record_of(status).filter(|record| !record.is_finished())
}

async fn plan_exit(node: &ValidatedNode, session: &Session, now: u64) -> Result<Option<OutboxRecord>, ChainError> {
    let registration = session.chain.node(node.identity.address, At::Latest).await?;
    let owner = session.key.address();
    Ok(registration.filter(|registration| registration::must_exit(Some(registration), owner, now)).map(
        |registration| {
            let intent = session.chain.unregister_intent(node.identity.address, &registration);
            OutboxRecord::plan(intent, owner, session.chain.chain_id())
        },
    ))
}

/// The gateway forgets the member; key, worker and volume claims go with their owner references.
async fn forget(node: &GridNode, peer: Option<&GridPeerId>, late: bool, context: &Context) -> Result<Action, Error> {
    // Without a key it never was a member.
    let Some(peer) = peer else { return Ok(Action::await_change()) };
    context.sent.forget(&apply::member_key(peer));
    match context.gateway.delete_member(peer).await {
        Ok(()) => {}
        Err(error) if late => {
            let reason = Reason::CleanupDeadlineExceeded.as_str();
            write::publish(context, node, &write::warning("Delete", reason, error.to_string())).await;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Action::await_change())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::operator::grid_node::{
        registration::tests::report,
        validate::tests::{managed, refs},
    };

    /// Of the network in the tests: epoch 0 began at 1000 s, an epoch has 60 s, epoch 4 is reported.
    fn with_work(current: (u64, u64), last: (u64, u64)) -> Refs {
        let of = |(epoch, requests)| Contribution { epoch, requests, ..Contribution::default() };
        let report = NodeReport { current_epoch: of(current), last_epoch: of(last), ..report(true) };
        Refs { report: Ok(Some(report)), ..refs(&managed()) }
    }

    fn deleted_at(second: i64, deadline: i64) -> GridNode {
        let mut node = managed();
        node.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(second).unwrap()));
        node.spec.drain.deadline_seconds = deadline;
        node
    }

    #[test]
    fn the_newest_epoch_with_work_is_the_last_contribution() {
        assert_eq!(outstanding(&with_work((6, 1), (5, 1))), Some(EpochNumber(6)));
        assert_eq!(outstanding(&with_work((6, 0), (5, 1))), Some(EpochNumber(5)));
        assert_eq!(outstanding(&with_work((6, 0), (5, 0))), None);
        assert_eq!(outstanding(&with_work((5, 0), (4, 1))), None, "epoch 4 is reported");
        let mut dry = with_work((6, 1), (5, 1));
        dry.network.as_mut().unwrap().spec.rewards.dry_run = true;
        assert_eq!(outstanding(&dry), None);
    }

    #[test]
    fn a_node_waits_for_its_last_report_only_when_that_can_come_in_time() {
        let refs = with_work((5, 1), (4, 1));
        // Epoch 5 ends at 1360.
        assert!(waits_for(EpochNumber(5), &deleted_at(1_320, 100), &refs));
        assert!(!waits_for(EpochNumber(5), &deleted_at(1_320, 99), &refs));
    }
}
