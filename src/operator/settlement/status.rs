//! The network's SettlementsCurrent. Pure up to the last function.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::drive;
use crate::{
    api::{
        conditions::{self, Condition, Finding, Truth},
        grid_network::{GridNetwork, condition::SETTLEMENTS_CURRENT},
        reasons::Reason,
    },
    chain::ChainError,
    operator::{
        chains::{self, Session},
        context::Context,
        error::Error,
        write,
    },
};

/// Why a settlement does not go on.
pub fn trouble(error: &ChainError, session: &Session) -> Finding {
    let settler = session.key.address();
    match error {
        ChainError::Refused(refusal) if refusal.name == "MissingRole" => {
            let message = format!(
                "{settler} lacks SETTLER_ROLE; the contract's admin grants it: cast send {} 'grantRole(bytes32,address)' $(cast keccak SETTLER_ROLE) {settler}",
                session.chain.contract()
            );
            Finding::no(Reason::SettlerWithoutRole, message)
        }
        ChainError::Refused(refusal) if refusal.passes_with_time => {
            Finding::no(Reason::SettlementPending, refusal.to_string())
        }
        ChainError::TooManyInFlight { .. } => Finding::no(Reason::SettlementPending, error.to_string()),
        error => chains::finding(error),
    }
}

/// What is said when nothing is to be settled: nothing at all before the first job was paid for.
pub fn current(network: &GridNetwork) -> Option<Finding> {
    let settled = network.status.as_ref().is_some_and(|status| status.settlement.is_some());
    let finding = || Finding::yes(Reason::SettlementsCurrent, "every paid job of an epoch that is over is settled");
    (settled || !own(network).is_empty()).then(finding)
}

/// The condition that belongs to this controller, if it is there.
pub fn own(network: &GridNetwork) -> Vec<Condition> {
    let all = network.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    conditions::find(all, SETTLEMENTS_CURRENT).cloned().into_iter().collect()
}

/// Writes the condition where it changed, and tells of what a person must mend.
pub async fn update(network: &GridNetwork, finding: Finding, context: &Context) -> Result<(), Error> {
    let before = own(network);
    let mut after = before.clone();
    let now = Time((context.clock)());
    conditions::set(&mut after, SETTLEMENTS_CURRENT, finding.clone(), network.metadata.generation, &now);
    if before == after {
        return Ok(());
    }
    let mut changed = network.clone();
    let status = changed.status.get_or_insert_default();
    status.conditions.retain(|condition| condition.type_ != SETTLEMENTS_CURRENT);
    status.conditions.extend(after);
    let settlement = network.status.as_ref().and_then(|status| status.settlement.as_ref());
    drive::write_status(&changed, settlement, context).await?;
    let news = before.first().is_none_or(|before| before.reason != finding.reason);
    if finding.truth == Truth::False && news && finding.reason != Reason::SettlementPending.as_str() {
        write::publish(context, network, &write::warning("Settle", &finding.reason, finding.message.clone())).await;
    }
    Ok(())
}
