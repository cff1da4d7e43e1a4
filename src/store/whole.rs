//! Taking in small jobs with their input. A crowd of them shares transactions: every transaction waits for the disk once, and there is
//! one writer, so a transaction a job would let the disk decide how many jobs a second there can be.

use tokio::sync::oneshot;

use super::{
    Ledger, LedgerError,
    columns::{Columns, int, json},
    input::{discard, request},
    jobs::fail_queued,
    ledger::Write,
    payments,
    queue::QueueChange,
    requests::insert,
};
use crate::protocol::internal::{ChangeKind, InputLine, JobControl, JobSpec};

/// Jobs in one transaction: receipts of other jobs wait no longer than one of these.
const TOGETHER: usize = 32;

/// A job that is to be kept with all of its input.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub uid: String,
    pub spec: JobSpec,
    pub control: JobControl,
    /// Each with 32 fresh random bytes.
    pub lines: Vec<(InputLine, [u8; 32])>,
    /// BLAKE3 over the input's bytes.
    pub input_hash: [u8; 32],
    pub now_ms: u64,
}

/// One that waits for its transaction, and who is to hear of it.
#[derive(Debug)]
pub(super) struct Waiting {
    job: NewJob,
    tell: oneshot::Sender<Result<(), LedgerError>>,
}

impl Ledger {
    /// Keeps a job and its input: from here on it runs. The same again changes nothing. A spec that was kept without its input is
    /// replaced, because nothing of it can have run.
    pub async fn take_job(&self, job: NewJob) -> Result<(), LedgerError> {
        let (tell, told) = oneshot::channel();
        self.waiting().push_back(Waiting { job, tell });
        // Whoever comes to the writer first takes those that wait behind along.
        let turn = self.whole_turn().await;
        let count = self.waiting().len().min(TOGETHER);
        let batch: Vec<_> = self.waiting().drain(..count).collect();
        self.take_together(batch).await;
        drop(turn);
        // Taken along by another one, which may have been dropped in the middle of it.
        told.await.unwrap_or(Err(LedgerError::Stale { what: "the transaction" }))
    }

    async fn take_together(&self, batch: Vec<Waiting>) {
        if batch.is_empty() {
            return;
        }
        match self.in_one_transaction(&batch).await {
            Ok(outcomes) => {
                for (waiting, outcome) in batch.into_iter().zip(outcomes) {
                    // Its caller may be gone.
                    let _ = waiting.tell.send(outcome);
                }
            }
            // One of them spoils it for all: each for itself, so that only that one fails.
            Err(_) if batch.len() > 1 => {
                for waiting in batch {
                    let alone = self.alone(&waiting).await;
                    let _ = waiting.tell.send(alone);
                }
            }
            Err(error) => {
                if let Some(waiting) = batch.into_iter().next() {
                    let _ = waiting.tell.send(Err(error));
                }
            }
        }
    }

    async fn alone(&self, waiting: &Waiting) -> Result<(), LedgerError> {
        let outcomes = self.in_one_transaction(std::slice::from_ref(waiting)).await?;
        outcomes.into_iter().next().unwrap_or(Ok(()))
    }

    /// What became of each; an error when nothing was kept of any.
    async fn in_one_transaction(&self, batch: &[Waiting]) -> Result<Vec<Result<(), LedgerError>>, LedgerError> {
        let (mut write, mut outcomes) = (self.begin().await?, Vec::with_capacity(batch.len()));
        for waiting in batch {
            let decided = match decide(&mut write, &waiting.job).await {
                Err(error @ LedgerError::Conflict { .. }) => Err(error),
                Err(error) => return Err(error),
                Ok(decided) => Ok(decided),
            };
            // From here on something of it may be written: a conflict now is everybody's.
            if let Ok(Decision::Keep { instead }) = decided {
                keep(&mut write, &waiting.job, instead).await?;
            }
            outcomes.push(decided.map(drop));
        }
        write.commit().await?;
        Ok(outcomes)
    }
}

/// What is to be done about a job.
enum Decision {
    /// The ledger has it.
    HasIt,
    /// `instead` of a spec that came without its input.
    Keep { instead: bool },
}

/// Writes nothing.
async fn decide(write: &mut Write, job: &NewJob) -> Result<Decision, LedgerError> {
    let kept = sqlx::query("SELECT spec_hash, input_hash, deleted FROM jobs WHERE uid = ?")
        .bind(&job.uid)
        .fetch_optional(write.on())
        .await?;
    let instead = match kept {
        None => false,
        Some(row) if row.flag("deleted")? => return Err(deleted(&job.uid)),
        Some(row) => match sqlx::Row::try_get::<Option<Vec<u8>>, _>(&row, "input_hash")? {
            Some(input) if input == job.input_hash && row.fixed::<32>("spec_hash")? == hash(&encoded(job)?) => {
                return Ok(Decision::HasIt);
            }
            Some(_) => return Err(other(&job.uid)),
            None => true,
        },
    };
    if let Some(payment) = &job.spec.payment {
        payments::check(write, &job.uid, payment).await?;
    }
    Ok(Decision::Keep { instead })
}

fn encoded(job: &NewJob) -> Result<String, LedgerError> {
    json("jobs.spec", &job.spec)
}

fn hash(encoded: &str) -> [u8; 32] {
    *blake3::hash(encoded.as_bytes()).as_bytes()
}

async fn keep(write: &mut Write, job: &NewJob, instead: bool) -> Result<(), LedgerError> {
    if instead {
        discard(write, &job.uid).await?;
    }
    let encoded = encoded(job)?;
    sqlx::query(
        "INSERT INTO jobs (uid, namespace, spec, spec_hash, created_ms, input_hash, suspended, cancelled, parallelism)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (uid) DO UPDATE SET namespace = ?2, spec = ?3, spec_hash = ?4, input_hash = ?6, suspended = ?7,
             cancelled = MAX(cancelled, ?8), parallelism = ?9",
    )
    .bind(&job.uid)
    .bind(&job.spec.namespace)
    .bind(&encoded)
    .bind(hash(&encoded).as_slice())
    .bind(int(job.now_ms))
    .bind(job.input_hash.as_slice())
    .bind(job.control.suspended)
    .bind(job.control.cancelled)
    .bind(job.control.parallelism)
    .execute(write.on())
    .await?;
    if let Some(payment) = &job.spec.payment {
        payments::add(write, &job.uid, payment).await?;
    }
    for (line, beacon) in &job.lines {
        insert(write, &request(&job.uid, &job.spec, line.clone(), *beacon, job.now_ms)).await?;
    }
    if job.control.cancelled {
        fail_queued(write, &job.uid, job.now_ms).await?;
    }
    write.changed(ChangeKind::Job, &job.uid).await?;
    write.queue_changed(QueueChange::Job(job.uid.clone()));
    Ok(())
}

fn deleted(uid: &str) -> LedgerError {
    let message = format!("job {uid} was deleted; a new job has a new uid");
    LedgerError::Conflict { reason: "JobDeleted", message }
}

fn other(uid: &str) -> LedgerError {
    let message = format!("job {uid} is kept with another spec or input, which cannot change");
    LedgerError::Conflict { reason: "JobConflict", message }
}
