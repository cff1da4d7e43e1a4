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
fn owners<'a>(
    class: impl Iterator<Item = &'a Work>,
    randomness: &mut dyn FnMut() -> u64,
) -> VecDeque<VecDeque<&'a Work>> {
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
    fn place_first(
        &mut self,
        waiting: &mut VecDeque<&Work>,
        randomness: &mut dyn FnMut() -> u64,
    ) -> Option<Assignment> {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{
        super::{
            Rates,
            testing::{any_queue, any_workers, dice, model, peer, work, worker},
        },
        *,
    };

    /// The workers after a plan; fails when a slot was given twice or a filter broken.
    fn apply(workers: &[Worker], queue: &[Work], plan: &[Assignment]) -> Vec<Worker> {
        let mut after = workers.to_vec();
        for assignment in plan {
            let work = queue.iter().find(|work| work.request == assignment.request).unwrap();
            let worker = after.iter_mut().find(|worker| worker.id == assignment.worker).unwrap();
            assert_eq!(eligible(worker, work), Ok(()));
            worker.free_slots -= 1;
        }
        after
    }

    fn owners_of(queue: &[Work], plan: &[Assignment]) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        for assignment in plan {
            let work = queue.iter().find(|work| work.request == assignment.request).unwrap();
            *counts.entry(work.owner.clone()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn an_interactive_request_overtakes_a_long_queue() {
        let mut queue: Vec<Work> = (0..50).map(|number| work(number, "batch")).collect();
        queue.push(Work { interactive: true, ..work(99, "person") });
        let plan = plan(&[worker(1, 1)], &queue, &mut dice(1));
        assert_eq!(plan, [Assignment { request: queue[50].request, worker: peer(1) }]);
    }

    #[test]
    fn an_owner_with_a_deep_queue_does_not_starve_another() {
        let mut queue: Vec<Work> = (0..100).map(|number| work(number, "deep")).collect();
        queue.extend((100..103).map(|number| work(number, "shallow")));
        let plan = plan(&[worker(1, 8)], &queue, &mut dice(1));
        assert_eq!(owners_of(&queue, &plan), [("deep".to_owned(), 5), ("shallow".to_owned(), 3)].into());
    }

    #[test]
    fn with_one_slot_at_a_time_owners_still_share_about_equally() {
        let queue: Vec<Work> =
            (0..40).map(|number| work(number, if number < 39 { "deep" } else { "shallow" })).collect();
        let mut dice = dice(7);
        let shallow =
            (0..1000).filter(|_| plan(&[worker(1, 1)], &queue, &mut dice)[0].request == queue[39].request).count();
        assert!((430..570).contains(&shallow), "{shallow}");
    }

    #[test]
    fn of_two_workers_the_faster_one_is_chosen() {
        let fast = Rates { prefill_milli: 1_000_000, decode_milli: 100_000, context_length: 1000 };
        let workers = [worker(1, 9), Worker { models: [(model(1), fast)].into(), ..worker(2, 9) }];
        for seed in 0..50 {
            assert_eq!(plan(&workers, &[work(1, "a")], &mut dice(seed))[0].worker, peer(2));
        }
    }

    #[test]
    fn equal_workers_get_about_equal_shares() {
        let workers: Vec<Worker> = (1..=10).map(|number| worker(number, 100)).collect();
        let queue: Vec<Work> = (0..200).map(|number| work(number, "a")).collect();
        let plan = plan(&workers, &queue, &mut dice(3));
        let load = |number| plan.iter().filter(|assignment| assignment.worker == peer(number)).count();
        let loads: Vec<usize> = (1..=10).map(load).collect();
        // Two choices keep the largest load within ln ln n of the mean; one choice would give about ±9.
        assert!(loads.iter().all(|load| (16..=24).contains(load)), "{loads:?}");
    }

    #[test]
    fn interactive_work_goes_to_a_proven_worker_while_one_is_free() {
        let unproven = Worker { verified: false, queued_tokens: 0, ..worker(1, 5) };
        let proven = Worker { queued_tokens: 9000, ..worker(2, 1) };
        let queue = [1, 2].map(|number| Work { interactive: true, ..work(number, "a") });
        let plan = plan(&[unproven, proven], &queue, &mut dice(1));
        assert_eq!(plan.into_iter().map(|assignment| assignment.worker).collect::<Vec<_>>(), [peer(2), peer(1)]);
    }

    #[test]
    fn a_request_nobody_can_start_does_not_hold_up_those_behind_it() {
        let queue = [Work { model: model(9), ..work(1, "a") }, work(2, "a")];
        let plan = plan(&[worker(1, 1)], &queue, &mut dice(1));
        assert_eq!(plan, [Assignment { request: queue[1].request, worker: peer(1) }]);
    }

    #[test]
    fn nothing_to_do_is_an_empty_plan() {
        assert_eq!(plan(&[], &[work(1, "a")], &mut dice(1)), []);
        assert_eq!(plan(&[worker(1, 1)], &[], &mut dice(1)), []);
    }

    proptest! {
        #[test]
        fn no_plan_breaks_a_filter_or_a_slot_or_assigns_twice(workers in any_workers(), queue in any_queue(), seed in any::<u64>()) {
            let plan = plan(&workers, &queue, &mut dice(seed));
            apply(&workers, &queue, &plan);
            let requests: BTreeSet<RequestId> = plan.iter().map(|assignment| assignment.request).collect();
            prop_assert_eq!(requests.len(), plan.len());
        }

        #[test]
        fn no_request_waits_that_a_free_worker_could_start(workers in any_workers(), queue in any_queue(), seed in any::<u64>()) {
            let plan = plan(&workers, &queue, &mut dice(seed));
            let after = apply(&workers, &queue, &plan);
            let waiting = queue.iter().filter(|work| plan.iter().all(|assignment| assignment.request != work.request));
            for work in waiting {
                prop_assert!(after.iter().all(|worker| eligible(worker, work).is_err()));
            }
        }

        #[test]
        fn owners_with_enough_to_do_get_equal_numbers(counts in prop::collection::vec(1u32..20, 1..5), slots in 1u32..60, seed in any::<u64>()) {
            let mut number = 0;
            let mut next = |owner: usize| { number += 1; work(number, &format!("team-{owner}")) };
            let queue: Vec<Work> = counts.iter().enumerate().flat_map(|(owner, count)| vec![owner; *count as usize]).map(&mut next).collect();
            let plan = plan(&[worker(1, slots)], &queue, &mut dice(seed));
            let got = owners_of(&queue, &plan);
            let got: Vec<u32> = (0..counts.len()).map(|owner| got.get(&format!("team-{owner}")).copied().unwrap_or(0)).collect();
            let most = got.iter().max().unwrap();
            for (got, wanted) in got.iter().zip(&counts) {
                prop_assert!(got == wanted || got + 1 >= *most, "{:?} of {:?}", got, counts);
            }
        }

        #[test]
        fn the_order_of_the_queue_does_not_matter(workers in any_workers(), queue in any_queue(), seed in any::<u64>()) {
            let mut turned = queue.clone();
            turned.reverse();
            prop_assert_eq!(plan(&workers, &queue, &mut dice(seed)), plan(&workers, &turned, &mut dice(seed)));
        }

        #[test]
        fn of_equal_requests_of_one_owner_the_older_starts_first(slots in 1u32..10, seed in any::<u64>()) {
            let queue: Vec<Work> = (0..12).map(|number| work(number, "a")).collect();
            let plan = plan(&[worker(1, slots)], &queue, &mut dice(seed));
            let started: Vec<RequestId> = plan.into_iter().map(|assignment| assignment.request).collect();
            let oldest: Vec<RequestId> = queue.iter().take(started.len()).map(|work| work.request).collect();
            prop_assert_eq!(started, oldest);
        }
    }
}
