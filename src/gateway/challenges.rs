//! Compute and storage challenges: on every connection, and then at times of each epoch that nobody can foresee.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Gateway, WorkerError, Workers, receipts::millis};
use crate::{
    api::ids::{GridPeerId, ModelDigest},
    protocol::{
        internal::NodeRole,
        wire::{ChallengeRequest, GemmChallenge, GemmOpen, StorageChallenge, challenge_reply, challenge_request},
    },
    store::{ChallengeKind, ChallengeOutcome, ChallengeRecord, LedgerError},
    verify::{
        gemm::{GemmParams, GemmVerifier, TILES_PER_CHALLENGE, Tile},
        storage::{LEAVES_PER_CHALLENGE, StorageAnswer, choose_leaves, leaf_range, n_leaves},
    },
};

/// Pause while there is nothing to challenge: no network, paused, no statement yet.
const WAIT: Duration = Duration::from_secs(1);
/// Pause after a challenge that did not get an answer.
const AGAIN: Duration = Duration::from_secs(5);

/// How a challenge ended.
struct Outcome {
    outcome: ChallengeOutcome,
    units: u64,
    message: String,
}

impl Outcome {
    fn passed(units: u64) -> Self {
        Outcome { outcome: ChallengeOutcome::Passed, units, message: String::new() }
    }

    fn failed(message: impl ToString) -> Self {
        Outcome { outcome: ChallengeOutcome::Failed, units: 0, message: message.to_string() }
    }

    fn unanswered(message: impl ToString) -> Self {
        Outcome { outcome: ChallengeOutcome::Unanswered, units: 0, message: message.to_string() }
    }
}

/// When the challenges of one kind are due, in unix milliseconds.
struct Times {
    mean: Duration,
    epoch: Option<u64>,
    due: Vec<u64>,
}

impl Times {
    fn new(mean: Duration) -> Self {
        Times { mean, epoch: None, due: Vec::new() }
    }

    /// Draws the times of an epoch when it begins: one at least, independent and uniform, so that no moment is safe.
    fn draw(&mut self, epoch: u64, start_ms: u64, length_ms: u64, now_ms: u64) {
        if self.epoch == Some(epoch) {
            return;
        }
        self.epoch = Some(epoch);
        let count = (length_ms / millis(self.mean).max(1)).max(1);
        let draw = |_| start_ms + ((u128::from(rand::random::<u64>()) * u128::from(length_ms)) >> 64) as u64;
        self.due = (0..count.min(10_000)).map(draw).filter(|due| *due > now_ms).collect();
        self.due.sort_unstable_by(|a, b| b.cmp(a));
    }

    /// Whether one is due; several that are overdue count as one.
    fn take_due(&mut self, now_ms: u64) -> bool {
        let before = self.due.len();
        while self.due.last().is_some_and(|due| *due <= now_ms) {
            self.due.pop();
        }
        self.due.len() < before
    }
}

impl Gateway {
    /// Challenges a member as long as its session lasts.
    pub(super) async fn challenge_while_connected(self: Arc<Self>, peer: GridPeerId, session: u64) {
        let mut compute = Times::new(self.settings.compute_challenge);
        let mut storage = Times::new(self.settings.storage_challenge);
        let mut computed = false;
        let mut stored: Vec<ModelDigest> = Vec::new();
        while self.peers.is_current(&peer, session) {
            let pause = match self.challenge_step(&peer, &mut compute, &mut storage, &mut computed, &mut stored).await {
                Ok(pause) => pause,
                Err(error) => {
                    self.ledger_failed("challenging a node", &error);
                    AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Does what is due and says how long to wait.
    async fn challenge_step(
        self: &Arc<Self>,
        peer: &GridPeerId,
        compute: &mut Times,
        storage: &mut Times,
        computed: &mut bool,
        stored: &mut Vec<ModelDigest>,
    ) -> Result<Duration, LedgerError> {
        let Some(network) = self.network_config().filter(|network| !network.paused) else { return Ok(WAIT) };
        if self.workers().is_none() || self.peers.get(peer).statement.is_none() {
            return Ok(WAIT / 10);
        }
        // Outside its availability windows the machine is its owner's: what it cannot prove now says nothing about it.
        if self.members.get(peer).is_some_and(|record| record.member.resting) {
            return Ok(WAIT);
        }
        let now_ms = self.clock.now_ms();
        let epoch = self.epoch_at(now_ms).0;
        let length_ms = network.epoch_seconds.saturating_mul(1000).max(1);
        let start_ms = network.genesis.saturating_add(epoch.saturating_mul(network.epoch_seconds)).saturating_mul(1000);
        compute.draw(epoch, start_ms, length_ms, now_ms);
        storage.draw(epoch, start_ms, length_ms, now_ms);
        if !*computed || compute.take_due(now_ms) {
            *computed = self.challenge_compute(peer).await?;
            if !*computed {
                return Ok(AGAIN);
            }
        }
        self.probe_external(peer).await?;
        let due = storage.take_due(now_ms);
        self.challenge_storage(peer, due, stored).await?;
        Ok(WAIT / 2)
    }

    /// One exact matrix product, timed and spot-checked. `false` when there was no answer at all.
    async fn challenge_compute(self: &Arc<Self>, peer: &GridPeerId) -> Result<bool, LedgerError> {
        let Some(workers) = self.workers() else { return Ok(false) };
        let epoch = self.epoch_at(self.clock.now_ms()).0;
        let secret = self.ledger.epoch_secret(epoch, rand::random()).await?;
        let issued_ms = self.clock.now_ms();
        let outcome = match compute(workers.as_ref(), peer, self.settings.gemm, &secret).await {
            Ok(outcome) => outcome,
            // A peer that is gone, or a limit of ours: nothing happened.
            Err(WorkerError::NotConnected | WorkerError::RateLimited) => return Ok(false),
            Err(error) => Outcome::unanswered(error),
        };
        let answered = outcome.outcome != ChallengeOutcome::Unanswered;
        self.log_challenge(peer, ChallengeKind::Gemm, None, issued_ms, outcome).await?;
        Ok(answered)
    }

    /// Every assigned blob of a Storage node: new ones at once, the others when it is time.
    async fn challenge_storage(
        self: &Arc<Self>,
        peer: &GridPeerId,
        due: bool,
        stored: &mut Vec<ModelDigest>,
    ) -> Result<(), LedgerError> {
        let (Some(record), Some(workers)) = (self.members.get(peer), self.workers()) else { return Ok(()) };
        if !record.member.roles.contains(&NodeRole::Storage) {
            return Ok(());
        }
        for digest in &record.member.models {
            let held_before = stored.contains(digest);
            let Some(bytes) = self.blobs.size(digest).await else { continue };
            if (held_before && !due) || self.is_pending(peer, digest) {
                continue;
            }
            let issued_ms = self.clock.now_ms();
            let outcome = match self.storage(workers.as_ref(), peer, digest, bytes).await {
                Ok(outcome) => outcome,
                Err(WorkerError::NotConnected | WorkerError::RateLimited) => continue,
                // It never said that it has it: it is still fetching.
                Err(_) if !held_before => continue,
                Err(error) => Outcome::unanswered(error),
            };
            if outcome.outcome == ChallengeOutcome::Passed && !held_before {
                stored.push(*digest);
            }
            self.log_challenge(peer, ChallengeKind::Storage, Some(*digest), issued_ms, outcome).await?;
        }
        Ok(())
    }

    /// Whether a worker says that it does not have a blob yet.
    fn is_pending(&self, peer: &GridPeerId, digest: &ModelDigest) -> bool {
        let view = self.peers.get(peer);
        let pending = view.statement.iter().flat_map(|statement| &statement.info.pending);
        pending.filter(|model| model.state == "Fetching").any(|model| model.digest == digest.0)
    }

    async fn storage(
        &self,
        workers: &dyn Workers,
        peer: &GridPeerId,
        digest: &ModelDigest,
        bytes: u64,
    ) -> Result<Outcome, WorkerError> {
        let nonce: [u8; 32] = rand::random();
        let leaves = choose_leaves(&nonce, n_leaves(bytes), LEAVES_PER_CHALLENGE);
        let challenge = StorageChallenge { blob: digest.0.to_vec(), nonce: nonce.to_vec(), leaves: leaves.clone() };
        let reply = ask(workers, peer, rand::random(), challenge_request::Kind::Storage(challenge)).await?;
        let challenge_reply::Kind::Storage(proof) = reply else {
            return Ok(Outcome::failed("the answer to a storage challenge was something else"));
        };
        match self.expected_answer(digest, bytes, &nonce, &leaves).await {
            Ok(expected) if expected.as_slice() == proof.tag => Ok(Outcome::passed(bytes)),
            Ok(_) => {
                Ok(Outcome::failed("the answer to a storage challenge is wrong: the blob is damaged or not there"))
            }
            Err(error) => Err(WorkerError::Broken(format!("this gateway cannot read its own copy: {error}"))),
        }
    }

    async fn expected_answer(
        &self,
        digest: &ModelDigest,
        bytes: u64,
        nonce: &[u8; 32],
        leaves: &[u64],
    ) -> std::io::Result<[u8; 32]> {
        let mut answer = StorageAnswer::new(nonce);
        for (offset, length) in leaves.iter().filter_map(|leaf| leaf_range(*leaf, bytes)) {
            answer.push(&self.blobs.read(digest, offset, length).await?);
        }
        Ok(answer.finish())
    }

    async fn log_challenge(
        &self,
        peer: &GridPeerId,
        kind: ChallengeKind,
        model: Option<ModelDigest>,
        issued_ms: u64,
        outcome: Outcome,
    ) -> Result<(), LedgerError> {
        let Some(record) = self.members.get(peer) else { return Ok(()) };
        self.metrics.challenges.with_label_values(&[kind.name(), outcome.outcome.name()]).inc();
        let answered_ms = self.clock.now_ms();
        if outcome.outcome != ChallengeOutcome::Passed {
            tracing::warn!(%peer, kind = kind.name(), outcome = outcome.outcome.name(), "{}", outcome.message);
        }
        let record = ChallengeRecord {
            id: rand::random(),
            address: record.address,
            epoch: self.epoch_at(issued_ms).0,
            kind,
            model,
            issued_ms,
            answered_ms,
            outcome: outcome.outcome,
            units: outcome.units,
            message: outcome.message.chars().take(300).collect(),
        };
        self.ledger.log_challenge(peer, &record).await?;
        self.refresh_standing(peer).await?;
        self.dispatch.notify_one();
        Ok(())
    }
}

/// Commitment, then tiles chosen afterwards, then the check. Units: multiply-adds per millisecond until the commitment.
async fn compute(
    workers: &dyn Workers,
    peer: &GridPeerId,
    params: GemmParams,
    epoch_secret: &[u8; 32],
) -> Result<Outcome, WorkerError> {
    let seed_a: [u8; 32] = rand::random();
    let seed_b = blake3::derive_key("xdc-grid gemm epoch matrix v1", epoch_secret);
    let id: [u8; 16] = rand::random();
    let challenge = GemmChallenge {
        seed_a: seed_a.to_vec(),
        seed_b: seed_b.to_vec(),
        m: params.m,
        n: params.n,
        k: params.k,
        rounds: params.rounds,
    };
    let sent = Instant::now();
    let challenge_reply::Kind::Commit(commit) =
        ask(workers, peer, id, challenge_request::Kind::Gemm(challenge)).await?
    else {
        return Ok(Outcome::failed("the answer to a compute challenge was no commitment"));
    };
    let elapsed_ms = u64::try_from(sent.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    let roots: Option<Vec<[u8; 32]>> = commit.roots.iter().map(|root| root.as_slice().try_into().ok()).collect();
    let Some(roots) = roots else { return Ok(Outcome::failed("a root of the commitment is not 32 bytes long")) };

    let secret = blake3::derive_key("xdc-grid gemm epoch secret v1", epoch_secret);
    let verifier = tokio::task::spawn_blocking(move || GemmVerifier::new(params, &seed_b, &secret)).await;
    let Ok(Ok(verifier)) = verifier else { return Err(WorkerError::Broken("this gateway cannot check it".into())) };
    let asked = verifier.choose_tiles(&rand::random(), TILES_PER_CHALLENGE);
    let open = GemmOpen { tiles: asked.clone() };
    let challenge_reply::Kind::Tiles(opened) = ask(workers, peer, id, challenge_request::Kind::GemmOpen(open)).await?
    else {
        return Ok(Outcome::failed("the answer to an opening was no tiles"));
    };
    let tiles: Option<Vec<Tile>> = opened.tiles.into_iter().map(tile).collect();
    let Some(tiles) = tiles else { return Ok(Outcome::failed("a hash in the opened tiles is not 32 bytes long")) };
    let checked = tokio::task::spawn_blocking(move || verifier.check(&seed_a, &roots, &asked, &tiles)).await;
    match checked {
        Ok(Ok(())) => Ok(Outcome::passed(params.ops() / elapsed_ms)),
        Ok(Err(mismatch)) => Ok(Outcome::failed(mismatch)),
        Err(_) => Err(WorkerError::Broken("this gateway cannot check it".into())),
    }
}

async fn ask(
    workers: &dyn Workers,
    peer: &GridPeerId,
    id: [u8; 16],
    kind: challenge_request::Kind,
) -> Result<challenge_reply::Kind, WorkerError> {
    let reply = workers.challenge(peer, ChallengeRequest { challenge_id: id.to_vec(), kind: Some(kind) }).await?;
    match reply.kind {
        Some(challenge_reply::Kind::Refused(refused)) => Err(WorkerError::Refused(refused)),
        Some(kind) => Ok(kind),
        None => Err(WorkerError::Malformed("the answer to a challenge cannot be read".into())),
    }
}

fn tile(tile: crate::protocol::wire::GemmTile) -> Option<Tile> {
    let path: Option<_> = tile.path.iter().map(|hash| hash.as_slice().try_into().ok()).collect();
    Some(Tile { index: tile.index, values: tile.values, path: path? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_has_a_challenge_however_short_it_is() {
        let mut times = Times::new(Duration::from_secs(900));
        times.draw(3, 1_000, 60_000, 0);
        assert_eq!(times.due.len(), 1);
        assert!((1_000..61_000).contains(&times.due[0]));
        assert!(times.take_due(61_000));
        times.draw(3, 1_000, 60_000, 0);
        assert!(!times.take_due(61_000));
    }

    #[test]
    fn overdue_challenges_count_as_one() {
        let mut times = Times::new(Duration::from_secs(1));
        times.draw(0, 0, 60_000, 0);
        assert!(times.due.len() > 30);
        assert!(times.take_due(60_000));
        assert!(!times.take_due(60_000));
    }
}
