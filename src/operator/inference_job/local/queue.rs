//! IO: what Kueue says about a child that it holds back. Read only where the operator was told that there is Kueue (`--kueue`), and
//! never written: the child and its `suspend` are all that Kueue and the operator share.

use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, ResourceExt,
    api::ListParams,
    runtime::{Controller, watcher},
};

use super::child_name;
use crate::{
    api::{
        inference_job::Target,
        kueue::{JOB_UID_LABEL, LocalQueue, Workload, local_queues, waits_for, workloads},
    },
    operator::{
        context::Context,
        error::{Error, is_forbidden, is_not_found},
        inference_job::known::KnownJob,
        runner::{self, Guarded},
        watches,
    },
};

/// Reconciles an InferenceJob when the Workload of its child changes: the child itself does not while it waits.
pub fn watch(controller: Controller<Guarded<KnownJob>>, context: &Context) -> Controller<Guarded<KnownJob>> {
    let resource = workloads();
    let api: Api<Workload> = Api::all_with(context.client.clone(), &resource);
    let store = controller.store();
    let of_jobs = watcher::Config::default().labels(JOB_UID_LABEL);
    let told =
        move |workload: Workload| runner::select(&store, |job: &KnownJob| !job.is_over && belongs_to(&workload, job));
    controller.watches_stream_with(watches::touched(api, of_jobs), told, resource)
}

/// Whether a Workload is that of the child of `job`.
fn belongs_to(workload: &Workload, job: &KnownJob) -> bool {
    if job.target != Target::Local || workload.namespace() != job.namespace() {
        return false;
    }
    let child = child_name(&job.name_any(), &job.uid().unwrap_or_default());
    workload.owner_references().iter().any(|owner| owner.kind == "Job" && owner.name == child)
}

/// Why the queue holds a child back, in a sentence. `None` where Kueue has said nothing, or may not be asked.
pub async fn words(child: &Job, context: &Context) -> Result<Option<String>, Error> {
    let (Some(uid), Some(namespace)) = (child.uid(), child.namespace()) else { return Ok(None) };
    if !context.config.kueue {
        return Ok(None);
    }
    let api: Api<Workload> = Api::namespaced_with(context.client.clone(), &namespace, &workloads());
    let of_child = ListParams::default().labels(&format!("{JOB_UID_LABEL}={uid}")).limit(1);
    let found = if_there(api.list(&of_child).await)?.and_then(|found| found.items.into_iter().next());
    let Some(workload) = found else { return Ok(None) };
    let queues: Api<LocalQueue> = Api::namespaced_with(context.client.clone(), &namespace, &local_queues());
    let queue = match workload.spec.queue_name.as_str() {
        "" => None,
        name => if_there(queues.get(name).await)?,
    };
    Ok(waits_for(&workload, queue.as_ref()).map(|(_, words)| words))
}

/// Without Kueue, or without the right to read it, the answer is poorer and nothing is wrong.
fn if_there<T>(found: Result<T, kube::Error>) -> Result<Option<T>, Error> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_not_found(&error) || is_forbidden(&error) => {
            tracing::debug!(%error, "Kueue's words are not known");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::validate::tests::job, *};

    fn known() -> KnownJob {
        serde_json::from_value(serde_json::to_value(job("")).unwrap()).unwrap()
    }

    fn workload(namespace: &str, owner: &str) -> Workload {
        serde_yaml::from_str(&format!(
            "{{metadata: {{name: w, namespace: {namespace}, ownerReferences: [{{apiVersion: batch/v1, kind: Job, name: {owner}, uid: c1}}]}}, spec: {{queueName: q}}}}"
        ))
        .unwrap()
    }

    #[test]
    fn a_workload_leads_to_the_job_whose_child_it_is_for() {
        let job = known();
        let child = child_name("hello", "u1");
        assert_eq!(job.uid().as_deref(), Some("u1"));
        assert!(belongs_to(&workload("team-a", &child), &job));
        assert!(!belongs_to(&workload("team-b", &child), &job));
        assert!(!belongs_to(&workload("team-a", "another"), &job));
    }
}
