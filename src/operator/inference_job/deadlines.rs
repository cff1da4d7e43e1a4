//! Pure: when a job has had its time. A deadline counts from where the job could last have gone on, never while it is suspended,
//! and only against what the gateway says: a gateway that is away ends no job.

use std::time::Duration;

use jiff::Timestamp;

use super::payment::SETTLE_MARGIN;
use crate::{
    api::{
        conditions::{self, Truth},
        inference_job::{InferenceJob, InferenceJobStatus, condition},
        reasons::Reason,
    },
    protocol::internal::JobReport,
};

/// The deadline that has passed, if one has. `report`: what the gateway says of the job; `None` when it does not have it.
pub fn passed(job: &InferenceJob, report: Option<&JobReport>, now: Timestamp) -> Option<(Reason, String)> {
    let is_over = |end: Option<i64>| end.is_some_and(|end| now.as_second() >= end);
    let status = job.status.clone().unwrap_or_default();
    if is_over(start_end(job, &status, report, now)) {
        let seconds = job.spec.start_deadline_seconds.unwrap_or_default();
        let message = format!("no request of it was given to a node within {seconds} s (spec.startDeadlineSeconds)");
        return Some((Reason::StartDeadlineExceeded, message));
    }
    if is_over(active_end(job, &status, now)) {
        let seconds = job.spec.active_deadline_seconds.unwrap_or_default();
        return Some((
            Reason::DeadlineExceeded,
            format!("it did not end within {seconds} s (spec.activeDeadlineSeconds)"),
        ));
    }
    if is_over(escrow_end(report)) {
        let message = "its escrow is about to end; what is finished is settled before that".to_owned();
        return Some((Reason::EscrowExpiring, message));
    }
    None
}

/// How long until the next deadline that has not passed.
pub fn next(
    job: &InferenceJob,
    status: &InferenceJobStatus,
    report: Option<&JobReport>,
    now: Timestamp,
) -> Option<Duration> {
    let ends = [start_end(job, status, report, now), active_end(job, status, now), escrow_end(report)];
    let left = |end: i64| u64::try_from(end.saturating_sub(now.as_second())).ok().filter(|left| *left > 0);
    ends.into_iter().flatten().filter_map(left).min().map(Duration::from_secs)
}

fn start_end(
    job: &InferenceJob,
    status: &InferenceJobStatus,
    report: Option<&JobReport>,
    now: Timestamp,
) -> Option<i64> {
    let deadline = job.spec.start_deadline_seconds?;
    let started = report.is_some_and(|report| report.started_at_ms > 0);
    if job.spec.suspend || started {
        return None;
    }
    let created = job.metadata.creation_timestamp.as_ref()?.0.as_second();
    Some(created.max(resumed(status, now).unwrap_or(created)).saturating_add(deadline))
}

fn active_end(job: &InferenceJob, status: &InferenceJobStatus, now: Timestamp) -> Option<i64> {
    let deadline = job.spec.active_deadline_seconds?;
    if job.spec.suspend {
        return None;
    }
    let taken = status.start_time.as_ref()?.0.as_second();
    Some(taken.max(resumed(status, now).unwrap_or(taken)).saturating_add(deadline))
}

/// A paid job ends while there is time to settle it, suspended or not.
fn escrow_end(report: Option<&JobReport>) -> Option<i64> {
    let deadline = report?.spend?.payment.deadline;
    i64::try_from(deadline.saturating_sub(SETTLE_MARGIN)).ok()
}

/// When the job last went on after a suspension, in unix seconds: now, when its status does not know of it yet.
fn resumed(status: &InferenceJobStatus, now: Timestamp) -> Option<i64> {
    let found = conditions::find(&status.conditions, condition::SUSPENDED)?;
    Some(if found.status == Truth::False { found.last_transition_time.0 } else { now }.as_second())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::{Value, json};

    use super::{
        super::status::tests::{report, spend},
        *,
    };
    use crate::{api::conditions::Finding, protocol::internal::JobState};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Created at second 100.
    fn job(more: Value) -> InferenceJob {
        let mut spec = json!({"workload": {
            "modelRef": {"name": "m"}, "input": {"inline": "a"}, "output": {"store": {}},
        }});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "xdcgrid.io/v1alpha1", "kind": "InferenceJob",
            "metadata": {"name": "j", "creationTimestamp": "1970-01-01T00:01:40Z"}, "spec": spec,
        }))
        .unwrap()
    }

    fn with_status(mut job: InferenceJob, started: Option<i64>, resumed: Option<i64>) -> InferenceJob {
        let mut status = InferenceJobStatus { start_time: started.map(|s| Time(at(s))), ..Default::default() };
        if let Some(resumed) = resumed {
            let finding = Finding::no(Reason::Resumed, "");
            conditions::set(&mut status.conditions, condition::SUSPENDED, finding, None, &Time(at(resumed)));
        }
        job.status = Some(status);
        job
    }

    fn reason(job: &InferenceJob, report: Option<&JobReport>, now: i64) -> Option<Reason> {
        passed(job, report, at(now)).map(|(reason, _)| reason)
    }

    #[test]
    fn a_job_that_does_not_start_in_time_ends_and_one_that_started_does_not() {
        let job = job(json!({"startDeadlineSeconds": 50}));
        let waiting = report(JobState::Queued);
        assert_eq!(reason(&job, None, 149), None);
        assert_eq!(reason(&job, None, 150), Some(Reason::StartDeadlineExceeded));
        assert_eq!(reason(&job, Some(&waiting), 150), Some(Reason::StartDeadlineExceeded));
        let started = JobReport { started_at_ms: 1, ..waiting };
        assert_eq!(reason(&job, Some(&started), 1_000), None);
    }

    #[test]
    fn time_in_suspension_counts_for_no_deadline_and_resuming_starts_both_anew() {
        let spec = json!({"startDeadlineSeconds": 50, "activeDeadlineSeconds": 80});
        let mut job = with_status(job(spec), Some(110), Some(500));
        assert_eq!(reason(&job, None, 549), None);
        assert_eq!(reason(&job, None, 550), Some(Reason::StartDeadlineExceeded));
        let started = JobReport { started_at_ms: 1, ..report(JobState::Running) };
        assert_eq!(reason(&job, Some(&started), 579), None);
        assert_eq!(reason(&job, Some(&started), 580), Some(Reason::DeadlineExceeded));
        let suspended = Finding::yes(Reason::Suspended, "");
        let conditions = &mut job.status.as_mut().unwrap().conditions;
        conditions::set(conditions, condition::SUSPENDED, suspended, None, &Time(at(600)));
        assert_eq!(reason(&job, Some(&started), 9_999), None, "it was resumed this moment");
        job.spec.suspend = true;
        assert_eq!(reason(&job, Some(&started), 9_999), None);
        assert_eq!(next(&job, job.status.as_ref().unwrap(), None, at(0)), None);
    }

    #[test]
    fn a_paid_job_ends_while_its_escrow_can_still_be_settled() {
        let job = job(json!({}));
        let escrowed = JobReport { spend: Some(spend(10, 100_000)), ..report(JobState::Running) };
        let end = 100_000 - SETTLE_MARGIN as i64;
        assert_eq!(reason(&job, Some(&escrowed), end - 1), None);
        assert_eq!(reason(&job, Some(&escrowed), end), Some(Reason::EscrowExpiring));
        let left = next(&job, &InferenceJobStatus::default(), Some(&escrowed), at(end - 7));
        assert_eq!(left, Some(Duration::from_secs(7)));
    }

    #[test]
    fn the_next_look_is_at_the_nearer_deadline() {
        let job = with_status(job(json!({"startDeadlineSeconds": 50, "activeDeadlineSeconds": 20})), Some(110), None);
        let status = job.status.clone().unwrap();
        assert_eq!(next(&job, &status, None, at(100)), Some(Duration::from_secs(30)));
        assert_eq!(next(&job, &status, None, at(140)), Some(Duration::from_secs(10)), "one has passed");
        assert_eq!(next(&job, &status, None, at(1_000)), None);
    }
}
