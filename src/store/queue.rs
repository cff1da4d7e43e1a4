//! The queue as the ledger keeps it: requests that wait, read by index, and what changed in it since somebody last asked. The
//! dispatcher works on a copy in memory; this is how the copy is made and kept.

use sqlx::sqlite::SqliteRow;

use super::{
    Ledger, LedgerError,
    columns::{Columns, corrupt},
    requests::RequestKind,
};
use crate::{
    api::ids::{GridPeerId, ModelDigest, RequestId},
    protocol::fields::RequestFields,
};

/// What the dispatcher needs to know of a waiting request. No text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedRequest {
    pub id: RequestId,
    pub kind: RequestKind,
    pub owner: String,
    pub job: Option<String>,
    /// Line in the input of its job.
    pub line: u32,
    pub model: ModelDigest,
    /// Number that the next lease gets.
    pub attempt: u32,
    pub excluded: Vec<GridPeerId>,
    pub avoid: Option<GridPeerId>,
    pub pinned: Option<GridPeerId>,
    pub prompt_bytes: u32,
    pub max_tokens: u32,
    pub queued_ms: u64,
    /// What its worker must know.
    pub fields: RequestFields,
}

/// Something that may have entered or left the queue; the ledger says how it stands now.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueueChange {
    /// A job opened, ended, or is controlled differently.
    Job(String),
    Request(RequestId),
}

/// The columns of a waiting request: never its text, which may be long.
macro_rules! waiting {
    ($condition:literal) => {
        concat!(
            "SELECT id, kind, owner, job, line, model, attempt, excluded, avoid, pinned, prompt_bytes, max_tokens, queued_ms, fields ",
            "FROM requests WHERE state = 'Queued' AND ",
            $condition
        )
    };
}

impl Ledger {
    /// Waiting requests of a job in the order of its input, from the line after `after`.
    pub async fn queued_of_job(
        &self,
        uid: &str,
        after: Option<u32>,
        limit: u32,
    ) -> Result<Vec<QueuedRequest>, LedgerError> {
        let rows = sqlx::query(waiting!("job = ? AND line > ? ORDER BY line LIMIT ?"))
            .bind(uid)
            .bind(after.map_or(-1, i64::from))
            .bind(limit)
            .fetch_all(self.readers())
            .await?;
        rows.iter().map(queued).collect()
    }

    /// How many requests of a job wait.
    pub async fn count_queued_of_job(&self, uid: &str) -> Result<u64, LedgerError> {
        let row = sqlx::query("SELECT COUNT(*) AS n FROM requests WHERE job = ? AND state = 'Queued'")
            .bind(uid)
            .fetch_one(self.readers())
            .await?;
        row.count("n")
    }

    /// What a worker must know to answer any request of a job.
    pub async fn fields_of_job(&self, uid: &str) -> Result<RequestFields, LedgerError> {
        let rows = sqlx::query("SELECT DISTINCT fields FROM requests WHERE job = ? AND fields <> 0")
            .bind(uid)
            .fetch_all(self.readers())
            .await?;
        let mut all = RequestFields::NONE;
        for row in &rows {
            all = all.with(RequestFields::of_bits(row.count32("fields")?));
        }
        Ok(all)
    }

    /// A request if it waits.
    pub async fn queued_request(&self, id: &RequestId) -> Result<Option<QueuedRequest>, LedgerError> {
        let row = sqlx::query(waiting!("id = ?")).bind(id.0.as_slice()).fetch_optional(self.readers()).await?;
        row.as_ref().map(queued).transpose()
    }
}

fn queued(row: &SqliteRow) -> Result<QueuedRequest, LedgerError> {
    Ok(QueuedRequest {
        id: RequestId(row.fixed("id")?),
        kind: RequestKind::of(&row.text("kind")?)?,
        owner: row.text("owner")?,
        job: sqlx::Row::try_get(row, "job")?,
        line: row.count32("line")?,
        model: row.parsed("model")?,
        attempt: row.count32("attempt")?,
        excluded: excluded(&row.text("excluded")?)?,
        avoid: row.parsed_or_none("avoid")?,
        pinned: row.parsed_or_none("pinned")?,
        prompt_bytes: row.count32("prompt_bytes")?,
        max_tokens: row.count32("max_tokens")?,
        queued_ms: row.count("queued_ms")?,
        fields: RequestFields::of_bits(row.count32("fields")?),
    })
}

fn excluded(text: &str) -> Result<Vec<GridPeerId>, LedgerError> {
    text.split_whitespace().map(|peer| peer.parse().map_err(|error| corrupt("requests.excluded", error))).collect()
}
