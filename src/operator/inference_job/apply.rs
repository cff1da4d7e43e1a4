//! IO: carries out the plan. Every step may be repeated: the gateway and the API server know it by the job's uid.

use super::{
    MANAGER,
    build::{Plan, Publication, Submission},
    collect::{self, results},
    dereference::Settlement,
    hand_over::{HandOverError, hand_over},
    input::source::{self, InputError, Reader, Survey},
    local::{self, results::Totals},
    output::{
        self, Destination, FilePlace, Frame,
        place::{self, PlaceError},
    },
    publication::{self, Output, unwritable},
    validate::{Ending, Place},
};
use crate::{
    api::{
        conditions::Finding,
        inference_job::{OutputStatus, condition},
        reasons::Reason,
    },
    operator::{
        bucket::Access,
        context::Context,
        error::Error,
        gateway::GatewayError,
        write::{self, api_beside},
    },
    protocol::internal::{JobControl, JobReport, JobSpec},
};

/// What came of the plan.
#[derive(Debug, Default)]
pub struct Applied {
    pub report: Option<JobReport>,
    /// Input lines that were no usable request; known once the input was read.
    pub rejected: Option<u32>,
    /// Of the input's bytes, in hexadecimal digits; known once the input was read.
    pub input_sha256: Option<String>,
    pub findings: Vec<(&'static str, Finding)>,
    pub output: Option<OutputStatus>,
    /// The job is over.
    pub ending: Option<Ending>,
    /// How far the pay of a job that is over is.
    pub settlement: Option<Settlement>,
}

impl Applied {
    pub(super) fn found(mut self, condition: &'static str, finding: Finding) -> Self {
        self.findings.push((condition, finding));
        self
    }

    /// The output cannot be written now.
    pub(super) fn unpublished(self, finding: Finding) -> Self {
        self.found(condition::OUTPUT_PUBLISHED, finding)
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
    let applied =
        Applied { rejected: Some(rejected), input_sha256: Some(hex::encode(survey.sha256)), ..Applied::default() }
            .found(condition::ACCEPTED, Finding::yes(Reason::InputRead, counted(&survey)));
    if let Some(finding) = prepare_output(&submission, &survey, context).await? {
        return Ok(applied.unpublished(finding));
    }
    if let Some(limit) = submission.max_failed.filter(|limit| rejected > *limit) {
        let message = format!("{rejected} input lines are no usable requests, spec.maxFailedRequests allows {limit}");
        let ending = Ending::Stopped { reason: Reason::TooManyFailedRequests, message };
        return publish_unsent(submission, &survey, ending, applied, context).await;
    }
    if survey.usable == 0 {
        return publish_unsent(submission, &survey, Ending::Completed, applied, context).await;
    }
    if let Place::Local(local) = &submission.place {
        return local::apply::submit(&submission, local, &survey, &reader, applied, context).await;
    }
    match hand_over(&submission, &survey, &reader, context).await {
        Ok(report) => Ok(Applied { report: Some(report), ..applied }),
        Err(error) => not_taken(error, applied),
    }
}

/// Keeps rejected lines at the output's place before the grid gets the job, because the input may be gone when it ends. What
/// cannot be written then is told before anything is computed. Also empties what an earlier job of the same name left in a
/// ConfigMap; one that need not be touched is not, because every write costs.
async fn prepare_output(submission: &Submission, survey: &Survey, context: &Context) -> Result<Option<Finding>, Error> {
    let frame = &submission.frame;
    let lines = output::rejection_lines(&survey.rejections);
    match &submission.output {
        Destination::ConfigMap(_) if lines.is_empty() && !submission.stale_output => Ok(None),
        Destination::ConfigMap(name) => {
            let files = [(output::ERRORS.to_owned(), lines)].into();
            let wanted = output::config_map(name, &frame.uid, &frame.name, files);
            match write::apply(&api_beside(context, &frame.namespace), MANAGER, wanted).await {
                Ok(_) => Ok(None),
                Err(error) => unwritable(&frame.namespace, error).map(Some),
            }
        }
        Destination::Files(place) => match claim_place(place, frame, lines, context).await {
            Ok(()) => Ok(None),
            Err(error) => error.finding().map(Some),
        },
    }
}

async fn claim_place(place: &FilePlace, frame: &Frame, rejected: String, context: &Context) -> Result<(), PlaceError> {
    let place = place::Place::open(place, frame, context).await?;
    place.claim(frame).await?;
    place.keep_rejections(frame, rejected).await
}

fn counted(survey: &Survey) -> String {
    match survey.rejections.len() {
        0 => format!("{} requests", survey.usable),
        rejected => format!("{} requests; {rejected} lines were rejected, see errors.jsonl", survey.usable),
    }
}

fn not_taken(error: HandOverError, applied: Applied) -> Result<Applied, Error> {
    match error {
        HandOverError::Input(error) => unreadable(error),
        // Of an earlier try that nobody waits for any more: it ends by itself.
        HandOverError::Gateway(GatewayError::Refused { status: 409, reason, message })
            if reason == "InputInProgress" =>
        {
            Ok(applied.found(condition::ADMITTED, Finding::unknown(Reason::GatewayUnavailable, message)))
        }
        HandOverError::Gateway(GatewayError::Refused { status: 409, reason, message }) => {
            let reason = Reason::of(&reason).filter(|reason| *reason == Reason::EscrowTaken);
            let finding = Finding::no(reason.unwrap_or(Reason::SubmissionConflict), message);
            Ok(applied.found(condition::ADMITTED, finding))
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
async fn publish_unsent(
    submission: Submission,
    survey: &Survey,
    ending: Ending,
    applied: Applied,
    context: &Context,
) -> Result<Applied, Error> {
    let Submission { frame, output, spec, .. } = submission;
    if output == Destination::Files(FilePlace::Store) {
        // Files of a job that the gateway does not know would be nobody's when the job goes.
        let rejected_lines = u32::try_from(survey.rejections.len()).unwrap_or(u32::MAX);
        match context.gateway.put_job(&frame.uid, &JobSpec { rejected_lines, ..spec }).await {
            // With another spec it is known as well.
            Ok(_) | Err(GatewayError::Refused { status: 409, .. }) => {}
            Err(error) => return Ok(applied.unpublished(error.finding())),
        }
    }
    let rejected = output::rejection_lines(&survey.rejections);
    let output = Output { destination: output, is_new: false, frame, rejected, receipts_root: String::new() };
    publication::write(output, futures::stream::empty(), ending, applied, context).await
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
    let turn = context.publishing.acquire().await;
    let _turn = turn.map_err(|_| Error::Waiting("the operator is stopping".into()))?;
    let applied = Applied { report: Some(publication.report.clone()), ..Applied::default() };
    let rejected = match publication::rejections(&publication, context).await? {
        Ok(rejected) => rejected,
        Err(finding) => return Ok(applied.unpublished(finding)),
    };
    let Publication { mut report, ending, output, no_output, frame, place, .. } = publication;
    let totals = Totals::default();
    let receipts_root = report.receipts_root.clone();
    let published = async {
        let results = collect::lines(results(&place, &frame, &ending, &totals, context).await?);
        let output = Output { destination: output, is_new: no_output, frame, rejected, receipts_root };
        publication::write(output, results, ending, applied, context).await
    };
    let mut applied = match (published.await, &place) {
        (Ok(applied), _) => applied,
        (Err(Error::Gateway(error)), _) => {
            return Ok(Applied { report: Some(report), ..Applied::default() }.unpublished(error.finding()));
        }
        (Err(error @ Error::ShardMissing(_)), Place::Local(local)) => {
            // Without a child the job is submitted again; the shards that are there are not computed again.
            local::apply::remove(local, context).await?;
            let finding = Finding::no(Reason::ShardMissing, format!("{error}; it is computed again"));
            return Ok(Applied { report: Some(report), ..Applied::default() }.unpublished(finding));
        }
        (Err(error), _) => return Err(error),
    };
    if let Place::Local(local) = &place {
        if applied.ending.is_none() {
            local::apply::keep(local, context).await?;
        }
        totals.correct(&mut report);
        applied.report = Some(report);
    }
    Ok(applied)
}

pub(super) fn reader(frame: &Frame, context: &Context) -> Reader {
    Reader {
        config_maps: api_beside(context, &frame.namespace),
        namespace: frame.namespace.clone(),
        access: Access::of(context, &frame.namespace),
    }
}
