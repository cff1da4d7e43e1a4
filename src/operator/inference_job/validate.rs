//! Pure: what a job asks for, checked, and the stage that it is in.

use jiff::Timestamp;
use kube::ResourceExt;

use super::{
    deadlines,
    dereference::{Refs, Settlement},
    input::{defaults, parse::Rules, source::Source},
    local::{self, validate::LocalJob},
    output::{self, Claim, Destination, FilePlace},
    payment,
};
use crate::{
    api::{
        conditions::{Finding, is_true},
        grid_model::{self, ModelFormat},
        ids::ModelDigest,
        inference_job::{
            EndpointSpec, InferenceJob, InputSpec, JobVerification, OURS, OutputSpec, Placement, TrustLevel,
            VerificationMode, condition,
        },
        reasons::Reason,
    },
    operator::{
        bucket::Location,
        gateway::GatewayError,
        grid_model::validate::{chat_template, format as grid_model_format},
    },
    protocol::internal::{Endpoint, JobControl, JobPayment, JobReport, JobState, PlacementFilter, Trust},
};

/// A job whose every value is known to be sound.
pub struct ValidatedJob {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub model: Model,
    pub source: Source,
    pub rules: Rules,
    pub output: Destination,
    /// The output ConfigMap holds the results of an earlier job of the same name.
    pub stale_output: bool,
    /// There was no output ConfigMap when this look began.
    pub no_output: bool,
    /// Lines of the input that are known to be no usable requests.
    pub rejected: u32,
    pub max_attempts: u32,
    pub max_failed: Option<u32>,
    pub sample_percent: Option<u8>,
    pub placement: PlacementFilter,
    /// Only looked at until the grid has the job.
    pub payment: Option<JobPayment>,
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
    /// Template of its chats; empty: the file's own.
    pub chat_template: String,
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
    /// How the job ends, when no later event can make it go on, or when it had its time.
    pub ending: Option<(Reason, String)>,
}

/// A job, as far as it was understood.
pub enum Validated {
    /// It ended earlier.
    Over(Settlement),
    Refused(Refusal),
    Job(Box<ValidatedJob>),
}

/// False for a job that somebody else looks after.
pub fn is_ours(job: &InferenceJob) -> bool {
    job.spec.managed_by.as_deref().is_none_or(|manager| manager == OURS)
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
    // A job that the grid never had can be stopped whatever else is the matter with it.
    let unsent = refs.report.as_ref().is_ok_and(|report| report.as_ref().is_none_or(is_unsent));
    let stop = if unsent { stop(job, None, now) } else { None };
    match checked(job, refs, now) {
        Ok(job) => Validated::Job(Box::new(job)),
        Err(refusal) => Validated::Refused(Refusal { ending: refusal.ending.or(stop), ..refusal }),
    }
}

pub fn is_unsent(report: &JobReport) -> bool {
    report.state == JobState::Created
}

fn checked(job: &InferenceJob, refs: Refs, now: Timestamp) -> Result<ValidatedJob, Refusal> {
    let workload = &job.spec.workload;
    let name = job.name_any();
    let namespace = job.namespace().unwrap_or_default();
    let output = destination(&workload.output)?;
    let model = model(job, &refs)?;
    let place = place(job, &refs)?;
    let uid = job.uid().unwrap_or_default();
    let claim = refs.output.as_ref().map(|found| output::claim(found, &uid, &name));
    let control = control(job);
    let rejected = rejected(job, refs.report.as_ref().ok().and_then(Option::as_ref));
    let broken = refs.child.and_then(|child| child.broken);
    let stage = stage(job, refs.report, control.suspended, broken, now);
    if let (Some(Claim::Foreign(owner)), Stage::New | Stage::Held | Stage::Ended { .. }) = (&claim, &stage) {
        let message = format!("{} belongs to {owner}; delete it, or name another one in a new job", output.shown());
        return Err(refuse(condition::OUTPUT_PUBLISHED, Reason::OutputConflict, message));
    }
    let payment = match stage {
        Stage::New => payment::validate(job, refs.model.as_ref(), refs.escrow.as_ref(), now)?,
        _ => None,
    };
    Ok(ValidatedJob {
        rejected,
        payment,
        stage,
        place,
        source: source(&workload.input)?,
        rules: Rules {
            format: workload.input.format,
            endpoint: endpoint(workload.endpoint),
            model: workload.model_ref.name.clone(),
            defaults: defaults::of(&workload.generation).map_err(invalid)?,
            system_message: workload.generation.system_message.clone(),
        },
        output,
        stale_output: claim == Some(Claim::Stale),
        no_output: claim.is_none(),
        max_attempts: job.spec.retry.max_attempts.unsigned_abs(),
        max_failed: job.spec.max_failed_requests.map(i32::unsigned_abs),
        sample_percent: job.spec.verification.as_ref().and_then(sample_percent),
        placement: placement(&job.spec.placement),
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
    let submitted = report.filter(|report| !is_unsent(report));
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
    if let Some(limit) = job.spec.max_failed_requests {
        let failed = i64::from(rejected(job, report)) + report.map_or(0, |report| i64::from(report.failed));
        if failed > i64::from(limit) {
            let message = format!("{failed} requests failed, spec.maxFailedRequests allows {limit}");
            return Some((Reason::TooManyFailedRequests, message));
        }
    }
    if let Some(stop) = report.and_then(payment::used_up) {
        return Some(stop);
    }
    deadlines::passed(job, report, now)
}

/// Input lines that were no usable requests, as far as anybody knows.
fn rejected(job: &InferenceJob, report: Option<&JobReport>) -> u32 {
    let seen = job.status.as_ref().and_then(|status| status.rejected_lines).unwrap_or(0);
    u32::try_from(seen).unwrap_or(0).max(report.map_or(0, |report| report.rejected_lines))
}

fn sample_percent(verification: &JobVerification) -> Option<u8> {
    match verification.mode {
        VerificationMode::Full => Some(100),
        VerificationMode::SpotCheck => verification.sample_percent.and_then(|percent| u8::try_from(percent).ok()),
    }
}

fn placement(placement: &Placement) -> PlacementFilter {
    PlacementFilter {
        regions: placement.regions.clone(),
        require_trust: placement.require_trust.map(|level| match level {
            TrustLevel::Approved => Trust::Approved,
            TrustLevel::Managed => Trust::Managed,
        }),
        node_labels: placement.node_selector.clone(),
    }
}

fn destination(output: &OutputSpec) -> Result<Destination, Refusal> {
    match (&output.config_map, &output.s3, &output.store) {
        (Some(map), None, None) => Ok(Destination::ConfigMap(map.name.clone())),
        (None, Some(s3), None) => {
            let location = Location::folder(s3).map_err(|why| invalid(format!("workload.output.s3: {why}")))?;
            Ok(Destination::Files(FilePlace::Bucket(location)))
        }
        (None, None, Some(_)) => Ok(Destination::Files(FilePlace::Store)),
        _ => Err(invalid("workload.output must name exactly one place (configMap, s3 or store)")),
    }
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
            return Err(refuse(condition::ACCEPTED, Reason::ModelNotFound, message));
        }
    };
    if let (None, Some(model)) = (taken, &refs.model)
        && !grid_model_format(model.spec.format).serves(endpoint(job.spec.workload.endpoint))
    {
        let serves = match model.spec.format {
            ModelFormat::Gguf => "GGUF serves /v1/chat/completions and /v1/completions",
            ModelFormat::Safetensors => "Safetensors serves /v1/embeddings",
            ModelFormat::SafetensorsDecoder => "SafetensorsDecoder serves /v1/chat/completions and /v1/completions",
        };
        let message = format!("GridModel {name:?} of format {serves} only");
        return Err(hopeless(Reason::EndpointNotServed, message));
    }
    let digest = digest.parse().map_err(|error| invalid(format!("GridModel {name:?}: {error}")))?;
    let ready = match local::is_local(job) {
        true => Finding::unknown(Reason::ModelFetching, "each pod fetches the file itself and checks its sha256"),
        false => readiness(name, refs.model.as_ref()),
    };
    let chat_template = refs.model.as_ref().map(|model| chat_template(&model.spec)).unwrap_or_default();
    Ok(Model { digest, chat_template, ready })
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
    let sha256 = input.sha256.as_deref().map(digest).transpose()?;
    match (&input.inline, &input.config_map, &input.url, &input.s3) {
        (Some(text), None, None, None) => Ok(Source::Inline(text.clone())),
        (None, Some(at), None, None) => Ok(Source::ConfigMap { name: at.name.clone(), key: at.key.clone() }),
        (None, None, Some(url), None) => {
            let sha256 = sha256.ok_or_else(|| invalid("input.url needs input.sha256"))?;
            Ok(Source::Url { url: url.clone(), sha256 })
        }
        (None, None, None, Some(s3)) => {
            let location = Location::object(s3).map_err(|why| invalid(format!("workload.input.s3: {why}")))?;
            Ok(Source::Bucket { location, sha256 })
        }
        _ => Err(invalid("input must have exactly one of inline, configMap, url, s3")),
    }
}

fn digest(text: &str) -> Result<[u8; 32], Refusal> {
    let mut sha256 = [0; 32];
    hex::decode_to_slice(text, &mut sha256).map_err(|_| invalid("input.sha256 must have 64 hexadecimal digits"))?;
    Ok(sha256)
}

fn endpoint(endpoint: EndpointSpec) -> Endpoint {
    match endpoint {
        EndpointSpec::ChatCompletions => Endpoint::ChatCompletions,
        EndpointSpec::Completions => Endpoint::Completions,
        EndpointSpec::Embeddings => Endpoint::Embeddings,
    }
}

pub(super) fn invalid(message: impl Into<String>) -> Refusal {
    hopeless(Reason::InvalidInput, message)
}

pub(super) fn hopeless(reason: Reason, message: impl Into<String>) -> Refusal {
    let refusal = refuse(condition::ACCEPTED, reason, message);
    Refusal { ending: Some((reason, refusal.finding.message.clone())), ..refusal }
}

pub(super) fn refuse(condition: &'static str, reason: Reason, message: impl Into<String>) -> Refusal {
    Refusal { condition, finding: Finding::no(reason, message), ending: None }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Created at second 100; `workload` and `more` replace what they name.
    fn job(workload: Value, more: Value) -> InferenceJob {
        let mut spec = json!({"workload": {
            "modelRef": {"name": "m"}, "input": {"inline": "a"}, "output": {"configMap": {"name": "out"}},
        }});
        spec["workload"].as_object_mut().unwrap().extend(workload.as_object().unwrap().clone());
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "xdcgrid.io/v1alpha1", "kind": "InferenceJob", "spec": spec,
            "metadata": {"name": "j", "namespace": "ns", "uid": "u", "creationTimestamp": "1970-01-01T00:01:40Z"},
        }))
        .unwrap()
    }

    fn refs(model: bool, report: Option<JobReport>) -> Refs {
        let model = model.then(|| {
            let spec = json!({"source": {"url": "http://x"}, "sha256": "11".repeat(32)});
            serde_json::from_value(json!({
                "apiVersion": "xdcgrid.io/v1alpha1", "kind": "GridModel", "metadata": {"name": "m"}, "spec": spec,
            }))
            .unwrap()
        });
        Refs { model, report: Ok(report), child: None, output: None, settlement: Settlement::Unknown, escrow: None }
    }

    fn valid(job: &InferenceJob) -> ValidatedJob {
        match validate(job, refs(true, None), at(101)) {
            Validated::Job(job) => *job,
            Validated::Refused(refusal) => panic!("{refusal:?}"),
            Validated::Over(_) => panic!("it is not over"),
        }
    }

    fn refusal(job: &InferenceJob, refs: Refs, now: i64) -> Refusal {
        match validate(job, refs, at(now)) {
            Validated::Refused(refusal) => refusal,
            _ => panic!("it is not refused"),
        }
    }

    #[test]
    fn places_of_input_and_output_are_read() {
        let s3 = json!({"s3": {"uri": "s3://in/x", "secretRef": {"name": "b"}}, "sha256": "ab".repeat(32)});
        let found = valid(&job(json!({"input": s3, "output": {"s3": {"uri": "s3://out/today"}}}), json!({})));
        let Source::Bucket { location, sha256 } = found.source else { panic!("{:?}", found.source) };
        assert_eq!((location.uri.as_str(), location.secret.as_deref()), ("s3://in/x", Some("b")));
        assert_eq!(sha256, Some([0xab; 32]));
        assert_eq!(found.output.shown(), "s3://out/today/");
        let found = valid(&job(json!({"output": {"store": {}}}), json!({})));
        assert_eq!(found.output, Destination::Files(FilePlace::Store));
    }

    #[test]
    fn a_place_that_cannot_be_ends_the_job_with_the_field_in_the_message() {
        for (workload, words) in [
            (json!({"input": {"s3": {"uri": "s3://in/a/../b"}}}), "workload.input.s3"),
            (json!({"output": {"s3": {"uri": "s3://out/a//b"}}}), "workload.output.s3"),
            (json!({"input": {"url": "http://x"}}), "input.sha256"),
            (json!({"output": {}}), "exactly one place"),
        ] {
            let refusal = refusal(&job(workload, json!({})), refs(true, None), 101);
            let (reason, message) = refusal.ending.unwrap();
            assert_eq!(reason, Reason::InvalidInput);
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn a_job_that_waits_for_its_model_can_be_cancelled_and_has_a_deadline() {
        let waiting = job(json!({}), json!({"startDeadlineSeconds": 10}));
        let found = refusal(&waiting, refs(false, None), 101);
        assert_eq!((found.finding.reason.as_str(), found.ending), ("ModelNotFound", None));
        let found = refusal(&waiting, refs(false, None), 110);
        assert_eq!(found.ending.map(|(reason, _)| reason), Some(Reason::StartDeadlineExceeded));
        let cancelled = job(json!({}), json!({"cancel": true}));
        let found = refusal(&cancelled, refs(false, None), 101);
        assert_eq!(found.ending.map(|(reason, _)| reason), Some(Reason::Cancelled));
        let away = Refs { report: Err(GatewayError::Unavailable("x".into())), ..refs(false, None) };
        assert_eq!(refusal(&cancelled, away, 101).ending, None, "it may be with the grid");
    }

    #[test]
    fn a_paid_job_that_has_spent_all_it_may_ends_and_one_whose_answers_are_all_there_completes() {
        let job = job(json!({}), json!({}));
        let used_up = |completed| JobReport {
            completed,
            spend: Some(crate::operator::inference_job::status::tests::spend(500, u64::MAX)),
            ..crate::operator::inference_job::status::tests::report(JobState::Running)
        };
        let (reason, message) = stop(&job, Some(&used_up(1)), at(101)).unwrap();
        assert_eq!(reason, Reason::SpendLimitReached);
        assert!(message.contains("spec.payment.maxSpendWei"), "{message}");
        assert_eq!(stop(&job, Some(&used_up(2)), at(101)), None);
    }

    #[test]
    fn another_manager_is_another_manager() {
        let managed = |by: &str| job(json!({}), json!({"managedBy": by}));
        assert!(is_ours(&job(json!({}), json!({}))) && is_ours(&managed(OURS)));
        assert!(!is_ours(&managed("kueue.x-k8s.io/multikueue")));
    }

    #[test]
    fn full_verification_is_every_answer() {
        let percent =
            |verification: Value| valid(&job(json!({}), json!({"verification": verification}))).sample_percent;
        assert_eq!(percent(json!({"mode": "Full"})), Some(100));
        assert_eq!(percent(json!({"samplePercent": 7})), Some(7));
        assert_eq!(percent(json!({})), None);
    }
}
