//! Pure: what the operator keeps of a job between two looks: its name, and what its triggers and its retention go by. Everything
//! else is read when it is needed, so that ten thousand jobs with their inputs take no memory of their size.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{
    ResourceExt,
    runtime::{reflector::ObjectRef, watcher},
};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny},
};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    api::{
        conditions::{self, Condition},
        inference_job::{InferenceJob, OURS, RequestCounts, Target, condition},
    },
    operator::runner::{self, Guarded},
};

/// Longest inline input, in bytes, of a job that is kept whole until its first look.
const MAX_FRESH: usize = 2 << 10;
/// Of all jobs that are kept whole together, in bytes: some thousand, which is what a few seconds bring and a few seconds take away.
const MAX_FRESH_TOGETHER: usize = 4 << 20;

/// A job as it is known between two looks.
#[derive(Debug, Clone, PartialEq)]
pub struct KnownJob {
    /// Without annotations, labels, owners and who wrote what.
    metadata: ObjectMeta,
    /// Name of its GridModel.
    pub model: String,
    pub target: Target,
    /// False for a job that somebody else looks after.
    pub is_ours: bool,
    /// It has a terminal condition.
    pub is_over: bool,
    /// Whether its work is paid is known for good, or it has none that is paid.
    pub is_settled: bool,
    /// A user pays for it.
    pub has_escrow: bool,
    pub ended: Option<Time>,
    /// Seconds that the job wants to be kept after that.
    pub ttl: Option<i64>,
    /// Changes with whatever an owner can change.
    pub revision: u64,
    /// All of a small job that has no status yet: its first look reads it from here. The write of its status tells whether it was
    /// still so.
    pub fresh: Option<Arc<Fresh>>,
}

/// A job that is kept whole, and its part of the room for such jobs, which it gives back when nobody holds it any more.
#[derive(Debug)]
pub struct Fresh {
    pub job: Arc<InferenceJob>,
    bytes: usize,
    /// `None` until it is kept.
    _place: Option<OwnedSemaphorePermit>,
}

impl PartialEq for Fresh {
    fn eq(&self, other: &Self) -> bool {
        self.job == other.job
    }
}

/// The room for jobs that are kept whole. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Room {
    bytes: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        Room { bytes: Arc::new(Semaphore::new(MAX_FRESH_TOGETHER)) }
    }
}

impl Room {
    /// An event of the watch as it is kept: a job for which there is no room loses its whole object, and its first look reads it from
    /// the API server.
    pub fn fit(&self, mut event: watcher::Event<Guarded<KnownJob>>) -> watcher::Event<Guarded<KnownJob>> {
        if let watcher::Event::Apply(Guarded(Ok(job))) | watcher::Event::InitApply(Guarded(Ok(job))) = &mut event {
            job.fresh = job.fresh.take().and_then(|fresh| self.place(&fresh));
        }
        event
    }

    fn place(&self, fresh: &Fresh) -> Option<Arc<Fresh>> {
        let place = self.bytes.clone().try_acquire_many_owned(u32::try_from(fresh.bytes).ok()?).ok()?;
        Some(Arc::new(Fresh { job: fresh.job.clone(), bytes: fresh.bytes, _place: Some(place) }))
    }
}

impl<'de> Deserialize<'de> for KnownJob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let whole = Value::deserialize(deserializer)?;
        let facts = Facts::deserialize(&whole).map_err(D::Error::custom)?;
        Ok(KnownJob { fresh: fresh(&whole), ..facts.into() })
    }
}

fn fresh(whole: &Value) -> Option<Arc<Fresh>> {
    let input = &whole["spec"]["workload"]["input"]["inline"];
    if !whole["status"].is_null() || input.as_str().is_some_and(|text| text.len() > MAX_FRESH) {
        return None;
    }
    let mut job = InferenceJob::deserialize(whole).ok()?;
    // Nothing here reads them, and both may be as large as the job.
    (job.metadata.managed_fields, job.metadata.annotations) = (None, None);
    // What its fields take beside their text is about what the struct itself takes.
    let bytes = size_of::<InferenceJob>() + serde_json::to_vec(&job).ok()?.len();
    Some(Arc::new(Fresh { job: Arc::new(job), bytes, _place: None }))
}

impl KnownJob {
    /// Nothing is to be done for it but to delete it in time. A Local job may have left something to clean.
    pub fn is_done(&self) -> bool {
        self.is_over && self.is_settled && self.target == Target::Grid && self.metadata.deletion_timestamp.is_none()
    }

    /// The gateway still has something to tell of it: how far it is, or that its escrow is settled.
    fn is_live(&self) -> bool {
        !self.is_over || self.has_escrow && !self.is_settled
    }
}

/// The fields of an InferenceJob that are looked at; all others are passed over while it is read.
#[derive(Deserialize)]
struct Facts {
    metadata: ObjectMeta,
    spec: Spec,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    workload: Workload,
    #[serde(default)]
    placement: Placement,
    #[serde(default)]
    payment: Option<IgnoredAny>,
    #[serde(default)]
    managed_by: Option<String>,
    #[serde(default)]
    ttl_seconds_after_finished: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Workload {
    model_ref: ModelRef,
}

#[derive(Deserialize)]
struct ModelRef {
    name: String,
}

#[derive(Default, Deserialize)]
struct Placement {
    #[serde(default)]
    target: Target,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
    #[serde(default)]
    completion_time: Option<Time>,
    #[serde(default)]
    requests: Option<RequestCounts>,
}

impl From<Facts> for KnownJob {
    fn from(facts: Facts) -> Self {
        let Facts { metadata, spec, status } = facts;
        let Status { conditions, completion_time, requests } = status.unwrap_or_default();
        let holds = |type_: &str| conditions::is_true(&conditions, type_);
        let unpaid = requests.is_none_or(|requests| requests.completed == 0);
        KnownJob {
            is_ours: spec.managed_by.as_deref().is_none_or(|manager| manager == OURS),
            is_over: holds(condition::COMPLETE) || holds(condition::FAILED),
            is_settled: holds(condition::SETTLED) || unpaid || spec.placement.target == Target::Local,
            has_escrow: spec.payment.is_some(),
            model: spec.workload.model_ref.name,
            target: spec.placement.target,
            ended: completion_time,
            ttl: spec.ttl_seconds_after_finished,
            revision: revision(&metadata),
            fresh: None,
            metadata: runner::named(metadata),
        }
    }
}

/// Labels are not counted in the generation, and queues are named by them.
fn revision(metadata: &ObjectMeta) -> u64 {
    let mut hasher = DefaultHasher::new();
    (metadata.generation, metadata.deletion_timestamp.is_some(), &metadata.labels).hash(&mut hasher);
    hasher.finish()
}

runner::stands_for!(KnownJob, InferenceJob);

// ------------------------------------------------------------------------------------------------ live jobs

/// A job as the triggers name it.
pub type JobRef = ObjectRef<Guarded<KnownJob>>;

/// Only what tells one from the other: the uid, which `ObjectRef::from_obj` would add, is the key here.
fn job_ref(object: &Guarded<KnownJob>) -> JobRef {
    let job = ObjectRef::new(&object.name_any());
    match object.namespace() {
        Some(namespace) => job.within(&namespace),
        None => job,
    }
}

/// Jobs of which the gateway has something to tell, by uid, which is how it names them. Fed by the watch. Searching the cache for
/// each change would cost the more, the more jobs there are. Cheap to clone.
#[derive(Clone, Default)]
pub struct Live {
    jobs: Arc<Mutex<Jobs>>,
}

#[derive(Default)]
struct Jobs {
    by_uid: HashMap<String, Entry>,
    /// Counts listings: what a listing does not name is gone.
    listing: u64,
}

struct Entry {
    job: JobRef,
    revision: u64,
    is_over: bool,
    listing: u64,
}

impl Live {
    /// Takes in an event of the watch. False when it brings nothing that a look is worth: the operator alone writes the status of
    /// a job, and has looked before it did.
    pub fn is_news(&self, event: &watcher::Event<Guarded<KnownJob>>) -> bool {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            watcher::Event::Init => jobs.listing += 1,
            watcher::Event::InitDone => {
                let listing = jobs.listing;
                jobs.by_uid.retain(|_, entry| entry.listing == listing);
            }
            watcher::Event::Delete(job) => {
                jobs.by_uid.remove(&job.uid().unwrap_or_default());
            }
            watcher::Event::Apply(job) | watcher::Event::InitApply(job) => return jobs.applied(job),
        }
        true
    }

    /// The job of a uid, if the gateway has something to tell of it; all such jobs for `None`.
    pub fn find(&self, uid: Option<&str>) -> Vec<JobRef> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        match uid {
            Some(uid) => jobs.by_uid.get(uid).map(|entry| entry.job.clone()).into_iter().collect(),
            None => jobs.by_uid.values().map(|entry| entry.job.clone()).collect(),
        }
    }
}

impl Jobs {
    fn applied(&mut self, object: &Guarded<KnownJob>) -> bool {
        let uid = object.uid().unwrap_or_default();
        let Some(job) = object.0.as_ref().ok().filter(|job| job.is_live()) else {
            self.by_uid.remove(&uid);
            return true;
        };
        let entry = Entry { job: job_ref(object), revision: job.revision, is_over: job.is_over, listing: self.listing };
        let before = self.by_uid.insert(uid, entry);
        before.is_none_or(|before| (before.revision, before.is_over) != (job.revision, job.is_over))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(generation: i64, status: Value) -> Guarded<KnownJob> {
        let metadata = json!({
            "name": "j", "namespace": "ns", "uid": "u", "generation": generation, "resourceVersion": "7",
            "annotations": {"a": "x"}, "labels": {"team": "a"},
        });
        let workload =
            json!({"modelRef": {"name": "m"}, "input": {"inline": "long"}, "output": {"configMap": {"name": "out"}}});
        let object = json!({
            "apiVersion": "xdcgrid.io/v1alpha1", "kind": "InferenceJob", "metadata": metadata,
            "spec": {"workload": workload, "ttlSecondsAfterFinished": 9}, "status": status,
        });
        serde_json::from_value(object).unwrap()
    }

    fn condition(type_: &str) -> Value {
        json!({"type": type_, "status": "True", "reason": "X", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    fn over(more: &[&str], completed: i64) -> KnownJob {
        let conditions: Vec<_> = ["Complete"].iter().chain(more).map(|type_| condition(type_)).collect();
        let requests = json!({"total": 2, "completed": completed, "failed": 0});
        job(1, json!({"conditions": conditions, "requests": requests})).0.unwrap()
    }

    #[test]
    fn a_job_is_known_by_its_name_and_by_what_its_triggers_go_by() {
        let known = job(1, json!(null)).0.unwrap();
        assert_eq!((known.model.as_str(), known.target, known.ttl), ("m", Target::Grid, Some(9)));
        assert!(known.is_ours && !known.is_over && !known.is_done());
        assert_eq!((known.name_any().as_str(), known.uid().as_deref()), ("j", Some("u")));
        assert!(known.annotations().is_empty() && known.labels().is_empty(), "they may be as large as the job");
    }

    #[test]
    fn a_small_job_is_kept_whole_until_it_has_a_status() {
        let fresh = |job: Guarded<KnownJob>| job.0.unwrap().fresh;
        let new = fresh(job(1, json!(null))).unwrap().job.clone();
        assert_eq!(new.spec.workload.input.inline.as_deref(), Some("long"));
        assert_eq!((new.metadata.resource_version.as_deref(), &new.metadata.annotations), (Some("7"), &None));
        assert!(fresh(job(1, json!({"phase": "Queued"}))).is_none());
        let mut large = serde_json::to_value(new.as_ref()).unwrap();
        large["spec"]["workload"]["input"]["inline"] = json!("x".repeat(MAX_FRESH + 1));
        assert!(serde_json::from_value::<KnownJob>(large).unwrap().fresh.is_none());
    }

    #[test]
    fn of_many_small_jobs_only_as_many_are_kept_whole_as_there_is_room_for() {
        let room = Room::default();
        let kept = |event| match room.fit(event) {
            watcher::Event::Apply(Guarded(Ok(job))) | watcher::Event::InitApply(Guarded(Ok(job))) => job.fresh,
            other => panic!("{other:?}"),
        };
        let mut whole = Vec::new();
        while let Some(fresh) = kept(watcher::Event::InitApply(job(1, json!(null)))) {
            whole.push(fresh);
        }
        let bytes: usize = whole.iter().map(|fresh| fresh.bytes).sum();
        assert!(bytes <= MAX_FRESH_TOGETHER && bytes > MAX_FRESH_TOGETHER - 8_192, "{bytes} bytes");
        assert!(whole.len() > 500, "{} jobs", whole.len());
        assert!(kept(watcher::Event::Apply(job(1, json!(null)))).is_none(), "there is no room");
        // A look that is under way holds what it reads.
        let read = whole[0].clone();
        whole.remove(0);
        assert!(kept(watcher::Event::Apply(job(1, json!(null)))).is_none());
        drop(read);
        assert!(kept(watcher::Event::Apply(job(1, json!(null)))).is_some(), "its room is another's");
        assert!(kept(watcher::Event::Apply(job(1, json!({"phase": "Queued"})))).is_none(), "this one needs none");
    }

    #[test]
    fn a_job_is_done_when_no_payment_can_come_any_more() {
        assert!(!over(&[], 2).is_done());
        assert!(over(&["Settled"], 2).is_done());
        assert!(over(&[], 0).is_done(), "nothing is paid for it");
    }

    #[test]
    fn what_only_the_operator_writes_is_no_news() {
        let live = Live::default();
        let apply = |generation, status| live.is_news(&watcher::Event::Apply(job(generation, status)));
        assert!(apply(1, json!(null)));
        assert!(!apply(1, json!({"phase": "Running"})));
        assert!(apply(2, json!({"phase": "Running"})), "somebody changed what is asked for");
        assert_eq!(live.find(Some("u")).len(), 1);
        assert!(apply(2, json!({"conditions": [condition("Complete")]})), "its settlement is looked at");
        assert_eq!((live.find(Some("u")), live.find(None)), (vec![], vec![]));
    }

    #[test]
    fn a_paid_job_that_is_over_is_looked_at_when_the_gateway_tells_of_its_escrow() {
        let live = Live::default();
        let apply = |conditions: &[&str]| {
            let conditions: Vec<_> = conditions.iter().map(|type_| condition(type_)).collect();
            let requests = json!({"total": 2, "completed": 2, "failed": 0});
            let status = json!({"conditions": conditions, "requests": requests});
            let mut paid = job(1, status).0.unwrap();
            paid.has_escrow = true;
            live.is_news(&watcher::Event::Apply(Guarded(Ok(paid))))
        };
        assert!(apply(&[]));
        assert!(apply(&["Complete"]), "it may be settled already");
        assert_eq!(live.find(Some("u")).len(), 1);
        assert!(!apply(&["Complete", "Verified"]));
        assert!(apply(&["Complete", "Settled"]));
        assert_eq!(live.find(Some("u")), vec![]);
    }

    #[test]
    fn a_job_that_a_listing_does_not_name_is_gone() {
        let live = Live::default();
        for events in [vec![watcher::Event::InitApply(job(1, json!(null)))], vec![]] {
            let named = events.len();
            live.is_news(&watcher::Event::Init);
            for event in events {
                assert!(live.is_news(&event));
            }
            live.is_news(&watcher::Event::InitDone);
            assert_eq!(live.find(None).len(), named);
        }
    }
}
