//! Streams: ours on their way out, others' on their way to the application.

use std::time::Instant;

use libp2p::{PeerId, StreamProtocol};
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use super::{Node, respond};
use crate::{
    api::ids::GridPeerId,
    grid::{
        error::OpenError,
        frames::FrameStream,
        peers::Standing,
        refusal::{Reason, Refusable, Refusal},
        start::stream_protocol,
        streams::{InboundStream, OpenedStream},
    },
    protocol::{
        names::Protocol,
        wire::{AuditEvent, BlobEvent, InferEvent},
    },
};

/// How long a refused opener may take to read why.
const REFUSAL_READ: std::time::Duration = std::time::Duration::from_secs(2);

impl Node {
    pub(super) fn open(
        &mut self,
        peer: PeerId,
        protocol: Protocol,
        reply: oneshot::Sender<Result<OpenedStream, OpenError>>,
    ) {
        if self.peers.standing(&peer) < Standing::Authenticated {
            return respond(reply, Err(OpenError::NotConnected));
        }
        if !self.peers.take_outbound(&peer, protocol, Instant::now()) {
            return respond(reply, Err(OpenError::RateLimited));
        }
        match StreamProtocol::try_from_owned(protocol.name(&self.net)) {
            Ok(name) => {
                self.metrics.stream(protocol, "opened");
                self.swarm.behaviour_mut().streams.open(peer, name, reply);
            }
            Err(_) => respond(reply, Err(OpenError::Unsupported)),
        }
    }

    pub(super) fn inbound_stream(&mut self, inbound: InboundStream) {
        let InboundStream { peer, protocol: name, stream } = inbound;
        // Only names that this node listens for are ever negotiated.
        let Some(protocol) = stream_protocol(&self.stream_names, &name) else { return };
        let mut opened = OpenedStream { stream, permit: None };
        let refusal = match self.stream_place(&peer, protocol) {
            Ok((id, permit)) => {
                opened.permit = Some(permit);
                match self.hand_over(id, protocol, opened) {
                    None => return self.metrics.stream(protocol, "accepted"),
                    Some(back) => {
                        opened = back;
                        let message = "more streams are waiting than this node takes";
                        Refusal::retry(Reason::Busy, message, std::time::Duration::from_secs(1))
                    }
                }
            }
            Err(refusal) => refusal,
        };
        self.refuse_stream(protocol, opened, &refusal);
        self.refuse(peer, protocol.part(), refusal);
    }

    fn stream_place(
        &mut self,
        peer: &PeerId,
        protocol: Protocol,
    ) -> Result<(GridPeerId, tokio::sync::OwnedSemaphorePermit), Refusal> {
        let id = self.peers.id(peer).filter(|_| self.peers.standing(peer) >= Standing::Trusted);
        let Some(id) = id else {
            return Err(Refusal::new(Reason::NotAuthenticated, "authenticate first"));
        };
        self.peers.take_inbound(peer, protocol, Instant::now())?;
        Ok((id, self.peers.stream_place(peer, protocol)?))
    }

    /// Gives the stream back when the application is behind.
    fn hand_over(&self, id: GridPeerId, protocol: Protocol, opened: OpenedStream) -> Option<OpenedStream> {
        fn send<TX: Message, RX: Message + Default>(
            queue: &mpsc::Sender<(GridPeerId, FrameStream<TX, RX>)>,
            id: GridPeerId,
            protocol: Protocol,
            opened: OpenedStream,
        ) -> Option<OpenedStream> {
            match queue.try_reserve() {
                Ok(place) => {
                    place.send((id, FrameStream::server(opened, protocol)));
                    None
                }
                Err(_) => Some(opened),
            }
        }
        match protocol {
            Protocol::Infer => send(&self.accepting.infer, id, protocol, opened),
            Protocol::Audit => send(&self.accepting.audit, id, protocol, opened),
            Protocol::Blob => send(&self.accepting.blob, id, protocol, opened),
            _ => Some(opened),
        }
    }

    fn refuse_stream(&self, protocol: Protocol, opened: OpenedStream, refusal: &Refusal) {
        let Ok(place) = self.accepting.refusals.clone().try_acquire_owned() else {
            return self.metrics.dropped("refusals");
        };
        let refused = refusal.wire.clone();
        tokio::spawn(async move {
            match protocol {
                Protocol::Infer => say(InferEvent::from_refused(refused), opened, protocol).await,
                Protocol::Audit => say(AuditEvent::from_refused(refused), opened, protocol).await,
                _ => say(BlobEvent::from_refused(refused), opened, protocol).await,
            }
            drop(place);
        });
    }
}

/// Writes one frame and leaves the stream open until the other side is done or its time is up.
async fn say<TX: Message>(event: TX, opened: OpenedStream, protocol: Protocol) {
    // What it sends meanwhile is of no interest; an empty message skips it all.
    let mut stream = FrameStream::<TX, ()>::server(opened, protocol);
    stream.receiver.set_idle(REFUSAL_READ);
    if stream.send(&event).await.is_ok() && stream.sender.close().await.is_ok() {
        let _ = stream.next().await;
    }
}
