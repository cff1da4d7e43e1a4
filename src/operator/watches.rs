//! How the operator watches. Every watch that fails is left alone for a while by itself: kube's own frame pauses all watches of a
//! controller when one of them fails, and a few that fail in turn would make it deaf for minutes.

use std::{fmt::Debug, time::Duration};

use backon::ExponentialBuilder;
use futures::Stream;
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt,
        utils::{Backoff, ResetTimerBackoff},
        watcher,
    },
};
use serde::de::DeserializeOwned;

const FIRST_PAUSE: Duration = Duration::from_millis(800);
/// Each attempt lists all objects again: more often would not help an API server that is overwhelmed, and less often hides its news.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Objects in a page of a listing of which only facts are kept: the page itself is held while it is read, and a job with its input may have
/// 130 KiB.
pub const PAGE: u32 = 200;
/// A watch that lasted this long begins with the first pause again.
const LASTED: Duration = Duration::from_secs(60);

/// The pauses after a watch's failures.
struct Pauses(ResetTimerBackoff<watcher::ExponentialBackoff>);

impl Pauses {
    fn new() -> Self {
        let growing = ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_delay(LONGEST_PAUSE)
            .with_factor(2.0)
            .without_max_times()
            .with_jitter();
        Pauses(ResetTimerBackoff::new(growing.into(), LASTED))
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next()
    }
}

impl Backoff for Pauses {
    /// An element is no sign of health: a watcher announces each listing before it asks for it. Only time is.
    fn reset(&mut self) {}
}

/// The pauses of a controller's frame: none, for its watches make their own.
pub struct NoPause;

impl Iterator for NoPause {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

impl Backoff for NoPause {
    fn reset(&mut self) {}
}

/// What happens to the objects of `api`, for a reflector.
pub fn events<K>(
    api: Api<K>,
    config: watcher::Config,
) -> impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, config).backoff(Pauses::new())
}

/// The same of a kind of which only some facts are kept and each object is read anew when it is looked at: not even its version is kept,
/// which else stands in every cache and trigger as a text of its own.
pub fn facts<K>(api: Api<K>) -> impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    events(api, watcher::Config::default().page_size(PAGE)).modify(without_version)
}

/// Takes an object's version from it.
pub fn without_version<K: Resource>(object: &mut K) {
    object.meta_mut().resource_version = None;
}

/// Every object of `api` that something happened to, its deletion included.
pub fn touched<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = Result<K, watcher::Error>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    events(api, config).touched_objects()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_whatever_is_announced_between_them_and_never_end() {
        let mut pauses = Pauses::new();
        let waited: Vec<Duration> = (0..20)
            .filter_map(|_| {
                pauses.reset();
                pauses.next()
            })
            .collect();
        assert_eq!(waited.len(), 20, "a watch is never given up");
        // Jitter adds up to as much again.
        assert!(waited.iter().all(|pause| *pause <= 2 * LONGEST_PAUSE), "{waited:?}");
        assert!(waited[0] <= 2 * FIRST_PAUSE && waited[10] >= LONGEST_PAUSE, "{waited:?}");
    }
}
