//! Files of jobs whose output is `store`: a folder a job, beside the blobs on the same volume. A file is there whole or not at
//! all, and never changes but by being replaced. How much all of them take together has a bound.

use std::{io, path::Path as FsPath, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, local::LocalFileSystem, path::Path};
use tokio::sync::Mutex;

/// Files of one job: parts and the manifest of the largest output.
const MAX_FILES: usize = 5_000;
const MAX_NAME: usize = 128;

/// Why a file is not kept, or cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    #[error(
        "a file's name has 1 to {MAX_NAME} lower-case letters, digits, dots and dashes, and starts with a letter or digit"
    )]
    Name,
    #[error("results take {used} bytes and may take {max}: delete jobs that are over, or raise --max-results-bytes")]
    Full { used: u64, max: u64 },
    #[error("a job has at most {MAX_FILES} files")]
    TooMany,
    #[error("the volume with the results: {0}")]
    Disk(object_store::Error),
}

/// Handle on the files. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ResultFiles {
    store: Arc<LocalFileSystem>,
    /// Bytes of all files. Held while a file is written, so that two writers do not both take the last room.
    used: Arc<Mutex<u64>>,
    max: u64,
}

/// A file that can be read.
pub struct ResultFile {
    pub bytes: u64,
    pub chunks: BoxStream<'static, object_store::Result<Bytes>>,
}

impl ResultFiles {
    /// Opens the files in `folder`, which is made if it is missing, and adds up what they take.
    pub async fn open(folder: &FsPath, max: u64) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let store = LocalFileSystem::new_with_prefix(folder)?.with_automatic_cleanup(true).with_fsync(true);
        let used = bytes_below(&store, None).await?.0;
        Ok(ResultFiles { store: Arc::new(store), used: Arc::new(Mutex::new(used)), max })
    }

    /// Keeps a file, in the place of an earlier one of the same name.
    pub async fn put(&self, uid: &str, name: &str, bytes: Bytes) -> Result<(), ResultsError> {
        let path = path(uid, name)?;
        let mut used = self.used.lock().await;
        let before = match self.store.head(&path).await {
            Ok(found) => Some(found.size),
            Err(object_store::Error::NotFound { .. }) => None,
            Err(error) => return Err(ResultsError::Disk(error)),
        };
        let after = used.saturating_sub(before.unwrap_or(0)).saturating_add(bytes.len() as u64);
        if after > self.max {
            return Err(ResultsError::Full { used: *used, max: self.max });
        }
        if before.is_none() {
            let (_, files) = bytes_below(&self.store, Some(&Path::from(uid))).await.map_err(ResultsError::Disk)?;
            if files >= MAX_FILES {
                return Err(ResultsError::TooMany);
            }
        }
        self.store.put(&path, PutPayload::from_bytes(bytes)).await.map_err(ResultsError::Disk)?;
        *used = after;
        Ok(())
    }

    /// `None` when it is not there.
    pub async fn get(&self, uid: &str, name: &str) -> Result<Option<ResultFile>, ResultsError> {
        match self.store.get(&path(uid, name)?).await {
            Ok(found) => Ok(Some(ResultFile { bytes: found.meta.size, chunks: found.into_stream() })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(ResultsError::Disk(error)),
        }
    }

    /// Forgets all files of a job.
    pub async fn remove(&self, uid: &str) -> Result<(), ResultsError> {
        let Ok(folder) = Path::parse(uid) else { return Ok(()) };
        let mut used = self.used.lock().await;
        let mut found = self.store.list(Some(&folder));
        while let Some(file) = found.try_next().await.map_err(ResultsError::Disk)? {
            self.store.delete(&file.location).await.map_err(ResultsError::Disk)?;
            *used = used.saturating_sub(file.size);
        }
        Ok(())
    }
}

/// Bytes and number of the files below a folder.
async fn bytes_below(store: &LocalFileSystem, folder: Option<&Path>) -> object_store::Result<(u64, usize)> {
    store.list(folder).try_fold((0, 0), |(bytes, files), file| async move { Ok((bytes + file.size, files + 1)) }).await
}

fn path(uid: &str, name: &str) -> Result<Path, ResultsError> {
    let fits = |text: &str| {
        text.len() <= MAX_NAME
            && text.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte))
    };
    if !fits(uid) || !fits(name) {
        return Err(ResultsError::Name);
    }
    Ok(Path::from(uid).join(name))
}

impl ResultFile {
    /// The bytes as an HTTP body takes them.
    pub fn into_stream(self) -> BoxStream<'static, io::Result<Bytes>> {
        self.chunks.map_err(io::Error::from).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn text(files: &ResultFiles, uid: &str, name: &str) -> Option<String> {
        let found = files.get(uid, name).await.unwrap()?;
        let bytes: Vec<Bytes> = found.into_stream().try_collect().await.unwrap();
        Some(String::from_utf8(bytes.concat()).unwrap())
    }

    #[tokio::test]
    async fn files_are_kept_replaced_and_forgotten_with_their_job() {
        let folder = tempfile::tempdir().unwrap();
        let files = ResultFiles::open(folder.path(), 100).await.unwrap();
        files.put("job-1", "manifest.json", "one".into()).await.unwrap();
        files.put("job-1", "manifest.json", "three".into()).await.unwrap();
        files.put("job-2", "manifest.json", "two".into()).await.unwrap();
        assert_eq!(text(&files, "job-1", "manifest.json").await.as_deref(), Some("three"));
        let files = ResultFiles::open(folder.path(), 100).await.unwrap();
        assert_eq!(*files.used.lock().await, 8);
        files.remove("job-1").await.unwrap();
        assert_eq!(text(&files, "job-1", "manifest.json").await, None);
        assert_eq!(text(&files, "job-2", "manifest.json").await.as_deref(), Some("two"));
        assert_eq!(*files.used.lock().await, 3);
        files.remove("unknown").await.unwrap();
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_and_room_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let files = ResultFiles::open(folder.path(), 5).await.unwrap();
        files.put("job-1", "a", "12345".into()).await.unwrap();
        assert!(matches!(files.put("job-2", "a", "1".into()).await, Err(ResultsError::Full { used: 5, max: 5 })));
        files.put("job-1", "a", "1234".into()).await.unwrap();
        files.put("job-2", "a", "1".into()).await.unwrap();
    }

    #[tokio::test]
    async fn no_name_leaves_the_folder_of_its_job() {
        let folder = tempfile::tempdir().unwrap();
        let files = ResultFiles::open(folder.path(), 100).await.unwrap();
        for name in ["..", ".", "../job-2/a", "a/b", "", "A", "-x", "a%2fb", &"a".repeat(129)] {
            assert!(matches!(files.put("job-1", name, "x".into()).await, Err(ResultsError::Name)), "{name}");
        }
        assert!(matches!(files.get("..", "a").await, Err(ResultsError::Name)));
    }
}
