//! Model blobs over the grid: resumed where they broke off, checked against their sha256, renamed into place only when whole.

use std::{
    path::{Path, PathBuf},
    pin::pin,
    time::Duration,
};

use futures::{future::BoxFuture, stream};
use sha2::{Digest, Sha256};
use tokio::fs;
use tracing::info;

use super::assignment::Wanted;
use crate::{
    api::ids::{GridPeerId, ModelDigest},
    download::{self, FetchLimits, Fetching, Origin, Partial, StreamError, Target, receive},
    grid::{BlobClient, FrameError, GridHandle, OpenError},
    protocol::wire::BlobRequest,
};

/// What a gateway is called in messages.
const GATEWAY: &str = "the gateway";
/// How long a gateway may take for the next chunk.
const CHUNK_WAIT: Duration = Duration::from_secs(20);

/// Why a blob is not here.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Download(#[from] download::FetchError),
    #[error("the gateway does not give it: {0}")]
    Stream(StreamError<FrameError>),
    #[error("no gateway is connected")]
    NoGateway,
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("the transfer broke: {0}")]
    Frame(#[from] FrameError),
    #[error("cannot keep the file in {path}: {source}")]
    Disk { path: String, source: std::io::Error },
}

impl From<StreamError<FrameError>> for FetchError {
    fn from(error: StreamError<FrameError>) -> Self {
        match error {
            StreamError::Fetch(error) => error.into(),
            StreamError::Stream(error) => error.into(),
            other => FetchError::Stream(other),
        }
    }
}

impl FetchError {
    /// Stable CamelCase code.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            FetchError::Download(download::FetchError::Disk(source)) | FetchError::Disk { source, .. } => {
                if source.kind() == std::io::ErrorKind::StorageFull { "StorageFull" } else { "StorageFailed" }
            }
            FetchError::Download(error) => error.reason(),
            FetchError::Stream(StreamError::Size { .. }) => "ModelSizeMismatch",
            FetchError::Stream(StreamError::Refused(_)) => "ModelNotAvailable",
            FetchError::Stream(StreamError::OutOfOrder) => "GatewayProtocol",
            FetchError::Stream(_) | FetchError::NoGateway | FetchError::Open(_) | FetchError::Frame(_) => {
                "GatewayUnreachable"
            }
        }
    }

    /// Trying again soon may help without anybody doing something.
    pub(super) fn is_transient(&self) -> bool {
        use download::FetchError::{DigestMismatch, TooLarge};
        !matches!(
            self,
            FetchError::Download(DigestMismatch { .. } | TooLarge { .. })
                | FetchError::Stream(StreamError::Size { .. })
        )
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

    /// The file of a model: found on disk and checked again, or fetched from a gateway.
    pub(super) async fn obtain(
        &self,
        wanted: &Wanted,
        source: &dyn BlobSource,
        progress: &Fetching,
    ) -> Result<PathBuf, FetchError> {
        if !self.holds(&wanted.digest).await? {
            self.fetch(wanted, source, progress).await?;
        }
        Ok(self.path(&wanted.digest))
    }

    /// The file of a model: found on disk and checked again, or downloaded.
    pub(super) async fn download(&self, origin: &Origin, digest: &ModelDigest) -> Result<PathBuf, FetchError> {
        if !self.holds(digest).await? {
            info!(model = %digest, "fetching the model");
            // A name of its own: another process may be filling the same folder, and the first whole file wins.
            let partial = self.path(digest).with_extension(format!("{:08x}.part", rand::random::<u32>()));
            let target = Target { whole: self.path(digest), partial };
            download::fetch(origin, digest, &target, &self.limits(), &Fetching::default()).await?;
        }
        Ok(self.path(digest))
    }

    fn limits(&self) -> FetchLimits {
        FetchLimits { max_bytes: self.max_bytes, option: "--max-model-size", ..FetchLimits::default() }
    }

    /// Whether a blob is on disk, whole and with the right digest. A rotten one is removed.
    pub(super) async fn holds(&self, digest: &ModelDigest) -> Result<bool, FetchError> {
        let path = self.path(digest);
        let Some(actual) = digest_of(&path).await.map_err(disk(&path))? else { return Ok(false) };
        if actual != *digest {
            // As good as absent.
            fs::remove_file(&path).await.map_err(disk(&path))?;
        }
        Ok(actual == *digest)
    }

    async fn fetch(&self, wanted: &Wanted, source: &dyn BlobSource, progress: &Fetching) -> Result<(), FetchError> {
        let Wanted { digest, name, bytes, .. } = wanted;
        let target = Target { whole: self.path(digest), partial: self.partial(digest) };
        let open = Partial::open(&target, &self.limits(), progress).await;
        let mut partial = open.map_err(disk(&target.partial))?;
        let mut stream = source.open().await?;
        stream.receiver.set_idle(CHUNK_WAIT);
        stream.send(&BlobRequest { digest: digest.0.to_vec(), offset: partial.bytes() }).await?;
        info!(model = %digest, name, bytes, from = partial.bytes(), "fetching a model");
        let events = stream::try_unfold(stream, async |mut stream| {
            Ok::<_, FrameError>(stream.next().await?.map(|event| (event, stream)))
        });
        let expected = Some(*bytes).filter(|bytes| *bytes > 0);
        let arrived = receive(&mut partial, expected, GATEWAY, pin!(events)).await;
        partial.flush().await.map_err(disk(&target.partial))?;
        arrived?;
        partial.keep(GATEWAY, digest).await?;
        Ok(())
    }
}

/// sha256 of a file; `None` when there is none.
pub(super) async fn digest_of(path: &Path) -> std::io::Result<Option<ModelDigest>> {
    let path = path.to_owned();
    let hashed = tokio::task::spawn_blocking(move || {
        let mut file = match std::fs::File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut hasher = Sha256::new();
        std::io::copy(&mut file, &mut hasher)?;
        Ok(Some(ModelDigest(hasher.finalize().into())))
    });
    hashed.await.map_err(std::io::Error::other)?
}

fn disk(path: &Path) -> impl Fn(std::io::Error) -> FetchError + '_ {
    move |source| FetchError::Disk { path: path.display().to_string(), source }
}
