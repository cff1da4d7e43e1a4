//! Shards as files: `INDEX.input.jsonl`, and beside it `INDEX.results.jsonl` and `INDEX.part.json`.

use std::path::{Path, PathBuf};

use futures::{FutureExt, future::BoxFuture};

use super::mailbox::{Found, Mailbox, MailboxError};
use crate::protocol::shard::{INPUT, PART, Part, RESULTS};

/// Far more than any shard has.
const MAX_FILE_BYTES: u64 = 64 << 20;

#[derive(Debug, Clone)]
pub(super) struct Folder {
    folder: PathBuf,
    index: u32,
}

impl Folder {
    pub(super) fn new(folder: &Path, index: u32) -> Self {
        Folder { folder: folder.to_owned(), index }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.join(format!("{}.{file}", self.index))
    }

    async fn text(&self, file: &str) -> Result<Option<String>, MailboxError> {
        let path = self.path(file);
        match tokio::fs::metadata(&path).await {
            Ok(data) if data.len() > MAX_FILE_BYTES => {
                let message = format!("more than {MAX_FILE_BYTES} bytes");
                return Err(MailboxError::Unreadable { what: path.display().to_string(), message });
            }
            _ => {}
        }
        match tokio::fs::read_to_string(&path).await {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                Err(MailboxError::Unreadable { what: path.display().to_string(), message: "it is not UTF-8".into() })
            }
            Err(source) => Err(MailboxError::Disk { path: path.display().to_string(), source }),
        }
    }

    /// Whole or not at all: a reader never sees half of it.
    async fn put(&self, file: &str, text: &[u8]) -> Result<(), MailboxError> {
        let (path, new) = (self.path(file), self.path(&format!("{file}.new")));
        let written = async {
            tokio::fs::write(&new, text).await?;
            tokio::fs::rename(&new, &path).await
        };
        written.await.map_err(|source| MailboxError::Disk { path: path.display().to_string(), source })
    }
}

impl Mailbox for Folder {
    fn read(&self) -> BoxFuture<'_, Result<Found, MailboxError>> {
        async {
            let missing = || MailboxError::Missing(self.path(INPUT).display().to_string());
            let input = self.text(INPUT).await?.ok_or_else(missing)?;
            let results = self.text(RESULTS).await?.unwrap_or_default();
            // One that cannot be read is as good as none: the work is done again.
            let part = self.text(PART).await?.and_then(|text| serde_json::from_str(&text).ok());
            Ok(Found { input, results, part })
        }
        .boxed()
    }

    fn write<'a>(&'a self, part: &'a Part, results: &'a str) -> BoxFuture<'a, Result<(), MailboxError>> {
        async move {
            let text = serde_json::to_vec(part)
                .map_err(|error| MailboxError::Unreadable { what: PART.into(), message: error.to_string() })?;
            self.put(RESULTS, results.as_bytes()).await?;
            // Last: it says that the results are to be believed.
            self.put(PART, &text).await
        }
        .boxed()
    }
}
