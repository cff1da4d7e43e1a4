//! Why a pod does not do its work. Pure.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Event, Pod, PodCondition};
use kube::ResourceExt;

use super::{
    cause::{About, Cause, ordered},
    facts::Facts,
};

/// Warnings that are told about one pod.
const MAX_EVENTS: usize = 2;

/// Nothing for a pod that is ready.
pub fn causes(pod: &Pod, facts: &Facts) -> Vec<Cause> {
    let about = about(pod);
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let finished = status.phase.as_deref() == Some("Succeeded");
    if finished || has(&conditions, "Ready", "True").is_some() {
        return Vec::new();
    }
    let mut found = Vec::new();
    if let Some(reason) = status.reason.filter(|reason| !reason.is_empty()) {
        found.push(Cause::new(&about, &reason, status.message.unwrap_or_default()));
    }
    if let Some(target) = has(&conditions, "DisruptionTarget", "True") {
        let reason = target.reason.clone().unwrap_or_else(|| "Evicted".into());
        found.push(Cause::new(&about, &reason, target.message.clone().unwrap_or_default()));
    }
    if let Some(unscheduled) = has(&conditions, "PodScheduled", "False") {
        let reason = unscheduled.reason.clone().unwrap_or_else(|| "Unschedulable".into());
        found.push(Cause::new(&about, &reason, unscheduled.message.clone().unwrap_or_default()));
    }
    let containers = status.init_container_statuses.into_iter().chain(status.container_statuses).flatten();
    found.extend(containers.filter_map(|container| container_cause(&about, pod, &container)));
    found.extend(events_about(&about, facts, &found));
    if found.is_empty() {
        let phase = status.phase.unwrap_or_else(|| "Pending".into());
        found.push(Cause::new(&about, "WorkerStarting", format!("the pod is {phase} and not ready yet")));
    }
    ordered(found)
}

pub fn about(pod: &Pod) -> About {
    About::new("pod", pod.name_any(), pod.namespace().unwrap_or_default())
}

fn has<'a>(conditions: &'a [PodCondition], type_: &str, status: &str) -> Option<&'a PodCondition> {
    conditions.iter().find(|condition| condition.type_ == type_ && condition.status == status)
}

fn container_cause(about: &About, pod: &Pod, status: &ContainerStatus) -> Option<Cause> {
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.as_ref().and_then(|state| state.terminated.clone());
    if let Some(waiting) = state.waiting {
        let message = waiting.message.unwrap_or_default();
        return Some(match waiting.reason.as_deref().unwrap_or("ContainerCreating") {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                Cause::new(about, "ImagePullBackOff", format!("{}: {message}", status.image))
            }
            "CrashLoopBackOff" => last.map_or_else(
                || Cause::new(about, "CrashLoopBackOff", message),
                |ended| ending(about, pod, status, &ended, "CrashLoopBackOff"),
            ),
            other => Cause::new(about, other, message),
        });
    }
    let ended = state.terminated.filter(|ended| ended.exit_code != 0).or_else(|| last.filter(|_| !status.ready));
    ended.map(|ended| ending(about, pod, status, &ended, "Error"))
}

/// How a container ended. That the kernel killed it for memory is said by the reason and not by the exit code.
fn ending(about: &About, pod: &Pod, status: &ContainerStatus, ended: &ContainerStateTerminated, code: &str) -> Cause {
    let times = match status.restart_count {
        0 => String::new(),
        n => format!(", restarted {n} times"),
    };
    if ended.reason.as_deref() == Some("OOMKilled") {
        let limit = memory_limit(pod, &status.name).map(|limit| format!(" of {limit}")).unwrap_or_default();
        let message = format!("container {} used more than its memory limit{limit}{times}", status.name);
        return Cause::new(about, "OOMKilled", message);
    }
    let said = ended.message.as_deref().map(|message| format!(": {message}")).unwrap_or_default();
    Cause::new(about, code, format!("container {} ended with exit code {}{times}{said}", status.name, ended.exit_code))
}

fn memory_limit(pod: &Pod, container: &str) -> Option<String> {
    let containers = &pod.spec.as_ref()?.containers;
    let limits = containers.iter().find(|c| c.name == container)?.resources.as_ref()?.limits.as_ref()?;
    limits.get("memory").map(|limit| limit.0.clone())
}

/// Warnings that say something that is not known yet, newest first.
pub fn events_about(about: &About, facts: &Facts, known: &[Cause]) -> Vec<Cause> {
    // These repeat what the conditions and container states say.
    const ECHOES: [&str; 6] = ["FailedScheduling", "BackOff", "Failed", "Unhealthy", "ErrImagePull", "NotReady"];
    let mut events: Vec<&Event> = facts.events.iter().filter(|event| is_warning_about(event, about)).collect();
    events.sort_by_key(|event| std::cmp::Reverse(when(event)));
    let mut found: Vec<Cause> = Vec::new();
    for event in events {
        let Some(reason) = event.reason.as_deref() else { continue };
        let told = known.iter().chain(&found).any(|cause| cause.reason == reason) || ECHOES.contains(&reason);
        if !told && found.len() < MAX_EVENTS {
            found.push(Cause::new(about, reason, event.message.clone().unwrap_or_default()));
        }
    }
    found
}

fn is_warning_about(event: &Event, about: &About) -> bool {
    let object = &event.involved_object;
    event.type_.as_deref() == Some("Warning")
        && object.name.as_deref() == Some(about.name.as_str())
        && object.kind.as_deref().is_some_and(|kind| kind.eq_ignore_ascii_case(about.kind))
}

/// When an event was last seen, in unix seconds: which of its fields says so depends on who wrote it.
pub fn when(event: &Event) -> i64 {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|t| t.0.as_second());
    let last = event.last_timestamp.as_ref().map(|time| time.0.as_second());
    let time = event.event_time.as_ref().map(|time| time.0.as_second());
    let made = event.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
    series.or(last).or(time).or(made).unwrap_or(0)
}
