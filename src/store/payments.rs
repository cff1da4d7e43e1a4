//! Payments: what each paid job has spent, and what the chain says became of its escrow.

use sqlx::{Row, sqlite::SqliteRow};

use super::{
    Ledger, LedgerError,
    columns::{Columns, corrupt, json},
    ledger::Write,
};
use crate::{
    api::ids::{EscrowId, Wei},
    protocol::internal::{ChangeKind, JobPayment, SettledPayment},
};

/// A paid job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentRecord {
    /// uid of the job.
    pub job: String,
    pub payment: JobPayment,
    /// Of answers that were taken from payable workers and not rejected.
    pub prompt_tokens: u64,
    pub output_tokens: u64,
    pub settled: Option<SettledPayment>,
}

impl PaymentRecord {
    pub fn spent(&self) -> Wei {
        self.payment.charge(self.prompt_tokens, self.output_tokens)
    }

    pub fn is_used_up(&self) -> bool {
        self.payment.is_used_up(self.prompt_tokens, self.output_tokens)
    }
}

/// Looks whether an escrow may pay a job. One that pays another job is a conflict.
pub(super) async fn check(write: &mut Write, uid: &str, payment: &JobPayment) -> Result<(), LedgerError> {
    let escrow = payment.escrow.to_string();
    let taken = sqlx::query("SELECT job FROM payments WHERE escrow = ? AND job <> ?")
        .bind(&escrow)
        .bind(uid)
        .fetch_optional(write.on())
        .await?;
    match taken {
        None => Ok(()),
        Some(taken) => {
            let message = format!("escrow {escrow} pays job {} already; an escrow is for one job", taken.text("job")?);
            Err(LedgerError::Conflict { reason: "EscrowTaken", message })
        }
    }
}

/// Notes how a job is paid that has no input yet, and so has spent nothing. An escrow that pays another job is a conflict.
pub(super) async fn add(write: &mut Write, uid: &str, payment: &JobPayment) -> Result<(), LedgerError> {
    check(write, uid, payment).await?;
    sqlx::query(
        "INSERT INTO payments (job, escrow, payment) VALUES (?, ?, ?)
         ON CONFLICT (job) DO UPDATE SET escrow = excluded.escrow, payment = excluded.payment",
    )
    .bind(uid)
    .bind(payment.escrow.to_string())
    .bind(json("payments.payment", payment)?)
    .execute(write.on())
    .await?;
    Ok(())
}

/// True for a paid job that has spent all that it may.
pub(super) async fn is_used_up(write: &mut Write, uid: &str) -> Result<bool, LedgerError> {
    let row = sqlx::query("SELECT * FROM payments WHERE job = ?").bind(uid).fetch_optional(write.on()).await?;
    Ok(row.as_ref().map(record).transpose()?.is_some_and(|payment| payment.is_used_up()))
}

impl Ledger {
    /// `None` for a job that is not paid.
    pub async fn payment(&self, uid: &str) -> Result<Option<PaymentRecord>, LedgerError> {
        let row = sqlx::query("SELECT * FROM payments WHERE job = ?").bind(uid).fetch_optional(self.readers()).await?;
        row.as_ref().map(record).transpose()
    }

    /// At most `limit` payments of jobs that are over, with nothing owed, and whose escrow is not settled; with the time at which
    /// the job finished, in unix milliseconds.
    pub async fn open_payments(&self, limit: u32) -> Result<Vec<(PaymentRecord, u64)>, LedgerError> {
        let rows = sqlx::query(
            "SELECT p.*, j.finished_ms FROM payments p JOIN jobs j ON j.uid = p.job
             WHERE p.settled IS NULL AND (j.finished_ms > 0 OR j.deleted = 1)
             AND NOT EXISTS (SELECT 1 FROM requests r WHERE r.job = p.job AND r.state IN ('Queued', 'Leased'))
             AND NOT EXISTS (SELECT 1 FROM requests r JOIN audits a ON a.request = r.id
                             WHERE r.job = p.job AND a.state = 'Owed')
             ORDER BY j.finished_ms, p.job LIMIT ?",
        )
        .bind(limit)
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(|row| Ok((record(row)?, row.count("finished_ms")?))).collect()
    }

    /// Keeps what the chain says about an escrow. The same again changes nothing; something else is a conflict.
    pub async fn settle_payment(&self, escrow: &EscrowId, settled: &SettledPayment) -> Result<(), LedgerError> {
        let mut write = self.begin().await?;
        let row = sqlx::query("SELECT * FROM payments WHERE escrow = ?")
            .bind(escrow.to_string())
            .fetch_optional(write.on())
            .await?;
        let unknown = || LedgerError::Unknown { what: "escrow", key: escrow.to_string() };
        let payment = row.as_ref().map(record).transpose()?.ok_or_else(unknown)?;
        match payment.settled {
            Some(known) if known == *settled => return Ok(()),
            Some(known) => {
                let message =
                    format!("escrow {escrow} is settled with {} wei already, not {}", known.spent, settled.spent);
                return Err(LedgerError::Conflict { reason: "SettlementConflict", message });
            }
            None => {}
        }
        sqlx::query("UPDATE payments SET settled = ? WHERE job = ?")
            .bind(json("payments.settled", settled)?)
            .bind(&payment.job)
            .execute(write.on())
            .await?;
        write.changed(ChangeKind::Job, &payment.job).await?;
        write.commit().await
    }
}

fn record(row: &SqliteRow) -> Result<PaymentRecord, LedgerError> {
    Ok(PaymentRecord {
        job: row.text("job")?,
        payment: row.json("payment")?,
        prompt_tokens: row.count("prompt_tokens")?,
        output_tokens: row.count("output_tokens")?,
        settled: settled(row, "settled")?,
    })
}

/// What the chain says, of a column that may be empty.
pub(super) fn settled(row: &SqliteRow, column: &'static str) -> Result<Option<SettledPayment>, LedgerError> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| serde_json::from_str(&text).map_err(|error| corrupt(column, error))).transpose()
}
