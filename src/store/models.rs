//! Which models the grid serves, and how far fetching each has come.

use sqlx::sqlite::SqliteRow;

use super::{
    Ledger, LedgerError,
    columns::{Columns, corrupt, int, json},
};
use crate::{
    api::ids::ModelDigest,
    protocol::internal::{ChangeKind, ModelSource, ModelState},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelRecord {
    pub source: ModelSource,
    pub state: ModelState,
    pub reason: String,
    pub message: String,
    /// Size of the file; 0 until it is known.
    pub bytes: u64,
    /// Resolved from the source and the file's size.
    pub cost_per_token: u64,
}

impl Ledger {
    /// Keeps where a model comes from. A model that is not `Ready` goes back to `Fetching`; `false` when nothing changed.
    pub async fn put_model(&self, source: &ModelSource) -> Result<bool, LedgerError> {
        let mut write = self.begin().await?;
        let outcome = sqlx::query(
            "INSERT INTO models (digest, source, state) VALUES (?, ?, 'Fetching')
             ON CONFLICT (digest) DO UPDATE SET
                source = excluded.source,
                state = CASE WHEN state = 'Ready' AND removed = 0 THEN 'Ready' ELSE 'Fetching' END,
                reason = CASE WHEN state = 'Ready' AND removed = 0 THEN reason ELSE '' END,
                message = CASE WHEN state = 'Ready' AND removed = 0 THEN message ELSE '' END,
                removed = 0
             WHERE source <> excluded.source OR removed <> 0 OR state = 'Failed'",
        )
        .bind(source.digest.to_string())
        .bind(json("models.source", source)?)
        .execute(write.on())
        .await?;
        if outcome.rows_affected() == 0 {
            return Ok(false);
        }
        write.changed(ChangeKind::Model, &source.digest.to_string()).await?;
        write.commit().await?;
        Ok(true)
    }

    pub async fn model_ready(&self, digest: &ModelDigest, bytes: u64, cost_per_token: u64) -> Result<(), LedgerError> {
        let mut write = self.begin().await?;
        sqlx::query(
            "UPDATE models SET state = 'Ready', reason = '', message = '', bytes = ?, cost_per_token = ? WHERE digest = ?",
        )
        .bind(int(bytes))
        .bind(int(cost_per_token))
        .bind(digest.to_string())
        .execute(write.on())
        .await?;
        write.changed(ChangeKind::Model, &digest.to_string()).await?;
        write.commit().await
    }

    pub async fn model_failed(&self, digest: &ModelDigest, reason: &str, message: &str) -> Result<(), LedgerError> {
        let mut write = self.begin().await?;
        sqlx::query("UPDATE models SET state = 'Failed', reason = ?, message = ? WHERE digest = ? AND removed = 0")
            .bind(reason)
            .bind(message)
            .bind(digest.to_string())
            .execute(write.on())
            .await?;
        write.changed(ChangeKind::Model, &digest.to_string()).await?;
        write.commit().await
    }

    /// `false` when it was not there.
    pub async fn remove_model(&self, digest: &ModelDigest) -> Result<bool, LedgerError> {
        let mut write = self.begin().await?;
        let outcome = sqlx::query("UPDATE models SET removed = 1 WHERE digest = ? AND removed = 0")
            .bind(digest.to_string())
            .execute(write.on())
            .await?;
        if outcome.rows_affected() == 0 {
            return Ok(false);
        }
        write.changed(ChangeKind::Model, &digest.to_string()).await?;
        write.commit().await?;
        Ok(true)
    }

    pub async fn models(&self) -> Result<Vec<ModelRecord>, LedgerError> {
        let rows =
            sqlx::query("SELECT * FROM models WHERE removed = 0 ORDER BY digest").fetch_all(self.readers()).await?;
        rows.iter().map(record).collect()
    }

    pub async fn model(&self, digest: &ModelDigest) -> Result<Option<ModelRecord>, LedgerError> {
        let row = sqlx::query("SELECT * FROM models WHERE digest = ? AND removed = 0")
            .bind(digest.to_string())
            .fetch_optional(self.readers())
            .await?;
        row.as_ref().map(record).transpose()
    }
}

fn record(row: &SqliteRow) -> Result<ModelRecord, LedgerError> {
    let state = match row.text("state")?.as_str() {
        "Fetching" => ModelState::Fetching,
        "Ready" => ModelState::Ready,
        "Failed" => ModelState::Failed,
        other => return Err(corrupt("models.state", other)),
    };
    Ok(ModelRecord {
        source: row.json("source")?,
        state,
        reason: row.text("reason")?,
        message: row.text("message")?,
        bytes: row.count("bytes")?,
        cost_per_token: row.count("cost_per_token")?,
    })
}
