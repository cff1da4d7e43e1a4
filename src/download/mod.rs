//! Downloads of model files by URL: hashed while they stream, continued where a connection broke, and kept only if the digest
//! is the one that was promised. Touches the network and the two files that it is given; knows nothing of ledgers and jobs.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::{Client, Response, StatusCode, header};
use sha2::{Digest, Sha256};
use tokio::{fs::File, io::AsyncWriteExt};

use crate::api::ids::ModelDigest;

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

/// Why a blob was not kept.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{url} gives a file with sha256 {actual}, the model names {expected}; nothing was kept")]
    DigestMismatch { url: String, expected: ModelDigest, actual: ModelDigest },
    #[error("{url} gives a file of {bytes} bytes or more, at most {limit} are taken here ({option})")]
    TooLarge { url: String, bytes: u64, limit: u64, option: &'static str },
    #[error("cannot fetch {url}: {message}")]
    Unreachable { url: String, message: String },
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
            FetchError::Disk(_) => "BlobStoreFailed",
        }
    }
}

/// How one try ended, if not well.
enum Broken {
    /// Another try may help.
    Retry(String),
    Final(FetchError),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Broken::Final(error.into())
    }
}

/// Fetches `digest` from `url` into `target` and returns its size in bytes. What an earlier try left is continued.
pub async fn fetch(
    url: &str,
    digest: &ModelDigest,
    target: &Target,
    limits: &FetchLimits,
    progress: &Fetching,
) -> Result<u64, FetchError> {
    let outcome = fetch_partial(url, digest, &target.partial, limits, progress).await;
    match &outcome {
        Ok(_) => tokio::fs::rename(&target.partial, &target.whole).await?,
        // Bytes of a source that cannot be trusted or used are not worth keeping.
        Err(FetchError::DigestMismatch { .. } | FetchError::TooLarge { .. }) => remove(&target.partial).await?,
        Err(_) => {}
    }
    outcome
}

async fn fetch_partial(
    url: &str,
    digest: &ModelDigest,
    path: &Path,
    limits: &FetchLimits,
    progress: &Fetching,
) -> Result<u64, FetchError> {
    let unreachable = |message: String| FetchError::Unreachable { url: url.to_owned(), message };
    let client = Client::builder()
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(limits.idle)
        .redirect(reqwest::redirect::Policy::limited(5))
        .build()
        .map_err(|error| unreachable(describe(&error)))?;
    let mut partial = Partial::open(path).await?;
    let mut pause = limits.pause;
    for left in (0..limits.tries.max(1)).rev() {
        match partial.continue_from(&client, url, limits, progress).await {
            Ok(()) => return partial.finish(url, digest).await,
            Err(Broken::Final(error)) => return Err(error),
            Err(Broken::Retry(message)) if left == 0 => return Err(unreachable(message)),
            Err(Broken::Retry(message)) => {
                tracing::info!(%digest, bytes = partial.bytes, "fetching goes on after: {message}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(30));
            }
        }
    }
    Err(unreachable("no try was allowed".into()))
}

async fn remove(path: &Path) -> io::Result<()> {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A file on its way in: the file, and the hash over what is in it.
struct Partial {
    file: File,
    hasher: Sha256,
    bytes: u64,
}

impl Partial {
    /// Takes up what an earlier try left.
    async fn open(path: &Path) -> io::Result<Self> {
        let (hasher, bytes) = tokio::task::spawn_blocking({
            let path = path.to_owned();
            move || -> io::Result<(Sha256, u64)> {
                let mut hasher = Sha256::new();
                let mut file =
                    std::fs::File::options().create(true).truncate(false).write(true).read(true).open(path)?;
                let bytes = io::copy(&mut file, &mut hasher)?;
                Ok((hasher, bytes))
            }
        })
        .await
        .map_err(io::Error::other)??;
        let file = File::options().append(true).open(path).await?;
        Ok(Partial { file, hasher, bytes })
    }

    async fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0).await?;
        self.hasher = Sha256::new();
        self.bytes = 0;
        Ok(())
    }

    async fn continue_from(
        &mut self,
        client: &Client,
        url: &str,
        limits: &FetchLimits,
        progress: &Fetching,
    ) -> Result<(), Broken> {
        let mut request = client.get(url);
        if self.bytes > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", self.bytes));
        }
        let mut response = request.send().await.map_err(|error| Broken::Retry(describe(&error)))?;
        self.accept(&response, url).await?;
        let too_large =
            |bytes| FetchError::TooLarge { url: url.to_owned(), bytes, limit: limits.max_bytes, option: limits.option };
        let announced = self.bytes.saturating_add(response.content_length().unwrap_or(0));
        if announced > limits.max_bytes {
            return Err(Broken::Final(too_large(announced)));
        }
        while let Some(chunk) = response.chunk().await.map_err(|error| Broken::Retry(describe(&error)))? {
            let bytes = self.bytes + chunk.len() as u64;
            if bytes > limits.max_bytes {
                return Err(Broken::Final(too_large(bytes)));
            }
            self.file.write_all(&chunk).await?;
            self.hasher.update(&chunk);
            self.bytes = bytes;
            progress.set(bytes);
        }
        if response.content_length().is_some() && self.bytes < announced {
            return Err(Broken::Retry(format!("the source closed after {} of {announced} bytes", self.bytes)));
        }
        Ok(())
    }

    /// Reads the status line: goes on, starts over, tries again or gives up.
    async fn accept(&mut self, response: &Response, url: &str) -> Result<(), Broken> {
        let status = response.status();
        match status {
            StatusCode::PARTIAL_CONTENT if continues_at(response, self.bytes) => Ok(()),
            // No ranges here, or another one than asked for: from the start.
            StatusCode::OK => Ok(self.restart().await?),
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                self.restart().await?;
                Err(Broken::Retry("the source does not continue where the last try stopped".into()))
            }
            _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(Broken::Retry(format!("the source answers {status}")))
            }
            _ => {
                let message = format!("the source answers {status}");
                Err(Broken::Final(FetchError::Unreachable { url: url.to_owned(), message }))
            }
        }
    }

    async fn finish(mut self, url: &str, digest: &ModelDigest) -> Result<u64, FetchError> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        let actual = ModelDigest(self.hasher.finalize().into());
        if actual != *digest {
            return Err(FetchError::DigestMismatch { url: url.to_owned(), expected: *digest, actual });
        }
        Ok(self.bytes)
    }
}

fn continues_at(response: &Response, bytes: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|range| range.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {bytes}-")))
}

/// An error with its causes: reqwest's own text names only the outermost.
fn describe(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
