//! Why nobody looked at an object. Pure.

use kube::ResourceExt;

use super::{
    cause::{About, Cause},
    facts::Facts,
    pod,
};

/// An object without a single condition.
pub fn not_observed(about: &About, facts: &Facts) -> Cause {
    let cause = Cause::new(about, "NotObserved", "the operator has said nothing about it yet");
    let Some(deployment) = facts.deployments.first() else { return cause };
    let available = deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    if available > 0 {
        return cause;
    }
    let about = About::new("deployment", deployment.name_any(), deployment.namespace().unwrap_or_default());
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let pods = facts
        .pods
        .iter()
        .filter(|pod| pod.labels().get("app.kubernetes.io/component").is_some_and(|component| component == "operator"));
    let behind = pods.flat_map(|pod| pod::causes(pod, facts)).collect();
    let message = format!("none of its {wanted} pods is available");
    cause.because(vec![Cause::new(&about, "OperatorNotRunning", message).because(behind)])
}
