//! Pure: what a job asks for, checked, and the stage that it is in.

use jiff::Timestamp;
use kube::ResourceExt;

use super::{
    dereference::{Refs, Settlement},
    input::{
        parse::{Defaults, Rules},
        source::Source,
    },
    local::{self, validate::LocalJob},
    output::{self, Claim},
};
use crate::{
    api::{
        conditions::{Finding, Truth, is_true},
        grid_model,
        ids::ModelDigest,
        inference_job::{EndpointSpec, GenerationSpec, InferenceJob, InputSpec, condition},
        reasons::Reason,
    },
    operator::gateway::GatewayError,
    protocol::internal::{Endpoint, JobControl, JobReport, JobState},
};

/// A job whose every value is known to be sound.
pub struct ValidatedJob {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub model: Model,
    pub source: Source,
    pub rules: Rules,
    /// Name of the output ConfigMap.
    pub output: String,
    pub max_attempts: u32,
    pub max_failed: Option<u32>,
    pub sample_percent: Option<u8>,
    pub control: JobControl,
    pub place: Place,
    pub stage: Stage,
}

/// Who computes it.
#[derive(Debug, Clone)]
pub enum Place {
    Grid,
    Local(Box<LocalJob>),
}

/// The model that is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    pub digest: ModelDigest,
    pub ready: Finding,
}

/// Where a job is on its way.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// The gateway cannot be asked.
    GatewayAway(GatewayError),
    /// Not with the grid yet, and not to be while suspended.
    Held,
    /// Not with the grid yet.
    New,
    /// With the grid. `stop`: it is to be stopped.
    Active { report: JobReport, stop: Option<(Reason, String)> },
    /// The grid is done with it.
    Ended { report: JobReport, ending: Ending },
    /// Stopped before the grid had it.
    Stopped { reason: Reason, message: String },
}

/// How a job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    Completed,
    Stopped { reason: Reason, message: String },
}

/// What cannot go on, and the condition that says why.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub condition: &'static str,
    pub finding: Finding,
    /// No later event can make it go on.
    pub fatal: bool,
}

/// A job, as far as it was understood.
pub enum Validated {
    /// It ended earlier.
    Over(Settlement),
    Refused(Refusal),
    Job(Box<ValidatedJob>),
}

/// True once a job has a terminal condition.
pub fn is_over(job: &InferenceJob) -> bool {
    let conditions = job.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    is_true(conditions, condition::COMPLETE) || is_true(conditions, condition::FAILED)
}

pub fn validate(job: &InferenceJob, refs: Refs, now: Timestamp) -> Validated {
    if is_over(job) {
        return Validated::Over(refs.settlement);
    }
    match checked(job, refs, now) {
        Ok(job) => Validated::Job(Box::new(job)),
        Err(refusal) => Validated::Refused(refusal),
    }
}

fn checked(job: &InferenceJob, refs: Refs, now: Timestamp) -> Result<ValidatedJob, Refusal> {
    let workload = &job.spec.workload;
    let name = job.name_any();
    let namespace = job.namespace().unwrap_or_default();
    let output = workload.output.config_map.as_ref().ok_or_else(|| invalid("spec.workload.output names no place"))?;
    let model = model(job, &refs)?;
    let place = place(job, &refs)?;
    let uid = job.uid().unwrap_or_default();
    if let Some(found) = &refs.output
        && let Claim::Foreign(owner) = output::claim(found, &uid, &name)
    {
        let message =
            format!("ConfigMap {:?} belongs to {owner}; delete it, or name another one in a new job", output.name);
        return Err(refuse(condition::OUTPUT_PUBLISHED, Reason::OutputConflict, message, false));
    }
    let control = control(job);
    let broken = refs.child.and_then(|child| child.broken);
    Ok(ValidatedJob {
        stage: stage(job, refs.report, control.suspended, broken, now),
        place,
        source: source(&workload.input)?,
        rules: Rules {
            format: workload.input.format,
            endpoint: endpoint(workload.endpoint),
            model: workload.model_ref.name.clone(),
            defaults: defaults(&workload.generation)?,
        },
        output: output.name.clone(),
        max_attempts: job.spec.retry.max_attempts.unsigned_abs(),
        max_failed: job.spec.max_failed_requests.map(i32::unsigned_abs),
        sample_percent: job
            .spec
            .verification
            .as_ref()
            .and_then(|verification| u8::try_from(verification.sample_percent).ok()),
        uid,
        namespace,
        name,
        model,
        control,
    })
}

fn control(job: &InferenceJob) -> JobControl {
    JobControl {
        suspended: job.spec.suspend,
        cancelled: job.spec.cancel,
        parallelism: job.spec.parallelism.map_or(0, i32::unsigned_abs),
    }
}

fn stage(
    job: &InferenceJob,
    report: Result<Option<JobReport>, GatewayError>,
    suspended: bool,
    broken: Option<(Reason, String)>,
    now: Timestamp,
) -> Stage {
    let report = match report {
        Ok(report) => report,
        Err(error) => return Stage::GatewayAway(error),
    };
    let submitted = report.filter(|report| report.state != JobState::Created);
    let stop = broken.or_else(|| stop(job, submitted.as_ref(), now));
    match (submitted, stop) {
        (None, Some((reason, message))) => Stage::Stopped { reason, message },
        (None, None) if suspended => Stage::Held,
        (None, None) => Stage::New,
        (Some(report), stop) => match (report.state, stop) {
            // Everything was answered before it could be stopped.
            (JobState::Finished, stop) => {
                let too_many = stop.filter(|(reason, _)| *reason == Reason::TooManyFailedRequests);
                let ending =
                    too_many.map_or(Ending::Completed, |(reason, message)| Ending::Stopped { reason, message });
                Stage::Ended { report, ending }
            }
            (JobState::Cancelled, stop) => {
                let (reason, message) = stop.unwrap_or((Reason::Cancelled, "the grid cancelled it".into()));
                Stage::Ended { report, ending: Ending::Stopped { reason, message } }
            }
            (_, stop) => Stage::Active { report, stop },
        },
    }
}

fn place(job: &InferenceJob, refs: &Refs) -> Result<Place, Refusal> {
    if !local::is_local(job) {
        return Ok(Place::Grid);
    }
    let seen = refs.child.as_ref().map(|child| child.seen);
    let local = local::validate::validate(job, refs.model.as_ref(), seen);
    local.map(|local| Place::Local(Box::new(local))).map_err(|finding| invalid(finding.message))
}

/// Why a job is to be stopped, if it is.
pub fn stop(job: &InferenceJob, report: Option<&JobReport>, now: Timestamp) -> Option<(Reason, String)> {
    if job.spec.cancel {
        return Some((Reason::Cancelled, "spec.cancel is set".into()));
    }
    let status = job.status.as_ref();
    if let Some(limit) = job.spec.max_failed_requests {
        let rejected = status.and_then(|status| status.rejected_lines).unwrap_or(0);
        let failed = rejected + report.map_or(0, |report| i64::from(report.failed));
        if failed > i64::from(limit) {
            let message = format!("{failed} requests failed, spec.maxFailedRequests allows {limit}");
            return Some((Reason::TooManyFailedRequests, message));
        }
    }
    let deadline = job.spec.active_deadline_seconds?;
    let started = status?.start_time.as_ref()?.0.as_second();
    (now.as_second() >= started.saturating_add(deadline))
        .then(|| (Reason::DeadlineExceeded, format!("it did not end within {deadline} s")))
}

fn model(job: &InferenceJob, refs: &Refs) -> Result<Model, Refusal> {
    let name = &job.spec.workload.model_ref.name;
    // Once the job is with the grid, its model is the one that the name stood for then.
    let taken = job.status.as_ref().and_then(|status| status.model_digest.as_deref());
    let digest = match (taken, &refs.model) {
        (Some(digest), _) => digest,
        (None, Some(model)) => model.spec.sha256.as_str(),
        (None, None) => {
            let message = format!("there is no GridModel {name:?}; kubectl get gridmodels lists those that there are");
            return Err(refuse(condition::ACCEPTED, Reason::ModelNotFound, message, false));
        }
    };
    let digest = digest.parse().map_err(|error| invalid(format!("GridModel {name:?}: {error}")))?;
    let ready = match local::is_local(job) {
        true => Finding::unknown(Reason::ModelFetching, "each pod fetches the file itself and checks its sha256"),
        false => readiness(name, refs.model.as_ref()),
    };
    Ok(Model { digest, ready })
}

fn readiness(name: &str, model: Option<&grid_model::GridModel>) -> Finding {
    let Some(model) = model else {
        return Finding::no(
            Reason::ModelNotFound,
            format!("GridModel {name:?} was deleted; the job goes on with its file"),
        );
    };
    let conditions = model.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    match crate::api::conditions::find(conditions, grid_model::condition::READY) {
        Some(found) => Finding { truth: found.status, reason: found.reason.clone(), message: found.message.clone() },
        None => Finding::unknown(Reason::ModelFetching, format!("GridModel {name:?} was not looked at yet")),
    }
}

fn source(input: &InputSpec) -> Result<Source, Refusal> {
    match (&input.inline, &input.config_map, &input.url) {
        (Some(text), None, None) => Ok(Source::Inline(text.clone())),
        (None, Some(at), None) => Ok(Source::ConfigMap { name: at.name.clone(), key: at.key.clone() }),
        (None, None, Some(url)) => {
            let mut sha256 = [0; 32];
            hex::decode_to_slice(input.sha256.as_deref().unwrap_or_default(), &mut sha256)
                .map_err(|_| invalid("input.sha256 must have 64 hexadecimal digits"))?;
            Ok(Source::Url { url: url.clone(), sha256 })
        }
        _ => Err(invalid("input must have exactly one of inline, configMap, url")),
    }
}

fn endpoint(endpoint: EndpointSpec) -> Endpoint {
    match endpoint {
        EndpointSpec::ChatCompletions => Endpoint::ChatCompletions,
        EndpointSpec::Completions => Endpoint::Completions,
    }
}

fn defaults(generation: &GenerationSpec) -> Result<Defaults, Refusal> {
    let decimal = |name: &str, text: &str| {
        text.parse::<f32>().map_err(|_| invalid(format!("generation.{name} {text:?} is no decimal number")))
    };
    Ok(Defaults {
        max_tokens: generation.max_tokens.unsigned_abs(),
        temperature: decimal("temperature", &generation.temperature)?,
        top_p: decimal("topP", &generation.top_p)?,
        top_k: generation.top_k.unsigned_abs(),
        seed: generation.seed.unsigned_abs(),
        stop: generation.stop.clone(),
        system_message: generation.system_message.clone(),
    })
}

fn invalid(message: impl Into<String>) -> Refusal {
    refuse(condition::ACCEPTED, Reason::InvalidInput, message, true)
}

fn refuse(condition: &'static str, reason: Reason, message: impl Into<String>, fatal: bool) -> Refusal {
    Refusal {
        condition,
        finding: Finding { truth: Truth::False, reason: reason.as_str().into(), message: message.into() },
        fatal,
    }
}
