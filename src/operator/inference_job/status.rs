//! The status of a job. Pure up to the last function: a status is computed whole from what was found, and sent only when it
//! differs.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, ResourceExt};

use super::{
    MANAGER,
    apply::Applied,
    dereference::Settlement,
    local,
    pace::{self, Turn},
    payment,
    summary::{self, Summary},
    validate::{Ending, Place, Refusal, Stage, ValidatedJob},
};
use crate::{
    api::{
        conditions::{self, Finding, Truth},
        inference_job::{
            Assignment, AuditCounts, FailureStatus, InferenceJob, InferenceJobStatus, JobPhase, RequestCounts,
            TokenCounts, condition,
        },
        reasons::Reason,
    },
    operator::{
        context::Context,
        error::{Error, says_gone},
        units::from_milli,
        write::{self, Change},
    },
    protocol::internal::{JobReport, JobState},
};

/// How many nodes a status lists.
const MAX_ASSIGNMENTS: usize = 32;

/// A status in the making.
struct Draft<'a> {
    job: &'a InferenceJob,
    status: InferenceJobStatus,
    now: Time,
}

impl<'a> Draft<'a> {
    fn of(job: &'a InferenceJob, now: Timestamp) -> Self {
        let mut status = job.status.clone().unwrap_or_default();
        status.observed_generation = job.metadata.generation;
        Draft { job, status, now: Time(now) }
    }

    fn set(&mut self, condition: &str, finding: Finding) {
        conditions::set(&mut self.status.conditions, condition, finding, self.job.metadata.generation, &self.now);
    }

    fn clear(&mut self, condition: &str) {
        conditions::clear(&mut self.status.conditions, condition);
    }

    /// Notes when the job is held back and when it goes on: deadlines count from there.
    fn suspension(&mut self) {
        let known = conditions::find(&self.status.conditions, condition::SUSPENDED).is_some();
        match self.job.spec.suspend {
            true => self.set(condition::SUSPENDED, Finding::yes(Reason::Suspended, "spec.suspend is set")),
            false if known => self.set(condition::SUSPENDED, Finding::no(Reason::Resumed, "spec.suspend is not set")),
            false => {}
        }
    }

    fn summarised(mut self) -> InferenceJobStatus {
        let Summary { reason, reconciling, stalled } = summary::of(&self.status.conditions);
        if reason.is_some() {
            self.status.reason = reason;
        }
        for (type_, finding) in [(condition::RECONCILING, reconciling), (condition::STALLED, stalled)] {
            match finding {
                Some(finding) => self.set(type_, finding),
                None => self.clear(type_),
            }
        }
        self.status
    }
}

/// The status of a job that cannot go on.
pub fn refused(job: &InferenceJob, refusal: Refusal, now: Timestamp) -> InferenceJobStatus {
    let mut draft = Draft::of(job, now);
    draft.suspension();
    draft.set(refusal.condition, refusal.finding.clone());
    draft.status.phase.get_or_insert(JobPhase::Pending);
    if let Some((reason, message)) = refusal.ending {
        end(&mut draft, &Ending::Stopped { reason, message });
    }
    draft.summarised()
}

/// The status of a job that is over: only its settlement can still change.
pub fn over(job: &InferenceJob, settlement: &Settlement, now: Timestamp) -> InferenceJobStatus {
    let mut draft = Draft::of(job, now);
    settle(&mut draft, settlement);
    draft.status
}

/// Says how far the pay is, where there is any.
fn settle(draft: &mut Draft<'_>, settlement: &Settlement) {
    if local::is_local(draft.job) || draft.status.requests.is_none_or(|requests| requests.completed == 0) {
        return;
    }
    let finding = match settlement {
        Settlement::Told => return,
        Settlement::Unknown => Finding::unknown(Reason::NetworkNotReady, "no GridNetwork can tell"),
        Settlement::DryRun => Finding::no(Reason::DryRun, "spec.rewards.dryRun of the GridNetwork is set"),
        Settlement::Pending(epoch) => {
            Finding::no(Reason::SettlementPending, format!("epoch {epoch} is not yet active on chain"))
        }
        Settlement::Paid(spend) => {
            draft.status.spend = Some(payment::shown(spend));
            payment::settled(spend)
        }
        Settlement::Active(epoch) => Finding::yes(Reason::EpochActive, format!("epoch {epoch} is active on chain")),
    };
    draft.set(condition::SETTLED, finding);
}

/// The status of a job on its way.
pub fn of(job: &InferenceJob, validated: &ValidatedJob, applied: &Applied, now: Timestamp) -> InferenceJobStatus {
    let mut draft = Draft::of(job, now);
    draft.suspension();
    if let Some(sha256) = &applied.input_sha256 {
        draft.status.input_sha256 = Some(sha256.clone());
    }
    if let Some(rejected) = applied.rejected {
        let rejected = i64::from(rejected);
        draft.status.rejected_lines = Some(rejected).filter(|rejected| *rejected > 0);
        let requests = draft.status.requests.get_or_insert_default();
        requests.failed = requests.failed.max(rejected);
        requests.total = requests.total.max(rejected);
    }
    match &validated.stage {
        Stage::GatewayAway(error) => away(&mut draft, error.finding()),
        Stage::Held => {
            draft.set(condition::ADMITTED, Finding::no(Reason::Suspended, "spec.suspend is set"));
            draft.status.phase = Some(JobPhase::Suspended);
        }
        Stage::New | Stage::Active { .. } | Stage::Ended { .. } | Stage::Stopped { .. } => {
            draft.status.phase.get_or_insert(JobPhase::Pending);
        }
    }
    if let Some(report) = &applied.report {
        admitted(&mut draft, validated, report);
    }
    let found = |type_: &str| applied.findings.iter().any(|(condition, _)| *condition == type_);
    if !matches!(validated.stage, Stage::GatewayAway(_)) && !found(condition::OUTPUT_PUBLISHED) {
        // What kept the output from being written was not found again.
        draft.clear(condition::OUTPUT_PUBLISHED);
    }
    for (condition, finding) in &applied.findings {
        draft.set(condition, finding.clone());
    }
    if let Some(output) = &applied.output {
        draft.status.output = Some(output.clone());
    }
    if let Some(ending) = &applied.ending {
        end(&mut draft, ending);
    }
    if let Some(settlement) = &applied.settlement {
        settle(&mut draft, settlement);
    }
    draft.summarised()
}

/// Nothing is known: neither good nor bad news, and what was known stays.
fn away(draft: &mut Draft<'_>, finding: Finding) {
    let admitted = conditions::is_true(&draft.status.conditions, condition::ADMITTED);
    draft.status.phase.get_or_insert(JobPhase::Pending);
    draft.set(if admitted { condition::RUNNING } else { condition::ADMITTED }, finding);
}

fn admitted(draft: &mut Draft<'_>, job: &ValidatedJob, report: &JobReport) {
    draft.status.model_digest = Some(job.model.digest.to_string());
    let admission = admission(job, report);
    if admission.is_true() {
        let started = Time(draft.now.0);
        draft.status.start_time.get_or_insert(started);
    }
    if !conditions::is_true(&draft.status.conditions, condition::ACCEPTED) {
        draft.set(condition::ACCEPTED, Finding::yes(Reason::InputRead, "the input is handed over"));
    }
    draft.set(condition::ADMITTED, admission);
    draft.set(condition::MODEL_READY, model_ready(job, report));
    let (phase, running) = running(report);
    draft.status.phase = Some(phase);
    draft.set(condition::RUNNING, running);
    counts(draft, report);
    if let (Place::Grid, Some(verified)) = (&job.place, verified(report)) {
        draft.set(condition::VERIFIED, verified);
    }
}

/// A job in a queue is not admitted before the queue lets it go.
fn admission(job: &ValidatedJob, report: &JobReport) -> Finding {
    match &job.place {
        Place::Grid => Finding::yes(Reason::Submitted, "the grid has the job and its input"),
        Place::Local(_) if report.reason == Reason::WaitingForQuota.as_str() => {
            Finding::no(Reason::WaitingForQuota, report.message.clone())
        }
        Place::Local(local) => Finding::yes(Reason::JobCreated, format!("Job {} runs its pods", local.name)),
    }
}

fn model_ready(job: &ValidatedJob, report: &JobReport) -> Finding {
    let served = report.running > 0 || report.completed > 0;
    match report.reason.as_str() {
        "NoWorkerForModel" | "ModelNotReady" => {
            Finding::with_code(Truth::False, &report.reason, Reason::NoWorkerForModel, report.message.clone())
        }
        _ if served => Finding::yes(Reason::ModelServed, "workers answer with it"),
        _ => job.model.ready.clone(),
    }
}

fn running(report: &JobReport) -> (JobPhase, Finding) {
    let because = |fallback: Reason, message: &str| {
        let message = if report.message.is_empty() { message } else { &report.message };
        Finding::with_code(Truth::False, &report.reason, fallback, message)
    };
    match report.state {
        JobState::Running => (JobPhase::Running, Finding::yes(Reason::RequestsRunning, "requests are being answered")),
        JobState::Created | JobState::Queued => {
            (JobPhase::Queued, because(Reason::WaitingForCapacity, "requests wait for a free worker"))
        }
        JobState::Suspended => (JobPhase::Suspended, because(Reason::Suspended, "spec.suspend is set")),
        JobState::Finished => (JobPhase::Finalizing, Finding::no(Reason::AllRequestsDone, "every request is done")),
        JobState::Cancelled => (JobPhase::Finalizing, Finding::no(Reason::Cancelled, "the job was stopped")),
    }
}

fn counts(draft: &mut Draft<'_>, report: &JobReport) {
    let rejected = draft.status.rejected_lines.unwrap_or(0).max(report.rejected_lines.into());
    draft.status.rejected_lines = Some(rejected).filter(|rejected| *rejected > 0);
    let requests = RequestCounts {
        total: i64::from(report.total) + rejected,
        completed: report.completed.into(),
        failed: i64::from(report.failed) + rejected,
    };
    let tokens = TokenCounts { prompt: signed(report.prompt_tokens), output: signed(report.output_tokens) };
    // The clock alone is no news: the rate is computed anew only when something was answered.
    if draft.status.tokens != Some(tokens) || draft.status.throughput.is_none() {
        draft.status.throughput = throughput(report, draft.now.0);
    }
    draft.status.progress = Some(format!("{}/{}", requests.completed + requests.failed, requests.total));
    draft.status.requests = Some(requests);
    draft.status.tokens = told(&draft.status.tokens, tokens);
    draft.status.nodes = told(&draft.status.nodes, i64::try_from(report.nodes.len()).unwrap_or(i64::MAX));
    let mut nodes: Vec<_> = report.nodes.iter().collect();
    nodes.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.node_name.cmp(&b.node_name)));
    draft.status.assignments = nodes
        .into_iter()
        .take(MAX_ASSIGNMENTS)
        .map(|node| Assignment { node_name: clipped(&node.node_name, 253), requests: node.requests.into() })
        .collect();
    draft.status.last_failures = report
        .last_failures
        .iter()
        .take(5)
        .map(|failure| FailureStatus {
            custom_id: clipped(&failure.custom_id, 256),
            reason: clipped(&failure.reason, 128),
            message: clipped(&failure.message, 300),
        })
        .collect();
    let audits = AuditCounts {
        owed: report.audits_owed.into(),
        passed: report.audits_passed.into(),
        failed: report.audits_failed.into(),
    };
    draft.status.audits = told(&draft.status.audits, audits);
    if let Some(spend) = &report.spend {
        draft.status.spend = Some(payment::shown(spend));
    }
    draft.status.receipts_root = Some(clipped(&report.receipts_root, 66)).filter(|root| !root.is_empty());
}

/// Counts are told once there is something to count: every field of a status costs the API server a little at every write.
fn told<T: Default + PartialEq>(before: &Option<T>, now: T) -> Option<T> {
    (before.is_some() || now != T::default()).then_some(now)
}

/// Output tokens per second over the whole run so far.
fn throughput(report: &JobReport, now: Timestamp) -> Option<String> {
    if report.started_at_ms == 0 || report.output_tokens == 0 {
        return None;
    }
    let end = match report.finished_at_ms {
        0 => u64::try_from(now.as_millisecond()).ok()?,
        finished => finished,
    };
    let elapsed_ms = end.saturating_sub(report.started_at_ms).max(1);
    let milli = report.output_tokens.saturating_mul(1_000_000) / elapsed_ms;
    Some(from_milli(milli))
}

fn verified(report: &JobReport) -> Option<Finding> {
    let decided = report.audits_passed + report.audits_failed;
    let over = matches!(report.state, JobState::Finished | JobState::Cancelled);
    match (report.audits_failed, report.audits_owed) {
        (failed, _) if failed > 0 => Some(Finding::no(
            Reason::AuditFailed,
            format!("{failed} of {decided} audits did not agree; those answers earn nothing"),
        )),
        (_, owed) if owed > 0 => Some(Finding::no(Reason::AuditsPending, format!("{owed} audits are not decided yet"))),
        _ if over && decided == 0 => {
            Some(Finding::unknown(Reason::NothingAudited, "no answer was selected for an audit"))
        }
        _ if over => Some(Finding::yes(Reason::AuditsPassed, format!("{decided} audits agreed"))),
        _ => None,
    }
}

fn end(draft: &mut Draft<'_>, ending: &Ending) {
    let now = draft.now.clone();
    let ended = draft.status.completion_time.get_or_insert(now).0;
    if let Some(started) = &draft.status.start_time {
        draft.status.duration = Some(for_people(ended.as_second().saturating_sub(started.0.as_second())));
    }
    if let Some(requests) = draft.status.requests {
        draft.status.progress = Some(format!("{}/{}", requests.completed + requests.failed, requests.total));
    }
    match ending {
        Ending::Completed => {
            draft.status.phase = Some(JobPhase::Complete);
            draft.status.reason = Some(Reason::Completed.as_str().into());
            let requests = draft.status.requests.unwrap_or_default();
            let message = format!("{} requests completed, {} failed", requests.completed, requests.failed);
            draft.set(condition::COMPLETE, Finding::yes(Reason::Completed, message));
        }
        Ending::Stopped { reason, message } => {
            draft.status.phase =
                Some(if *reason == Reason::Cancelled { JobPhase::Cancelled } else { JobPhase::Failed });
            draft.status.reason = Some(reason.as_str().into());
            draft.set(condition::FAILED, Finding::yes(*reason, message.clone()));
        }
    }
}

fn for_people(seconds: i64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        _ => format!("{}h{}m", seconds / 3600, seconds % 3600 / 60),
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What the gateway says is cut to what the schema takes.
fn clipped(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}

/// Sends a status that differs from the one that the job has. Bare progress is sent now and then only; the answer is how long
/// it has to wait.
pub async fn update(
    job: &InferenceJob,
    status: &InferenceJobStatus,
    context: &Context,
) -> Result<Option<std::time::Duration>, Error> {
    let uid = job.uid().unwrap_or_default();
    let old = job.status.as_ref();
    if let Some(pace) = pace::of(old, status)
        && let Turn::Later(wait) = context.pace.turn(&uid, pace)
    {
        return Ok(Some(wait));
    }
    let api: Api<InferenceJob> = Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default());
    let change = Change {
        old,
        new: status,
        old_conditions: old.map(|status| status.conditions.as_slice()).unwrap_or_default(),
        new_conditions: &summary::news(&status.conditions),
        abnormal: &[condition::FAILED],
        // A job stops running because it is done.
        expected: &[Reason::AllRequestsDone],
    };
    match write::status(&api, context, MANAGER, job, change).await {
        Ok(true) => context.pace.wrote(&uid),
        Ok(false) => {}
        // It went while it was looked at; whatever the gateway was told of it meanwhile is to be forgotten.
        Err(Error::Kube(error)) if says_gone(&error, &job.name_any()) => {
            if !local::is_local(job) {
                context.gone.note(&uid);
            }
        }
        Err(error) => return Err(error),
    }
    Ok(None)
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::{super::validate::Model, *};
    use crate::{
        api::{
            ids::{EscrowId, ModelDigest, Wei},
            inference_job::{InputFormat, OutputStatus},
        },
        openai::Defaults,
        operator::{
            gateway::GatewayError,
            inference_job::{
                input::{parse::Rules, source::Source},
                output::Destination,
            },
        },
        protocol::internal::{Endpoint, JobControl, JobPayment, PlacementFilter, SettledPayment, Spend, TokenPrice},
    };

    pub fn report(state: JobState) -> JobReport {
        JobReport {
            state,
            reason: String::new(),
            message: String::new(),
            total: 2,
            rejected_lines: 0,
            completed: 0,
            failed: 0,
            running: 0,
            prompt_tokens: 0,
            output_tokens: 0,
            nodes: Vec::new(),
            audits_owed: 0,
            audits_passed: 0,
            audits_failed: 0,
            started_at_ms: 0,
            finished_at_ms: 0,
            receipts_root: String::new(),
            last_failures: Vec::new(),
            waiting: None,
            spend: None,
        }
    }

    /// Of a job that may spend 500 wei.
    pub fn spend(spent: u128, deadline: u64) -> Spend {
        let price = TokenPrice { prompt: Wei(0), output: Wei(1_000_000) };
        let payment = JobPayment { escrow: EscrowId([1; 32]), max_spend: Wei(500), deadline, price };
        Spend { payment, spent: Wei(spent), used_up: spent >= 500, settled: None }
    }

    #[test]
    fn a_paid_job_shows_what_it_spent_and_is_settled_when_its_escrow_is() {
        let answered = JobReport { completed: 2, spend: Some(spend(120, 9)), ..report(JobState::Finished) };
        let ending = Some(Ending::Completed);
        let stage = Stage::Ended { report: answered.clone(), ending: Ending::Completed };
        let applied = Applied { report: Some(answered), ending, ..Applied::default() };
        let mut done = job(json!({}));
        done.status = Some(of(&done, &validated(stage), &applied, at(9)));
        assert_eq!(done.status.as_ref().unwrap().spend.as_ref().unwrap().spent_wei, "120");
        let settled = |settled| {
            let spend = Spend { settled, ..spend(120, 9) };
            let status = over(&done, &Settlement::Paid(spend), at(10));
            let found = conditions::find(&status.conditions, condition::SETTLED).unwrap();
            (found.reason.clone(), status.spend.unwrap().settled_wei)
        };
        assert_eq!(settled(None), ("SettlementPending".into(), None));
        let taken = SettledPayment { spent: Wei(120), fee_bps: 500 };
        assert_eq!(settled(Some(taken)), ("EscrowSettled".into(), Some("120".into())));
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn job(more: Value) -> InferenceJob {
        let mut spec = json!({"workload": {
            "modelRef": {"name": "m"}, "input": {"inline": "a"}, "output": {"configMap": {"name": "out"}},
        }});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "xdcgrid.io/v1alpha1", "kind": "InferenceJob",
            "metadata": {"name": "j", "namespace": "ns", "uid": "u", "generation": 1}, "spec": spec,
        }))
        .unwrap()
    }

    fn validated(stage: Stage) -> ValidatedJob {
        let rules = Rules {
            format: InputFormat::Lines,
            endpoint: Endpoint::ChatCompletions,
            model: "m".into(),
            defaults: Defaults::OPENAI,
            system_message: None,
        };
        ValidatedJob {
            uid: "u".into(),
            namespace: "ns".into(),
            name: "j".into(),
            model: Model {
                digest: ModelDigest([1; 32]),
                chat_template: String::new(),
                ready: Finding::unknown(Reason::ModelFetching, "on its way"),
            },
            source: Source::Inline("a".into()),
            rules,
            output: Destination::ConfigMap("out".into()),
            stale_output: false,
            no_output: true,
            rejected: 0,
            max_attempts: 1,
            max_failed: None,
            sample_percent: None,
            placement: PlacementFilter::default(),
            payment: None,
            control: JobControl::default(),
            stage,
            place: Place::Grid,
        }
    }

    fn active(report: &JobReport) -> ValidatedJob {
        validated(Stage::Active { report: report.clone(), stop: None })
    }

    fn with(report: JobReport) -> Applied {
        Applied { report: Some(report), ..Applied::default() }
    }

    /// Reason of a condition that is true.
    fn told<'a>(status: &'a InferenceJobStatus, type_: &str) -> Option<&'a str> {
        let found = conditions::find(&status.conditions, type_)?;
        (found.status == Truth::True).then_some(found.reason.as_str())
    }

    #[test]
    fn a_job_on_its_way_reconciles_and_says_the_most_useful_reason() {
        let waiting = JobReport { reason: "NoWorkerForModel".into(), ..report(JobState::Queued) };
        let status = of(&job(json!({})), &active(&waiting), &with(waiting.clone()), at(1));
        assert_eq!(status.reason.as_deref(), Some("NoWorkerForModel"));
        assert_eq!(told(&status, condition::RECONCILING), Some("NoWorkerForModel"));
        assert_eq!(told(&status, condition::STALLED), None);
        let running = JobReport { running: 1, ..report(JobState::Running) };
        let status = of(&job(json!({})), &active(&running), &with(running.clone()), at(1));
        assert_eq!((status.reason.as_deref(), status.phase), (Some("RequestsRunning"), Some(JobPhase::Running)));
    }

    #[test]
    fn a_job_that_needs_somebody_is_stalled_until_they_acted() {
        let refusal = Refusal {
            condition: condition::ACCEPTED,
            finding: Finding::no(Reason::ModelNotFound, "no model"),
            ending: None,
        };
        let mut job = job(json!({}));
        let status = refused(&job, refusal, at(1));
        assert_eq!(
            (told(&status, condition::STALLED), status.reason.as_deref()),
            (Some("ModelNotFound"), Some("ModelNotFound"))
        );
        assert_eq!(told(&status, condition::RECONCILING), None);
        job.status = Some(status);
        let running = JobReport { running: 1, ..report(JobState::Running) };
        let status = of(&job, &active(&running), &with(running.clone()), at(2));
        assert_eq!(told(&status, condition::STALLED), None);
        assert_eq!(told(&status, condition::ACCEPTED), Some("InputRead"));
    }

    #[test]
    fn an_output_that_can_be_written_again_is_no_trouble_any_more() {
        let mut job = job(json!({}));
        let done = JobReport { completed: 2, ..report(JobState::Finished) };
        let ended = validated(Stage::Ended { report: done.clone(), ending: Ending::Completed });
        let away = with(done.clone()).unpublished(Finding::unknown(Reason::OutputUnreachable, "no answer"));
        let status = of(&job, &ended, &away, at(1));
        assert_eq!((status.reason.as_deref(), status.phase), (Some("OutputUnreachable"), Some(JobPhase::Finalizing)));
        job.status = Some(status.clone());
        assert_eq!(of(&job, &ended, &away, at(9)), status, "the same news again changes nothing");
        let applied = Applied {
            output: Some(OutputStatus::default()),
            ending: Some(Ending::Completed),
            ..with(done).unpublished(Finding::yes(Reason::Published, "there"))
        };
        let status = of(&job, &ended, &applied, at(2));
        assert_eq!((told(&status, condition::COMPLETE), status.phase), (Some("Completed"), Some(JobPhase::Complete)));
        for summary in [condition::RECONCILING, condition::STALLED] {
            assert_eq!(told(&status, summary), None, "{summary}");
        }
    }

    #[test]
    fn a_job_that_failed_is_stalled_for_tools_that_know_nothing_of_jobs() {
        let stopped = Ending::Stopped { reason: Reason::DeadlineExceeded, message: "late".into() };
        let applied = Applied { ending: Some(stopped), ..Applied::default() };
        let stage = Stage::Stopped { reason: Reason::DeadlineExceeded, message: "late".into() };
        let status = of(&job(json!({})), &validated(stage), &applied, at(1));
        assert_eq!(told(&status, condition::FAILED), Some("DeadlineExceeded"));
        assert_eq!(told(&status, condition::STALLED), Some("DeadlineExceeded"));
    }

    #[test]
    fn a_gateway_that_is_away_is_unknown_and_keeps_what_was_known() {
        let mut job = job(json!({}));
        let running = JobReport { running: 1, completed: 1, ..report(JobState::Running) };
        job.status = Some(of(&job, &active(&running), &with(running.clone()), at(1)));
        let away = validated(Stage::GatewayAway(GatewayError::Unavailable("refused".into())));
        let status = of(&job, &away, &Applied::default(), at(2));
        let found = conditions::find(&status.conditions, condition::RUNNING).unwrap();
        assert_eq!((found.status, found.reason.as_str()), (Truth::Unknown, "GatewayUnavailable"));
        assert_eq!((status.phase, status.progress.as_deref()), (Some(JobPhase::Running), Some("1/2")));
        assert_eq!(status.reason.as_deref(), Some("GatewayUnavailable"));
    }

    #[test]
    fn a_suspension_leaves_the_time_when_it_ended() {
        let mut job = job(json!({"suspend": true}));
        let held = of(&job, &validated(Stage::Held), &Applied::default(), at(1));
        assert_eq!((told(&held, condition::SUSPENDED), held.phase), (Some("Suspended"), Some(JobPhase::Suspended)));
        job.status = Some(held);
        job.spec.suspend = false;
        let queued = report(JobState::Queued);
        let status = of(&job, &active(&queued), &with(queued.clone()), at(7));
        let found = conditions::find(&status.conditions, condition::SUSPENDED).unwrap();
        assert_eq!((found.status, found.last_transition_time.0), (Truth::False, at(7)));
    }

    #[test]
    fn rejected_lines_count_as_failed_whoever_remembers_them() {
        let counted = JobReport { rejected_lines: 3, failed: 1, ..report(JobState::Running) };
        let status = of(&job(json!({})), &active(&counted), &with(counted.clone()), at(1));
        assert_eq!(status.requests, Some(RequestCounts { total: 5, completed: 0, failed: 4 }));
        assert_eq!(status.rejected_lines, Some(3));
    }
}
