//! IO: results become files at a place, parts first, the manifest last. Nothing of the size of the results is ever in memory.

use bytes::Bytes;
use futures::{Stream, StreamExt};
use sha2::{Digest, Sha256};

use super::{
    Counts, File, Frame, MANIFEST, manifest,
    parts::{Cutter, MAX_PARTS},
    place::{Place, PlaceError},
};
use crate::{operator::error::Error, protocol::internal::ResultLine};

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub counts: Counts,
    pub results_sha256: String,
    pub errors_sha256: String,
    pub manifest_sha256: String,
    pub parts: usize,
    pub bytes: u64,
    /// Opens the files to a reader, where they are in the gateway's store.
    pub read_key: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The place does not take them.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The results cannot be had.
    #[error(transparent)]
    Results(Error),
    #[error("the results take more than {MAX_PARTS} parts; split the input into several jobs")]
    TooLarge,
    #[error(transparent)]
    Serialize(#[from] serde_json::Error),
}

/// Writes `rejected` and all `results`, which come in the order of the input.
pub async fn publish(
    place: &Place,
    frame: &Frame,
    rejected: String,
    receipts_root: &str,
    results: impl Stream<Item = Result<ResultLine, Error>>,
) -> Result<Published, PublishError> {
    let mut writer = Writer {
        place,
        results: Cutter::new("results"),
        errors: Cutter::new("errors"),
        counts: Counts::of_rejected(rejected.lines().count() as u64),
    };
    writer.lines(File::Errors, &rejected).await?;
    let mut results = std::pin::pin!(results);
    while let Some(line) = results.next().await {
        let (file, text) = frame.record(line.map_err(PublishError::Results)?);
        writer.counts.add(file);
        writer.lines(file, &text).await?;
    }
    writer.commit(frame, receipts_root).await
}

struct Writer<'a> {
    place: &'a Place,
    results: Cutter,
    errors: Cutter,
    counts: Counts,
}

impl Writer<'_> {
    async fn lines(&mut self, file: File, text: &str) -> Result<(), PublishError> {
        let cutter = match file {
            File::Results => &mut self.results,
            File::Errors => &mut self.errors,
        };
        let Some(part) = cutter.push(text) else { return Ok(()) };
        if self.results.parts() + self.errors.parts() > MAX_PARTS {
            return Err(PublishError::TooLarge);
        }
        Ok(self.place.put_part(&part.name, part.bytes).await?)
    }

    async fn commit(mut self, frame: &Frame, receipts_root: &str) -> Result<Published, PublishError> {
        for part in [self.results.last(), self.errors.last()].into_iter().flatten() {
            self.place.put_part(&part.name, part.bytes).await?;
        }
        let (results, errors) = (self.results.summary(), self.errors.summary());
        let text = manifest::manifest(frame, self.counts, &results, &errors, receipts_root)?;
        let manifest_sha256 = hex::encode(Sha256::digest(text.as_bytes()));
        let read_key = self.place.put(MANIFEST, Bytes::from(text)).await?;
        Ok(Published {
            counts: self.counts,
            parts: results.parts.len() + errors.parts.len(),
            bytes: results.bytes + errors.bytes,
            results_sha256: results.sha256,
            errors_sha256: errors.sha256,
            manifest_sha256,
            read_key,
        })
    }
}
