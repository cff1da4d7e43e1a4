//! Settlement: paid jobs that are over, settled with their escrows in batches. The gateway's ledger says what each has spent, the
//! chain what became of its escrow; what a final block says is told to the gateway, which counts the job in the next epoch that
//! it closes. Talks to the API server, the gateway and the chain, and keeps nothing.
//!
//! Three things keep an escrow from being spent twice: the ledger's key (an escrow pays one job), the record of the transaction
//! (in the GridNetwork's status, written down before the bytes leave), and the contract, which settles each escrow once.

pub mod decide;
pub mod dereference;
pub mod status;

use std::{sync::Arc, time::Duration};

use kube::{Api, ResourceExt, runtime::controller::Action};
use tokio_util::sync::CancellationToken;

use super::{
    chains::Session,
    context::Context,
    error::Error,
    network_outbox::Place,
    runner::{self, Guarded},
    write,
};
use crate::{
    api::{
        conditions::Finding,
        grid_network::{GridNetwork, condition::SETTLEMENTS_CURRENT},
        reasons::Reason,
    },
    chain::{OutboxRecord, OutboxState, escrow::Settlement},
};
use decide::Fate;
use dereference::{Found, Refs};

/// Field manager of this controller.
pub const MANAGER: &str = "xdc-grid-settlement";
/// Where the last settlement is written down.
const PLACE: Place = Place {
    manager: MANAGER,
    field: "settlement",
    transaction: |status| status.settlement.as_ref(),
    condition: SETTLEMENTS_CURRENT,
    action: "Settle",
    waiting: Reason::SettlementPending,
};
/// The gateway is asked so often for jobs to settle; they wait for the end of their epoch anyway.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
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
}

pub async fn reconcile(network: Arc<GridNetwork>, context: Arc<Context>) -> Result<Action, Error> {
    if network.metadata.deletion_timestamp.is_some() || network.spec.chain.escrow.is_none() {
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

/// Takes a transaction further, to its end.
async fn follow(network: &mut GridNetwork, record: OutboxRecord, context: &Context) -> Result<Outcome, Error> {
    match context.chains.settler_session(network, &context.client, &context.config.namespace).await {
        Ok(session) => drive(network, record, &session, context).await,
        Err(problem) => Ok(Outcome::told(problem.finding)),
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
        Err(error) => return Ok(Outcome::told(status::trouble(&error, session))),
    };
    match &record.state {
        OutboxState::Failed { refusal, .. } => {
            Ok(Outcome::told(Finding::no(Reason::TransactionReverted, format!("settlement: {refusal}"))))
        }
        OutboxState::Finalized { inclusion } => {
            let note = format!("paid jobs were settled in block {}", inclusion.block_number);
            write::publish(context, network, &write::note("Settle", Reason::EscrowSettled.as_str(), note)).await;
            Ok(Outcome { finding: None, again: AT_ONCE })
        }
        OutboxState::Planned => Ok(Outcome { finding: None, again: AT_ONCE }),
        _ => {
            let finding = Finding::no(Reason::SettlementPending, "paid jobs are being settled with their escrows");
            Ok(Outcome { finding: Some(finding), again: context.config.chain_poll() })
        }
    }
}

/// Nothing is under way: tells the gateway what is final, and settles what is due.
async fn next(network: &mut GridNetwork, planned: Option<OutboxRecord>, context: &Context) -> Result<Outcome, Error> {
    let refs = match dereference::dereference(network, context).await {
        Ok(Some(refs)) => refs,
        // Nobody has paid for anything yet, or all of it is settled.
        Ok(None) => return Ok(Outcome { finding: status::current(network), again: LOOK_AGAIN }),
        Err(finding) => return Ok(Outcome::told(finding)),
    };
    let Refs { found, session, escrow, most } = refs;
    let mut settlements = Vec::new();
    for Found { payment, fate } in found {
        match fate {
            Fate::Final(settled) => context.gateway.settle_payment(&payment.payment.escrow, &settled).await?,
            Fate::Settle(settlement) => settlements.push(settlement),
            Fate::Wait => tracing::warn!(escrow = %payment.payment.escrow, "no final block has this escrow"),
        }
    }
    let batch = decide::batch(settlements, most);
    let Some(intent) = escrow.settle_intent(&batch) else {
        return Ok(Outcome { finding: status::current(network), again: LOOK_AGAIN });
    };
    if network.spec.rewards.dry_run {
        let finding = Finding::no(Reason::DryRun, "spec.rewards.dryRun keeps settlements from the chain");
        return Ok(Outcome::told(finding));
    }
    announce(&batch, network);
    let record = PLACE.plan(network, planned, intent, &session, context).await?;
    drive(network, record, &session, context).await
}

fn announce(batch: &[Settlement], network: &GridNetwork) {
    let wei: u128 = batch.iter().fold(0, |sum, one| sum.saturating_add(one.spent.0));
    tracing::info!(network = network.name_any(), jobs = batch.len(), %wei, "settling paid jobs");
}
