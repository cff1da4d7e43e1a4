//! Why a file was not kept, in words that are fit for a condition.

use std::io;

use crate::api::ids::ModelDigest;

/// `from` is the source as people may see it.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{from} gives a file with sha256 {actual}, the model names {expected}; nothing was kept")]
    DigestMismatch { from: String, expected: ModelDigest, actual: ModelDigest },
    #[error("{from} gives a file of {bytes} bytes or more, at most {limit} are taken here ({option})")]
    TooLarge { from: String, bytes: u64, limit: u64, option: &'static str },
    #[error("cannot fetch {from}: {message}")]
    Unreachable { from: String, message: String },
    /// Nobody may read it, or these credentials may not.
    #[error("cannot fetch {from}: {message}")]
    Forbidden { from: String, message: String },
    /// The volume is not mounted, or has no such file.
    #[error("cannot read {from}: {message}")]
    Volume { from: String, message: String },
    /// Of those that were asked.
    #[error("no connected node has the file: {0}")]
    NoHolder(String),
    /// It is what its sha256 promises, and not what its format does.
    #[error("{0}")]
    Format(String),
    #[error("cannot keep the file: {0}")]
    Disk(#[from] io::Error),
}

impl FetchError {
    /// Stable CamelCase code.
    pub fn reason(&self) -> &'static str {
        match self {
            FetchError::DigestMismatch { .. } => "ModelDigestMismatch",
            FetchError::TooLarge { .. } => "ModelTooLarge",
            FetchError::Unreachable { .. } => "ModelUnreachable",
            FetchError::Forbidden { .. } => "ModelForbidden",
            FetchError::Volume { .. } => "ModelVolumeMissing",
            FetchError::NoHolder(_) => "ModelNotHeld",
            FetchError::Format(_) => "ModelFormatMismatch",
            FetchError::Disk(_) => "BlobStoreFailed",
        }
    }
}
