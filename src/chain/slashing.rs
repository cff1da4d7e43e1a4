//! Slash cases: the intents and views of GridSlashing. A slasher, who is never the reporter, proposes; the node's owner can appeal
//! with a bond; an arbiter rules; what nobody rules on in time is dropped.

use alloy::{
    primitives::{B256, U256},
    sol_types::SolEvent,
};
use serde::{Deserialize, Serialize};

use super::{
    bindings::{GridComputingRewards, GridSlashing as contract},
    client::ChainClient,
    error::ChainError,
    member::Member,
    outbox::{Inclusion, Intent, IntentKind},
    rpc::{At, LogFilter},
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

    /// The case that a proposal opened; `None` when no final block shows it.
    pub async fn case_opened_by(&self, proposal: &Inclusion) -> Result<Option<u64>, ChainError> {
        let (block, topic) = (proposal.block_number, contract::SlashProposed::SIGNATURE_HASH);
        let filter = LogFilter { address: self.address(), topic, from_block: block, to_block: block };
        let entries = self.0.rpc().agreed().logs(&filter).await?;
        let opened = entries.iter().find(|entry| entry.transaction == proposal.hash);
        Ok(opened.and_then(|entry| entry.topics.get(1)).map(|id| U256::from_be_bytes(id.0).saturating_to()))
    }

    pub async fn appeal_bond(&self) -> Result<Wei, ChainError> {
        Ok(Wei(self.0.view(contract::appealBondCall {}, At::Latest).await?.to()))
    }

    /// Signed by a slasher. The evidence names the case: for the same evidence no second one is proposed. `None` for an amount
    /// that no stake can have.
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
