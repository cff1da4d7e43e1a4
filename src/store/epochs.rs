//! Epochs: the secret that selects audits, what is payable, and the totals, written once.

use sqlx::{Row, sqlite::SqliteRow};

use super::{
    AuditState, Ledger, LedgerError, UNDECIDABLE,
    columns::{Columns, int},
    payments,
};
use crate::{
    api::ids::{EscrowId, NodeAddress},
    protocol::internal::{ChangeKind, Contribution, SettledPayment},
    reward::units::{ComputeUnits, DECODE_WEIGHT},
};

/// An accepted receipt that no epoch has counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayableReceipt {
    pub hash: [u8; 32],
    pub address: NodeAddress,
    /// In which it was accepted.
    pub epoch: u64,
    pub prompt_tokens: u32,
    pub output_tokens: u32,
    /// Of the output tokens, those that an earlier worker made.
    pub prefix_tokens: u32,
    pub cost_per_token: u64,
    /// Of its audit; absent when none was owed.
    pub audit: Option<AuditState>,
    /// Its audit could not be decided because of what its node says about itself.
    pub undecidable: bool,
    pub payer: Payer,
}

/// Who pays for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payer {
    /// No user: the network's admin admitted it. Also what is left of a paid job that an epoch has counted before, and that of one
    /// whose escrow gave nothing.
    Nobody,
    /// A user, and the chain has not said yet how much.
    Unsettled,
    /// A user, whose job no epoch has counted yet.
    Settled { escrow: EscrowId, settled: SettledPayment },
}

/// A receipt that an epoch counts, for its published statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettledReceipt {
    pub hash: [u8; 32],
    /// `wire::Receipt`, with the worker's signature.
    pub encoded: Vec<u8>,
    /// In which it was accepted.
    pub epoch: u64,
    pub countersignature: Vec<u8>,
    pub prefix_tokens: u32,
    pub cost_per_token: u64,
    /// Of the paid job that it is counted for.
    pub escrow: Option<EscrowId>,
}

/// A closed epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEpoch {
    pub epoch: u64,
    /// JSON of `EpochTotals`, exactly as it was first answered.
    pub totals: Vec<u8>,
    /// BLAKE3 of `totals`.
    pub hash: [u8; 32],
}

impl Ledger {
    /// The secret that selects this epoch's audits; `fresh` becomes it when there is none.
    pub async fn epoch_secret(&self, epoch: u64, fresh: [u8; 32]) -> Result<[u8; 32], LedgerError> {
        let read = "SELECT secret FROM epoch_secrets WHERE epoch = ?";
        if let Some(row) = sqlx::query(read).bind(int(epoch)).fetch_optional(self.readers()).await? {
            return row.fixed("secret");
        }
        let mut write = self.begin().await?;
        sqlx::query("INSERT OR IGNORE INTO epoch_secrets (epoch, secret) VALUES (?, ?)")
            .bind(int(epoch))
            .bind(fresh.as_slice())
            .execute(write.on())
            .await?;
        let secret = sqlx::query(read).bind(int(epoch)).fetch_one(write.on()).await?.fixed("secret")?;
        write.commit().await?;
        Ok(secret)
    }

    /// Receipts up to and with `epoch` that are payable, not rejected and not counted yet, sorted by hash.
    pub async fn payable_receipts(&self, epoch: u64) -> Result<Vec<PayableReceipt>, LedgerError> {
        let rows = sqlx::query(
            "SELECT c.*, a.state AS audit, a.reason AS audit_reason,
                    p.escrow AS escrow, p.settled AS settled, p.epoch AS paid_epoch
             FROM receipts c LEFT JOIN audits a ON a.receipt = c.hash
             LEFT JOIN requests r ON r.id = c.request LEFT JOIN payments p ON p.job = r.job
             WHERE c.epoch <= ? AND c.standing = 'Accepted' AND c.payable = 1
             AND NOT EXISTS (SELECT 1 FROM rejections x WHERE x.receipt = c.hash)
             AND NOT EXISTS (SELECT 1 FROM settlements s WHERE s.receipt = c.hash)
             ORDER BY c.hash",
        )
        .bind(int(epoch))
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(payable).collect()
    }

    /// At most `limit` of the receipts that an epoch counts, by ascending hash, from the one after `after` on.
    pub async fn settled_receipts(
        &self,
        epoch: u64,
        after: Option<[u8; 32]>,
        limit: u32,
    ) -> Result<Vec<SettledReceipt>, LedgerError> {
        let after = after.as_ref().map_or(&[][..], |hash| hash.as_slice());
        let rows = sqlx::query(
            "SELECT c.*, p.escrow AS escrow FROM settlements s JOIN receipts c ON c.hash = s.receipt
             LEFT JOIN requests r ON r.id = c.request LEFT JOIN payments p ON p.job = r.job AND p.epoch = s.epoch
             WHERE s.epoch = ? AND s.receipt > ? ORDER BY s.receipt LIMIT ?",
        )
        .bind(int(epoch))
        .bind(after)
        .bind(limit)
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(settled).collect()
    }

    pub async fn closed_epoch(&self, epoch: u64) -> Result<Option<StoredEpoch>, LedgerError> {
        let row =
            sqlx::query("SELECT * FROM epochs WHERE epoch = ?").bind(int(epoch)).fetch_optional(self.readers()).await?;
        row.as_ref().map(stored).transpose()
    }

    /// BLAKE3 of the totals of a closed epoch.
    pub async fn epoch_digest(&self, epoch: u64) -> Result<Option<[u8; 32]>, LedgerError> {
        let read = "SELECT hash FROM epochs WHERE epoch = ?";
        let row = sqlx::query(read).bind(int(epoch)).fetch_optional(self.readers()).await?;
        row.map(|row| row.fixed("hash")).transpose()
    }

    /// Keeps an epoch's totals, which receipts they count and for which escrows. An epoch that is closed already keeps what it
    /// has, and that is returned: totals are immutable.
    pub async fn close_epoch(
        &self,
        epoch: u64,
        totals: &[u8],
        counted: &[[u8; 32]],
        paid: &[EscrowId],
        now_ms: u64,
    ) -> Result<StoredEpoch, LedgerError> {
        let mut write = self.begin().await?;
        let before =
            sqlx::query("SELECT * FROM epochs WHERE epoch = ?").bind(int(epoch)).fetch_optional(write.on()).await?;
        if let Some(before) = before {
            return stored(&before);
        }
        let hash = *blake3::hash(totals).as_bytes();
        sqlx::query("INSERT INTO epochs (epoch, totals, hash, closed_ms) VALUES (?, ?, ?, ?)")
            .bind(int(epoch))
            .bind(totals)
            .bind(hash.as_slice())
            .bind(int(now_ms))
            .execute(write.on())
            .await?;
        for receipt in counted {
            sqlx::query("INSERT INTO settlements (receipt, epoch) VALUES (?, ?)")
                .bind(receipt.as_slice())
                .bind(int(epoch))
                .execute(write.on())
                .await?;
        }
        for escrow in paid {
            sqlx::query("UPDATE payments SET epoch = ? WHERE escrow = ? AND epoch IS NULL")
                .bind(int(epoch))
                .bind(escrow.to_string())
                .execute(write.on())
                .await?;
        }
        write.changed(ChangeKind::Epoch, &epoch.to_string()).await?;
        write.commit().await?;
        Ok(StoredEpoch { epoch, totals: totals.to_vec(), hash })
    }

    /// What a node did in an epoch by now: accepted and not rejected, paid or not.
    pub async fn contribution(&self, address: &NodeAddress, epoch: u64) -> Result<Contribution, LedgerError> {
        let rows = sqlx::query(
            "SELECT cost_per_token, COUNT(*) AS n, SUM(prompt_tokens) AS prompt, SUM(output_tokens) AS output,
                    SUM(prefix_tokens) AS prefix
             FROM receipts c WHERE address = ? AND epoch = ? AND standing = 'Accepted'
             AND NOT EXISTS (SELECT 1 FROM rejections x WHERE x.receipt = c.hash) GROUP BY cost_per_token",
        )
        .bind(address.to_string())
        .bind(int(epoch))
        .fetch_all(self.readers())
        .await?;
        let mut contribution = Contribution { epoch, ..Contribution::default() };
        let mut units = 0u128;
        for row in &rows {
            let (prompt, output) = (row.count("prompt")?, row.count("output")?);
            contribution.requests += row.count("n")?;
            contribution.prompt_tokens += prompt;
            contribution.output_tokens += output;
            // Linear in tokens, hence the same as adding up `ComputeUnits::of_response`.
            let prefix = row.count("prefix")?;
            let tokens = DECODE_WEIGHT * u128::from(output.saturating_sub(prefix)) + u128::from(prompt + prefix);
            units = units.saturating_add(u128::from(row.count("cost_per_token")?).saturating_mul(tokens));
        }
        contribution.units = ComputeUnits(units).to_string();
        Ok(contribution)
    }
}

fn payable(row: &SqliteRow) -> Result<PayableReceipt, LedgerError> {
    let audit: Option<String> = row.try_get("audit")?;
    let reason: Option<String> = row.try_get("audit_reason")?;
    Ok(PayableReceipt {
        hash: row.fixed("hash")?,
        address: row.parsed("address")?,
        epoch: row.count("epoch")?,
        prompt_tokens: row.count32("prompt_tokens")?,
        output_tokens: row.count32("output_tokens")?,
        prefix_tokens: row.count32("prefix_tokens")?,
        cost_per_token: row.count("cost_per_token")?,
        audit: audit.map(|state| AuditState::of(&state)).transpose()?,
        undecidable: reason.as_deref() == Some(UNDECIDABLE),
        payer: payer(row)?,
    })
}

fn payer(row: &SqliteRow) -> Result<Payer, LedgerError> {
    let Some(escrow) = row.parsed_or_none("escrow")? else { return Ok(Payer::Nobody) };
    let counted: Option<i64> = row.try_get("paid_epoch")?;
    Ok(match (counted, payments::settled(row, "settled")?) {
        (Some(_), _) => Payer::Nobody,
        (None, None) => Payer::Unsettled,
        (None, Some(settled)) if settled.spent.0 == 0 => Payer::Nobody,
        (None, Some(settled)) => Payer::Settled { escrow, settled },
    })
}

fn settled(row: &SqliteRow) -> Result<SettledReceipt, LedgerError> {
    Ok(SettledReceipt {
        hash: row.fixed("hash")?,
        encoded: row.bytes("encoded")?,
        epoch: row.count("epoch")?,
        countersignature: row.bytes("countersignature")?,
        prefix_tokens: row.count32("prefix_tokens")?,
        cost_per_token: row.count("cost_per_token")?,
        escrow: row.parsed_or_none("escrow")?,
    })
}

fn stored(row: &SqliteRow) -> Result<StoredEpoch, LedgerError> {
    Ok(StoredEpoch { epoch: row.count("epoch")?, totals: row.bytes("totals")?, hash: row.fixed("hash")? })
}
