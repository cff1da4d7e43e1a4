//! Receipts: append-only, one winner per request.

use sqlx::Row;

use super::{
    Ledger, LedgerError,
    columns::{Columns, int, token_bytes},
    leases::close_lease,
    payments,
    queue::QueueChange,
    requests::RequestKind,
};
use crate::{
    api::ids::{GridPeerId, ModelDigest, NodeAddress, RequestId},
    protocol::{
        fields::RequestFields,
        internal::{ChangeKind, Endpoint, InputLine},
    },
};

/// What a worker is asked, and what its audit must know.
#[derive(Debug, Clone, PartialEq)]
pub struct Work {
    pub request: RequestId,
    pub kind: RequestKind,
    pub job: Option<String>,
    pub model: ModelDigest,
    pub endpoint: Endpoint,
    pub line: InputLine,
    pub beacon: [u8; 32],
    /// Share of a job's answers to audit at least; absent = the network's.
    pub sample_percent: Option<u8>,
    /// Template of its chat; empty: the model's own.
    pub chat_template: String,
}

impl Work {
    /// What a worker must know to answer it rightly.
    pub fn fields(&self) -> RequestFields {
        super::requests::fields(&self.line, &self.chat_template)
    }
}

/// A receipt that passed every check, with the answer it stands for.
#[derive(Debug, Clone, PartialEq)]
pub struct LoggedReceipt {
    /// `Receipt::content_hash`.
    pub hash: [u8; 32],
    pub request: RequestId,
    pub attempt: u32,
    pub peer: GridPeerId,
    pub address: NodeAddress,
    pub model: ModelDigest,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
    pub cost_per_token: u64,
    pub epoch: u64,
    pub accepted_ms: u64,
    pub payable: bool,
    /// What the worker advertised for the model.
    pub kernel_profile: String,
    /// `wire::Receipt`, with the worker's signature.
    pub encoded: Vec<u8>,
    pub countersignature: Vec<u8>,
    pub finish_reason: String,
    pub text: String,
    /// All output tokens; of an embedding, the bits of its vectors one after the other.
    pub output: Vec<u32>,
    /// The first of them that the client had from an earlier worker.
    pub prefix: Vec<u32>,
    /// What the worker told of the others, as `wire::AnswerLogprobs`; empty where the request did not ask.
    pub logprobs: Vec<u8>,
    /// Set when it was selected for an audit.
    pub audit: Option<AuditOrder>,
}

/// An audit to be owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditOrder {
    /// Unix milliseconds after which it is inconclusive.
    pub deadline_ms: u64,
}

/// What a logged receipt is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It answers its request.
    Accepted,
    /// Another receipt answered the request, or the request is no longer wanted: kept, paid nothing.
    Superseded,
}

impl Standing {
    fn name(self) -> &'static str {
        match self {
            Standing::Accepted => "Accepted",
            Standing::Superseded => "Superseded",
        }
    }
}

impl Ledger {
    /// What a request asks for; `None` when it is unknown or its text was forgotten.
    pub async fn work(&self, request: &RequestId) -> Result<Option<Work>, LedgerError> {
        let row = sqlx::query(
            "SELECT r.*, t.source AS chat_template FROM requests r LEFT JOIN templates t ON t.digest = r.template
             WHERE r.id = ? AND r.body IS NOT NULL",
        )
        .bind(request.0.as_slice())
        .fetch_optional(self.readers())
        .await?;
        row.as_ref().map(work).transpose()
    }

    /// Logs a receipt, answers its request and owes its audit, in one transaction. The first valid receipt of a request
    /// wins, whichever attempt it comes from; a later one is kept as `Superseded`. Logging the same receipt again: the same.
    pub async fn log_receipt(&self, receipt: &LoggedReceipt) -> Result<Standing, LedgerError> {
        let mut write = self.begin().await?;
        let known = sqlx::query("SELECT standing FROM receipts WHERE hash = ?")
            .bind(receipt.hash.as_slice())
            .fetch_optional(write.on())
            .await?;
        if let Some(known) = known {
            let accepted = known.text("standing")? == Standing::Accepted.name();
            return Ok(if accepted { Standing::Accepted } else { Standing::Superseded });
        }
        let request = sqlx::query("SELECT state, job FROM requests WHERE id = ?")
            .bind(receipt.request.0.as_slice())
            .fetch_one(write.on())
            .await?;
        let wanted = matches!(request.text("state")?.as_str(), "Queued" | "Leased");
        let standing = if wanted { Standing::Accepted } else { Standing::Superseded };
        insert(&mut write, receipt, standing).await?;
        close_lease(&mut write, &receipt.request, receipt.attempt, standing.name(), receipt.accepted_ms).await?;
        if standing == Standing::Accepted {
            win(&mut write, receipt).await?;
            if let Some(job) = request.try_get::<Option<String>, _>("job")? {
                write.changed(ChangeKind::Job, &job).await?;
                // Nothing new is started for it from here on.
                if payments::is_used_up(&mut write, &job).await? {
                    write.queue_changed(QueueChange::Job(job));
                }
            }
            write.changed(ChangeKind::Node, receipt.peer.as_str()).await?;
        }
        write.commit().await?;
        Ok(standing)
    }

    /// The countersigned receipts of an epoch, in the order of acceptance: (hash, `wire::Receipt`, countersignature).
    pub async fn receipts_of_epoch(&self, epoch: u64) -> Result<Vec<([u8; 32], Vec<u8>, Vec<u8>)>, LedgerError> {
        let rows = sqlx::query(
            "SELECT hash, encoded, countersignature FROM receipts WHERE epoch = ? ORDER BY accepted_ms, hash",
        )
        .bind(int(epoch))
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(|row| Ok((row.fixed("hash")?, row.bytes("encoded")?, row.bytes("countersignature")?))).collect()
    }
}

pub(super) fn work(row: &sqlx::sqlite::SqliteRow) -> Result<Work, LedgerError> {
    let percent: Option<i64> = row.try_get("sample_percent")?;
    Ok(Work {
        request: RequestId(row.fixed("id")?),
        kind: RequestKind::of(&row.text("kind")?)?,
        job: row.try_get("job")?,
        model: row.parsed("model")?,
        endpoint: row.json("endpoint")?,
        line: row.json("body")?,
        beacon: row.fixed("beacon")?,
        sample_percent: percent.map(|percent| u8::try_from(percent).unwrap_or(100)),
        chat_template: row.try_get::<Option<String>, _>("chat_template")?.unwrap_or_default(),
    })
}

async fn insert(
    write: &mut super::ledger::Write,
    receipt: &LoggedReceipt,
    standing: Standing,
) -> Result<(), LedgerError> {
    sqlx::query(
        "INSERT INTO receipts (hash, request, attempt, address, model, prompt_tokens, output_tokens, prefix_tokens,
                               cost_per_token, epoch, accepted_ms, payable, standing, kernel_profile, encoded, countersignature)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(receipt.hash.as_slice())
    .bind(receipt.request.0.as_slice())
    .bind(receipt.attempt)
    .bind(receipt.address.to_string())
    .bind(receipt.model.to_string())
    .bind(receipt.prompt_tokens)
    .bind(receipt.output_tokens)
    .bind(int(receipt.prefix.len() as u64))
    .bind(int(receipt.cost_per_token))
    .bind(int(receipt.epoch))
    .bind(int(receipt.accepted_ms))
    .bind(receipt.payable)
    .bind(standing.name())
    .bind(&receipt.kernel_profile)
    .bind(&receipt.encoded)
    .bind(&receipt.countersignature)
    .execute(write.on())
    .await?;
    Ok(())
}

/// The receipt answers its request. An attempt that runs elsewhere is over.
async fn win(write: &mut super::ledger::Write, receipt: &LoggedReceipt) -> Result<(), LedgerError> {
    let request = receipt.request.0.as_slice();
    sqlx::query("INSERT INTO wins (request, receipt) VALUES (?, ?)")
        .bind(request)
        .bind(receipt.hash.as_slice())
        .execute(write.on())
        .await?;
    sqlx::query("UPDATE leases SET ended_ms = ?, outcome = 'Superseded' WHERE request = ? AND ended_ms IS NULL")
        .bind(int(receipt.accepted_ms))
        .bind(request)
        .execute(write.on())
        .await?;
    sqlx::query("UPDATE requests SET state = 'Done', finished_ms = ?, reason = '', message = '' WHERE id = ?")
        .bind(int(receipt.accepted_ms))
        .bind(request)
        .execute(write.on())
        .await?;
    sqlx::query(
        "INSERT INTO answers (receipt, request, finish_reason, text, output, prefix, logprobs) VALUES (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(receipt.hash.as_slice())
    .bind(request)
    .bind(&receipt.finish_reason)
    .bind(&receipt.text)
    .bind(token_bytes(&receipt.output))
    .bind(token_bytes(&receipt.prefix))
    .bind(&receipt.logprobs)
    .execute(write.on())
    .await?;
    if let Some(order) = receipt.audit {
        sqlx::query("INSERT INTO audits (receipt, request, address, epoch, deadline_ms) VALUES (?, ?, ?, ?, ?)")
            .bind(receipt.hash.as_slice())
            .bind(request)
            .bind(receipt.address.to_string())
            .bind(int(receipt.epoch))
            .bind(int(order.deadline_ms))
            .execute(write.on())
            .await?;
    }
    Ok(())
}
