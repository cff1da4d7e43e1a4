//! The lease plan: who starts what, now. Here is whose turn it is; [`round`] finds the worker for it, and [`hopeless`] what no
//! worker will ever take.

mod hopeless;
mod round;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use self::round::Round;
use super::{Class, INTERACTIVE_RUN, Queue, Refusal, Worker, queue::Id};
use crate::api::ids::{GridPeerId, RequestId};

/// One lease to offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub request: RequestId,
    pub worker: GridPeerId,
    /// Key of its backlog.
    pub backlog: String,
    pub class: Class,
    pub attempt: u32,
    pub max_tokens: u32,
    pub enqueued_ms: u64,
}

/// A request that is too large for every worker that may get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hopeless {
    pub request: RequestId,
    pub refusal: Refusal,
}

/// What is to be done now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// They count as started: the queue hears with [`Queue::finished`] when each is over.
    pub assignments: Vec<Assignment>,
    /// They stay in the queue until the gateway takes them out.
    pub hopeless: Vec<Hopeless>,
    /// Backlogs of which nothing fits the workers that are free: later requests of theirs may.
    pub stuck: Vec<String>,
}

impl Queue {
    /// Fills free slots with waiting requests, as the module promises. A request goes to the better, by expected wait, of two
    /// workers drawn at random among those that can start it (power of two choices: near the best, and no herd on one worker
    /// while load figures are old).
    pub fn plan(&mut self, workers: &[Worker], randomness: &mut dyn FnMut() -> u64) -> Plan {
        self.runs.retain(|id, _| workers.iter().any(|worker| worker.id == *id));
        let mut round = Round::new(workers);
        self.batch_that_is_owed(&mut round, randomness);
        let mut pass = Pass::default();
        while let Some(worker) = self.start_next(Class::Interactive, None, &mut round, &mut pass, randomness) {
            if self.count_interactive(&round, worker) && self.owes(&round, worker) {
                self.start_owed(worker, &mut round, randomness);
            }
        }
        let mut pass = Pass::default();
        while self.start_next(Class::Batch, None, &mut round, &mut pass, randomness).is_some() {}
        round.plan
    }

    fn batch_that_is_owed(&mut self, round: &mut Round<'_>, randomness: &mut dyn FnMut() -> u64) {
        for worker in 0..round.workers.len() {
            if self.owes(round, worker) {
                self.start_owed(worker, round, randomness);
            }
        }
    }

    /// Whether a worker's next start is for batch.
    fn owes(&self, round: &Round<'_>, worker: usize) -> bool {
        round.workers.get(worker).is_some_and(|slot| {
            let tried = round.no_batch.contains(&worker);
            !tried && slot.free > 0 && self.runs.get(&slot.worker.id).is_some_and(|run| *run >= INTERACTIVE_RUN)
        })
    }

    fn start_owed(&mut self, worker: usize, round: &mut Round<'_>, randomness: &mut dyn FnMut() -> u64) {
        if self.start_next(Class::Batch, Some(worker), round, &mut Pass::default(), randomness).is_none() {
            round.no_batch.insert(worker);
        }
    }

    /// Counts an interactive start; true when the worker's run is complete.
    fn count_interactive(&mut self, round: &Round<'_>, worker: usize) -> bool {
        let Some(slot) = round.workers.get(worker) else { return false };
        let run = self.runs.entry(slot.worker.id.clone()).or_default();
        *run = (*run + 1).min(INTERACTIVE_RUN);
        *run == INTERACTIVE_RUN
    }

    /// Starts the next request of a class, on `only` if given; the worker that got it.
    fn start_next(
        &mut self,
        class: Class,
        only: Option<usize>,
        round: &mut Round<'_>,
        pass: &mut Pass,
        randomness: &mut dyn FnMut() -> u64,
    ) -> Option<usize> {
        while round.left > 0 {
            let owner = self.next_owner(class, pass)?;
            let Some((request, worker)) = self.first_of(class, &owner, only, round, pass, randomness) else {
                pass.done.insert(owner);
                continue;
            };
            let backlog = self.backlog_of(&request).unwrap_or_default().to_owned();
            let item = self.start(&request)?;
            let slot = round.workers.get_mut(worker)?;
            slot.free -= 1;
            round.left -= 1;
            slot.queued_tokens = slot.queued_tokens.saturating_add(u64::from(item.max_tokens));
            if class == Class::Batch {
                self.runs.remove(&slot.worker.id);
            }
            round.plan.assignments.push(Assignment {
                request,
                worker: slot.worker.id.clone(),
                backlog,
                class,
                attempt: item.attempt,
                max_tokens: item.max_tokens,
                enqueued_ms: item.enqueued_ms,
            });
            return Some(worker);
        }
        None
    }

    /// The owner with the lowest start tag among those that may still have something to start.
    fn next_owner(&mut self, class: Class, pass: &Pass) -> Option<String> {
        let turns = self.turns_of(class)?;
        let open = turns.ready.keys().filter(|owner| !pass.done.contains(*owner));
        open.min_by_key(|owner| turns.shares.start_tag(owner, self.weight(owner))).cloned()
    }

    /// The first request of an owner that a free worker can start, by the turns of its backlogs. Backlogs before it are not
    /// visited again in this pass: slots only get fewer.
    fn first_of(
        &self,
        class: Class,
        owner: &str,
        only: Option<usize>,
        round: &mut Round<'_>,
        pass: &mut Pass,
        randomness: &mut dyn FnMut() -> u64,
    ) -> Option<(RequestId, usize)> {
        let ready = self.turns_of(class)?.ready.get(owner)?;
        let from = pass.cursors.get(owner).copied().unwrap_or_default();
        for (turn, id) in ready.range(from..) {
            pass.cursors.insert(owner.to_owned(), (*turn, *id));
            let Some(entry) = self.backlogs.get(id) else { continue };
            if let Some(found) = round.place(entry, class, only, randomness) {
                return Some(found);
            }
        }
        None
    }
}

/// How far one pass over a class has come.
#[derive(Default)]
struct Pass {
    /// Owners of which nothing more can start.
    done: BTreeSet<String>,
    cursors: BTreeMap<String, (u64, Id)>,
}
