//! Pure: which paid jobs are to be settled now, for how much, and what is known of an escrow for good. Decided from the ledger and
//! a final block alone, so a restart decides the same.

use crate::{
    api::ids::{EpochNumber, Wei},
    chain::escrow::{EscrowedJob, JobState, MAX_SETTLEMENTS, Settlement},
    protocol::internal::{OpenPayment, SettledPayment},
};

/// So many jobs are settled at once, without waiting for the end of their epoch.
pub const FULL_BATCH: usize = 50;
/// Seconds before its escrow's deadline at which a job is settled whatever its epoch.
const DEADLINE_NEAR: u64 = 600;

/// How time is counted: from the contract, and by the newest block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Unix seconds.
    pub genesis: u64,
    pub epoch_seconds: u64,
    /// Unix seconds.
    pub now: u64,
}

impl Clock {
    fn epoch(&self, unix_seconds: u64) -> Option<EpochNumber> {
        EpochNumber::at(unix_seconds, self.genesis, self.epoch_seconds)
    }
}

/// The payments that are to be looked at: those of epochs that are over, those whose escrow soon ends, and all once they fill a
/// batch. At most what one transaction takes, the oldest first.
pub fn due(open: Vec<OpenPayment>, clock: &Clock) -> Vec<OpenPayment> {
    let full = open.len() >= FULL_BATCH;
    let is_due = |payment: &OpenPayment| {
        full || clock.epoch(payment.finished_at_ms / 1000) < clock.epoch(clock.now)
            || clock.now.saturating_add(DEADLINE_NEAR) >= payment.payment.deadline
    };
    open.into_iter().filter(is_due).take(MAX_SETTLEMENTS).collect()
}

/// What is to be done about one escrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing will change it any more.
    Final(SettledPayment),
    Settle(Settlement),
    /// No final block has it, though one had when the job was taken: an endpoint lags.
    Wait,
}

/// `found`: what a final block of the time `final_time` (unix seconds) says.
pub fn fate(payment: &OpenPayment, found: Option<&EscrowedJob>, final_time: u64) -> Fate {
    let Some(found) = found else { return Fate::Wait };
    let taken = |spent| Fate::Final(SettledPayment { spent, fee_bps: found.fee_bps });
    match found.state {
        JobState::Settled => taken(found.spent),
        JobState::Cancelled => taken(Wei(0)),
        // Only its payer can touch it now.
        JobState::Open if final_time >= found.deadline => taken(Wei(0)),
        JobState::Open => {
            let spent = payment.spent.min(payment.payment.max_spend).min(found.escrow);
            Fate::Settle(Settlement { job: payment.payment.escrow.0.into(), spent })
        }
    }
}

/// What one transaction settles: never more together than `most`, because one epoch has to pay it out; one job at least.
pub fn batch(settlements: Vec<Settlement>, most: Wei) -> Vec<Settlement> {
    let mut sum = 0u128;
    let fits = |settlement: &Settlement| {
        let first = sum == 0;
        sum = sum.saturating_add(settlement.spent.0);
        first || sum <= most.0
    };
    settlements.into_iter().take(MAX_SETTLEMENTS).take_while(fits).collect()
}

#[cfg(test)]
mod tests;
