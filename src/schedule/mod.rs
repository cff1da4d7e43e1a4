//! Which worker gets which request: filter, score, lease plan. Pure: the gateway hands in what it knows of workers and queue,
//! and randomness; it gets assignments and makes leases of them. Nothing here waits, remembers or talks.

pub mod filter;
pub mod plan;
pub mod score;

use std::collections::{BTreeMap, BTreeSet};

pub use filter::{Refusal, eligible, why_waiting};
pub use plan::{Assignment, plan};
pub use score::expected_wait_ms;

use crate::api::ids::{GridPeerId, ModelDigest, RequestId};

/// What a worker measured for one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    pub models: BTreeMap<ModelDigest, Rates>,
    /// Requests that it can start at once.
    pub free_slots: u32,
    /// Answer tokens still to be made for the requests it has.
    pub queued_tokens: u64,
    /// The admin lets it take work: approved, not cordoned, not draining.
    pub schedulable: bool,
    pub quarantined: bool,
    /// Proved its capability. Others do probation work: batch requests, and interactive ones when nobody else is free.
    pub verified: bool,
    pub region: String,
}

/// A request that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    pub request: RequestId,
    /// Namespace: slots are shared out between owners, not between requests.
    pub owner: String,
    /// Somebody waits for the answer; goes before batch work.
    pub interactive: bool,
    pub model: ModelDigest,
    pub prompt_tokens_estimate: u32,
    pub max_tokens: u32,
    /// Workers that failed or rejected it before.
    pub exclude: BTreeSet<GridPeerId>,
    /// Unix milliseconds.
    pub enqueued_ms: u64,
}

#[cfg(test)]
pub(crate) mod testing;
