//! What is persisted.

use alloy::primitives::{B256, Bytes};
use serde::{Deserialize, Serialize};

use crate::{
    api::ids::{NodeAddress, Wei},
    chain::{
        refusal::Refusal,
        rpc::{CallRequest, TxReceipt},
    },
};

/// Replacements carry the same calldata again; this bounds what one record can grow to.
pub const MAX_ATTEMPTS: usize = 6;

/// What a transaction is for; a label, the call says what happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IntentKind {
    Deploy,
    GrantRole,
    Fund,
    RegisterNode,
    UnregisterNode,
    RequestPayout,
    ApplyPayout,
    VoteEpoch,
    SubmitEpoch,
    ActivateEpoch,
    Claim,
    OpenJob,
    TopUpJob,
    SettleJobs,
    CancelJob,
    WithdrawCredit,
    BindSlashing,
    ProposeSlash,
    AppealSlash,
    ExecuteSlash,
    CancelSlash,
}

/// What to send: `to` is none for the creation of a contract.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxCall {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<NodeAddress>,
    pub value: Wei,
    /// Calldata, `0x…`.
    pub data: Bytes,
}

impl TxCall {
    pub(in crate::chain) fn request(&self, from: NodeAddress) -> CallRequest {
        CallRequest { from, to: self.to, value: self.value, data: self.data.clone() }
    }
}

/// One thing to do on chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    pub kind: IntentKind,
    /// Names what must not happen twice, for example `epoch/<network>/17`. Unique among the unfinished records of one signer.
    pub key: String,
    pub call: TxCall,
}

/// A signed transaction. All attempts of a record have the same nonce, so at most one of them can be mined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    pub nonce: u64,
    pub gas_limit: u64,
    pub gas_price: Wei,
    pub hash: B256,
    /// The bytes to broadcast, `0x…`.
    pub raw: Bytes,
}

/// Where a transaction was mined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inclusion {
    pub hash: B256,
    pub block_number: u64,
    pub block_hash: B256,
    pub succeeded: bool,
    pub gas_used: u64,
    /// gas used × price.
    pub fee: Wei,
    /// The contract that it created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<NodeAddress>,
}

impl Inclusion {
    pub(super) fn of(receipt: TxReceipt, attempts: &[Attempt]) -> Self {
        let price =
            attempts.iter().find(|attempt| attempt.hash == receipt.hash).map_or(0, |attempt| attempt.gas_price.0);
        Inclusion {
            hash: receipt.hash,
            block_number: receipt.block_number,
            block_hash: receipt.block_hash,
            succeeded: receipt.succeeded,
            gas_used: receipt.gas_used,
            fee: Wei(u128::from(receipt.gas_used).saturating_mul(price)),
            contract: receipt.contract,
        }
    }
}

/// Planned → Signed → Sent → Included → Finalized | Failed. Included goes back to Sent when its block is dropped, Sent goes back to
/// Signed with a replacement, and to Planned when its nonce was proven to be used by something else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all_fields = "camelCase")]
pub enum OutboxState {
    /// Nothing is signed.
    Planned,
    /// Signed, and persisted before the first byte leaves.
    Signed { attempts: Vec<Attempt> },
    /// Handed to at least one node.
    Sent {
        attempts: Vec<Attempt>,
        /// Unix seconds of the last broadcast.
        sent_at: u64,
        /// The finalized block at which the nonce was first seen used without any of our receipts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        missing_at: Option<u64>,
    },
    /// In a block that is not final yet.
    Included { attempts: Vec<Attempt>, inclusion: Inclusion },
    /// In a final block, and it worked.
    Finalized { inclusion: Inclusion },
    /// In a final block, and it reverted.
    Failed { inclusion: Inclusion, refusal: Refusal },
}

/// One transaction from plan to finality.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboxRecord {
    pub intent: Intent,
    /// The account that signs.
    pub from: NodeAddress,
    pub chain_id: u64,
    #[serde(flatten)]
    pub state: OutboxState,
}

impl OutboxRecord {
    pub fn plan(intent: Intent, from: NodeAddress, chain_id: u64) -> Self {
        OutboxRecord { intent, from, chain_id, state: OutboxState::Planned }
    }

    pub fn is_finished(&self) -> bool {
        matches!(self.state, OutboxState::Finalized { .. } | OutboxState::Failed { .. })
    }

    /// Signed and not finished: it must be followed to its end, or its nonce blocks the account.
    pub fn is_under_way(&self) -> bool {
        !self.is_finished() && !matches!(self.state, OutboxState::Planned)
    }

    /// For conditions and logs.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            OutboxState::Planned => "Planned",
            OutboxState::Signed { .. } => "Signed",
            OutboxState::Sent { .. } => "Sent",
            OutboxState::Included { .. } => "Included",
            OutboxState::Finalized { .. } => "Finalized",
            OutboxState::Failed { .. } => "Failed",
        }
    }

    /// Signed and unfinished attempts; empty otherwise.
    pub fn attempts(&self) -> &[Attempt] {
        match &self.state {
            OutboxState::Signed { attempts }
            | OutboxState::Sent { attempts, .. }
            | OutboxState::Included { attempts, .. } => attempts,
            OutboxState::Planned | OutboxState::Finalized { .. } | OutboxState::Failed { .. } => &[],
        }
    }

    /// The nonce it occupies.
    pub fn nonce(&self) -> Option<u64> {
        self.attempts().last().map(|attempt| attempt.nonce)
    }

    /// Where it was mined, final or not.
    pub fn inclusion(&self) -> Option<&Inclusion> {
        match &self.state {
            OutboxState::Included { inclusion, .. }
            | OutboxState::Finalized { inclusion }
            | OutboxState::Failed { inclusion, .. } => Some(inclusion),
            OutboxState::Planned | OutboxState::Signed { .. } | OutboxState::Sent { .. } => None,
        }
    }

    /// Whether the next step waits for the chain, so that there is no point in taking it at once.
    pub fn waits_for_the_chain(&self) -> bool {
        matches!(self.state, OutboxState::Sent { .. } | OutboxState::Included { .. })
    }
}
