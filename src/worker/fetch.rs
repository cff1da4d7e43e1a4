//! Model blobs over the grid: resumed where they broke off, checked against their sha256, renamed into place only when whole.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use tokio::{
    fs::{self, File, OpenOptions},
    io::{AsyncReadExt, AsyncWriteExt},
};
use tracing::info;

use super::assignment::Wanted;
use crate::{
    api::ids::{GridPeerId, ModelDigest},
    grid::{BlobClient, FrameError, GridHandle, OpenError},
    protocol::wire::{BlobEvent, BlobRequest, Refused, blob_event},
};

/// How long a gateway may take for the next chunk.
const CHUNK_WAIT: Duration = Duration::from_secs(20);

/// Why a blob is not here.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("the file's sha256 is {actual}, not {expected}: it was deleted")]
    Digest { expected: ModelDigest, actual: ModelDigest },
    #[error("the file has {actual} bytes where {expected} were announced")]
    Size { expected: u64, actual: u64 },
    #[error("the file has {bytes} bytes, this worker takes at most {limit} (--max-model-size)")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("the gateway does not give it: {} ({})", .0.message, .0.reason)]
    Refused(Refused),
    #[error("no gateway is connected")]
    NoGateway,
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("the transfer broke: {0}")]
    Frame(#[from] FrameError),
    #[error("the gateway ended the transfer after {0} bytes")]
    Ended(u64),
    #[error("the gateway sent something out of order")]
    Protocol,
    #[error("cannot keep the file in {path}: {source}")]
    Disk { path: String, source: std::io::Error },
}

impl FetchError {
    /// Stable CamelCase code.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            FetchError::Digest { .. } => "ModelDigestMismatch",
            FetchError::Size { .. } => "ModelSizeMismatch",
            FetchError::TooLarge { .. } => "ModelTooLarge",
            FetchError::Disk { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => "StorageFull",
            FetchError::Disk { .. } => "StorageFailed",
            FetchError::Refused(_) => "ModelNotAvailable",
            FetchError::NoGateway | FetchError::Open(_) | FetchError::Frame(_) | FetchError::Ended(_) => {
                "GatewayUnreachable"
            }
            FetchError::Protocol => "GatewayProtocol",
        }
    }

    /// Trying again soon may help without anybody doing something.
    pub(super) fn is_transient(&self) -> bool {
        !matches!(self, FetchError::Digest { .. } | FetchError::Size { .. } | FetchError::TooLarge { .. })
    }
}

/// Where blobs come from.
pub(super) trait BlobSource: Send + Sync + 'static {
    /// A stream to a gateway that is connected now.
    fn open(&self) -> BoxFuture<'_, Result<BlobClient, FetchError>>;
}

/// The gateways that this worker is connected to.
#[derive(Debug, Clone)]
pub(super) struct Gateways {
    pub handle: GridHandle,
}

impl BlobSource for Gateways {
    fn open(&self) -> BoxFuture<'_, Result<BlobClient, FetchError>> {
        Box::pin(async move {
            let peers: Vec<GridPeerId> = self.handle.peers().await;
            let turn = usize::from(rand::random::<u16>());
            let Some(gateway) = peers.get(turn.checked_rem(peers.len()).unwrap_or_default()) else {
                return Err(FetchError::NoGateway);
            };
            Ok(self.handle.open_blob(gateway).await?)
        })
    }
}

/// The folder of model files.
#[derive(Debug, Clone)]
pub(super) struct BlobFolder {
    folder: PathBuf,
    max_bytes: u64,
}

impl BlobFolder {
    pub(super) fn create(data: &Path, max_bytes: u64) -> std::io::Result<Self> {
        let folder = data.join("models");
        std::fs::create_dir_all(&folder)?;
        Ok(BlobFolder { folder, max_bytes })
    }

    /// Where a whole, checked blob lies, whatever its format: the name is from when all were GGUF, and keeping it saves
    /// everybody a second download.
    pub(super) fn path(&self, digest: &ModelDigest) -> PathBuf {
        self.folder.join(format!("{digest}.gguf"))
    }

    fn partial(&self, digest: &ModelDigest) -> PathBuf {
        self.folder.join(format!("{digest}.part"))
    }

    /// Forgets a blob.
    pub(super) async fn remove(&self, digest: &ModelDigest) {
        for path in [self.path(digest), self.partial(digest)] {
            // It may not be there; whatever else is wrong shows when the space is needed.
            let _ = fs::remove_file(path).await;
        }
    }

    /// Bytes of whole blobs.
    pub(super) fn held_bytes(&self) -> u64 {
        let files = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let whole = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "gguf"));
        whole.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    /// The file of a model: found on disk and checked again, or fetched. `progress` is told the bytes so far.
    pub(super) async fn obtain(
        &self,
        wanted: &Wanted,
        source: &dyn BlobSource,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<PathBuf, FetchError> {
        if !self.holds(&wanted.digest).await? {
            self.fetch(wanted, source, progress).await?;
        }
        Ok(self.path(&wanted.digest))
    }

    /// Whether a blob is on disk, whole and with the right digest. A rotten one is removed.
    pub(super) async fn holds(&self, digest: &ModelDigest) -> Result<bool, FetchError> {
        let path = self.path(digest);
        let Some((hash, _)) = hash_file(&path).await.map_err(disk(&path))? else { return Ok(false) };
        let intact = ModelDigest(hash.finalize().into()) == *digest;
        if !intact {
            // As good as absent.
            fs::remove_file(&path).await.map_err(disk(&path))?;
        }
        Ok(intact)
    }

    async fn fetch(
        &self,
        wanted: &Wanted,
        source: &dyn BlobSource,
        progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), FetchError> {
        let partial = self.partial(&wanted.digest);
        let (mut hash, mut offset) =
            hash_file(&partial).await.map_err(disk(&partial))?.unwrap_or_else(|| (Sha256::new(), 0));
        let mut stream = source.open().await?;
        stream.receiver.set_idle(CHUNK_WAIT);
        stream.send(&BlobRequest { digest: wanted.digest.0.to_vec(), offset }).await?;
        let total = match next(&mut stream).await? {
            Some(blob_event::Kind::Total(total)) => self.check_total(wanted, total, offset).await?,
            Some(_) => return Err(FetchError::Protocol),
            None => return Err(FetchError::Ended(offset)),
        };
        info!(model = %wanted.digest, name = wanted.name, bytes = total, from = offset, "fetching a model");
        let file = OpenOptions::new().create(true).append(true).open(&partial).await;
        let mut file = file.map_err(disk(&partial))?;
        while offset < total {
            let Some(kind) = next(&mut stream).await? else {
                file.sync_data().await.map_err(disk(&partial))?;
                return Err(FetchError::Ended(offset));
            };
            let blob_event::Kind::Chunk(chunk) = kind else { return Err(FetchError::Protocol) };
            offset += chunk.len() as u64;
            if chunk.is_empty() || offset > total {
                return Err(FetchError::Protocol);
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(disk(&partial))?;
            progress(offset);
        }
        file.sync_all().await.map_err(disk(&partial))?;
        let actual = ModelDigest(hash.finalize().into());
        if actual != wanted.digest {
            fs::remove_file(&partial).await.map_err(disk(&partial))?;
            return Err(FetchError::Digest { expected: wanted.digest, actual });
        }
        fs::rename(&partial, self.path(&wanted.digest)).await.map_err(disk(&partial))
    }

    async fn check_total(&self, wanted: &Wanted, total: u64, have: u64) -> Result<u64, FetchError> {
        if wanted.bytes > 0 && total != wanted.bytes {
            return Err(FetchError::Size { expected: wanted.bytes, actual: total });
        }
        if total > self.max_bytes {
            return Err(FetchError::TooLarge { bytes: total, limit: self.max_bytes });
        }
        if have > total {
            // Left from something else: start over next time.
            self.remove(&wanted.digest).await;
            return Err(FetchError::Ended(have));
        }
        Ok(total)
    }
}

/// The next event; `None` when the gateway closed the stream.
async fn next(stream: &mut BlobClient) -> Result<Option<blob_event::Kind>, FetchError> {
    match stream.next().await? {
        Some(BlobEvent { kind: Some(blob_event::Kind::Refused(refused)) }) => Err(FetchError::Refused(refused)),
        Some(BlobEvent { kind: Some(kind) }) => Ok(Some(kind)),
        Some(BlobEvent { kind: None }) => Err(FetchError::Protocol),
        None => Ok(None),
    }
}

/// Hash state and length of a file; `None` when there is none.
async fn hash_file(path: &Path) -> std::io::Result<Option<(Sha256, u64)>> {
    let mut file = match File::open(path).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let (mut hash, mut length, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 20]);
    loop {
        let read = file.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { return Ok(Some((hash, length))) };
        hash.update(bytes);
        length += read as u64;
    }
}

fn disk(path: &Path) -> impl Fn(std::io::Error) -> FetchError + '_ {
    move |source| FetchError::Disk { path: path.display().to_string(), source }
}
