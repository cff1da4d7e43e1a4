//! What this worker says about itself: on request, and gossiped every ten seconds and on change.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prost::Message;
use tokio::sync::Notify;

use super::{SOFTWARE, hardware, leases::Leases, models::Models, options::WorkerOptions};
use crate::{
    grid::GridHandle,
    protocol::{
        fields::RequestField,
        wire::{self, limits},
    },
};

const INTERVAL: Duration = Duration::from_secs(10);
/// Changes within this time go out as one advert.
const GAP: Duration = Duration::from_secs(1);
/// Characters kept of a failure's sentence.
const MESSAGE: usize = 200;

/// Everything that an advert is made of.
#[derive(Clone)]
pub(super) struct Statement {
    models: Models,
    leases: Leases,
    sequence: Arc<AtomicU64>,
    fixed: wire::NodeInfo,
}

impl Statement {
    pub(super) fn new(options: &WorkerOptions, threads: usize, models: Models, leases: Leases) -> Self {
        let cut = |text: &String| text.chars().take(64).collect();
        let fixed = wire::NodeInfo {
            software: SOFTWARE.into(),
            processor: hardware::processor(),
            threads: u32::try_from(threads).unwrap_or(u32::MAX),
            memory_bytes: hardware::memory_bytes(),
            accelerators: options.accelerators.iter().take(16).map(cut).collect(),
            region: cut(&options.region),
            slots: u32::try_from(leases.slots()).unwrap_or(u32::MAX),
            request_fields: RequestField::ALL.map(|field| field.name().to_owned()).into(),
            ..Default::default()
        };
        Statement { models, leases, sequence: Arc::default(), fixed }
    }

    /// The statement of this moment, newer than every one before, also before a restart.
    pub(super) fn now(&self) -> wire::NodeInfo {
        let issued_at_ms = now_ms();
        let newest = |previous| issued_at_ms.max(previous + 1);
        let previous =
            self.sequence.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |previous| Some(newest(previous)));
        let (models, pending) = self.models.report();
        let mut info = wire::NodeInfo {
            sequence: newest(previous.unwrap_or_default()),
            models,
            pending,
            storage_bytes: self.models.folder.held_bytes(),
            running: u32::try_from(self.leases.running()).unwrap_or(u32::MAX),
            queued: self.models.queued(),
            draining: self.leases.is_draining(),
            issued_at_ms,
            ..self.fixed.clone()
        };
        fit(&mut info);
        info
    }
}

/// Shortens sentences until the statement fits into an advert.
fn fit(info: &mut wire::NodeInfo) {
    for kept in [MESSAGE, 40, 0] {
        for pending in &mut info.pending {
            pending.message = pending.message.chars().take(kept).collect();
        }
        if info.encoded_len() <= limits::ADVERT {
            return;
        }
    }
    info.pending.clear();
}

/// Gossips the statement, for ever.
pub(super) async fn run(statement: Statement, handle: GridHandle, changed: Arc<Notify>) {
    loop {
        handle.publish_advert(statement.now()).await;
        tokio::time::sleep(GAP).await;
        // Either is a reason to say something.
        let _ = tokio::time::timeout(INTERVAL - GAP, changed.notified()).await;
    }
}

/// Unix milliseconds.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advert_always_fits() {
        let pending = wire::PendingModel {
            digest: vec![1; 32],
            state: "ModelDigestMismatch".into(),
            message: "x".repeat(1000),
            fetched_bytes: 1,
        };
        let mut info = wire::NodeInfo { pending: vec![pending; 64], ..Default::default() };
        fit(&mut info);
        assert!(info.encoded_len() <= limits::ADVERT);
        assert_eq!(info.pending.len(), 64);
    }
}
