//! The dispatcher: woken by whatever changes what can run, it reads the queue, asks `schedule` for a plan and starts leases.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{Gateway, peers::PeerView};
use crate::{
    api::ids::{GridPeerId, ModelDigest},
    protocol::internal::NodeRole,
    schedule::{self, Refusal, Work, Worker},
    store::{JobRecord, LedgerError, QueuedRequest, RequestKind},
};

/// Longest pause between two rounds: heals whatever wake-up was lost.
const TICK: Duration = Duration::from_secs(5);
/// Requests without a job that one round looks at.
const ONLINE_BATCH: u32 = 256;
/// Most requests of one job that one round looks at.
const JOB_BATCH: u32 = 1024;
/// Bytes of text per token, at most: so short an estimate refuses only prompts that cannot fit whatever the language.
const BYTES_PER_TOKEN: u32 = 8;

impl Gateway {
    /// Starts leases until the gateway stops.
    pub(super) async fn dispatch_forever(self: Arc<Self>) {
        loop {
            if let Err(error) = self.dispatch_round().await {
                self.ledger_failed("reading the queue", &error);
            }
            let now_ms = self.clock.now_ms();
            let pause = self.peers.next_pause_end(now_ms).map(|end| Duration::from_millis(end.saturating_sub(now_ms)));
            let tick = pause.unwrap_or(TICK).clamp(Duration::from_millis(10), TICK);
            // Both outcomes mean: look again.
            let _ = tokio::time::timeout(tick, self.dispatch.notified()).await;
        }
    }

    async fn dispatch_round(self: &Arc<Self>) -> Result<(), LedgerError> {
        if self.paused() || self.workers().is_none() {
            return Ok(());
        }
        let peers = self.peers.all_connected();
        let workers: Vec<Worker> = peers.iter().filter_map(|(peer, view)| self.worker(peer, view)).collect();
        let free: u32 = workers.iter().map(|worker| worker.free_slots).sum();
        if free == 0 {
            return Ok(());
        }
        let (pinned, queue): (Vec<_>, Vec<_>) =
            self.queue(free).await?.into_iter().partition(|one| one.pinned.is_some());
        for request in pinned {
            self.start_pinned(&workers, request);
        }
        self.start_planned(&workers, queue).await
    }

    /// A member as the plan sees it; absent while nothing fresh is known of it.
    fn worker(&self, peer: &GridPeerId, view: &PeerView) -> Option<Worker> {
        let now_ms = self.clock.now_ms();
        let statement = view.fresh(now_ms)?;
        let member = self.members.get(peer)?.member;
        let standing = self.standings.get(peer);
        let load = self.flights.load(peer);
        Some(Worker {
            id: peer.clone(),
            models: statement.models.iter().map(|(digest, served)| (*digest, served.rates)).collect(),
            free_slots: member.slots(statement.info.slots).saturating_sub(load.requests),
            queued_tokens: load.tokens,
            // Nobody's work goes to a node that has not proven itself; its canaries do not come through the plan.
            schedulable: member.schedulable
                && member.roles.contains(&NodeRole::Compute)
                && standing.capability.verified
                && !statement.info.draining
                && view.paused_until_ms <= now_ms,
            quarantined: standing.quarantined(),
            verified: true,
            region: statement.info.region.clone(),
        })
    }

    /// What waits: requests without a job, and of each job as many as may still run.
    async fn queue(&self, free: u32) -> Result<Vec<QueuedRequest>, LedgerError> {
        let mut queue = self.ledger.queued_of_no_job(ONLINE_BATCH).await?;
        for job in self.ledger.open_jobs().await? {
            let budget = self.budget(&job, free);
            if budget > 0 {
                // Those on their way are still queued in the ledger until their worker accepts.
                let running = self.flights.of_job(&job.uid);
                let limit = budget.saturating_add(running).min(JOB_BATCH);
                let waiting = self.ledger.queued_of_job(&job.uid, limit).await?;
                let fresh = waiting.into_iter().filter(|request| !self.flights.contains(&request.id));
                queue.extend(fresh.take(budget as usize));
            }
        }
        queue.retain(|request| !self.flights.contains(&request.id));
        Ok(queue)
    }

    fn budget(&self, job: &JobRecord, free: u32) -> u32 {
        let control = &job.control;
        match (control.suspended || control.cancelled, control.parallelism) {
            (true, _) => 0,
            (false, 0) => free,
            (false, most) => most.saturating_sub(self.flights.of_job(&job.uid)).min(free),
        }
    }

    /// A canary goes to the worker that it tries out, and to nobody else.
    fn start_pinned(self: &Arc<Self>, workers: &[Worker], request: QueuedRequest) {
        let on = workers.iter().find(|worker| Some(&worker.id) == request.pinned.as_ref());
        let serves = |worker: &&Worker| worker.models.contains_key(&request.model) && !worker.quarantined;
        if let Some(worker) = on.filter(serves).filter(|worker| worker.free_slots > 0) {
            self.start(request, worker.id.clone());
        }
    }

    async fn start_planned(self: &Arc<Self>, workers: &[Worker], queue: Vec<QueuedRequest>) -> Result<(), LedgerError> {
        let works: Vec<Work> = queue.iter().map(|request| work(request, workers)).collect();
        let plan = schedule::plan(workers, &works, &mut rand::random::<u64>);
        let mut waiting: HashMap<_, _> = queue.into_iter().map(|request| (request.id, request)).collect();
        for assignment in plan {
            if let Some(request) = waiting.remove(&assignment.request) {
                self.start(request, assignment.worker);
            }
        }
        for work in works.iter().filter(|work| waiting.contains_key(&work.request)) {
            if let Some(refusal) = never_fits(workers, work) {
                self.ledger
                    .fail_queued_request(&work.request, "ContextExceeded", &refusal, self.clock.now_ms())
                    .await?;
                self.request_is_over(&work.request).await;
            }
        }
        Ok(())
    }

    fn start(self: &Arc<Self>, request: QueuedRequest, peer: GridPeerId) {
        let claim = self.flights.claim(request.id, request.attempt, peer, request.job.clone(), request.max_tokens);
        if let Some(flight) = claim {
            let gateway = self.clone();
            self.spawn(async move { gateway.fly(flight, request.queued_ms).await });
        }
    }

    /// Whether any worker that may get work serves a model.
    pub(super) fn servers(&self, model: &ModelDigest) -> Vec<Worker> {
        let peers = self.peers.all_connected();
        let workers = peers.iter().filter_map(|(peer, view)| self.worker(peer, view));
        workers.filter(|worker| worker.models.contains_key(model)).collect()
    }
}

fn work(request: &QueuedRequest, workers: &[Worker]) -> Work {
    let mut exclude: BTreeSet<GridPeerId> = request.excluded.iter().cloned().collect();
    if let Some(avoid) = &request.avoid {
        let can =
            |worker: &&Worker| worker.schedulable && !worker.quarantined && worker.models.contains_key(&request.model);
        let others = workers.iter().filter(can).any(|worker| worker.id != *avoid && !exclude.contains(&worker.id));
        if others {
            exclude.insert(avoid.clone());
        }
    }
    Work {
        request: request.id,
        owner: request.owner.clone(),
        interactive: request.kind == RequestKind::Online,
        model: request.model,
        prompt_tokens_estimate: request.prompt_bytes / BYTES_PER_TOKEN,
        max_tokens: request.max_tokens,
        exclude,
        enqueued_ms: request.queued_ms,
    }
}

/// Why no worker that serves the model will ever take a request: `None` when one may.
fn never_fits(workers: &[Worker], work: &Work) -> Option<String> {
    let mut refusals = workers
        .iter()
        .filter(|worker| worker.models.contains_key(&work.model))
        .map(|worker| schedule::eligible(&Worker { free_slots: 1, ..worker.clone() }, work).err());
    let first = refusals.next()??;
    let too_short = |refusal: &Refusal| matches!(refusal, Refusal::ContextTooShort { .. });
    let all = too_short(&first) && refusals.all(|refusal| refusal.as_ref().is_some_and(too_short));
    all.then(|| format!("no worker can take it: the best {first}"))
}
