//! Gives model files back to a gateway that lost them.

use std::sync::Arc;

use tokio::{fs::File, sync::Semaphore, task::JoinSet};
use tracing::{debug, info};

use super::models::Models;
use crate::{
    api::ids::ModelDigest,
    grid::{BlobServer, FrameError, Incoming, give_blob, refuse_blob},
};

/// Transfers at once; further ones wait. A gateway asks for one model at a time.
const TRANSFERS: usize = 2;

/// Until the grid ends.
pub(super) async fn run(models: Models, mut incoming: Incoming<BlobServer>) {
    let places = Arc::new(Semaphore::new(TRANSFERS));
    let mut transfers = JoinSet::new();
    while let Some((gateway, stream)) = incoming.recv().await {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        // Those that ended.
        while transfers.try_join_next().is_some() {}
        let models = models.clone();
        transfers.spawn(async move {
            if let Err(error) = give(&models, stream).await {
                debug!(%gateway, "a blob transfer ended: {error}");
            }
            drop(place);
        });
    }
}

async fn give(models: &Models, mut stream: BlobServer) -> Result<(), FrameError> {
    let Some(request) = stream.next().await? else { return Ok(()) };
    let digest = <[u8; 32]>::try_from(request.digest.as_slice()).map(ModelDigest).ok();
    let held = match &digest {
        Some(digest) => models.held(digest).await,
        None => None,
    };
    let Some((path, bytes)) = held else {
        return refuse_blob(&mut stream, "BlobNotHere", "this node does not hold that model", 0).await;
    };
    info!(model = ?digest, from = request.offset, bytes, "giving a model to the gateway");
    give_blob(&mut stream, File::open(path).await?, bytes, request.offset).await
}
