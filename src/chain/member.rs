//! A contract that belongs to one GridComputingRewards and asks it who may do what: GridJobEscrow and GridSlashing.

use alloy::sol_types::SolCall;

use super::{
    bindings::GridJobEscrow::rewardsCall,
    client::ChainClient,
    error::ChainError,
    outbox::{Intent, IntentKind},
    rpc::At,
};
use crate::api::ids::{NodeAddress, Wei};

/// The member's own address behind the client of its grid.
#[derive(Clone)]
pub(super) struct Member(ChainClient);

impl Member {
    /// Fails unless the contract at `address` says that it belongs to the client's.
    pub(super) async fn of(grid: &ChainClient, address: NodeAddress) -> Result<Self, ChainError> {
        let member = Member(grid.at_address(address));
        // Both members have this function.
        let belongs_to: NodeAddress = member.view(rewardsCall {}, At::Latest).await?.into();
        if belongs_to == grid.contract() {
            return Ok(member);
        }
        Err(ChainError::OfAnotherGrid { contract: address, grid: belongs_to })
    }

    pub(super) fn address(&self) -> NodeAddress {
        self.0.contract()
    }

    pub(super) async fn view<C: SolCall>(&self, call: C, at: At) -> Result<C::Return, ChainError> {
        self.0.view(call, at).await
    }

    pub(super) fn intent(&self, kind: IntentKind, key: String, value: Wei, call: impl SolCall) -> Intent {
        self.0.intent(kind, key, value, call)
    }
}
