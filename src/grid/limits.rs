//! Every bound of a grid node, with its start value (reference: libp2p §2.9).

use std::{path::Path, time::Duration};

use super::rate::Rate;
use crate::protocol::{names::Protocol, wire::limits};

/// Bounds that an owner may change. Frame sizes are part of the protocol and are not here.
#[derive(Debug, Clone)]
pub struct GridLimits {
    pub pending_incoming: u32,
    pub pending_outgoing: u32,
    pub established: u32,
    /// Two, so that a peer that lost its network can return before the old connection is known to be dead.
    pub established_per_peer: u32,
    /// New inbound connections of one IP address (/64 for IPv6).
    pub connections_per_ip: Rate,
    /// A connection that has not authenticated after this is closed.
    pub auth_deadline: Duration,
    /// From the first byte of a request to the last of its answer, per protocol, on the side that asks and on the one that answers.
    pub answer_times: AnswerTimes,
    /// Requests and streams of one peer, per protocol, in each direction.
    pub rates: Rates,
    /// Requests of all peers that a worker answers at once, per protocol.
    pub concurrent_requests: usize,
    /// Streams that one peer may hold open, per protocol.
    pub streams_per_peer: usize,
    /// Accepted streams that wait for the application.
    pub waiting_streams: usize,
    /// Events that wait for the application.
    pub events: usize,
    /// Offences (bad signature, malformed or oversized frame) until a ban.
    pub offences: u32,
    pub ban: Duration,
    /// Longest pause between two tries to reach a gateway.
    pub reconnect: Duration,
}

impl GridLimits {
    pub fn gateway() -> Self {
        GridLimits {
            pending_incoming: 64,
            pending_outgoing: 32,
            established: 2000,
            established_per_peer: 2,
            connections_per_ip: Rate::new(8.0, 64.0),
            auth_deadline: Duration::from_secs(5),
            answer_times: AnswerTimes::default(),
            rates: Rates::default(),
            concurrent_requests: 256,
            streams_per_peer: 16,
            waiting_streams: 64,
            events: 4096,
            offences: 5,
            ban: Duration::from_secs(60),
            reconnect: Duration::from_secs(30),
        }
    }

    pub fn worker() -> Self {
        GridLimits { pending_incoming: 16, pending_outgoing: 16, established: 32, events: 256, ..Self::gateway() }
    }
}

/// How long the answer to a request may take.
#[derive(Debug, Clone, Copy)]
pub struct AnswerTimes {
    pub auth: Duration,
    pub assign: Duration,
    pub job: Duration,
    pub challenge: Duration,
    pub info: Duration,
}

impl AnswerTimes {
    /// The same for all.
    pub fn all(time: Duration) -> Self {
        AnswerTimes { auth: time, assign: time, job: time, challenge: time, info: time }
    }
}

impl Default for AnswerTimes {
    fn default() -> Self {
        AnswerTimes {
            auth: Duration::from_secs(5),
            assign: Duration::from_secs(5),
            job: Duration::from_secs(3),
            challenge: Duration::from_secs(30),
            info: Duration::from_secs(3),
        }
    }
}

/// Per-peer rates.
#[derive(Debug, Clone)]
pub struct Rates {
    pub auth: Rate,
    pub assign: Rate,
    pub job: Rate,
    pub infer: Rate,
    pub audit: Rate,
    pub challenge: Rate,
    pub blob: Rate,
    pub info: Rate,
    pub advert: Rate,
}

impl Default for Rates {
    fn default() -> Self {
        Rates {
            auth: Rate::new(0.2, 10.0),
            assign: Rate::new(1.0, 10.0),
            job: Rate::new(200.0, 400.0),
            infer: Rate::new(100.0, 200.0),
            audit: Rate::new(20.0, 100.0),
            challenge: Rate::new(2.0, 32.0),
            blob: Rate::new(1.0, 20.0),
            info: Rate::new(2.0, 20.0),
            advert: Rate::new(1.0, 10.0),
        }
    }
}

impl Rates {
    pub(super) fn of(&self, protocol: Protocol) -> Rate {
        match protocol {
            Protocol::Auth => self.auth,
            Protocol::Assign => self.assign,
            Protocol::Job => self.job,
            Protocol::Infer => self.infer,
            Protocol::Audit => self.audit,
            Protocol::Challenge => self.challenge,
            Protocol::Blob => self.blob,
            Protocol::Info => self.info,
            // The routing table has limits of its own.
            Protocol::Kad => self.advert,
        }
    }
}

/// Largest frame of a protocol, in bytes.
pub(super) fn frame_limit(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Auth => limits::AUTH,
        Protocol::Assign => limits::ASSIGN,
        Protocol::Job => limits::JOB,
        Protocol::Infer | Protocol::Audit => limits::INFER,
        Protocol::Challenge => limits::CHALLENGE,
        Protocol::Blob => limits::BLOB,
        Protocol::Info => limits::INFO,
        Protocol::Kad => 16 << 10,
    }
}

/// 60 % of the memory limit of this process's cgroup (v2), above which no further connection is taken; `None` without one.
/// A share of the host's memory would be wrong in a pod.
pub fn memory_limit_from_cgroup() -> Option<u64> {
    let text = std::fs::read_to_string(Path::new("/sys/fs/cgroup/memory.max")).ok()?;
    Some(text.trim().parse::<u64>().ok()? / 10 * 6)
}
