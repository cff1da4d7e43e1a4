//! Pure: the worker's pod as one condition. The cause is lifted up from the pod, so that nobody has to look for it.

use k8s_openapi::api::core::v1::{ContainerStateWaiting, Pod};

use super::dereference::Worker;
use crate::api::{conditions::Finding, reasons::Reason};

pub fn available(worker: &Worker) -> Finding {
    let ready = worker.stateful_set.as_ref().and_then(|set| set.status.as_ref()?.ready_replicas).unwrap_or(0);
    if ready > 0 {
        return Finding::yes(Reason::WorkerReady, "the worker's pod is ready");
    }
    match &worker.pod {
        None => Finding::no(Reason::WorkerStarting, "the worker's pod is not there yet"),
        Some(pod) => waiting(pod).or_else(|| unscheduled(pod)).unwrap_or_else(|| starting(pod)),
    }
}

/// Why its container does not start.
pub(in crate::operator) fn waiting(pod: &Pod) -> Option<Finding> {
    let states = pod.status.as_ref()?.container_statuses.as_ref()?;
    let ContainerStateWaiting { reason, message } =
        states.iter().find_map(|status| status.state.as_ref()?.waiting.clone())?;
    let message = message.unwrap_or_default();
    match reason.as_deref()? {
        "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => {
            Some(Finding::no(Reason::ImagePullBackOff, message))
        }
        "CrashLoopBackOff" => {
            let last = states.iter().find_map(|status| status.last_state.as_ref()?.terminated.clone());
            let ended = last.map(|end| format!("; it last ended with exit code {}", end.exit_code)).unwrap_or_default();
            let name = pod.metadata.name.clone().unwrap_or_default();
            Some(Finding::no(Reason::CrashLoopBackOff, format!("see kubectl logs {name} --previous{ended}")))
        }
        _ => None,
    }
}

/// Why it has no Kubernetes node.
pub(in crate::operator) fn unscheduled(pod: &Pod) -> Option<Finding> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    Some(Finding::no(Reason::Unschedulable, found.message.clone().unwrap_or_default()))
}

fn starting(pod: &Pod) -> Finding {
    let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_else(|| "Pending".into());
    Finding::no(Reason::WorkerStarting, format!("the worker's pod is {phase} and not ready yet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pod: &str) -> Finding {
        available(&Worker { stateful_set: None, pod: Some(serde_yaml::from_str(pod).unwrap()) })
    }

    #[test]
    fn causes_are_lifted_up_from_the_pod() {
        let pull = "status: {containerStatuses: [{name: w, image: i, imageID: '', ready: false, restartCount: 0, state: {waiting: {reason: ErrImagePull, message: no such image}}}]}";
        assert_eq!((found(pull).reason.as_str(), found(pull).message.as_str()), ("ImagePullBackOff", "no such image"));
        let crash = "metadata: {name: worker-a-0}\nstatus: {containerStatuses: [{name: w, image: i, imageID: '', ready: false, restartCount: 3, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 2}}}]}";
        assert!(found(crash).message.contains("worker-a-0") && found(crash).message.contains("exit code 2"));
        let unschedulable = "status: {phase: Pending, conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: 0/3 nodes are available}]}";
        assert_eq!(found(unschedulable).reason, "Unschedulable");
        assert_eq!(found("status: {phase: Running}").reason, "WorkerStarting");
    }
}
