//! IO: carries out the plan. Every step may be repeated: the gateway and the API server know it by the job's uid.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;

use super::{
    MANAGER,
    build::{Plan, Publication, Submission},
    collect::{collect, results},
    input::source::{self, InputError, Reader, Survey},
    local::{self, results::Totals},
    output::{self, Files, Finished, Frame},
    validate::{Ending, Place},
};
use crate::{
    api::{
        conditions::Finding,
        inference_job::{OutputStatus, condition},
        reasons::Reason,
    },
    operator::{
        context::Context,
        error::{Error, is_forbidden, is_not_found},
        gateway::GatewayError,
        write::{self, api_beside},
    },
    protocol::internal::{JobControl, JobReport},
};

/// What came of the plan.
#[derive(Debug, Default)]
pub struct Applied {
    pub report: Option<JobReport>,
    /// Input lines that were no usable request; known once the input was read.
    pub rejected: Option<u32>,
    pub findings: Vec<(&'static str, Finding)>,
    pub output: Option<OutputStatus>,
    /// The job is over.
    pub ending: Option<Ending>,
}

impl Applied {
    pub(super) fn found(mut self, condition: &'static str, finding: Finding) -> Self {
        self.findings.push((condition, finding));
        self
    }
}

pub async fn apply(plan: Plan, context: &Context) -> Result<Applied, Error> {
    match plan {
        Plan::Wait => Ok(Applied::default()),
        Plan::Stop { reason, message } => {
            Ok(Applied { ending: Some(Ending::Stopped { reason, message }), ..Applied::default() })
        }
        Plan::Submit(submission) => submit(submission, context).await,
        Plan::Steer { control, report, place: Place::Local(local), .. } => {
            local::apply::steer(&local, control, context).await?;
            Ok(Applied { report: Some(report), ..Applied::default() })
        }
        Plan::Steer { uid, control, report, place: Place::Grid } => steer(&uid, control, report, context).await,
        Plan::Publish(publication) => publish(publication, context).await,
    }
}

// ------------------------------------------------------------------------------------------------ submission

async fn submit(submission: Submission, context: &Context) -> Result<Applied, Error> {
    let reader = reader(&submission.frame, context);
    let survey = match source::survey(&submission.source, &submission.rules, &reader).await {
        Ok(survey) => survey,
        Err(error) => return unreadable(error),
    };
    let rejected = u32::try_from(survey.rejections.len()).unwrap_or(u32::MAX);
    if let Some(refused) = keep_rejections(&submission, &survey, context).await? {
        return Ok(refused);
    }
    let applied = Applied { rejected: Some(rejected), ..Applied::default() }
        .found(condition::ACCEPTED, Finding::yes(Reason::InputRead, counted(&survey)));
    let too_many = submission.max_failed.filter(|limit| rejected > *limit);
    if let Some(limit) = too_many {
        let message = format!("{rejected} input lines are no usable requests, spec.maxFailedRequests allows {limit}");
        return stop_unsent(
            submission,
            Ending::Stopped { reason: Reason::TooManyFailedRequests, message },
            applied,
            context,
        )
        .await;
    }
    if survey.usable == 0 {
        return stop_unsent(submission, Ending::Completed, applied, context).await;
    }
    if let Place::Local(local) = &submission.place {
        return local::apply::submit(&submission, local, &survey, &reader, applied, context).await;
    }
    match hand_over(&submission, &survey, &reader, context).await {
        Ok(report) => Ok(Applied { report: Some(report), ..applied }),
        Err(error) => not_taken(error, applied),
    }
}

/// Rejected lines are written before the grid gets the job, because the input may be gone when it ends. Also empties what an
/// earlier job of the same name left.
async fn keep_rejections(
    submission: &Submission,
    survey: &Survey,
    context: &Context,
) -> Result<Option<Applied>, Error> {
    let Frame { namespace, name, uid, .. } = &submission.frame;
    let api: Api<ConfigMap> = api_beside(context, namespace);
    let lines = output::rejection_lines(&survey.rejections);
    let files = [(output::ERRORS.to_owned(), lines)].into();
    match write::apply(&api, MANAGER, output::config_map(&submission.output, uid, name, files)).await {
        Ok(_) => Ok(None),
        Err(error) => Ok(Some(unwritable(namespace, error)?)),
    }
}

fn counted(survey: &Survey) -> String {
    match survey.rejections.len() {
        0 => format!("{} requests", survey.usable),
        rejected => format!("{} requests; {rejected} lines were rejected, see errors.jsonl", survey.usable),
    }
}

async fn hand_over(
    submission: &Submission,
    survey: &Survey,
    reader: &Reader,
    context: &Context,
) -> Result<JobReport, HandOverError> {
    let uid = &submission.frame.uid;
    let mut spec = submission.spec.clone();
    spec.total_requests = survey.usable;
    if let Err(error) = context.gateway.put_job(uid, &spec).await {
        // The gateway has the uid with another spec but without input: the input changed between two tries. Nothing ran.
        match error {
            GatewayError::Refused { status: 409, .. } => {
                context.gateway.delete_job(uid).await?;
                context.gateway.put_job(uid, &spec).await?;
            }
            error => return Err(error.into()),
        }
    }
    if submission.control != JobControl::default() {
        context.gateway.patch_job(uid, &submission.control).await?;
    }
    context.sent.sent(&control_key(uid), &submission.control);
    let lines = source::replay(&submission.source, &submission.rules, reader, survey.sha256).await?;
    Ok(context.gateway.put_input(uid, lines).await?)
}

#[derive(Debug, thiserror::Error)]
enum HandOverError {
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    #[error(transparent)]
    Input(#[from] InputError),
}

fn not_taken(error: HandOverError, applied: Applied) -> Result<Applied, Error> {
    match error {
        HandOverError::Input(error) => unreadable(error),
        HandOverError::Gateway(GatewayError::Refused { status: 409, message, .. }) => {
            Ok(applied.found(condition::ADMITTED, Finding::no(Reason::SubmissionConflict, message)))
        }
        HandOverError::Gateway(error @ GatewayError::Refused { .. }) => {
            Ok(applied.found(condition::ADMITTED, Finding::no(Reason::GatewayRefused, error.to_string())))
        }
        HandOverError::Gateway(error) => {
            Ok(applied.found(condition::ADMITTED, Finding::unknown(Reason::GatewayUnavailable, error.to_string())))
        }
    }
}

/// An input that can become usable is waited for; the other kind ends the job.
pub(super) fn unreadable(error: InputError) -> Result<Applied, Error> {
    if let InputError::Kube(error) = error {
        return Err(Error::Kube(error));
    }
    let (reason, message) = (error.reason(), error.to_string());
    let ending = (!error.may_heal()).then(|| Ending::Stopped { reason, message: message.clone() });
    Ok(Applied { ending, ..Applied::default() }.found(condition::ACCEPTED, Finding::no(reason, message)))
}

/// Writes the output of a job of which nothing went to the grid.
async fn stop_unsent(
    submission: Submission,
    ending: Ending,
    applied: Applied,
    context: &Context,
) -> Result<Applied, Error> {
    let Submission { frame, output, source, rules, .. } = submission;
    let rejected = match rejections(&source, &rules, &output, &frame, context).await? {
        Ok(rejected) => rejected,
        Err(refused) => return Ok(refused),
    };
    let finished = Files::new(frame.clone(), rejected).finish("")?;
    write_output(&output, &frame, finished, ending, applied, context).await
}

// ------------------------------------------------------------------------------------------------ steering

pub fn control_key(uid: &str) -> String {
    format!("control/{uid}")
}

async fn steer(uid: &str, control: JobControl, report: JobReport, context: &Context) -> Result<Applied, Error> {
    let key = control_key(uid);
    if context.sent.is_known(&key, &control) {
        return Ok(Applied { report: Some(report), ..Applied::default() });
    }
    match context.gateway.patch_job(uid, &control).await {
        Ok(report) => {
            context.sent.sent(&key, &control);
            Ok(Applied { report: Some(report), ..Applied::default() })
        }
        Err(error) => {
            Ok(Applied { report: Some(report), ..Applied::default() }.found(condition::RUNNING, error.finding()))
        }
    }
}

// ------------------------------------------------------------------------------------------------ publication

async fn publish(publication: Publication, context: &Context) -> Result<Applied, Error> {
    let Publication { mut report, ending, source, rules, output, frame, place } = publication;
    let applied = Applied { report: Some(report.clone()), ..Applied::default() };
    let rejected = match rejections(&source, &rules, &output, &frame, context).await? {
        Ok(rejected) => rejected,
        Err(refused) => return Ok(Applied { findings: refused.findings, ..applied }),
    };
    let totals = Totals::default();
    let results = results(&place, &frame, &ending, &totals, context).await;
    let collected = match results {
        Ok(results) => collect(Files::new(frame.clone(), rejected), results).await,
        Err(error) => Err(error),
    };
    let collected = match (collected, &place) {
        (Ok(collected), _) => collected,
        (Err(Error::Gateway(error)), _) => return Ok(applied.found(condition::OUTPUT_PUBLISHED, error.finding())),
        (Err(error @ Error::ShardMissing(_)), Place::Local(local)) => {
            // Without a child the job is submitted again; the shards that are there are not computed again.
            local::apply::remove(local, context).await?;
            let finding = Finding::no(Reason::ShardMissing, format!("{error}; it is computed again"));
            return Ok(applied.found(condition::OUTPUT_PUBLISHED, finding));
        }
        (Err(error), _) => return Err(error),
    };
    if let Place::Local(_) = &place {
        totals.correct(&mut report);
    }
    let applied = Applied { report: Some(report.clone()), ..applied };
    let Some(files) = collected else {
        let message = format!(
            "the results take more than {} bytes, which is what a ConfigMap can hold; split the input into several jobs or lower maxTokens",
            output::MAX_BYTES
        );
        let ending = Ending::Stopped { reason: Reason::OutputTooLarge, message: message.clone() };
        return Ok(Applied { ending: Some(ending), ..applied }
            .found(condition::OUTPUT_PUBLISHED, Finding::no(Reason::OutputTooLarge, message)));
    };
    let finished = files.finish(&report.receipts_root)?;
    write_output(&output, &frame, finished, ending, applied, context).await
}

/// The rejected lines as they were written at submission; read from the input again when that ConfigMap is gone.
async fn rejections(
    source: &source::Source,
    rules: &super::input::parse::Rules,
    output: &str,
    frame: &Frame,
    context: &Context,
) -> Result<Result<String, Applied>, Error> {
    let api: Api<ConfigMap> = api_beside(context, &frame.namespace);
    let found = match api.get_opt(output).await {
        Ok(found) => found,
        Err(error) => return Ok(Err(unwritable(&frame.namespace, error.into())?)),
    };
    if let Some(kept) = output::kept_rejections(found.as_ref(), &frame.uid, &frame.name) {
        return Ok(Ok(kept));
    }
    match source::survey(source, rules, &reader(frame, context)).await {
        Ok(survey) => Ok(Ok(output::rejection_lines(&survey.rejections))),
        Err(InputError::Kube(error)) => Err(Error::Kube(error)),
        Err(error) => {
            let message = format!("the output ConfigMap was deleted, and the input cannot be read again: {error}");
            Ok(Err(Applied::default().found(condition::OUTPUT_PUBLISHED, Finding::no(error.reason(), message))))
        }
    }
}

async fn write_output(
    output: &str,
    frame: &Frame,
    finished: Finished,
    ending: Ending,
    applied: Applied,
    context: &Context,
) -> Result<Applied, Error> {
    let Finished { files, results_sha256, errors_sha256, bytes, counts } = finished;
    let api: Api<ConfigMap> = api_beside(context, &frame.namespace);
    let wanted = output::config_map(output, &frame.uid, &frame.name, files);
    if let Err(error) = write::apply(&api, MANAGER, wanted).await {
        return Ok(Applied { findings: unwritable(&frame.namespace, error)?.findings, ..applied });
    }
    let status = OutputStatus {
        config_map: output.to_owned(),
        results_sha256,
        errors_sha256,
        bytes: i64::try_from(bytes).unwrap_or(i64::MAX),
    };
    let message = format!("{} results and {} errors in ConfigMap {output}", counts.completed, counts.failed);
    Ok(Applied {
        output: Some(status),
        ending: Some(ending),
        rejected: Some(u32::try_from(counts.rejected).unwrap_or(u32::MAX)),
        ..applied
    }
    .found(condition::OUTPUT_PUBLISHED, Finding::yes(Reason::Published, message)))
}

/// A write that RBAC does not allow is told to the user; everything else is retried.
fn unwritable(namespace: &str, error: Error) -> Result<Applied, Error> {
    match error {
        Error::Kube(error) if is_forbidden(&error) => {
            let message = format!("the operator may not write ConfigMaps in namespace {namespace}: {error}");
            Ok(Applied::default().found(condition::OUTPUT_PUBLISHED, Finding::no(Reason::Forbidden, message)))
        }
        // The namespace is being deleted, and the job with it.
        Error::Kube(error) if is_not_found(&error) => {
            Ok(Applied::default().found(condition::OUTPUT_PUBLISHED, Finding::no(Reason::Forbidden, error.to_string())))
        }
        error => Err(error),
    }
}

fn reader(frame: &Frame, context: &Context) -> Reader {
    Reader { config_maps: api_beside(context, &frame.namespace), namespace: frame.namespace.clone() }
}
