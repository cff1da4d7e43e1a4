//! What authenticated peers do: requests, streams, adverts, and coming back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::timeout;
use xdc_grid::{
    grid::{FrameError, GridEvent, OpenError, Rate, Reason, RequestError},
    protocol::{
        identity::NodeKey,
        wire::{
            Assign, AssignedModel, BlobEvent, BlobRequest, ChallengeRequest, Heartbeat, InferCommand, InferEvent,
            NodeInfo, Offer, Start, Token, blob_event, challenge_reply, infer_command, infer_event, limits,
            offer_reply,
        },
    },
};

use super::node::{Members, PATIENCE, QUIC, TCP, TestNode, eventually, gateway_limits, pair, pair_with, worker_limits};

fn token(index: u32) -> InferEvent {
    InferEvent {
        kind: Some(infer_event::Kind::Token(Token { index, id: index * 2, text: "x".into(), logprobs: None })),
    }
}

fn start_frame(prompt: &str) -> InferCommand {
    InferCommand { kind: Some(infer_command::Kind::Start(Start { prompt: prompt.into(), ..Default::default() })) }
}

#[tokio::test]
async fn worker_and_gateway_authenticate_over_tcp_and_over_quic() {
    for (listen, part) in [(TCP, "/tcp/"), (QUIC, "/quic-v1")] {
        let (mut gateway, worker) = pair(listen).await;
        assert!(gateway.address("127.0.0.1").await.to_string().contains(part));
        assert_eq!(gateway.grid.handle.peers().await, [worker.peer()]);
        assert_eq!(worker.grid.handle.peers().await, [gateway.peer()]);
    }
}

#[tokio::test]
async fn the_gateway_learns_address_and_software_of_a_worker() {
    let key = NodeKey::generate();
    let mut gateway = TestNode::gateway(&NodeKey::generate(), "", Members::of(&[&key]), &[TCP], gateway_limits()).await;
    let address = gateway.address("127.0.0.1").await;
    let _worker = TestNode::worker(&key, "", vec![address], worker_limits()).await;
    let event = gateway.event(|event| matches!(event, GridEvent::PeerAuthenticated { .. })).await;
    let expected =
        GridEvent::PeerAuthenticated { peer: key.peer_id(), address: key.address(), software: "test-worker/1".into() };
    assert_eq!(event, expected);
}

#[tokio::test]
async fn every_request_is_answered_over_both_transports() {
    for listen in [TCP, QUIC] {
        let (gateway, worker) = pair(listen).await;
        let (handle, peer) = (&gateway.grid.handle, worker.peer());
        assert_eq!(handle.info(&peer).await.unwrap().region, gateway.peer().to_string());
        let model = AssignedModel { digest: vec![1; 32], ..Default::default() };
        handle.assign(&peer, Assign { models: vec![model], roles: vec![] }).await.unwrap();
        let refused = handle.assign(&peer, Assign::default()).await.unwrap_err();
        assert!(matches!(refused, RequestError::Refused(refused) if refused.reason == "Empty"));
        let offer = Offer { request_id: vec![9; 32], attempt: 3, ..Default::default() };
        let Some(offer_reply::Kind::Accept(accept)) = handle.offer(&peer, offer).await.unwrap().kind else { panic!() };
        assert_eq!((accept.lease_id, accept.queued), (vec![9; 32], 3));
        let ask = ChallengeRequest { challenge_id: vec![5; 16], kind: None };
        let reply = handle.challenge(&peer, ask).await.unwrap();
        assert!(matches!(reply.kind, Some(challenge_reply::Kind::Storage(proof)) if proof.tag == vec![5; 16]));
    }
}

#[tokio::test]
async fn a_request_to_a_peer_that_is_not_there_fails_at_once() {
    let (gateway, _worker) = pair(TCP).await;
    let stranger = NodeKey::generate().peer_id();
    assert!(matches!(gateway.grid.handle.info(&stranger).await, Err(RequestError::NotConnected)));
    assert!(matches!(gateway.grid.handle.open_infer(&stranger).await, Err(OpenError::NotConnected)));
}

#[tokio::test]
async fn frames_flow_both_ways_on_an_infer_stream() {
    for listen in [TCP, QUIC] {
        let (gateway, mut worker) = pair(listen).await;
        let mut client = gateway.grid.handle.open_infer(&worker.peer()).await.unwrap();
        client.receiver.set_idle(PATIENCE);
        client.send(&start_frame("hello")).await.unwrap();
        let (from, mut server) = timeout(PATIENCE, worker.grid.infer.recv()).await.unwrap().unwrap();
        server.receiver.set_idle(PATIENCE);
        assert_eq!(from, gateway.peer());
        assert_eq!(server.next().await.unwrap(), Some(start_frame("hello")));
        for index in 0..100 {
            server.send(&token(index)).await.unwrap();
        }
        server.sender.close().await.unwrap();
        for index in 0..100 {
            assert_eq!(client.next().await.unwrap(), Some(token(index)));
        }
        assert_eq!(client.next().await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_blob_flows_from_gateway_to_worker() {
    let (mut gateway, worker) = pair(TCP).await;
    let mut client = worker.grid.handle.open_blob(&gateway.peer()).await.unwrap();
    client.receiver.set_idle(PATIENCE);
    client.send(&BlobRequest { digest: vec![1; 32], offset: 7 }).await.unwrap();
    let (from, mut server) = timeout(PATIENCE, gateway.grid.blob.recv()).await.unwrap().unwrap();
    assert_eq!(from, worker.peer());
    assert_eq!(server.next().await.unwrap().unwrap().offset, 7);
    let chunk = BlobEvent { kind: Some(blob_event::Kind::Chunk(vec![3; limits::BLOB_CHUNK])) };
    let sending = tokio::spawn({
        let chunk = chunk.clone();
        async move {
            for _ in 0..20 {
                server.send(&chunk).await.unwrap();
            }
            server.sender.close().await.unwrap();
        }
    });
    for _ in 0..20 {
        assert_eq!(client.next().await.unwrap().as_ref(), Some(&chunk));
    }
    sending.await.unwrap();
}

#[tokio::test]
async fn many_streams_at_once_all_arrive_and_the_seventeenth_is_told_busy() {
    let (gateway, mut worker) = pair(TCP).await;
    let (handle, peer) = (gateway.grid.handle.clone(), worker.peer());
    let opening = (0..16).map(|index| {
        let (handle, peer) = (handle.clone(), peer.clone());
        async move {
            let mut stream = handle.open_infer(&peer).await.unwrap();
            stream.send(&start_frame(&index.to_string())).await.unwrap();
            stream
        }
    });
    let clients = futures::future::join_all(opening).await;
    let mut servers = vec![];
    for _ in 0..16 {
        servers.push(timeout(PATIENCE, worker.grid.infer.recv()).await.unwrap().unwrap());
    }
    let mut one_more = handle.open_infer(&peer).await.unwrap();
    one_more.receiver.set_idle(PATIENCE);
    let answer = one_more.next().await.unwrap().and_then(|event| event.kind);
    assert!(matches!(answer, Some(infer_event::Kind::Error(refused)) if refused.reason == "Busy"));
    assert_eq!(worker.refusals("infer", Reason::Busy), 1);
    // A finished stream makes room.
    drop((servers, clients));
    let mut stream = handle.open_infer(&peer).await.unwrap();
    stream.send(&start_frame("again")).await.unwrap();
    assert!(timeout(PATIENCE, worker.grid.infer.recv()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_silent_worker_is_noticed_by_its_missing_heartbeats() {
    let (gateway, mut worker) = pair(TCP).await;
    let mut client = gateway.grid.handle.open_infer(&worker.peer()).await.unwrap();
    client.send(&start_frame("x")).await.unwrap();
    let (_, mut server) = timeout(PATIENCE, worker.grid.infer.recv()).await.unwrap().unwrap();
    server.send(&InferEvent { kind: Some(infer_event::Kind::Heartbeat(Heartbeat { tokens: 0 })) }).await.unwrap();
    client.receiver.set_idle(PATIENCE);
    assert!(client.next().await.unwrap().is_some());
    client.receiver.set_idle(Duration::from_millis(300));
    assert!(matches!(client.next().await, Err(FrameError::Idle(_))));
}

#[tokio::test]
async fn a_frame_over_the_limit_never_leaves_and_one_that_arrives_ends_the_stream() {
    let (gateway, worker) = pair(TCP).await;
    let mut client = gateway.grid.handle.open_infer(&worker.peer()).await.unwrap();
    let large = start_frame(&"x".repeat(limits::INFER + 1));
    assert!(matches!(client.send(&large).await, Err(FrameError::TooLarge { .. })));
}

#[tokio::test]
async fn a_worker_refuses_offers_above_its_rate_and_a_gateway_holds_itself_back() {
    let (mut strict, mut easy) = (worker_limits(), gateway_limits());
    strict.rates.job = Rate::new(0.01, 5.0);
    easy.rates.job = Rate::new(1000.0, 1000.0);
    let (gateway, worker) = pair_with(TCP, easy, strict).await;
    let mut rejected = 0;
    for _ in 0..8 {
        let reply = gateway.grid.handle.offer(&worker.peer(), Offer::default()).await.unwrap();
        rejected += usize::from(
            matches!(reply.kind, Some(offer_reply::Kind::Reject(refused)) if refused.reason == "RateLimited"),
        );
    }
    assert_eq!(rejected, 3);
    assert_eq!(worker.refusals("job", Reason::RateLimited), 3);

    let mut strict = gateway_limits();
    strict.rates.info = Rate::new(0.01, 3.0);
    let (gateway, worker) = pair_with(TCP, strict, worker_limits()).await;
    assert!(gateway.grid.handle.info(&worker.peer()).await.is_ok());
    assert!(gateway.grid.handle.info(&worker.peer()).await.is_ok());
    assert!(matches!(gateway.grid.handle.info(&worker.peer()).await, Err(RequestError::RateLimited)));
}

#[tokio::test]
async fn a_worker_returns_when_its_gateway_restarts() {
    for listen in [TCP, QUIC] {
        let (gateway_key, worker_key) = (NodeKey::generate(), NodeKey::generate());
        let members = Members::of(&[&worker_key]);
        let mut gateway = TestNode::gateway(&gateway_key, "", members.clone(), &[listen], gateway_limits()).await;
        let address = gateway.address("127.0.0.1").await;
        let mut worker = TestNode::worker(&worker_key, "", vec![address.clone()], worker_limits()).await;
        worker.authenticated(&gateway_key.peer_id()).await;
        gateway.grid.handle.shutdown().await;
        worker.gone(&gateway_key.peer_id()).await;
        let same = address.to_string();
        let same = same.split("/p2p/").next().unwrap();
        // The old socket may take a moment to be given back.
        let mut again = TestNode::gateway(&gateway_key, "", members, &[same], gateway_limits()).await;
        again.authenticated(&worker_key.peer_id()).await;
        worker.authenticated(&gateway_key.peer_id()).await;
    }
}

#[tokio::test]
async fn a_disconnected_worker_comes_back_and_the_gateway_is_told_each_time() {
    let (mut gateway, worker) = pair(TCP).await;
    gateway.grid.handle.disconnect(&worker.peer()).await;
    gateway.gone(&worker.peer()).await;
    gateway.authenticated(&worker.peer()).await;
}

#[tokio::test]
async fn a_member_that_is_removed_does_not_come_back() {
    let (gateway_key, worker_key) = (NodeKey::generate(), NodeKey::generate());
    let members = Members::of(&[&worker_key]);
    let mut gateway = TestNode::gateway(&gateway_key, "", members.clone(), &[TCP], gateway_limits()).await;
    let address = gateway.address("127.0.0.1").await;
    let _worker = TestNode::worker(&worker_key, "", vec![address], worker_limits()).await;
    gateway.authenticated(&worker_key.peer_id()).await;
    members.0.lock().unwrap().clear();
    gateway.grid.handle.disconnect(&worker_key.peer_id()).await;
    gateway.gone(&worker_key.peer_id()).await;
    gateway.refused(Reason::UnknownPeer).await;
    assert!(gateway.grid.handle.peers().await.is_empty());
}

#[tokio::test]
async fn an_advert_reaches_the_gateway_once_and_an_old_one_not() {
    let (mut gateway, worker) = pair(TCP).await;
    let now = || u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
    let advert = |sequence, issued_at_ms| NodeInfo { sequence, issued_at_ms, running: 7, ..Default::default() };
    // The first ones may be lost: the gateway's subscription is on its way.
    let mut sequence = 1;
    eventually("an advert arrives", async || {
        sequence += 1;
        worker.grid.handle.publish_advert(advert(sequence, now())).await;
        gateway.counter("grid_adverts_total", &[("outcome", "accepted")]) > 0
    })
    .await;
    let event = gateway.event(|event| matches!(event, GridEvent::Advert { .. })).await;
    assert!(matches!(event, GridEvent::Advert { peer, info } if peer == worker.peer() && info.running == 7));
    // Gossip may lose these, too.
    eventually("old adverts are counted", async || {
        worker.grid.handle.publish_advert(advert(1, now())).await;
        worker.grid.handle.publish_advert(advert(sequence + 10, now() - 60_000)).await;
        gateway.refusals("advert", Reason::StaleAdvert) >= 2
    })
    .await;
}
