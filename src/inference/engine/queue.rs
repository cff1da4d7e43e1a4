//! Requests that wait for their turn: in the order of arrival, but no tenant's turn comes before that of one who has had
//! less.
//!
//! Start-time fair queueing over tokens: each tenant has a virtual time, which a request moves on by its tokens when it is
//! taken. The tenant whose time is least is next. Who comes back after a pause begins at the time that is being served, so
//! that nobody saves up turns.

use std::collections::{BTreeMap, VecDeque};

use crate::Tenant;

/// Tenants without waiting requests whose virtual times are remembered.
const MAX_IDLE_LANES: usize = 256;

/// The queue. How many may wait is bounded by whoever lets them in.
pub(super) struct FairQueue<T> {
    lanes: BTreeMap<Option<Tenant>, Lane<T>>,
    arrivals: u64,
    /// The virtual time of what was taken last.
    now: u64,
    len: usize,
}

struct Lane<T> {
    waiting: VecDeque<Waiting<T>>,
    time: u64,
}

struct Waiting<T> {
    arrival: u64,
    tokens: u64,
    item: T,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { lanes: BTreeMap::new(), arrivals: 0, now: 0, len: 0 }
    }
}

impl<T> FairQueue<T> {
    /// Adds a request that will cost its tenant `tokens` of its share.
    pub fn push(&mut self, tenant: Option<Tenant>, tokens: u64, item: T) {
        self.arrivals += 1;
        let waiting = Waiting { arrival: self.arrivals, tokens, item };
        self.lane(tenant).waiting.push_back(waiting);
        self.len += 1;
    }

    /// Puts a request that had its turn already in front of its tenant's others; it costs nothing again.
    pub fn put_back(&mut self, tenant: Option<Tenant>, item: T) {
        let waiting = Waiting { arrival: 0, tokens: 0, item };
        self.lane(tenant).waiting.push_front(waiting);
        self.len += 1;
    }

    fn lane(&mut self, tenant: Option<Tenant>) -> &mut Lane<T> {
        let now = self.now;
        if self.lanes.len() > MAX_IDLE_LANES {
            self.lanes.retain(|_, lane| !lane.waiting.is_empty());
        }
        let lane = self.lanes.entry(tenant).or_insert_with(|| Lane { waiting: VecDeque::new(), time: now });
        if lane.waiting.is_empty() {
            lane.time = lane.time.max(now);
        }
        lane
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The request whose turn is next.
    pub fn head(&mut self) -> Option<&mut T> {
        let lane = self.next_lane()?;
        self.lanes.get_mut(&lane)?.waiting.front_mut().map(|waiting| &mut waiting.item)
    }

    /// Takes the request whose turn is next.
    pub fn take(&mut self) -> Option<T> {
        let key = self.next_lane()?;
        let lane = self.lanes.get_mut(&key)?;
        let Waiting { tokens, item, .. } = lane.waiting.pop_front()?;
        self.now = self.now.max(lane.time);
        lane.time = lane.time.saturating_add(tokens);
        self.len -= 1;
        // A tenant that owes nothing is the same as one that was never here.
        if lane.waiting.is_empty() && lane.time <= self.now {
            self.lanes.remove(&key);
        }
        Some(item)
    }

    /// Keeps the requests for which `keep` holds.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        self.lanes.values_mut().for_each(|lane| lane.waiting.retain_mut(|waiting| keep(&mut waiting.item)));
        self.len = self.lanes.values().map(|lane| lane.waiting.len()).sum();
    }

    fn next_lane(&self) -> Option<Option<Tenant>> {
        let order = |lane: &Lane<T>| lane.waiting.front().map(|first| (lane.time, first.arrival));
        let lanes = self.lanes.iter().filter_map(|(tenant, lane)| Some((order(lane)?, *tenant)));
        lanes.min_by_key(|(order, _)| *order).map(|(_, tenant)| tenant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tenant(name: u8) -> Option<Tenant> {
        (name > 0).then(|| Tenant::of(&[name]))
    }

    fn drain<T>(queue: &mut FairQueue<T>) -> Vec<T> {
        std::iter::from_fn(|| queue.take()).collect()
    }

    #[test]
    fn one_tenant_is_served_in_the_order_of_arrival() {
        let mut queue = FairQueue::default();
        (0..5).for_each(|i| queue.push(None, 100 - i, i));
        assert_eq!(queue.head().copied(), Some(0));
        assert_eq!(drain(&mut queue), [0, 1, 2, 3, 4]);
        assert!(queue.is_empty() && queue.head().is_none());
    }

    #[test]
    fn a_tenant_with_one_request_does_not_wait_for_all_of_another() {
        let mut queue = FairQueue::default();
        (0..6).for_each(|i| queue.push(tenant(1), 10, ("many", i)));
        queue.push(tenant(2), 10, ("one", 0));
        assert_eq!(drain(&mut queue)[..3], [("many", 0), ("one", 0), ("many", 1)]);
    }

    #[test]
    fn shares_are_counted_in_tokens() {
        let mut queue = FairQueue::default();
        (0..4).for_each(|_| queue.push(tenant(1), 300, "long"));
        (0..8).for_each(|_| queue.push(tenant(2), 100, "short"));
        let order = drain(&mut queue);
        let short_in = |count: usize| order[..count].iter().filter(|name| **name == "short").count();
        assert_eq!((short_in(4), short_in(8)), (3, 6), "{order:?}");
    }

    #[test]
    fn nobody_saves_up_turns_and_nobody_forgets_what_was_taken() {
        let mut queue = FairQueue::default();
        for round in 0..10 {
            queue.push(tenant(1), 10, (1, round));
            queue.take();
        }
        queue.push(tenant(2), 10, (2, 0));
        (0..3).for_each(|i| queue.push(tenant(1), 10, (1, i)));
        (1..3).for_each(|i| queue.push(tenant(2), 10, (2, i)));
        assert_eq!(drain(&mut queue), [(2, 0), (1, 0), (2, 1), (1, 1), (2, 2), (1, 2)]);
    }

    #[test]
    fn what_is_put_back_is_next_of_its_tenant() {
        let mut queue = FairQueue::default();
        queue.push(None, 10, "second");
        queue.put_back(None, "first");
        assert_eq!(drain(&mut queue), ["first", "second"]);
        queue.push(None, 1, "x");
        queue.push(None, 1, "y");
        queue.retain(|item| *item == "y");
        assert_eq!(drain(&mut queue), ["y"]);
        assert!(queue.is_empty());
    }

    proptest! {
        /// While two tenants wait, what they were given differs by no more than their largest requests.
        #[test]
        fn who_waits_all_the_time_gets_an_equal_share(costs in prop::collection::vec((1u8..4, 1u64..100), 1..200)) {
            let mut queue = FairQueue::default();
            for (name, cost) in &costs {
                queue.push(tenant(*name), *cost, (*name, *cost));
            }
            let mut given = BTreeMap::<u8, u64>::new();
            let mut left = BTreeMap::<u8, usize>::new();
            costs.iter().for_each(|(name, _)| *left.entry(*name).or_default() += 1);
            while left.values().all(|count| *count > 0) {
                let (name, cost) = queue.take().unwrap();
                *given.entry(name).or_default() += cost;
                *left.get_mut(&name).unwrap() -= 1;
                let all = || left.keys().map(|name| given.get(name).copied().unwrap_or(0));
                prop_assert!(all().max().unwrap() - all().min().unwrap() <= 100);
            }
        }
    }
}
