//! IO: has the child made, steers it, and takes away what is no longer needed. Every step may be repeated.

use std::fmt::Debug;

use k8s_openapi::api::{batch::v1::Job, core::v1::ServiceAccount};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    UID_LABEL, child_name, dereference, identity,
    job::{self, ASKED, Asked, KEPT_SECONDS},
    make::{Hindrance, make},
    observe::{is_finished, observe},
    validate::{LocalJob, ModelFrom},
};
use crate::{
    api::{
        conditions::Finding,
        ids::ModelDigest,
        inference_job::{InferenceJob, condition},
        reasons::Reason,
    },
    operator::{
        context::Context,
        error::{Error, is_forbidden, is_not_found},
        grid_model,
        inference_job::{
            MANAGER,
            apply::{Applied, unreadable},
            build::Submission,
            input::source::{Reader, Survey},
            validate::Ending,
        },
        write::api_beside,
    },
    protocol::internal::{JobControl, ModelState, model_file_path},
};

/// A pod that is told to stop hands back what it has within its grace period; then the Job is failed.
const STOP_SECONDS: i64 = 1;

// ------------------------------------------------------------------------------------------------ submission

pub async fn submit(
    submission: &Submission,
    local: &LocalJob,
    survey: &Survey,
    reader: &Reader,
    applied: Applied,
    context: &Context,
) -> Result<Applied, Error> {
    if !context.config.local_jobs {
        let message =
            "this operator runs no Local jobs; an admin allows them: helm upgrade … --set localJobs.enabled=true";
        return Ok(applied.found(condition::ADMITTED, Finding::no(Reason::LocalJobsDisabled, message)));
    }
    let url = match &local.model_from {
        None => Err(Finding::no(
            Reason::ModelNotFound,
            "its GridModel was deleted, and nothing says any more where the file comes from",
        )),
        Some(ModelFrom::Place(place)) => Ok(place.clone()),
        Some(ModelFrom::Gateway) => from_gateway(&submission.frame.model_digest, context).await,
    };
    let url = match url {
        Ok(url) => url,
        Err(finding) => return Ok(applied.found(condition::ADMITTED, finding)),
    };
    match make(submission, local, survey, reader, &url, context).await {
        Ok(child) => Ok(Applied { report: Some(observe(&child, &[]).report), ..applied }),
        Err(Hindrance::Input(error)) => unreadable(error),
        Err(Hindrance::CannotCut(error)) => {
            let message = error.to_string();
            let ending = Ending::Stopped { reason: Reason::InputTooLarge, message: message.clone() };
            Ok(Applied { ending: Some(ending), ..applied }
                .found(condition::ACCEPTED, Finding::no(Reason::InputTooLarge, message)))
        }
        Err(taken @ (Hindrance::NameTaken(_) | Hindrance::AccountTaken)) => {
            let message = taken.to_string();
            Ok(applied.found(condition::ADMITTED, Finding::no(Reason::NameTaken, message)))
        }
        // Also a ResourceQuota: the message says which of the two.
        Err(Hindrance::Other(Error::Kube(error))) if is_forbidden(&error) => {
            Ok(applied.found(condition::ADMITTED, Finding::no(Reason::Forbidden, error.to_string())))
        }
        Err(Hindrance::Other(error)) => Err(error),
    }
}

/// A URL under which the gateway gives the file to this model's jobs, once it has it.
async fn from_gateway(digest: &ModelDigest, context: &Context) -> Result<String, Finding> {
    let report = match context.gateway.model(digest).await {
        Ok(Some(report)) => report,
        Ok(None) => return Err(Finding::no(Reason::ModelFetching, "the gateway does not know the model yet")),
        Err(error) => return Err(error.finding()),
    };
    if report.state != ModelState::Ready {
        return Err(grid_model::status::resolved(&report));
    }
    let service = &context.config.results_service;
    let host = service.split_once('/').and_then(|(namespace, rest)| {
        let (name, port) = rest.split_once(':')?;
        Some(format!("{name}.{namespace}.svc:{port}"))
    });
    let Some(host) = host.filter(|_| !report.read_key.is_empty()) else {
        let message = "its pods would get the model from the gateway, which is older than this operator or has no Service \
                       (GRID_RESULTS_SERVICE); name a source that is open to everybody";
        return Err(Finding::no(Reason::ModelUnreachable, message));
    };
    Ok(format!("http://{host}{}", model_file_path(digest, &report.read_key)))
}

// ------------------------------------------------------------------------------------------------ steering

/// Tells the child how to go on; sends nothing when it was told already.
pub async fn steer(local: &LocalJob, control: JobControl, context: &Context) -> Result<(), Error> {
    let Some(seen) = local.seen.filter(|seen| !seen.leaving) else { return Ok(()) };
    if seen.carried {
        // Somebody may have taken it away; without it no pod is made, and none hands anything back.
        identity::ensure(&local.namespace, context).await?;
    }
    if local.is_queued() && control.suspended && !control.cancelled {
        // `suspend` is the queue's. So the job gives its place back and asks for a new one when it is resumed; what is
        // finished stays in the shards.
        return remove(local, context).await;
    }
    let wanted = Asked::of(local, seen.shards, control.cancelled);
    let Some(patch) = change(seen.asked, wanted) else { return Ok(()) };
    let jobs: Api<Job> = api_beside(context, &local.namespace);
    gone_is_fine(jobs.patch(&local.name, &params(), &Patch::Merge(&patch)).await)
}

fn params() -> PatchParams {
    PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() }
}

/// What is to be written, so that only what we changed our mind about is touched: a child that somebody else suspended
/// stays suspended.
fn change(asked: Option<Asked>, wanted: Asked) -> Option<Value> {
    if asked == Some(wanted) {
        return None;
    }
    let mut spec = serde_json::Map::new();
    let before = asked.unwrap_or(wanted);
    if let Some(suspend) = wanted.suspend.filter(|_| before.suspend != wanted.suspend) {
        spec.insert("suspend".into(), suspend.into());
    }
    if before.parallelism != wanted.parallelism {
        spec.insert("parallelism".into(), wanted.parallelism.into());
    }
    if wanted.stop {
        spec.insert("activeDeadlineSeconds".into(), STOP_SECONDS.into());
    }
    Some(json!({"metadata": {"annotations": {ASKED: wanted.to_json()}}, "spec": spec}))
}

/// Removes the child and its pods; shards and their access stay for the next one. A brief job begins anew.
pub async fn remove(local: &LocalJob, context: &Context) -> Result<(), Error> {
    delete::<Job>(&api_beside(context, &local.namespace), &local.name).await
}

// ------------------------------------------------------------------------------------------------ cleaning

/// Takes away what a job that is over ran with: text and access. The finished Job stays a while for `kubectl logs`, and the answers
/// that a brief job's pod handed back go with it.
pub async fn clean(job: &InferenceJob, context: &Context) -> Result<(), Error> {
    let (namespace, uid) = (job.namespace().unwrap_or_default(), job.uid().ok_or(Error::Incomplete("a uid"))?);
    if !context.config.local_jobs {
        return Ok(());
    }
    let name = child_name(&job.name_any(), &uid);
    let (jobs, accounts) = (api_beside::<Job>(context, &namespace), api_beside::<ServiceAccount>(context, &namespace));
    match dereference::child(&namespace, &name, &uid, context).await? {
        // Not before: a Job of shards that goes before its results are published would be made again.
        Some(child) if is_finished(&child) && job::kept(&child) != Some(KEPT_SECONDS) => {
            expire(&jobs, &name, Some(KEPT_SECONDS)).await?;
        }
        Some(child) if !is_finished(&child) && child.metadata.deletion_timestamp.is_none() => {
            delete(&jobs, &name).await?;
        }
        _ => {}
    }
    // Shards, Role and RoleBinding go with it, and no token of it is good for anything from then on.
    let ours = |account: &ServiceAccount| account.labels().get(UID_LABEL).is_some_and(|owner| *owner == uid);
    match accounts.get_opt(&name).await?.filter(ours) {
        Some(_) => delete(&accounts, &name).await,
        None => Ok(()),
    }
}

/// Keeps a child whose results cannot be published yet from going by itself, answers and all.
pub async fn keep(local: &LocalJob, context: &Context) -> Result<(), Error> {
    match local.seen {
        Some(seen) if seen.expires && !seen.leaving => {
            expire(&api_beside(context, &local.namespace), &local.name, None).await
        }
        _ => Ok(()),
    }
}

/// How long a child stays once it is finished.
async fn expire(jobs: &Api<Job>, name: &str, seconds: Option<i32>) -> Result<(), Error> {
    let patch = json!({"spec": {"ttlSecondsAfterFinished": seconds}});
    gone_is_fine(jobs.patch(name, &params(), &Patch::Merge(&patch)).await)
}

async fn delete<K>(api: &Api<K>, name: &str) -> Result<(), Error>
where
    K: Clone + Debug + DeserializeOwned,
{
    gone_is_fine(api.delete(name, &DeleteParams::background()).await)
}

fn gone_is_fine<T>(outcome: Result<T, kube::Error>) -> Result<(), Error> {
    match outcome {
        Err(error) if !is_not_found(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED_FIRST: Asked = Asked { suspend: Some(false), parallelism: 2, stop: false };

    #[test]
    fn nothing_is_written_when_nothing_changed() {
        assert_eq!(change(Some(ASKED_FIRST), ASKED_FIRST), None);
    }

    #[test]
    fn only_what_the_job_changed_is_written() {
        let suspended = change(Some(ASKED_FIRST), Asked { suspend: Some(true), ..ASKED_FIRST }).unwrap();
        assert_eq!(suspended["spec"], json!({"suspend": true}));
        let wider = change(Some(ASKED_FIRST), Asked { parallelism: 5, ..ASKED_FIRST }).unwrap();
        assert_eq!(wider["spec"], json!({"parallelism": 5}));
        let stopped = change(Some(ASKED_FIRST), Asked { stop: true, ..ASKED_FIRST }).unwrap();
        assert_eq!(stopped["spec"], json!({"activeDeadlineSeconds": 1}));
    }

    #[test]
    fn suspend_of_a_queued_job_is_never_written() {
        let queued = Asked { suspend: None, ..ASKED_FIRST };
        let patch = change(Some(queued), Asked { stop: true, ..queued }).unwrap();
        assert!(patch["spec"].get("suspend").is_none());
    }
}
