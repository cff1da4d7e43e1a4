//! The network's SettlementsCurrent. Pure.

use super::PLACE;
use crate::{
    api::{conditions::Finding, grid_network::GridNetwork, reasons::Reason},
    chain::ChainError,
    operator::chains::{self, Session},
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
    let finding = || Finding::yes(Reason::SettlementsCurrent, "every paid job of an epoch that is over is settled");
    PLACE.is_used(network).then(finding)
}
