//! The change stream's memory: the newest revision of each object.

use super::{
    Ledger, LedgerError,
    columns::{Columns, corrupt, int},
};
use crate::protocol::internal::{Change, ChangeKind};

/// Name of a kind in the ledger.
pub(super) fn kind_name(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Job => "Job",
        ChangeKind::Node => "Node",
        ChangeKind::Model => "Model",
        ChangeKind::Epoch => "Epoch",
    }
}

fn kind_of(name: &str) -> Result<ChangeKind, LedgerError> {
    [ChangeKind::Job, ChangeKind::Node, ChangeKind::Model, ChangeKind::Epoch]
        .into_iter()
        .find(|kind| kind_name(*kind) == name)
        .ok_or_else(|| corrupt("changes.kind", name))
}

impl Ledger {
    /// At most `limit` changes after `revision`, oldest first.
    pub async fn changes(&self, after: u64, limit: u32) -> Result<Vec<Change>, LedgerError> {
        sqlx::query("SELECT revision, kind, key FROM changes WHERE revision > ? ORDER BY revision LIMIT ?")
            .bind(int(after))
            .bind(limit)
            .fetch_all(self.readers())
            .await?
            .iter()
            .map(|row| {
                Ok(Change {
                    revision: row.count("revision")?,
                    kind: kind_of(&row.text("kind")?)?,
                    key: row.text("key")?,
                })
            })
            .collect()
    }

    /// Announces a change of something that is not in the ledger (a peer connected, a model is being served).
    pub async fn announce(&self, kind: ChangeKind, key: &str) -> Result<(), LedgerError> {
        let mut write = self.begin().await?;
        write.changed(kind, key).await?;
        write.commit().await
    }
}
