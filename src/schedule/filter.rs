//! Whether a worker may get a request, and if not, why.

use std::collections::BTreeMap;

use super::{Work, Worker};

/// Why a worker does not get a request, the most lasting reason first. The text is fit for a condition message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    #[error("is quarantined: audits found wrong answers")]
    Quarantined,
    #[error("takes no new work: cordoned, draining or not approved")]
    Unschedulable,
    #[error("does not serve the model")]
    ModelNotServed,
    #[error("has a context of {context_length} tokens, the request may need {needed}")]
    ContextTooShort { needed: u64, context_length: u32 },
    #[error("failed or rejected this request before")]
    Excluded,
    #[error("has no free slot")]
    NoFreeSlot,
}

impl Refusal {
    /// Stable CamelCase code.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::Quarantined => "Quarantined",
            Refusal::Unschedulable => "Unschedulable",
            Refusal::ModelNotServed => "ModelNotServed",
            Refusal::ContextTooShort { .. } => "ContextTooShort",
            Refusal::Excluded => "Excluded",
            Refusal::NoFreeSlot => "NoFreeSlot",
        }
    }
}

/// `Ok` when the worker can start the request now.
pub fn eligible(worker: &Worker, work: &Work) -> Result<(), Refusal> {
    if worker.quarantined {
        return Err(Refusal::Quarantined);
    }
    if !worker.schedulable {
        return Err(Refusal::Unschedulable);
    }
    let Some(rates) = worker.models.get(&work.model) else { return Err(Refusal::ModelNotServed) };
    let needed = u64::from(work.prompt_tokens_estimate) + u64::from(work.max_tokens);
    if rates.context_length > 0 && needed > u64::from(rates.context_length) {
        return Err(Refusal::ContextTooShort { needed, context_length: rates.context_length });
    }
    if work.exclude.contains(&worker.id) {
        return Err(Refusal::Excluded);
    }
    if worker.free_slots == 0 {
        return Err(Refusal::NoFreeSlot);
    }
    Ok(())
}

/// How many workers refuse a request for which reason; empty when none does.
pub fn why_waiting(workers: &[Worker], work: &Work) -> BTreeMap<Refusal, u32> {
    let mut counts = BTreeMap::new();
    for refusal in workers.iter().filter_map(|worker| eligible(worker, work).err()) {
        *counts.entry(refusal).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{model, peer, work, worker},
        *,
    };

    #[test]
    fn each_filter_says_why() {
        let (fit, request) = (worker(1, 1), work(1, "a"));
        assert_eq!(eligible(&fit, &request), Ok(()));
        let refused: [(Worker, Work, &str); 6] = [
            (Worker { quarantined: true, ..fit.clone() }, request.clone(), "Quarantined"),
            (Worker { schedulable: false, ..fit.clone() }, request.clone(), "Unschedulable"),
            (fit.clone(), Work { model: model(2), ..request.clone() }, "ModelNotServed"),
            (fit.clone(), Work { max_tokens: 991, ..request.clone() }, "ContextTooShort"),
            (fit.clone(), Work { exclude: [peer(1)].into(), ..request.clone() }, "Excluded"),
            (Worker { free_slots: 0, ..fit }, request, "NoFreeSlot"),
        ];
        for (worker, work, reason) in refused {
            assert_eq!(eligible(&worker, &work).unwrap_err().reason(), reason);
        }
    }

    #[test]
    fn a_request_that_just_fits_the_context_is_taken() {
        assert_eq!(eligible(&worker(1, 1), &Work { max_tokens: 990, ..work(1, "a") }), Ok(()));
    }

    #[test]
    fn a_lasting_reason_is_told_before_a_passing_one() {
        let full = Worker { quarantined: true, free_slots: 0, ..worker(1, 0) };
        assert_eq!(eligible(&full, &work(1, "a")), Err(Refusal::Quarantined));
    }

    #[test]
    fn a_waiting_request_counts_its_refusals() {
        let workers = [worker(1, 0), worker(2, 0), Worker { quarantined: true, ..worker(3, 1) }];
        let counts = why_waiting(&workers, &work(1, "a"));
        assert_eq!(counts, [(Refusal::NoFreeSlot, 2), (Refusal::Quarantined, 1)].into());
    }
}
