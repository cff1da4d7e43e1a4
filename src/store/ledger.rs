//! Opening the ledger, and the two ways to use it: short write transactions, one at a time, and any number of readers.

use std::{
    collections::{BTreeSet, VecDeque},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sqlx::{
    Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::watch;

use super::{
    LedgerError,
    columns::{Columns, json},
    queue::QueueChange,
    whole::Waiting,
};
use crate::protocol::internal::{ChangeKind, NetworkConfig};

/// How long a statement waits for a lock that another process holds (`fsck` beside a running gateway).
const BUSY: Duration = Duration::from_secs(10);
const READERS: u32 = 4;

/// Handle on the ledger. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// One connection: SQLite has one writer, and a queue in front of it is better than `SQLITE_BUSY` behind it.
    writer: SqlitePool,
    readers: SqlitePool,
    revision: watch::Sender<u64>,
    /// Small jobs that wait to be kept, as many as there are calls that brought one.
    whole: Mutex<VecDeque<Waiting>>,
    whole_turn: tokio::sync::Mutex<()>,
    /// What entered or left the queue since the dispatcher asked; each thing once, so that it is bounded by the ledger.
    queue: Mutex<BTreeSet<QueueChange>>,
}

impl Ledger {
    /// Opens or creates the ledger and brings its schema up to date.
    pub async fn open(path: &Path) -> Result<Self, LedgerError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // What was acknowledged to a worker survives a power cut.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(options.clone()).await?;
        sqlx::migrate!("./src/store/migrations").run(&writer).await?;
        let readers = SqlitePoolOptions::new().max_connections(READERS).connect_with(options).await?;
        let newest =
            sqlx::query("SELECT COALESCE(MAX(revision), 0) AS revision FROM changes").fetch_one(&writer).await?;
        let revision = watch::Sender::new(newest.count("revision")?);
        let inner = Inner {
            writer,
            readers,
            revision,
            whole: Mutex::default(),
            whole_turn: tokio::sync::Mutex::default(),
            queue: Mutex::default(),
        };
        Ok(Ledger { inner: Arc::new(inner) })
    }

    /// The newest revision; wakes whoever waits for changes.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.inner.revision.subscribe()
    }

    /// Ends all connections. Without it the next `open` finds a journal to recover, which is as safe and a little slower.
    pub async fn close(&self) {
        self.inner.readers.close().await;
        self.inner.writer.close().await;
    }

    /// What the gateway was told about its network.
    pub async fn network(&self) -> Result<Option<NetworkConfig>, LedgerError> {
        let row = sqlx::query("SELECT config FROM network").fetch_optional(self.readers()).await?;
        row.map(|row| row.json("config")).transpose()
    }

    /// Keeps the network's configuration. Another network than the one kept is a conflict: this ledger's receipts and epochs
    /// belong to that one.
    pub async fn put_network(&self, config: &NetworkConfig) -> Result<(), LedgerError> {
        let mut write = self.begin().await?;
        let kept = sqlx::query("SELECT config FROM network").fetch_optional(write.on()).await?;
        let kept: Option<NetworkConfig> = kept.map(|row| row.json("config")).transpose()?;
        if let Some(kept) = kept.filter(|kept| identity(kept) != identity(config)) {
            return Err(LedgerError::Conflict {
                reason: "NetworkConflict",
                message: format!(
                    "this gateway belongs to network {} (chain {}, contract {}, genesis {}, epochs of {} s): another network \
                     needs a gateway with a data directory of its own",
                    kept.name, kept.network.chain_id, kept.network.contract, kept.genesis, kept.epoch_seconds
                ),
            });
        }
        sqlx::query(
            "INSERT INTO network (id, config) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET config = excluded.config",
        )
        .bind(json("network.config", config)?)
        .execute(write.on())
        .await?;
        write.commit().await
    }

    /// What changed in the queue since the last call.
    pub fn take_queue_changes(&self) -> BTreeSet<QueueChange> {
        std::mem::take(&mut *self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has the dispatcher look at something again.
    pub fn look_again(&self, changes: impl IntoIterator<Item = QueueChange>) {
        self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner).extend(changes);
    }

    /// Small jobs that wait to be kept.
    pub(super) fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.inner.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn to keep those that wait.
    pub(super) async fn whole_turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.inner.whole_turn.lock().await
    }

    pub(super) fn readers(&self) -> &SqlitePool {
        &self.inner.readers
    }

    /// Starts a write transaction. Dropping it rolls back.
    pub(super) async fn begin(&self) -> Result<Write, LedgerError> {
        let transaction = self.inner.writer.begin_with("BEGIN IMMEDIATE").await?;
        Ok(Write { transaction, inner: self.inner.clone(), revision: 0, queue: Vec::new() })
    }
}

/// What makes two configurations the same network: signatures and epoch numbers depend on these.
fn identity(config: &NetworkConfig) -> (&crate::protocol::names::NetworkId, u64, u64) {
    (&config.network, config.genesis, config.epoch_seconds)
}

/// One write transaction, and the changes that it announces once it is durable.
pub(super) struct Write {
    transaction: Transaction<'static, Sqlite>,
    inner: Arc<Inner>,
    revision: u64,
    queue: Vec<QueueChange>,
}

impl Write {
    /// The connection to run statements on.
    pub(super) fn on(&mut self) -> &mut sqlx::SqliteConnection {
        &mut self.transaction
    }

    /// Announces that an object changed.
    pub(super) async fn changed(&mut self, kind: ChangeKind, key: &str) -> Result<(), LedgerError> {
        let row = sqlx::query("INSERT OR REPLACE INTO changes (kind, key) VALUES (?, ?) RETURNING revision")
            .bind(super::changes::kind_name(kind))
            .bind(key)
            .fetch_one(self.on())
            .await?;
        self.revision = self.revision.max(row.count("revision")?);
        Ok(())
    }

    /// Announces to the dispatcher that something may have entered or left the queue.
    pub(super) fn queue_changed(&mut self, change: QueueChange) {
        self.queue.push(change);
    }

    pub(super) async fn commit(self) -> Result<(), LedgerError> {
        self.transaction.commit().await?;
        self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner).extend(self.queue);
        let revision = self.revision;
        self.inner.revision.send_if_modified(|newest| {
            let grows = revision > *newest;
            *newest = revision.max(*newest);
            grows
        });
        Ok(())
    }
}
