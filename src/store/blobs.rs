//! The blob store: one file per model, named by its sha256. A file under its final name is whole and was verified.

use std::{
    io::{self, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
};

use crate::{api::ids::ModelDigest, download::Target};

/// Handle on the blob store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs {
    folder: Arc<PathBuf>,
}

impl Blobs {
    /// Opens the store in `folder`, which is made if it is missing.
    pub fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Blobs { folder: Arc::new(folder.to_owned()) })
    }

    /// Size in bytes; `None` when it is not here.
    pub async fn size(&self, digest: &ModelDigest) -> Option<u64> {
        tokio::fs::metadata(self.path(digest)).await.ok().filter(|data| data.is_file()).map(|data| data.len())
    }

    /// A reader that starts at `offset`.
    pub async fn open_at(&self, digest: &ModelDigest, offset: u64) -> io::Result<File> {
        let mut file = File::open(self.path(digest)).await?;
        file.seek(SeekFrom::Start(offset)).await?;
        Ok(file)
    }

    /// Exactly `length` bytes from `offset`; beyond the end is an error.
    pub async fn read(&self, digest: &ModelDigest, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.open_at(digest, offset).await?.read_exact(&mut bytes).await?;
        Ok(bytes)
    }

    /// A folder of this name beside the blobs, on the same volume.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.with_file_name(name)
    }

    /// A file without a name on the store's disk: gone with its last handle, whatever happens.
    pub fn scratch(&self) -> io::Result<std::fs::File> {
        let path = self.folder.join(format!("scratch-{:016x}", rand::random::<u64>()));
        let file = std::fs::File::options().create_new(true).read(true).write(true).open(&path)?;
        std::fs::remove_file(path)?;
        Ok(file)
    }

    /// Forgets a blob, whole or partial.
    pub async fn remove(&self, digest: &ModelDigest) -> io::Result<()> {
        for path in [self.path(digest), self.partial(digest)] {
            match tokio::fs::remove_file(path).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Reads the whole blob and compares its digest. Blocks its thread: for `fsck`.
    pub fn is_intact(&self, digest: &ModelDigest) -> io::Result<bool> {
        let mut hasher = Sha256::new();
        io::copy(&mut std::fs::File::open(self.path(digest))?, &mut hasher)?;
        Ok(hasher.finalize().as_slice() == digest.0)
    }

    /// Where a download of `digest` goes.
    pub fn target(&self, digest: &ModelDigest) -> Target {
        Target { whole: self.path(digest), partial: self.partial(digest) }
    }

    /// Where it lies, if it is here.
    pub fn path(&self, digest: &ModelDigest) -> PathBuf {
        self.folder.join(digest.to_string())
    }

    pub(super) fn partial(&self, digest: &ModelDigest) -> PathBuf {
        self.folder.join(format!("{digest}.partial"))
    }
}
