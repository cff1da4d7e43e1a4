//! IO: makes the child and what it needs, steers it, and takes away what is no longer needed. Every step may be repeated: names
//! follow from the job's uid, and the child is made last, so a child that is there has all that it needs.

use std::fmt::Debug;

use futures::StreamExt;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
    resource::v1::ResourceClaimTemplate,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    UID_LABEL, access, child_name,
    job::{self, ASKED, Asked},
    observe::{is_finished, observe},
    shards::{self, CannotCut, Cutter, Shard},
    validate::LocalJob,
};
use crate::{
    api::{
        conditions::Finding,
        inference_job::{InferenceJob, condition},
        reasons::Reason,
    },
    operator::{
        context::Context,
        error::{Error, is_forbidden, is_not_found},
        inference_job::{
            MANAGER,
            apply::{Applied, unreadable},
            build::Submission,
            input::source::{self, InputError, Reader, Survey},
            validate::Ending,
        },
        write::{self, api_beside},
    },
    protocol::internal::{InputLine, JobControl},
};

/// A pod that is told to stop hands back what it has within its grace period; then the Job is failed.
const STOP_SECONDS: i64 = 1;
/// A finished Job and its pods stay this long after the results are published, for `kubectl logs`.
const KEPT_SECONDS: i32 = 3600;

// ------------------------------------------------------------------------------------------------ submission

/// Why there is no child.
#[derive(Debug, thiserror::Error)]
enum Hindrance {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    CannotCut(#[from] CannotCut),
    #[error(transparent)]
    Other(#[from] Error),
    #[error("Job {0} belongs to somebody else; delete it")]
    NameTaken(String),
}

impl From<kube::Error> for Hindrance {
    fn from(error: kube::Error) -> Self {
        Hindrance::Other(error.into())
    }
}

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
    let Some(url) = &local.model_url else {
        let message = "its GridModel was deleted, and nothing says any more where the file comes from".to_owned();
        return Ok(applied.found(condition::ADMITTED, Finding::no(Reason::ModelNotFound, message)));
    };
    match make(submission, local, survey, reader, url, context).await {
        Ok(child) => Ok(Applied { report: Some(observe(&child, &[]).report), ..applied }),
        Err(Hindrance::Input(error)) => unreadable(error),
        Err(Hindrance::CannotCut(error)) => {
            let message = error.to_string();
            let ending = Ending::Stopped { reason: Reason::InputTooLarge, message: message.clone() };
            Ok(Applied { ending: Some(ending), ..applied }
                .found(condition::ACCEPTED, Finding::no(Reason::InputTooLarge, message)))
        }
        Err(Hindrance::NameTaken(name)) => {
            let message = Hindrance::NameTaken(name).to_string();
            Ok(applied.found(condition::ADMITTED, Finding::no(Reason::NameTaken, message)))
        }
        // Also a ResourceQuota: the message says which of the two.
        Err(Hindrance::Other(Error::Kube(error))) if is_forbidden(&error) => {
            Ok(applied.found(condition::ADMITTED, Finding::no(Reason::Forbidden, error.to_string())))
        }
        Err(Hindrance::Other(error)) => Err(error),
    }
}

async fn make(
    submission: &Submission,
    local: &LocalJob,
    survey: &Survey,
    reader: &Reader,
    url: &str,
    context: &Context,
) -> Result<Job, Hindrance> {
    let (frame, namespace) = (&submission.frame, &submission.frame.namespace);
    let account = put::<ServiceAccount>(&api_beside(context, namespace), access::account(local, frame)).await?;
    let sizes = write_shards(submission, local, survey, reader, &account, context).await?;
    let count = u32::try_from(sizes.len()).unwrap_or(u32::MAX);
    // Without `..`: whoever adds an object has to say here what becomes of it.
    let access::Access { role, binding } = access::build(local, frame, count, &account);
    put::<Role>(&api_beside(context, namespace), role).await?;
    put::<RoleBinding>(&api_beside(context, namespace), binding).await?;
    if let Some(template) = job::claim_template(local, frame) {
        put::<ResourceClaimTemplate>(&api_beside(context, namespace), template).await?;
    }
    let jobs: Api<Job> = api_beside(context, namespace);
    let wanted = job::build(local, frame, &sizes, url, &context.config);
    match jobs.create(&created(), &wanted).await {
        Ok(child) => Ok(child),
        // Made by an earlier try whose answer was lost.
        Err(error) if is_conflict(&error) => {
            let found = jobs.get(&local.name).await?;
            let ours = found.labels().get(UID_LABEL).is_some_and(|uid| *uid == frame.uid);
            if ours { Ok(found) } else { Err(Hindrance::NameTaken(local.name.clone())) }
        }
        Err(error) => Err(error.into()),
    }
}

/// The input in ConfigMaps, one at a time: a large input takes no memory.
async fn write_shards(
    submission: &Submission,
    local: &LocalJob,
    survey: &Survey,
    reader: &Reader,
    account: &ServiceAccount,
    context: &Context,
) -> Result<Vec<u32>, Hindrance> {
    let maps: Api<ConfigMap> = api_beside(context, &submission.frame.namespace);
    let config_map = |shard: Shard| shards::config_map(local, &submission.frame, &shard, account);
    let replayed = source::replay(&submission.source, &submission.rules, reader, survey.sha256).await?;
    let mut lines = std::pin::pin!(replayed);
    let mut cutter = Cutter::new(local.shard_size, survey.usable)?;
    while let Some(line) = lines.next().await {
        let line = line?;
        let request: InputLine = serde_json::from_slice(&line).map_err(Error::from)?;
        if let Some(shard) = cutter.push(&request, String::from_utf8_lossy(line.trim_ascii_end()).as_ref())? {
            put(&maps, config_map(shard)).await?;
        }
    }
    let (last, sizes) = cutter.finish()?;
    if let Some(shard) = last {
        put(&maps, config_map(shard)).await?;
    }
    Ok(sizes)
}

fn created() -> PostParams {
    PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() }
}

/// Creates; what is there already is made as wanted. Returns what is there then.
async fn put<K>(api: &Api<K>, wanted: K) -> Result<K, Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    match api.create(&created(), &wanted).await {
        Ok(made) => Ok(made),
        Err(error) if is_conflict(&error) => write::apply(api, MANAGER, wanted).await,
        Err(error) => Err(error.into()),
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

// ------------------------------------------------------------------------------------------------ steering

/// Tells the child how to go on; sends nothing when it was told already.
pub async fn steer(local: &LocalJob, control: JobControl, context: &Context) -> Result<(), Error> {
    let Some(seen) = local.seen.filter(|seen| !seen.leaving) else { return Ok(()) };
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

/// Removes the child and its pods; shards and access stay for the next one.
pub async fn remove(local: &LocalJob, context: &Context) -> Result<(), Error> {
    delete::<Job>(&api_beside(context, &local.namespace), &local.name).await
}

// ------------------------------------------------------------------------------------------------ cleaning

/// Takes away what a job that is over ran with: text and access. The finished Job stays a while for `kubectl logs`.
pub async fn clean(job: &InferenceJob, context: &Context) -> Result<(), Error> {
    let (namespace, uid) = (job.namespace().unwrap_or_default(), job.uid().ok_or(Error::Incomplete("a uid"))?);
    if !context.config.local_jobs {
        return Ok(());
    }
    let name = child_name(&job.name_any(), &uid);
    let accounts: Api<ServiceAccount> = api_beside(context, &namespace);
    // Removed last: as long as it is there, something may be left. Shards, Role and RoleBinding go with it, and no token of it is
    // good for anything from then on.
    let ours = |account: &ServiceAccount| account.labels().get(UID_LABEL).is_some_and(|owner| *owner == uid);
    if accounts.get_opt(&name).await?.filter(ours).is_none() {
        return Ok(());
    }
    let jobs: Api<Job> = api_beside(context, &namespace);
    match jobs.get_opt(&name).await? {
        Some(child) if is_finished(&child) => {
            // Not before: a Job that goes before its results are published would be made again.
            let patch = json!({"spec": {"ttlSecondsAfterFinished": KEPT_SECONDS}});
            gone_is_fine(jobs.patch(&name, &params(), &Patch::Merge(&patch)).await)?;
        }
        Some(_) => delete(&jobs, &name).await?,
        None => {}
    }
    delete(&accounts, &name).await
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
