//! Pure: what is to be done about a job now.

use super::{
    input::{parse::Rules, source::Source},
    output::{Destination, Frame},
    validate::{Ending, Place, Stage, ValidatedJob},
};
use crate::{
    api::reasons::Reason,
    protocol::internal::{Endpoint, JobControl, JobReport, JobSpec},
};

/// The next step; exactly one per reconcile.
pub enum Plan {
    /// Nothing: the gateway is away, or the job is held back.
    Wait,
    /// Read the input and give the job to the grid.
    Submit(Submission),
    /// Tell the grid how to go on; sends nothing when the grid knows already.
    Steer { uid: String, control: JobControl, report: JobReport, place: Place },
    /// Collect the results and write the output.
    Publish(Publication),
    /// Ends without output: the grid never had it.
    Stop { reason: Reason, message: String },
}

pub struct Submission {
    /// All but the numbers of requests and rejected lines, which the input tells.
    pub spec: JobSpec,
    pub control: JobControl,
    pub source: Source,
    pub rules: Rules,
    pub output: Destination,
    /// What is in the output ConfigMap is to be emptied.
    pub stale_output: bool,
    pub frame: Frame,
    pub max_failed: Option<u32>,
    pub place: Place,
}

pub struct Publication {
    pub report: JobReport,
    pub ending: Ending,
    pub source: Source,
    pub rules: Rules,
    pub output: Destination,
    /// There was no output ConfigMap when this look began.
    pub no_output: bool,
    /// How many lines of the input were rejected.
    pub rejected: u32,
    pub frame: Frame,
    pub place: Place,
}

pub fn build(job: &ValidatedJob) -> Plan {
    match &job.stage {
        Stage::GatewayAway(_) | Stage::Held => Plan::Wait,
        Stage::New => Plan::Submit(submission(job)),
        Stage::Active { report, stop } => {
            let cancelled = job.control.cancelled || stop.is_some();
            let control = JobControl { cancelled, ..job.control };
            Plan::Steer { uid: job.uid.clone(), control, report: report.clone(), place: job.place.clone() }
        }
        Stage::Ended { report, ending } => Plan::Publish(Publication {
            report: report.clone(),
            ending: ending.clone(),
            source: job.source.clone(),
            rules: job.rules.clone(),
            output: job.output.clone(),
            no_output: job.no_output,
            rejected: job.rejected,
            frame: frame(job),
            place: job.place.clone(),
        }),
        Stage::Stopped { reason, message } => Plan::Stop { reason: *reason, message: message.clone() },
    }
}

fn submission(job: &ValidatedJob) -> Submission {
    Submission {
        spec: JobSpec {
            namespace: job.namespace.clone(),
            name: job.name.clone(),
            model: job.model.digest,
            model_name: job.rules.model.clone(),
            endpoint: job.rules.endpoint,
            max_attempts: job.max_attempts,
            total_requests: 0,
            rejected_lines: 0,
            sample_percent: job.sample_percent,
            placement: job.placement.clone(),
            payment: job.payment,
            chat_template: match job.rules.endpoint {
                Endpoint::ChatCompletions => job.model.chat_template.clone(),
                Endpoint::Completions | Endpoint::Embeddings => String::new(),
            },
        },
        control: job.control,
        source: job.source.clone(),
        rules: job.rules.clone(),
        output: job.output.clone(),
        stale_output: job.stale_output,
        frame: frame(job),
        max_failed: job.max_failed,
        place: job.place.clone(),
    }
}

fn frame(job: &ValidatedJob) -> Frame {
    Frame {
        namespace: job.namespace.clone(),
        name: job.name.clone(),
        uid: job.uid.clone(),
        model: job.rules.model.clone(),
        model_digest: job.model.digest,
        endpoint: job.rules.endpoint,
    }
}
