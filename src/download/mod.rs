//! Downloads of model files: hashed while they stream, continued where a connection broke, and kept only if the digest is the one that
//! was promised. Touches the network and the two files that it is given; knows nothing of ledgers and jobs.

mod error;
mod partial;
mod registry;
mod stream;
mod web;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use error::FetchError;
pub use partial::Partial;
pub use registry::Login;
pub use stream::{StreamError, receive};

use registry::Door;

use crate::{
    api::ids::ModelDigest,
    protocol::place::{ParsePlaceError, Repository, shown},
};

/// Bytes fetched so far of a file on its way in.
#[derive(Debug, Clone, Default)]
pub struct Fetching(Arc<AtomicU64>);

impl Fetching {
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

/// Where a file goes: `partial` while it comes, `whole` once it is verified. Both on one file system.
#[derive(Debug, Clone)]
pub struct Target {
    pub whole: PathBuf,
    pub partial: PathBuf,
}

/// Bounds of one fetch.
#[derive(Debug, Clone, Copy)]
pub struct FetchLimits {
    pub max_bytes: u64,
    /// The option that sets `max_bytes`, for people.
    pub option: &'static str,
    /// A source that sends nothing for this long is given up for this try.
    pub idle: Duration,
    /// Connections made in all.
    pub tries: u32,
    /// Pause before the second try; doubles, up to half a minute.
    pub pause: Duration,
}

impl Default for FetchLimits {
    fn default() -> Self {
        FetchLimits {
            max_bytes: 64 << 30,
            option: "--max-blob-bytes",
            idle: Duration::from_secs(30),
            tries: 8,
            pause: Duration::from_secs(1),
        }
    }
}

impl FetchLimits {
    /// The pause after one of this length.
    pub fn next_pause(pause: Duration) -> Duration {
        (pause * 2).min(Duration::from_secs(30))
    }
}

/// Where a file is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// An http or https URL.
    Web(String),
    /// The blob of a repository that has the file's digest.
    Registry(Repository, Option<Login>),
    /// A file of this machine; `shown` is what people call it.
    File { path: PathBuf, shown: String },
}

impl Origin {
    /// What a person can name on a command line.
    pub fn parse(text: &str) -> Result<Self, ParsePlaceError> {
        use crate::protocol::place::ModelPlace;
        match text.parse()? {
            ModelPlace::Web(url) => Ok(Origin::Web(url)),
            ModelPlace::Registry(repository) => Ok(Origin::Registry(repository, None)),
            // Volumes and members are the gateway's.
            ModelPlace::Volume { .. } | ModelPlace::Grid => {
                Err(ParsePlaceError::of(format!("{text:?} begins with none of https://, http://, oci://, oci+http://")))
            }
        }
    }

    /// For messages: without what may be a credential.
    fn shown(&self) -> String {
        match self {
            Origin::Web(url) => shown(url),
            Origin::Registry(repository, _) => repository.to_string(),
            Origin::File { shown, .. } => shown.clone(),
        }
    }
}

/// Fetches `digest` from `origin` into `target` and returns its size in bytes. What an earlier try left is continued.
pub async fn fetch(
    origin: &Origin,
    digest: &ModelDigest,
    target: &Target,
    limits: &FetchLimits,
    progress: &Fetching,
) -> Result<u64, FetchError> {
    let from = origin.shown();
    let mut partial = Partial::open(target, limits, progress).await?;
    let arrived = match origin {
        Origin::File { path, .. } => partial.copy(path, &from).await,
        Origin::Web(url) => web::fetch(url.clone(), None, &from, digest, &mut partial).await,
        Origin::Registry(repository, login) => {
            let door = Door { repository, login: login.as_ref() };
            web::fetch(door.blob_url(digest), Some(door), &from, digest, &mut partial).await
        }
    };
    match arrived {
        Ok(()) => partial.keep(&from, digest).await,
        // Bytes of a source that cannot be used are not worth keeping.
        Err(error @ FetchError::TooLarge { .. }) => {
            partial.discard().await?;
            Err(error)
        }
        Err(error) => {
            partial.flush().await?;
            Err(error)
        }
    }
}
