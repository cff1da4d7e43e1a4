//! Audits: owed with the receipt, decided once, and what a decision does to receipt, request and evidence, in one transaction.

use sqlx::{Row, sqlite::SqliteRow};

use super::{
    EvidenceRecord, Ledger, LedgerError,
    columns::{Columns, corrupt, int},
    evidence,
    leases::{After, Ending, requeue},
    ledger::Write,
    queue::QueueChange,
    receipts::Work,
};
use crate::{
    api::ids::{GridPeerId, NodeAddress, RequestId},
    protocol::internal::ChangeKind,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditState {
    Owed,
    Passed,
    Failed,
    /// Nothing is known: no verifier, a broken one, no tolerance. Never against the node.
    Inconclusive,
}

impl AuditState {
    pub fn name(self) -> &'static str {
        match self {
            AuditState::Owed => "Owed",
            AuditState::Passed => "Passed",
            AuditState::Failed => "Failed",
            AuditState::Inconclusive => "Inconclusive",
        }
    }

    pub(super) fn of(name: &str) -> Result<Self, LedgerError> {
        [AuditState::Owed, AuditState::Passed, AuditState::Failed, AuditState::Inconclusive]
            .into_iter()
            .find(|state| state.name() == name)
            .ok_or_else(|| corrupt("audits.state", name))
    }
}

/// An audit that waits, with everything that a verifier needs.
#[derive(Debug, Clone, PartialEq)]
pub struct OwedAudit {
    pub receipt: [u8; 32],
    pub attempt: u32,
    /// Who is audited.
    pub address: NodeAddress,
    pub tries: u32,
    pub deadline_ms: u64,
    pub kernel_profile: String,
    /// `wire::Receipt`.
    pub encoded: Vec<u8>,
    pub output: Vec<u32>,
    pub prefix: Vec<u32>,
    /// As in [`LoggedReceipt`](super::LoggedReceipt).
    pub logprobs: Vec<u8>,
    pub work: Work,
}

/// How an audit ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditDecision {
    pub receipt: [u8; 32],
    pub state: AuditState,
    /// Peer id of the verifier; empty when none was found.
    pub verifier: String,
    /// For `Inconclusive`: whose fault, CamelCase; else empty.
    pub reason: &'static str,
    pub message: String,
    pub now_ms: u64,
}

/// The reason of an audit that no verifier can decide because of what the worker says about itself (its kernel profile).
pub const UNDECIDABLE: &str = "Undecidable";

/// How a canary stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CanaryRecord {
    pub queued_ms: u64,
    /// Not answered or not audited yet.
    pub open: bool,
    pub passed: bool,
}

/// One decided or owed audit, for reports and tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    pub receipt: [u8; 32],
    pub request: RequestId,
    pub address: NodeAddress,
    pub state: AuditState,
    pub verifier: String,
    pub reason: String,
    pub message: String,
}

impl Ledger {
    /// The owed audits, those with the nearest deadline first.
    pub async fn owed_audits(&self, limit: u32) -> Result<Vec<OwedAudit>, LedgerError> {
        let rows = sqlx::query(
            // Vectors are computed again without a look at those that were given.
            "SELECT r.*, t.source AS chat_template, a.receipt, a.address, a.tries AS audit_tries, a.deadline_ms, c.kernel_profile, c.encoded,
                    c.attempt AS receipt_attempt, n.prefix, n.logprobs,
                    CASE r.endpoint WHEN '\"/v1/embeddings\"' THEN x'' ELSE n.output END AS output
             FROM audits a JOIN receipts c ON c.hash = a.receipt JOIN requests r ON r.id = a.request
             JOIN answers n ON n.receipt = a.receipt LEFT JOIN templates t ON t.digest = r.template
             WHERE a.state = 'Owed' AND r.body IS NOT NULL ORDER BY a.deadline_ms, a.receipt LIMIT ?",
        )
        .bind(limit)
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(owed).collect()
    }

    /// Counts a try at an audit.
    pub async fn audit_tried(&self, receipt: &[u8; 32]) -> Result<(), LedgerError> {
        let mut write = self.begin().await?;
        sqlx::query("UPDATE audits SET tries = tries + 1 WHERE receipt = ? AND state = 'Owed'")
            .bind(receipt.as_slice())
            .execute(write.on())
            .await?;
        write.commit().await
    }

    /// Decides an owed audit. `judge` gives the node's evidence after this decision; it runs inside the transaction, so that
    /// two decisions about one node never overwrite each other. A failed audit rejects the receipt and sends its request back
    /// to the queue; a node that `judge` quarantines loses its unaudited work too, and of one that it convicts the reasons are kept.
    /// Returns the evidence as it stands now.
    pub async fn decide_audit(
        &self,
        decision: &AuditDecision,
        judge: impl FnOnce(&EvidenceRecord) -> EvidenceRecord + Send,
    ) -> Result<EvidenceRecord, LedgerError> {
        let mut write = self.begin().await?;
        let row = sqlx::query(
            "UPDATE audits SET state = ?, verifier = ?, reason = ?, message = ?, decided_ms = ? WHERE receipt = ? AND state = 'Owed'
             RETURNING address, (SELECT job FROM requests WHERE id = audits.request) AS job,
                       (SELECT peer_id FROM members WHERE address = audits.address) AS peer_id",
        )
        .bind(decision.state.name())
        .bind(&decision.verifier)
        .bind(decision.reason)
        .bind(&decision.message)
        .bind(int(decision.now_ms))
        .bind(decision.receipt.as_slice())
        .fetch_optional(write.on())
        .await?
        .ok_or(LedgerError::Stale { what: "the audit" })?;
        let address: NodeAddress = row.parsed("address")?;
        let before = evidence::read(&mut write, &address).await?;
        let after = judge(&before);
        evidence::put(&mut write, &address, &after).await?;
        if decision.state == AuditState::Failed {
            reject(&mut write, &decision.receipt, "AuditFailed", &decision.message, decision.now_ms).await?;
        }
        if before.convicted_ms == 0 && after.convicted_ms != 0 {
            evidence::convict(&mut write, &address).await?;
        }
        if before.quarantined_ms == 0 && after.quarantined_ms != 0 {
            void_unaudited(&mut write, &address, &after.message, decision.now_ms).await?;
        }
        write.changed(ChangeKind::Node, &row.text("peer_id")?).await?;
        if let Some(job) = row.try_get::<Option<String>, _>("job")? {
            write.changed(ChangeKind::Job, &job).await?;
        }
        write.commit().await?;
        Ok(after)
    }

    /// Audits of an epoch and before that are not decided.
    pub async fn owed_until(&self, epoch: u64) -> Result<u64, LedgerError> {
        let row = sqlx::query("SELECT COUNT(*) AS n FROM audits WHERE state = 'Owed' AND epoch <= ?")
            .bind(int(epoch))
            .fetch_one(self.readers())
            .await?;
        row.count("n")
    }

    /// All audits of a request, in no particular order.
    pub async fn audits_of(&self, request: &RequestId) -> Result<Vec<AuditRecord>, LedgerError> {
        let rows = sqlx::query("SELECT * FROM audits WHERE request = ?")
            .bind(request.0.as_slice())
            .fetch_all(self.readers())
            .await?;
        rows.iter().map(record).collect()
    }

    /// The newest canary of a node, if it ever got one.
    pub async fn last_canary(&self, peer: &GridPeerId) -> Result<Option<CanaryRecord>, LedgerError> {
        let row = sqlx::query(
            "SELECT r.queued_ms, r.state IN ('Queued', 'Leased') OR COALESCE(a.state = 'Owed', 0) AS open,
                    COALESCE(a.state = 'Passed', 0) AS passed
             FROM requests r LEFT JOIN audits a ON a.request = r.id
             WHERE r.kind = 'Canary' AND r.pinned = ? ORDER BY r.queued_ms DESC LIMIT 1",
        )
        .bind(peer.as_str())
        .fetch_optional(self.readers())
        .await?;
        let record = |row: SqliteRow| {
            Ok(CanaryRecord {
                queued_ms: row.count("queued_ms")?,
                open: row.flag("open")?,
                passed: row.flag("passed")?,
            })
        };
        row.map(record).transpose()
    }

    /// Canaries of a node whose audit passed: its probation so far.
    pub async fn canaries_passed(&self, peer: &GridPeerId) -> Result<u64, LedgerError> {
        let row = sqlx::query(
            "SELECT COUNT(*) AS n FROM requests r JOIN audits a ON a.request = r.id
             WHERE r.kind = 'Canary' AND r.pinned = ? AND a.state = 'Passed'",
        )
        .bind(peer.as_str())
        .fetch_one(self.readers())
        .await?;
        row.count("n")
    }
}

/// An accepted receipt loses its worth; its request goes back to the queue if its answer was this receipt's and somebody can
/// still use another one.
async fn reject(
    write: &mut Write,
    receipt: &[u8; 32],
    reason: &'static str,
    message: &str,
    now_ms: u64,
) -> Result<(), LedgerError> {
    sqlx::query("INSERT OR IGNORE INTO rejections (receipt, reason, message, at_ms) VALUES (?, ?, ?, ?)")
        .bind(receipt.as_slice())
        .bind(reason)
        .bind(message)
        .bind(int(now_ms))
        .execute(write.on())
        .await?;
    let reusable = sqlx::query(
        "DELETE FROM wins WHERE receipt = ?1
         AND EXISTS (SELECT 1 FROM requests r JOIN jobs j ON j.uid = r.job
                     WHERE r.id = wins.request AND j.finished_ms = 0 AND j.deleted = 0)
         RETURNING request,
                   (SELECT m.peer_id FROM receipts c JOIN members m ON m.address = c.address WHERE c.hash = ?1) AS peer_id",
    )
    .bind(receipt.as_slice())
    .fetch_optional(write.on())
    .await?;
    let Some(row) = reusable else { return Ok(()) };
    let job =
        sqlx::query("SELECT job FROM requests WHERE id = ?").bind(row.bytes("request")?).fetch_one(write.on()).await?;
    if let Some(job) = job.try_get::<Option<String>, _>("job")? {
        // A paid job that had spent all that it may has something left again.
        write.queue_changed(QueueChange::Job(job));
    }
    let ending = Ending {
        reason: "AnswerRejected".into(),
        message: "the answer did not pass its audit, and there is nobody left to give another".into(),
        then: After::Free,
        avoid: Some(row.parsed("peer_id")?),
        exclude: true,
    };
    requeue(write, &RequestId(row.fixed("request")?), &ending, now_ms).await?;
    Ok(())
}

/// A convicted node's work that no audit confirmed is worth nothing.
async fn void_unaudited(
    write: &mut Write,
    address: &NodeAddress,
    message: &str,
    now_ms: u64,
) -> Result<(), LedgerError> {
    let rows = sqlx::query(
        "SELECT hash FROM receipts c WHERE c.address = ? AND c.standing = 'Accepted'
         AND NOT EXISTS (SELECT 1 FROM settlements s WHERE s.receipt = c.hash)
         AND NOT EXISTS (SELECT 1 FROM rejections x WHERE x.receipt = c.hash)
         AND NOT EXISTS (SELECT 1 FROM audits a WHERE a.receipt = c.hash AND a.state = 'Passed')",
    )
    .bind(address.to_string())
    .fetch_all(write.on())
    .await?;
    for row in &rows {
        reject(write, &row.fixed("hash")?, "NodeQuarantined", message, now_ms).await?;
    }
    Ok(())
}

fn owed(row: &SqliteRow) -> Result<OwedAudit, LedgerError> {
    Ok(OwedAudit {
        receipt: row.fixed("receipt")?,
        attempt: row.count32("receipt_attempt")?,
        address: row.parsed("address")?,
        tries: row.count32("audit_tries")?,
        deadline_ms: row.count("deadline_ms")?,
        kernel_profile: row.text("kernel_profile")?,
        encoded: row.bytes("encoded")?,
        output: row.tokens("output")?,
        prefix: row.tokens("prefix")?,
        logprobs: row.bytes("logprobs")?,
        work: super::receipts::work(row)?,
    })
}

fn record(row: &SqliteRow) -> Result<AuditRecord, LedgerError> {
    Ok(AuditRecord {
        receipt: row.fixed("receipt")?,
        request: RequestId(row.fixed("request")?),
        address: row.parsed("address")?,
        state: AuditState::of(&row.text("state")?)?,
        verifier: row.text("verifier")?,
        reason: row.text("reason")?,
        message: row.text("message")?,
    })
}
