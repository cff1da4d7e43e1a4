//! IO: the child Job and its pods, as a report.

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{Api, ResourceExt, api::ListParams};

use super::{
    UID_LABEL, child_name,
    observe::{Observed, observe},
    queue,
};
use crate::{
    api::{inference_job::InferenceJob, reasons::Reason},
    operator::{context::Context, error::Error, write::api_beside},
};

/// `None`: there is no child, or none that may be looked for.
pub async fn observed(job: &InferenceJob, context: &Context) -> Result<Option<Observed>, Error> {
    let uid = job.uid().ok_or(Error::Incomplete("a uid"))?;
    if !context.config.local_jobs {
        return Ok(None);
    }
    let namespace = job.namespace().unwrap_or_default();
    let Some(child) = child(&namespace, &child_name(&job.name_any(), &uid), &uid, context).await? else {
        return Ok(None);
    };
    let pods: Api<Pod> = api_beside(context, &namespace);
    let pods = pods.list(&ListParams::default().labels(&format!("{UID_LABEL}={uid}"))).await?;
    let mut seen = observe(&child, &pods.items);
    if seen.report.reason == Reason::WaitingForQuota.as_str()
        && let Some(words) = queue::words(&child, context).await?
    {
        seen.report.message = words;
    }
    Ok(Some(seen))
}

/// The child, if it is this job's.
pub async fn child(namespace: &str, name: &str, uid: &str, context: &Context) -> Result<Option<Job>, Error> {
    let jobs: Api<Job> = api_beside(context, namespace);
    Ok(jobs.get_opt(name).await?.filter(|child| child.labels().get(UID_LABEL).map(String::as_str) == Some(uid)))
}
