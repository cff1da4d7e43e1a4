//! Jobs as the operator sees them: reports with a reason, and finishing.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use super::{Gateway, GatewayError, online::OnlineEvent, receipts::millis, waiting::WhyWaiting};
use crate::{
    api::ids::{EscrowId, RequestId},
    protocol::internal::{
        JOBS_A_PAGE, JobControl, JobPage, JobReport, JobSpec, JobState, ModelState, OpenPayment, SettledPayment, Spend,
    },
    store::{JobCounts, JobRecord, LedgerError, PaymentRecord, RequestKind},
    verify::merkle,
};

/// Jobs whose input is being taken in.
#[derive(Debug, Default)]
pub struct InputTurns(Mutex<HashSet<String>>);

/// The right to take in one job's input, until dropped.
#[derive(Debug)]
pub struct InputTurn<'a> {
    turns: &'a InputTurns,
    uid: String,
}

impl InputTurns {
    /// `None` when somebody else has it.
    pub(super) fn take(&self, uid: &str) -> Option<InputTurn<'_>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.insert(uid.to_owned()).then(|| InputTurn { turns: self, uid: uid.to_owned() })
    }
}

impl Drop for InputTurn<'_> {
    fn drop(&mut self) {
        self.turns.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.uid);
    }
}

/// Longest names, and most attempts and requests, of a job.
const MAX_NAME: usize = 253;
const MAX_ATTEMPTS: u32 = 100;
const MAX_REQUESTS: u32 = 1_000_000;
/// Payments in one answer; the rest comes when these are settled.
const MAX_OPEN_PAYMENTS: u32 = 1_000;

impl Gateway {
    /// Takes a job's spec. The same again changes nothing; another one replaces one that has no input yet.
    pub async fn put_job(&self, uid: &str, spec: &JobSpec) -> Result<JobReport, GatewayError> {
        check_spec(uid, spec)?;
        // An input that is being taken in is one of the spec that is kept.
        let turn = self.turns.take(uid);
        let kept = if turn.is_some() { None } else { self.ledger.job(uid).await? };
        if kept.is_some_and(|job| job.input_hash.is_none() && job.spec != *spec) {
            return Err(input_in_progress(uid));
        }
        self.ledger.put_job(uid, spec, self.clock.now_ms()).await?;
        drop(turn);
        self.job_report(uid).await
    }

    /// Suspends, resumes, cancels, or changes how many requests run at once.
    pub async fn control_job(&self, uid: &str, control: &JobControl) -> Result<JobReport, GatewayError> {
        self.known_job(uid).await?;
        self.ledger.control_job(uid, control, self.clock.now_ms()).await?;
        if control.cancelled {
            self.flights.cancel_job(uid);
        }
        self.finish_if_settled(uid).await?;
        self.dispatch.notify_one();
        self.job_report(uid).await
    }

    /// Forgets a job's text; receipts stay. What still runs is cancelled. An unknown job is as good as deleted.
    pub async fn delete_job(&self, uid: &str) -> Result<(), GatewayError> {
        if self.ledger.delete_job(uid, self.clock.now_ms()).await? {
            self.flights.cancel_job(uid);
            self.dispatch.notify_one();
            self.ledger.forget_text().await?;
        }
        // Also of a job that never came to the ledger because none of its lines was a request.
        self.results.remove(uid).await?;
        Ok(())
    }

    /// A page of the jobs that are kept, in the order of their uids.
    pub async fn job_page(&self, after: &str) -> Result<JobPage, GatewayError> {
        let jobs = self.ledger.kept_jobs(after, JOBS_A_PAGE).await?;
        let is_full = u32::try_from(jobs.len()).is_ok_and(|count| count >= JOBS_A_PAGE);
        let next = if is_full { jobs.last().map(|job| job.uid.clone()) } else { None };
        Ok(JobPage { jobs, next })
    }

    pub(super) async fn known_job(&self, uid: &str) -> Result<JobRecord, GatewayError> {
        self.ledger.job(uid).await?.ok_or_else(|| GatewayError::NotFound {
            reason: "JobUnknown",
            message: format!("job {uid} is not known to this gateway"),
        })
    }

    pub async fn job_report(&self, uid: &str) -> Result<JobReport, GatewayError> {
        let job = self.known_job(uid).await?;
        let counts = self.ledger.job_counts(uid).await?;
        let state = state(&job, &counts);
        let spend = self.spend(&job).await?;
        let why = match spend {
            Some(spend) if spend.used_up && counts.queued > 0 && state == JobState::Running => WhyWaiting {
                reason: "SpendLimitReached",
                message: format!("it has spent the {} wei that it may", spend.payment.max_spend),
                waiting: None,
            },
            _ => self.why(&job, &counts, state).await?,
        };
        Ok(JobReport {
            state,
            reason: why.reason.to_owned(),
            message: why.message,
            waiting: why.waiting,
            total: job.spec.total_requests,
            rejected_lines: job.spec.rejected_lines,
            completed: counts.done,
            failed: counts.failed,
            running: counts.leased,
            prompt_tokens: counts.prompt_tokens,
            output_tokens: counts.output_tokens,
            nodes: counts.nodes,
            audits_owed: counts.audits_owed,
            audits_passed: counts.audits_passed,
            audits_failed: counts.audits_failed,
            started_at_ms: job.started_ms,
            finished_at_ms: job.finished_ms,
            receipts_root: job.receipts_root,
            last_failures: counts.last_failures,
            spend,
        })
    }

    /// How far the pay of a job is; `None` for one that costs nothing.
    async fn spend(&self, job: &JobRecord) -> Result<Option<Spend>, LedgerError> {
        if job.spec.payment.is_none() {
            return Ok(None);
        }
        let record = self.ledger.payment(&job.uid).await?;
        Ok(record.map(|record| Spend {
            payment: record.payment,
            spent: record.spent(),
            used_up: record.is_used_up(),
            settled: record.settled,
        }))
    }

    /// Paid jobs that are over and not settled, the oldest first.
    pub async fn open_payments(&self) -> Result<Vec<OpenPayment>, GatewayError> {
        let found = self.ledger.open_payments(MAX_OPEN_PAYMENTS).await?;
        let open = |(record, finished_at_ms): (PaymentRecord, u64)| OpenPayment {
            spent: record.spent(),
            payment: record.payment,
            job: record.job,
            finished_at_ms,
        };
        Ok(found.into_iter().map(open).collect())
    }

    /// Takes what the chain says about an escrow. The same again changes nothing.
    pub async fn settle_payment(&self, escrow: &EscrowId, settled: &SettledPayment) -> Result<(), GatewayError> {
        Ok(self.ledger.settle_payment(escrow, settled).await?)
    }

    /// Why a job does not run; empty when it does.
    async fn why(&self, job: &JobRecord, counts: &JobCounts, state: JobState) -> Result<WhyWaiting, LedgerError> {
        let because = |reason, message| Ok(WhyWaiting { reason, message, waiting: None });
        if !matches!(state, JobState::Queued | JobState::Running) {
            return Ok(WhyWaiting::default());
        }
        if counts.queued == 0 && counts.leased == 0 && counts.audits_owed > 0 {
            return because("AuditsPending", format!("{} answers wait for their audit", counts.audits_owed));
        }
        if counts.leased > 0 || counts.queued == 0 {
            return Ok(WhyWaiting::default());
        }
        let name = &job.spec.model_name;
        match self.ledger.model(&job.spec.model).await? {
            None => return because("ModelNotReady", format!("model {name} is not known to the gateway yet")),
            Some(model) if model.state == ModelState::Fetching => {
                return because("ModelNotReady", format!("model {name} is being fetched"));
            }
            Some(model) if model.state == ModelState::Failed => {
                return because("ModelNotReady", format!("model {name}: {}", model.message));
            }
            Some(_) => {}
        }
        if self.paused() {
            return because("NetworkPaused", "the network is paused: no work is given out".into());
        }
        Ok(self.why_waiting(job))
    }

    /// Finishes a job that has nothing queued, leased or owed any more.
    pub(super) async fn finish_if_settled(&self, uid: &str) -> Result<(), LedgerError> {
        if !self.ledger.job_is_settled(uid).await? {
            return Ok(());
        }
        let receipts = self.ledger.job_receipts(uid).await?;
        let root = hex::encode(merkle::root(&receipts));
        if self.ledger.finish_job(uid, &root, self.clock.now_ms()).await? {
            tracing::info!(job = uid, "job finished");
        }
        Ok(())
    }

    /// After a request left the dispatcher, whatever way: its client hears of a failure, its job may be finished.
    pub(super) async fn request_is_over(&self, request: &RequestId) {
        if let Err(error) = self.try_request_is_over(request).await {
            self.ledger_failed("finishing a request", &error);
        }
    }

    async fn try_request_is_over(&self, request: &RequestId) -> Result<(), LedgerError> {
        let Some(summary) = self.ledger.request(request).await? else { return Ok(()) };
        let (kind, outcome) = (kind_label(summary.kind), summary.state.as_str());
        if matches!(outcome, "Done" | "Failed") {
            self.metrics.requests.with_label_values(&[kind, outcome]).inc();
        }
        if outcome == "Failed" {
            let event = OnlineEvent::Failed { reason: summary.reason, message: summary.message };
            // Nobody may be listening any more.
            let _ = self.online.tell(request, event).await;
        }
        if let Some(job) = summary.job {
            self.finish_if_settled(&job).await?;
        }
        Ok(())
    }

    /// Forgets text whose time is over, now and then.
    pub(super) async fn forget_forever(self: std::sync::Arc<Self>) {
        loop {
            match self.ledger.forget_text().await {
                Ok(0) => {}
                Ok(n) => tracing::debug!(requests = n, "text forgotten"),
                Err(error) => self.ledger_failed("forgetting text", &error),
            }
            tokio::time::sleep(std::time::Duration::from_millis(millis(self.settings.info_interval) * 2)).await;
        }
    }
}

fn state(job: &JobRecord, counts: &JobCounts) -> JobState {
    let open = counts.queued + counts.leased + counts.audits_owed > 0;
    if job.input_hash.is_none() {
        return if job.control.cancelled { JobState::Cancelled } else { JobState::Created };
    }
    match (job.control.cancelled, job.finished_ms > 0) {
        (true, true) => JobState::Cancelled,
        (_, true) => JobState::Finished,
        // What runs is told to stop, what was answered is still audited.
        (true, false) if open => JobState::Running,
        (true, false) => JobState::Cancelled,
        (false, false) if job.control.suspended => JobState::Suspended,
        (false, false) if job.started_ms == 0 => JobState::Queued,
        (false, false) => JobState::Running,
    }
}

pub(super) fn input_in_progress(uid: &str) -> GatewayError {
    let message = format!("an input for job {uid} is being taken in already: try again in a moment");
    GatewayError::Conflict { reason: "InputInProgress", message }
}

pub(super) fn check_spec(uid: &str, spec: &JobSpec) -> Result<(), GatewayError> {
    let invalid = |message: String| Err(GatewayError::Invalid { reason: "InvalidJob", message });
    if uid.is_empty() || uid.len() > 64 || !uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return invalid("a job uid is 1 to 64 letters, digits and dashes".into());
    }
    if [&spec.namespace, &spec.name, &spec.model_name].iter().any(|name| name.len() > MAX_NAME) {
        return invalid(format!("names are at most {MAX_NAME} bytes long"));
    }
    if spec.max_attempts == 0 || spec.max_attempts > MAX_ATTEMPTS {
        return invalid(format!("maxAttempts must be 1 to {MAX_ATTEMPTS}, not {}", spec.max_attempts));
    }
    if spec.total_requests > MAX_REQUESTS {
        return invalid(format!("a job has at most {MAX_REQUESTS} requests, not {}", spec.total_requests));
    }
    if spec.sample_percent.is_some_and(|percent| percent > 100) {
        return invalid("samplePercent must be 0 to 100".into());
    }
    if spec.payment.is_some_and(|payment| payment.max_spend.0 == 0) {
        return invalid("payment.maxSpend must be at least 1 wei".into());
    }
    spec.placement.check().or_else(invalid)
}

fn kind_label(kind: RequestKind) -> &'static str {
    match kind {
        RequestKind::Job => "job",
        RequestKind::Online => "online",
        RequestKind::Canary => "canary",
    }
}
