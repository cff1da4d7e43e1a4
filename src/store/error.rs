//! What can go wrong with the ledger.

/// Why the ledger did not do something.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Same key, other content: the caller contradicts what is kept.
    #[error("{message}")]
    Conflict { reason: &'static str, message: String },
    #[error("{what} {key} is not known")]
    Unknown { what: &'static str, key: String },
    /// The row is no longer in the state that the caller saw: somebody else was first.
    #[error("{what} has moved on")]
    Stale { what: &'static str },
    #[error("the ledger holds something unreadable in {column}: {message}")]
    Corrupt { column: &'static str, message: String },
    #[error("the ledger's database: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the ledger's migrations: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
}

impl LedgerError {
    /// Label for metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            LedgerError::Conflict { .. } => "conflict",
            LedgerError::Unknown { .. } => "unknown",
            LedgerError::Stale { .. } => "stale",
            LedgerError::Corrupt { .. } => "corrupt",
            LedgerError::Database(_) => "database",
            LedgerError::Migrate(_) => "migrate",
            LedgerError::File { .. } => "file",
        }
    }
}
