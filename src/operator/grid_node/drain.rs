//! How a node leaves: no new work, running work finished, out of the contract, no member any more. All of it before a deadline,
//! after which the node goes anyway and an Event says what was left undone.

use std::time::Duration;

use kube::runtime::controller::Action;

use super::{
    apply,
    build::{Draining, build},
    dereference::{self, Refs},
    registration::{self, Moved},
    status,
    validate::{ValidatedNode, validate},
};
use crate::{
    api::{grid_network::GridNetwork, grid_node::GridNode, reasons::Reason, refs::TransactionStatus},
    chain::{At, ChainError, OutboxRecord},
    operator::{
        chains::{Session, finding, record_of, status_of},
        context::Context,
        error::Error,
        finalizers::deadline_passed,
        write,
    },
};

/// What is still to be waited for.
enum Left {
    Nothing,
    /// A sentence for people, and the transaction to write down.
    Wait(String, Option<TransactionStatus>),
}

pub async fn drain(node: &GridNode, context: &Context) -> Result<Action, Error> {
    let limit = Duration::from_secs(node.spec.drain.deadline_seconds.unsigned_abs());
    let late = deadline_passed(node, (context.clock)(), limit);
    let refs = dereference::dereference(node, context).await?;
    let Ok(validated) = validate(node, &refs) else {
        // It never took part: without network or key there is nothing to leave.
        return Ok(Action::await_change());
    };
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
    forget(node, &validated, late, context).await
}

async fn leave(node: &GridNode, validated: &ValidatedNode, refs: &Refs, context: &Context) -> Result<Left, Error> {
    let wanted = build(validated, Draining::Yes, &context.config);
    if let Err(error) = apply::tell(&wanted.member, apply::Admission::Approved, context).await {
        return Ok(Left::Wait(error.to_string(), None));
    }
    match &refs.report {
        Err(error) => return Ok(Left::Wait(error.to_string(), None)),
        Ok(Some(report)) if report.running > 0 => {
            return Ok(Left::Wait("the node finishes its running work".into(), None));
        }
        Ok(_) => {}
    }
    match &refs.network {
        Some(network) if validated.worker.is_some() => exit(node, validated, network, context).await,
        _ => Ok(Left::Nothing),
    }
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
    let now = u64::try_from((context.clock)().as_second()).unwrap_or(0);
    let earlier = node
        .status
        .as_ref()
        .and_then(|status| [&status.exit, &status.registration].into_iter().flatten().find_map(unfinished));
    if let Some(record) = earlier {
        let Moved { transaction, problem, .. } = registration::follow(&record, &session, now).await?;
        let message =
            problem.map_or_else(|| format!("the transaction is {}", record.state_name()), |finding| finding.message);
        return Ok(Left::Wait(message, transaction));
    }
    match plan_exit(validated, &session, now).await {
        Ok(Some(record)) => Ok(Left::Wait("the node leaves the contract".into(), Some(status_of(&record)?))),
        Ok(None) => Ok(Left::Nothing),
        Err(error) => Ok(Left::Wait(finding(&error).message, None)),
    }
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
async fn forget(node: &GridNode, validated: &ValidatedNode, late: bool, context: &Context) -> Result<Action, Error> {
    let peer = &validated.identity.peer_id;
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
