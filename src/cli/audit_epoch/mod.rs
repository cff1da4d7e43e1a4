//! `grid-operator audit-epoch`: a stranger does the reporter's sum again. Needs an RPC endpoint, the contract's address and the published
//! statement of the epoch, and believes none of them: leaves must hash to the root on chain, receipts carry two signatures, and
//! what follows from them is compared leaf by leaf. Reads only; touches no cluster.

pub(in crate::cli) mod difference;
pub(in crate::cli) mod judge;
pub(in crate::cli) mod replay;
pub(in crate::cli) mod show;
mod source;
mod sources;
mod statement;

use std::{
    io::Write,
    str::FromStr,
    time::{Duration, Instant},
};

use alloy::primitives::B256;

use super::{CliError, output::note};
use crate::{
    api::ids::{EpochNumber, Wei},
    chain::{ChainClient, reports::ContractHistory},
    reward::{PackedReport, RewardSplit, unpack_report},
};

use judge::Rules;
use replay::Replay;

pub use difference::{Difference, What};
pub use judge::{Form, Verdict};
pub use sources::Sources;
pub use statement::read as read_statement;
pub use statement::{Seen, Served, Statement, StatementError};

/// The most epochs of one run.
const MAX_EPOCHS: u64 = 10_000;
/// Between two remarks about long work.
const SAY_EVERY: Duration = Duration::from_secs(2);

/// Options of `grid-operator audit-epoch`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  # Everything about epoch 7, with its statement from the network's gateway
  grid-operator audit-epoch 7 --rpc-url https://erpc.xinfin.network --contract 0xADDRESS --gateway-url https://grid.example
  # With its statement from a file
  grid-operator audit-epoch 7 --rpc-url https://erpc.xinfin.network --contract 0xADDRESS --receipts epoch-7.jsonl.zst
  # A hundred epochs, from where somebody else keeps them
  grid-operator audit-epoch 0-99 --rpc-url https://erpc.xinfin.network --contract 0xADDRESS \\
    --receipts 'https://grid.example/statements/{epoch}.jsonl.zst'

Exit codes: 0 everything is equal, 1 error, 2 something differs.")]
pub struct AuditArgs {
    /// Epoch, or first and last one: 7, or 0-99.
    #[arg(value_name = "EPOCHS")]
    pub epochs: EpochRange,
    #[command(flatten)]
    pub sources: Sources,
    /// Digest that the statement must have, as the ContributionReport names it (spec.statement). One epoch only.
    #[arg(long, value_name = "HEX")]
    pub statement: Option<B256>,
    /// What each epoch was to allocate, in wei, where the report does not say it (default: what its increase implies).
    #[arg(long, value_name = "WEI")]
    pub budget_wei: Option<Wei>,
    /// Percent for work, capacity and storage, where the report does not say it.
    #[arg(long, default_value = "60:25:15", value_parser = parse_split)]
    pub split: RewardSplit,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: AuditFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum AuditFormat {
    #[default]
    Table,
    Json,
}

/// First and last epoch, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochRange {
    pub first: u64,
    pub last: u64,
}

impl FromStr for EpochRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = first.parse().ok().zip(last.parse().ok()).map(|(first, last)| EpochRange { first, last });
        range.filter(|range| range.first <= range.last && range.last - range.first < MAX_EPOCHS).ok_or_else(|| {
            format!("{text:?} is no epoch (7) and no range of at most {MAX_EPOCHS} epochs (0-99, first before last)")
        })
    }
}

/// How an audit ended, as its exit code says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditExit {
    Equal,
    Differs,
}

impl From<AuditExit> for std::process::ExitCode {
    fn from(exit: AuditExit) -> Self {
        std::process::ExitCode::from(match exit {
            AuditExit::Equal => 0,
            AuditExit::Differs => 2,
        })
    }
}

/// Audits, prints the verdicts to `out`, and says what it does on standard error.
pub async fn run(args: &AuditArgs, out: &mut dyn Write) -> Result<AuditExit, CliError> {
    check(args)?;
    let chain = args.sources.connect().await?;
    let mut ticker = Ticker::default();
    let history = chain
        .report_history(args.sources.from_block, |at| {
            ticker.say(|| format!("read the contract's logs up to block {} of {}", at.block, at.last));
        })
        .await
        .map_err(chain_error)?;
    let mut verdicts = Vec::new();
    let mut audit =
        Audit { replay: Replay::new(&chain, &history), seen: Seen::default(), args, chain: &chain, history: &history };
    for epoch in args.epochs.first..=args.epochs.last {
        verdicts.push(audit.epoch(EpochNumber(epoch)).await?);
        ticker.say(|| format!("epoch {epoch} of {} is done", args.epochs.last));
    }
    show::print(&verdicts, args.output, out)?;
    let equal = verdicts.iter().all(Verdict::is_equal);
    Ok(if equal { AuditExit::Equal } else { AuditExit::Differs })
}

fn check(args: &AuditArgs) -> Result<(), CliError> {
    let one = args.epochs.first == args.epochs.last;
    let places = args.sources.receipts.as_ref().is_none_or(|receipts| receipts.contains(source::PLACE));
    if !one && !places {
        return Err(CliError::Other(format!(
            "--receipts names one statement for {} epochs: put {} where the number belongs",
            args.epochs.last - args.epochs.first + 1,
            source::PLACE
        )));
    }
    if !one && args.statement.is_some() {
        return Err(CliError::Other("--statement is the digest of one epoch: audit that epoch alone".into()));
    }
    Ok(())
}

/// One run over its epochs.
struct Audit<'a> {
    args: &'a AuditArgs,
    chain: &'a ChainClient,
    history: &'a ContractHistory,
    replay: Replay<'a>,
    seen: Seen,
}

impl Audit<'_> {
    async fn epoch(&mut self, epoch: EpochNumber) -> Result<Verdict, CliError> {
        // A report that was dropped in its window is judged only while there is no other.
        let history = self.history;
        let of_epoch = history.submissions.iter().enumerate().filter(|(_, report)| report.epoch == epoch);
        let Some((at, submission)) = of_epoch.max_by_key(|(at, report)| (!report.dropped, *at)) else {
            let last = history.until;
            let message = format!("epoch {epoch} is not reported in a final block (the last one read is {last})");
            return Err(CliError::Other(message));
        };
        let packed = self.chain.packed_leaves(submission).await.map_err(chain_error)?;
        let before = self.replay.before(at).await?;
        let digest = named_in(&packed).or(self.args.statement);
        let (statement, seen) =
            self.args.sources.statement(self.chain, epoch, digest, std::mem::take(&mut self.seen)).await?;
        self.seen = seen;
        let case = judge::Case {
            domain: self.chain.tree_domain(),
            submission,
            packed: &packed,
            before: &before,
            registrations: &history.registrations,
            statement: statement.as_ref(),
            recipe: None,
            rules: Rules { budget: self.args.budget_wei, split: self.args.split, statement: self.args.statement },
        };
        let (mut verdict, after) = judge::judge(&case);
        if self.args.sources.escrow.is_none() && statement.is_some_and(|statement| !statement.totals.jobs.is_empty()) {
            verdict
                .notes
                .push("what paid jobs spent is the gateway's word; --escrow has it read from the chain".into());
        }
        self.replay.keep(at, after);
        Ok(verdict)
    }
}

/// The digest of the statement that a report names on chain; one that carries all leaves names none.
fn named_in(packed: &[u8]) -> Option<B256> {
    match unpack_report(packed) {
        Ok(PackedReport::Changes(packed)) => Some(packed.recipe.statement),
        _ => None,
    }
}

/// Says something now and then.
#[derive(Default)]
pub(in crate::cli) struct Ticker {
    said: Option<Instant>,
}

impl Ticker {
    pub(in crate::cli) fn say(&mut self, text: impl FnOnce() -> String) {
        let begun = *self.said.get_or_insert_with(Instant::now);
        if begun.elapsed() >= SAY_EVERY {
            note(format_args!("{}", text()));
            self.said = Some(Instant::now());
        }
    }
}

pub(in crate::cli) fn chain_error(error: impl std::fmt::Display) -> CliError {
    CliError::Chain(error.to_string())
}

/// Three percentages that sum to 100.
pub(in crate::cli) fn parse_split(text: &str) -> Result<RewardSplit, String> {
    let refuse = || format!("{text:?} is no split: three percentages that sum to 100, such as 60:25:15");
    let points: Vec<u16> = text
        .split(':')
        .map(|part| part.parse::<u16>().ok().filter(|percent| *percent <= 100).map(|percent| percent * 100))
        .collect::<Option<_>>()
        .ok_or_else(refuse)?;
    match points.as_slice() {
        [work, capacity, storage] => RewardSplit::new(*work, *capacity, *storage).map_err(|_| refuse()),
        _ => Err(refuse()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_or_a_range_is_read_and_nothing_else() {
        assert_eq!("7".parse(), Ok(EpochRange { first: 7, last: 7 }));
        assert_eq!("0-99".parse(), Ok(EpochRange { first: 0, last: 99 }));
        for bad in ["", "-", "9-8", "0-10000", "7..9", "-1", "x"] {
            assert!(bad.parse::<EpochRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_split_is_three_percentages_of_one_whole() {
        assert_eq!(parse_split("60:25:15"), Ok(RewardSplit::default()));
        for bad in ["60:25", "60:25:16", "60:25:15:0", "a:b:c", "700:1:1"] {
            assert!(parse_split(bad).is_err(), "{bad}");
        }
    }
}
