//! Jobs: the spec that never changes, the control that does, and what their requests add up to.

use sqlx::sqlite::SqliteRow;

use super::{
    Ledger, LedgerError,
    columns::{Columns, int, json},
    input::discard,
    ledger::Write,
    payments,
    queue::QueueChange,
};
use crate::protocol::internal::{ChangeKind, JobControl, JobName, JobNode, JobSpec, RequestFailure};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecord {
    pub uid: String,
    pub spec: JobSpec,
    /// BLAKE3 of the input's bytes; absent until all of it is kept.
    pub input_hash: Option<[u8; 32]>,
    pub control: JobControl,
    /// Unix milliseconds; 0 = not yet.
    pub started_ms: u64,
    pub finished_ms: u64,
    pub receipts_root: String,
}

/// What the requests of one job add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobCounts {
    pub queued: u32,
    pub leased: u32,
    pub done: u32,
    pub failed: u32,
    pub prompt_tokens: u64,
    pub output_tokens: u64,
    pub audits_owed: u32,
    pub audits_passed: u32,
    pub audits_failed: u32,
    pub nodes: Vec<JobNode>,
    /// Newest first, at most 5.
    pub last_failures: Vec<RequestFailure>,
}

impl Ledger {
    /// Keeps a job's spec. The same again changes nothing; another one takes the place of one that has no input yet, because nothing of
    /// that can have run.
    pub async fn put_job(&self, uid: &str, spec: &JobSpec, now_ms: u64) -> Result<(), LedgerError> {
        let encoded = json("jobs.spec", spec)?;
        let hash = *blake3::hash(encoded.as_bytes()).as_bytes();
        let mut write = self.begin().await?;
        let kept = sqlx::query("SELECT spec_hash, deleted, input_hash IS NULL AS open FROM jobs WHERE uid = ?")
            .bind(uid)
            .fetch_optional(write.on())
            .await?;
        if let Some(kept) = kept {
            let same = kept.fixed("spec_hash")? == hash;
            let replaceable = kept.flag("open")? && !kept.flag("deleted")?;
            if same || !replaceable {
                return unchanged(uid, kept.flag("deleted")?, same);
            }
            discard(&mut write, uid).await?;
        }
        sqlx::query(
            "INSERT INTO jobs (uid, namespace, spec, spec_hash, created_ms) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (uid) DO UPDATE SET namespace = ?2, spec = ?3, spec_hash = ?4",
        )
        .bind(uid)
        .bind(&spec.namespace)
        .bind(encoded)
        .bind(hash.as_slice())
        .bind(int(now_ms))
        .execute(write.on())
        .await?;
        if let Some(payment) = &spec.payment {
            payments::add(&mut write, uid, payment).await?;
        }
        write.changed(ChangeKind::Job, uid).await?;
        write.commit().await
    }

    pub async fn job(&self, uid: &str) -> Result<Option<JobRecord>, LedgerError> {
        let row = sqlx::query("SELECT * FROM jobs WHERE uid = ? AND deleted = 0")
            .bind(uid)
            .fetch_optional(self.readers())
            .await?;
        row.as_ref().map(record).transpose()
    }

    /// At most `limit` jobs that are not deleted, in the order of their uids, after `after`.
    pub async fn kept_jobs(&self, after: &str, limit: u32) -> Result<Vec<JobName>, LedgerError> {
        let rows =
            sqlx::query("SELECT uid, namespace, spec FROM jobs WHERE deleted = 0 AND uid > ? ORDER BY uid LIMIT ?")
                .bind(after)
                .bind(limit)
                .fetch_all(self.readers())
                .await?;
        let name = |row: &SqliteRow| {
            let spec: JobSpec = row.json("spec")?;
            Ok(JobName { uid: row.text("uid")?, namespace: row.text("namespace")?, name: spec.name })
        };
        rows.iter().map(name).collect()
    }

    /// Jobs whose input is complete and that are neither finished nor deleted.
    pub async fn open_jobs(&self) -> Result<Vec<JobRecord>, LedgerError> {
        let rows = sqlx::query(
            "SELECT * FROM jobs WHERE input_hash IS NOT NULL AND finished_ms = 0 AND deleted = 0 ORDER BY created_ms, uid",
        )
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(record).collect()
    }

    /// Changes the control. A cancelled job stays cancelled, and what it had queued fails as `Cancelled`.
    pub async fn control_job(&self, uid: &str, control: &JobControl, now_ms: u64) -> Result<(), LedgerError> {
        let mut write = self.begin().await?;
        let changed = sqlx::query(
            "UPDATE jobs SET suspended = ?2, cancelled = MAX(cancelled, ?3), parallelism = ?4
             WHERE uid = ?1 AND deleted = 0 AND (suspended <> ?2 OR cancelled < ?3 OR parallelism <> ?4)",
        )
        .bind(uid)
        .bind(control.suspended)
        .bind(control.cancelled)
        .bind(control.parallelism)
        .execute(write.on())
        .await?;
        if changed.rows_affected() == 0 {
            return Ok(());
        }
        if control.cancelled {
            fail_queued(&mut write, uid, now_ms).await?;
        }
        write.changed(ChangeKind::Job, uid).await?;
        write.queue_changed(QueueChange::Job(uid.to_owned()));
        write.commit().await
    }

    /// Cancels a job and marks its text to be forgotten ([`Ledger::forget_text`]); receipts stay. `false` when unknown.
    pub async fn delete_job(&self, uid: &str, now_ms: u64) -> Result<bool, LedgerError> {
        let mut write = self.begin().await?;
        let outcome = sqlx::query("UPDATE jobs SET deleted = 1, cancelled = 1 WHERE uid = ? AND deleted = 0")
            .bind(uid)
            .execute(write.on())
            .await?;
        if outcome.rows_affected() == 0 {
            return Ok(false);
        }
        fail_queued(&mut write, uid, now_ms).await?;
        write.changed(ChangeKind::Job, uid).await?;
        write.queue_changed(QueueChange::Job(uid.to_owned()));
        write.commit().await?;
        Ok(true)
    }

    pub async fn job_counts(&self, uid: &str) -> Result<JobCounts, LedgerError> {
        let mut counts = JobCounts::default();
        let states = sqlx::query("SELECT state, COUNT(*) AS n FROM requests WHERE job = ? GROUP BY state")
            .bind(uid)
            .fetch_all(self.readers())
            .await?;
        for row in &states {
            let n = row.count32("n")?;
            match row.text("state")?.as_str() {
                "Queued" => counts.queued = n,
                "Leased" => counts.leased = n,
                "Done" => counts.done = n,
                _ => counts.failed = n,
            }
        }
        self.add_answers(uid, &mut counts).await?;
        self.add_audits(uid, &mut counts).await?;
        if counts.failed > 0 {
            counts.last_failures = self.last_failures(uid).await?;
        }
        Ok(counts)
    }

    async fn add_answers(&self, uid: &str, counts: &mut JobCounts) -> Result<(), LedgerError> {
        let rows = sqlx::query(
            "SELECT node_name, COUNT(*) AS n, SUM(prompt_tokens) AS prompt, SUM(output_tokens) AS output
             FROM requests r JOIN wins w ON w.request = r.id JOIN receipts c ON c.hash = w.receipt
             JOIN members m ON m.address = c.address
             WHERE r.job = ? GROUP BY c.address ORDER BY n DESC, node_name",
        )
        .bind(uid)
        .fetch_all(self.readers())
        .await?;
        for row in &rows {
            counts.nodes.push(JobNode { node_name: row.text("node_name")?, requests: row.count32("n")? });
            counts.prompt_tokens += row.count("prompt")?;
            counts.output_tokens += row.count("output")?;
        }
        Ok(())
    }

    async fn add_audits(&self, uid: &str, counts: &mut JobCounts) -> Result<(), LedgerError> {
        let rows = sqlx::query(
            "SELECT a.state, COUNT(*) AS n FROM requests r JOIN audits a ON a.request = r.id WHERE r.job = ? GROUP BY a.state",
        )
        .bind(uid)
        .fetch_all(self.readers())
        .await?;
        for row in &rows {
            let n = row.count32("n")?;
            match row.text("state")?.as_str() {
                "Owed" => counts.audits_owed = n,
                "Passed" => counts.audits_passed = n,
                "Failed" => counts.audits_failed = n,
                _ => {}
            }
        }
        Ok(())
    }

    async fn last_failures(&self, uid: &str) -> Result<Vec<RequestFailure>, LedgerError> {
        let rows = sqlx::query(
            "SELECT custom_id, reason, message FROM requests WHERE job = ? AND state = 'Failed'
             ORDER BY finished_ms DESC, line DESC LIMIT 5",
        )
        .bind(uid)
        .fetch_all(self.readers())
        .await?;
        let failure = |row: &SqliteRow| {
            Ok(RequestFailure {
                custom_id: row.text("custom_id")?,
                reason: row.text("reason")?,
                message: row.text("message")?,
            })
        };
        rows.iter().map(failure).collect()
    }

    /// Whether a job has nothing queued, leased or owed any more.
    pub async fn job_is_settled(&self, uid: &str) -> Result<bool, LedgerError> {
        let row = sqlx::query(
            "SELECT EXISTS (SELECT 1 FROM requests WHERE job = ?1 AND state IN ('Queued', 'Leased'))
                 OR EXISTS (SELECT 1 FROM requests r JOIN audits a ON a.request = r.id WHERE r.job = ?1 AND a.state = 'Owed')
                 AS open",
        )
        .bind(uid)
        .fetch_one(self.readers())
        .await?;
        Ok(!row.flag("open")?)
    }

    /// Hashes of the receipts that answer a job, in input order.
    pub async fn job_receipts(&self, uid: &str) -> Result<Vec<[u8; 32]>, LedgerError> {
        let rows = sqlx::query(
            "SELECT w.receipt FROM requests r JOIN wins w ON w.request = r.id WHERE r.job = ? AND r.state = 'Done'
             ORDER BY r.line",
        )
        .bind(uid)
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(|row| row.fixed("receipt")).collect()
    }

    /// Marks a job finished unless work came back to it in between; `false` then, and when it was finished before.
    pub async fn finish_job(&self, uid: &str, receipts_root: &str, now_ms: u64) -> Result<bool, LedgerError> {
        let mut write = self.begin().await?;
        let outcome = sqlx::query(
            "UPDATE jobs SET finished_ms = ?2, receipts_root = ?3 WHERE uid = ?1 AND finished_ms = 0
             AND input_hash IS NOT NULL
             AND NOT EXISTS (SELECT 1 FROM requests WHERE job = ?1 AND state IN ('Queued', 'Leased'))
             AND NOT EXISTS (SELECT 1 FROM requests r JOIN audits a ON a.request = r.id
                             WHERE r.job = ?1 AND a.state = 'Owed')",
        )
        .bind(uid)
        .bind(int(now_ms))
        .bind(receipts_root)
        .execute(write.on())
        .await?;
        if outcome.rows_affected() == 0 {
            return Ok(false);
        }
        write.changed(ChangeKind::Job, uid).await?;
        write.queue_changed(QueueChange::Job(uid.to_owned()));
        write.commit().await?;
        Ok(true)
    }
}

fn unchanged(uid: &str, deleted: bool, same: bool) -> Result<(), LedgerError> {
    let conflict = |reason, message| Err(LedgerError::Conflict { reason, message });
    match (deleted, same) {
        (true, _) => conflict("JobDeleted", format!("job {uid} was deleted; a new job has a new uid")),
        (false, false) => conflict("JobConflict", format!("job {uid} is kept with another spec, which cannot change")),
        (false, true) => Ok(()),
    }
}

pub(super) async fn fail_queued(write: &mut Write, uid: &str, now_ms: u64) -> Result<(), LedgerError> {
    sqlx::query(
        "UPDATE requests SET state = 'Failed', reason = 'Cancelled', message = 'the job was cancelled', finished_ms = ?
         WHERE job = ? AND state = 'Queued'",
    )
    .bind(int(now_ms))
    .bind(uid)
    .execute(write.on())
    .await?;
    Ok(())
}

pub(super) fn record(row: &SqliteRow) -> Result<JobRecord, LedgerError> {
    let input_hash: Option<Vec<u8>> = sqlx::Row::try_get(row, "input_hash")?;
    Ok(JobRecord {
        uid: row.text("uid")?,
        spec: row.json("spec")?,
        input_hash: input_hash.map(|_| row.fixed("input_hash")).transpose()?,
        control: JobControl {
            suspended: row.flag("suspended")?,
            cancelled: row.flag("cancelled")?,
            parallelism: row.count32("parallelism")?,
        },
        started_ms: row.count("started_ms")?,
        finished_ms: row.count("finished_ms")?,
        receipts_root: row.text("receipts_root")?,
    })
}
