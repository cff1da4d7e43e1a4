//! The giving end of a blob stream. Gateways give models to workers that are to serve them; workers give back what a gateway lost.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeek, AsyncSeekExt};

use super::{BlobServer, FrameError};
use crate::protocol::wire::{BlobEvent, Refused, blob_event, limits};

/// Sends a blob of `bytes` from `offset` on, and closes.
pub async fn give_blob(
    stream: &mut BlobServer,
    mut blob: impl AsyncRead + AsyncSeek + Unpin,
    bytes: u64,
    offset: u64,
) -> Result<(), FrameError> {
    if offset > bytes {
        return refuse_blob(stream, "BeyondTheEnd", "the offset is beyond the end of the blob", 0).await;
    }
    stream.send(&event(blob_event::Kind::Total(bytes))).await?;
    blob.seek(std::io::SeekFrom::Start(offset)).await?;
    let mut chunk = vec![0; limits::BLOB_CHUNK];
    loop {
        let length = blob.read(&mut chunk).await?;
        if length == 0 {
            return stream.sender.close().await;
        }
        let bytes = chunk.get(..length).unwrap_or_default().to_vec();
        stream.send(&event(blob_event::Kind::Chunk(bytes))).await?;
    }
}

/// Says why not, and closes. `retry_after_ms` 0: asking again is of no use.
pub async fn refuse_blob(
    stream: &mut BlobServer,
    reason: &str,
    message: &str,
    retry_after_ms: u64,
) -> Result<(), FrameError> {
    let refused = Refused { reason: reason.into(), message: message.into(), retry_after_ms };
    stream.send(&event(blob_event::Kind::Refused(refused))).await?;
    stream.sender.close().await
}

fn event(kind: blob_event::Kind) -> BlobEvent {
    BlobEvent { kind: Some(kind) }
}
