//! IO: the payments that are due, and what a final block says of their escrows.

use super::decide::{self, Clock, Fate};
use crate::{
    api::{conditions::Finding, grid_network::GridNetwork, ids::Wei},
    chain::{At, ChainError, escrow::JobEscrow},
    operator::{
        chains::{self, Session, escrow_of},
        context::Context,
        gateway::GatewayError,
        grid_network::validate::identity,
    },
    protocol::internal::OpenPayment,
};

/// A payment that is due, and what is to be done about it.
pub struct Found {
    pub payment: OpenPayment,
    pub fate: Fate,
}

pub struct Refs {
    pub found: Vec<Found>,
    pub session: Session,
    pub escrow: JobEscrow,
    /// What one batch may come to: two of them may be counted in one epoch.
    pub most: Wei,
}

/// `None` when nothing is due.
pub async fn dereference(network: &GridNetwork, context: &Context) -> Result<Option<Refs>, Finding> {
    let open = match served(network, context).await.map_err(|error| error.finding())? {
        true => context.gateway.open_payments().await.map_err(|error| error.finding())?,
        // Its payments are another network's.
        false => return Ok(None),
    };
    if open.is_empty() {
        return Ok(None);
    }
    let chain = context.chains.client(network).await.map_err(|problem| problem.finding)?;
    let read = |error: ChainError| chains::finding(&error);
    let parameters = chain.parameters().await.map_err(read)?;
    let clock = Clock {
        genesis: parameters.genesis,
        epoch_seconds: parameters.epoch_seconds,
        now: chain.head().await.map_err(read)?.timestamp,
    };
    let due = decide::due(open, &clock);
    let contract = escrow_of(network).map_err(|problem| problem.finding)?;
    let (false, Some(contract)) = (due.is_empty(), contract) else { return Ok(None) };
    let namespace = &context.config.namespace;
    let session = context.chains.settler_session(network, &context.client, namespace).await;
    let session = session.map_err(|problem| problem.finding)?;
    let escrow = JobEscrow::of(&session.chain, contract).await.map_err(read)?;
    let found = fates(due, &escrow, &session).await.map_err(read)?;
    Ok(Some(Refs { found, session, escrow, most: Wei(parameters.max_epoch_increase.0 / 2) }))
}

/// All in the same final block.
async fn fates(due: Vec<OpenPayment>, escrow: &JobEscrow, session: &Session) -> Result<Vec<Found>, ChainError> {
    let last = session.chain.rpc().agreed().block(At::Finalized).await?;
    let mut found = Vec::with_capacity(due.len());
    for payment in due {
        let job = escrow.job(payment.payment.escrow.0.into(), At::Hash(last.hash)).await?;
        let fate = decide::fate(&payment, job.as_ref(), last.timestamp);
        found.push(Found { payment, fate });
    }
    Ok(found)
}

/// Whether the gateway's ledger is of this network.
async fn served(network: &GridNetwork, context: &Context) -> Result<bool, GatewayError> {
    let served = context.gateway.info().await?.network;
    Ok(served.is_some_and(|served| Some(&served.network) == identity(network).as_ref()))
}
