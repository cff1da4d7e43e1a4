//! Requests: what waits in the queue, and forgetting text when its time is over.

use sqlx::sqlite::SqliteRow;

use super::{
    Ledger, LedgerError,
    columns::{Columns, corrupt, int, json},
    ledger::Write,
    queue::QueueChange,
};
use crate::{
    api::ids::{GridPeerId, ModelDigest, RequestId},
    protocol::{
        fields::{RequestField, RequestFields},
        internal::{Endpoint, InputLine},
    },
};

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// A line of a job.
    Job,
    /// A client of the OpenAI API, who waits.
    Online,
    /// The gateway itself, to try out a worker.
    Canary,
}

impl RequestKind {
    fn name(self) -> &'static str {
        match self {
            RequestKind::Job => "Job",
            RequestKind::Online => "Online",
            RequestKind::Canary => "Canary",
        }
    }

    pub(super) fn of(name: &str) -> Result<Self, LedgerError> {
        [RequestKind::Job, RequestKind::Online, RequestKind::Canary]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| corrupt("requests.kind", name))
    }
}

/// A request to be queued.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRequest {
    pub id: RequestId,
    pub kind: RequestKind,
    /// Namespace of the job, or a name for all online or canary requests.
    pub owner: String,
    pub job: Option<String>,
    pub model: ModelDigest,
    pub endpoint: Endpoint,
    pub line: InputLine,
    /// The gateway's contribution to the sampling seed, the same for every attempt.
    pub beacon: [u8; 32],
    pub sample_percent: Option<u8>,
    pub max_attempts: u32,
    /// The only worker that may get it.
    pub pinned: Option<GridPeerId>,
    pub queued_ms: u64,
    /// Template of its chat; empty: the model's own.
    pub chat_template: String,
}

/// How a request stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSummary {
    pub kind: RequestKind,
    pub job: Option<String>,
    pub state: String,
    pub attempt: u32,
    pub reason: String,
    pub message: String,
}

impl Ledger {
    /// Queues a request that belongs to no job.
    pub async fn add_request(&self, request: &NewRequest) -> Result<(), LedgerError> {
        let mut write = self.begin().await?;
        insert(&mut write, request).await?;
        write.queue_changed(QueueChange::Request(request.id));
        write.commit().await
    }

    pub async fn request(&self, id: &RequestId) -> Result<Option<RequestSummary>, LedgerError> {
        let row = sqlx::query("SELECT * FROM requests WHERE id = ?")
            .bind(id.0.as_slice())
            .fetch_optional(self.readers())
            .await?;
        let summary = |row: &SqliteRow| {
            Ok(RequestSummary {
                kind: RequestKind::of(&row.text("kind")?)?,
                job: sqlx::Row::try_get(row, "job")?,
                state: row.text("state")?,
                attempt: row.count32("attempt")?,
                reason: row.text("reason")?,
                message: row.text("message")?,
            })
        };
        row.as_ref().map(summary).transpose()
    }

    /// Forgets the text of requests that nobody needs any more: deleted jobs, and online and canary requests, once they are
    /// over and no audit of them is owed; and rejected answers. Returns how many requests were emptied.
    pub async fn forget_text(&self) -> Result<u64, LedgerError> {
        let mut write = self.begin().await?;
        sqlx::query(
            "DELETE FROM answers WHERE receipt IN (SELECT receipt FROM rejections)
             AND NOT EXISTS (SELECT 1 FROM wins w WHERE w.receipt = answers.receipt)
             AND NOT EXISTS (SELECT 1 FROM audits a WHERE a.receipt = answers.receipt AND a.state = 'Owed')",
        )
        .execute(write.on())
        .await?;
        let forgotten = sqlx::query(
            "UPDATE requests SET body = NULL WHERE body IS NOT NULL AND state IN ('Done', 'Failed')
             AND (kind <> 'Job' OR job IN (SELECT uid FROM jobs WHERE deleted = 1))
             AND NOT EXISTS (SELECT 1 FROM audits a WHERE a.request = requests.id AND a.state = 'Owed')
             RETURNING id",
        )
        .fetch_all(write.on())
        .await?;
        for row in &forgotten {
            sqlx::query("DELETE FROM answers WHERE request = ?").bind(row.bytes("id")?).execute(write.on()).await?;
        }
        write.commit().await?;
        Ok(forgotten.len() as u64)
    }
}

/// What a worker must know to answer a line with a template; a template is nothing to one that is no chat.
pub fn fields(line: &InputLine, chat_template: &str) -> RequestFields {
    let template = (!chat_template.is_empty() && !line.messages.is_empty()).then_some(RequestField::ChatTemplate);
    line.fields().with(template.into_iter().collect())
}

pub(super) async fn insert(write: &mut Write, request: &NewRequest) -> Result<(), LedgerError> {
    let line = &request.line;
    let fields = fields(line, &request.chat_template);
    let template = match fields.contains(RequestField::ChatTemplate) {
        true => Some(keep_template(write, &request.chat_template).await?),
        false => None,
    };
    let outcome = sqlx::query(
        "INSERT INTO requests (id, kind, owner, job, line, custom_id, model, endpoint, body, prompt_bytes, max_tokens,
                               beacon, sample_percent, max_attempts, pinned, queued_ms, fields, template)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(request.id.0.as_slice())
    .bind(request.kind.name())
    .bind(&request.owner)
    .bind(&request.job)
    .bind(line.index)
    .bind(&line.custom_id)
    .bind(request.model.to_string())
    .bind(json("requests.endpoint", &request.endpoint)?)
    .bind(json("requests.body", line)?)
    .bind(prompt_bytes(line))
    .bind(line.max_tokens)
    .bind(request.beacon.as_slice())
    .bind(request.sample_percent)
    .bind(request.max_attempts)
    .bind(request.pinned.as_ref().map(GridPeerId::as_str))
    .bind(int(request.queued_ms))
    .bind(fields.bits())
    .bind(template.as_ref().map(|digest| digest.as_slice()))
    .execute(write.on())
    .await;
    match outcome {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Err(taken(line, error.message())),
        Err(error) => Err(error.into()),
    }
}

/// There are as many as admins have written.
async fn keep_template(write: &mut Write, source: &str) -> Result<[u8; 32], LedgerError> {
    let digest = *blake3::hash(source.as_bytes()).as_bytes();
    sqlx::query("INSERT INTO templates (digest, source) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(digest.as_slice())
        .bind(source)
        .execute(write.on())
        .await?;
    Ok(digest)
}

fn taken(line: &InputLine, message: &str) -> LedgerError {
    if message.contains("requests.line") {
        let message = format!("input line index {} occurs twice (custom_id {:?})", line.index, line.custom_id);
        return LedgerError::Conflict { reason: "DuplicateIndex", message };
    }
    let message = format!("custom_id {:?} occurs twice: it must be unique within a job", line.custom_id);
    LedgerError::Conflict { reason: "DuplicateCustomId", message }
}

/// Upper bound of the prompt in UTF-8 bytes; of the longest input of an embedding, since each has a context of its own.
fn prompt_bytes(line: &InputLine) -> u32 {
    if let Some(longest) = line.inputs.iter().map(String::len).max() {
        return u32::try_from(longest).unwrap_or(u32::MAX);
    }
    let messages: usize = line.messages.iter().map(|message| message.role.len() + message.content.len()).sum();
    u32::try_from(messages + line.prompt.len()).unwrap_or(u32::MAX)
}
