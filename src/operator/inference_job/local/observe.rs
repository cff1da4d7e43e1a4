//! Pure: the child Job and its pods as the report of progress that the gateway would give. Causes are lifted up from the pods,
//! so that nobody has to look for them.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition},
        core::v1::{ContainerStateTerminated, Pod},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt;

use super::{
    carried,
    job::{self, Asked, index_of, sizes},
};
use crate::{
    api::{
        conditions::{Finding, Truth},
        kueue::QUEUE_LABEL,
        reasons::Reason,
    },
    operator::grid_node::worker::{unscheduled, waiting},
    protocol::{
        internal::{JobNode, JobReport, JobState, RequestFailure},
        shard::{Counts, Exit, Report},
    },
};

/// How many failures a report lists.
const MAX_FAILURES: usize = 5;

/// What was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    pub report: JobReport,
    /// Why the Job failed as a whole, when that is nobody's wish.
    pub broken: Option<(Reason, String)>,
    pub seen: Seen,
}

/// What steering needs to know of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub shards: u32,
    /// What it was last asked; absent when somebody took the note away.
    pub asked: Option<Asked>,
    /// It is being deleted.
    pub leaving: bool,
    /// Its pods carry their input.
    pub carried: bool,
    /// It goes by itself some time after it is finished.
    pub expires: bool,
}

pub fn observe(child: &Job, pods: &[Pod]) -> Observed {
    let tally = Tally::of(child, pods);
    let (state, why) = state(child, pods);
    let (reason, message) = why.map(|finding| (finding.reason, finding.message)).unwrap_or_default();
    let running = pods.iter().filter(|pod| phase(pod) == "Running").count();
    Observed {
        broken: broken(child, pods),
        seen: Seen {
            shards: u32::try_from(sizes(child).len()).unwrap_or(u32::MAX),
            asked: Asked::read(child),
            leaving: child.metadata.deletion_timestamp.is_some(),
            carried: carried::is_carried(child),
            expires: job::kept(child).is_some(),
        },
        report: JobReport {
            state,
            reason,
            message,
            total: sizes(child).iter().sum(),
            // Counted where the input was read.
            rejected_lines: 0,
            completed: tally.counts.completed,
            failed: tally.counts.failed,
            running: u32::try_from(running).unwrap_or(u32::MAX),
            prompt_tokens: tally.counts.prompt_tokens,
            output_tokens: tally.counts.output_tokens,
            nodes: tally.nodes.into_iter().map(|(node_name, requests)| JobNode { node_name, requests }).collect(),
            // Nobody is paid for them, so nobody audits them.
            audits_owed: 0,
            audits_passed: 0,
            audits_failed: 0,
            started_at_ms: millis(child.status.as_ref().and_then(|status| status.start_time.as_ref())),
            finished_at_ms: finished_at(child),
            receipts_root: String::new(),
            last_failures: failures(pods),
            waiting: None,
            spend: None,
        },
    }
}

// ------------------------------------------------------------------------------------------------ state

fn holds<'a>(child: &'a Job, type_: &str) -> Option<&'a JobCondition> {
    let conditions = child.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_ && condition.status == "True")
}

/// Whether the pod of a shard said that all of it is answered.
pub fn is_answered(child: &Job, index: u32) -> bool {
    contains(child.status.as_ref().and_then(|status| status.completed_indexes.as_deref()), index)
}

/// Whether nothing of a child runs or will run.
pub fn is_finished(child: &Job) -> bool {
    holds(child, "Complete").is_some() || holds(child, "Failed").is_some()
}

fn state(child: &Job, pods: &[Pod]) -> (JobState, Option<Finding>) {
    if holds(child, "Complete").is_some() {
        return (JobState::Finished, None);
    }
    if let Some(failed) = holds(child, "Failed") {
        // Some shards failed for good and all others are done: that is an end like any other.
        let done = failed.reason.as_deref() == Some("FailedIndexes");
        return (if done { JobState::Finished } else { JobState::Cancelled }, None);
    }
    if child.metadata.deletion_timestamp.is_some() {
        return (JobState::Queued, Some(Finding::no(Reason::WaitingForCapacity, "its Job is being removed")));
    }
    let active = child.status.as_ref().and_then(|status| status.active).unwrap_or(0);
    if child.spec.as_ref().and_then(|spec| spec.suspend) == Some(true) {
        let stopped = Asked::read(child).is_some_and(|asked| asked.stop);
        return match child.labels().get(QUEUE_LABEL) {
            _ if stopped && active == 0 => (JobState::Cancelled, None),
            Some(queue) => (JobState::Queued, Some(waits_in(queue, child))),
            None => (JobState::Suspended, Some(Finding::no(Reason::Suspended, "its Job is suspended"))),
        };
    }
    let any = |wanted: &str| pods.iter().any(|pod| phase(pod) == wanted);
    // Or its pods are done, and its Job does not say so yet.
    match any("Running") || (any("Succeeded") && !any("Pending")) {
        true => (JobState::Running, None),
        false => (JobState::Queued, Some(blocked(pods))),
    }
}

fn waits_in(queue: &str, child: &Job) -> Finding {
    let namespace = child.namespace().unwrap_or_default();
    let message = format!("queue {queue} holds Job {}; see kubectl -n {namespace} get workloads", child.name_any());
    Finding::no(Reason::WaitingForQuota, message)
}

/// Why no pod runs.
fn blocked(pods: &[Pod]) -> Finding {
    let pending = || pods.iter().filter(|pod| phase(pod) == "Pending");
    pending()
        .find_map(waiting)
        .or_else(|| pending().find_map(|pod| unscheduled(pod, None)))
        .unwrap_or_else(|| Finding::no(Reason::WorkerStarting, "its pods are starting"))
}

fn broken(child: &Job, pods: &[Pod]) -> Option<(Reason, String)> {
    let failed = holds(child, "Failed")?;
    let words = || failed.message.clone().unwrap_or_default();
    match failed.reason.as_deref() {
        // By us, or by what the job allows: the job itself knows why.
        Some("FailedIndexes" | "MaxFailedIndexesExceeded" | "DeadlineExceeded") => None,
        Some("PodFailurePolicy") => Some(decisive(pods).unwrap_or_else(|| (Reason::JobFailed, words()))),
        _ => Some((Reason::JobFailed, words())),
    }
}

/// The pod whose exit code ended the Job.
fn decisive(pods: &[Pod]) -> Option<(Reason, String)> {
    pods.iter().find_map(|pod| {
        let end = terminated(pod)?;
        let reason = match Exit::of(end.exit_code)? {
            Exit::ModelDigestMismatch => Reason::ModelDigestMismatch,
            Exit::ModelUnusable => Reason::ModelUnusable,
            _ => return None,
        };
        Some((reason, last_words(end).map(|report| report.message).unwrap_or_default()))
    })
}

// ------------------------------------------------------------------------------------------------ counts

#[derive(Debug, Default)]
struct Tally {
    counts: Counts,
    nodes: BTreeMap<String, u32>,
}

impl Tally {
    /// Counts come from what pods said last; a pod that is gone is taken for one that answered everything, until the results
    /// themselves are read.
    fn of(child: &Job, pods: &[Pod]) -> Self {
        let mut tally = Tally::default();
        let Some(status) = &child.status else { return tally };
        let said = said(pods);
        for (index, size) in (0..).zip(sizes(child)) {
            let report = said.get(&index);
            if contains(status.completed_indexes.as_deref(), index) {
                let counts =
                    report.map_or(Counts { completed: size, ..Counts::default() }, |(report, _)| report.counts);
                tally.add(counts, report.map(|(_, node)| node.as_str()));
            } else if contains(status.failed_indexes.as_deref(), index) {
                let counts = report.map(|(report, _)| report.counts).unwrap_or_default();
                let failed = size.saturating_sub(counts.completed);
                tally.add(Counts { failed, ..counts }, report.map(|(_, node)| node.as_str()));
            }
        }
        tally
    }

    fn add(&mut self, counts: Counts, node: Option<&str>) {
        let sum = &mut self.counts;
        sum.completed = sum.completed.saturating_add(counts.completed);
        sum.failed = sum.failed.saturating_add(counts.failed);
        sum.prompt_tokens = sum.prompt_tokens.saturating_add(counts.prompt_tokens);
        sum.output_tokens = sum.output_tokens.saturating_add(counts.output_tokens);
        if let Some(node) = node.filter(|node| !node.is_empty() && counts.completed > 0) {
            *self.nodes.entry(node.to_owned()).or_default() += counts.completed;
        }
    }
}

/// By shard the last report of a pod, and the node where it ran.
fn said(pods: &[Pod]) -> BTreeMap<u32, (Report, String)> {
    let mut ended: Vec<_> = pods.iter().filter_map(|pod| Some((terminated(pod)?, pod))).collect();
    ended.sort_by_key(|(end, _)| millis(end.finished_at.as_ref()));
    let reports = ended.into_iter().filter_map(|(end, pod)| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
        Some((index_of(pod.annotations())?, (last_words(end)?, node)))
    });
    reports.collect()
}

/// Whether `index` is in a list such as `1,3-5`.
fn contains(list: Option<&str>, index: u32) -> bool {
    list.unwrap_or_default().split(',').any(|part| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        match (from.parse::<u32>(), to.parse::<u32>()) {
            (Ok(from), Ok(to)) => (from..=to).contains(&index),
            _ => false,
        }
    })
}

// ------------------------------------------------------------------------------------------------ pods

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    let states = pod.status.as_ref()?.container_statuses.as_ref()?;
    states.iter().find_map(|status| status.state.as_ref()?.terminated.as_ref())
}

fn last_words(end: &ContainerStateTerminated) -> Option<Report> {
    serde_json::from_str(end.message.as_deref()?).ok()
}

/// The last failures of pods, newest first.
fn failures(pods: &[Pod]) -> Vec<RequestFailure> {
    let mut failed: Vec<_> = pods.iter().filter(|pod| phase(pod) == "Failed").collect();
    failed.sort_by_key(|pod| std::cmp::Reverse(terminated(pod).map(|end| millis(end.finished_at.as_ref()))));
    let failures = failed.into_iter().take(MAX_FAILURES).map(|pod| {
        let shard = index_of(pod.annotations()).map_or_else(|| "shard".into(), |index| format!("shard-{index}"));
        let (reason, message) = cause(pod);
        RequestFailure { custom_id: shard, reason, message: format!("pod {}: {message}", pod.name_any()) }
    });
    failures.collect()
}

/// Why a pod failed.
pub fn cause(pod: &Pod) -> (String, String) {
    let known = |reason: Reason, message: String| (reason.as_str().to_owned(), message);
    if let Some((reason, message)) = disruption(pod) {
        return known(reason, message);
    }
    let Some(end) = terminated(pod) else {
        let words = pod.status.as_ref().and_then(|status| status.message.clone()).unwrap_or_default();
        return known(Reason::ShardFailed, words);
    };
    if end.reason.as_deref() == Some("OOMKilled") {
        return known(Reason::OOMKilled, "used more memory than placement.local.resources.memory allows".into());
    }
    match last_words(end) {
        Some(report) => {
            let finding = Finding::with_code(Truth::False, &report.reason, Reason::ShardFailed, report.message);
            (finding.reason, finding.message)
        }
        None => known(Reason::ShardFailed, format!("ended with exit code {}", end.exit_code)),
    }
}

/// Kubernetes took the pod away.
fn disruption(pod: &Pod) -> Option<(Reason, String)> {
    let status = pod.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    let target = conditions.find(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True");
    match (target, status.reason.as_deref()) {
        (Some(target), _) if target.reason.as_deref() == Some("PreemptionByScheduler") => {
            Some((Reason::Preempted, target.message.clone().unwrap_or_default()))
        }
        (Some(target), _) => Some((Reason::Evicted, target.message.clone().unwrap_or_default())),
        (None, Some("Evicted")) => Some((Reason::Evicted, status.message.clone().unwrap_or_default())),
        (None, _) => None,
    }
}

// ------------------------------------------------------------------------------------------------ times

fn finished_at(child: &Job) -> u64 {
    let completed = child.status.as_ref().and_then(|status| status.completion_time.as_ref());
    let failed = holds(child, "Failed").and_then(|condition| condition.last_transition_time.as_ref());
    millis(completed.or(failed))
}

fn millis(time: Option<&Time>) -> u64 {
    time.and_then(|time| u64::try_from(time.0.as_millisecond()).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::inference_job::local::{job::tests::child, validate::tests::job};

    fn with_status(status: &str) -> Job {
        let mut child = child(&job(""), &[3, 2]);
        child.status = Some(serde_yaml::from_str(status).unwrap());
        child
    }

    fn pod(index: u32, status: &str) -> Pod {
        serde_yaml::from_str(&format!(
            "{{metadata: {{name: p-{index}, annotations: {{batch.kubernetes.io/job-completion-index: '{index}'}}}}, spec: {{nodeName: node-1, containers: []}}, status: {status}}}"
        ))
        .unwrap()
    }

    /// A pod whose container ended.
    fn ended(index: u32, phase: &str, code: i32, message: &str) -> Pod {
        let message = serde_json::to_string(message).unwrap();
        pod(
            index,
            &format!(
                "{{phase: {phase}, containerStatuses: [{{name: worker, image: i, imageID: '', ready: false, restartCount: 0, state: {{terminated: {{exitCode: {code}, message: {message}}}}}}}]}}"
            ),
        )
    }

    const DONE: &str = r#"{"reason":"Done","message":"","completed":2,"failed":1,"promptTokens":30,"outputTokens":12}"#;

    #[test]
    fn progress_is_what_the_pods_of_finished_shards_said() {
        let seen =
            observe(&with_status("{active: 1, completedIndexes: '0'}"), &[ended(0, "Succeeded", 0, DONE)]).report;
        assert_eq!((seen.total, seen.completed, seen.failed, seen.output_tokens), (5, 2, 1, 12));
        assert_eq!(seen.nodes, [JobNode { node_name: "node-1".into(), requests: 2 }]);
        let gone = observe(&with_status("{completedIndexes: '0-1'}"), &[]).report;
        assert_eq!((gone.completed, gone.failed), (5, 0), "a pod that is gone answered all");
    }

    #[test]
    fn a_job_whose_pods_are_done_runs_until_it_says_that_it_is_done() {
        let done = ended(0, "Succeeded", 0, DONE);
        let state = |pods: &[Pod]| observe(&with_status("{active: 1}"), pods).report.state;
        assert_eq!(state(std::slice::from_ref(&done)), JobState::Running);
        assert_eq!(state(&[done, pod(1, "{phase: Pending}")]), JobState::Queued, "another shard waits");
    }

    #[test]
    fn requests_of_a_failed_shard_without_an_answer_have_failed() {
        let status = "{failedIndexes: '1', completedIndexes: '0', conditions: [{type: Failed, status: 'True', reason: FailedIndexes}]}";
        let partial =
            r#"{"reason":"EngineFailed","message":"x","completed":1,"failed":0,"promptTokens":1,"outputTokens":1}"#;
        let seen = observe(&with_status(status), &[ended(1, "Failed", 1, partial)]);
        assert_eq!((seen.report.state, seen.broken), (JobState::Finished, None));
        assert_eq!((seen.report.completed, seen.report.failed), (4, 1));
        assert_eq!(seen.report.last_failures[0].custom_id, "shard-1");
        assert_eq!(seen.report.last_failures[0].reason, "EngineFailed");
    }

    #[test]
    fn causes_are_lifted_up_from_pods_that_do_not_start() {
        let running = with_status("{active: 1}");
        let reason = |status: &str| observe(&running, &[pod(0, status)]).report.reason;
        assert_eq!(
            reason(
                "{phase: Pending, containerStatuses: [{name: w, image: i, imageID: '', ready: false, restartCount: 0, state: {waiting: {reason: ErrImagePull}}}]}"
            ),
            "ImagePullFailed"
        );
        assert_eq!(
            reason("{phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable}]}"),
            "Unschedulable"
        );
        assert_eq!(reason("{phase: Pending}"), "WorkerStarting");
        assert_eq!(observe(&running, &[pod(0, "{phase: Running}")]).report.state, JobState::Running);
    }

    #[test]
    fn memory_eviction_and_preemption_are_told_apart() {
        let oom = "{phase: Failed, containerStatuses: [{name: w, image: i, imageID: '', ready: false, restartCount: 0, state: {terminated: {exitCode: 137, reason: OOMKilled}}}]}";
        assert_eq!(cause(&pod(0, oom)).0, "OOMKilled");
        assert_eq!(
            cause(&pod(0, "{phase: Failed, reason: Evicted, message: disk}")),
            ("Evicted".into(), "disk".into())
        );
        let preempted = "{phase: Failed, conditions: [{type: DisruptionTarget, status: 'True', reason: PreemptionByScheduler, message: by p}]}";
        assert_eq!(cause(&pod(0, preempted)).0, "Preempted");
        assert_eq!(cause(&ended(0, "Failed", 9, "no JSON")), ("ShardFailed".into(), "ended with exit code 9".into()));
    }

    #[test]
    fn a_wrong_model_ends_the_job_with_the_words_of_the_pod_that_found_it() {
        let status =
            "{conditions: [{type: Failed, status: 'True', reason: PodFailurePolicy, message: kubernetes words}]}";
        let words = r#"{"reason":"ModelDigestMismatch","message":"sha256 a, not b","completed":0,"failed":0,"promptTokens":0,"outputTokens":0}"#;
        let seen = observe(&with_status(status), &[ended(0, "Failed", 4, words)]);
        assert_eq!(seen.report.state, JobState::Cancelled);
        assert_eq!(seen.broken, Some((Reason::ModelDigestMismatch, "sha256 a, not b".into())));
        let gone = observe(&with_status(status), &[]);
        assert_eq!(gone.broken, Some((Reason::JobFailed, "kubernetes words".into())));
    }

    #[test]
    fn a_job_in_a_queue_waits_for_quota() {
        let mut queued = job("");
        queued.metadata.labels = Some([(QUEUE_LABEL.to_owned(), "q".to_owned())].into());
        let seen = observe(&child(&queued, &[1]), &[]).report;
        assert_eq!((seen.state, seen.reason.as_str()), (JobState::Queued, "WaitingForQuota"));
        let held = observe(&child(&job("  suspend: true"), &[1]), &[]).report;
        assert_eq!(held.state, JobState::Suspended);
    }

    #[test]
    fn a_suspended_job_that_was_stopped_is_over_once_no_pod_is_left() {
        let mut child = child(&job("  suspend: true"), &[1]);
        let asked = Asked { stop: true, ..Asked::read(&child).unwrap() };
        child.metadata.annotations.get_or_insert_default().insert(super::super::job::ASKED.into(), asked.to_json());
        assert_eq!(observe(&child, &[]).report.state, JobState::Cancelled);
        child.status = Some(serde_yaml::from_str("{active: 1}").unwrap());
        assert_eq!(observe(&child, &[]).report.state, JobState::Suspended);
    }

    #[test]
    fn lists_of_indexes_are_read() {
        assert!(contains(Some("1,3-5"), 4) && contains(Some("0"), 0));
        assert!(!contains(Some("1,3-5"), 2) && !contains(Some(""), 0) && !contains(None, 0));
    }
}
