//! Looks that need no look: a job at the gateway whose report is what it was when the job was last looked at, and at which nobody
//! changed anything since, is as it was. The gateway tells of every step of a job, also of those that the operator itself caused;
//! without this each costs the API server some reads, and a crowd of new jobs is slowed down by looking at itself. Only a cache: a
//! restart looks at everything once.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use kube::ResourceExt;

use super::known::KnownJob;
use crate::{api::inference_job::Target, operator::context::Context, protocol::internal::JobReport};

/// Far more than jobs that wait at once; a bound all the same.
const MAX_JOBS: usize = 100_000;

/// What jobs were like when they were last looked at.
#[derive(Default)]
pub struct Calm {
    jobs: Mutex<HashMap<String, Seen>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    state: blake3::Hash,
    /// When it is to be looked at whatever the gateway says.
    until: Instant,
}

/// What the gateway says of a job, before the job itself is read.
#[derive(Debug, PartialEq)]
pub enum Asked {
    /// Nothing new; it is to be looked at after this time.
    Nothing(Duration),
    News(Box<JobReport>),
    /// It was not asked, or said nothing: the look asks itself.
    NotAsked,
}

impl Calm {
    pub fn forget(&self, uid: &str) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    fn find(&self, uid: &str) -> Option<(Seen, Duration)> {
        let seen = *self.jobs.lock().unwrap_or_else(PoisonError::into_inner).get(uid)?;
        let left = seen.until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some((seen, left))
    }

    fn note(&self, uid: String, seen: Seen) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.len() >= MAX_JOBS {
            let now = Instant::now();
            jobs.retain(|_, seen| seen.until > now);
        }
        if jobs.len() < MAX_JOBS {
            jobs.insert(uid, seen);
        }
    }
}

/// Asks the gateway about a job that was seen before and is not due.
pub async fn ask(known: &KnownJob, context: &Context) -> Asked {
    let uid = known.uid().unwrap_or_default();
    let waits =
        known.target == Target::Grid && !known.is_over && kube::Resource::meta(known).deletion_timestamp.is_none();
    let Some((seen, left)) = context.calm.find(&uid).filter(|_| waits) else { return Asked::NotAsked };
    match context.gateway.job(&uid).await {
        Ok(Some(report)) if state(known, &report, context) == Some(seen.state) => Asked::Nothing(left),
        Ok(Some(report)) => Asked::News(Box::new(report)),
        // It is away or lost the job: that is for the look to say.
        _ => Asked::NotAsked,
    }
}

/// Notes what a job is like after a look at which nothing was left to do before `look`.
pub fn note(known: &KnownJob, report: &JobReport, look: Duration, context: &Context) {
    if let (Some(uid), Some(state)) = (known.uid(), state(known, report, context)) {
        context.calm.note(uid, Seen { state, until: Instant::now() + look });
    }
}

/// Everything that a look at a job which waits or runs could find changed. `None` while its model is not known here.
fn state(known: &KnownJob, report: &JobReport, context: &Context) -> Option<blake3::Hash> {
    let model = context.models.find(&known.model)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&serde_json::to_vec(report).ok()?);
    hasher.update(&known.revision.to_le_bytes());
    hasher.update(model.resource_version().unwrap_or_default().as_bytes());
    Some(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(left: Duration) -> Seen {
        Seen { state: blake3::hash(b"a"), until: Instant::now() + left }
    }

    #[test]
    fn what_was_seen_counts_until_the_job_is_due() {
        let calm = Calm::default();
        calm.note("a".into(), seen(Duration::from_secs(60)));
        calm.note("b".into(), seen(Duration::ZERO));
        assert!(calm.find("a").is_some_and(|(_, left)| left <= Duration::from_secs(60)));
        assert!(calm.find("b").is_none() && calm.find("c").is_none());
        calm.forget("a");
        assert!(calm.find("a").is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let calm = Calm::default();
        for number in 0..=MAX_JOBS {
            calm.note(number.to_string(), seen(Duration::from_secs(60)));
        }
        assert_eq!(calm.jobs.lock().unwrap().len(), MAX_JOBS);
    }
}
