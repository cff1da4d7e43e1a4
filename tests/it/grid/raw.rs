//! A hostile peer: a bare libp2p swarm that sends whatever bytes a test wants.

use std::{io, time::Duration};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, identify,
    identity::Keypair,
    multiaddr::Protocol as Part,
    noise,
    request_response::{self, ProtocolSupport},
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use prost::Message;
use tokio::time::timeout;
use xdc_grid::protocol::{
    identity::NodeKey,
    names::{NetworkId, Protocol},
    wire::{AuthRequest, AuthResponse, auth_request, auth_response},
};

use super::node::PATIENCE;

/// Writes bytes as they are; reads what comes.
#[derive(Clone, Default)]
pub struct Raw;

impl request_response::Codec for Raw {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, bytes: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&bytes).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, bytes: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&bytes).await
    }
}

async fn read<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<Vec<u8>> {
    let mut bytes = vec![];
    io.take(1 << 20).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

#[derive(NetworkBehaviour)]
pub struct Behaviour {
    pub auth: request_response::Behaviour<Raw>,
    pub job: request_response::Behaviour<Raw>,
    pub identify: identify::Behaviour,
    pub streams: libp2p_stream::Behaviour,
}

pub struct RawPeer {
    pub swarm: Swarm<Behaviour>,
    /// Requests that it leaves unanswered. Dropping one would be an answer: the other side would close.
    unanswered: Vec<SwarmEvent<BehaviourEvent>>,
}

impl RawPeer {
    pub fn new(key: &NodeKey, network: &NetworkId) -> Self {
        let mut secret = key.secret_bytes();
        let secret = libp2p::identity::secp256k1::SecretKey::try_from_bytes(&mut secret).unwrap();
        let keypair: Keypair = libp2p::identity::secp256k1::Keypair::from(secret).into();
        let exchange = |protocol: Protocol| {
            let name = StreamProtocol::try_from_owned(protocol.name(&network.net())).unwrap();
            let config = request_response::Config::default().with_request_timeout(PATIENCE);
            request_response::Behaviour::new([(name, ProtocolSupport::Full)], config)
        };
        let behaviour = Behaviour {
            auth: exchange(Protocol::Auth),
            job: exchange(Protocol::Job),
            identify: identify::Behaviour::new(identify::Config::new("raw/1".into(), keypair.public())),
            streams: libp2p_stream::Behaviour::new(),
        };
        let swarm = SwarmBuilder::with_existing_identity(keypair)
            .with_tokio()
            .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
            .unwrap()
            .with_behaviour(|_| behaviour)
            .unwrap()
            .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(3600)))
            .build();
        RawPeer { swarm, unanswered: Vec::new() }
    }

    /// Dials and waits for the connection; returns the other side's id.
    pub async fn connect(&mut self, address: &Multiaddr) -> PeerId {
        self.swarm.dial(address.clone()).unwrap();
        self.until(|event| match event {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => Some(*peer_id),
            _ => None,
        })
        .await
    }

    /// Listens; returns the address with this peer's id.
    pub async fn listen(&mut self) -> Multiaddr {
        self.swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let address = self.until(|event| match event {
            SwarmEvent::NewListenAddr { address, .. } => Some(address.clone()),
            _ => None,
        });
        let address = address.await;
        address.with(Part::P2p(*self.swarm.local_peer_id()))
    }

    pub async fn until<T>(&mut self, mut wanted: impl FnMut(&SwarmEvent<BehaviourEvent>) -> Option<T>) -> T {
        timeout(PATIENCE, async {
            loop {
                let event = self.swarm.select_next_some().await;
                let found = wanted(&event);
                if is_request(&event) {
                    self.unanswered.push(event);
                }
                if let Some(found) = found {
                    return found;
                }
            }
        })
        .await
        .expect("the expected event never came")
    }

    /// Sends raw bytes on the auth protocol and reads the answer.
    pub async fn auth_bytes(&mut self, peer: PeerId, bytes: Vec<u8>) -> Option<auth_response::Kind> {
        self.swarm.behaviour_mut().auth.send_request(&peer, bytes);
        let answer = self.until(|event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Auth(request_response::Event::Message {
                message: request_response::Message::Response { response, .. },
                ..
            })) => Some(response.clone()),
            SwarmEvent::Behaviour(BehaviourEvent::Auth(request_response::Event::OutboundFailure { error, .. })) => {
                panic!("no answer: {error}")
            }
            _ => None,
        });
        let answer = answer.await;
        AuthResponse::decode_length_delimited(answer.as_slice()).unwrap().kind
    }

    pub async fn auth(&mut self, peer: PeerId, kind: auth_request::Kind) -> Option<auth_response::Kind> {
        self.auth_bytes(peer, AuthRequest { kind: Some(kind) }.encode_length_delimited_to_vec()).await
    }

    pub async fn closed(&mut self) {
        self.until(|event| matches!(event, SwarmEvent::ConnectionClosed { .. }).then_some(())).await;
    }
}

fn is_request(event: &SwarmEvent<BehaviourEvent>) -> bool {
    let SwarmEvent::Behaviour(BehaviourEvent::Auth(event) | BehaviourEvent::Job(event)) = event else { return false };
    matches!(event, request_response::Event::Message { message: request_response::Message::Request { .. }, .. })
}
