//! The workers of one plan: which of them can start a request, and which of those does.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::Plan;
use crate::{
    api::ids::{GridPeerId, RequestId},
    schedule::{
        Class, Needs, Worker, expected_wait_ms,
        filter::{fits, holds, is_free},
        queue::{Entry, Id, Item, Lane, Shape},
    },
};

/// A worker with what this plan took of it already.
pub(super) struct Slot<'a> {
    pub worker: &'a Worker,
    pub free: u32,
    pub queued_tokens: u64,
}

/// The workers that can start something of the same needs.
struct Matching {
    free: Vec<usize>,
}

/// What a plan has found and taken so far.
pub(super) struct Round<'a> {
    pub all: &'a [Worker],
    pub workers: Vec<Slot<'a>>,
    /// Free slots of all of them.
    pub left: u64,
    matching: HashMap<*const Needs, Matching>,
    /// Workers that could start nothing of batch. Slots only get fewer, so that this holds to the end of the plan.
    pub no_batch: BTreeSet<usize>,
    stuck: BTreeSet<Id>,
    pub plan: Plan,
}

impl<'a> Round<'a> {
    pub fn new(all: &'a [Worker]) -> Self {
        let slot = |worker: &'a Worker| Slot { worker, free: worker.free_slots, queued_tokens: worker.queued_tokens };
        let workers: Vec<Slot<'a>> = all.iter().filter(|worker| worker.free_slots > 0).map(slot).collect();
        let left = workers.iter().map(|slot| u64::from(slot.free)).sum();
        let (matching, no_batch, stuck) = Default::default();
        Round { all, workers, left, matching, no_batch, stuck, plan: Plan::default() }
    }

    /// The first request of a backlog that a free worker can start, and on which one. What no worker will ever take is noted.
    pub fn place(
        &mut self,
        entry: &Entry,
        class: Class,
        only: Option<usize>,
        randomness: &mut dyn FnMut() -> u64,
    ) -> Option<(RequestId, usize)> {
        let free = self.free(&entry.needs, only);
        if free.is_empty() {
            return None;
        }
        let mut first: Option<(u64, RequestId, Item, &Shape)> = None;
        for (shape, lane) in &entry.lanes {
            let found = self.first_that_fits(&free, entry, shape, lane);
            first = match (first, found) {
                (Some(first), Some(found)) if (found.0, found.1) < (first.0, first.1) => Some(found),
                (None, found) => found,
                (first, _) => first,
            };
        }
        let Some((_, request, item, shape)) = first else {
            if only.is_none() && self.stuck.insert(entry.id) {
                self.note_hopeless(entry);
                self.plan.stuck.push(entry.key.clone());
            }
            return None;
        };
        let mut can = self.allowed(&free, entry, shape);
        can.retain(|index| self.holds(*index, &entry.needs, item.tokens()));
        self.choose(can, entry, class, item, randomness).map(|worker| (request, worker))
    }

    /// Workers with a free slot for these needs.
    fn free(&mut self, needs: &Arc<Needs>, only: Option<usize>) -> Vec<usize> {
        let workers = &self.workers;
        let matching = self.matching.entry(Arc::as_ptr(needs)).or_insert_with(|| {
            let can = |slot: &Slot<'_>| fits(slot.worker, needs).and_then(|()| is_free(slot.worker, needs)).is_ok();
            Matching { free: (0..workers.len()).filter(|index| workers.get(*index).is_some_and(can)).collect() }
        });
        matching.free.retain(|index| workers.get(*index).is_some_and(|slot| slot.free > 0));
        match only {
            None => matching.free.clone(),
            Some(only) => matching.free.iter().copied().filter(|index| *index == only).collect(),
        }
    }

    /// Those of them that requests of a shape may go to.
    fn allowed(&self, free: &[usize], entry: &Entry, shape: &Shape) -> Vec<usize> {
        if shape.exclude.is_empty() && shape.avoid.is_none() {
            return free.to_vec();
        }
        let others = |avoid: &GridPeerId| {
            let serves = |worker: &&Worker| {
                worker.id != *avoid && !shape.exclude.contains(&worker.id) && fits(worker, &entry.needs).is_ok()
            };
            self.all.iter().any(|worker| serves(&worker))
        };
        let avoided = shape.avoid.as_ref().filter(|avoid| others(avoid));
        let may = |id: &GridPeerId| !shape.exclude.contains(id) && avoided != Some(id);
        free.iter().copied().filter(|index| self.workers.get(*index).is_some_and(|slot| may(&slot.worker.id))).collect()
    }

    fn holds(&self, worker: usize, needs: &Needs, tokens: u64) -> bool {
        self.workers.get(worker).is_some_and(|slot| holds(slot.worker, needs, tokens).is_ok())
    }

    fn first_that_fits<'e>(
        &self,
        free: &[usize],
        entry: &Entry,
        shape: &'e Shape,
        lane: &Lane,
    ) -> Option<(u64, RequestId, Item, &'e Shape)> {
        let can = self.allowed(free, entry, shape);
        let anybody_holds = |tokens: u64| can.iter().any(|index| self.holds(*index, &entry.needs, tokens));
        let of = |((order, request), item): (&(u64, RequestId), &Item)| (*order, *request, *item, shape);
        if anybody_holds(shape.most_tokens()) {
            return lane.iter().next().map(of);
        }
        if !anybody_holds(shape.most_tokens() / 2) {
            return None;
        }
        lane.iter().find(|(_, item)| anybody_holds(item.tokens())).map(of)
    }

    /// Of two workers drawn at random the one with the shorter expected wait.
    fn choose(
        &self,
        mut can: Vec<usize>,
        entry: &Entry,
        class: Class,
        item: Item,
        randomness: &mut dyn FnMut() -> u64,
    ) -> Option<usize> {
        let verified = |index: &usize| self.workers.get(*index).is_some_and(|slot| slot.worker.verified);
        // Somebody waits for an interactive answer: it goes to an unproven worker only when no proven one is free.
        if class == Class::Interactive && can.iter().any(verified) {
            can.retain(verified);
        }
        let wait = |index: &usize| {
            self.workers.get(*index).map_or(u64::MAX, |slot| {
                let taken = slot.queued_tokens.saturating_sub(slot.worker.queued_tokens);
                let tokens = u64::from(item.max_tokens).saturating_add(taken);
                let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
                expected_wait_ms(slot.worker, &entry.needs, item.prompt_tokens_estimate, tokens)
            })
        };
        two_of(&can, randomness).into_iter().flatten().min_by_key(|index| wait(index)).copied()
    }
}

/// A number below `bound` (at least 1); the bias is below 2⁻³² for any real number of workers.
fn draw(bound: usize, randomness: &mut dyn FnMut() -> u64) -> usize {
    ((u128::from(randomness()) * bound as u128) >> 64) as usize
}

/// Two different members, or one if there are no more.
fn two_of<'a, T>(all: &'a [T], randomness: &mut dyn FnMut() -> u64) -> [Option<&'a T>; 2] {
    match all.len() {
        0 => [None, None],
        1 => [all.first(), None],
        n => {
            let first = draw(n, randomness);
            let second = (first + 1 + draw(n - 1, randomness)) % n;
            [all.get(first), all.get(second)]
        }
    }
}
