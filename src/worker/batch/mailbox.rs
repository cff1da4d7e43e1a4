//! Where a shard lies and its results are put, so that the work does not know whether that is Kubernetes or a folder.

use futures::future::BoxFuture;

use super::{BatchOptions, carried::Carried, config_map::ConfigMaps, folder::Folder};
use crate::protocol::shard::Part;

/// What lies there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub input: String,
    pub results: String,
    /// Absent before the first results.
    pub part: Option<Part>,
}

/// Why a shard could not be read or its results not be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum MailboxError {
    #[error("{0} is not there")]
    Missing(String),
    #[error("{what} cannot be read: {message}")]
    Unreadable { what: String, message: String },
    #[error("the API server refuses: {0}")]
    Refused(String),
    /// Something else is there already.
    #[error("the API server refuses: {0}")]
    Conflict(String),
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    #[error("{path}: {source}")]
    Disk { path: String, source: std::io::Error },
}

impl MailboxError {
    /// Stable CamelCase code.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            MailboxError::Missing(_) | MailboxError::Unreadable { .. } => "ShardUnreadable",
            MailboxError::Refused(_) | MailboxError::Conflict(_) => "ApiServerRefused",
            MailboxError::Unreachable(_) => "ApiServerUnreachable",
            MailboxError::Disk { .. } => "StorageFailed",
        }
    }

    /// The shard itself is at fault: no further try can help.
    pub(super) fn is_about_the_input(&self) -> bool {
        matches!(self, MailboxError::Missing(_) | MailboxError::Unreadable { .. })
    }
}

/// One shard.
pub(super) trait Mailbox: Send + Sync {
    fn read(&self) -> BoxFuture<'_, Result<Found, MailboxError>>;
    /// Replaces the results. Again with the same: nothing changes.
    fn write<'a>(&'a self, part: &'a Part, results: &'a str) -> BoxFuture<'a, Result<(), MailboxError>>;
    /// Whether interim copies are of any use to the next try.
    fn keeps_copies(&self) -> bool {
        true
    }
}

pub(super) fn open(options: &BatchOptions) -> Result<Box<dyn Mailbox>, MailboxError> {
    match (&options.answers, &options.shard_config_maps, &options.shard_dir) {
        (Some(answers), _, _) => Ok(Box::new(Carried::open(options, answers)?)),
        (None, Some(prefix), _) => Ok(Box::new(ConfigMaps::open(options, prefix)?)),
        (None, None, Some(folder)) => Ok(Box::new(Folder::new(folder, options.index))),
        (None, None, None) => Err(MailboxError::Missing("--answers, --shard-config-maps or --shard-dir".into())),
    }
}
