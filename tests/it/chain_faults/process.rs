//! A process that carries out one transaction and keeps nothing but what it has written down.

use std::sync::Arc;

use xdc_grid::chain::{
    ChainError, ChainKey, ChainRpc, FeePolicy, Intent, NoncePool, Outbox, OutboxRecord, http::HttpEndpoints,
};

use super::proxy::Proxies;
use crate::chain_anvil::{CHAIN_ID, Grid};

pub struct Process {
    urls: Vec<String>,
    key: ChainKey,
    /// What survives.
    disk: String,
    /// What does not.
    rpc: Arc<dyn ChainRpc>,
    nonces: NoncePool,
    stored: OutboxRecord,
    trouble: Option<ChainError>,
}

fn connect(urls: &[String]) -> Arc<dyn ChainRpc> {
    Arc::new(HttpEndpoints::new(urls, CHAIN_ID).unwrap())
}

impl Process {
    pub fn start(grid: &Grid, proxies: &Proxies, intent: Intent) -> Self {
        let key = grid.reporter.clone();
        let stored = OutboxRecord::plan(intent, key.address(), CHAIN_ID);
        let urls = proxies.urls();
        Process {
            rpc: connect(&urls),
            urls,
            disk: serde_json::to_string(&stored).unwrap(),
            nonces: NoncePool::new(key.address()),
            key,
            stored,
            trouble: None,
        }
    }

    pub fn stored(&self) -> &OutboxRecord {
        &self.stored
    }

    pub fn trouble(&self) -> Option<&ChainError> {
        self.trouble.as_ref()
    }

    async fn attempt(&self, now: u64) -> Result<OutboxRecord, ChainError> {
        let outbox =
            Outbox { rpc: self.rpc.as_ref(), key: &self.key, nonces: &self.nonces, fees: FeePolicy::default() };
        outbox.step(&self.stored, now).await
    }

    /// What fails is tried again at the next step.
    pub async fn step(&mut self, now: u64) {
        match self.attempt(now).await {
            Ok(next) => {
                self.disk = serde_json::to_string(&next).unwrap();
                self.stored = next;
                self.trouble = None;
            }
            Err(error) => self.trouble = Some(error),
        }
    }

    pub async fn step_and_die(&mut self, now: u64) {
        let _ = self.attempt(now).await;
        self.restart();
    }

    /// Ends at its `question`-th question, which may have been carried out; lives on when the step asks fewer.
    pub async fn die_at(&mut self, proxies: &Proxies, question: u64, now: u64) {
        proxies.hang_at(question);
        let outcome = tokio::select! {
            biased;
            outcome = self.attempt(now) => Some(outcome),
            () = proxies.hangs() => None,
        };
        proxies.go_on();
        match outcome {
            Some(Ok(next)) => {
                self.disk = serde_json::to_string(&next).unwrap();
                self.stored = next;
            }
            Some(Err(error)) => self.trouble = Some(error),
            None => self.restart(),
        }
    }

    fn restart(&mut self) {
        self.stored = serde_json::from_str(&self.disk).unwrap();
        self.nonces = NoncePool::restore(self.key.address(), [&self.stored]);
        self.rpc = connect(&self.urls);
    }
}
