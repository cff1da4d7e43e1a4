//! Taking in a job's input: many short transactions, and one at the end that makes the job complete. An input that breaks
//! off leaves lines that the next one throws away; nothing runs before the end.

use super::{
    Ledger, LedgerError,
    ledger::Write,
    queue::QueueChange,
    requests::{NewRequest, RequestKind, insert},
};
use crate::{
    api::ids::RequestId,
    protocol::internal::{ChangeKind, InputLine, JobSpec},
};

/// Lines per transaction: receipts of other jobs wait no longer than one of these.
const LINES: u32 = 500;

/// An input on its way into the ledger.
pub struct InputWriter {
    ledger: Ledger,
    uid: String,
    spec: JobSpec,
    now_ms: u64,
    write: Option<Write>,
    in_transaction: u32,
    lines: u32,
}

impl Ledger {
    /// Starts taking in the input of a job that has none. One at a time per job: the caller sees to it.
    pub async fn begin_input(&self, uid: &str, spec: &JobSpec, now_ms: u64) -> Result<InputWriter, LedgerError> {
        let mut write = self.begin().await?;
        discard(&mut write, uid).await?;
        let (ledger, uid, spec) = (self.clone(), uid.to_owned(), spec.clone());
        Ok(InputWriter { ledger, uid, spec, now_ms, write: Some(write), in_transaction: 0, lines: 0 })
    }

    /// Throws away what a broken input left. A complete input stays.
    pub async fn discard_input(&self, uid: &str) -> Result<(), LedgerError> {
        let mut write = self.begin().await?;
        discard(&mut write, uid).await?;
        write.commit().await
    }
}

pub(super) async fn discard(write: &mut Write, uid: &str) -> Result<(), LedgerError> {
    sqlx::query("DELETE FROM requests WHERE job = (SELECT uid FROM jobs WHERE uid = ? AND input_hash IS NULL)")
        .bind(uid)
        .execute(write.on())
        .await?;
    Ok(())
}

/// A line of a job as a request that waits.
pub(super) fn request(uid: &str, spec: &JobSpec, line: InputLine, beacon: [u8; 32], now_ms: u64) -> NewRequest {
    NewRequest {
        id: RequestId::of_job_line(uid, &line.custom_id),
        kind: RequestKind::Job,
        owner: spec.namespace.clone(),
        job: Some(uid.to_owned()),
        model: spec.model,
        endpoint: spec.endpoint,
        line,
        beacon,
        sample_percent: spec.sample_percent,
        max_attempts: spec.max_attempts.max(1),
        pinned: None,
        queued_ms: now_ms,
        chat_template: spec.chat_template.clone(),
    }
}

impl InputWriter {
    /// Lines taken so far.
    pub fn lines(&self) -> u32 {
        self.lines
    }

    /// Takes one line. `beacon`: 32 fresh random bytes.
    pub async fn add(&mut self, line: InputLine, beacon: [u8; 32]) -> Result<(), LedgerError> {
        let request = request(&self.uid, &self.spec, line, beacon, self.now_ms);
        let mut write = self.transaction().await?;
        insert(&mut write, &request).await?;
        self.lines += 1;
        self.in_transaction += 1;
        if self.in_transaction < LINES {
            self.write = Some(write);
            return Ok(());
        }
        self.in_transaction = 0;
        write.commit().await
    }

    /// Makes the input complete: from here on the job runs. `hash` is BLAKE3 over the input's bytes.
    pub async fn finish(mut self, hash: [u8; 32]) -> Result<(), LedgerError> {
        let mut write = self.transaction().await?;
        let outcome =
            sqlx::query("UPDATE jobs SET input_hash = ? WHERE uid = ? AND input_hash IS NULL AND deleted = 0")
                .bind(hash.as_slice())
                .bind(&self.uid)
                .execute(write.on())
                .await?;
        if outcome.rows_affected() == 0 {
            return Err(LedgerError::Stale { what: "the job" });
        }
        // Cancelled while its input was on the way.
        sqlx::query(
            "UPDATE requests SET state = 'Failed', reason = 'Cancelled', message = 'the job was cancelled', finished_ms = ?
             WHERE job = ? AND (SELECT cancelled FROM jobs WHERE uid = requests.job) = 1",
        )
        .bind(super::columns::int(self.now_ms))
        .bind(&self.uid)
        .execute(write.on())
        .await?;
        write.changed(ChangeKind::Job, &self.uid).await?;
        write.queue_changed(QueueChange::Job(self.uid));
        write.commit().await
    }

    async fn transaction(&mut self) -> Result<Write, LedgerError> {
        match self.write.take() {
            Some(write) => Ok(write),
            None => self.ledger.begin().await,
        }
    }
}
