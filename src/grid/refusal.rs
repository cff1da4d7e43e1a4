//! Refusals: one closed list of reasons, so that they can be counted, and a sentence for the refused.

use std::{fmt, time::Duration};

use super::error::FrameError;
use crate::protocol::wire::{
    AssignReply, AuditEvent, AuthResponse, BlobEvent, ChallengeReply, InferEvent, InfoReply, OfferReply, Refused,
    audit_event, auth_response, blob_event, challenge_reply, infer_event, info_reply, offer_reply,
};

/// Why the grid layer refused something. The name on the wire and in metrics is the variant's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Not a member, or its identity is no secp256k1 key.
    UnknownPeer,
    /// It speaks the protocols of another xdc-grid network.
    WrongNetwork,
    /// The roles do not fit: a worker dials gateways.
    WrongRole,
    UnsupportedVersion,
    BadSignature,
    /// A proof without an open challenge: replayed, late, or out of order.
    NoChallenge,
    MalformedFrame,
    TooLarge,
    RateLimited,
    NotAuthenticated,
    /// Connected, but did not authenticate in time.
    AuthTimeout,
    /// Everything that this protocol may hold at once is in use.
    Busy,
    /// Too many offences; blocked for a while.
    Banned,
    /// An advert that is old, or older than one seen before.
    StaleAdvert,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::UnknownPeer => "UnknownPeer",
            Reason::WrongNetwork => "WrongNetwork",
            Reason::WrongRole => "WrongRole",
            Reason::UnsupportedVersion => "UnsupportedVersion",
            Reason::BadSignature => "BadSignature",
            Reason::NoChallenge => "NoChallenge",
            Reason::MalformedFrame => "MalformedFrame",
            Reason::TooLarge => "TooLarge",
            Reason::RateLimited => "RateLimited",
            Reason::NotAuthenticated => "NotAuthenticated",
            Reason::AuthTimeout => "AuthTimeout",
            Reason::Busy => "Busy",
            Reason::Banned => "Banned",
            Reason::StaleAdvert => "StaleAdvert",
        }
    }

    /// An honest peer never causes these; a few of them are a ban.
    pub(super) fn is_offence(self) -> bool {
        matches!(self, Reason::BadSignature | Reason::NoChallenge | Reason::MalformedFrame | Reason::TooLarge)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The wire form. `retry_after` absent: trying again makes no sense.
pub fn refused(reason: Reason, message: impl Into<String>, retry_after: Option<Duration>) -> Refused {
    let retry_after_ms = retry_after.map_or(0, |after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX).max(1));
    Refused { reason: reason.as_str().into(), message: message.into(), retry_after_ms }
}

/// A refusal on its way to a peer and into the counters.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub reason: Reason,
    pub wire: Refused,
}

impl Refusal {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Refusal { reason, wire: refused(reason, message, None) }
    }

    pub(super) fn retry(reason: Reason, message: impl Into<String>, after: Duration) -> Self {
        Refusal { reason, wire: refused(reason, message, Some(after)) }
    }

    /// `None` when the stream merely broke: that is nobody's fault.
    pub(super) fn of_frame(error: &FrameError) -> Option<Self> {
        match error {
            FrameError::TooLarge { .. } => Some(Refusal::new(Reason::TooLarge, error.to_string())),
            FrameError::Malformed(_) => Some(Refusal::new(Reason::MalformedFrame, error.to_string())),
            FrameError::Idle(_) | FrameError::Io(_) => None,
        }
    }
}

/// Messages that can carry a refusal: the answering side of every protocol.
pub trait Refusable {
    fn from_refused(refused: Refused) -> Self;
}

impl Refusable for AssignReply {
    fn from_refused(refused: Refused) -> Self {
        AssignReply { refused: Some(refused) }
    }
}

macro_rules! refusable {
    ($($message:ident, $kind:path;)*) => {$(
        impl Refusable for $message {
            fn from_refused(refused: Refused) -> Self {
                $message { kind: Some($kind(refused)) }
            }
        }
    )*};
}

refusable! {
    AuthResponse, auth_response::Kind::Refused;
    OfferReply, offer_reply::Kind::Reject;
    ChallengeReply, challenge_reply::Kind::Refused;
    InfoReply, info_reply::Kind::Refused;
    InferEvent, infer_event::Kind::Error;
    AuditEvent, audit_event::Kind::Error;
    BlobEvent, blob_event::Kind::Refused;
}
