//! Answers to compute and storage challenges.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use candle_core::{Device, Tensor};
use tokio::sync::Semaphore;

use super::{leases::rejected, models::Models};
use crate::{
    api::ids::{GridPeerId, ModelDigest},
    protocol::{
        internal::NodeRole,
        wire::{
            ChallengeReply, ChallengeRequest, GemmChallenge, GemmCommit, GemmOpen, GemmTile, GemmTiles, Refused,
            StorageChallenge, StorageProof, challenge_reply::Kind as Reply, challenge_request::Kind as Ask,
        },
    },
    verify::{
        gemm::{self, GemmParams, GemmProof},
        storage::{MAX_LEAVES, StorageAnswer, leaf_range},
    },
};

/// Most multiply-adds of one challenge: some seconds of a few cores.
const MAX_OPS: u64 = 1 << 37;
/// Products kept for their opening, and for how long.
const MAX_PROOFS: usize = 4;
const PROOF_LIFETIME: Duration = Duration::from_secs(60);

struct Kept {
    challenge: [u8; 16],
    gateway: GridPeerId,
    proof: Arc<GemmProof>,
    until: Instant,
}

/// The worker's side of verification. Cheap to clone.
#[derive(Clone)]
pub(super) struct Challenges {
    models: Models,
    proofs: Arc<Mutex<VecDeque<Kept>>>,
    /// One compute challenge at a time: two would measure each other.
    compute: Arc<Semaphore>,
    storage: Arc<Semaphore>,
}

impl Challenges {
    pub(super) fn new(models: Models) -> Self {
        Challenges {
            models,
            proofs: Arc::default(),
            compute: Arc::new(Semaphore::new(1)),
            storage: Arc::new(Semaphore::new(2)),
        }
    }

    pub(super) async fn answer(self, gateway: GridPeerId, request: ChallengeRequest) -> ChallengeReply {
        let outcome = match (<[u8; 16]>::try_from(request.challenge_id.as_slice()), request.kind) {
            (Err(_), _) => Err(malformed("a challenge id has 16 bytes")),
            (Ok(id), Some(Ask::Gemm(challenge))) => self.commit(gateway, id, challenge).await.map(Reply::Commit),
            (Ok(id), Some(Ask::GemmOpen(open))) => self.open(&gateway, id, &open).map(Reply::Tiles),
            (Ok(_), Some(Ask::Storage(challenge))) => self.prove_storage(challenge).await.map(Reply::Storage),
            (Ok(_), None) => Err(malformed("no challenge of this version")),
        };
        ChallengeReply { kind: Some(outcome.unwrap_or_else(Reply::Refused)) }
    }

    async fn commit(&self, gateway: GridPeerId, id: [u8; 16], challenge: GemmChallenge) -> Result<GemmCommit, Refused> {
        let GemmChallenge { seed_a, seed_b, m, n, k, rounds } = challenge;
        let params = GemmParams { m, n, k, rounds };
        params.validate(MAX_OPS).map_err(|error| malformed(error.to_string()))?;
        let seed_a: [u8; 32] = hash(&seed_a)?;
        let seed_b: [u8; 32] = hash(&seed_b)?;
        let _place = self.compute.try_acquire().map_err(|_| busy("a compute challenge is being answered"))?;
        let proof =
            blocking(move || gemm::prove(params, &seed_a, &seed_b, &product).map_err(|error| error.to_string()))
                .await
                .map_err(|message| rejected("ComputeFailed", message, Duration::ZERO))?;
        let roots = proof.roots().iter().map(|root| root.to_vec()).collect();
        let until = Instant::now() + PROOF_LIFETIME;
        let mut proofs = self.proofs.lock().unwrap_or_else(PoisonError::into_inner);
        proofs.retain(|kept| kept.until > Instant::now());
        if proofs.len() >= MAX_PROOFS {
            proofs.pop_front();
        }
        proofs.push_back(Kept { challenge: id, gateway, proof: Arc::new(proof), until });
        Ok(GemmCommit { roots })
    }

    /// Opens tiles once: a second opening under another choice would be a second chance for whoever asks.
    fn open(&self, gateway: &GridPeerId, id: [u8; 16], open: &GemmOpen) -> Result<GemmTiles, Refused> {
        let mut proofs = self.proofs.lock().unwrap_or_else(PoisonError::into_inner);
        let place = proofs.iter().position(|kept| kept.challenge == id && kept.gateway == *gateway);
        let kept = place.and_then(|place| proofs.remove(place)).filter(|kept| kept.until > Instant::now());
        drop(proofs);
        let kept = kept.ok_or_else(|| {
            rejected("NoChallenge", "there is no product under this challenge id any more", Duration::ZERO)
        })?;
        let tiles = kept.proof.open(&open.tiles).map_err(|error| malformed(error.to_string()))?;
        let tiles = tiles.into_iter().map(|tile| GemmTile {
            index: tile.index,
            values: tile.values,
            path: tile.path.iter().map(|sibling| sibling.to_vec()).collect(),
        });
        Ok(GemmTiles { tiles: tiles.collect() })
    }

    async fn prove_storage(&self, challenge: StorageChallenge) -> Result<StorageProof, Refused> {
        let blob = ModelDigest(hash(&challenge.blob)?);
        let nonce = hash(&challenge.nonce)?;
        if challenge.leaves.len() > MAX_LEAVES {
            return Err(malformed(format!("at most {MAX_LEAVES} leaves are read")));
        }
        if !self.models.plays(NodeRole::Storage) {
            return Err(rejected("NotStorage", "this node does not store", Duration::ZERO));
        }
        let path = self
            .models
            .file(&blob)
            .ok_or_else(|| rejected("BlobNotHeld", format!("blob {blob} is not here"), Duration::ZERO))?;
        let _place = self.storage.try_acquire().map_err(|_| busy("storage challenges are being answered"))?;
        let tag = blocking(move || read_leaves(&path, &nonce, &challenge.leaves))
            .await
            .map_err(|message| rejected("BlobNotReadable", message, Duration::ZERO))?;
        Ok(StorageProof { tag: tag.to_vec() })
    }
}

/// Row-major product by the same library that runs the models.
pub(super) fn product(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f32> {
    let multiply = || {
        let a = Tensor::from_slice(a, (m, k), &Device::Cpu)?;
        let b = Tensor::from_slice(b, (k, n), &Device::Cpu)?;
        a.matmul(&b)?.flatten_all()?.to_vec1()
    };
    // An empty product is refused by the caller as no product at all.
    multiply().unwrap_or_default()
}

fn read_leaves(path: &Path, nonce: &[u8; 32], leaves: &[u64]) -> Result<[u8; 32], String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    let bytes = file.metadata().map_err(|error| error.to_string())?.len();
    let mut answer = StorageAnswer::new(nonce);
    let mut buffer = Vec::new();
    for leaf in leaves {
        let (offset, length) = leaf_range(*leaf, bytes).ok_or_else(|| format!("the blob has no leaf {leaf}"))?;
        file.seek(SeekFrom::Start(offset)).map_err(|error| error.to_string())?;
        buffer.resize(length, 0);
        file.read_exact(&mut buffer).map_err(|error| error.to_string())?;
        answer.push(&buffer);
    }
    Ok(answer.finish())
}

/// Runs work that blocks away from the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(panic.to_string()))
}

fn hash(bytes: &[u8]) -> Result<[u8; 32], Refused> {
    bytes.try_into().map_err(|_| malformed(format!("a seed, nonce or digest has 32 bytes, this one {}", bytes.len())))
}

fn malformed(message: impl Into<String>) -> Refused {
    rejected("MalformedRequest", message, Duration::ZERO)
}

fn busy(message: &str) -> Refused {
    rejected("Busy", message, Duration::from_secs(2))
}
