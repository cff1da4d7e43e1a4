//! A file as a peer of the grid sends it: its size, and its bytes from where we are. Whatever a peer sends is worth nothing until the whole
//! file has the right digest, and it must come at a pace.

use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};

use super::{FetchError, Partial};
use crate::protocol::wire::{BlobEvent, Refused, blob_event};

/// Bytes a second that a peer must give on average, after a moment: a home connection does ten times that.
const SLOWEST: u64 = 16 << 10;
const MOMENT: Duration = Duration::from_secs(60);

/// Why a stream did not bring the rest of a file. `E`: what may happen to the stream itself.
#[derive(Debug, thiserror::Error)]
pub enum StreamError<E> {
    #[error(transparent)]
    Stream(E),
    #[error("it refuses: {} ({})", .0.message, .0.reason)]
    Refused(Refused),
    #[error("it ended after {0} bytes")]
    Ended(u64),
    #[error("the file has {actual} bytes where {expected} were announced")]
    Size { expected: u64, actual: u64 },
    #[error("its events are out of order")]
    OutOfOrder,
    #[error("it sends less than {SLOWEST} bytes a second")]
    Slow,
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// Brings `partial` to its end, whatever its digest then is. `expected`: bytes, where they are known.
pub async fn receive<E>(
    partial: &mut Partial,
    expected: Option<u64>,
    from: &str,
    mut events: impl Stream<Item = Result<BlobEvent, E>> + Send + Unpin,
) -> Result<(), StreamError<E>> {
    let Some(blob_event::Kind::Total(total)) = next(&mut events).await? else { return Err(StreamError::OutOfOrder) };
    if let Some(expected) = expected.filter(|expected| *expected != total) {
        return Err(StreamError::Size { expected, actual: total });
    }
    partial.check(total, from)?;
    if partial.bytes() > total {
        // Left from something else.
        partial.restart().await.map_err(FetchError::from)?;
        return Err(StreamError::Ended(0));
    }
    let (begun, at) = (Instant::now(), partial.bytes());
    while partial.bytes() < total {
        match next(&mut events).await? {
            Some(blob_event::Kind::Chunk(chunk)) if fits(&chunk, partial, total) => {
                partial.append(&chunk, from).await?;
            }
            Some(_) => return Err(StreamError::OutOfOrder),
            None => return Err(StreamError::Ended(partial.bytes())),
        }
        let elapsed = begun.elapsed();
        if elapsed > MOMENT && (partial.bytes() - at) / elapsed.as_secs().max(1) < SLOWEST {
            return Err(StreamError::Slow);
        }
    }
    Ok(())
}

fn fits(chunk: &[u8], partial: &Partial, total: u64) -> bool {
    !chunk.is_empty() && partial.bytes().saturating_add(chunk.len() as u64) <= total
}

/// The next event; `None` when the peer closed the stream.
async fn next<E>(
    events: &mut (impl Stream<Item = Result<BlobEvent, E>> + Send + Unpin),
) -> Result<Option<blob_event::Kind>, StreamError<E>> {
    let Some(event) = events.next().await else { return Ok(None) };
    match event.map_err(StreamError::Stream)?.kind {
        Some(blob_event::Kind::Refused(refused)) => Err(StreamError::Refused(refused)),
        Some(kind) => Ok(Some(kind)),
        None => Err(StreamError::OutOfOrder),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::stream;

    use super::{super::*, *};

    fn event(kind: blob_event::Kind) -> Result<BlobEvent, Infallible> {
        Ok(BlobEvent { kind: Some(kind) })
    }

    fn total(bytes: u64) -> Result<BlobEvent, Infallible> {
        event(blob_event::Kind::Total(bytes))
    }

    fn chunk(bytes: &[u8]) -> Result<BlobEvent, Infallible> {
        event(blob_event::Kind::Chunk(bytes.to_vec()))
    }

    /// What becomes of a file of which `held` is here, and what is there of it then.
    async fn received(
        held: &[u8],
        events: Vec<Result<BlobEvent, Infallible>>,
    ) -> (Result<(), StreamError<Infallible>>, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let target = Target { whole: folder.path().join("whole"), partial: folder.path().join("partial") };
        std::fs::write(&target.partial, held).unwrap();
        let limits = FetchLimits { max_bytes: 8, ..FetchLimits::default() };
        let mut partial = Partial::open(&target, &limits, &Fetching::default()).await.unwrap();
        let outcome = receive(&mut partial, Some(6), "a peer", stream::iter(events)).await;
        partial.flush().await.unwrap();
        (outcome, std::fs::read(&target.partial).unwrap())
    }

    #[tokio::test]
    async fn what_is_missing_of_a_file_is_appended() {
        let (outcome, bytes) = received(b"ab", vec![total(6), chunk(b"c"), chunk(b"def")]).await;
        assert!(outcome.is_ok() && bytes == b"abcdef", "{outcome:?}");
        let (outcome, bytes) = received(b"ab", vec![total(6), chunk(b"c")]).await;
        assert!(matches!(outcome, Err(StreamError::Ended(3))) && bytes == b"abc", "{outcome:?}");
        let (outcome, bytes) = received(b"abcdefg", vec![total(6)]).await;
        assert!(matches!(outcome, Err(StreamError::Ended(0))) && bytes.is_empty(), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_peer_that_breaks_the_rules_is_told_from_one_that_stops() {
        let refused = || event(blob_event::Kind::Refused(Refused::default()));
        let nothing = || Ok(BlobEvent { kind: None });
        for (events, expected) in [
            (vec![], "out of order"),
            (vec![chunk(b"a")], "out of order"),
            (vec![total(6), total(6)], "out of order"),
            (vec![total(6), chunk(b"")], "out of order"),
            (vec![total(6), chunk(b"abcdefg")], "out of order"),
            (vec![total(6), nothing()], "out of order"),
            (vec![total(5)], "5 bytes where 6"),
            (vec![refused()], "it refuses"),
            (vec![total(6), refused()], "it refuses"),
        ] {
            let told = received(b"", events).await.0.unwrap_err().to_string();
            assert!(told.contains(expected), "{told}");
        }
    }
}
