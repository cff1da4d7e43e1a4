//! Compute and storage challenges: append-only, written when they are over.

use sqlx::sqlite::SqliteRow;

use super::{
    Ledger, LedgerError,
    columns::{Columns, corrupt, int},
};
use crate::{
    api::ids::{GridPeerId, ModelDigest, NodeAddress},
    protocol::internal::ChangeKind,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChallengeKind {
    Gemm,
    Storage,
}

impl ChallengeKind {
    pub fn name(self) -> &'static str {
        match self {
            ChallengeKind::Gemm => "Gemm",
            ChallengeKind::Storage => "Storage",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChallengeOutcome {
    Passed,
    /// A wrong answer: the node's fault.
    Failed,
    /// No answer: availability, not honesty.
    Unanswered,
}

impl ChallengeOutcome {
    pub fn name(self) -> &'static str {
        match self {
            ChallengeOutcome::Passed => "Passed",
            ChallengeOutcome::Failed => "Failed",
            ChallengeOutcome::Unanswered => "Unanswered",
        }
    }

    fn of(name: &str) -> Result<Self, LedgerError> {
        [ChallengeOutcome::Passed, ChallengeOutcome::Failed, ChallengeOutcome::Unanswered]
            .into_iter()
            .find(|outcome| outcome.name() == name)
            .ok_or_else(|| corrupt("challenges.outcome", name))
    }
}

/// One challenge that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChallengeRecord {
    pub id: [u8; 16],
    pub address: NodeAddress,
    pub epoch: u64,
    pub kind: ChallengeKind,
    /// Storage: the blob.
    pub model: Option<ModelDigest>,
    pub issued_ms: u64,
    pub answered_ms: u64,
    pub outcome: ChallengeOutcome,
    /// Gemm: multiply-adds per millisecond. Storage: bytes of the blob.
    pub units: u64,
    pub message: String,
}

/// What the challenges of one node and kind (and blob) in one epoch add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChallengeTally {
    pub address: NodeAddress,
    pub kind: ChallengeKind,
    pub issued: u64,
    pub passed: u64,
    pub failed: u64,
    /// Least units of those passed.
    pub least_units: u64,
}

impl Ledger {
    pub async fn log_challenge(&self, peer: &GridPeerId, challenge: &ChallengeRecord) -> Result<(), LedgerError> {
        let mut write = self.begin().await?;
        sqlx::query(
            "INSERT INTO challenges (id, address, epoch, kind, model, issued_ms, answered_ms, outcome, units, message)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(challenge.id.as_slice())
        .bind(challenge.address.to_string())
        .bind(int(challenge.epoch))
        .bind(challenge.kind.name())
        .bind(challenge.model.map(|model| model.to_string()).unwrap_or_default())
        .bind(int(challenge.issued_ms))
        .bind(int(challenge.answered_ms))
        .bind(challenge.outcome.name())
        .bind(int(challenge.units))
        .bind(&challenge.message)
        .execute(write.on())
        .await?;
        write.changed(ChangeKind::Node, peer.as_str()).await?;
        write.commit().await
    }

    /// The last answered compute challenge of a node, and the last one for each blob, right or wrong.
    pub async fn last_challenges(&self, address: &NodeAddress) -> Result<Vec<ChallengeRecord>, LedgerError> {
        let rows = sqlx::query(
            "SELECT * FROM challenges c WHERE address = ? AND outcome <> 'Unanswered'
             AND issued_ms = (SELECT MAX(issued_ms) FROM challenges o WHERE o.address = c.address AND o.kind = c.kind
                              AND o.model = c.model AND o.outcome <> 'Unanswered')
             ORDER BY kind, model",
        )
        .bind(address.to_string())
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(record).collect()
    }

    /// Per node, kind and blob.
    pub async fn challenge_tallies(&self, epoch: u64) -> Result<Vec<ChallengeTally>, LedgerError> {
        let rows = sqlx::query(
            "SELECT address, kind, model, COUNT(*) AS issued, SUM(outcome = 'Passed') AS passed,
                    SUM(outcome = 'Failed') AS failed,
                    COALESCE(MIN(CASE WHEN outcome = 'Passed' THEN units END), 0) AS least_units
             FROM challenges WHERE epoch = ? GROUP BY address, kind, model ORDER BY address, kind, model",
        )
        .bind(int(epoch))
        .fetch_all(self.readers())
        .await?;
        let tally = |row: &SqliteRow| {
            Ok(ChallengeTally {
                address: row.parsed("address")?,
                kind: kind_of(&row.text("kind")?)?,
                issued: row.count("issued")?,
                passed: row.count("passed")?,
                failed: row.count("failed")?,
                least_units: row.count("least_units")?,
            })
        };
        rows.iter().map(tally).collect()
    }
}

fn kind_of(name: &str) -> Result<ChallengeKind, LedgerError> {
    [ChallengeKind::Gemm, ChallengeKind::Storage]
        .into_iter()
        .find(|kind| kind.name() == name)
        .ok_or_else(|| corrupt("challenges.kind", name))
}

fn record(row: &SqliteRow) -> Result<ChallengeRecord, LedgerError> {
    let model = row.text("model")?;
    Ok(ChallengeRecord {
        id: row.fixed("id")?,
        address: row.parsed("address")?,
        epoch: row.count("epoch")?,
        kind: kind_of(&row.text("kind")?)?,
        model: if model.is_empty() { None } else { Some(row.parsed("model")?) },
        issued_ms: row.count("issued_ms")?,
        answered_ms: row.count("answered_ms")?,
        outcome: ChallengeOutcome::of(&row.text("outcome")?)?,
        units: row.count("units")?,
        message: row.text("message")?,
    })
}
