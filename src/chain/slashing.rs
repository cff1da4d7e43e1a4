//! Slash cases: the intents and views of GridSlashing. A slasher, who is never the reporter, proposes; the node's owner can appeal
//! with a bond; an arbiter rules; what nobody rules on in time is dropped.

use alloy::{
    primitives::{B256, U256},
    sol_types::SolCall,
};
use serde::{Deserialize, Serialize};

use super::{
    bindings::{GridComputingRewards, GridSlashing as contract},
    client::ChainClient,
    error::ChainError,
    member::Member,
    outbox::{Intent, IntentKind},
    rpc::At,
};
use crate::api::ids::{NodeAddress, Wei};

/// The GridSlashing that the contract of a [`ChainClient`] is bound to.
#[derive(Clone)]
pub struct Slashing(Member);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum CaseState {
    Proposed,
    Appealed,
    Executed,
    Cancelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlashCase {
    pub node: NodeAddress,
    /// Frozen for the case.
    pub amount: Wei,
    /// Unix seconds; an appeal is taken before.
    pub appeal_until: u64,
    /// Unix seconds; an appeal that nobody has ruled on is dropped from then on.
    pub ruling_until: u64,
    pub state: CaseState,
}

impl SlashCase {
    /// Nobody appealed, and at `time` (unix seconds, of a final block) nobody can any more: anybody may execute it.
    pub fn is_due(&self, time: u64) -> bool {
        self.state == CaseState::Proposed && time >= self.appeal_until
    }
}

impl Slashing {
    /// `None` while the contract has no slashing.
    pub async fn of(client: &ChainClient) -> Result<Option<Self>, ChainError> {
        let address: NodeAddress = client.view(GridComputingRewards::slashingContractCall {}, At::Latest).await?.into();
        if address == NodeAddress([0; 20]) {
            return Ok(None);
        }
        Ok(Some(Slashing(Member::of(client, address).await?)))
    }

    pub fn address(&self) -> NodeAddress {
        self.0.address()
    }

    /// How many cases there were; ids count from 1.
    pub async fn case_count(&self, at: At) -> Result<u64, ChainError> {
        Ok(self.0.view(contract::caseCountCall {}, at).await?.saturating_to())
    }

    /// `None` for an id that was never given.
    pub async fn case(&self, id: u64, at: At) -> Result<Option<SlashCase>, ChainError> {
        let raw = self.0.view(contract::slashCasesCall { caseId: U256::from(id) }, at).await?;
        let state = match raw.state {
            1 => CaseState::Proposed,
            2 => CaseState::Appealed,
            3 => CaseState::Executed,
            4 => CaseState::Cancelled,
            _ => return Ok(None),
        };
        Ok(Some(SlashCase {
            node: raw.node.into(),
            amount: Wei(raw.amount.to()),
            appeal_until: raw.appealUntil.to(),
            ruling_until: raw.rulingUntil.to(),
            state,
        }))
    }

    /// The case that was opened against a node on this evidence, whatever became of it. There is never a second one.
    pub async fn case_of(&self, node: NodeAddress, evidence: B256, at: At) -> Result<Option<u64>, ChainError> {
        let call = contract::caseOfCall { node: node.into(), evidenceHash: evidence };
        let id: u64 = self.0.view(call, at).await?.saturating_to();
        Ok((id != 0).then_some(id))
    }

    pub async fn appeal_bond(&self) -> Result<Wei, ChainError> {
        Ok(Wei(self.0.view(contract::appealBondCall {}, At::Latest).await?.to()))
    }

    /// Signed by a slasher. The evidence, which must not be zero, names the case: the contract opens no second one on it. `None` for an
    /// amount that no stake can have.
    pub fn propose_intent(&self, node: NodeAddress, amount: Wei, evidence: B256) -> Option<Intent> {
        let key = format!("slash/{}/{node}/{evidence}", self.address());
        let amount = amount.0.try_into().ok()?;
        let call = contract::proposeSlashCall { node: node.into(), amount, evidenceHash: evidence };
        Some(self.0.intent(IntentKind::ProposeSlash, key, Wei(0), call))
    }

    /// Signed by the node's owner; `bond` is [`Slashing::appeal_bond`].
    pub fn appeal_intent(&self, case: u64, bond: Wei) -> Intent {
        let key = format!("appeal/{}/{case}", self.address());
        self.0.intent(IntentKind::AppealSlash, key, bond, contract::appealSlashCall { caseId: U256::from(case) })
    }

    /// Anybody once the appeal is over; the arbiter for a case that was appealed.
    pub fn execute_intent(&self, case: u64) -> Intent {
        let key = format!("slashed/{}/{case}", self.address());
        self.0.intent(IntentKind::ExecuteSlash, key, Wei(0), contract::executeSlashCall { caseId: U256::from(case) })
    }

    /// The arbiter; anybody once the time for a ruling is over.
    pub fn cancel_intent(&self, case: u64) -> Intent {
        let key = format!("unslashed/{}/{case}", self.address());
        self.0.intent(IntentKind::CancelSlash, key, Wei(0), contract::cancelSlashCall { caseId: U256::from(case) })
    }
}

/// The evidence in a proposal; `None` for any other intent.
pub fn evidence_of(intent: &Intent) -> Option<B256> {
    contract::proposeSlashCall::abi_decode(&intent.call.data).ok().map(|call| call.evidenceHash)
}
