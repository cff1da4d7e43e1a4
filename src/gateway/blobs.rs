//! Model bytes for workers, over the grid: any member may read the models that it is to serve, from any offset.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::Gateway;
use crate::{
    api::ids::{GridPeerId, ModelDigest},
    grid::{BlobServer, FrameError, Incoming, give_blob, refuse_blob},
};

/// Transfers at once; further ones wait.
const TRANSFERS: usize = 32;

impl Gateway {
    /// Serves blob streams until the grid ends.
    pub(super) async fn serve_blobs(self: Arc<Self>, mut incoming: Incoming<BlobServer>) {
        let places = Arc::new(Semaphore::new(TRANSFERS));
        while let Some((peer, stream)) = incoming.recv().await {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            let gateway = self.clone();
            self.spawn(async move {
                if let Err(error) = gateway.serve_blob(&peer, stream).await {
                    tracing::debug!(%peer, "a blob transfer ended: {error}");
                }
                drop(place);
            });
        }
    }

    async fn serve_blob(&self, peer: &GridPeerId, mut stream: BlobServer) -> Result<(), FrameError> {
        let Some(request) = stream.next().await? else { return Ok(()) };
        let digest = <[u8; 32]>::try_from(request.digest.as_slice()).map(ModelDigest);
        let assigned = self.members.get(peer).map(|record| record.member.models).unwrap_or_default();
        let Some(digest) = digest.ok().filter(|digest| assigned.contains(digest)) else {
            return refuse_blob(&mut stream, "BlobNotAssigned", "this node is not to serve that model", 0).await;
        };
        let Some(bytes) = self.blobs.size(&digest).await else {
            return refuse_blob(&mut stream, "BlobNotHere", "the gateway does not have that model yet", 5_000).await;
        };
        let file = self.blobs.open_at(&digest, 0).await?;
        give_blob(&mut stream, file, bytes, request.offset).await
    }
}
