//! Whether what another reporter voted for follows from the published receipts.

use std::io::Write;

use serde_json::json;

use super::{VoteArgs, Voter, proposed::Proposed};
use crate::{
    chain::reports::Submission,
    cli::{
        CliError,
        audit_epoch::{
            AuditFormat, Difference, Seen, Statement, What,
            judge::{self, Case, Rules, Verdict},
            replay::{Before, Replay},
            show,
        },
        output::{self, note},
    },
    reward::{Recipe, RewardSplit},
};

/// Receipts of earlier epochs that are remembered, so that none is counted twice. When there are more, it begins anew.
const MAX_REMEMBERED: usize = 5_000_000;

impl Voter<'_> {
    /// The packed leaves of a report that is right in every leaf; `None`, with every difference printed, for any other.
    pub(super) async fn examine(
        &mut self,
        proposed: &Proposed,
        out: &mut dyn Write,
    ) -> Result<Option<Vec<u8>>, CliError> {
        let epoch = proposed.ballot.epoch;
        self.check_history(proposed)?;
        let before = Replay::new(self.chain, &self.history).before(self.history.submissions.len()).await?;
        note(format_args!("epoch {epoch}: works out what {} voted for", proposed.transaction));
        let (statement, seen) = self.statement(proposed).await?;
        let submission = submission(proposed);
        let mut case = Case {
            domain: self.chain.tree_domain(),
            submission: &submission,
            packed: &[],
            before: &before,
            registrations: &self.history.registrations,
            statement: Some(&statement),
            recipe: Some(proposed.recipe),
            rules: Rules { budget: None, split: self.args.split, statement: None },
        };
        // What cannot be worked out is a difference, too: the judge names it.
        let packed = judge::packed_anew(&case).unwrap_or_default();
        case.packed = &packed;
        let (mut verdict, _) = judge::judge(&case);
        verdict.differences.extend(not_allowed(&proposed.recipe, &before, self.args));
        let agrees = verdict.is_equal() && verdict.recomputed;
        print(&verdict, agrees, self.args.output, out)?;
        if !agrees {
            return Ok(None);
        }
        self.seen = if seen.len() > MAX_REMEMBERED { Seen::default() } else { seen };
        Ok(Some(packed))
    }

    /// What was read must lead to the epoch, and to the block that the vote names.
    fn check_history(&self, proposed: &Proposed) -> Result<(), CliError> {
        let epoch = proposed.ballot.epoch;
        let mut standing = self.history.submissions.iter().rev().filter(|submission| !submission.dropped);
        let next = standing.next().map_or(0, |last| last.epoch.0.saturating_add(1));
        if next == epoch.0 && proposed.recipe.block <= self.history.until {
            return Ok(());
        }
        let last = self.history.until;
        Err(CliError::Other(format!(
            "the contract's logs up to block {last} do not lead to epoch {epoch}: the endpoint lags, try again"
        )))
    }

    /// The statement that the vote names, and the receipts that are known with it. Those are kept only if the report is agreed on:
    /// they may be looked at again for another one of the same epoch.
    async fn statement(&self, proposed: &Proposed) -> Result<(Statement, Seen), CliError> {
        let (epoch, digest) = (proposed.ballot.epoch, Some(proposed.recipe.statement));
        let sources = &self.args.sources;
        let (statement, seen) = sources.statement(self.chain, epoch, digest, self.seen.clone()).await?;
        let statement = statement.ok_or_else(|| CliError::Other("there is no statement to work with".into()))?;
        if !statement.totals.jobs.is_empty() && sources.escrow.is_none() {
            return Err(CliError::Other(format!(
                "epoch {epoch} has paid jobs: name the network's GridJobEscrow with --escrow, so that what they spent is read from the chain"
            )));
        }
        Ok((statement, seen))
    }
}

/// What the vote stands for, as if it had been reported.
fn submission(proposed: &Proposed) -> Submission {
    let Proposed { ballot, transaction, block, .. } = *proposed;
    Submission {
        epoch: ballot.epoch,
        root: ballot.root,
        total: ballot.total,
        data_hash: ballot.data_hash,
        transaction,
        block,
        dropped: false,
    }
}

/// What the first reporter chose and may not choose.
fn not_allowed(recipe: &Recipe, before: &Before, args: &VoteArgs) -> Vec<Difference> {
    let difference = |subject: &str, expected: String, found: String| Difference {
        what: What::Recipe,
        subject: subject.to_owned(),
        expected,
        found,
    };
    let mut found = Vec::new();
    if recipe.split != args.split {
        found.push(difference("split", in_bps(args.split), in_bps(recipe.split)));
    }
    if let Some(most) = args.max_budget_wei.filter(|most| recipe.budget > *most) {
        found.push(difference("budget", format!("at most {most}"), recipe.budget.to_string()));
    }
    if recipe.block < before.block {
        let expected = format!("not before block {} of the report before", before.block);
        found.push(difference("block", expected, recipe.block.to_string()));
    }
    found
}

fn in_bps(split: RewardSplit) -> String {
    let [work, capacity, storage] = <[u16; 3]>::from(split);
    format!("{work}:{capacity}:{storage}/10000")
}

fn print(verdict: &Verdict, agrees: bool, format: AuditFormat, out: &mut dyn Write) -> Result<(), CliError> {
    match format {
        AuditFormat::Json => output::json(out, &json!({"epoch": verdict.epoch, "agrees": agrees, "verdict": verdict})),
        AuditFormat::Table => show::print(std::slice::from_ref(verdict), format, out),
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use clap::Parser;

    use super::*;
    use crate::api::ids::Wei;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: VoteArgs,
    }

    fn args(more: &[&str]) -> VoteArgs {
        let contract = format!("0x{}", "11".repeat(20));
        let words = ["it", "7", "--rpc-url", "http://x", "--contract", &contract, "--key-file", "k"];
        Cli::try_parse_from(words.iter().chain(more)).unwrap_or_else(|error| panic!("{error}")).args
    }

    #[test]
    fn the_first_reporter_chooses_neither_split_nor_a_higher_budget_nor_an_old_block() {
        let recipe = Recipe { statement: B256::ZERO, block: 100, split: RewardSplit::default(), budget: Wei(50) };
        let before = Before { block: 100, ..Before::default() };
        let subjects = |recipe: &Recipe, more: &[&str]| -> Vec<String> {
            not_allowed(recipe, &before, &args(more)).into_iter().map(|found| found.subject).collect()
        };
        assert!(subjects(&recipe, &["--max-budget-wei", "50"]).is_empty());
        assert_eq!(subjects(&recipe, &["--max-budget-wei", "49"]), ["budget"]);
        assert_eq!(subjects(&recipe, &["--split", "50:35:15"]), ["split"]);
        assert_eq!(subjects(&Recipe { block: 99, ..recipe }, &[]), ["block"]);
    }

    #[test]
    fn following_names_no_epoch_and_sends_what_it_votes_for() {
        assert_eq!(args(&[]).epoch, Some(7));
        let contract = format!("0x{}", "11".repeat(20));
        let base = ["it", "--rpc-url", "http://x", "--contract", &contract, "--key-file", "k"];
        let parsed = |more: &[&str]| Cli::try_parse_from(base.iter().chain(more));
        assert!(parsed(&["--follow"]).is_ok_and(|cli| cli.args.epoch.is_none()));
        for bad in [&[][..], &["7", "--follow"], &["--follow", "--dry-run"]] {
            assert!(parsed(bad).is_err(), "{bad:?}");
        }
    }
}
