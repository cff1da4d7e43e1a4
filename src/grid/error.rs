//! What can go wrong, typed per step.

use std::{io, time::Duration};

use crate::protocol::wire;

/// Why a grid node did not start.
#[derive(Debug, thiserror::Error)]
pub enum GridError {
    #[error("gateway address {0} does not end in /p2p/<peer id>: take the address that the gateway prints")]
    GatewayWithoutPeerId(String),
    #[error("a worker needs at least one gateway address")]
    NoGateway,
    #[error("cannot listen on {address}: {message}")]
    Listen { address: String, message: String },
    #[error("cannot set up the transport: {0}")]
    Transport(String),
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {size} bytes is over the limit of {limit} bytes")]
    TooLarge { size: u64, limit: usize },
    #[error("not a message of this protocol: {0}")]
    Malformed(String),
    #[error("the peer was silent for {0:?}")]
    Idle(Duration),
    #[error("the stream broke: {0}")]
    Io(#[from] io::Error),
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("the peer is not connected and authenticated")]
    NotConnected,
    /// Our own limit towards this peer, so that it need not refuse us.
    #[error("too many requests to this peer: try again in a moment")]
    RateLimited,
    #[error("the peer refused: {} ({})", .0.message, .0.reason)]
    Refused(wire::Refused),
    #[error("the peer did not answer in time")]
    Timeout,
    #[error("the connection closed before the answer came")]
    ConnectionClosed,
    #[error("the peer does not speak this protocol")]
    Unsupported,
    #[error("the answer cannot be read: {0}")]
    Frame(FrameError),
    #[error("this node is shutting down")]
    ShuttingDown,
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the peer is not connected and authenticated")]
    NotConnected,
    #[error("too many streams to this peer: try again in a moment")]
    RateLimited,
    #[error("the peer does not speak this protocol")]
    Unsupported,
    #[error("the peer did not agree to the stream in time")]
    Timeout,
    #[error("the connection broke: {0}")]
    Io(io::Error),
    #[error("this node is shutting down")]
    ShuttingDown,
}
