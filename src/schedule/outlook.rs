//! What a backlog that waits can hope for: who could take it, why others cannot, and about when.

use super::{Locality, Needs, Refusal, Refusals, Worker, fits, score};

/// What stands between a backlog and its next start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outlook {
    /// Connected workers on which the model is ready.
    pub serving: u32,
    /// Connected workers that are fetching or loading it.
    pub loading: u32,
    /// Of both, those that may take the requests when they have a free slot.
    pub matching: u32,
    /// Why the others may not. Workers without the model are not counted.
    pub refusals: Refusals,
    /// About when the next request starts; absent when nothing tells.
    pub expected_wait_ms: Option<u64>,
}

/// The outlook of a backlog whose next request comes after `position` others. The wait is an estimate, rather too long: workers
/// are taken to answer one request after the other at full length.
pub fn outlook(workers: &[Worker], needs: &Needs, position: usize) -> Outlook {
    let mut outlook = Outlook::default();
    let mut matching = Vec::new();
    for worker in workers {
        let Some(serving) = worker.models.get(&needs.model) else { continue };
        match serving.locality {
            Locality::Loaded => outlook.serving += 1,
            Locality::OnDisk | Locality::MustFetch => outlook.loading += 1,
        }
        match fits(worker, needs) {
            Ok(()) => matching.push(worker),
            Err(refusal) => *outlook.refusals.entry(refusal).or_default() += 1,
        }
    }
    outlook.matching = u32::try_from(matching.len()).unwrap_or(u32::MAX);
    outlook.expected_wait_ms = expected_start_ms(&matching, needs, position);
    outlook
}

impl Outlook {
    /// Why the backlog waits, as a stable CamelCase code: what somebody must change comes before what passes.
    pub fn reason(&self) -> &'static str {
        match (self.serving, self.matching) {
            (0, _) => "NoWorkerForModel",
            (_, 0) => "NoMatchingNode",
            _ => "WaitingForCapacity",
        }
    }

    /// The refusals as one phrase, the commonest first: "2 in another region than asked for, 1 quarantined: …".
    pub fn why_not(&self) -> String {
        let mut refusals: Vec<(&Refusal, &u32)> = self.refusals.iter().collect();
        refusals.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
        let phrases: Vec<String> = refusals.into_iter().map(|(refusal, count)| format!("{count} {refusal}")).collect();
        phrases.join(", ")
    }
}

fn loaded<'a>(workers: &'a [&Worker], needs: &'a Needs) -> impl Iterator<Item = (&'a Worker, u64)> {
    workers.iter().filter_map(|worker| {
        let serving = worker.models.get(&needs.model).filter(|serving| serving.locality == Locality::Loaded)?;
        Some((*worker, serving.rates.decode_milli))
    })
}

/// With all slots taken, one comes free each time a running request ends; those ahead take theirs first.
fn expected_start_ms(matching: &[&Worker], needs: &Needs, position: usize) -> Option<u64> {
    if loaded(matching, needs).next().is_none() {
        let ready = matching.iter().filter_map(|worker| worker.models.get(&needs.model));
        return ready.map(|serving| score::ready_in_ms(serving.locality, needs.model_bytes)).min();
    }
    let (mut tokens, mut rate, mut running) = (0u64, 0u64, 0u64);
    for (worker, decode_milli) in loaded(matching, needs) {
        tokens = tokens.saturating_add(worker.queued_tokens);
        rate = rate.saturating_add(decode_milli);
        running += u64::from(worker.running);
    }
    let free: u64 = loaded(matching, needs).map(|(worker, _)| u64::from(worker.free_slots)).sum();
    let ahead = position as u64;
    if ahead < free {
        return Some(0);
    }
    let between = score::milliseconds(tokens, rate).checked_div(running)?;
    Some(between.saturating_mul(ahead - free + 1))
}

/// Milliseconds until workers that match these needs have done what they run and `waiting_tokens` besides: what a request that
/// came now would wait if it were the last. Absent when no matching worker has the model ready.
pub fn drain_ms(workers: &[Worker], needs: &Needs, waiting_tokens: u64) -> Option<u64> {
    let matching: Vec<&Worker> = workers.iter().filter(|worker| fits(worker, needs).is_ok()).collect();
    let (mut tokens, mut rate) = (waiting_tokens, 0u64);
    for (worker, decode_milli) in loaded(&matching, needs) {
        tokens = tokens.saturating_add(worker.queued_tokens);
        rate = rate.saturating_add(decode_milli);
    }
    (rate > 0).then(|| score::milliseconds(tokens, rate))
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{loading, model, needs, worker},
        *,
    };
    use crate::protocol::internal::PlacementFilter;

    /// Two slots, both taken, with 100 tokens to go at 10 a second.
    fn busy(number: u8) -> Worker {
        Worker { running: 2, queued_tokens: 100, ..worker(number, 0) }
    }

    #[test]
    fn a_region_nobody_is_in_is_told_with_numbers() {
        let placement = PlacementFilter { regions: vec!["eu".into()], ..PlacementFilter::default() };
        let quarantined = Worker { quarantined: true, ..worker(3, 1) };
        let found = outlook(&[worker(1, 1), worker(2, 0), quarantined], &Needs { placement, ..needs() }, 0);
        assert_eq!((found.serving, found.matching, found.expected_wait_ms), (3, 0, None));
        assert_eq!(found.reason(), "NoMatchingNode");
        assert_eq!(found.why_not(), "2 in another region than asked for, 1 quarantined: audits found wrong answers");
    }

    #[test]
    fn a_full_grid_says_about_when() {
        // Two workers: 200 tokens at 20 a second are 10 s for four requests, so one ends every 2.5 s.
        let workers = [busy(1), busy(2)];
        assert_eq!(outlook(&workers, &needs(), 0).expected_wait_ms, Some(2_500));
        assert_eq!(outlook(&workers, &needs(), 0).reason(), "WaitingForCapacity");
        assert_eq!(outlook(&workers, &needs(), 3).expected_wait_ms, Some(10_000));
        assert_eq!(outlook(&[busy(1), worker(2, 1)], &needs(), 0).expected_wait_ms, Some(0));
        let paused = Worker { free_slots: 0, ..worker(1, 0) };
        assert_eq!(outlook(&[paused], &needs(), 0).expected_wait_ms, None);
    }

    #[test]
    fn a_model_that_is_being_loaded_is_no_missing_model() {
        let soon = Worker { models: [(model(1), loading(Locality::OnDisk))].into(), ..worker(1, 1) };
        let found = outlook(&[soon], &needs(), 5);
        assert_eq!((found.serving, found.loading, found.matching, found.reason()), (0, 1, 1, "NoWorkerForModel"));
        assert_eq!(found.expected_wait_ms, Some(score::ready_in_ms(Locality::OnDisk, 0)));
    }

    #[test]
    fn draining_counts_what_runs_and_what_waits() {
        assert_eq!(drain_ms(&[busy(1), busy(2)], &needs(), 300), Some(25_000));
        assert_eq!(drain_ms(&[], &needs(), 300), None);
        assert_eq!(drain_ms(&[worker(1, 1)], &needs(), 0), Some(0));
    }
}
