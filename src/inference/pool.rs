//! A small pool of compute threads that wait by spinning for a moment and then sleep.
//!
//! A parallel region of one decode step lasts 20 to 200 µs and there are some 150 of them in a token, so the wake-up cost
//! of a general pool would be a large part of the work. candle's own barrier pool is process-wide, sized by an environment
//! variable at first use, and its caller spins without end, which collapses when a quota or a neighbour takes a core
//! away. Here the caller does the work of threads that are late: it waits only for those that have begun an item.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Rounds of spinning before a waiting thread sleeps: about 50 µs, the length of the serial stretches between regions.
const SPIN_ROUNDS: u32 = 1_500;

type Task = *const (dyn Fn(usize) + Sync);

/// Threads that run the items of one region at a time.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// One region at a time; holds the number of the last one.
    region: Mutex<usize>,
}

struct Shared {
    /// The number of the open region, or 0 when none is.
    open: AtomicUsize,
    /// Workers that have seen an open region and may touch `task`.
    active: AtomicUsize,
    next_item: AtomicUsize,
    items: AtomicUsize,
    task: UnsafeCell<Option<Task>>,
    panicked: AtomicBool,
    stop: AtomicBool,
}

// SAFETY: `task` is written only while no region is open and no worker is active, and read only by a worker that made
// itself active before it saw the region open. Both counters use one total order (SeqCst), so the two cannot overlap.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `task` is only followed while the caller of `run`, who owns the closure, waits.
unsafe impl Send for Shared {}

impl ThreadPool {
    /// A pool of `threads` threads, the calling thread included; at least one.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            open: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            next_item: AtomicUsize::new(0),
            items: AtomicUsize::new(0),
            task: UnsafeCell::new(None),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
        });
        let spawn = |index: usize| {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("compute-{index}")).spawn(move || shared.work())
        };
        let workers = (1..threads.max(1)).map(spawn).collect::<Result<_, _>>()?;
        Ok(Self { shared, workers, region: Mutex::new(0) })
    }

    /// The number of threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task` once for each number below `items`, on any thread and in any order, and returns when all are done.
    pub fn run(&self, items: usize, task: impl Fn(usize) + Sync) {
        if self.workers.is_empty() || items < 2 {
            (0..items).for_each(task);
            return;
        }
        let mut region = self.region.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        *region = region.wrapping_add(1).max(1);
        let borrowed: *const (dyn Fn(usize) + Sync + '_) = &task;
        // SAFETY: only the lifetime is erased; `close` below returns after the last worker has left the region, so no
        // one follows the pointer after `task` is gone.
        let erased: Task = unsafe { std::mem::transmute(borrowed) };
        // SAFETY: no region is open and none is active (the previous `run` waited for that under the same lock).
        unsafe { *self.shared.task.get() = Some(erased) };
        self.shared.next_item.store(0, SeqCst);
        self.shared.items.store(items, SeqCst);
        self.shared.open.store(*region, SeqCst);
        self.workers.iter().for_each(|worker| worker.thread().unpark());
        let outcome = catch_unwind(AssertUnwindSafe(|| self.shared.take_items(&task)));
        self.shared.close();
        if let Err(payload) = outcome {
            std::panic::resume_unwind(payload);
        }
        assert!(!self.shared.panicked.swap(false, SeqCst), "a compute thread panicked");
    }

    /// Splits `data` into pieces of `length` and calls `task` with each piece and its number.
    pub fn for_each_chunk<T: Send>(&self, data: &mut [T], length: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        let total = data.len();
        let pieces = Disjoint::new(data);
        self.run(total.div_ceil(length.max(1)), |index| {
            let start = index * length;
            // SAFETY: pieces of different numbers do not overlap and each number is given out once.
            let piece = unsafe { pieces.slice(start, length.min(total - start)) };
            task(index, piece);
        });
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker only ends by panicking outside of a task, and then there is nothing left to wait for.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self) {
        let mut done = 0;
        while let Some(region) = self.wait_for_region(done) {
            self.active.fetch_add(1, SeqCst);
            if self.open.load(SeqCst) != 0 {
                // SAFETY: we are active and a region is open, so its caller waits for us and `task` is valid.
                if let Some(task) = unsafe { *self.task.get() } {
                    // SAFETY: as above; the closure lives until `close` has seen us leave.
                    let task = unsafe { &*task };
                    if catch_unwind(AssertUnwindSafe(|| self.take_items(task))).is_err() {
                        self.panicked.store(true, SeqCst);
                    }
                }
            }
            self.active.fetch_sub(1, SeqCst);
            done = region;
        }
    }

    /// The number of an open region that is not `done`, or `None` when the pool stops.
    fn wait_for_region(&self, done: usize) -> Option<usize> {
        let mut rounds = 0;
        loop {
            let open = self.open.load(SeqCst);
            if open != 0 && open != done {
                return Some(open);
            }
            if self.stop.load(SeqCst) {
                return None;
            }
            if rounds < SPIN_ROUNDS {
                rounds += 1;
                std::hint::spin_loop();
            } else {
                std::thread::park();
                rounds = 0;
            }
        }
    }

    fn take_items(&self, task: &(dyn Fn(usize) + Sync)) {
        let items = self.items.load(SeqCst);
        loop {
            let item = self.next_item.fetch_add(1, SeqCst);
            if item >= items {
                return;
            }
            task(item);
        }
    }

    /// Closes the region and waits until every worker has left it.
    fn close(&self) {
        self.open.store(0, SeqCst);
        let mut rounds = 0u32;
        while self.active.load(SeqCst) != 0 {
            rounds = rounds.saturating_add(1);
            if rounds < SPIN_ROUNDS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

/// A slice that several threads write at the same time, each to places of its own.
pub struct Disjoint<'a, T> {
    start: *mut T,
    length: usize,
    slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: the only access is `slice`, whose contract forbids overlapping pieces.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), length: slice.len(), slice: std::marker::PhantomData }
    }

    /// The piece of `length` elements from `start` on.
    ///
    /// # Safety
    /// No other live piece may overlap it.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, start: usize, length: usize) -> &mut [T] {
        assert!(start.checked_add(length).is_some_and(|end| end <= self.length), "a piece outside of the slice");
        // SAFETY: within bounds (just checked) and not shared (the caller's promise).
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_item_runs_exactly_once_in_many_short_regions() {
        for threads in [1, 2, 5] {
            let pool = ThreadPool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads);
            for round in 0..2_000usize {
                let items = round % 17;
                let seen: Vec<AtomicU64> = (0..items).map(|_| AtomicU64::new(0)).collect();
                pool.run(items, |i| {
                    seen[i].fetch_add(1, SeqCst);
                });
                assert!(seen.iter().all(|n| n.load(SeqCst) == 1), "round {round} with {threads} threads");
            }
        }
    }

    #[test]
    fn chunks_cover_the_slice() {
        let pool = ThreadPool::new(3).unwrap();
        let mut data = vec![0usize; 1_000];
        pool.for_each_chunk(&mut data, 7, |index, chunk| chunk.iter_mut().for_each(|x| *x = index + 1));
        assert!(data.iter().enumerate().all(|(i, x)| *x == i / 7 + 1));
    }

    #[test]
    fn a_panic_in_an_item_reaches_the_caller_and_the_pool_still_works() {
        let pool = ThreadPool::new(2).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(64, |i| assert!(i != 33, "item 33"))));
        assert!(outcome.is_err());
        let sum = AtomicU64::new(0);
        pool.run(10, |i| {
            sum.fetch_add(i as u64, SeqCst);
        });
        assert_eq!(sum.load(SeqCst), 45);
    }
}
