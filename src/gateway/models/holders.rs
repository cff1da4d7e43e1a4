//! Getting a model's file back from the members that hold it: storage nodes first. Whatever a member sends is worth nothing until the
//! whole file has the right digest, and it must come at a pace.

use std::time::{Duration, Instant};

use rand::seq::SliceRandom;

use crate::{
    api::ids::{GridPeerId, ModelDigest},
    download::{FetchError, FetchLimits, Fetching, Partial, Target},
    gateway::{Gateway, WorkerError},
    protocol::{
        internal::NodeRole,
        wire::{BlobEvent, BlobRequest, blob_event},
    },
};

/// Bytes a second that a member must give on average, after a moment: a home connection does ten times that.
const SLOWEST: u64 = 16 << 10;
const MOMENT: Duration = Duration::from_secs(60);
/// How long it may take for the next chunk.
const CHUNK_WAIT: Duration = Duration::from_secs(20);

/// Why one member did not give the file.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error("it has {0} bytes of it")]
    Ended(u64),
    #[error("it sends less than {SLOWEST} bytes a second")]
    Slow,
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl Gateway {
    /// Asks one after the other, and all of them again for a while: after a start of the gateway they come back one by one.
    pub(super) async fn fetch_from_members(
        &self,
        digest: &ModelDigest,
        target: &Target,
        progress: &Fetching,
    ) -> Result<u64, FetchError> {
        let limits = &self.settings.fetch;
        let (mut pause, mut refusals) = (limits.pause, Vec::new());
        for left in (0..limits.tries.max(1)).rev() {
            refusals.clear();
            for peer in self.holders(digest) {
                match self.fetch_from(&peer, digest, target, progress).await {
                    Ok(bytes) => return Ok(bytes),
                    // No other member can help.
                    Err(Failed::Fetch(error @ (FetchError::TooLarge { .. } | FetchError::Disk(_)))) => {
                        return Err(error);
                    }
                    Err(failed) => {
                        tracing::info!(%peer, %digest, "a member does not give a model: {failed}");
                        refusals.push(format!("{peer}: {failed}"));
                    }
                }
            }
            if left > 0 {
                tokio::time::sleep(pause).await;
                pause = FetchLimits::next_pause(pause);
            }
        }
        refusals.truncate(3);
        let none = || "none that lists the model is connected".to_owned();
        Err(FetchError::NoHolder(if refusals.is_empty() { none() } else { refusals.join("; ") }))
    }

    /// Members that are to have it and are connected: storage nodes, then the others, each in any order.
    fn holders(&self, digest: &ModelDigest) -> Vec<GridPeerId> {
        let mut members = self.members.all();
        members
            .retain(|record| record.member.models.contains(digest) && self.peers.is_connected(&record.member.peer_id));
        members.shuffle(&mut rand::rng());
        members.sort_by_key(|record| !record.member.roles.contains(&NodeRole::Storage));
        members.into_iter().map(|record| record.member.peer_id).collect()
    }

    async fn fetch_from(
        &self,
        peer: &GridPeerId,
        digest: &ModelDigest,
        target: &Target,
        progress: &Fetching,
    ) -> Result<u64, Failed> {
        let from = peer.to_string();
        let workers = self.workers().ok_or(WorkerError::NotConnected)?;
        let mut partial = Partial::open(target, &self.settings.fetch, progress).await.map_err(FetchError::from)?;
        let mut link = workers.blob(peer).await?;
        link.sink.send(&BlobRequest { digest: digest.0.to_vec(), offset: partial.bytes() }).await?;
        let mut next = async || match tokio::time::timeout(CHUNK_WAIT, link.source.next()).await {
            Err(_) => Err(WorkerError::Silent),
            Ok(Err(error)) => Err(error),
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(BlobEvent { kind: Some(blob_event::Kind::Refused(refused)) }))) => {
                Err(WorkerError::Refused(refused))
            }
            Ok(Ok(Some(BlobEvent { kind: Some(kind) }))) => Ok(Some(kind)),
            Ok(Ok(Some(BlobEvent { kind: None }))) => Err(WorkerError::Malformed("an event of no kind".into())),
        };
        let out_of_order = || WorkerError::Malformed("a blob stream out of order".into());
        let Some(blob_event::Kind::Total(total)) = next().await? else { return Err(out_of_order().into()) };
        partial.check(total, &from)?;
        let (begun, at) = (Instant::now(), partial.bytes());
        while partial.bytes() < total {
            match next().await? {
                Some(blob_event::Kind::Chunk(chunk)) if !chunk.is_empty() => partial.append(&chunk, &from).await?,
                Some(_) => return Err(out_of_order().into()),
                None => return Err(Failed::Ended(partial.bytes())),
            }
            let elapsed = begun.elapsed();
            if elapsed > MOMENT && (partial.bytes() - at) / elapsed.as_secs().max(1) < SLOWEST {
                return Err(Failed::Slow);
            }
        }
        Ok(partial.keep(&from, digest).await?)
    }
}
