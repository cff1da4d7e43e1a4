//! Audits and challenges.

use xdc_grid::{
    protocol::{
        fields::RequestFields,
        receipt::hash_tokens,
        wire::{
            ChallengeReply, ChallengeRequest, GemmChallenge, GemmOpen, Start, StorageChallenge, challenge_reply,
            challenge_request,
        },
    },
    verify::{
        gemm::{GemmParams, GemmVerifier, TILES_PER_CHALLENGE, Tile},
        storage::{LEAVES_PER_CHALLENGE, StorageAnswer, choose_leaves, leaf_range, n_leaves},
        told,
    },
};

use super::{
    gateway::{Blob, TestGateway, TestWorker, parrots, start},
    parrot::Parrots,
};

async fn member(roles: &[&str], blob: &Blob) -> (TestGateway, TestWorker) {
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let worker = gateway.worker(parrots(Parrots::default())).await;
    gateway.ready(&worker.peer(), blob, roles).await;
    (gateway, worker)
}

async fn challenge(
    gateway: &TestGateway,
    worker: &TestWorker,
    id: u8,
    kind: challenge_request::Kind,
) -> Option<challenge_reply::Kind> {
    let request = ChallengeRequest { challenge_id: vec![id; 16], kind: Some(kind) };
    let ChallengeReply { kind } = gateway.node.grid.handle.challenge(&worker.peer(), request).await.unwrap();
    kind
}

fn reason(kind: Option<challenge_reply::Kind>) -> String {
    match kind {
        Some(challenge_reply::Kind::Refused(refused)) => refused.reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn an_audit_reports_what_the_replay_found() {
    let blob = Blob::of(vec![7; 1000]);
    let (gateway, worker) = member(&["Verify"], &blob).await;
    let request = start(&blob, 1, "polly", 8);
    let mut output: Vec<u32> = "pollypol".bytes().map(u32::from).collect();
    let replay = gateway.audit(&worker.peer(), &request, &output).await.unwrap();
    assert_eq!((replay.first_mismatch, replay.prompt_tokens), (0, 5));
    assert_eq!(replay.trace_root, hash_tokens(&output));
    assert_eq!(replay.kernel_profile, "parrot/1");
    output[3] += 1;
    assert_eq!(gateway.audit(&worker.peer(), &request, &output).await.unwrap().first_mismatch, 4);
}

#[tokio::test]
async fn an_audit_finds_the_log_probabilities_that_an_honest_worker_told() {
    let blob = Blob::of(vec![7; 1000]);
    let (gateway, worker) = member(&["Compute", "Verify"], &blob).await;
    let request = Start { top_logprobs: Some(2), ..start(&blob, 1, "polly", 8) };
    let answer = gateway.infer(&worker, &request).await;
    assert_eq!((answer.logprobs.len(), answer.logprobs[0].top.len()), (8, 2));
    assert_eq!(answer.logprobs[0].bytes, b"p");
    let replay = gateway.audit(&worker.peer(), &request, &answer.tokens).await.unwrap();
    assert_eq!(replay.logprobs_hash, told::hash(&answer.logprobs));
    assert_eq!(replay.sampler, answer.receipt.sampler.to_vec());
    // Of what the client had already, nothing was told.
    let rest = Start { prefix: answer.tokens[..3].to_vec(), ..request.clone() };
    let replay = gateway.audit(&worker.peer(), &rest, &answer.tokens).await.unwrap();
    assert_eq!(replay.logprobs_hash, told::hash(&answer.logprobs[3..]));
    let plain = gateway.infer(&worker, &start(&blob, 2, "polly", 8)).await;
    assert!(plain.logprobs.is_empty() && plain.receipt.sampler != answer.receipt.sampler);
    let replay = gateway.audit(&worker.peer(), &start(&blob, 2, "polly", 8), &plain.tokens).await.unwrap();
    assert!(replay.logprobs_hash.is_empty());
}

#[tokio::test]
async fn a_worker_says_which_fields_of_a_request_it_knows() {
    let blob = Blob::of(vec![7; 1000]);
    let (gateway, worker) = member(&["Compute"], &blob).await;
    let info = gateway.info_with(&worker.peer(), |_| true).await;
    let names = info.request_fields.iter().map(String::as_str);
    assert_eq!(RequestFields::of_names(names), RequestFields::all());
}

#[tokio::test]
async fn only_a_verify_node_audits() {
    let blob = Blob::of(vec![7; 1000]);
    let (gateway, worker) = member(&["Compute"], &blob).await;
    let refused = gateway.audit(&worker.peer(), &start(&blob, 1, "x", 3), &[1]).await.unwrap_err();
    assert_eq!(refused.reason, "NotVerify");
}

#[tokio::test]
async fn a_compute_challenge_is_committed_to_and_opened_once() {
    let blob = Blob::of(vec![7; 1000]);
    let (gateway, worker) = member(&["Compute"], &blob).await;
    let params = GemmParams { m: 64, n: 512, k: 256, rounds: 3 };
    let GemmParams { m, n, k, rounds } = params;
    let (seed_a, seed_b) = ([1; 32], [2; 32]);
    let ask = GemmChallenge { seed_a: seed_a.to_vec(), seed_b: seed_b.to_vec(), m, n, k, rounds };
    let reply = challenge(&gateway, &worker, 1, challenge_request::Kind::Gemm(ask)).await;
    let Some(challenge_reply::Kind::Commit(commit)) = reply else { panic!("{reply:?}") };
    let roots: Vec<_> = commit.roots.iter().map(|root| root.as_slice().try_into().unwrap()).collect();
    let verifier = GemmVerifier::new(params, &seed_b, &[3; 32]).unwrap();
    let asked = verifier.choose_tiles(&[4; 32], TILES_PER_CHALLENGE);
    let open = challenge_request::Kind::GemmOpen(GemmOpen { tiles: asked.clone() });
    let reply = challenge(&gateway, &worker, 1, open.clone()).await;
    let Some(challenge_reply::Kind::Tiles(tiles)) = reply else { panic!("{reply:?}") };
    let tiles: Vec<_> = tiles
        .tiles
        .into_iter()
        .map(|tile| Tile {
            index: tile.index,
            values: tile.values,
            path: tile.path.iter().map(|hash| hash.as_slice().try_into().unwrap()).collect(),
        })
        .collect();
    verifier.check(&seed_a, &roots, &asked, &tiles).unwrap();
    assert_eq!(reason(challenge(&gateway, &worker, 1, open).await), "NoChallenge");
}

#[tokio::test]
async fn a_challenge_beyond_all_measure_is_refused() {
    let blob = Blob::of(vec![7; 1000]);
    let (gateway, worker) = member(&["Compute"], &blob).await;
    let ask = GemmChallenge { seed_a: vec![1; 32], seed_b: vec![2; 32], m: 1 << 14, n: 1 << 14, k: 1 << 14, rounds: 1 };
    assert_eq!(reason(challenge(&gateway, &worker, 1, challenge_request::Kind::Gemm(ask)).await), "MalformedRequest");
}

#[tokio::test]
async fn a_storage_challenge_is_answered_from_the_blob_itself() {
    let mut bytes = vec![0; 1_000_003];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let blob = Blob::of(bytes.clone());
    let (gateway, worker) = member(&["Compute", "Storage"], &blob).await;
    let nonce = [9; 32];
    let leaves = choose_leaves(&nonce, n_leaves(bytes.len() as u64), LEAVES_PER_CHALLENGE);
    let ask = |blob: &Blob| {
        challenge_request::Kind::Storage(StorageChallenge {
            blob: blob.digest.0.to_vec(),
            nonce: nonce.to_vec(),
            leaves: leaves.clone(),
        })
    };
    let reply = challenge(&gateway, &worker, 1, ask(&blob)).await;
    let Some(challenge_reply::Kind::Storage(proof)) = reply else { panic!("{reply:?}") };
    let mut expected = StorageAnswer::new(&nonce);
    for leaf in &leaves {
        let (offset, length) = leaf_range(*leaf, bytes.len() as u64).unwrap();
        expected.push(&bytes[offset as usize..][..length]);
    }
    assert_eq!(proof.tag, expected.finish());
    assert_eq!(reason(challenge(&gateway, &worker, 2, ask(&Blob::of(vec![1]))).await), "BlobNotHeld");
}
