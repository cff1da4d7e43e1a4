//! The libp2p node with real sockets on loopback: who is let in, who is not and why, requests, streams, reconnects.

mod bench;
pub mod node;
mod raw;
mod refusals;
mod traffic;
