//! A vote for a report that was found right, or the report itself where that makes up the number.

use std::{io::Write, time::Duration};

use serde::Serialize;

use super::Voter;
use crate::{
    api::ids::{EpochNumber, Wei},
    chain::{
        At, ChainError, Inclusion, Intent, IntentKind, deploy::execute, outbox::Pace, quote::Quote,
        rewards::EpochReport, votes::Ballot,
    },
    cli::{
        CliError,
        audit_epoch::{AuditFormat, chain_error},
        output::{self, note},
    },
};

/// A transaction that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    epoch: EpochNumber,
    /// VoteEpoch or SubmitEpoch.
    sent: IntentKind,
    transaction: String,
    block: u64,
    gas_used: u64,
    fee_wei: Wei,
}

impl Voter<'_> {
    /// Does what is left to do for a report that is right, and says what it did. Doing it again does nothing more.
    pub(super) async fn cast(&self, ballot: &Ballot, packed: &[u8], out: &mut dyn Write) -> Result<String, CliError> {
        let me = self.signer.address();
        let last = self.chain.rpc().agreed().block(At::Finalized).await.map_err(chain_error)?;
        let tally = self.chain.tally(ballot, At::Hash(last.hash)).await.map_err(chain_error)?;
        let Some(tally) = tally else {
            return Ok("one reporter is enough for this contract: no vote is needed".into());
        };
        let (agreeing, needed) = (tally.agreeing(), tally.needed);
        if tally.lets_carry(me) {
            let report = EpochReport {
                epoch: ballot.epoch,
                root: ballot.root,
                cumulative_total: ballot.total,
                leaves: packed.to_vec(),
            };
            let intent = self.chain.report_intent(&report);
            match Quote::of(self.chain.rpc(), me, &intent).await {
                Ok(quote) => return self.send(ballot.epoch, intent, quote, out).await,
                Err(ChainError::Refused(refusal)) if refusal.name == "WrongEpoch" => return Ok(faster()),
                // The window of the epoch before is open, or the contract is paused. The vote stands until whoever is next carries it.
                Err(ChainError::Refused(refusal)) if refusal.passes_with_time => {
                    note(format_args!("epoch {}: it cannot be reported yet: {refusal}", ballot.epoch));
                }
                Err(error) => return Err(chain_error(error)),
            }
        }
        // Not final yet, maybe: another one would be the same.
        let voted = self.chain.vote_of(me, At::Latest).await.map_err(chain_error)? == tally.hash;
        if voted {
            return Ok(format!("it has this reporter's vote; {agreeing} of {needed} agree in a final block"));
        }
        let intent = self.chain.vote_intent(ballot, None);
        let quote = Quote::of(self.chain.rpc(), me, &intent).await.map_err(chain_error)?;
        self.send(ballot.epoch, intent, quote, out).await
    }

    async fn send(
        &self,
        epoch: EpochNumber,
        intent: Intent,
        quote: Quote,
        out: &mut dyn Write,
    ) -> Result<String, CliError> {
        let (kind, me) = (intent.kind, self.signer.address());
        let doing = if kind == IntentKind::SubmitEpoch { "reporting it" } else { "voting for it" };
        note(format_args!("epoch {epoch}: {doing} from {me}: {quote}"));
        if self.args.dry_run {
            return Ok("nothing was sent (--dry-run)".into());
        }
        let pace = Pace { timeout: Duration::from_secs(self.args.timeout_seconds), ..Pace::default() };
        match execute(self.chain.rpc(), self.chain.chain_id(), self.signer.signer(), intent, pace).await {
            Ok(inclusion) => self.print(epoch, kind, &inclusion, out),
            Err(ChainError::Refused(refusal)) if refusal.name == "WrongEpoch" => Ok(faster()),
            Err(error) => Err(chain_error(error)),
        }
    }

    fn print(
        &self,
        epoch: EpochNumber,
        kind: IntentKind,
        inclusion: &Inclusion,
        out: &mut dyn Write,
    ) -> Result<String, CliError> {
        let sent = Sent {
            epoch,
            sent: kind,
            transaction: inclusion.hash.to_string(),
            block: inclusion.block_number,
            gas_used: inclusion.gas_used,
            fee_wei: inclusion.fee,
        };
        let word = if kind == IntentKind::SubmitEpoch { "reported" } else { "voted" };
        match self.args.output {
            AuditFormat::Json => output::json(out, &sent)?,
            AuditFormat::Table => {
                writeln!(out, "{word}   epoch {epoch}: {} in block {}", sent.transaction, sent.block)?;
                writeln!(out, "gas     {} ({} XDC)", sent.gas_used, sent.fee_wei.to_xdc())?;
            }
        }
        Ok(format!("{word} in block {}", inclusion.block_number))
    }
}

fn faster() -> String {
    "somebody else has reported it meanwhile; audit-epoch says whether that is right".to_owned()
}
