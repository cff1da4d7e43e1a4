//! Evidence per node: kept by address, so that a node that returns under its key finds it.

use sqlx::{Row, sqlite::SqliteRow};

use super::{
    Ledger, LedgerError,
    columns::{Columns, int},
    ledger::Write,
};
use crate::api::ids::NodeAddress;

/// What audits said about a node so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EvidenceRecord {
    /// Natural logarithm of the e-value.
    pub log_e: f64,
    pub passed: u64,
    pub failed: u64,
    pub inconclusive: u64,
    /// Unix milliseconds; 0 = not quarantined.
    pub quarantined_ms: u64,
    /// Unix milliseconds at which the evidence became enough for its stake; 0 = never.
    pub convicted_ms: u64,
    /// What convicted it, for people.
    pub message: String,
}

impl Ledger {
    /// Of a node that was never audited: the default.
    pub async fn evidence(&self, address: &NodeAddress) -> Result<EvidenceRecord, LedgerError> {
        let row = sqlx::query("SELECT * FROM evidence WHERE address = ?")
            .bind(address.to_string())
            .fetch_optional(self.readers())
            .await?;
        row.as_ref().map_or_else(|| Ok(EvidenceRecord::default()), record)
    }

    /// Of all nodes that were ever audited.
    pub async fn all_evidence(&self) -> Result<Vec<(NodeAddress, EvidenceRecord)>, LedgerError> {
        let rows = sqlx::query("SELECT * FROM evidence ORDER BY address").fetch_all(self.readers()).await?;
        rows.iter().map(|row| Ok((row.parsed("address")?, record(row)?))).collect()
    }

    /// Content hashes of the receipts whose failed audits convicted a node, ascending: what failed before it was convicted, and nothing
    /// that failed later. What could not be decided is not among them.
    pub async fn conviction(&self, address: &NodeAddress) -> Result<Vec<[u8; 32]>, LedgerError> {
        let rows = sqlx::query("SELECT receipt FROM convictions WHERE address = ? ORDER BY receipt")
            .bind(address.to_string())
            .fetch_all(self.readers())
            .await?;
        rows.iter().map(|row| row.fixed("receipt")).collect()
    }
}

/// Keeps what convicts a node, once.
pub(super) async fn convict(write: &mut Write, address: &NodeAddress) -> Result<(), LedgerError> {
    sqlx::query("INSERT INTO convictions SELECT address, receipt FROM audits WHERE address = ? AND state = 'Failed'")
        .bind(address.to_string())
        .execute(write.on())
        .await?;
    Ok(())
}

pub(super) async fn read(write: &mut Write, address: &NodeAddress) -> Result<EvidenceRecord, LedgerError> {
    let row = sqlx::query("SELECT * FROM evidence WHERE address = ?")
        .bind(address.to_string())
        .fetch_optional(write.on())
        .await?;
    row.as_ref().map_or_else(|| Ok(EvidenceRecord::default()), record)
}

pub(super) async fn put(
    write: &mut Write,
    address: &NodeAddress,
    evidence: &EvidenceRecord,
) -> Result<(), LedgerError> {
    sqlx::query(
        "INSERT OR REPLACE INTO evidence
             (address, log_e, passed, failed, inconclusive, quarantined_ms, convicted_ms, message)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(address.to_string())
    .bind(evidence.log_e)
    .bind(int(evidence.passed))
    .bind(int(evidence.failed))
    .bind(int(evidence.inconclusive))
    .bind(int(evidence.quarantined_ms))
    .bind(int(evidence.convicted_ms))
    .bind(&evidence.message)
    .execute(write.on())
    .await?;
    Ok(())
}

fn record(row: &SqliteRow) -> Result<EvidenceRecord, LedgerError> {
    Ok(EvidenceRecord {
        log_e: row.try_get("log_e")?,
        passed: row.count("passed")?,
        failed: row.count("failed")?,
        inconclusive: row.count("inconclusive")?,
        quarantined_ms: row.count("quarantined_ms")?,
        convicted_ms: row.count("convicted_ms")?,
        message: row.text("message")?,
    })
}
