//! IO: the transaction of a batch, step by step, each written down before the next one is taken.

use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{MANAGER, status};
use crate::{
    api::{grid_network::GridNetwork, refs::TransactionStatus},
    chain::{ChainError, Intent, OutboxRecord, OutboxState},
    operator::{
        chains::{Session, status_of},
        context::Context,
        error::Error,
        outbox::{self, Keep},
        write,
    },
};

/// Writes a batch down. One that is planned already and was never signed gives way: the ledger or the chain may have moved on.
pub async fn plan(
    network: &mut GridNetwork,
    planned: Option<OutboxRecord>,
    intent: Intent,
    session: &Session,
    context: &Context,
) -> Result<OutboxRecord, Error> {
    let record = OutboxRecord::plan(intent, session.key.address(), session.chain.chain_id());
    match planned {
        Some(before) if before == record => return Ok(before),
        // A nonce may be set aside for a signature that was never written down.
        Some(before) if matches!(before.state, OutboxState::Planned) => session.pool.release(&before.intent.key),
        _ => {}
    }
    Status { network, context }.write_down(&record).await?;
    Ok(record)
}

/// Takes every step that does not have to wait for the chain. `Err(ChainError)` inside means that the chain or the contract did
/// not let it go on; what was written down stands.
pub async fn advance(
    network: &mut GridNetwork,
    record: OutboxRecord,
    session: &Session,
    context: &Context,
) -> Result<Result<OutboxRecord, ChainError>, Error> {
    let outcome = outbox::advance(record, &mut Status { network, context }, session, context).await?;
    if let Ok(OutboxRecord { state: OutboxState::Finalized { inclusion }, .. }) = &outcome {
        let note = format!("paid jobs were settled in block {}", inclusion.block_number);
        write::publish(context, network, &write::note("Settle", "EscrowSettled", note)).await;
    }
    Ok(outcome)
}

/// The status of a network, where its settlement is written down.
struct Status<'a> {
    network: &'a mut GridNetwork,
    context: &'a Context,
}

impl Keep for Status<'_> {
    async fn write_down(&mut self, record: &OutboxRecord) -> Result<(), Error> {
        let settlement = status_of(record)?;
        *self.network = write_status(self.network, Some(&settlement), self.context).await?;
        let (network, state) = (self.network.name_any(), record.state_name());
        tracing::info!(network, state, nonce = ?record.nonce(), "settlement written down");
        Ok(())
    }
}

/// Writes what belongs to this controller in the network's status; everything else there has another owner.
pub(super) async fn write_status(
    network: &GridNetwork,
    settlement: Option<&TransactionStatus>,
    context: &Context,
) -> Result<GridNetwork, Error> {
    let mut own = json!({"conditions": status::own(network)});
    if let (Some(settlement), Some(fields)) = (settlement, own.as_object_mut()) {
        fields.insert("settlement".to_owned(), serde_json::to_value(settlement)?);
    }
    let body = json!({
        "apiVersion": GridNetwork::api_version(&()),
        "kind": GridNetwork::kind(&()),
        "metadata": {"name": network.name_any(), "resourceVersion": network.resource_version()},
        "status": own,
    });
    let api: Api<GridNetwork> = Api::all(context.client.clone());
    Ok(api.patch_status(&network.name_any(), &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body)).await?)
}
