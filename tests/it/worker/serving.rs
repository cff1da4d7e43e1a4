//! Offers, leases, streams, receipts.

use std::sync::Arc;

use tokio::sync::Semaphore;
use xdc_grid::protocol::{
    internal::NodeRole,
    wire::{Cancel, ChatMessage, Refused, Start, infer_command, infer_event},
};

use super::{
    gateway::{Blob, TestGateway, TestWorker, advert, finish, parrots, send, start},
    parrot::{Parrot, Parrots},
};
use crate::grid::node::{PATIENCE, eventually};

async fn serving(how: Parrots) -> (TestGateway, TestWorker, Blob) {
    let blob = Blob::of(vec![7; 1000]);
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let worker = gateway.worker(parrots(how)).await;
    gateway.ready(&worker.peer(), &blob, &["Compute", "Verify", "Storage"]).await;
    (gateway, worker, blob)
}

/// A worker whose engine says a token for each permit; it has none left when it begins to serve.
async fn braked() -> (TestGateway, TestWorker, Blob, &'static Semaphore) {
    let (how, brake) = Parrots::braked();
    // For its test of itself.
    brake.add_permits(1_000);
    let (gateway, worker, blob) = serving(how).await;
    brake.forget_permits(1_000);
    (gateway, worker, blob, brake)
}

/// The error that ends a stream.
async fn error(stream: &mut xdc_grid::grid::InferClient) -> Refused {
    loop {
        match stream.next().await.unwrap().expect("the stream ended").kind {
            Some(infer_event::Kind::Error(refused)) => return refused,
            Some(infer_event::Kind::Finished(_)) => panic!("it finished"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn an_answer_streams_and_ends_in_a_signed_receipt_that_both_sides_keep() {
    let (gateway, worker, blob) = serving(Parrots::default()).await;
    let answer = gateway.infer(&worker, &start(&blob, 1, "polly", 8)).await;
    assert_eq!((answer.text.as_str(), answer.finish.as_str()), ("pollypol", "length"));
    assert_eq!((answer.receipt.promptTokens, answer.receipt.outputTokens), (5, 8));
    let seed = xdc_grid::verify::sampler::seed(&[1; 32], &[4; 32], &[5; 32], &blob.digest.0);
    assert_eq!(answer.receipt.seed.0, seed);
    let claims = worker.claims(1).await;
    assert!(claims[0].contains(gateway.node.peer().as_str()) && claims[0].contains("\"epoch\":5"), "{}", claims[0]);
}

#[tokio::test]
async fn a_template_makes_the_prompt_of_an_answer_and_of_its_audit() {
    let (gateway, worker, blob) = serving(Parrots::default()).await;
    let chat = Start {
        messages: vec![ChatMessage { role: "user".into(), content: "lly".into() }],
        chat_template: "po".into(),
        ..start(&blob, 1, "", 5)
    };
    let answer = gateway.infer(&worker, &chat).await;
    assert_eq!((answer.text.as_str(), answer.receipt.promptTokens), ("polly", 5));
    let replay = gateway.audit(&worker.peer(), &chat, &answer.tokens).await.unwrap();
    assert_eq!(replay.prompt_hash, answer.receipt.promptHash.0);
    let other = Start { chat_template: "ba".into(), ..chat };
    let replay = gateway.audit(&worker.peer(), &other, &answer.tokens).await.unwrap();
    assert_ne!(replay.prompt_hash, answer.receipt.promptHash.0);
}

#[tokio::test]
async fn a_redispatched_request_goes_on_after_the_tokens_the_client_has() {
    let (gateway, worker, blob) = serving(Parrots::default()).await;
    let request = Start { prefix: vec![u32::from(b'p'), u32::from(b'o')], ..start(&blob, 1, "polly", 5) };
    let mut stream = gateway.start(&worker.peer(), &request).await;
    let first = stream.next().await.unwrap().unwrap().kind;
    assert!(matches!(first, Some(infer_event::Kind::Token(token)) if token.index == 2 && token.text == "l"));
}

#[tokio::test]
async fn a_slow_engine_is_heard_by_its_heartbeats() {
    let (gateway, worker, blob, brake) = braked().await;
    let mut stream = gateway.start(&worker.peer(), &start(&blob, 1, "x", 2)).await;
    for _ in 0..2 {
        let kind = stream.next().await.unwrap().expect("the stream ended").kind;
        assert!(matches!(&kind, Some(infer_event::Kind::Heartbeat(heartbeat)) if heartbeat.tokens == 0), "{kind:?}");
    }
    brake.add_permits(2);
    assert_eq!(finish(&mut stream).await.tokens.len(), 2);
}

#[tokio::test]
async fn a_full_worker_is_busy_until_a_slot_comes_free() {
    let (gateway, worker, blob, brake) = braked().await;
    let peer = worker.peer();
    let mut first = gateway.start(&peer, &start(&blob, 1, "one", 5)).await;
    let _second = gateway.start(&peer, &start(&blob, 2, "two", 500)).await;
    gateway.info_with(&peer, |info| info.running == 2).await;
    let refused = gateway.offer(&peer, &start(&blob, 3, "three", 5)).await.unwrap_err();
    assert_eq!(refused.reason, "Busy");
    assert!(refused.retry_after_ms > 0);
    // Enough for the first, whatever the second takes of them.
    brake.add_permits(400);
    finish(&mut first).await;
    eventually("a slot is free", async || gateway.offer(&peer, &start(&blob, 3, "three", 5)).await.is_ok()).await;
}

#[tokio::test]
async fn a_cancelled_request_stops_says_so_and_frees_its_slot() {
    let (gateway, worker, blob, _brake) = braked().await;
    let peer = worker.peer();
    let mut stream = gateway.start(&peer, &start(&blob, 1, "long", 500)).await;
    assert!(stream.next().await.unwrap().is_some());
    send(&mut stream, infer_command::Kind::Cancel(Cancel {})).await;
    assert_eq!(error(&mut stream).await.reason, "Cancelled");
    gateway.info_with(&peer, |info| info.running == 0).await;
}

#[tokio::test]
async fn a_request_whose_gateway_goes_away_frees_its_slot() {
    let (gateway, worker, blob, _brake) = braked().await;
    let peer = worker.peer();
    let mut stream = gateway.start(&peer, &start(&blob, 1, "long", 500)).await;
    assert!(stream.next().await.unwrap().is_some());
    drop(stream);
    gateway.info_with(&peer, |info| info.running == 0).await;
}

#[tokio::test]
async fn a_stream_without_a_fitting_lease_is_refused() {
    let (gateway, worker, blob) = serving(Parrots::default()).await;
    let peer = worker.peer();
    let accept = gateway.offer(&peer, &start(&blob, 1, "x", 5)).await.unwrap();
    // The lease that there is first: it is not held for long.
    let cases = [(accept.lease_id, 2, "LeaseMismatch"), (vec![9; 16], 1, "NoLease"), (vec![1], 1, "MalformedRequest")];
    for (lease_id, number, reason) in cases {
        let mut stream = gateway.node.grid.handle.open_infer(&peer).await.unwrap();
        stream.receiver.set_idle(PATIENCE);
        let start = Start { lease_id, ..start(&blob, number, "x", 5) };
        send(&mut stream, infer_command::Kind::Start(start)).await;
        assert_eq!(error(&mut stream).await.reason, reason);
    }
}

#[tokio::test]
async fn offers_that_cannot_be_served_say_why() {
    let (gateway, worker, blob) = serving(Parrots::default()).await;
    let peer = worker.peer();
    let other = Blob::of(vec![1]);
    assert_eq!(gateway.offer(&peer, &start(&other, 1, "x", 5)).await.unwrap_err().reason, "ModelNotReady");
    assert_eq!(gateway.offer(&peer, &start(&blob, 1, "x", 1000)).await.unwrap_err().reason, "ContextExceeded");
    assert_eq!(gateway.offer(&peer, &start(&blob, 1, "x", 0)).await.unwrap_err().reason, "MalformedRequest");
}

#[tokio::test]
async fn a_node_serves_only_in_its_roles() {
    let blob = Blob::of(vec![7; 1000]);
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let unwilling = |options: &mut xdc_grid::worker::WorkerOptions| options.roles = vec![NodeRole::Verify];
    let worker = gateway.worker_with(parrots(Parrots::default()), unwilling).await;
    gateway.ready(&worker.peer(), &blob, &["Compute", "Verify"]).await;
    let refused = gateway.offer(&worker.peer(), &start(&blob, 1, "x", 5)).await.unwrap_err();
    assert_eq!(refused.reason, "NotCompute");
}

#[tokio::test]
async fn a_draining_worker_finishes_what_runs_and_takes_nothing_new() {
    let (mut gateway, worker, blob, brake) = braked().await;
    let peer = worker.peer();
    let mut stream = gateway.start(&peer, &start(&blob, 1, "hello", 10)).await;
    assert!(stream.next().await.unwrap().is_some());
    let draining = tokio::spawn(worker.worker.drain());
    advert(&mut gateway, |info| info.draining).await;
    assert_eq!(gateway.offer(&peer, &start(&blob, 2, "x", 5)).await.unwrap_err().reason, "Draining");
    brake.add_permits(10);
    let mut finished = false;
    while let Some(event) = stream.next().await.unwrap() {
        finished |= matches!(event.kind, Some(infer_event::Kind::Finished(_)));
        if finished {
            break;
        }
    }
    assert!(finished);
    draining.await.unwrap();
    gateway.node.gone(&peer).await;
}

#[tokio::test]
async fn a_program_around_the_worker_can_answer_with_another_engine() {
    let blob = Blob::of(vec![7; 1000]);
    let mut gateway = TestGateway::serving(blob.clone()).await;
    let mut hooks = parrots(Parrots::default());
    hooks.answer_with = Some(Arc::new(|start, honest| match start.prompt.as_str() {
        "cheat" => Arc::new(Parrot::new(Parrots { inexact: true, ..Parrots::default() })),
        _ => honest,
    }));
    let cheater = gateway.worker(hooks).await;
    let verifier = gateway.worker(parrots(Parrots::default())).await;
    for worker in [&cheater, &verifier] {
        gateway.ready(&worker.peer(), &blob, &["Compute", "Verify"]).await;
    }
    for (number, prompt, honest) in [(1, "honest", true), (2, "cheat", false)] {
        let request = start(&blob, number, prompt, 6);
        let answer = gateway.infer(&cheater, &request).await;
        let replay = gateway.audit(&verifier.peer(), &request, &answer.tokens).await.unwrap();
        assert_eq!(replay.first_mismatch == 0, honest, "{prompt}: {replay:?}");
    }
}
