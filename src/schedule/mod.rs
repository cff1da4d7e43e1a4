//! Which worker gets which request. Pure: the gateway tells it what waits and what it knows of workers, and hands in
//! randomness; it gets assignments and makes leases of them. Nothing here talks, sleeps or looks at a clock.
//!
//! **Filter** ([`filter`]). A worker gets a request only if it serves the model and its context holds prompt and answer, if
//! placement allows it (region, labels, trust), if its software knows the fields that the request uses, if it is not quarantined, cordoned or excluded, and if it has a free slot. A
//! worker that is still loading a model must have the memory for it to count at all.
//!
//! **Score** ([`score`]). Of two workers drawn at random among those that can, the one with the shorter expected wait: what it
//! has already, prompt and answer at its measured speed, and the time until the model is loaded.
//!
//! **Order** ([`queue`], [`plan`]). Interactive requests go before batch requests. Within a class namespaces share by weighted
//! start-time fair queueing over tokens ([`fair`]); within a namespace jobs take turns, the oldest first; within a job requests
//! go in the order of the input.
//!
//! # What is guaranteed, and tested
//!
//! * No assignment breaks a filter, and no slot is given twice.
//! * Work is conserved: after a plan no request waits that a worker with a free slot could start.
//! * Batch is not starved by interactive traffic: of any [`INTERACTIVE_RUN`] + 1 requests in a row that one worker starts, at
//!   least one is a batch request if one waits that it could start.
//! * Namespaces: while two of them have something that the same workers could start, the tokens that they were given, divided
//!   by their weights, differ by at most their largest request each (divided likewise).
//! * **Starvation bound.** A namespace that comes to the queue waits for at most one request of each other namespace of its
//!   class; a job for at most one request of each other job of its namespace in each of the namespace's turns; and in between a
//!   worker starts at most [`INTERACTIVE_RUN`] interactive requests for each batch request. With N namespaces of equal weight
//!   and requests of equal size, and J jobs in the own one, the next request of any job is among the next
//!   N · J · ([`INTERACTIVE_RUN`] + 1) that the workers which can do it start.
//! * A namespace whose requests fit only workers that are busy keeps its place, but saves up at most [`fair::MOST_CREDIT`]
//!   tokens: when its workers come free it does not lock everybody else out for longer than that.

pub mod fair;
pub mod filter;
pub mod outlook;
pub mod plan;
pub mod queue;
pub mod score;

use std::collections::{BTreeMap, BTreeSet};

pub use filter::{Refusal, Refusals, eligible, fits, refusals};
pub use outlook::{Outlook, outlook};
pub use plan::{Assignment, Hopeless, Plan};
pub use queue::Queue;
pub use score::expected_wait_ms;

use crate::{
    api::ids::{GridPeerId, ModelDigest, RequestId},
    protocol::{
        fields::RequestFields,
        internal::{PlacementFilter, Trust},
    },
};

/// Interactive requests that a worker starts in a row while a batch request that it could start waits.
pub const INTERACTIVE_RUN: u32 = 8;

/// How near a model is to being served, nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Locality {
    /// Measured and ready.
    Loaded,
    /// The file is there; it is being loaded or measured.
    OnDisk,
    /// The file must be fetched first.
    MustFetch,
}

/// A model on a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serving {
    pub locality: Locality,
    pub rates: Rates,
}

/// What a worker measured for one model. Zeros until it is loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// Milli-tokens per second.
    pub prefill_milli: u64,
    /// Milli-tokens per second.
    pub decode_milli: u64,
    /// Tokens, prompt and answer together; 0 = not known.
    pub context_length: u32,
}

/// A connected worker as the gateway sees it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    pub id: GridPeerId,
    pub models: BTreeMap<ModelDigest, Serving>,
    /// Requests that it can start at once.
    pub free_slots: u32,
    /// Requests of ours that it has.
    pub running: u32,
    /// Answer tokens still to be made for the requests it has.
    pub queued_tokens: u64,
    /// The admin lets it take work: approved, not cordoned, not draining.
    pub schedulable: bool,
    pub quarantined: bool,
    /// Proved its capability. Others get interactive requests only when nobody else is free.
    pub verified: bool,
    pub trust: Trust,
    /// Empty when not known.
    pub region: String,
    pub labels: BTreeMap<String, String>,
    /// Main memory; 0 when not known.
    pub memory_bytes: u64,
    /// Fields of a request that its software knows.
    pub knows: RequestFields,
}

/// What all requests of one backlog ask of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Needs {
    pub model: ModelDigest,
    /// Size of the model; 0 when not known.
    pub model_bytes: u64,
    pub placement: PlacementFilter,
    /// Fields of a request that must be known, because one of them uses each.
    pub fields: RequestFields,
}

/// Which requests go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Somebody waits for the answer.
    Interactive,
    Batch,
}

impl Class {
    pub const ALL: [Class; 2] = [Class::Interactive, Class::Batch];

    /// As a label of metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Interactive => "interactive",
            Class::Batch => "batch",
        }
    }
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    pub request: RequestId,
    /// Its place in its backlog: line of the input, or time of arrival.
    pub order: u64,
    /// Number of its next lease.
    pub attempt: u32,
    pub prompt_tokens_estimate: u32,
    pub max_tokens: u32,
    /// Workers that must not get it.
    pub exclude: BTreeSet<GridPeerId>,
    /// Worker that lost it last: gets it again only when no other could.
    pub avoid: Option<GridPeerId>,
    /// Unix milliseconds.
    pub enqueued_ms: u64,
}

impl Work {
    /// Context that it may need, in tokens; also what it is charged before it is known.
    pub fn tokens(&self) -> u64 {
        u64::from(self.prompt_tokens_estimate) + u64::from(self.max_tokens)
    }
}

#[cfg(test)]
pub(crate) mod testing;
