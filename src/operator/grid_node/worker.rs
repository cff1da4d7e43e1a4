//! Pure: the worker's pod as one condition. The cause is lifted up from the pod and its Events, so that nobody has to look for it.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodCondition};
use kube::Resource;

use super::{
    dereference::{Trouble, Worker},
    validate::Hardware,
};
use crate::api::{conditions::Finding, reasons::Reason};

/// Whether the worker's pod is ready, and why not: the cause nearest to the root wins.
pub fn available(worker: &Worker, hardware: Option<&Hardware>) -> Finding {
    let Some(pod) = &worker.pod else { return without_pod(worker) };
    // A pod may answer its probe for long on a device that is lost.
    if is_ready(pod) && device_lost(pod).is_none() {
        return Finding::yes(Reason::WorkerReady, "the worker's pod is ready");
    }
    disrupted(pod)
        .or_else(|| device_lost(pod))
        .or_else(|| missing_secret(worker))
        .or_else(|| waiting(pod))
        .or_else(|| ended(pod))
        .or_else(|| unscheduled(pod, hardware))
        .or_else(|| not_prepared(&worker.troubles))
        .unwrap_or_else(|| starting(pod))
}

/// The pod's own word, which comes before that of the StatefulSet.
pub fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// uid of the object whose Events may say what nothing else says: of the StatefulSet while it cannot make the pod, of the pod
/// while the kubelet prepares it.
pub fn silent(worker: &Worker) -> Option<String> {
    match &worker.pod {
        None => {
            let set = worker.stateful_set.as_ref()?;
            // Before that the controller has not looked yet.
            set.status.as_ref()?.observed_generation?;
            set.metadata.uid.clone()
        }
        Some(pod) => {
            let scheduled = condition(pod, "PodScheduled").is_some_and(|condition| condition.status == "True");
            let pending = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending");
            (scheduled && pending).then(|| pod.meta().uid.clone()).flatten()
        }
    }
}

fn without_pod(worker: &Worker) -> Finding {
    let set = worker.stateful_set.as_ref();
    if set.and_then(|set| set.status.as_ref()?.ready_replicas).unwrap_or(0) > 0 {
        return Finding::yes(Reason::WorkerReady, "the worker's pod is ready");
    }
    match worker.troubles.iter().find(|trouble| trouble.reason == "FailedCreate") {
        Some(trouble) => Finding::no(Reason::PodRefused, trouble.message.clone()),
        None => Finding::no(Reason::WorkerStarting, "the worker's pod is not there yet"),
    }
}

/// Kubernetes took the pod away, or is about to.
fn disrupted(pod: &Pod) -> Option<Finding> {
    let target = condition(pod, "DisruptionTarget").filter(|condition| condition.status == "True");
    if let Some(PodCondition { reason, message, .. }) = target {
        let message = message.clone().unwrap_or_default();
        let reason = match reason.as_deref().unwrap_or_default() {
            "PreemptionByScheduler" => Reason::Preempted,
            "DeletionByDeviceTaintManager" => Reason::DeviceLost,
            _ => Reason::Evicted,
        };
        return Some(Finding::no(reason, message));
    }
    let status = pod.status.as_ref()?;
    let message = || status.message.clone().unwrap_or_default();
    match status.reason.as_deref()? {
        "Evicted" | "NodeLost" | "NodeShutdown" | "Terminated" => Some(Finding::no(Reason::Evicted, message())),
        "Preempting" => Some(Finding::no(Reason::Preempted, message())),
        // The kubelet had fewer devices than the scheduler thought.
        "UnexpectedAdmissionError" => Some(Finding::no(Reason::DeviceLost, message())),
        _ => None,
    }
}

/// An allocated device that its plugin or driver calls unhealthy.
fn device_lost(pod: &Pod) -> Option<Finding> {
    let resources = containers(pod).iter().flat_map(|container| container.allocated_resources_status.iter().flatten());
    for resource in resources {
        let unhealthy = |health: &Option<String>| health.as_deref() == Some("Unhealthy");
        let mut devices = resource.resources.iter().flatten();
        if let Some(device) = devices.find(|device| unhealthy(&device.health)) {
            let message = format!("device {} of {} is unhealthy", device.resource_id, resource.name);
            return Some(Finding::no(Reason::DeviceLost, message));
        }
    }
    None
}

fn missing_secret(worker: &Worker) -> Option<Finding> {
    let missing = worker.missing_secrets.as_slice();
    let message = || format!("spec.imagePullSecrets: no Secret {} in the operator's namespace", missing.join(", "));
    (!missing.is_empty()).then(|| Finding::no(Reason::MissingSecret, message()))
}

/// What the kubelet waits for.
pub(in crate::operator) fn waiting(pod: &Pod) -> Option<Finding> {
    let states = containers(pod);
    let waiting = states.iter().find_map(|status| status.state.as_ref()?.waiting.clone())?;
    let message = waiting.message.unwrap_or_default();
    match waiting.reason.as_deref()? {
        "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError" => {
            Some(Finding::no(Reason::ImagePullFailed, message))
        }
        "CreateContainerConfigError" if message.contains("secret") => Some(Finding::no(Reason::MissingSecret, message)),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            Some(Finding::no(Reason::PodRefused, message))
        }
        "CrashLoopBackOff" => {
            let last = states.iter().find_map(last_end);
            Some(last.and_then(|end| out_of_memory(&end)).unwrap_or_else(|| crash_loop(pod)))
        }
        _ => None,
    }
}

/// The last end of a container that runs again, or not yet again.
fn ended(pod: &Pod) -> Option<Finding> {
    let end = containers(pod).iter().find_map(last_end)?;
    out_of_memory(&end)
}

fn last_end(status: &ContainerStatus) -> Option<ContainerStateTerminated> {
    let of = |state: &Option<ContainerState>| state.as_ref()?.terminated.clone();
    of(&status.state).or_else(|| of(&status.last_state))
}

fn out_of_memory(end: &ContainerStateTerminated) -> Option<Finding> {
    let message = "the worker needed more memory than spec.resources.memory and was killed";
    (end.reason.as_deref() == Some("OOMKilled")).then(|| Finding::no(Reason::OOMKilled, message))
}

fn crash_loop(pod: &Pod) -> Finding {
    let last = containers(pod).iter().find_map(last_end);
    let ended = last.map(|end| format!("; it last ended with exit code {}", end.exit_code)).unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    Finding::no(Reason::CrashLoopBackOff, format!("see kubectl logs {name} --previous{ended}"))
}

/// Why it has no Kubernetes node.
pub(in crate::operator) fn unscheduled(pod: &Pod, hardware: Option<&Hardware>) -> Option<Finding> {
    let found = condition(pod, "PodScheduled").filter(|condition| condition.status == "False")?;
    let words = found.message.clone().unwrap_or_default();
    let message = match hardware {
        Some(Hardware::ExtendedResource { name, count }) if words.contains(&format!("Insufficient {name}")) => {
            format!("no Kubernetes node has {count} {name} free: {words}")
        }
        Some(Hardware::Dra { device_class, count }) if words.contains("claim") => {
            format!("no Kubernetes node has {count} free device(s) of DeviceClass {device_class}: {words}")
        }
        _ => words,
    };
    Some(Finding::no(Reason::Unschedulable, message))
}

/// Told only in Events: the kubelet says ContainerCreating meanwhile.
fn not_prepared(troubles: &[Trouble]) -> Option<Finding> {
    let words = ["FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedPrepareDynamicResources"];
    let trouble = troubles.iter().find(|trouble| words.contains(&trouble.reason.as_str()))?;
    let secret = trouble.message.contains("secret") && trouble.message.contains("not found");
    let reason = if secret { Reason::MissingSecret } else { Reason::VolumeNotMounted };
    Some(Finding::no(reason, trouble.message.clone()))
}

fn starting(pod: &Pod) -> Finding {
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_else(|| "Pending".into());
    Finding::no(Reason::WorkerStarting, format!("the worker's pod is {phase} and not ready yet"))
}

fn containers(pod: &Pod) -> &[ContainerStatus] {
    pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default()
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pod: &str) -> Worker {
        Worker { pod: Some(serde_yaml::from_str(pod).unwrap()), ..Worker::default() }
    }

    fn found(pod: &str) -> Finding {
        available(&of(pod), None)
    }

    /// A pod whose one container is in this state.
    fn container(state: &str) -> String {
        format!(
            "metadata: {{name: worker-a-0}}\nstatus: {{containerStatuses: [{{name: w, image: i, imageID: '', ready: false, restartCount: 3, {state}}}]}}"
        )
    }

    #[test]
    fn readiness_is_the_pods_own_word() {
        let ready = "status: {conditions: [{type: Ready, status: 'True'}]}";
        assert!(found(ready).is_true());
        let leaving = "metadata: {deletionTimestamp: '2026-01-01T00:00:00Z'}\nstatus: {conditions: [{type: Ready, status: 'True'}]}";
        assert!(!found(leaving).is_true());
    }

    #[test]
    fn causes_are_lifted_up_from_the_container() {
        let pull = found(&container("state: {waiting: {reason: ErrImagePull, message: no such image}}"));
        assert_eq!((pull.reason.as_str(), pull.message.as_str()), ("ImagePullFailed", "no such image"));
        let crash =
            found(&container("state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 2}}"));
        assert!(crash.message.contains("worker-a-0") && crash.message.contains("exit code 2"));
        let memory = "lastState: {terminated: {exitCode: 137, reason: OOMKilled}}";
        for state in ["running: {}", "waiting: {reason: CrashLoopBackOff}"] {
            assert_eq!(found(&container(&format!("state: {{{state}}}, {memory}"))).reason, "OOMKilled");
        }
        let config = "state: {waiting: {reason: CreateContainerConfigError, message: 'secret \"x\" not found'}}";
        assert_eq!(found(&container(config)).reason, "MissingSecret");
        assert_eq!(found("status: {phase: Running}").reason, "WorkerStarting");
    }

    #[test]
    fn eviction_preemption_and_device_loss_are_told_apart() {
        for (reason, code) in [
            ("PreemptionByScheduler", "Preempted"),
            ("EvictionByEvictionAPI", "Evicted"),
            ("TerminationByKubelet", "Evicted"),
            ("DeletionByTaintManager", "Evicted"),
            ("DeletionByDeviceTaintManager", "DeviceLost"),
        ] {
            let pod = format!("status: {{conditions: [{{type: DisruptionTarget, status: 'True', reason: {reason}}}]}}");
            assert_eq!(found(&pod).reason, code, "{reason}");
        }
        assert_eq!(found("status: {phase: Failed, reason: Evicted, message: low on memory}").reason, "Evicted");
        let admission = "status: {phase: Failed, reason: UnexpectedAdmissionError, message: 'Allocate failed due to requested number of devices unavailable for example.com/gpu'}";
        assert_eq!(found(admission).reason, "DeviceLost");
        let unhealthy = "state: {running: {}}, allocatedResourcesStatus: [{name: example.com/gpu, resources: [{resourceID: gpu-0, health: Unhealthy}]}]";
        assert_eq!(found(&container(unhealthy)).message, "device gpu-0 of example.com/gpu is unhealthy");
        let still_ready = container(unhealthy)
            .replace("containerStatuses", "conditions: [{type: Ready, status: 'True'}], containerStatuses");
        assert_eq!(found(&still_ready).reason, "DeviceLost");
    }

    #[test]
    fn a_missing_accelerator_is_named_before_the_schedulers_words() {
        let pod = "status: {phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: '0/3 nodes are available: 3 Insufficient example.com/gpu.'}]}";
        let gpu = Hardware::ExtendedResource { name: "example.com/gpu".into(), count: 2 };
        let finding = available(&of(pod), Some(&gpu));
        assert_eq!(finding.reason, "Unschedulable");
        assert!(
            finding.message.starts_with("no Kubernetes node has 2 example.com/gpu free: 0/3"),
            "{}",
            finding.message
        );
        let plain = available(&of(pod), Some(&Hardware::CpuOnly));
        assert!(plain.message.starts_with("0/3"), "{}", plain.message);
        let claims = pod.replace("3 Insufficient example.com/gpu", "3 cannot allocate all claims");
        let class = Hardware::Dra { device_class: "gpu.example.com".into(), count: 1 };
        assert!(available(&of(&claims), Some(&class)).message.contains("DeviceClass gpu.example.com"));
    }

    #[test]
    fn what_only_events_tell_is_told() {
        let trouble = |reason: &str, message: &str| Trouble { reason: reason.into(), message: message.into() };
        let refused = Worker { troubles: vec![trouble("FailedCreate", "exceeded quota")], ..Worker::default() };
        assert_eq!(available(&refused, None).reason, "PodRefused");
        let pending = "status: {phase: Pending, conditions: [{type: PodScheduled, status: 'True'}]}";
        let mount = |message: &str| Worker { troubles: vec![trouble("FailedMount", message)], ..of(pending) };
        assert_eq!(available(&mount("secret \"worker-a-key\" not found"), None).reason, "MissingSecret");
        assert_eq!(available(&mount("timed out waiting"), None).reason, "VolumeNotMounted");
        let pull = Worker { missing_secrets: vec!["registry".into()], ..of(pending) };
        assert!(available(&pull, None).message.contains("registry"));
    }

    #[test]
    fn events_are_read_only_where_they_can_say_something() {
        assert_eq!(silent(&Worker::default()), None);
        let set = |status: &str| Worker {
            stateful_set: Some(serde_yaml::from_str(&format!("metadata: {{uid: s1}}\nstatus: {status}")).unwrap()),
            ..Worker::default()
        };
        assert_eq!(silent(&set("{replicas: 0}")), None, "its controller has not looked yet");
        assert_eq!(silent(&set("{replicas: 0, observedGeneration: 1}")), Some("s1".into()));
        assert_eq!(silent(&of("metadata: {uid: p1}\nstatus: {phase: Running}")), None);
        let pending =
            "metadata: {uid: p1}\nstatus: {phase: Pending, conditions: [{type: PodScheduled, status: 'True'}]}";
        assert_eq!(silent(&of(pending)), Some("p1".into()));
    }
}
