//! Pure: what to do next with each report, and whether the next epoch is to be planned. Decided from what is written down and
//! what the contract says, never from what this process remembers, so a restart decides the same.

use alloy::primitives::B256;

use super::{
    report::{Report, is_under_way},
    votes::Poll,
};
use crate::{
    api::ids::{EpochNumber, Wei},
    chain::{
        ContractParameters, OutboxState,
        rewards::{EpochState, PendingEpoch},
    },
};

/// Seconds that an activation waits for the report of the next epoch.
const PATIENCE: u64 = 30;

/// What the chain says, read in this order: the final state first, so that the head is never older.
#[derive(Debug, Clone, Copy)]
pub struct ChainView {
    pub parameters: ContractParameters,
    /// Number of the final block.
    pub final_block: u64,
    pub final_hash: B256,
    /// The contract at that block.
    pub finalized: EpochState,
    /// The contract at the head.
    pub latest: EpochState,
    /// Unix seconds of the head: the clock by which the contract judges.
    pub time: u64,
}

/// What the network's spec says about sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sending {
    Allowed,
    /// spec.rewards.dryRun
    DryRun,
    /// spec.paused
    Paused,
}

/// The next thing to do with one report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Follow our vote for it, which is on its way.
    Vote,
    /// Sign, send or follow its submission; vote for it first where the contract wants several reporters to agree.
    Submit,
    /// We voted for it, and other reporters have not.
    Votes(Poll),
    /// Sign, send or follow its activation.
    Activate,
    /// It stays as it is.
    Held(Sending),
    /// Its window is open until then (unix seconds).
    Window {
        active_at: u64,
    },
    /// Somebody challenged it; an arbiter rules until then (unix seconds).
    Challenged {
        ruling_due_at: u64,
    },
    /// The report of the next epoch activates it on the way.
    ActivatedByNext {
        active_at: u64,
    },
    /// The root is live in a final block.
    Live,
    /// Something is in a block that is not final yet, or an endpoint lags.
    Wait(&'static str),
    /// It was never signed and no longer fits the chain: away with it, and plan anew.
    Discard,
    Stuck(Stuck),
}

/// What only a person can resolve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stuck {
    /// The contract has another root for this epoch.
    OtherRoot { root: String },
    /// The guardian dropped it in its window.
    Dropped,
    /// Our vote for it was in a final block and does not stand any more.
    VoteGone,
    /// Its transaction was mined and reverted, in words.
    Reverted(String),
    /// The contract's reports and ours have parted.
    Parted(String),
}

/// The steps of all reports that are not live yet, by ascending epoch. `reports` ascend.
pub fn steps(reports: &[Report], chain: &ChainView, sending: Sending) -> Vec<(usize, Step)> {
    let open = reports.iter().enumerate().filter(|(_, report)| !report.is_active());
    open.map(|(index, report)| (index, step(report, &neighbours(reports, index), chain, sending))).collect()
}

struct Neighbours<'a> {
    before: Option<&'a Report>,
    after: Option<&'a Report>,
}

/// Real reports only: dry ones never meet the chain.
fn neighbours(reports: &[Report], index: usize) -> Neighbours<'_> {
    let real = |report: &&Report| !report.is_dry_run();
    Neighbours { before: reports.iter().take(index).rfind(real), after: reports.iter().skip(index + 1).find(real) }
}

fn step(report: &Report, beside: &Neighbours<'_>, chain: &ChainView, sending: Sending) -> Step {
    if report.is_dry_run() {
        return if sending == Sending::DryRun { Step::Held(Sending::DryRun) } else { Step::Discard };
    }
    if is_under_way(report.vote.as_ref()) {
        return Step::Vote;
    }
    if is_under_way(report.submit.as_ref()) {
        return Step::Submit;
    }
    if report.epoch < chain.finalized.next_epoch {
        return after_final(report, beside, chain, sending);
    }
    before_final(report, beside, chain, sending)
}

/// The epoch is reported, by whomever, in a final block.
fn after_final(report: &Report, beside: &Neighbours<'_>, chain: &ChainView, sending: Sending) -> Step {
    let state = &chain.finalized;
    let is_last = state.last_epoch() == Some(report.epoch);
    let by_us = matches!(report.submit.as_ref().map(|record| &record.state), Some(OutboxState::Finalized { .. }));
    match () {
        () if is_last && report.sum() == state.last_report() => {}
        () if is_last => return Step::Stuck(Stuck::OtherRoot { root: state.last_report().0.to_string() }),
        // Later epochs are on chain: ours went before them, or nothing was added since. The next one was made on top of this one.
        () if by_us || report.sum() == state.last_report() => {}
        () if beside.after.is_some_and(|after| after.is_active() || after.sum() == state.last_report()) => {}
        () => {
            let words =
                format!("epochs up to {} are on chain without this one's root", state.next_epoch.0.saturating_sub(1));
            return Step::Stuck(Stuck::Parted(words));
        }
    }
    match state.pending {
        Some(PendingEpoch { epoch, ruling_due_at: Some(ruling_due_at), .. }) if epoch == report.epoch => {
            Step::Challenged { ruling_due_at }
        }
        Some(pending) if pending.epoch == report.epoch => activation(report, beside, chain, sending, pending.active_at),
        // Its root is live, but our own activation is not followed to its end: the next report waits for that, and so does its nonce.
        _ if is_under_way(report.activate.as_ref()) => Step::Activate,
        _ => Step::Live,
    }
}

/// Activation is progress for everybody who is owed money, so a pause does not stop it.
fn activation(report: &Report, beside: &Neighbours<'_>, chain: &ChainView, sending: Sending, active_at: u64) -> Step {
    if is_under_way(report.activate.as_ref()) {
        return Step::Activate;
    }
    if chain.latest.pending.is_none_or(|pending| pending.epoch != report.epoch) {
        return Step::Wait("the activation is in a block that is not final yet");
    }
    if chain.time < active_at {
        return Step::Window { active_at };
    }
    match beside.after {
        // The report of the next epoch activates this one and saves the transaction. Not for long: it may be refused.
        Some(next) if is_under_way(next.submit.as_ref()) => Step::ActivatedByNext { active_at },
        Some(next) if next.submit.is_some() && sending == Sending::Allowed && chain.time < active_at + PATIENCE => {
            Step::ActivatedByNext { active_at }
        }
        _ => Step::Activate,
    }
}

/// No final block has a report of the epoch.
fn before_final(report: &Report, beside: &Neighbours<'_>, chain: &ChainView, sending: Sending) -> Step {
    if let Some(OutboxState::Finalized { inclusion }) = report.submit.as_ref().map(|record| &record.state) {
        // It was there, in a final block, and is no more. An endpoint that lags shows the same picture.
        return if chain.final_block < inclusion.block_number || report.epoch < chain.latest.next_epoch {
            Step::Wait("the endpoint lags behind the final block")
        } else {
            Step::Stuck(Stuck::Dropped)
        };
    }
    let next = chain.latest.next_epoch;
    if report.epoch < next {
        return Step::Wait("the epoch is reported in a block that is not final yet");
    }
    if report.epoch > next {
        let behind = report.epoch > chain.finalized.next_epoch;
        return if behind { Step::Discard } else { Step::Wait("an endpoint lags") };
    }
    if let Some(OutboxState::Failed { refusal, .. }) = report.submit.as_ref().map(|record| &record.state)
        && !refusal.passes_with_time
        && refusal.name != "WrongEpoch"
    {
        return Step::Stuck(Stuck::Reverted(refusal.to_string()));
    }
    if sending != Sending::Allowed {
        return Step::Held(sending);
    }
    match beside.before {
        // One in flight: the submission would make the activation revert.
        Some(before) if is_under_way(before.activate.as_ref()) => Step::Wait("the epoch before is being activated"),
        Some(before) if !before.is_active() && in_window(chain) => Step::Wait("the window of the epoch before is open"),
        _ => Step::Submit,
    }
}

fn in_window(chain: &ChainView) -> bool {
    chain.latest.pending.is_some_and(|pending| chain.time < pending.active_at)
}

/// Whether the next epoch is to be planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    Plan {
        epoch: EpochNumber,
        /// Index of the report whose leaves are continued.
        after: Option<usize>,
        /// What the pool can still give.
        pool: Wei,
    },
    /// It is over at that time (unix seconds).
    NotOver {
        epoch: EpochNumber,
        ends_at: u64,
    },
    /// A report before it is not in a final block yet.
    Busy,
    Stuck(Stuck),
}

/// What comes after `reports`, which ascend and hold nothing that is stuck or to be discarded.
pub fn next(reports: &[Report], chain: &ChainView, sending: Sending) -> Next {
    let state = &chain.finalized;
    let real = reports.iter().rposition(|report| !report.is_dry_run());
    let held = |report: &Report| sending == Sending::DryRun && report.is_untouched();
    let mut pool = state.reward_pool;
    if let Some(report) = real.and_then(|index| reports.get(index))
        && report.epoch >= state.next_epoch
        && !held(report)
    {
        return Next::Busy;
    }
    let last = if sending == Sending::DryRun { reports.len().checked_sub(1) } else { real };
    let before = last.and_then(|index| reports.get(index));
    let ahead = before.filter(|report| report.epoch >= state.next_epoch);
    match (ahead, before) {
        // Dry runs go on from one another; what they gave away is gone for the next.
        (Some(dry), _) => {
            let given = dry.total.0.saturating_sub(state.last_report().1.0);
            pool = Wei(pool.0.saturating_sub(given));
        }
        (None, Some(report)) if report.sum() == state.last_report() => {}
        (None, None) if state.last_report().1.0 == 0 => {}
        (None, _) => return Next::Stuck(Stuck::Parted(parted(before, state))),
    }
    let epoch = ahead.map_or(state.next_epoch, |report| EpochNumber(report.epoch.0.saturating_add(1)));
    let ends_at = chain.parameters.epoch_end(epoch);
    if chain.time < ends_at {
        return Next::NotOver { epoch, ends_at };
    }
    Next::Plan { epoch, after: last, pool }
}

fn parted(before: Option<&Report>, state: &EpochState) -> String {
    let ours = before.map_or_else(
        || "there is no report here".to_owned(),
        |report| format!("the last report here is {} with {} wei", report.name(), report.total),
    );
    let (root, total) = state.last_report();
    format!(
        "the contract stands before epoch {} with {total} wei allocated under root {root}, but {ours}; restore the missing ContributionReports",
        state.next_epoch
    )
}

#[cfg(test)]
pub(super) mod tests;
