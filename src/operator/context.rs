//! What every controller is given: clients, configuration, clock. No state that a restart would lose: the caches here only
//! spare calls.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Client;
use serde::Serialize;
use tokio::sync::Semaphore;

use super::{
    backoff::Backoffs,
    chains::Chains,
    changes::Changes,
    config::OperatorConfig,
    contribution_report::leaves::EarningsCache,
    events::Recorder,
    gateway::GatewayClient,
    grid_model::known::KnownModels,
    grid_node::fleet::Fleet,
    inference_job::{calm::Calm, gone::Gone, pace::Pace},
    metrics::Metrics,
    slash_cases::scan::Cursors,
};

/// Jobs whose results are published at once, however many are looked at.
const PUBLISHERS: usize = 4;

/// Shared by all controllers.
pub struct Context {
    pub client: Client,
    pub gateway: GatewayClient,
    pub chains: Chains,
    pub recorder: Recorder,
    pub config: OperatorConfig,
    pub metrics: Metrics,
    pub changes: Changes,
    pub backoffs: Backoffs,
    pub sent: SentCache,
    pub earnings: EarningsCache,
    pub pace: Pace,
    pub gone: Gone,
    pub calm: Calm,
    pub fleet: Fleet,
    pub models: KnownModels,
    pub slash_cursors: Cursors,
    /// Turns to publish results: a job that does holds two parts of them in memory.
    pub publishing: Semaphore,
    /// The clock; tests stop it.
    pub clock: fn() -> Timestamp,
}

impl Context {
    pub fn new(
        client: Client,
        config: OperatorConfig,
        metrics: Metrics,
        chains: Chains,
    ) -> Result<Arc<Self>, Box<dyn std::error::Error + Send + Sync>> {
        let gateway = GatewayClient::new(&config.gateway_url, config.gateway_token_file.clone())?;
        Ok(Arc::new(Context {
            recorder: Recorder::new(client.clone(), &config.identity),
            client,
            gateway,
            chains,
            config,
            metrics,
            changes: Changes::default(),
            backoffs: Backoffs::default(),
            sent: SentCache::default(),
            earnings: EarningsCache::default(),
            pace: Pace::default(),
            gone: Gone::default(),
            calm: Calm::default(),
            fleet: Fleet::default(),
            models: KnownModels::default(),
            slash_cursors: Cursors::default(),
            publishing: Semaphore::new(PUBLISHERS),
            clock: Timestamp::now,
        }))
    }

    pub fn now(&self) -> Time {
        Time((self.clock)())
    }

    /// Seconds since 1970, as the chain counts them.
    pub fn unix_seconds(&self) -> u64 {
        u64::try_from((self.clock)().as_second()).unwrap_or(0)
    }
}

/// Remembers what the gateway was told, so that a reconcile in which nothing changed tells it nothing. Only a cache: entries
/// expire, because a gateway may have lost its ledger.
#[derive(Default)]
pub struct SentCache {
    entries: Mutex<HashMap<String, (blake3::Hash, Instant)>>,
}

const SENT_FOR: Duration = Duration::from_secs(120);
/// Far more than objects in a cluster; a bound all the same.
const MAX_SENT: usize = 100_000;

impl SentCache {
    /// Whether `value` under `key` was sent before and recently. One that was not is about to be sent, and its answer may be lost:
    /// from here on nothing is known, or a return to the value before it would never be sent.
    pub fn is_known<T: Serialize>(&self, key: &str, value: &T) -> bool {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |(known, at): &(blake3::Hash, Instant)| Some(*known) == hash(value) && at.elapsed() < SENT_FOR;
        let is_known = entries.get(key).is_some_and(known);
        if !is_known {
            entries.remove(key);
        }
        is_known
    }

    /// Notes that `value` arrived.
    pub fn sent<T: Serialize>(&self, key: &str, value: &T) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= MAX_SENT {
            entries.clear();
        }
        if let Some(hash) = hash(value) {
            entries.insert(key.to_owned(), (hash, Instant::now()));
        }
    }

    pub fn forget(&self, key: &str) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// After the gateway was away nothing is known.
    pub fn clear(&self) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn hash<T: Serialize>(value: &T) -> Option<blake3::Hash> {
    serde_json::to_vec(value).ok().map(|bytes| blake3::hash(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_value_under_the_same_key_is_known() {
        let cache = SentCache::default();
        cache.sent("member/a", &1);
        assert!(cache.is_known("member/a", &1));
        assert!(!cache.is_known("member/b", &1));
        assert!(!cache.is_known("member/a", &2));
        cache.sent("member/a", &2);
        assert!(cache.is_known("member/a", &2));
        cache.clear();
        assert!(!cache.is_known("member/a", &2));
    }

    #[test]
    fn after_a_change_whose_answer_was_lost_the_old_value_is_sent_again() {
        let cache = SentCache::default();
        cache.sent("member/a", &1);
        // 2 is sent; whether it arrived nobody knows.
        assert!(!cache.is_known("member/a", &2));
        assert!(!cache.is_known("member/a", &1));
    }
}
