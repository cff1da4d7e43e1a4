//! Payers' money for jobs: the intents and views of GridJobEscrow. A payer opens and tops up, a settler settles in batches before
//! the deadline, and after it the payer alone takes everything back.

use alloy::primitives::{B256, Bytes, keccak256};
use serde::{Deserialize, Serialize};

use super::{
    bindings::{GridJobEscrow as contract, IGridJobEscrow::Settlement as RawSettlement},
    client::ChainClient,
    error::ChainError,
    member::Member,
    outbox::{Intent, IntentKind},
    rpc::At,
};
use crate::api::ids::{NodeAddress, Wei};

/// Settlements in one transaction: about 18,000 gas each on XDC, far from its limits.
pub const MAX_SETTLEMENTS: usize = 200;

/// A GridJobEscrow that belongs to the contract of a [`ChainClient`].
#[derive(Clone)]
pub struct JobEscrow(Member);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    Open,
    Settled,
    Cancelled,
}

/// A job as the escrow knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EscrowedJob {
    pub payer: NodeAddress,
    /// Put down in all.
    pub escrow: Wei,
    /// Unix seconds from which only the payer can take it.
    pub deadline: u64,
    /// Part of what is spent that the treasury keeps, in 1/10 000.
    pub fee_bps: u16,
    pub state: JobState,
    pub spent: Wei,
}

/// What one job has spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settlement {
    pub job: B256,
    /// At most its escrow.
    pub spent: Wei,
}

impl JobEscrow {
    /// Fails unless the contract there is an escrow of this grid.
    pub async fn of(client: &ChainClient, address: NodeAddress) -> Result<Self, ChainError> {
        Ok(JobEscrow(Member::of(client, address).await?))
    }

    pub fn address(&self) -> NodeAddress {
        self.0.address()
    }

    /// `None` for a job that was never opened.
    pub async fn job(&self, job: B256, at: At) -> Result<Option<EscrowedJob>, ChainError> {
        let raw = self.0.view(contract::jobsCall { jobId: job }, at).await?;
        let state = match raw.state {
            1 => JobState::Open,
            2 => JobState::Settled,
            3 => JobState::Cancelled,
            _ => return Ok(None),
        };
        Ok(Some(EscrowedJob {
            payer: raw.payer.into(),
            escrow: Wei(raw.escrow.to()),
            deadline: raw.deadline.to(),
            fee_bps: raw.feeBps,
            state,
            spent: Wei(raw.spent.to()),
        }))
    }

    /// The id of the job that a payer opens with a salt; a payer uses each salt once.
    pub fn job_id(payer: NodeAddress, salt: B256) -> B256 {
        let mut words = [0; 64];
        words[12..32].copy_from_slice(&payer.0);
        words[32..].copy_from_slice(&salt.0);
        keccak256(words)
    }

    /// Signed by the payer; `escrow` goes with it. `deadline` in unix seconds, a minute to 90 days ahead.
    pub fn open_intent(&self, payer: NodeAddress, salt: B256, deadline: u64, escrow: Wei) -> Intent {
        let key = format!("open/{}/{}", self.address(), JobEscrow::job_id(payer, salt));
        self.0.intent(IntentKind::OpenJob, key, escrow, contract::openJobCall { salt, deadline })
    }

    /// Anybody may add to an open job. `purpose` names the payment, so that it is not made twice.
    pub fn top_up_intent(&self, job: B256, amount: Wei, purpose: &str) -> Intent {
        let key = format!("topup/{}/{job}/{purpose}", self.address());
        self.0.intent(IntentKind::TopUpJob, key, amount, contract::topUpJobCall { jobId: job })
    }

    /// Signed by a settler. Jobs that cannot be settled any more are skipped by the contract. `None` for no or too many jobs.
    pub fn settle_intent(&self, settlements: &[Settlement]) -> Option<Intent> {
        if settlements.is_empty() || settlements.len() > MAX_SETTLEMENTS {
            return None;
        }
        let raw: Option<Vec<_>> = settlements
            .iter()
            .map(|one| Some(RawSettlement { jobId: one.job, spent: one.spent.0.try_into().ok()? }))
            .collect();
        let call = contract::settleJobsCall { settlements: raw? };
        // The contract settles each job once, so the batch is named by its content.
        let content: Bytes = settlements.iter().flat_map(|one| [one.job.0, pad(one.spent)].concat()).collect();
        let key = format!("settle/{}/{}", self.address(), keccak256(content));
        Some(self.0.intent(IntentKind::SettleJobs, key, Wei(0), call))
    }

    /// Signed by the payer, from the deadline on.
    pub fn cancel_intent(&self, job: B256) -> Intent {
        let key = format!("cancel/{}/{job}", self.address());
        self.0.intent(IntentKind::CancelJob, key, Wei(0), contract::cancelJobCall { jobId: job })
    }

    /// Sends an account what it can take; anybody may sign it. `seen` is the credit that was read, so that a later one has another
    /// key.
    pub fn withdraw_credit_intent(&self, account: NodeAddress, seen: Wei) -> Intent {
        let key = format!("credit/{}/{account}/{seen}", self.address());
        let call = contract::withdrawCreditCall { account: account.into() };
        self.0.intent(IntentKind::WithdrawCredit, key, Wei(0), call)
    }

    pub async fn credit(&self, account: NodeAddress, at: At) -> Result<Wei, ChainError> {
        Ok(Wei(self.0.view(contract::creditCall { account: account.into() }, at).await?.saturating_to()))
    }
}

fn pad(amount: Wei) -> [u8; 32] {
    let mut word = [0; 32];
    word[16..].copy_from_slice(&amount.0.to_be_bytes());
    word
}
