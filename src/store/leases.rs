//! Leases: a request is at one worker at a time, and every way in which that ends.

use sqlx::Row;

use super::{
    Ledger, LedgerError,
    columns::{Columns, int},
    ledger::Write,
    queue::QueueChange,
};
use crate::{
    api::ids::{GridPeerId, RequestId},
    protocol::internal::ChangeKind,
};

/// How a lease ended without a receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Stable CamelCase code.
    pub reason: String,
    /// A sentence for people. Never text of a prompt or an answer.
    pub message: String,
    pub then: After,
    /// The worker that had it: it gets the request again only when there is no other.
    pub avoid: Option<GridPeerId>,
    /// The worker must never get it again.
    pub exclude: bool,
}

/// What becomes of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Back to the queue; one try fewer is left.
    CountTry,
    /// Back to the queue; not its fault nor the worker's (the gateway restarted, say).
    Free,
    /// It has failed for good.
    Fail,
}

/// What became of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requeued {
    Queued,
    Failed,
}

impl Ledger {
    /// Queued → Leased. `Stale` when the request moved on since the caller looked.
    pub async fn lease(
        &self,
        request: &RequestId,
        attempt: u32,
        worker: &GridPeerId,
        now_ms: u64,
    ) -> Result<(), LedgerError> {
        let mut write = self.begin().await?;
        let row = sqlx::query(
            "UPDATE requests SET state = 'Leased' WHERE id = ? AND state = 'Queued' AND attempt = ? RETURNING job",
        )
        .bind(request.0.as_slice())
        .bind(attempt)
        .fetch_optional(write.on())
        .await?
        .ok_or(LedgerError::Stale { what: "the request" })?;
        sqlx::query("INSERT INTO leases (request, attempt, peer_id, granted_ms) VALUES (?, ?, ?, ?)")
            .bind(request.0.as_slice())
            .bind(attempt)
            .bind(worker.as_str())
            .bind(int(now_ms))
            .execute(write.on())
            .await?;
        if let Some(job) = row.try_get::<Option<String>, _>("job")? {
            sqlx::query("UPDATE jobs SET started_ms = ? WHERE uid = ? AND started_ms = 0")
                .bind(int(now_ms))
                .bind(&job)
                .execute(write.on())
                .await?;
            write.changed(ChangeKind::Job, &job).await?;
        }
        write.commit().await
    }

    /// Ends a lease without a receipt. `Stale` when it was over already (a receipt of another attempt won, say).
    pub async fn end_lease(
        &self,
        request: &RequestId,
        attempt: u32,
        ending: &Ending,
        now_ms: u64,
    ) -> Result<Requeued, LedgerError> {
        let mut write = self.begin().await?;
        let ended = close_lease(&mut write, request, attempt, &ending.reason, now_ms).await?;
        if !ended {
            return Err(LedgerError::Stale { what: "the lease" });
        }
        let requeued = requeue(&mut write, request, ending, now_ms).await?;
        write.commit().await?;
        Ok(requeued)
    }

    /// Fails a request that waits in the queue; nothing happens when it does not.
    pub async fn fail_queued_request(
        &self,
        request: &RequestId,
        reason: &str,
        message: &str,
        now_ms: u64,
    ) -> Result<(), LedgerError> {
        let mut write = self.begin().await?;
        let row = sqlx::query(
            "UPDATE requests SET state = 'Failed', reason = ?, message = ?, finished_ms = ?
             WHERE id = ? AND state = 'Queued' RETURNING job",
        )
        .bind(reason)
        .bind(message)
        .bind(int(now_ms))
        .bind(request.0.as_slice())
        .fetch_optional(write.on())
        .await?;
        if let Some(job) = row.and_then(|row| row.try_get::<Option<String>, _>("job").transpose()).transpose()? {
            write.changed(ChangeKind::Job, &job).await?;
        }
        write.queue_changed(QueueChange::Request(*request));
        write.commit().await
    }

    /// After a restart no lease has a living stream: batch requests return to the queue under a new attempt, clients of
    /// online requests are gone, canaries are made afresh. Returns how many leases were open.
    pub async fn recover(&self, now_ms: u64) -> Result<u64, LedgerError> {
        let mut write = self.begin().await?;
        let open = sqlx::query(
            "SELECT l.request, l.attempt, r.kind FROM leases l JOIN requests r ON r.id = l.request WHERE l.ended_ms IS NULL",
        )
        .fetch_all(write.on())
        .await?;
        for row in &open {
            let request = RequestId(row.fixed("request")?);
            close_lease(&mut write, &request, row.count32("attempt")?, "GatewayRestarted", now_ms).await?;
            let then = if row.text("kind")? == "Job" { After::Free } else { After::Fail };
            requeue(&mut write, &request, &restarted(then), now_ms).await?;
        }
        sqlx::query(
            "UPDATE requests SET state = 'Failed', reason = 'GatewayRestarted', message = 'the gateway restarted',
             finished_ms = ? WHERE state = 'Queued' AND kind <> 'Job'",
        )
        .bind(int(now_ms))
        .execute(write.on())
        .await?;
        write.commit().await?;
        Ok(open.len() as u64)
    }
}

fn restarted(then: After) -> Ending {
    let (reason, message) = ("GatewayRestarted".to_owned(), "the gateway restarted".to_owned());
    Ending { reason, message, then, avoid: None, exclude: false }
}

/// `false` when the lease was not open.
pub(super) async fn close_lease(
    write: &mut Write,
    request: &RequestId,
    attempt: u32,
    outcome: &str,
    now_ms: u64,
) -> Result<bool, LedgerError> {
    let done = sqlx::query(
        "UPDATE leases SET ended_ms = ?, outcome = ? WHERE request = ? AND attempt = ? AND ended_ms IS NULL",
    )
    .bind(int(now_ms))
    .bind(outcome)
    .bind(request.0.as_slice())
    .bind(attempt)
    .execute(write.on())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Puts a request back into the queue under the next attempt number, or fails it. A cancelled job gets nothing back.
pub(super) async fn requeue(
    write: &mut Write,
    request: &RequestId,
    ending: &Ending,
    now_ms: u64,
) -> Result<Requeued, LedgerError> {
    let row = sqlx::query(
        "SELECT r.job, r.tries, r.max_attempts, COALESCE(j.cancelled, 0) AS cancelled
         FROM requests r LEFT JOIN jobs j ON j.uid = r.job WHERE r.id = ?",
    )
    .bind(request.0.as_slice())
    .fetch_one(write.on())
    .await?;
    let tries = row.count32("tries")? + u32::from(ending.then == After::CountTry);
    let cancelled = row.flag("cancelled")?;
    let fails = ending.then == After::Fail || tries >= row.count32("max_attempts")? || cancelled;
    let (reason, message) = match cancelled {
        true => ("Cancelled", "the job was cancelled"),
        false => (ending.reason.as_str(), ending.message.as_str()),
    };
    let excluded = ending.avoid.as_ref().filter(|_| ending.exclude).map(GridPeerId::as_str);
    sqlx::query(
        "UPDATE requests SET state = ?2, tries = ?3, attempt = attempt + (?2 = 'Queued'), avoid = COALESCE(?4, avoid),
             excluded = CASE WHEN ?5 IS NULL THEN excluded ELSE TRIM(excluded || ' ' || ?5) END,
             reason = CASE WHEN ?2 = 'Failed' THEN ?6 ELSE '' END, message = CASE WHEN ?2 = 'Failed' THEN ?7 ELSE '' END,
             finished_ms = CASE WHEN ?2 = 'Failed' THEN ?8 ELSE 0 END
         WHERE id = ?1",
    )
    .bind(request.0.as_slice())
    .bind(if fails { "Failed" } else { "Queued" })
    .bind(tries)
    .bind(ending.avoid.as_ref().map(GridPeerId::as_str))
    .bind(excluded)
    .bind(reason)
    .bind(message)
    .bind(int(now_ms))
    .execute(write.on())
    .await?;
    if let Some(job) = row.try_get::<Option<String>, _>("job")? {
        write.changed(ChangeKind::Job, &job).await?;
    }
    write.queue_changed(QueueChange::Request(*request));
    Ok(if fails { Requeued::Failed } else { Requeued::Queued })
}
