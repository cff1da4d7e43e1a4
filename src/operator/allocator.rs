//! How glibc's allocator is set up for a process that lives long, holds little and now and then reads much: a listing of ten thousand
//! objects passes through it in megabytes, of which kilobytes stay. As it comes it keeps one arena a thread and what listings left
//! in them for good. Elsewhere than with glibc nothing here does anything.

use std::time::Duration;

/// Between two looks for pages to give back. One costs some milliseconds, and nearly nothing where there are none.
const EVERY: Duration = Duration::from_secs(10);

/// Call before threads are started: each takes its arena when it first allocates.
pub fn configure() {
    glibc::configure();
}

/// Gives memory that nobody uses back to the kernel, now and then, as long as it is polled.
pub async fn give_back_forever() {
    loop {
        tokio::time::sleep(EVERY).await;
        glibc::give_back();
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    /// Threads share them; with the caches that each thread has of its own they rarely meet.
    const ARENAS: libc::c_int = 2;
    /// Bytes from which on a block is mapped by itself and goes back at once. glibc's own first value; said here because it grows with the
    /// first large block that is freed otherwise, and every later page of a listing then comes to lie among small blocks.
    const MAPPED_FROM: libc::c_int = 128 << 10;

    pub(super) fn configure() {
        // SAFETY: `mallopt` takes and returns numbers. What it does not know it leaves alone, which costs memory and nothing else.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, ARENAS);
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM);
            libc::mallopt(libc::M_TRIM_THRESHOLD, MAPPED_FROM);
        }
    }

    pub(super) fn give_back() {
        // SAFETY: it takes and returns numbers, and may be called from any thread at any time.
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod glibc {
    pub(super) fn configure() {}

    pub(super) fn give_back() {}
}

#[cfg(test)]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod tests {
    use super::*;

    /// Bytes of the process that are in memory and of no file.
    fn anonymous() -> usize {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    }

    #[test]
    fn what_was_freed_between_blocks_that_stay_goes_back_to_the_kernel() {
        const EACH: usize = 64 << 10;
        configure();
        let mut blocks: Vec<Vec<u8>> = (0..1_024).map(|_| vec![1; EACH]).collect();
        let full = anonymous();
        // The last one keeps the top of the arena where it is.
        blocks.drain(..1_023);
        glibc::give_back();
        let left = anonymous();
        // Half of it: other tests of this process allocate at the same time.
        assert!(left + 512 * EACH < full, "{full} bytes before, {left} after; {} kept", blocks.len());
    }
}
