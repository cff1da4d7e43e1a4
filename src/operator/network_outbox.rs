//! IO: one transaction at a time in a network's status, with the condition that tells of it: what the controllers have in common that
//! act for a whole network. Each has a field and a condition of its own there; everything else in the status has another owner.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    chains::{Session, record_of, status_of},
    context::Context,
    error::Error,
    outbox::{self, Keep},
    write,
};
use crate::{
    api::{
        conditions::{self, Condition, Finding, Truth},
        grid_network::{GridNetwork, GridNetworkStatus},
        reasons::Reason,
        refs::TransactionStatus,
    },
    chain::{ChainError, Intent, OutboxRecord, OutboxState},
};

/// What belongs to one controller in the status of a network.
pub struct Place {
    /// Field manager of the controller.
    pub manager: &'static str,
    /// The field, as JSON names it, in which its transaction is written down.
    pub field: &'static str,
    /// The same field.
    pub transaction: fn(&GridNetworkStatus) -> Option<&TransactionStatus>,
    /// Type of its condition.
    pub condition: &'static str,
    /// What its Events call what it does.
    pub action: &'static str,
    /// The reason that is no news: something takes its time.
    pub waiting: Reason,
}

impl Place {
    /// The record of the last transaction.
    pub fn record(&self, network: &GridNetwork) -> Result<Option<OutboxRecord>, Finding> {
        let Some(status) = network.status.as_ref().and_then(self.transaction) else { return Ok(None) };
        let damaged = || {
            let message = format!("status.{}: the record of the transaction is damaged", self.field);
            Finding::no(Reason::InvalidObject, message)
        };
        record_of(status).map(Some).ok_or_else(damaged)
    }

    /// Whether it ever had anything to do or to say.
    pub fn is_used(&self, network: &GridNetwork) -> bool {
        network.status.as_ref().and_then(self.transaction).is_some() || self.own(network).is_some()
    }

    /// Writes an intent down. One that is planned already and was never signed gives way: the world may have moved on.
    pub async fn plan(
        &self,
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
        Status { place: self, network, context }.write_down(&record).await?;
        Ok(record)
    }

    /// Takes every step that does not have to wait for the chain. `Err(ChainError)` inside means that the chain or the contract did
    /// not let it go on; what was written down stands.
    pub async fn advance(
        &self,
        network: &mut GridNetwork,
        record: OutboxRecord,
        session: &Session,
        context: &Context,
    ) -> Result<Result<OutboxRecord, ChainError>, Error> {
        outbox::advance(record, &mut Status { place: self, network, context }, session, context).await
    }

    /// Writes the condition where it changed, and tells of what a person must mend.
    pub async fn tell(&self, network: &GridNetwork, finding: Finding, context: &Context) -> Result<(), Error> {
        let before: Vec<Condition> = self.own(network).cloned().into_iter().collect();
        let mut after = before.clone();
        let now = Time((context.clock)());
        conditions::set(&mut after, self.condition, finding.clone(), network.metadata.generation, &now);
        if before == after {
            return Ok(());
        }
        let mut changed = network.clone();
        let status = changed.status.get_or_insert_default();
        status.conditions.retain(|condition| condition.type_ != self.condition);
        status.conditions.extend(after);
        self.write(&changed, network.status.as_ref().and_then(self.transaction), context).await?;
        let news = before.first().is_none_or(|before| before.reason != finding.reason);
        if finding.truth == Truth::False && news && finding.reason != self.waiting.as_str() {
            let event = write::warning(self.action, &finding.reason, finding.message.clone());
            write::publish(context, network, &event).await;
        }
        Ok(())
    }

    /// Its condition, if it is there.
    fn own<'a>(&self, network: &'a GridNetwork) -> Option<&'a Condition> {
        conditions::find(&network.status.as_ref()?.conditions, self.condition)
    }

    async fn write(
        &self,
        network: &GridNetwork,
        transaction: Option<&TransactionStatus>,
        context: &Context,
    ) -> Result<GridNetwork, Error> {
        let conditions: Vec<_> = self.own(network).into_iter().collect();
        let mut own = json!({"conditions": conditions});
        if let (Some(transaction), Some(fields)) = (transaction, own.as_object_mut()) {
            fields.insert(self.field.to_owned(), serde_json::to_value(transaction)?);
        }
        let body = json!({
            "apiVersion": GridNetwork::api_version(&()),
            "kind": GridNetwork::kind(&()),
            "metadata": {"name": network.name_any(), "resourceVersion": network.resource_version()},
            "status": own,
        });
        let api: Api<GridNetwork> = Api::all(context.client.clone());
        let params = PatchParams::apply(self.manager).force();
        Ok(api.patch_status(&network.name_any(), &params, &Patch::Apply(&body)).await?)
    }
}

/// The status of a network, where a transaction is written down.
struct Status<'a> {
    place: &'a Place,
    network: &'a mut GridNetwork,
    context: &'a Context,
}

impl Keep for Status<'_> {
    async fn write_down(&mut self, record: &OutboxRecord) -> Result<(), Error> {
        let transaction = status_of(record)?;
        *self.network = self.place.write(self.network, Some(&transaction), self.context).await?;
        let (network, state, field) = (self.network.name_any(), record.state_name(), self.place.field);
        tracing::info!(network, field, state, nonce = ?record.nonce(), "transaction written down");
        Ok(())
    }
}
