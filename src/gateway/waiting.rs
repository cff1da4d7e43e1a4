//! What waits, and why: told to jobs as a reason with numbers, and to Prometheus as depths and expected waits.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::Gateway;
use crate::{
    protocol::{
        fields::RequestFields,
        internal::{ChangeKind, PlacementFilter, Waiting, WaitingRefusal},
    },
    schedule::{
        Class, Needs, Outlook, Worker,
        outlook::{drain_ms, outlook},
    },
    store::{JobRecord, LedgerError},
};

/// Shortest time between two looks at the whole queue.
const EVERY_MS: u64 = 1_000;
/// Jobs whose reason is announced at once; the others follow a moment later.
const MOST_ANNOUNCED: usize = 200;
/// Models that have a gauge; an admin names them, so that they are few.
const MOST_MODELS: usize = 64;
/// Stands for "never as things are": nobody serves what is asked for.
const LONGEST_WAIT_SECONDS: f64 = 3600.0;

/// What jobs were last told, and when the queue was last looked at.
#[derive(Debug, Default)]
pub struct Told {
    reasons: Mutex<HashMap<String, &'static str>>,
    looked_ms: AtomicU64,
}

/// Why a job waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WhyWaiting {
    pub reason: &'static str,
    pub message: String,
    pub waiting: Option<Waiting>,
}

impl Gateway {
    /// Why the next request of a job has not started.
    pub(super) fn why_waiting(&self, job: &JobRecord) -> WhyWaiting {
        let workers = self.all_workers();
        let (position, fields) = {
            let backlogs = self.backlogs.lock();
            let fields = backlogs.queue.backlog(&job.uid).map(|(backlog, _, _)| backlog.needs.fields);
            (backlogs.queue.position(&job.uid), fields.unwrap_or_default())
        };
        let placement = job.spec.placement.clone();
        let needs = Needs { model: job.spec.model, model_bytes: 0, placement, fields };
        let found = outlook(&workers, &needs, position);
        let message = sentence(&found, &job.spec.model_name, &job.spec.placement);
        WhyWaiting { reason: found.reason(), message, waiting: Some(report(&found)) }
    }

    /// Looks at the whole queue now and then: gauges are set, and jobs whose reason has changed are announced, since nothing
    /// else of theirs does.
    pub(super) async fn observe_queue(&self) {
        let now_ms = self.clock.now_ms();
        let last = self.told.looked_ms.load(Ordering::Relaxed);
        if now_ms.abs_diff(last) < EVERY_MS {
            return;
        }
        self.told.looked_ms.store(now_ms, Ordering::Relaxed);
        let workers = self.all_workers();
        self.observe_depths(now_ms);
        let observed = match self.observe_waits(&workers).await {
            Ok(()) => self.announce_reasons(&workers).await,
            error => error,
        };
        if let Err(error) = observed {
            self.ledger_failed("looking at the queue", &error);
        }
    }

    fn observe_depths(&self, now_ms: u64) {
        let backlogs = self.backlogs.lock();
        for class in Class::ALL {
            let depth = i64::try_from(backlogs.depth(class)).unwrap_or(i64::MAX);
            self.metrics.queue_depth.with_label_values(&[class.as_str()]).set(depth);
            let oldest = backlogs.queue.oldest_ms(class).map_or(0, |queued_ms| now_ms.saturating_sub(queued_ms));
            self.metrics.queue_oldest.with_label_values(&[class.as_str()]).set(oldest as f64 / 1000.0);
        }
    }

    async fn observe_waits(&self, workers: &[Worker]) -> Result<(), LedgerError> {
        let models = self.ledger.models().await?;
        let demand = self.backlogs.lock().demand();
        self.metrics.expected_wait.reset();
        for model in models.iter().take(MOST_MODELS) {
            let tokens = demand.get(&model.source.digest).copied().unwrap_or(0);
            let needs = Needs {
                model: model.source.digest,
                model_bytes: model.bytes,
                placement: PlacementFilter::default(),
                fields: RequestFields::NONE,
            };
            let seconds = expected_wait_seconds(workers, &needs, tokens);
            self.metrics.expected_wait.with_label_values(&[&model.source.name]).set(seconds);
        }
        Ok(())
    }

    async fn announce_reasons(&self, workers: &[Worker]) -> Result<(), LedgerError> {
        let news = self.changed_reasons(workers);
        for (uid, reason) in news.into_iter().take(MOST_ANNOUNCED) {
            self.ledger.announce(ChangeKind::Job, &uid).await?;
            self.told.reasons.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, reason);
        }
        Ok(())
    }

    /// Jobs of which nothing runs and whose reason is not the one that was announced.
    fn changed_reasons(&self, workers: &[Worker]) -> Vec<(String, &'static str)> {
        let backlogs = self.backlogs.lock();
        let mut told = self.told.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found: HashMap<*const Needs, &'static str> = HashMap::new();
        let mut news = Vec::new();
        let mut idle = HashSet::new();
        for (uid, needs) in backlogs.queue.idle() {
            idle.insert(uid);
            let reason = *found.entry(Arc::as_ptr(needs)).or_insert_with(|| outlook(workers, needs, 0).reason());
            if told.get(uid) != Some(&reason) {
                news.push((uid.to_owned(), reason));
            }
        }
        told.retain(|uid, _| idle.contains(uid.as_str()));
        news
    }
}

/// What the last of all waiting requests for a model has to expect; nothing while none waits.
fn expected_wait_seconds(workers: &[Worker], needs: &Needs, waiting_tokens: u64) -> f64 {
    if waiting_tokens == 0 {
        return 0.0;
    }
    let milliseconds = drain_ms(workers, needs, waiting_tokens);
    milliseconds.map_or(LONGEST_WAIT_SECONDS, |milliseconds| (milliseconds as f64 / 1000.0).min(LONGEST_WAIT_SECONDS))
}

fn report(outlook: &Outlook) -> Waiting {
    let refusals = outlook.refusals.iter().map(|(refusal, nodes)| WaitingRefusal {
        reason: refusal.reason().to_owned(),
        message: refusal.to_string(),
        nodes: *nodes,
    });
    Waiting {
        serving: outlook.serving,
        loading: outlook.loading,
        matching: outlook.matching,
        refusals: refusals.collect(),
        expected_wait_ms: outlook.expected_wait_ms,
    }
}

/// One sentence for people. Times are rounded coarsely: a status that says the same is not written again.
fn sentence(outlook: &Outlook, model: &str, placement: &PlacementFilter) -> String {
    let expected = match outlook.expected_wait_ms {
        None => String::new(),
        Some(wait) => format!("; expected wait {}", about(wait)),
    };
    match outlook.reason() {
        "NoWorkerForModel" if outlook.loading > 0 => {
            format!("no node serves model {model} yet, {} fetching or loading it{expected}", are(outlook.loading))
        }
        "NoWorkerForModel" => format!("no connected worker serves model {model} yet"),
        "NoMatchingNode" => {
            let asked = asked_for(placement);
            let nodes = nodes(outlook.serving + outlook.loading);
            format!("{nodes} with model {model}, 0 of them may take the job{asked}: {}", outlook.why_not())
        }
        _ if outlook.expected_wait_ms == Some(0) => {
            format!("{} for model {model} match; the job's turn comes next", nodes(outlook.matching))
        }
        _ => format!("{} for model {model} match, all busy{expected}", nodes(outlook.matching)),
    }
}

/// " (region eu; label tier=gold)" of a placement that asks for something.
fn asked_for(placement: &PlacementFilter) -> String {
    let mut asked: Vec<String> = Vec::new();
    if !placement.regions.is_empty() {
        asked.push(format!("region {}", placement.regions.join(" or ")));
    }
    asked.extend(placement.require_trust.map(|trust| format!("trust {}", trust.as_str())));
    asked.extend(placement.node_labels.iter().map(|(key, value)| format!("label {key}={value}")));
    let text: String = asked.join("; ").chars().take(200).collect();
    if text.is_empty() { text } else { format!(" ({text})") }
}

fn nodes(count: u32) -> String {
    if count == 1 { "1 node".to_owned() } else { format!("{count} nodes") }
}

fn are(count: u32) -> String {
    if count == 1 { "1 node is".to_owned() } else { format!("{count} nodes are") }
}

/// The next larger of a few round times.
fn about(milliseconds: u64) -> &'static str {
    const STEPS: [(u64, &str); 13] = [
        (5, "5 s"),
        (10, "10 s"),
        (20, "20 s"),
        (40, "40 s"),
        (60, "1 min"),
        (120, "2 min"),
        (300, "5 min"),
        (600, "10 min"),
        (1200, "20 min"),
        (2400, "40 min"),
        (3600, "1 h"),
        (7200, "2 h"),
        (14400, "4 h"),
    ];
    let seconds = milliseconds.div_ceil(1000);
    STEPS.iter().find(|(limit, _)| seconds <= *limit).map_or("more than 4 h", |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{protocol::internal::Trust, schedule::Refusal};

    #[test]
    fn a_job_that_nobody_may_take_hears_what_it_asked_for_and_who_refuses() {
        let placement = PlacementFilter {
            regions: vec!["eu".into()],
            require_trust: Some(Trust::Managed),
            node_labels: BTreeMap::new(),
        };
        let found = Outlook { serving: 2, refusals: [(Refusal::OtherRegion, 2)].into(), ..Outlook::default() };
        assert_eq!(
            sentence(&found, "tiny", &placement),
            "2 nodes with model tiny, 0 of them may take the job (region eu; trust Managed): 2 in another region than asked for"
        );
    }

    #[test]
    fn a_job_that_waits_for_a_slot_hears_about_how_long() {
        let found = Outlook { serving: 3, matching: 3, expected_wait_ms: Some(33_000), ..Outlook::default() };
        let none = PlacementFilter::default();
        assert_eq!(sentence(&found, "tiny", &none), "3 nodes for model tiny match, all busy; expected wait 40 s");
        let loading = Outlook { loading: 1, matching: 1, expected_wait_ms: Some(9_000), ..Outlook::default() };
        assert_eq!(
            sentence(&loading, "tiny", &none),
            "no node serves model tiny yet, 1 node is fetching or loading it; expected wait 10 s"
        );
        assert_eq!(sentence(&Outlook::default(), "tiny", &none), "no connected worker serves model tiny yet");
    }

    #[test]
    fn times_are_rounded_up_to_few_steps() {
        assert_eq!([0, 5_001, 60_000, 61_000, u64::MAX].map(about), ["5 s", "10 s", "1 min", "2 min", "more than 4 h"]);
    }

    #[test]
    fn a_model_that_nobody_serves_is_expected_in_an_hour_when_somebody_waits() {
        let needs = Needs {
            model: crate::api::ids::ModelDigest([1; 32]),
            model_bytes: 0,
            placement: PlacementFilter::default(),
            fields: RequestFields::NONE,
        };
        assert_eq!((expected_wait_seconds(&[], &needs, 0), expected_wait_seconds(&[], &needs, 1)), (0.0, 3600.0));
    }
}
