//! The libp2p node of gateways and workers. One task owns the swarm and awaits nothing but its next event; everybody else
//! holds a cloneable [`GridHandle`], the bounded [`GridEvents`] and the streams that peers open. Here lives who may speak
//! (mutual authentication, membership, limits, bans) and how (frames, requests, streams, adverts). Talks libp2p; never reads
//! the ledger, a model or a file.

mod adverts;
mod auth;
mod behaviour;
mod blobs;
mod codec;
mod connection_rate;
mod dial;
mod error;
mod exchange;
mod frames;
mod handle;
mod identity;
mod limits;
mod metrics;
mod node;
mod peers;
mod rate;
mod refusal;
mod service;
mod start;
mod streams;

pub use blobs::{give_blob, refuse_blob};
pub use codec::FrameCodec;
pub use error::{FrameError, GridError, OpenError, RequestError};
pub use frames::{FrameReceiver, FrameSender, FrameStream};
pub use handle::{AuditClient, AuditServer, BlobClient, BlobServer, GridHandle, Incoming, InferClient, InferServer};
pub use libp2p::Multiaddr;
pub use limits::{AnswerTimes, GridLimits, Rates, memory_limit_from_cgroup};
pub use rate::Rate;
pub use refusal::{Reason, refused};
pub use service::{ConfiguredGateways, GridEvent, GridEvents, Membership, Service};
pub use start::{Grid, GridConfig, Role, start};
