//! A file on its way in: what is there of it, the hash over that, and the bounds that it must keep.

use std::{io, path::Path};

use sha2::{Digest, Sha256};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncWriteExt},
};

use super::{FetchError, FetchLimits, Fetching, Target};
use crate::api::ids::ModelDigest;

/// Bytes read at once of a file.
const CHUNK: usize = 1 << 20;

/// Dropping it leaves what came, for the next try.
pub struct Partial {
    target: Target,
    file: File,
    hasher: Sha256,
    bytes: u64,
    pub(super) limits: FetchLimits,
    progress: Fetching,
}

impl Partial {
    /// Takes up what an earlier try left.
    pub async fn open(target: &Target, limits: &FetchLimits, progress: &Fetching) -> io::Result<Self> {
        let path = target.partial.clone();
        let (hasher, bytes) = tokio::task::spawn_blocking(move || -> io::Result<(Sha256, u64)> {
            let mut hasher = Sha256::new();
            let mut file = std::fs::File::options().create(true).truncate(false).write(true).read(true).open(path)?;
            let bytes = io::copy(&mut file, &mut hasher)?;
            Ok((hasher, bytes))
        })
        .await
        .map_err(io::Error::other)??;
        let file = File::options().append(true).open(&target.partial).await?;
        progress.set(bytes);
        Ok(Partial { target: target.clone(), file, hasher, bytes, limits: *limits, progress: progress.clone() })
    }

    /// Bytes that are there.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// From nothing again.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0).await?;
        self.hasher = Sha256::new();
        self.bytes = 0;
        self.progress.set(0);
        Ok(())
    }

    /// Refuses a file of `bytes` in all, before they come.
    pub fn check(&self, bytes: u64, from: &str) -> Result<(), FetchError> {
        let FetchLimits { max_bytes: limit, option, .. } = self.limits;
        if bytes > limit { Err(FetchError::TooLarge { from: from.to_owned(), bytes, limit, option }) } else { Ok(()) }
    }

    pub async fn append(&mut self, chunk: &[u8], from: &str) -> Result<(), FetchError> {
        let bytes = self.bytes.saturating_add(chunk.len() as u64);
        self.check(bytes, from)?;
        self.file.write_all(chunk).await?;
        self.hasher.update(chunk);
        self.bytes = bytes;
        self.progress.set(bytes);
        Ok(())
    }

    /// The whole of a file of this machine.
    pub(super) async fn copy(&mut self, path: &Path, from: &str) -> Result<(), FetchError> {
        self.restart().await?;
        let unreadable =
            |error: io::Error| FetchError::Volume { from: from.to_owned(), message: error.kind().to_string() };
        let mut file = File::open(path).await.map_err(unreadable)?;
        let data = file.metadata().await.map_err(unreadable)?;
        if !data.is_file() {
            return Err(FetchError::Volume { from: from.to_owned(), message: "it is no file".into() });
        }
        self.check(data.len(), from)?;
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = file.read(&mut chunk).await.map_err(unreadable)?;
            match chunk.get(..read).filter(|bytes| !bytes.is_empty()) {
                Some(bytes) => self.append(bytes, from).await?,
                None => return Ok(()),
            }
        }
    }

    /// Whatever came is on its way to the disk, for the next try.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.file.flush().await
    }

    /// Gives it its name, if it is what was promised; its size in bytes. Otherwise nothing of it stays.
    pub async fn keep(mut self, from: &str, digest: &ModelDigest) -> Result<u64, FetchError> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        let actual = ModelDigest(self.hasher.finalize_reset().into());
        if actual != *digest {
            self.discard().await?;
            return Err(FetchError::DigestMismatch { from: from.to_owned(), expected: *digest, actual });
        }
        tokio::fs::rename(&self.target.partial, &self.target.whole).await?;
        Ok(self.bytes)
    }

    /// Nothing of it stays.
    pub async fn discard(self) -> io::Result<()> {
        match tokio::fs::remove_file(&self.target.partial).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
