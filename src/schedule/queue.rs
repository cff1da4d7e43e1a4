//! What waits, in the order in which it is to start. A backlog holds the requests of one job, or those of the OpenAI API for
//! one model; the gateway may hand in only the first of a long job's requests and the others as these start.
//!
//! Looking something up, adding and removing take logarithmic time; a plan visits only what can start until the free slots
//! are gone, and beyond that one step per backlog of which nothing can start.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    Class, Needs, Work,
    fair::{Charge, Shares},
};
use crate::api::ids::{GridPeerId, RequestId};

/// What is the same for all requests of one backlog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    /// Namespace: tokens are shared out between owners, not between jobs or requests.
    pub owner: String,
    pub class: Class,
    pub needs: Needs,
    pub suspended: bool,
    /// Requests that may run at once; 0 = any number.
    pub parallelism: u32,
}

/// Owners that are remembered before those that have nothing here are looked for.
const MOST_IDLE_OWNERS: usize = 1024;

/// Number of a backlog inside the queue.
pub(super) type Id = u64;

/// All waiting requests, and what is remembered to share fairly.
#[derive(Debug, Default)]
pub struct Queue {
    pub(super) backlogs: BTreeMap<Id, Entry>,
    keys: HashMap<String, Id>,
    needs: BTreeMap<[u8; 32], Vec<Arc<Needs>>>,
    waiting: HashMap<RequestId, Spot>,
    running: HashMap<RequestId, Running>,
    classes: BTreeMap<Class, Turns>,
    weights: BTreeMap<String, u32>,
    /// Interactive requests that each worker started since its last batch request.
    pub(super) runs: BTreeMap<GridPeerId, u32>,
    next_id: Id,
    next_turn: u64,
}

/// One backlog with its requests.
#[derive(Debug)]
pub(super) struct Entry {
    pub id: Id,
    pub key: String,
    pub spec: Backlog,
    pub needs: Arc<Needs>,
    pub lanes: BTreeMap<Arc<Shape>, Lane>,
    waiting: usize,
    waiting_tokens: u64,
    running: u32,
    turn: u64,
}

/// What decides which workers a request fits, beyond the needs of its backlog.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    /// Its tokens are at most 2 to this power, and more than 2 to the one before.
    pub magnitude: u32,
    pub exclude: BTreeSet<GridPeerId>,
    pub avoid: Option<GridPeerId>,
}

impl Shape {
    fn of(work: &Work) -> Self {
        let magnitude = work.tokens().max(1).next_power_of_two().trailing_zeros();
        Shape { magnitude, exclude: work.exclude.clone(), avoid: work.avoid.clone() }
    }

    /// Tokens that no request of the shape exceeds.
    pub fn most_tokens(&self) -> u64 {
        1u64.checked_shl(self.magnitude).unwrap_or(u64::MAX)
    }
}

/// Requests of one shape, in their order.
pub(super) type Lane = BTreeMap<(u64, RequestId), Item>;

/// A waiting request without what its place says already.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub attempt: u32,
    pub prompt_tokens_estimate: u32,
    pub max_tokens: u32,
    pub enqueued_ms: u64,
}

impl Item {
    pub fn tokens(&self) -> u64 {
        u64::from(self.prompt_tokens_estimate) + u64::from(self.max_tokens)
    }
}

#[derive(Debug, Clone)]
struct Spot {
    backlog: Id,
    shape: Arc<Shape>,
    order: u64,
}

#[derive(Debug)]
struct Running {
    backlog: Id,
    class: Class,
    owner: String,
    charge: Charge,
}

/// Whose turn it is within a class.
#[derive(Debug, Default)]
pub(super) struct Turns {
    pub shares: Shares,
    /// Of each owner the backlogs that may start something, by turn.
    pub ready: BTreeMap<String, BTreeSet<(u64, Id)>>,
    waiting: usize,
}

impl Queue {
    /// Adds a backlog, or changes suspension and parallelism of one that is there; owner, class and needs never change.
    pub fn put_backlog(&mut self, key: &str, spec: Backlog) {
        let id = match self.keys.get(key) {
            Some(id) => *id,
            None => self.new_backlog(key, spec.clone()),
        };
        if let Some(entry) = self.backlogs.get_mut(&id) {
            entry.spec.suspended = spec.suspended;
            entry.spec.parallelism = spec.parallelism;
        }
        self.refresh(id);
    }

    fn new_backlog(&mut self, key: &str, spec: Backlog) -> Id {
        let (id, turn) = (self.next_id, self.next_turn);
        self.next_id += 1;
        self.next_turn += 1;
        let needs = self.interned(&spec.needs);
        let (key, lanes) = (key.to_owned(), BTreeMap::new());
        self.keys.insert(key.clone(), id);
        let entry = Entry { id, key, spec, needs, lanes, waiting: 0, waiting_tokens: 0, running: 0, turn };
        self.backlogs.insert(id, entry);
        id
    }

    /// Equal needs share one allocation: a plan looks for workers once for all of them.
    fn interned(&mut self, needs: &Needs) -> Arc<Needs> {
        let of_model = self.needs.entry(needs.model.0).or_default();
        if let Some(known) = of_model.iter().find(|known| known.as_ref() == needs) {
            return known.clone();
        }
        let new = Arc::new(needs.clone());
        of_model.push(new.clone());
        new
    }

    /// Forgets a backlog and what waits in it; what runs of it may still be finished.
    pub fn remove_backlog(&mut self, key: &str) {
        let Some(id) = self.keys.remove(key) else { return };
        let Some(entry) = self.backlogs.get_mut(&id) else { return };
        let lanes = std::mem::take(&mut entry.lanes);
        let requests: Vec<RequestId> =
            lanes.into_values().flat_map(|lane| lane.into_keys().map(|(_, id)| id)).collect();
        let class = entry.spec.class;
        entry.waiting = 0;
        self.refresh(id);
        for request in &requests {
            self.waiting.remove(request);
        }
        self.turns(class).waiting -= requests.len();
        self.backlogs.remove(&id);
        for of_model in self.needs.values_mut() {
            of_model.retain(|needs| Arc::strong_count(needs) > 1);
        }
        self.needs.retain(|_, of_model| !of_model.is_empty());
        self.forget_owners();
    }

    /// Owners come and go: those with nothing here and no debt are forgotten, now and then.
    fn forget_owners(&mut self) {
        if self.classes.values().all(|turns| turns.shares.len() <= MOST_IDLE_OWNERS) {
            return;
        }
        let owners: BTreeSet<&str> = self.backlogs.values().map(|entry| entry.spec.owner.as_str()).collect();
        for turns in self.classes.values_mut() {
            turns.shares.forget(|owner| owners.contains(owner));
        }
    }

    /// Adds a waiting request, or replaces what is known of it. Nothing happens while it runs or when the backlog is unknown.
    pub fn put(&mut self, key: &str, work: &Work) {
        let Some(id) = self.keys.get(key).copied() else { return };
        if self.running.contains_key(&work.request) {
            return;
        }
        self.remove(&work.request);
        let Some(entry) = self.backlogs.get_mut(&id) else { return };
        let class = entry.spec.class;
        let shape = Shape::of(work);
        let shape = match entry.lanes.get_key_value(&shape) {
            Some((known, _)) => known.clone(),
            None => Arc::new(shape),
        };
        let item = Item {
            attempt: work.attempt,
            prompt_tokens_estimate: work.prompt_tokens_estimate,
            max_tokens: work.max_tokens,
            enqueued_ms: work.enqueued_ms,
        };
        entry.lanes.entry(shape.clone()).or_default().insert((work.order, work.request), item);
        entry.waiting += 1;
        entry.waiting_tokens += item.tokens();
        self.waiting.insert(work.request, Spot { backlog: id, shape, order: work.order });
        self.turns(class).waiting += 1;
        self.refresh(id);
    }

    /// Takes a waiting request out; nothing happens when it does not wait.
    pub fn remove(&mut self, request: &RequestId) {
        self.take(request);
    }

    fn take(&mut self, request: &RequestId) -> Option<(Id, Item)> {
        let spot = self.waiting.remove(request)?;
        let entry = self.backlogs.get_mut(&spot.backlog)?;
        let lane = entry.lanes.get_mut(&spot.shape)?;
        let item = lane.remove(&(spot.order, *request))?;
        if lane.is_empty() {
            entry.lanes.remove(&spot.shape);
        }
        entry.waiting -= 1;
        entry.waiting_tokens -= item.tokens();
        let class = entry.spec.class;
        self.turns(class).waiting -= 1;
        self.refresh(spot.backlog);
        Some((spot.backlog, item))
    }

    /// A waiting request starts: its owner is charged, its backlog goes to the end of the owner's turns.
    pub(super) fn start(&mut self, request: &RequestId) -> Option<Item> {
        let (id, item) = self.take(request)?;
        let turn = self.next_turn;
        self.next_turn += 1;
        let entry = self.backlogs.get_mut(&id)?;
        let (class, owner) = (entry.spec.class, entry.spec.owner.clone());
        entry.running += 1;
        if let Some(ready) = self.classes.entry(class).or_default().ready.get_mut(&owner) {
            ready.remove(&(entry.turn, id));
        }
        entry.turn = turn;
        let weight = self.weight(&owner);
        let charge = self.turns(class).shares.charge(&owner, weight, item.tokens());
        self.running.insert(*request, Running { backlog: id, class, owner, charge });
        self.refresh(id);
        Some(item)
    }

    /// A request that was started is over, whichever way, and took so many tokens. It may be put again.
    pub fn finished(&mut self, request: &RequestId, tokens: u64) {
        let Some(running) = self.running.remove(request) else { return };
        self.turns(running.class).shares.settle(&running.owner, running.charge, tokens);
        if let Some(entry) = self.backlogs.get_mut(&running.backlog) {
            entry.running -= 1;
            self.refresh(running.backlog);
        }
    }

    /// Sets the weights of namespaces; one that is not named has 1.
    pub fn set_weights(&mut self, weights: BTreeMap<String, u32>) {
        self.weights = weights;
    }

    pub(super) fn weight(&self, owner: &str) -> u32 {
        self.weights.get(owner).copied().unwrap_or(1).clamp(1, 1000)
    }

    /// Whether a backlog is among those that may start something.
    fn refresh(&mut self, id: Id) {
        let Some(entry) = self.backlogs.get(&id) else { return };
        let spec = &entry.spec;
        let may = entry.waiting > 0 && !spec.suspended && (spec.parallelism == 0 || entry.running < spec.parallelism);
        let turns = self.classes.entry(spec.class).or_default();
        match (may, turns.ready.get_mut(&spec.owner)) {
            (true, Some(ready)) => {
                ready.insert((entry.turn, id));
            }
            (true, None) => {
                turns.shares.arrive(&spec.owner);
                turns.ready.insert(spec.owner.clone(), [(entry.turn, id)].into());
            }
            (false, Some(ready)) => {
                ready.remove(&(entry.turn, id));
                if ready.is_empty() {
                    turns.ready.remove(&spec.owner);
                }
            }
            (false, None) => {}
        }
    }

    pub(super) fn turns(&mut self, class: Class) -> &mut Turns {
        self.classes.entry(class).or_default()
    }

    pub(super) fn turns_of(&self, class: Class) -> Option<&Turns> {
        self.classes.get(&class)
    }

    /// Key of the backlog in which a request waits.
    pub(super) fn backlog_of(&self, request: &RequestId) -> Option<&str> {
        Some(&self.backlogs.get(&self.waiting.get(request)?.backlog)?.key)
    }

    /// Whether the request waits or runs here.
    pub fn contains(&self, request: &RequestId) -> bool {
        self.waiting.contains_key(request) || self.running.contains_key(request)
    }

    /// Keys of all backlogs, in no particular order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// The backlog's spec, and how many of its requests wait and run.
    pub fn backlog(&self, key: &str) -> Option<(&Backlog, usize, u32)> {
        let entry = self.backlogs.get(self.keys.get(key)?)?;
        Some((&entry.spec, entry.waiting, entry.running))
    }

    /// Backlogs of batch that could start something if they had a worker, and of which nothing runs, with their needs. Equal
    /// needs are one allocation.
    pub fn idle(&self) -> impl Iterator<Item = (&str, &Arc<Needs>)> {
        let ready = self.classes.get(&Class::Batch).into_iter().flat_map(|turns| turns.ready.values().flatten());
        let entries = ready.filter_map(|(_, id)| self.backlogs.get(id)).filter(|entry| entry.running == 0);
        entries.map(|entry| (entry.key.as_str(), &entry.needs))
    }

    /// Tokens that wait in a backlog, at most.
    pub fn waiting_tokens(&self, key: &str) -> u64 {
        self.keys.get(key).and_then(|id| self.backlogs.get(id)).map_or(0, |entry| entry.waiting_tokens)
    }

    /// When the oldest request that waits in a class was queued, in unix milliseconds; of each backlog the next requests count.
    pub fn oldest_ms(&self, class: Class) -> Option<u64> {
        let entries = self.backlogs.values().filter(|entry| entry.spec.class == class);
        let lanes = entries.flat_map(|entry| entry.lanes.values());
        lanes.filter_map(|lane| lane.values().next()).map(|item| item.enqueued_ms).min()
    }

    /// Requests that wait in a class.
    pub fn depth(&self, class: Class) -> usize {
        self.classes.get(&class).map_or(0, |turns| turns.waiting)
    }

    /// Tokens that wait, by the needs they have. At most, and of those handed in.
    pub fn demand(&self) -> Vec<(&Needs, u64)> {
        let mut tokens: BTreeMap<*const Needs, (&Needs, u64)> = BTreeMap::new();
        for entry in self.backlogs.values().filter(|entry| entry.waiting > 0) {
            tokens.entry(Arc::as_ptr(&entry.needs)).or_insert((&entry.needs, 0)).1 += entry.waiting_tokens;
        }
        tokens.into_values().collect()
    }

    /// How many starts come before the next one of this backlog, at most, if all fit the same workers: one of each owner that
    /// is before its own, and one of each backlog that is before it in its owner's turns.
    pub fn position(&self, key: &str) -> usize {
        let Some((id, entry)) = self.keys.get(key).and_then(|id| Some((*id, self.backlogs.get(id)?))) else { return 0 };
        let Some(turns) = self.classes.get(&entry.spec.class) else { return 0 };
        let tag = |owner: &str| turns.shares.start_tag(owner, self.weight(owner));
        let own = tag(&entry.spec.owner);
        let owners = turns.ready.keys().filter(|owner| **owner != entry.spec.owner && tag(owner) <= own).count();
        let ready = turns.ready.get(&entry.spec.owner);
        owners + ready.map_or(0, |ready| ready.range(..(entry.turn, id)).count())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{backlog, work},
        *,
    };

    fn queue(owners: &[&str]) -> Queue {
        let mut queue = Queue::default();
        for (number, owner) in owners.iter().enumerate() {
            queue.put_backlog(&format!("job-{number}"), backlog(owner));
        }
        queue
    }

    #[test]
    fn a_request_is_in_the_queue_once_whatever_is_put() {
        let mut queue = queue(&["a"]);
        queue.put("job-0", &work(1));
        queue.put("job-0", &Work { attempt: 2, max_tokens: 500, ..work(1) });
        assert_eq!((queue.depth(Class::Batch), queue.depth(Class::Interactive)), (1, 0));
        assert_eq!(queue.demand()[0].1, 510);
        queue.remove(&work(1).request);
        queue.remove(&work(1).request);
        assert_eq!((queue.depth(Class::Batch), queue.contains(&work(1).request)), (0, false));
        assert!(queue.demand().is_empty());
    }

    #[test]
    fn a_request_that_runs_is_not_queued_again_until_it_is_over() {
        let mut queue = queue(&["a"]);
        queue.put("job-0", &work(1));
        assert!(queue.start(&work(1).request).is_some());
        queue.put("job-0", &work(1));
        assert_eq!(queue.backlog("job-0").map(|(_, waiting, running)| (waiting, running)), Some((0, 1)));
        queue.finished(&work(1).request, 3);
        queue.put("job-0", &work(1));
        assert_eq!(queue.backlog("job-0").map(|(_, waiting, running)| (waiting, running)), Some((1, 0)));
    }

    #[test]
    fn a_removed_backlog_leaves_nothing_behind() {
        let mut queue = queue(&["a", "b"]);
        (1..5).for_each(|number| queue.put("job-0", &work(number)));
        queue.start(&work(1).request);
        queue.remove_backlog("job-0");
        assert_eq!((queue.depth(Class::Batch), queue.waiting.len()), (0, 0));
        queue.finished(&work(1).request, 1);
        assert!(queue.running.is_empty());
        queue.remove_backlog("job-1");
        assert!(queue.needs.is_empty() && queue.keys.is_empty() && queue.backlogs.is_empty());
        assert!(queue.classes.values().all(|turns| turns.ready.is_empty()));
    }

    #[test]
    fn position_counts_owners_and_jobs_that_come_first() {
        let mut queue = queue(&["a", "a", "b"]);
        for (number, key) in ["job-0", "job-1", "job-2"].into_iter().enumerate() {
            queue.put(key, &work(number as u32));
        }
        assert_eq!([0, 1, 2].map(|job| queue.position(&format!("job-{job}"))), [1, 2, 1]);
        queue.start(&work(2).request);
        queue.put("job-2", &work(7));
        assert_eq!([0, 1, 2].map(|job| queue.position(&format!("job-{job}"))), [0, 1, 1]);
    }
}
