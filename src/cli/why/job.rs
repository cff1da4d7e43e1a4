//! Why an InferenceJob does not go on, or how it ended. Pure.

use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;

use super::{
    cause::{About, Cause, Explanation, Verdict, ordered},
    conditions::{self as found, stands_in_the_way},
    facts::Facts,
    model, network, operator, pod,
};
use crate::{
    api::{
        conditions::{self, Condition, Truth},
        inference_job::{InferenceJob, InferenceJobStatus, Target, condition},
        kueue::{QUEUE_LABEL, Wait, waits_for},
        remedies::Tier,
    },
    cli::lookup::did_you_mean,
};

/// Pods of a Local job that are explained.
const MAX_PODS: usize = 5;

pub fn explain(job: &InferenceJob, facts: &Facts) -> Explanation {
    let about = about(job);
    let status = job.status.clone().unwrap_or_default();
    let (verdict, state, causes) = if conditions::is_true(&status.conditions, condition::COMPLETE) {
        (Verdict::Done, "is complete", after_the_end(&about, &status))
    } else if let Some(failed) = holds(&status.conditions, condition::FAILED) {
        let causes = vec![found::cause(&about, failed).because(failures(&about, &status))];
        (Verdict::Failed, "failed", causes)
    } else {
        (Verdict::NotYet, "is not done yet", in_the_way(job, &about, &status, facts))
    };
    let progress = status.progress.map(|progress| format!(": {progress} requests done")).unwrap_or_default();
    let place = if about.namespace.is_empty() { String::new() } else { format!(" in {}", about.namespace) };
    Explanation {
        summary: format!("{about}{place} {state}{progress}"),
        about: about.to_string(),
        verdict,
        causes,
        not_seen: facts.not_seen.clone(),
    }
}

/// Complete, but single requests may have failed.
fn after_the_end(about: &About, status: &InferenceJobStatus) -> Vec<Cause> {
    let mut causes = failures(about, status);
    let not_paid = conditions::find(&status.conditions, condition::SETTLED).filter(|c| c.status != Truth::True);
    causes.extend(not_paid.map(|condition| found::cause(about, condition)));
    let wrong = conditions::find(&status.conditions, condition::VERIFIED).filter(|c| c.status == Truth::False);
    causes.extend(wrong.map(|condition| found::cause(about, condition)));
    ordered(causes)
}

fn failures(about: &About, status: &InferenceJobStatus) -> Vec<Cause> {
    let cause = |failure: &crate::api::inference_job::FailureStatus| {
        Cause::new(about, &failure.reason, format!("request {}: {}", failure.custom_id, failure.message))
    };
    ordered(status.last_failures.iter().map(cause).collect())
}

fn in_the_way(job: &InferenceJob, about: &About, status: &InferenceJobStatus, facts: &Facts) -> Vec<Cause> {
    let mut causes = Vec::new();
    if job.metadata.deletion_timestamp.is_some() {
        let waits = job.metadata.finalizers.clone().unwrap_or_default().join(", ");
        causes.push(Cause::new(about, "Terminating", format!("it is deleted; finalizers: {waits}")));
    }
    if status.conditions.is_empty() {
        causes.push(operator::not_observed(about, facts));
        return ordered(causes);
    }
    causes.extend(stale(job, about, status));
    let bars = status.conditions.iter().filter(|condition| stands_in_the_way(condition));
    causes.extend(bars.map(|condition| found::cause(about, condition)));
    if holds(&status.conditions, condition::RUNNING).is_some() {
        causes.push(Cause::new(about, "RequestsRunning", how_far(status)));
    }
    if causes.is_empty() {
        causes.push(Cause::new(about, "Progressing", "nothing that is known stands in its way"));
    }
    let mut causes = ordered(causes);
    if let Some(first) = causes.first_mut() {
        let (behind, hint) = behind(job, first, facts);
        *first = first.clone().hint(&hint).because(ordered(behind));
    }
    causes
}

/// The conditions may be about an older spec.
fn stale(job: &InferenceJob, about: &About, status: &InferenceJobStatus) -> Option<Cause> {
    let (seen, now) = (status.observed_generation?, job.metadata.generation?);
    (seen < now).then(|| Cause::new(about, "Progressing", "the operator has not yet seen the last change of the spec"))
}

fn how_far(status: &InferenceJobStatus) -> String {
    let requests = status.requests.unwrap_or_default();
    let rate = status.throughput.as_ref().map(|rate| format!(", {rate} tokens/s")).unwrap_or_default();
    let nodes = status.nodes.map(|nodes| format!(" on {nodes} nodes")).unwrap_or_default();
    format!("{} of {} answered, {} failed{nodes}{rate}", requests.completed, requests.total, requests.failed)
}

/// What is behind the first cause: the model and the nodes, the network, or the pods.
fn behind(job: &InferenceJob, first: &Cause, facts: &Facts) -> (Vec<Cause>, String) {
    let wanted = &job.spec.workload.model_ref.name;
    if first.reason == "ModelNotFound" {
        return (Vec::new(), did_you_mean(wanted, facts.models.iter().map(ResourceExt::name_any)));
    }
    if network::explains(&first.reason) {
        let networks = facts.networks.iter().flat_map(|network| network::causes(network, facts));
        return (networks.collect(), String::new());
    }
    let waits = matches!(
        first.kind_of_cause,
        Tier::Unavailable | Tier::NoMatchingNode | Tier::WaitingForCapacity | Tier::WaitingForQuota
    );
    if job.spec.placement.target == Target::Local {
        let waits = waits || first.kind_of_cause == Tier::Running;
        return (if waits { local(facts) } else { Vec::new() }, String::new());
    }
    if !waits || first.kind_of_cause == Tier::WaitingForQuota {
        return (Vec::new(), String::new());
    }
    let model = facts.models.iter().find(|model| model.name_any() == *wanted);
    let networks = facts.networks.iter().flat_map(|network| network::holds_up_work(network, facts));
    let mut causes: Vec<Cause> = networks.collect();
    // That nobody serves it is what the nodes explain better.
    let models = model.map(|model| model::causes(model, facts)).unwrap_or_default();
    causes.extend(models.into_iter().filter(|cause| cause.reason != first.reason));
    causes.extend(model::nodes(wanted, model, facts));
    (causes, String::new())
}

/// The batch/v1 Job of a Local job and its pods.
fn local(facts: &Facts) -> Vec<Cause> {
    let mut causes: Vec<Cause> = facts.jobs.iter().filter_map(|job| queued(job, facts)).collect();
    causes.extend(facts.jobs.iter().flat_map(|job| pod::events_about(&about_child(job), facts, &[])));
    let pods = facts.pods.iter().map(|pod| pod::causes(pod, facts)).filter(|causes| !causes.is_empty());
    causes.extend(pods.take(MAX_PODS).flatten());
    causes
}

/// A Job that Kueue has not let go yet, and what its Workload says about that.
fn queued(job: &Job, facts: &Facts) -> Option<Cause> {
    let suspended = job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or(false);
    let queue = job.labels().get(QUEUE_LABEL).filter(|_| suspended)?;
    let workload = facts.workloads.iter().find(|workload| {
        workload.owner_references().iter().any(|owner| owner.kind == "Job" && owner.name == job.name_any())
    });
    let behind = workload.and_then(|workload| {
        let name = &workload.spec.queue_name;
        let (wait, words) = waits_for(workload, facts.local_queues.iter().find(|queue| queue.name_any() == *name))?;
        let reason = match wait {
            Wait::Quota => "QuotaNotReserved",
            Wait::Checks => "AdmissionChecksPending",
            Wait::Activation => "WorkloadDeactivated",
        };
        let about = About::new("workload", workload.name_any(), workload.namespace().unwrap_or_default());
        Some(Cause::new(&about, reason, words))
    });
    let message = format!("suspended until the queue {queue} admits it");
    Some(Cause::new(&about_child(job), "QueuedByKueue", message).because(behind.into_iter().collect()))
}

fn about_child(job: &Job) -> About {
    About::new("job", job.name_any(), job.namespace().unwrap_or_default())
}

fn holds<'a>(all: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions::find(all, type_).filter(|condition| condition.status == Truth::True)
}

pub fn about(job: &InferenceJob) -> About {
    About::new("inferencejob", job.name_any(), job.namespace().unwrap_or_default())
}
