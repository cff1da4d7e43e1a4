//! Counts what a thread allocates, for tests that bound it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Bytes allocated less bytes freed by this thread; less than nothing where it frees what another allocated.
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let now = NOW.get() + bytes;
    NOW.set(now);
    PEAK.set(PEAK.get().max(now));
}

// SAFETY: everything is passed on to the system's allocator; the counters have no destructor and allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new may both exist for a moment.
        count(size as isize);
        count(-(layout.size() as isize));
        unsafe { System.realloc(at, layout, size) }
    }
}

/// The most bytes that this thread held at once while `work` ran, beyond what it held before.
pub(crate) fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.get();
    PEAK.set(before);
    let result = work();
    (result, usize::try_from(PEAK.get() - before).unwrap_or(0))
}

/// The bytes that this thread holds after `work` beyond what it held before; what `work` returns is among them.
pub(crate) fn kept<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.get();
    let result = work();
    (result, usize::try_from(NOW.get() - before).unwrap_or(0))
}

#[test]
fn what_is_kept_is_what_was_not_freed() {
    let (list, kept) = kept(|| vec![vec![0u8; 1 << 20], vec![0u8; 1 << 16]].pop().unwrap());
    assert_eq!((list.len(), kept), (1 << 16, 1 << 16));
}

#[test]
fn the_peak_is_seen_even_after_the_memory_is_freed() {
    let (length, peak) = peak(|| vec![0u8; 1 << 20].len());
    assert!(length == 1 << 20 && (1 << 20..2 << 20).contains(&peak), "{peak}");
}
