//! The dispatcher's copy of the queue: kept as the ledger says, never by guessing what a call did to it. Of each job only the
//! next requests are here; further ones come as these start, so that memory does not grow with the input.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::Gateway;
use crate::{
    api::ids::{ModelDigest, RequestId},
    protocol::{fields::RequestFields, internal::PlacementFilter},
    schedule::{Class, Needs, Queue, Work, queue::Backlog},
    store::{JobRecord, LedgerError, QueueChange, QueuedRequest, RequestKind},
};

/// Requests of one job that are read at once. The next page is read when a quarter of that is left.
const PAGE: u32 = 256;
/// The same once [`MOST_HERE`] requests of all jobs are here.
const SMALL_PAGE: u32 = 16;
const MOST_HERE: usize = 100_000;
/// Of a job whose first requests fit no free worker, so many are looked through for some that do.
const MOST_STUCK: usize = 16_384;
/// Pages that one round reads: a long input must not keep others waiting.
const PAGES_PER_ROUND: usize = 8;
/// Bytes of text per token, at most: so short an estimate refuses only prompts that cannot fit whatever the language.
const BYTES_PER_TOKEN: u32 = 8;

/// What of a job is not here yet.
#[derive(Debug, Clone, Default)]
struct Rest {
    /// Last line that was read.
    after: Option<u32>,
    /// Requests behind it.
    requests: u64,
}

/// The queue, and how far it goes.
#[derive(Debug, Default)]
pub struct Backlogs {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub queue: Queue,
    /// Canaries: each for one worker only.
    pub pinned: BTreeMap<RequestId, QueuedRequest>,
    rests: BTreeMap<String, Rest>,
    /// Jobs that want a page.
    hungry: BTreeSet<String>,
}

impl Backlogs {
    /// For a moment only: nothing awaits while it is held.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Requests that wait in a class, those that are not here included.
    pub(super) fn depth(&self, class: Class) -> u64 {
        let rest: u64 = if class == Class::Batch { self.rests.values().map(|rest| rest.requests).sum() } else { 0 };
        self.queue.depth(class) as u64 + rest
    }

    /// Tokens that wait, by model; what is not here is taken to be like what is.
    pub(super) fn demand(&self) -> BTreeMap<ModelDigest, u64> {
        let mut demand: BTreeMap<ModelDigest, u64> = BTreeMap::new();
        for (needs, tokens) in self.queue.demand() {
            *demand.entry(needs.model).or_default() += tokens;
        }
        for (uid, rest) in self.rests.iter().filter(|(_, rest)| rest.requests > 0) {
            let Some((spec, here)) = self.queue.backlog(uid).map(|(spec, here, _)| (spec, here as u64)) else {
                continue;
            };
            let tokens = self.queue.waiting_tokens(uid).saturating_mul(rest.requests) / here.max(1);
            *demand.entry(spec.needs.model).or_default() += tokens;
        }
        demand
    }

    /// After a plan: jobs that started something, and those of which nothing fitted, may want their next page.
    pub(super) fn want_more<'a>(&mut self, keys: impl Iterator<Item = &'a str>, stuck: &[String]) {
        for key in keys {
            self.feed(key);
        }
        for key in stuck {
            self.feed_below(key, MOST_STUCK);
        }
    }

    fn feed(&mut self, key: &str) {
        self.feed_below(key, self.page() as usize / 4);
    }

    fn page(&self) -> u32 {
        if self.queue.depth(Class::Batch) < MOST_HERE { PAGE } else { SMALL_PAGE }
    }

    fn feed_below(&mut self, key: &str, low: usize) {
        let more = self.rests.get(key).is_some_and(|rest| rest.requests > 0);
        if more && self.queue.backlog(key).is_some_and(|(_, waiting, _)| waiting < low) {
            self.hungry.insert(key.to_owned());
        }
    }

    pub(super) fn is_hungry(&self) -> bool {
        !self.hungry.is_empty()
    }

    fn forget_job(&mut self, uid: &str) {
        self.queue.remove_backlog(uid);
        self.rests.remove(uid);
        self.hungry.remove(uid);
    }

    fn put(&mut self, request: &QueuedRequest) {
        match &request.job {
            Some(uid) => self.queue.put(uid, &work(request)),
            None if request.kind == RequestKind::Canary => {
                self.pinned.insert(request.id, request.clone());
            }
            None => {
                let fields = request.fields;
                let key = format!("{}/{}/{}", request.owner, request.model, fields.bits());
                let placement = PlacementFilter::default();
                let needs = Needs { model: request.model, model_bytes: 0, placement, fields };
                let (owner, class) = (request.owner.clone(), Class::Interactive);
                self.queue.put_backlog(&key, Backlog { owner, class, needs, suspended: false, parallelism: 0 });
                self.queue.put(&key, &work(request));
            }
        }
    }
}

impl Gateway {
    /// Everything that was queued before this start.
    pub(super) async fn rebuild_backlogs(&self) -> Result<(), LedgerError> {
        let jobs = self.ledger.open_jobs().await?;
        self.ledger.look_again(jobs.into_iter().map(|job| QueueChange::Job(job.uid)));
        Ok(())
    }

    /// Brings the copy up to date. What could not be read is looked at again next time.
    pub(super) async fn refresh_backlogs(&self) -> Result<(), LedgerError> {
        let mut changes = self.ledger.take_queue_changes();
        while let Some(change) = changes.pop_first() {
            let outcome = match &change {
                QueueChange::Job(uid) => self.refresh_job(uid).await,
                QueueChange::Request(id) => self.refresh_request(id).await,
            };
            if let Err(error) = outcome {
                self.ledger.look_again(changes.into_iter().chain([change]));
                return Err(error);
            }
        }
        for _ in 0..PAGES_PER_ROUND {
            let Some(uid) = self.backlogs.lock().hungry.pop_first() else { break };
            if let Err(error) = self.read_page(&uid).await {
                self.backlogs.lock().hungry.insert(uid);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn refresh_job(&self, uid: &str) -> Result<(), LedgerError> {
        let open = |job: &JobRecord| job.input_hash.is_some() && job.finished_ms == 0 && !job.control.cancelled;
        let Some(job) = self.ledger.job(uid).await?.filter(open) else {
            self.backlogs.lock().forget_job(uid);
            return Ok(());
        };
        let new = self.backlogs.lock().queue.backlog(uid).is_none();
        let model_bytes = match new {
            true => self.ledger.model(&job.spec.model).await?.map_or(0, |model| model.bytes),
            false => 0,
        };
        let requests = if new { self.ledger.count_queued_of_job(uid).await? } else { 0 };
        // Needs never change: those of a backlog that is here already are not read again.
        let fields = if new { self.ledger.fields_of_job(uid).await? } else { RequestFields::NONE };
        let used_up = match job.spec.payment {
            Some(_) => self.ledger.payment(uid).await?.is_some_and(|payment| payment.is_used_up()),
            None => false,
        };
        let mut backlog = backlog(&job, model_bytes, fields);
        // What runs is finished, nothing new is started: the job has spent all that it may.
        backlog.suspended |= used_up;
        let mut backlogs = self.backlogs.lock();
        backlogs.queue.put_backlog(uid, backlog);
        if new {
            backlogs.rests.insert(uid.to_owned(), Rest { after: None, requests });
            backlogs.feed(uid);
        }
        Ok(())
    }

    async fn refresh_request(&self, id: &RequestId) -> Result<(), LedgerError> {
        let found = self.ledger.queued_request(id).await?;
        let mut backlogs = self.backlogs.lock();
        match found {
            Some(request) => backlogs.put(&request),
            None => {
                backlogs.pinned.remove(id);
                backlogs.queue.remove(id);
            }
        }
        Ok(())
    }

    async fn read_page(&self, uid: &str) -> Result<(), LedgerError> {
        let (rest, limit) = {
            let backlogs = self.backlogs.lock();
            (backlogs.rests.get(uid).cloned(), backlogs.page())
        };
        let Some(rest) = rest else { return Ok(()) };
        let page = self.ledger.queued_of_job(uid, rest.after, limit).await?;
        let mut backlogs = self.backlogs.lock();
        page.iter().for_each(|request| backlogs.put(request));
        let Some(rest) = backlogs.rests.get_mut(uid) else { return Ok(()) };
        match page.last() {
            Some(last) if page.len() >= limit as usize => {
                rest.after = Some(last.line);
                // At least one, until a page comes back short: the count is as old as the job.
                rest.requests = rest.requests.saturating_sub(page.len() as u64).max(1);
                backlogs.feed(uid);
            }
            _ => rest.requests = 0,
        }
        Ok(())
    }
}

/// Least tokens of a prompt. What a namespace is charged for it, too, so that charge and settlement agree.
pub(super) fn estimated_tokens(prompt_bytes: u32) -> u64 {
    u64::from(prompt_bytes / BYTES_PER_TOKEN)
}

fn backlog(job: &JobRecord, model_bytes: u64, fields: RequestFields) -> Backlog {
    Backlog {
        owner: job.spec.namespace.clone(),
        class: Class::Batch,
        needs: Needs { model: job.spec.model, model_bytes, placement: job.spec.placement.clone(), fields },
        suspended: job.control.suspended,
        parallelism: job.control.parallelism,
    }
}

pub(super) fn work(request: &QueuedRequest) -> Work {
    Work {
        request: request.id,
        order: if request.job.is_some() { request.line.into() } else { request.queued_ms },
        attempt: request.attempt,
        prompt_tokens_estimate: request.prompt_bytes / BYTES_PER_TOKEN,
        max_tokens: request.max_tokens,
        exclude: request.excluded.iter().cloned().collect(),
        avoid: request.avoid.clone(),
        enqueued_ms: request.queued_ms,
    }
}
