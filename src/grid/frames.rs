//! Typed streams: frames out, frames in, with a size limit, an idle limit and the permits that count them.

use std::time::Duration;

use futures::{
    SinkExt, StreamExt,
    io::{AsyncReadExt, ReadHalf, WriteHalf},
};
use libp2p::Stream;
use prost::Message;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tokio_util::{
    codec::{FramedRead, FramedWrite},
    compat::{Compat, FuturesAsyncReadCompatExt, FuturesAsyncWriteCompatExt},
};

use super::{codec::FrameCodec, error::FrameError, limits::frame_limit, streams::OpenedStream};
use crate::protocol::names::Protocol;

/// How long a reader that holds the window closed may block us.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// How long a peer may be silent unless the owner says otherwise: three missed heartbeats and some slack.
const IDLE_LIMIT: Duration = Duration::from_secs(4);
/// How long a peer that opened a stream may take for its first frame, unless the owner says otherwise.
const FIRST_FRAME_LIMIT: Duration = Duration::from_secs(10);

/// Both directions of one stream; use the halves apart to send and receive at once.
#[derive(Debug)]
pub struct FrameStream<TX, RX> {
    pub sender: FrameSender<TX>,
    pub receiver: FrameReceiver<RX>,
}

/// The writing half. Dropping it without [`FrameSender::close`] resets the stream.
#[derive(Debug)]
pub struct FrameSender<TX> {
    frames: FramedWrite<Compat<WriteHalf<Stream>>, FrameCodec<TX, ()>>,
}

/// The reading half.
#[derive(Debug)]
pub struct FrameReceiver<RX> {
    frames: FramedRead<Compat<ReadHalf<Stream>>, FrameCodec<(), RX>>,
    idle: Duration,
    // Gives the stream's place free when its reader is gone.
    _permit: Option<OwnedSemaphorePermit>,
}

impl<TX: Message, RX: Message + Default> FrameStream<TX, RX> {
    /// The side that opened it.
    pub(super) fn client(opened: OpenedStream, protocol: Protocol) -> Self {
        Self::new(opened, protocol, IDLE_LIMIT)
    }

    /// The side that accepted it.
    pub(super) fn server(opened: OpenedStream, protocol: Protocol) -> Self {
        Self::new(opened, protocol, FIRST_FRAME_LIMIT)
    }

    fn new(opened: OpenedStream, protocol: Protocol, idle: Duration) -> Self {
        let limit = frame_limit(protocol);
        let (reader, writer) = opened.stream.split();
        FrameStream {
            sender: FrameSender { frames: FramedWrite::new(writer.compat_write(), FrameCodec::new(limit)) },
            receiver: FrameReceiver {
                frames: FramedRead::new(reader.compat(), FrameCodec::new(limit)),
                idle,
                _permit: opened.permit,
            },
        }
    }

    /// See [`FrameSender::send`].
    pub async fn send(&mut self, message: &TX) -> Result<(), FrameError> {
        self.sender.send(message).await
    }

    /// See [`FrameReceiver::next`].
    pub async fn next(&mut self) -> Result<Option<RX>, FrameError> {
        self.receiver.next().await
    }

    pub fn split(self) -> (FrameSender<TX>, FrameReceiver<RX>) {
        (self.sender, self.receiver)
    }
}

impl<TX: Message> FrameSender<TX> {
    /// Sends one frame and waits until the transport took it: a slow reader slows us down, and one that takes nothing for
    /// ten seconds is given up.
    pub async fn send(&mut self, message: &TX) -> Result<(), FrameError> {
        timeout(SEND_LIMIT, self.frames.send(message)).await.unwrap_or(Err(FrameError::Idle(SEND_LIMIT)))
    }

    /// Tells the peer that nothing more will come.
    pub async fn close(&mut self) -> Result<(), FrameError> {
        timeout(SEND_LIMIT, SinkExt::<&TX>::close(&mut self.frames)).await.unwrap_or(Err(FrameError::Idle(SEND_LIMIT)))
    }
}

impl<RX: Message + Default> FrameReceiver<RX> {
    /// The next frame; `None` when the peer closed its side. Safe to cancel: no byte is lost.
    pub async fn next(&mut self) -> Result<Option<RX>, FrameError> {
        match timeout(self.idle, self.frames.next()).await {
            Ok(frame) => frame.transpose(),
            Err(_) => Err(FrameError::Idle(self.idle)),
        }
    }

    /// How long the peer may be silent from now on. A gateway waits 4 s on a worker (three heartbeats); a worker that only
    /// listens for `Cancel` has no such limit and passes a long one.
    pub fn set_idle(&mut self, idle: Duration) {
        self.idle = idle;
    }
}
