//! The dispatcher: woken by whatever changes what can run, it brings its copy of the queue up to date, asks `schedule` for a
//! plan and starts leases.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Gateway,
    flights::Load,
    peers::{PeerView, Statement},
};
use crate::{
    api::ids::{GridPeerId, ModelDigest},
    protocol::internal::{NodeMode, NodeRole, Trust},
    schedule::{Assignment, Class, Hopeless, Locality, Plan, Rates, Serving, Worker},
    store::{LedgerError, QueuedRequest},
};

/// Longest pause between two rounds: heals whatever wake-up was lost.
const TICK: Duration = Duration::from_secs(5);
/// On a GridNode it says where its machine is; it counts more than what the worker says itself.
pub const REGION_LABEL: &str = "topology.kubernetes.io/region";

impl Gateway {
    /// Starts leases until the gateway stops.
    pub(super) async fn dispatch_forever(self: Arc<Self>) {
        loop {
            let mut tick = self.next_tick();
            match self.dispatch_round().await {
                Ok(true) => tick = Duration::ZERO,
                Ok(false) => {}
                Err(error) => self.ledger_failed("reading the queue", &error),
            }
            self.observe_queue().await;
            // Both outcomes mean: look again.
            let _ = tokio::time::timeout(tick, self.dispatch.notified()).await;
        }
    }

    fn next_tick(&self) -> Duration {
        let now_ms = self.clock.now_ms();
        let pause = self.peers.next_pause_end(now_ms).map(|end| Duration::from_millis(end.saturating_sub(now_ms)));
        pause.unwrap_or(TICK).clamp(Duration::from_millis(10), TICK)
    }

    /// True when there is more to be read before the next plan.
    async fn dispatch_round(self: &Arc<Self>) -> Result<bool, LedgerError> {
        self.refresh_backlogs().await?;
        if self.paused() || self.workers().is_none() {
            return Ok(false);
        }
        let mut workers = self.all_workers();
        self.start_pinned(&mut workers);
        let plan = self.plan(&workers);
        for assignment in plan.assignments {
            self.start(assignment);
        }
        for hopeless in plan.hopeless {
            self.give_up(&hopeless).await?;
        }
        Ok(self.backlogs.lock().is_hungry())
    }

    fn plan(&self, workers: &[Worker]) -> Plan {
        let mut backlogs = self.backlogs.lock();
        let plan = backlogs.queue.plan(workers, &mut rand::random::<u64>);
        backlogs.want_more(plan.assignments.iter().map(|start| start.backlog.as_str()), &plan.stuck);
        plan
    }

    /// Members as a plan sees them: those that are connected and said lately what they can.
    pub(super) fn all_workers(&self) -> Vec<Worker> {
        let (now_ms, loads) = (self.clock.now_ms(), self.flights.loads());
        self.peers.read_fresh(now_ms, |peer, view, statement| {
            let load = loads.get(peer).copied().unwrap_or_default();
            self.worker(peer, view, statement, load, now_ms)
        })
    }

    fn worker(
        &self,
        peer: &GridPeerId,
        view: &PeerView,
        statement: &Statement,
        load: Load,
        now_ms: u64,
    ) -> Option<Worker> {
        let member = self.members.get(peer)?.member;
        let standing = self.standings.get(peer);
        // Nobody's work goes to a stranger that has not proven itself; its canaries do not come through the plan. A node of the
        // network's own that nobody can audit works, unpaid.
        let (proven, trust) = match (member.mode, standing.capability.verified) {
            (NodeMode::Managed, _) => (standing.computes, Trust::Managed),
            (NodeMode::External, true) => (true, Trust::Approved),
            (NodeMode::External, false) => (false, Trust::Probation),
        };
        let paused = view.paused_until_ms > now_ms;
        let free_slots = member.slots(statement.info.slots).saturating_sub(load.requests);
        let region = member.labels.get(REGION_LABEL).unwrap_or(&statement.info.region);
        Some(Worker {
            id: peer.clone(),
            models: models(statement),
            free_slots: if paused { 0 } else { free_slots },
            running: load.requests,
            queued_tokens: load.tokens,
            schedulable: member.schedulable
                && member.roles.contains(&NodeRole::Compute)
                && proven
                && !statement.info.draining,
            quarantined: standing.quarantined(),
            verified: standing.capability.verified,
            trust,
            region: region.clone(),
            labels: member.labels,
            memory_bytes: statement.info.memory_bytes,
            knows: self.judges.judged(peer, &statement.models, statement.knows),
        })
    }

    /// Workers that serve a model now, whether they may get work or not.
    pub(super) fn servers(&self, model: &ModelDigest) -> Vec<Worker> {
        let serves =
            |worker: &Worker| worker.models.get(model).is_some_and(|serving| serving.locality == Locality::Loaded);
        self.all_workers().into_iter().filter(serves).collect()
    }

    /// A canary goes to the worker that it tries out, and to nobody else.
    fn start_pinned(self: &Arc<Self>, workers: &mut [Worker]) {
        let pinned: Vec<QueuedRequest> = self.backlogs.lock().pinned.values().cloned().collect();
        for request in pinned {
            let Some(peer) = &request.pinned else { continue };
            let Some(worker) = workers.iter_mut().find(|worker| worker.id == *peer) else { continue };
            let loaded = |serving: &Serving| serving.locality == Locality::Loaded;
            let can = worker.free_slots > 0 && worker.models.get(&request.model).is_some_and(loaded);
            if !can || worker.quarantined {
                continue;
            }
            worker.free_slots -= 1;
            self.backlogs.lock().pinned.remove(&request.id);
            self.start(Assignment {
                request: request.id,
                worker: peer.clone(),
                backlog: String::new(),
                class: Class::Interactive,
                attempt: request.attempt,
                max_tokens: request.max_tokens,
                enqueued_ms: request.queued_ms,
            });
        }
    }

    fn start(self: &Arc<Self>, start: Assignment) {
        let job = (start.class == Class::Batch).then_some(start.backlog);
        let claim = self.flights.claim(start.request, start.attempt, start.worker, job, start.max_tokens);
        match claim {
            Some(flight) => {
                let gateway = self.clone();
                self.spawn(async move { gateway.fly(flight, start.enqueued_ms).await });
            }
            // It is on its way already, and will be looked at again when it is over.
            None => self.backlogs.lock().queue.finished(&start.request, 0),
        }
    }

    /// Waiting does not help: no worker that may get it is large enough.
    async fn give_up(&self, hopeless: &Hopeless) -> Result<(), LedgerError> {
        let message = format!("no worker can take it: the largest is one {}", hopeless.refusal);
        let request = &hopeless.request;
        self.ledger.fail_queued_request(request, "ContextExceeded", &message, self.clock.now_ms()).await?;
        self.backlogs.lock().queue.remove(request);
        self.request_is_over(request).await;
        Ok(())
    }
}

/// What a worker serves, and what it is bringing up.
fn models(statement: &Statement) -> BTreeMap<ModelDigest, Serving> {
    let served = statement.models.iter().map(|(digest, served)| {
        let serving = Serving { locality: Locality::Loaded, rates: served.rates };
        (*digest, serving)
    });
    let coming = statement.info.pending.iter().filter_map(|pending| {
        let locality = match pending.state.as_str() {
            "Loading" | "Measuring" => Locality::OnDisk,
            "Fetching" => Locality::MustFetch,
            // It failed; the worker tries again, but nobody knows when.
            _ => return None,
        };
        let digest = ModelDigest(pending.digest.as_slice().try_into().ok()?);
        Some((digest, Serving { locality, rates: Rates::default() }))
    });
    // A model that is served is not pending, whatever the statement says.
    coming.chain(served).collect()
}
