//! Getting a model's file back from the members that hold it: storage nodes first.

use std::{pin::pin, time::Duration};

use futures::stream;
use rand::seq::SliceRandom;

use crate::{
    api::ids::{GridPeerId, ModelDigest},
    download::{FetchError, FetchLimits, Fetching, Partial, StreamError, Target, receive},
    gateway::{Gateway, WorkerError},
    protocol::{internal::NodeRole, wire::BlobRequest},
};

/// How long it may take for the next chunk.
const CHUNK_WAIT: Duration = Duration::from_secs(20);

type Failed = StreamError<WorkerError>;

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
                    // No other member can help. Of one that only says that the file is too large nothing is believed.
                    Err(Failed::Fetch(error @ FetchError::Disk(_))) => return Err(error),
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

    /// Goes on from what another member may have given. Where that was wrong, this one need not be, and is asked for all of it.
    async fn fetch_from(
        &self,
        peer: &GridPeerId,
        digest: &ModelDigest,
        target: &Target,
        progress: &Fetching,
    ) -> Result<u64, Failed> {
        let goes_on = tokio::fs::metadata(&target.partial).await.is_ok_and(|data| data.len() > 0);
        match self.continue_from(peer, digest, target, progress).await {
            Err(Failed::Fetch(FetchError::DigestMismatch { .. })) if goes_on => {
                self.continue_from(peer, digest, target, progress).await
            }
            outcome => outcome,
        }
    }

    async fn continue_from(
        &self,
        peer: &GridPeerId,
        digest: &ModelDigest,
        target: &Target,
        progress: &Fetching,
    ) -> Result<u64, Failed> {
        let workers = self.workers().ok_or(StreamError::Stream(WorkerError::NotConnected))?;
        let mut partial = Partial::open(target, &self.settings.fetch, progress).await.map_err(FetchError::from)?;
        let mut link = workers.blob(peer).await.map_err(StreamError::Stream)?;
        let request = BlobRequest { digest: digest.0.to_vec(), offset: partial.bytes() };
        link.sink.send(&request).await.map_err(StreamError::Stream)?;
        let events = stream::try_unfold(link, async |mut link| {
            let event = tokio::time::timeout(CHUNK_WAIT, link.source.next()).await;
            Ok(event.unwrap_or(Err(WorkerError::Silent))?.map(|event| (event, link)))
        });
        let arrived = receive(&mut partial, None, peer.as_str(), pin!(events)).await;
        partial.flush().await.map_err(FetchError::from)?;
        arrived?;
        Ok(partial.keep(peer.as_str(), digest).await?)
    }
}
