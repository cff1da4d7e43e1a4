//! Requests that no worker will ever take.

use super::{Hopeless, round::Round};
use crate::schedule::{
    Refusal,
    filter::fits,
    queue::{Entry, Shape},
};

/// Requests that no worker will take, reported by one plan.
const MOST_HOPELESS: usize = 64;

impl Round<'_> {
    /// Requests that are too large for every worker that may get them, when there is one: waiting will not help. A worker that
    /// is away for the moment (cordoned, quarantined, still loading, about to be updated) may be the one.
    pub fn note_hopeless(&mut self, entry: &Entry) {
        let needs = &entry.needs;
        let mut most: Option<u32> = None;
        for worker in self.all {
            match (fits(worker, needs), worker.models.get(&needs.model)) {
                (Ok(()), Some(serving)) if serving.rates.context_length > 0 => {
                    most = most.max(Some(serving.rates.context_length));
                }
                (Ok(()) | Err(Refusal::Unschedulable | Refusal::FieldsUnknown { .. }), _) => return,
                (Err(Refusal::Quarantined), Some(_)) => return,
                _ => {}
            }
        }
        let Some(context_length) = most else { return };
        let too_long = |shape: &Shape| shape.most_tokens() > u64::from(context_length);
        let lanes = entry.lanes.iter().filter(|(shape, _)| too_long(shape)).flat_map(|(_, lane)| lane);
        for ((_, request), item) in lanes.filter(|(_, item)| item.tokens() > u64::from(context_length)) {
            if self.plan.hopeless.len() >= MOST_HOPELESS {
                return;
            }
            let refusal = Refusal::ContextTooShort { needed: item.tokens(), context_length };
            self.plan.hopeless.push(Hopeless { request: *request, refusal });
        }
    }
}
