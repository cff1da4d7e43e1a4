//! Workers, requests and randomness for tests.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{Rates, Work, Worker};
use crate::api::ids::{GridPeerId, ModelDigest, RequestId};

pub(crate) fn peer(number: u8) -> GridPeerId {
    let mut key = [number; 33];
    key[0] = 2;
    GridPeerId::from_public_key(key)
}

pub(crate) fn model(number: u8) -> ModelDigest {
    ModelDigest([number; 32])
}

/// Verified, serves model 1 with 100 tokens/s prefill and 10 tokens/s decode in a context of 1000.
pub(crate) fn worker(number: u8, free_slots: u32) -> Worker {
    let rates = Rates { prefill_milli: 100_000, decode_milli: 10_000, context_length: 1000 };
    Worker {
        id: peer(number),
        models: [(model(1), rates)].into(),
        free_slots,
        queued_tokens: 0,
        schedulable: true,
        quarantined: false,
        verified: true,
        region: String::new(),
    }
}

/// A batch request for model 1 of 10 prompt and 20 answer tokens.
pub(crate) fn work(number: u32, owner: &str) -> Work {
    Work {
        request: RequestId(*blake3::hash(&number.to_le_bytes()).as_bytes()),
        owner: owner.to_owned(),
        interactive: false,
        model: model(1),
        prompt_tokens_estimate: 10,
        max_tokens: 20,
        exclude: BTreeSet::new(),
        enqueued_ms: u64::from(number),
    }
}

/// SplitMix64.
pub(crate) fn dice(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// Up to 8 workers of all sorts.
pub(crate) fn any_workers() -> impl Strategy<Value = Vec<Worker>> {
    let one = (0u32..4, 0u64..500, any::<[bool; 5]>(), prop::collection::btree_set(0u8..3, 0..3), 20u32..200);
    prop::collection::vec(one, 0..8).prop_map(|drawn| {
        let build = |(number, (free_slots, queued_tokens, flags, models, context_length))| {
            let [a, b, c, d, verified] = flags;
            let like = worker(number as u8, free_slots);
            let rates = Rates { context_length, ..like.models[&model(1)] };
            let models = BTreeSet::into_iter(models).map(|digest| (model(digest), rates)).collect();
            // One in four each, so that most plans have something to do.
            Worker { queued_tokens, schedulable: a || b, quarantined: c && d, verified, models, ..like }
        };
        drawn.into_iter().enumerate().map(build).collect()
    })
}

/// Up to 30 requests of four owners.
pub(crate) fn any_queue() -> impl Strategy<Value = Vec<Work>> {
    let one =
        (0u8..4, any::<bool>(), 0u8..3, 0u32..100, 1u32..100, prop::collection::btree_set(0u8..8, 0..3), 0u64..1000);
    prop::collection::vec(one, 0..30).prop_map(|drawn| {
        let build = |(number, (owner, interactive, digest, prompt, max_tokens, exclude, enqueued_ms))| {
            let exclude = BTreeSet::into_iter(exclude).map(peer).collect();
            let like = work(number as u32, &format!("team-{owner}"));
            Work {
                interactive,
                model: model(digest),
                prompt_tokens_estimate: prompt,
                max_tokens,
                exclude,
                enqueued_ms,
                ..like
            }
        };
        drawn.into_iter().enumerate().map(build).collect()
    })
}
