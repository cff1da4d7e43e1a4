//! Whether a worker may get a request, and if not, why.

use std::collections::BTreeMap;

use super::{Locality, Needs, Work, Worker};
use crate::protocol::{fields::RequestFields, internal::Trust};

/// Why a worker does not get a request, the most lasting reason first. The text is fit for a condition message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    #[error("quarantined: audits found wrong answers")]
    Quarantined,
    #[error("without the model")]
    ModelNotServed,
    #[error("in another region than asked for")]
    OtherRegion,
    #[error("without the labels asked for")]
    LabelsDiffer,
    #[error("trusted less than {needed:?}")]
    NotTrusted { needed: Trust },
    #[error("with too little memory for the model")]
    NotEnoughMemory,
    #[error("whose software does not know {missing}: update it")]
    FieldsUnknown { missing: RequestFields },
    #[error("taking no new work: cordoned, draining or not proven yet")]
    Unschedulable,
    #[error("with a context of {context_length} tokens where {needed} may be needed")]
    ContextTooShort { needed: u64, context_length: u32 },
    #[error("that failed on this request or gave a wrong answer to it")]
    Excluded,
    #[error("still fetching or loading the model")]
    ModelLoading,
    #[error("without a free slot")]
    NoFreeSlot,
}

impl Refusal {
    /// Stable CamelCase code.
    pub fn reason(&self) -> &'static str {
        match self {
            Refusal::Quarantined => "Quarantined",
            Refusal::ModelNotServed => "ModelNotServed",
            Refusal::OtherRegion => "OtherRegion",
            Refusal::LabelsDiffer => "LabelsDiffer",
            Refusal::NotTrusted { .. } => "NotTrusted",
            Refusal::NotEnoughMemory => "NotEnoughMemory",
            Refusal::FieldsUnknown { .. } => "FieldsUnknown",
            Refusal::Unschedulable => "Unschedulable",
            Refusal::ContextTooShort { .. } => "ContextTooShort",
            Refusal::Excluded => "Excluded",
            Refusal::ModelLoading => "ModelLoading",
            Refusal::NoFreeSlot => "NoFreeSlot",
        }
    }

    /// Passes by itself: the worker is one that the request waits for.
    pub fn is_passing(&self) -> bool {
        matches!(self, Refusal::ModelLoading | Refusal::NoFreeSlot)
    }
}

/// How many workers refuse for which reason.
pub type Refusals = BTreeMap<Refusal, u32>;

/// Whether the worker is one for these needs, now or as soon as it has a free slot and the model is loaded.
pub fn fits(worker: &Worker, needs: &Needs) -> Result<(), Refusal> {
    if worker.quarantined {
        return Err(Refusal::Quarantined);
    }
    let Some(serving) = worker.models.get(&needs.model) else { return Err(Refusal::ModelNotServed) };
    let placement = &needs.placement;
    if !placement.regions.is_empty() && !placement.regions.contains(&worker.region) {
        return Err(Refusal::OtherRegion);
    }
    if placement.node_labels.iter().any(|(key, value)| worker.labels.get(key) != Some(value)) {
        return Err(Refusal::LabelsDiffer);
    }
    if let Some(needed) = placement.require_trust.filter(|needed| worker.trust < *needed) {
        return Err(Refusal::NotTrusted { needed });
    }
    let known = worker.memory_bytes > 0 && serving.locality != Locality::Loaded;
    if known && worker.memory_bytes < needs.model_bytes {
        return Err(Refusal::NotEnoughMemory);
    }
    let missing = needs.fields.missing_in(worker.knows);
    if !missing.is_empty() {
        return Err(Refusal::FieldsUnknown { missing });
    }
    if !worker.schedulable {
        return Err(Refusal::Unschedulable);
    }
    Ok(())
}

/// Whether a worker's context holds so many tokens; a context that is not known does.
pub(super) fn holds(worker: &Worker, needs: &Needs, tokens: u64) -> Result<(), Refusal> {
    let context_length = worker.models.get(&needs.model).map_or(0, |serving| serving.rates.context_length);
    match context_length > 0 && tokens > u64::from(context_length) {
        true => Err(Refusal::ContextTooShort { needed: tokens, context_length }),
        false => Ok(()),
    }
}

/// Whether the worker can start something of these needs this moment.
pub(super) fn is_free(worker: &Worker, needs: &Needs) -> Result<(), Refusal> {
    if worker.models.get(&needs.model).is_some_and(|serving| serving.locality != Locality::Loaded) {
        return Err(Refusal::ModelLoading);
    }
    if worker.free_slots == 0 { Err(Refusal::NoFreeSlot) } else { Ok(()) }
}

/// `Ok` when the worker can start the request now.
pub fn eligible(worker: &Worker, needs: &Needs, work: &Work) -> Result<(), Refusal> {
    fits(worker, needs)?;
    holds(worker, needs, work.tokens())?;
    if work.exclude.contains(&worker.id) {
        return Err(Refusal::Excluded);
    }
    is_free(worker, needs)
}

/// How many workers can start nothing of these needs now, and why.
pub fn refusals(workers: &[Worker], needs: &Needs) -> Refusals {
    let mut counts = Refusals::new();
    for worker in workers {
        if let Err(refusal) = fits(worker, needs).and_then(|()| is_free(worker, needs)) {
            *counts.entry(refusal).or_default() += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{loading, model, needs, peer, work, worker},
        *,
    };
    use crate::protocol::{fields::RequestField, internal::PlacementFilter};

    fn placed(placement: PlacementFilter) -> Needs {
        Needs { placement, ..needs() }
    }

    #[test]
    fn each_filter_says_why() {
        let (fit, request) = (worker(1, 1), work(1));
        assert_eq!(eligible(&fit, &needs(), &request), Ok(()));
        let eu = placed(PlacementFilter { regions: vec!["eu".into()], ..PlacementFilter::default() });
        let gold = placed(PlacementFilter {
            node_labels: [("tier".into(), "gold".into())].into(),
            ..PlacementFilter::default()
        });
        let own = placed(PlacementFilter { require_trust: Some(Trust::Managed), ..PlacementFilter::default() });
        let stranger = Worker { trust: Trust::Approved, ..fit.clone() };
        let small = Worker { memory_bytes: 5, models: [(model(1), loading(Locality::OnDisk))].into(), ..fit.clone() };
        let slow = Worker { models: [(model(1), loading(Locality::MustFetch))].into(), ..fit.clone() };
        let old = Worker { knows: RequestFields::NONE, ..fit.clone() };
        let refused: [(Worker, Needs, Work, &str); 12] = [
            (Worker { quarantined: true, ..fit.clone() }, needs(), request.clone(), "Quarantined"),
            (Worker { schedulable: false, ..fit.clone() }, needs(), request.clone(), "Unschedulable"),
            (fit.clone(), Needs { model: model(2), ..needs() }, request.clone(), "ModelNotServed"),
            (fit.clone(), eu, request.clone(), "OtherRegion"),
            (fit.clone(), gold, request.clone(), "LabelsDiffer"),
            (stranger, own, request.clone(), "NotTrusted"),
            (old, Needs { fields: RequestFields::all(), ..needs() }, request.clone(), "FieldsUnknown"),
            (small, Needs { model_bytes: 6, ..needs() }, request.clone(), "NotEnoughMemory"),
            (fit.clone(), needs(), Work { max_tokens: 991, ..request.clone() }, "ContextTooShort"),
            (fit.clone(), needs(), Work { exclude: [peer(1)].into(), ..request.clone() }, "Excluded"),
            (slow, needs(), request.clone(), "ModelLoading"),
            (Worker { free_slots: 0, ..fit }, needs(), request, "NoFreeSlot"),
        ];
        for (worker, needs, work, reason) in refused {
            assert_eq!(eligible(&worker, &needs, &work).unwrap_err().reason(), reason);
        }
    }

    #[test]
    fn placement_that_is_met_refuses_nobody() {
        let placement = PlacementFilter {
            regions: vec!["us".into(), "eu".into()],
            require_trust: Some(Trust::Approved),
            node_labels: [("tier".into(), "gold".into())].into(),
        };
        let labels = [("tier".into(), "gold".into()), ("rack".into(), "7".into())].into();
        let worker = Worker { region: "eu".into(), trust: Trust::Managed, labels, ..worker(1, 1) };
        assert_eq!(fits(&worker, &placed(placement)), Ok(()));
    }

    #[test]
    fn software_that_lacks_a_field_is_told_which() {
        let knows = [RequestField::MinP].into_iter().collect();
        let asked = Needs { fields: [RequestField::MinP, RequestField::Logprobs].into_iter().collect(), ..needs() };
        let refusal = fits(&Worker { knows, ..worker(1, 1) }, &asked).unwrap_err();
        assert_eq!(refusal.to_string(), "whose software does not know logprobs: update it");
        assert!(!refusal.is_passing());
        assert_eq!(fits(&worker(1, 1), &asked), Ok(()));
    }

    #[test]
    fn a_request_that_just_fits_the_context_is_taken() {
        assert_eq!(eligible(&worker(1, 1), &needs(), &Work { max_tokens: 990, ..work(1) }), Ok(()));
    }

    #[test]
    fn memory_is_no_question_once_the_model_is_loaded() {
        let small = Worker { memory_bytes: 5, ..worker(1, 1) };
        assert_eq!(fits(&small, &Needs { model_bytes: 6, ..needs() }), Ok(()));
    }

    #[test]
    fn a_lasting_reason_is_told_before_a_passing_one() {
        let full = Worker { quarantined: true, free_slots: 0, ..worker(1, 0) };
        assert_eq!(eligible(&full, &needs(), &work(1)), Err(Refusal::Quarantined));
    }

    #[test]
    fn refusals_are_counted() {
        let workers = [worker(1, 0), worker(2, 0), worker(4, 2), Worker { quarantined: true, ..worker(3, 1) }];
        let counts = refusals(&workers, &needs());
        assert_eq!(counts, [(Refusal::NoFreeSlot, 2), (Refusal::Quarantined, 1)].into());
    }
}
