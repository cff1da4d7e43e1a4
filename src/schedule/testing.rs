//! Workers, requests and randomness for tests.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{Class, Locality, Needs, Rates, Serving, Work, Worker, queue::Backlog};
use crate::{
    api::ids::{GridPeerId, ModelDigest, RequestId},
    protocol::{
        fields::RequestFields,
        internal::{PlacementFilter, Trust},
    },
};

pub(crate) fn peer(number: u8) -> GridPeerId {
    let mut key = [number; 33];
    key[0] = 2;
    GridPeerId::from_public_key(key)
}

pub(crate) fn model(number: u8) -> ModelDigest {
    ModelDigest([number; 32])
}

/// Model 1, anywhere.
pub(crate) fn needs() -> Needs {
    Needs { model: model(1), model_bytes: 0, placement: PlacementFilter::default(), fields: RequestFields::NONE }
}

/// A model that cannot serve yet.
pub(crate) fn loading(locality: Locality) -> Serving {
    Serving { locality, rates: Rates::default() }
}

/// Verified, serves model 1 with 100 tokens/s prefill and 10 tokens/s decode in a context of 1000.
pub(crate) fn worker(number: u8, free_slots: u32) -> Worker {
    let rates = Rates { prefill_milli: 100_000, decode_milli: 10_000, context_length: 1000 };
    Worker {
        id: peer(number),
        models: [(model(1), Serving { locality: Locality::Loaded, rates })].into(),
        free_slots,
        running: 0,
        queued_tokens: 0,
        schedulable: true,
        quarantined: false,
        verified: true,
        trust: Trust::Managed,
        region: String::new(),
        labels: BTreeMap::new(),
        memory_bytes: 0,
        knows: RequestFields::all(),
    }
}

/// Batch, of these needs.
pub(crate) fn backlog(owner: &str) -> Backlog {
    Backlog { owner: owner.to_owned(), class: Class::Batch, needs: needs(), suspended: false, parallelism: 0 }
}

pub(crate) fn id(number: u32) -> RequestId {
    RequestId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// A request of 10 prompt and 20 answer tokens.
pub(crate) fn work(number: u32) -> Work {
    Work {
        request: id(number),
        order: u64::from(number),
        attempt: 1,
        prompt_tokens_estimate: 10,
        max_tokens: 20,
        exclude: BTreeSet::new(),
        avoid: None,
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

/// Slots, tokens and flags; models; context, region and trust.
type AnyWorker = ((u32, u64, [bool; 6]), BTreeSet<u8>, (u32, usize, usize));
/// Owner, class, model and flags; parallelism, region and trust; requests.
type AnyBacklog = ((u8, bool, u8, [bool; 4]), (u32, usize, usize), Vec<AnyRequest>);
type AnyRequest = (u32, u32, BTreeSet<u8>, Option<u8>);

const REGIONS: [&str; 3] = ["", "eu", "us"];
const TRUST: [Trust; 3] = [Trust::Probation, Trust::Approved, Trust::Managed];

/// Up to 8 workers of all sorts.
pub(crate) fn any_workers() -> impl Strategy<Value = Vec<Worker>> {
    let one = (
        (0u32..4, 0u64..500, any::<[bool; 6]>()),
        prop::collection::btree_set(0u8..3, 0..4),
        (20u32..200, 0usize..3, 0usize..3),
    );
    let numbered =
        |drawn: Vec<AnyWorker>| (0u8..).zip(drawn).map(|(number, drawn)| any_worker(number, drawn)).collect();
    prop::collection::vec(one, 0..8).prop_map(numbered)
}

fn any_worker(
    number: u8,
    ((free_slots, queued_tokens, flags), models, (context_length, region, trust)): AnyWorker,
) -> Worker {
    let [a, b, c, d, verified, gold] = flags;
    let like = worker(number, free_slots);
    let rates = Rates { context_length, ..like.models[&model(1)].rates };
    let serving = |digest: u8| {
        let locality = if digest == 2 && gold { Locality::OnDisk } else { Locality::Loaded };
        (model(digest), Serving { locality, rates })
    };
    Worker {
        queued_tokens,
        // One in four each, so that most plans have something to do.
        schedulable: a || b,
        quarantined: c && d,
        verified,
        models: models.into_iter().map(serving).collect(),
        region: REGIONS[region].into(),
        trust: TRUST[trust],
        labels: if gold { [("tier".into(), "gold".into())].into() } else { BTreeMap::new() },
        // Older software, one in four.
        knows: if a && c { RequestFields::NONE } else { RequestFields::all() },
        ..like
    }
}

/// Up to 6 backlogs of 3 owners with up to 8 requests each.
pub(crate) fn any_backlogs() -> impl Strategy<Value = Vec<(Backlog, Vec<Work>)>> {
    let request = (0u32..100, 1u32..100, prop::collection::btree_set(0u8..8, 0..3), prop::option::of(0u8..8));
    let one = (
        (0u8..3, any::<bool>(), 0u8..3, any::<[bool; 4]>()),
        (0u32..4, 0usize..3, 0usize..3),
        prop::collection::vec(request, 0..8),
    );
    let numbered =
        |drawn: Vec<AnyBacklog>| (0u32..).zip(drawn).map(|(number, drawn)| any_backlog(number, drawn)).collect();
    prop::collection::vec(one, 0..6).prop_map(numbered)
}

fn any_backlog(number: u32, drawn: AnyBacklog) -> (Backlog, Vec<Work>) {
    let ((owner, interactive, digest, flags), (parallelism, region, trust), requests) = drawn;
    let [a, b, c, gold] = flags;
    let placement = PlacementFilter {
        regions: if a && b { vec![REGIONS[region].into()] } else { vec![] },
        require_trust: (b && c).then_some(TRUST[trust]),
        node_labels: if a && gold { [("tier".into(), "gold".into())].into() } else { BTreeMap::new() },
    };
    let class = if interactive { Class::Interactive } else { Class::Batch };
    let fields = if c && gold { RequestFields::all() } else { RequestFields::NONE };
    let needs = Needs { model: model(digest), placement, fields, ..needs() };
    let like = backlog(&format!("team-{owner}"));
    let spec = Backlog { class, needs, suspended: a && b && c, parallelism, ..like };
    let works = (100 * number..).zip(requests).map(|(number, (prompt, max_tokens, exclude, avoid))| Work {
        prompt_tokens_estimate: prompt,
        max_tokens,
        exclude: exclude.into_iter().map(peer).collect(),
        avoid: avoid.map(peer),
        ..work(number)
    });
    (spec, works.collect())
}
