//! What the gateway's logic needs of a worker, as a narrow trait: the grid implements it, tests script it.

use futures::future::BoxFuture;
use prost::Message;

use crate::{
    api::ids::GridPeerId,
    grid::{FrameError, FrameReceiver, FrameSender, FrameStream, GridHandle, OpenError, RequestError},
    protocol::wire::{
        Assign, AuditEvent, AuditRequest, BlobEvent, BlobRequest, ChallengeReply, ChallengeRequest, InferCommand,
        InferEvent, NodeInfo, Offer, OfferReply, Refused,
    },
};

/// Why a worker did not do what it was asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WorkerError {
    #[error("the worker is not connected")]
    NotConnected,
    #[error("too many requests to this worker: try again in a moment")]
    RateLimited,
    #[error("the worker refused: {} ({})", .0.message, .0.reason)]
    Refused(Refused),
    #[error("the worker was silent for too long")]
    Silent,
    #[error("the worker broke the protocol: {0}")]
    Malformed(String),
    #[error("the connection to the worker broke: {0}")]
    Broken(String),
}

impl WorkerError {
    /// Stable CamelCase code, also the `cause` label of metrics. What a worker says itself is never a label.
    pub fn reason(&self) -> &'static str {
        match self {
            WorkerError::NotConnected => "WorkerGone",
            WorkerError::RateLimited => "RateLimited",
            WorkerError::Refused(_) => "WorkerFailed",
            WorkerError::Silent => "HeartbeatLost",
            WorkerError::Malformed(_) => "ProtocolViolation",
            WorkerError::Broken(_) => "ConnectionLost",
        }
    }
}

/// The writing half of a stream.
pub trait FrameSink<TX>: Send {
    fn send<'a>(&'a mut self, message: &'a TX) -> BoxFuture<'a, Result<(), WorkerError>>;
    /// Says that nothing more will come.
    fn close(&mut self) -> BoxFuture<'_, Result<(), WorkerError>>;
}

/// The reading half of a stream. Safe to cancel.
pub trait FrameSource<RX>: Send {
    /// `None` when the peer closed its side.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<RX>, WorkerError>>;
}

/// Both halves of a stream. Dropping it resets the stream.
pub struct Link<TX, RX> {
    pub sink: Box<dyn FrameSink<TX>>,
    pub source: Box<dyn FrameSource<RX>>,
}

/// The workers that are connected now.
pub trait Workers: Send + Sync + 'static {
    fn offer<'a>(&'a self, peer: &'a GridPeerId, offer: Offer) -> BoxFuture<'a, Result<OfferReply, WorkerError>>;
    fn infer<'a>(&'a self, peer: &'a GridPeerId) -> BoxFuture<'a, Result<Link<InferCommand, InferEvent>, WorkerError>>;
    fn audit<'a>(&'a self, peer: &'a GridPeerId) -> BoxFuture<'a, Result<Link<AuditRequest, AuditEvent>, WorkerError>>;
    /// For a file that it holds.
    fn blob<'a>(&'a self, peer: &'a GridPeerId) -> BoxFuture<'a, Result<Link<BlobRequest, BlobEvent>, WorkerError>>;
    fn challenge<'a>(
        &'a self,
        peer: &'a GridPeerId,
        challenge: ChallengeRequest,
    ) -> BoxFuture<'a, Result<ChallengeReply, WorkerError>>;
    fn assign<'a>(&'a self, peer: &'a GridPeerId, assign: Assign) -> BoxFuture<'a, Result<(), WorkerError>>;
    fn info<'a>(&'a self, peer: &'a GridPeerId) -> BoxFuture<'a, Result<NodeInfo, WorkerError>>;
    /// Closes every connection to a peer.
    fn disconnect<'a>(&'a self, peer: &'a GridPeerId) -> BoxFuture<'a, ()>;
    /// Who is connected and authenticated.
    fn peers(&self) -> BoxFuture<'_, Vec<GridPeerId>>;
    /// Multiaddresses of this gateway, each with `/p2p/<peer id>`.
    fn addresses(&self) -> BoxFuture<'_, Vec<String>>;
}

/// Workers over libp2p.
#[derive(Debug, Clone)]
pub struct GridWorkers(pub GridHandle);

impl Workers for GridWorkers {
    fn offer<'a>(&'a self, peer: &'a GridPeerId, offer: Offer) -> BoxFuture<'a, Result<OfferReply, WorkerError>> {
        Box::pin(async move { Ok(self.0.offer(peer, offer).await?) })
    }

    fn infer<'a>(&'a self, peer: &'a GridPeerId) -> BoxFuture<'a, Result<Link<InferCommand, InferEvent>, WorkerError>> {
        Box::pin(async move { Ok(self.0.open_infer(peer).await?.into()) })
    }

    fn audit<'a>(&'a self, peer: &'a GridPeerId) -> BoxFuture<'a, Result<Link<AuditRequest, AuditEvent>, WorkerError>> {
        Box::pin(async move { Ok(self.0.open_audit(peer).await?.into()) })
    }

    fn blob<'a>(&'a self, peer: &'a GridPeerId) -> BoxFuture<'a, Result<Link<BlobRequest, BlobEvent>, WorkerError>> {
        Box::pin(async move {
            let mut stream = self.0.open_blob(peer).await?;
            // Whoever reads it has a patience of its own.
            stream.receiver.set_idle(std::time::Duration::from_secs(60));
            Ok(stream.into())
        })
    }

    fn challenge<'a>(
        &'a self,
        peer: &'a GridPeerId,
        challenge: ChallengeRequest,
    ) -> BoxFuture<'a, Result<ChallengeReply, WorkerError>> {
        Box::pin(async move { Ok(self.0.challenge(peer, challenge).await?) })
    }

    fn assign<'a>(&'a self, peer: &'a GridPeerId, assign: Assign) -> BoxFuture<'a, Result<(), WorkerError>> {
        Box::pin(async move { Ok(self.0.assign(peer, assign).await?) })
    }

    fn info<'a>(&'a self, peer: &'a GridPeerId) -> BoxFuture<'a, Result<NodeInfo, WorkerError>> {
        Box::pin(async move { Ok(self.0.info(peer).await?) })
    }

    fn disconnect<'a>(&'a self, peer: &'a GridPeerId) -> BoxFuture<'a, ()> {
        Box::pin(self.0.disconnect(peer))
    }

    fn peers(&self) -> BoxFuture<'_, Vec<GridPeerId>> {
        Box::pin(self.0.peers())
    }

    fn addresses(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(async { self.0.listen_addresses().await.iter().map(ToString::to_string).collect() })
    }
}

impl<TX: Message + 'static, RX: Message + Default + 'static> From<FrameStream<TX, RX>> for Link<TX, RX> {
    fn from(stream: FrameStream<TX, RX>) -> Self {
        let (sender, receiver) = stream.split();
        Link { sink: Box::new(sender), source: Box::new(receiver) }
    }
}

impl<TX: Message> FrameSink<TX> for FrameSender<TX> {
    fn send<'a>(&'a mut self, message: &'a TX) -> BoxFuture<'a, Result<(), WorkerError>> {
        Box::pin(async move { Ok(FrameSender::send(self, message).await?) })
    }

    fn close(&mut self) -> BoxFuture<'_, Result<(), WorkerError>> {
        Box::pin(async move { Ok(FrameSender::close(self).await?) })
    }
}

impl<RX: Message + Default> FrameSource<RX> for FrameReceiver<RX> {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<RX>, WorkerError>> {
        Box::pin(async move { Ok(FrameReceiver::next(self).await?) })
    }
}

impl From<RequestError> for WorkerError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::NotConnected => WorkerError::NotConnected,
            RequestError::RateLimited => WorkerError::RateLimited,
            RequestError::Refused(refused) => WorkerError::Refused(refused),
            RequestError::Timeout => WorkerError::Silent,
            RequestError::Frame(error) => error.into(),
            RequestError::Unsupported => WorkerError::Malformed(error.to_string()),
            RequestError::ConnectionClosed | RequestError::ShuttingDown => WorkerError::Broken(error.to_string()),
        }
    }
}

impl From<OpenError> for WorkerError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NotConnected => WorkerError::NotConnected,
            OpenError::RateLimited => WorkerError::RateLimited,
            OpenError::Timeout => WorkerError::Silent,
            OpenError::Unsupported => WorkerError::Malformed(error.to_string()),
            OpenError::Io(_) | OpenError::ShuttingDown => WorkerError::Broken(error.to_string()),
        }
    }
}

impl From<FrameError> for WorkerError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Idle(_) => WorkerError::Silent,
            FrameError::TooLarge { .. } | FrameError::Malformed(_) => WorkerError::Malformed(error.to_string()),
            FrameError::Io(_) => WorkerError::Broken(error.to_string()),
        }
    }
}
