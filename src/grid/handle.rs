//! The handle through which everybody but the swarm task uses the grid.

use libp2p::Multiaddr;
use tokio::sync::{mpsc, oneshot};

use super::{
    error::{OpenError, RequestError},
    exchange::{Ask, AssignExchange, ChallengeExchange, Exchange, InfoExchange, JobExchange},
    frames::FrameStream,
    streams::OpenedStream,
};
use crate::{
    api::ids::GridPeerId,
    protocol::{
        names::Protocol,
        wire::{self, AuditEvent, AuditRequest, BlobEvent, BlobRequest, InferCommand, InferEvent, info_reply},
    },
};

/// Gateway's end of an infer stream.
pub type InferClient = FrameStream<InferCommand, InferEvent>;
/// Worker's end of an infer stream.
pub type InferServer = FrameStream<InferEvent, InferCommand>;
/// Gateway's end of an audit stream.
pub type AuditClient = FrameStream<AuditRequest, AuditEvent>;
/// Verify node's end of an audit stream.
pub type AuditServer = FrameStream<AuditEvent, AuditRequest>;
/// The end of a blob stream that asks.
pub type BlobClient = FrameStream<BlobRequest, BlobEvent>;
/// The end of a blob stream that gives.
pub type BlobServer = FrameStream<BlobEvent, BlobRequest>;

/// Streams that authenticated peers opened, already within every limit. Bounded: while the reader is behind, further
/// streams are refused as `Busy`.
pub type Incoming<S> = mpsc::Receiver<(GridPeerId, S)>;

/// Asks the swarm task. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GridHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) peer: GridPeerId,
}

/// What the swarm task can be asked.
#[derive(Debug)]
pub(super) enum Command {
    Assign(Ask<AssignExchange>),
    Offer(Ask<JobExchange>),
    Challenge(Ask<ChallengeExchange>),
    Info(Ask<InfoExchange>),
    Open { peer: GridPeerId, protocol: Protocol, reply: oneshot::Sender<Result<OpenedStream, OpenError>> },
    Disconnect { peer: GridPeerId, reply: oneshot::Sender<()> },
    Peers { reply: oneshot::Sender<Vec<GridPeerId>> },
    ListenAddresses { reply: oneshot::Sender<Vec<Multiaddr>> },
    Advert { info: wire::NodeInfo },
    Shutdown { reply: oneshot::Sender<()> },
}

impl GridHandle {
    /// This node's own peer id.
    pub fn peer_id(&self) -> &GridPeerId {
        &self.peer
    }

    /// Tells a worker what to serve.
    pub async fn assign(&self, peer: &GridPeerId, assign: wire::Assign) -> Result<(), RequestError> {
        let reply = self.ask(peer, assign, Command::Assign).await?;
        reply.refused.map_or(Ok(()), |refused| Err(RequestError::Refused(refused)))
    }

    /// Offers one request. A refusal by the grid layer (rate, authentication) arrives as `Reject` too.
    pub async fn offer(&self, peer: &GridPeerId, offer: wire::Offer) -> Result<wire::OfferReply, RequestError> {
        self.ask(peer, offer, Command::Offer).await
    }

    /// Sends a compute or storage challenge.
    pub async fn challenge(
        &self,
        peer: &GridPeerId,
        challenge: wire::ChallengeRequest,
    ) -> Result<wire::ChallengeReply, RequestError> {
        self.ask(peer, challenge, Command::Challenge).await
    }

    /// Hardware, models and load right now.
    pub async fn info(&self, peer: &GridPeerId) -> Result<wire::NodeInfo, RequestError> {
        match self.ask(peer, wire::InfoRequest {}, Command::Info).await?.kind {
            Some(info_reply::Kind::Info(info)) => Ok(info),
            Some(info_reply::Kind::Refused(refused)) => Err(RequestError::Refused(refused)),
            None => Err(RequestError::Unsupported),
        }
    }

    /// Opens an infer stream to a worker.
    pub async fn open_infer(&self, peer: &GridPeerId) -> Result<InferClient, OpenError> {
        Ok(FrameStream::client(self.open(peer, Protocol::Infer).await?, Protocol::Infer))
    }

    /// Opens an audit stream to a Verify node.
    pub async fn open_audit(&self, peer: &GridPeerId) -> Result<AuditClient, OpenError> {
        Ok(FrameStream::client(self.open(peer, Protocol::Audit).await?, Protocol::Audit))
    }

    /// Opens a blob stream.
    pub async fn open_blob(&self, peer: &GridPeerId) -> Result<BlobClient, OpenError> {
        Ok(FrameStream::client(self.open(peer, Protocol::Blob).await?, Protocol::Blob))
    }

    /// Closes every connection to a peer. A worker that is still configured to use it will dial again.
    pub async fn disconnect(&self, peer: &GridPeerId) {
        self.query(|reply| Command::Disconnect { peer: peer.clone(), reply }).await.unwrap_or_default();
    }

    /// Peers that are connected and authenticated now.
    pub async fn peers(&self) -> Vec<GridPeerId> {
        self.query(|reply| Command::Peers { reply }).await.unwrap_or_default()
    }

    /// Where this node listens, and its external addresses, each with `/p2p/<own peer id>`.
    pub async fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.query(|reply| Command::ListenAddresses { reply }).await.unwrap_or_default()
    }

    /// Gossips what this node measured about itself. Dropped while no gateway listens: the next one replaces it.
    pub async fn publish_advert(&self, info: wire::NodeInfo) {
        // Only fails after shutdown, when nobody is to be told anything.
        let _ = self.commands.send(Command::Advert { info }).await;
    }

    /// Closes every connection and ends the swarm task.
    pub async fn shutdown(&self) {
        self.query(|reply| Command::Shutdown { reply }).await.unwrap_or_default();
    }

    async fn open(&self, peer: &GridPeerId, protocol: Protocol) -> Result<OpenedStream, OpenError> {
        let peer = peer.clone();
        self.query(|reply| Command::Open { peer, protocol, reply }).await.unwrap_or(Err(OpenError::ShuttingDown))
    }

    async fn ask<X: Exchange>(
        &self,
        peer: &GridPeerId,
        request: X::Request,
        command: impl FnOnce(Ask<X>) -> Command,
    ) -> Result<X::Response, RequestError> {
        let peer = peer.clone();
        self.query(|reply| command(Ask { peer, request, reply })).await.unwrap_or(Err(RequestError::ShuttingDown))
    }

    /// `None` when the swarm task has ended.
    async fn query<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }
}
