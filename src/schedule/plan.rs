//! The lease plan: who starts what, now.

use std::collections::{BTreeMap, VecDeque};

use super::{Work, Worker, eligible, expected_wait_ms};
use crate::api::ids::{GridPeerId, RequestId};

/// One lease to offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub request: RequestId,
    pub worker: GridPeerId,
}

/// Fills free slots with waiting requests. Interactive requests go first. Within a class owners take turns in a random order,
/// each with its oldest request that any worker can start; a request goes to the better, by expected wait, of two workers
/// drawn at random among those that can (power of two choices: near the best, and no herd on one worker while load figures
/// are old). Afterwards no request waits that a worker with a free slot could start.
pub fn plan(workers: &[Worker], queue: &[Work], randomness: &mut dyn FnMut() -> u64) -> Vec<Assignment> {
    let mut slots = Slots { workers: workers.to_vec() };
    let mut assignments = Vec::new();
    for interactive in [true, false] {
        let class = queue.iter().filter(|work| work.interactive == interactive);
        let mut turns = owners(class, randomness);
        while let Some(mut waiting) = turns.pop_front() {
            if slots.none_left() {
                break;
            }
            if let Some(assignment) = slots.place_first(&mut waiting, randomness) {
                assignments.push(assignment);
                turns.push_back(waiting);
            }
        }
    }
    assignments
}

/// Each owner's requests, oldest first; the owners in random order, since with one slot free at a time the first would
/// otherwise get them all.
fn owners<'a>(class: impl Iterator<Item = &'a Work>, randomness: &mut dyn FnMut() -> u64) -> VecDeque<VecDeque<&'a Work>> {
    let mut by_owner: BTreeMap<&str, Vec<&Work>> = BTreeMap::new();
    for work in class {
        by_owner.entry(&work.owner).or_default().push(work);
    }
    let mut owners: Vec<VecDeque<&Work>> = by_owner.into_values().map(oldest_first).collect();
    for last in (1..owners.len()).rev() {
        owners.swap(last, draw(last + 1, randomness));
    }
    owners.into()
}

fn oldest_first(mut works: Vec<&Work>) -> VecDeque<&Work> {
    works.sort_by_key(|work| (work.enqueued_ms, work.request));
    works.into()
}

/// A number below `bound` (at least 1); the bias is below 2⁻³² for any real number of workers.
fn draw(bound: usize, randomness: &mut dyn FnMut() -> u64) -> usize {
    ((u128::from(randomness()) * bound as u128) >> 64) as usize
}

/// Workers with what this plan took of them already.
struct Slots {
    workers: Vec<Worker>,
}

impl Slots {
    fn none_left(&self) -> bool {
        self.workers.iter().all(|worker| worker.free_slots == 0)
    }

    /// Places the first request that fits anywhere. Those before it are dropped from the queue: slots only get fewer, so they
    /// cannot fit later in this plan.
    fn place_first(&mut self, waiting: &mut VecDeque<&Work>, randomness: &mut dyn FnMut() -> u64) -> Option<Assignment> {
        while let Some(work) = waiting.pop_front() {
            if let Some(worker) = self.choose(work, randomness).and_then(|chosen| self.workers.get_mut(chosen)) {
                worker.free_slots -= 1;
                worker.queued_tokens = worker.queued_tokens.saturating_add(u64::from(work.max_tokens));
                return Some(Assignment { request: work.request, worker: worker.id.clone() });
            }
        }
        None
    }

    fn choose(&self, work: &Work, randomness: &mut dyn FnMut() -> u64) -> Option<usize> {
        let can = |(_, worker): &(usize, &Worker)| eligible(worker, work).is_ok();
        let mut candidates: Vec<(usize, &Worker)> = self.workers.iter().enumerate().filter(can).collect();
        // Somebody waits for an interactive answer: it goes to an unproven worker only when no proven one is free.
        if work.interactive && candidates.iter().any(|(_, worker)| worker.verified) {
            candidates.retain(|(_, worker)| worker.verified);
        }
        let drawn = two_of(&candidates, randomness);
        drawn.into_iter().flatten().min_by_key(|(_, worker)| expected_wait_ms(worker, work)).map(|(index, _)| *index)
    }
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
