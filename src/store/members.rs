//! Who may take part. A removed member keeps its row, since receipts name it.

use sqlx::sqlite::SqliteRow;

use super::{
    Ledger, LedgerError,
    columns::{Columns, corrupt, json},
};
use crate::{
    api::ids::{GridPeerId, NodeAddress},
    protocol::internal::{ChangeKind, Member},
};

/// A member, and the chain address that its peer id implies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberRecord {
    pub member: Member,
    pub address: NodeAddress,
}

impl Ledger {
    /// Adds or changes a member; `false` when nothing changed.
    pub async fn put_member(&self, member: &Member) -> Result<bool, LedgerError> {
        let address = address_of(&member.peer_id)?;
        let mut write = self.begin().await?;
        let outcome = sqlx::query(
            "INSERT INTO members (peer_id, address, node_name, member) VALUES (?, ?, ?, ?)
             ON CONFLICT (peer_id) DO UPDATE SET node_name = excluded.node_name, member = excluded.member, removed = 0
             WHERE member <> excluded.member OR removed <> 0",
        )
        .bind(member.peer_id.as_str())
        .bind(address.to_string())
        .bind(&member.node_name)
        .bind(json("members.member", member)?)
        .execute(write.on())
        .await?;
        if outcome.rows_affected() == 0 {
            return Ok(false);
        }
        write.changed(ChangeKind::Node, member.peer_id.as_str()).await?;
        write.commit().await?;
        Ok(true)
    }

    /// `false` when it was none.
    pub async fn remove_member(&self, peer: &GridPeerId) -> Result<bool, LedgerError> {
        let mut write = self.begin().await?;
        let outcome = sqlx::query("UPDATE members SET removed = 1 WHERE peer_id = ? AND removed = 0")
            .bind(peer.as_str())
            .execute(write.on())
            .await?;
        if outcome.rows_affected() == 0 {
            return Ok(false);
        }
        write.changed(ChangeKind::Node, peer.as_str()).await?;
        write.commit().await?;
        Ok(true)
    }

    /// All members that were not removed.
    pub async fn members(&self) -> Result<Vec<MemberRecord>, LedgerError> {
        sqlx::query("SELECT member, address FROM members WHERE removed = 0 ORDER BY peer_id")
            .fetch_all(self.readers())
            .await?
            .iter()
            .map(record)
            .collect()
    }

    /// All members that ever were: what receipts and epochs name.
    pub async fn members_ever(&self) -> Result<Vec<MemberRecord>, LedgerError> {
        let rows =
            sqlx::query("SELECT member, address FROM members ORDER BY peer_id").fetch_all(self.readers()).await?;
        rows.iter().map(record).collect()
    }
}

fn record(row: &SqliteRow) -> Result<MemberRecord, LedgerError> {
    Ok(MemberRecord { member: row.json("member")?, address: row.parsed("address")? })
}

/// The address of a peer; a peer id whose key is no curve point is a conflict that the caller can act on.
fn address_of(peer: &GridPeerId) -> Result<NodeAddress, LedgerError> {
    peer.address().map_err(|error| corrupt("members.peer_id", error))
}
