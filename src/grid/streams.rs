//! Streams of frames as a behaviour of our own. `libp2p-stream` 0.5.0-alpha has a queue of one per protocol and drops what
//! does not fit without telling either side, dials implicitly, and keeps a channel for every connection that ever was.
//! Here nothing is dropped silently, nothing dials, and a closed connection leaves nothing behind.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::{Ready, ready};
use libp2p::{
    InboundUpgrade, Multiaddr, OutboundUpgrade, PeerId, Stream, StreamProtocol,
    core::{Endpoint, UpgradeInfo, transport::PortUse},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
        NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::{ConnectionClosed, ConnectionEstablished},
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::OpenError;

/// A negotiated stream with its place among the peer's streams.
#[derive(Debug)]
pub(super) struct OpenedStream {
    pub stream: Stream,
    pub permit: Option<OwnedSemaphorePermit>,
}

/// A peer opened a stream.
#[derive(Debug)]
pub(super) struct InboundStream {
    pub peer: PeerId,
    pub protocol: StreamProtocol,
    pub stream: Stream,
}

/// A stream to be opened; the answer goes straight from the connection to whoever asked.
pub(super) struct OpenRequest {
    protocol: StreamProtocol,
    reply: oneshot::Sender<Result<OpenedStream, OpenError>>,
}

impl fmt::Debug for OpenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenRequest({})", self.protocol)
    }
}

/// Opens and accepts streams.
pub(super) struct Behaviour {
    accepted: Arc<[StreamProtocol]>,
    connections: HashMap<PeerId, Vec<ConnectionId>>,
    queue: VecDeque<ToSwarm<InboundStream, OpenRequest>>,
}

impl Behaviour {
    /// `accepted`: protocols on which peers may open streams.
    pub(super) fn new(accepted: Vec<StreamProtocol>) -> Self {
        Behaviour { accepted: accepted.into(), connections: HashMap::new(), queue: VecDeque::new() }
    }

    /// Opens a stream on the newest connection to `peer`.
    pub(super) fn open(
        &mut self,
        peer: PeerId,
        protocol: StreamProtocol,
        reply: oneshot::Sender<Result<OpenedStream, OpenError>>,
    ) {
        let Some(newest) = self.connections.get(&peer).and_then(|connections| connections.last()) else {
            // The asker may have gone; then nobody misses the answer.
            let _ = reply.send(Err(OpenError::NotConnected));
            return;
        };
        self.queue.push_back(ToSwarm::NotifyHandler {
            peer_id: peer,
            handler: NotifyHandler::One(*newest),
            event: OpenRequest { protocol, reply },
        });
    }

    fn handler(&self) -> Handler {
        Handler { accepted: self.accepted.clone(), wanted: VecDeque::new(), arrived: VecDeque::new() }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = InboundStream;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler())
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, .. }) => {
                self.connections.entry(peer_id).or_default().push(connection_id);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, .. }) => {
                if let Some(connections) = self.connections.get_mut(&peer_id) {
                    connections.retain(|other| *other != connection_id);
                    if connections.is_empty() {
                        self.connections.remove(&peer_id);
                    }
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        let Arrived { protocol, stream } = event;
        self.queue.push_back(ToSwarm::GenerateEvent(InboundStream { peer, protocol, stream }));
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<InboundStream, THandlerInEvent<Self>>> {
        self.queue.pop_front().map_or(Poll::Pending, Poll::Ready)
    }
}

/// A stream that the peer opened, on its way from the connection to the behaviour.
#[derive(Debug)]
pub(super) struct Arrived {
    protocol: StreamProtocol,
    stream: Stream,
}

/// One connection's part.
pub(super) struct Handler {
    accepted: Arc<[StreamProtocol]>,
    wanted: VecDeque<OpenRequest>,
    arrived: VecDeque<Arrived>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = OpenRequest;
    type ToBehaviour = Arrived;
    type InboundProtocol = Names;
    type OutboundProtocol = Names;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenRequest;

    fn listen_protocol(&self) -> SubstreamProtocol<Names> {
        SubstreamProtocol::new(Names(self.accepted.clone()), ())
    }

    fn on_behaviour_event(&mut self, request: OpenRequest) {
        self.wanted.push_back(request);
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Names, OpenRequest, Arrived>> {
        if let Some(arrived) = self.arrived.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(arrived));
        }
        if let Some(request) = self.wanted.pop_front() {
            let names = Names([request.protocol.clone()].into());
            let protocol = SubstreamProtocol::new(names, request);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<Names, Names, (), OpenRequest>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol), ..
            }) => {
                self.arrived.push_back(Arrived { protocol, stream });
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: (stream, _), info }) => {
                // Whoever asked may have given up; the stream is then reset.
                let _ = info.reply.send(Ok(OpenedStream { stream, permit: None }));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                let _ = info.reply.send(Err(match error {
                    StreamUpgradeError::Timeout => OpenError::Timeout,
                    StreamUpgradeError::NegotiationFailed => OpenError::Unsupported,
                    StreamUpgradeError::Io(error) => OpenError::Io(error),
                    StreamUpgradeError::Apply(never) => match never {},
                }));
            }
            _ => {}
        }
    }
}

/// Negotiates one of several protocol names and hands over the raw stream.
#[derive(Debug, Clone)]
pub(super) struct Names(Arc<[StreamProtocol]>);

impl UpgradeInfo for Names {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        Vec::from(&*self.0).into_iter()
    }
}

impl InboundUpgrade<Stream> for Names {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Names {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}
