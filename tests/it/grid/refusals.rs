//! Everything that is refused is refused with a reason, counted, and where there is somebody to tell, told.

use std::time::Duration;

use alloy::primitives::B256;
use libp2p::{StreamProtocol, request_response, swarm::SwarmEvent};
use prost::Message;
use xdc_grid::{
    grid::{GridEvent, GridLimits, Rate, Reason},
    protocol::{
        identity::NodeKey,
        names::Protocol,
        receipt,
        wire::{
            AuthChallenge, BlobEvent, Hello, Offer, OfferReply, Proof, Refused, auth_request, auth_response,
            blob_event, offer_reply,
        },
    },
};

use super::{
    node::{Members, TCP, TestNode, eventually, gateway_limits, network, worker_limits},
    raw::{BehaviourEvent, RawPeer},
};

async fn gateway(members: Members, limits: GridLimits) -> (TestNode, libp2p::Multiaddr) {
    let mut gateway = TestNode::gateway(&NodeKey::generate(), "", members, &[TCP], limits).await;
    let address = gateway.address("127.0.0.1").await;
    (gateway, address)
}

fn hello(nonce: u8) -> auth_request::Kind {
    auth_request::Kind::Hello(Hello {
        nonce: vec![nonce; 32],
        role: "worker".into(),
        version: 1,
        software: "raw".into(),
    })
}

fn reason(kind: Option<auth_response::Kind>) -> Refused {
    match kind {
        Some(auth_response::Kind::Refused(refused)) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn an_unknown_peer_is_refused_with_a_reason_and_let_in_once_it_is_a_member() {
    let (members, key) = (Members::default(), NodeKey::generate());
    let (mut gateway, address) = gateway(members.clone(), gateway_limits()).await;
    let limits = GridLimits { reconnect: Duration::from_millis(300), ..worker_limits() };
    let mut worker = TestNode::worker(&key, "", vec![address], limits).await;
    let told = worker.event(|event| matches!(event, GridEvent::RefusedBy { .. })).await;
    let GridEvent::RefusedBy { peer, refused } = told else { unreachable!() };
    assert_eq!(peer, gateway.peer());
    assert_eq!(refused.reason, "UnknownPeer");
    assert!(refused.retry_after_ms > 0);
    assert!(gateway.refused(Reason::UnknownPeer).await.contains("is no member"));
    assert!(gateway.refusals("auth", Reason::UnknownPeer) >= 1);
    assert!(gateway.grid.handle.peers().await.is_empty());

    members.0.lock().unwrap().insert(key.peer_id());
    gateway.authenticated(&key.peer_id()).await;
    worker.authenticated(&gateway.peer()).await;
}

#[tokio::test]
async fn a_peer_of_another_network_is_named_as_such_counted_and_closed_on_both_sides() {
    let key = NodeKey::generate();
    let (mut gateway, address) = gateway(Members::of(&[&key]), gateway_limits()).await;
    let mut worker = TestNode::worker(&key, "other salt", vec![address], worker_limits()).await;
    let message = worker.refused(Reason::WrongNetwork).await;
    let (theirs, ours) = (network("").net().to_string(), network("other salt").net().to_string());
    assert!(message.contains(&theirs) && message.contains(&ours) && message.contains("salt"), "{message}");
    gateway.refused(Reason::WrongNetwork).await;
    assert!(gateway.refusals("connection", Reason::WrongNetwork) >= 1);
    eventually("both sides are apart", async || gateway.counter("grid_connections", &[]) == 0).await;
}

#[tokio::test]
async fn malformed_and_oversized_frames_are_answered_with_the_reason_and_counted() {
    let key = NodeKey::generate();
    let (mut gateway, address) = gateway(Members::of(&[&key]), gateway_limits()).await;
    let mut raw = RawPeer::new(&key, &network(""));
    let peer = raw.connect(&address).await;
    // Three bytes that are no protobuf of this shape.
    assert_eq!(reason(raw.auth_bytes(peer, vec![2, 0x0a, 0xff]).await).reason, "MalformedFrame");
    gateway.refused(Reason::MalformedFrame).await;
    // Whoever was refused is closed a moment later.
    raw.closed().await;
    let mut raw = RawPeer::new(&key, &network(""));
    let peer = raw.connect(&address).await;
    // A frame that announces 1 MiB on a protocol of 4 KiB.
    let refused = reason(raw.auth_bytes(peer, vec![0x80, 0x80, 0x40]).await);
    assert_eq!(refused.reason, "TooLarge");
    assert!(refused.message.contains("1048576") && refused.message.contains("4096"), "{}", refused.message);
    gateway.refused(Reason::TooLarge).await;
    assert_eq!(gateway.refusals("auth", Reason::MalformedFrame), 1);
    assert_eq!(gateway.refusals("auth", Reason::TooLarge), 1);
    raw.closed().await;
}

#[tokio::test]
async fn a_replayed_proof_is_refused() {
    let key = NodeKey::generate();
    let (mut gateway, address) = gateway(Members::of(&[&key]), gateway_limits()).await;
    let mut raw = RawPeer::new(&key, &network(""));
    let peer = raw.connect(&address).await;
    let Some(auth_response::Kind::Challenge(challenge)) = raw.auth(peer, hello(1)).await else {
        panic!("no challenge")
    };
    let proof = prove(&key, &gateway, 1, &challenge);
    let accepted = raw.auth(peer, auth_request::Kind::Proof(proof.clone())).await;
    assert!(matches!(accepted, Some(auth_response::Kind::Accepted(_))), "{accepted:?}");
    gateway.authenticated(&key.peer_id()).await;

    // The same proof again, without and then with a new challenge, on a new connection.
    let mut second = RawPeer::new(&key, &network(""));
    let peer = second.connect(&address).await;
    let again = second.auth(peer, auth_request::Kind::Proof(proof.clone())).await;
    assert_eq!(reason(again).reason, "NoChallenge");
    // Whoever offends is closed, with what it had before.
    raw.closed().await;
    second.closed().await;
    let mut third = RawPeer::new(&key, &network(""));
    let peer = third.connect(&address).await;
    assert!(matches!(third.auth(peer, hello(1)).await, Some(auth_response::Kind::Challenge(_))));
    let again = third.auth(peer, auth_request::Kind::Proof(proof)).await;
    assert_eq!(reason(again).reason, "BadSignature");
    assert_eq!(gateway.refusals("auth", Reason::NoChallenge), 1);
    assert_eq!(gateway.refusals("auth", Reason::BadSignature), 1);
}

fn prove(key: &NodeKey, gateway: &TestNode, nonce: u8, challenge: &AuthChallenge) -> Proof {
    let statement = receipt::Auth {
        network: network("").net().to_string(),
        signer: key.peer_id().to_string(),
        dialer: key.peer_id().to_string(),
        listener: gateway.peer().to_string(),
        dialerNonce: B256::repeat_byte(nonce),
        listenerNonce: B256::from_slice(&challenge.nonce),
        role: "worker".into(),
        version: 1,
    };
    Proof { signature: receipt::sign(&statement, &network(""), key).unwrap().to_vec() }
}

#[tokio::test]
async fn a_stranger_that_does_not_authenticate_is_closed_after_its_deadline() {
    let limits = GridLimits { auth_deadline: Duration::from_millis(300), ..gateway_limits() };
    let (mut gateway, address) = gateway(Members::default(), limits).await;
    let mut raw = RawPeer::new(&NodeKey::generate(), &network(""));
    raw.connect(&address).await;
    raw.closed().await;
    gateway.refused(Reason::AuthTimeout).await;
    assert_eq!(gateway.refusals("connection", Reason::AuthTimeout), 1);
}

#[tokio::test]
async fn a_stream_of_a_stranger_is_told_to_authenticate_first() {
    let (mut gateway, address) = gateway(Members::default(), gateway_limits()).await;
    let mut raw = RawPeer::new(&NodeKey::generate(), &network(""));
    let peer = raw.connect(&address).await;
    let mut control = raw.swarm.behaviour().streams.new_control();
    let name = StreamProtocol::try_from_owned(Protocol::Blob.name(&network("").net())).unwrap();
    let mut opened = Box::pin(async move {
        let mut stream = control.open_stream(peer, name).await.unwrap();
        let mut bytes = vec![];
        futures::AsyncReadExt::read_to_end(&mut stream, &mut bytes).await.unwrap();
        bytes
    });
    let bytes = loop {
        tokio::select! {
            bytes = &mut opened => break bytes,
            _ = futures::StreamExt::next(&mut raw.swarm) => {}
        }
    };
    let event = BlobEvent::decode_length_delimited(bytes.as_slice()).unwrap();
    let Some(blob_event::Kind::Refused(refused)) = event.kind else { panic!("{event:?}") };
    assert_eq!(refused.reason, "NotAuthenticated");
    gateway.refused(Reason::NotAuthenticated).await;
    assert_eq!(gateway.refusals("blob", Reason::NotAuthenticated), 1);
}

#[tokio::test]
async fn an_offer_of_a_gateway_that_did_not_authenticate_is_refused_by_the_worker() {
    let mut raw = RawPeer::new(&NodeKey::generate(), &network(""));
    let address = raw.listen().await;
    let mut worker = TestNode::worker(&NodeKey::generate(), "", vec![address], worker_limits()).await;
    let peer = raw
        .until(|event| match event {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => Some(*peer_id),
            _ => None,
        })
        .await;
    raw.swarm.behaviour_mut().job.send_request(&peer, Offer::default().encode_length_delimited_to_vec());
    let answer = raw.until(|event| match event {
        SwarmEvent::Behaviour(BehaviourEvent::Job(request_response::Event::Message {
            message: request_response::Message::Response { response, .. },
            ..
        })) => Some(response.clone()),
        _ => None,
    });
    let reply = OfferReply::decode_length_delimited(answer.await.as_slice()).unwrap();
    let Some(offer_reply::Kind::Reject(refused)) = reply.kind else { panic!("{reply:?}") };
    assert_eq!(refused.reason, "NotAuthenticated");
    worker.refused(Reason::NotAuthenticated).await;
    assert_eq!(worker.refusals("job", Reason::NotAuthenticated), 1);
}

#[tokio::test]
async fn a_worker_does_not_take_another_key_for_its_gateway() {
    // Whoever answers at the address signs with a key of its own.
    let (expected, actual) = (NodeKey::generate(), NodeKey::generate());
    let mut gateway = TestNode::gateway(&actual, "", Members::default(), &[TCP], gateway_limits()).await;
    let address = gateway.address("127.0.0.1").await.to_string();
    let address = address.replace(actual.peer_id().as_str(), expected.peer_id().as_str());
    let worker = TestNode::worker(&NodeKey::generate(), "", vec![address.parse().unwrap()], worker_limits()).await;
    eventually("the dial fails", async || worker.counter("grid_dials_total", &[("outcome", "failed")]) > 0).await;
    assert!(worker.grid.handle.peers().await.is_empty());
}

#[tokio::test]
async fn repeated_offences_are_a_ban() {
    let key = NodeKey::generate();
    let limits = GridLimits { offences: 2, ban: Duration::from_secs(4), ..gateway_limits() };
    let (mut gateway, address) = gateway(Members::of(&[&key]), limits).await;
    // Each on a connection of its own: whoever offends is closed. Two that are too far from each other count for nothing.
    for _ in 0..20 {
        let mut raw = RawPeer::new(&key, &network(""));
        let peer = raw.connect(&address).await;
        raw.swarm.behaviour_mut().auth.send_request(&peer, vec![2, 0x0a, 0xff]);
        raw.closed().await;
        if gateway.refusals("connection", Reason::Banned) > 0 {
            break;
        }
    }
    gateway.refused(Reason::Banned).await;
    assert_eq!(gateway.refusals("connection", Reason::Banned), 1);
    // It ends.
    let mut worker = TestNode::worker(&key, "", vec![address], worker_limits()).await;
    worker.authenticated(&gateway.peer()).await;
}

#[tokio::test]
async fn too_many_authentications_are_rate_limited() {
    let key = NodeKey::generate();
    // It may be told late that one before is closed.
    let mut limits = GridLimits { established_per_peer: 3, ..gateway_limits() };
    limits.rates.auth = Rate::new(0.001, 2.0);
    let (gateway, address) = gateway(Members::of(&[&key]), limits).await;
    for _ in 0..2 {
        let mut raw = RawPeer::new(&key, &network(""));
        let peer = raw.connect(&address).await;
        assert!(matches!(raw.auth(peer, hello(1)).await, Some(auth_response::Kind::Challenge(_))));
    }
    let mut raw = RawPeer::new(&key, &network(""));
    let peer = raw.connect(&address).await;
    let refused = reason(raw.auth(peer, hello(1)).await);
    assert_eq!(refused.reason, "RateLimited");
    assert!(refused.retry_after_ms > 1000);
    assert_eq!(gateway.refusals("auth", Reason::RateLimited), 1);
}
