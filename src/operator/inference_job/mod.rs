//! InferenceJob: reads the input, gives the job to the gateway (or, with target Local, to a Job of its own), mirrors its progress,
//! publishes its results. Talks to the API server and the gateway; keeps nothing.

pub mod apply;
pub mod bucket;
pub mod build;
pub mod collect;
pub mod deadlines;
pub mod dereference;
mod embedding;
pub mod input;
pub mod local;
pub mod output;
pub mod pace;
pub mod publication;
pub mod status;
pub mod summary;
pub mod validate;

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions},
    runtime::{
        controller::Action,
        finalizer::{self, Event},
        watcher,
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    context::Context,
    error::{Error, is_not_found},
    finalizers,
    runner::{self, Guarded},
};
use crate::{
    api::{
        conditions,
        contribution_report::ContributionReport,
        grid_model::GridModel,
        inference_job::{InferenceJob, InferenceJobStatus, condition},
    },
    protocol::internal::{ChangeKind, JobReport},
};
use validate::Validated;

/// Field manager of this controller.
pub const MANAGER: &str = "xdc-grid-inferencejob";
/// The gateway forgets the job's text before the job goes.
const FINALIZER: &str = "xdcgrid.io/forget-text";
/// A gateway that is away longer than this does not hold up the deletion.
const FORGET_WITHIN: Duration = Duration::from_secs(120);
/// While something is waited for that nobody tells us about.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// A timer is not trusted for longer.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);
/// While the gateway tells of every change.
const QUIET: Duration = Duration::from_secs(60);

pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let jobs: Api<Guarded<InferenceJob>> = Api::all(context.client.clone());
    let controller = runner::controller(jobs, &context);
    let (by_model, by_key, by_report) = (controller.store(), controller.store(), controller.store());
    let changes = context.changes.subscribe(ChangeKind::Job).flat_map(move |key| {
        let hit = |job: &InferenceJob| {
            !validate::is_over(job) && key.as_ref().is_none_or(|key| job.uid().as_ref() == Some(key))
        };
        futures::stream::iter(runner::select(&by_key, hit))
    });
    let controller = controller
        .watches(Api::<Guarded<GridModel>>::all(context.client.clone()), watcher::Config::default(), move |model| {
            let name = model.name_any();
            runner::select(&by_model, |job: &InferenceJob| {
                !validate::is_over(job) && job.spec.workload.model_ref.name == name
            })
        })
        .watches(
            Api::<Guarded<ContributionReport>>::all(context.client.clone()),
            watcher::Config::default(),
            move |_| runner::select(&by_report, is_unsettled),
        )
        .reconcile_on(changes);
    let controller = local::watch(controller, &context);
    runner::run(controller, context, stop, reconcile).await;
}

/// Ended with work that is not yet active on chain.
fn is_unsettled(job: &InferenceJob) -> bool {
    let conditions = job.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    validate::is_over(job) && !local::is_local(job) && !conditions::is_true(conditions, condition::SETTLED)
}

pub async fn reconcile(job: Arc<InferenceJob>, context: Arc<Context>) -> Result<Action, Error> {
    if !validate::is_ours(&job) {
        return Ok(Action::await_change());
    }
    if local::is_local(&job) {
        // No gateway has its text, and what it made in the cluster goes with it.
        return match &job.metadata.deletion_timestamp {
            Some(_) => Ok(Action::await_change()),
            None => reconcile_live(&job, &context).await,
        };
    }
    let api: Api<InferenceJob> = Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default());
    let outcome = finalizer::finalizer(&api, FINALIZER, job, |event| async {
        match event {
            Event::Apply(job) => reconcile_live(&job, &context).await,
            Event::Cleanup(job) => forget(&job, &context).await,
        }
    });
    outcome.await.or_else(finalizers::unwrap)
}

async fn reconcile_live(job: &InferenceJob, context: &Context) -> Result<Action, Error> {
    let refs = dereference::dereference(job, context).await?;
    let now = (context.clock)();
    match validate::validate(job, refs, now) {
        Validated::Over(settlement) => {
            status::update(job, &status::over(job, &settlement, now), context).await?;
            if local::is_local(job) {
                local::apply::clean(job, context).await?;
            }
            expire(job, context, now).await
        }
        Validated::Refused(refusal) => {
            let status = status::refused(job, refusal, now);
            status::update(job, &status, context).await?;
            Ok(Action::requeue(next_look(job, &status, None, now).min(LOOK_AGAIN)))
        }
        Validated::Job(validated) => {
            let plan = build::build(&validated);
            let applied = apply::apply(plan, context).await?;
            let status = status::of(job, &validated, &applied, now);
            let wait = status::update(job, &status, context).await?;
            let look = next_look(job, &status, applied.report.as_ref(), now);
            Ok(Action::requeue(wait.map_or(look, |wait| wait.min(look))))
        }
    }
}

/// Deadlines, and a place that comes back, are what no event announces while the gateway's stream is open.
fn next_look(job: &InferenceJob, status: &InferenceJobStatus, report: Option<&JobReport>, now: Timestamp) -> Duration {
    // A child that waits for quota tells when that changes.
    let child = local::is_local(job) && status.model_digest.is_some();
    let admitted = child || conditions::is_true(&status.conditions, condition::ADMITTED);
    let unpublished = conditions::find(&status.conditions, condition::OUTPUT_PUBLISHED).is_some();
    let look = if admitted && !unpublished { QUIET } else { LOOK_AGAIN };
    let deadline = deadlines::next(job, status, report, now).map(|left| left + Duration::from_millis(100));
    deadline.map_or(look, |left| left.min(look))
}

/// Deletes a job whose time to live is over.
async fn expire(job: &InferenceJob, context: &Context, now: Timestamp) -> Result<Action, Error> {
    let ended = job.status.as_ref().and_then(|status| status.completion_time.as_ref());
    let ttl = job.spec.ttl_seconds_after_finished.or(context.config.job_ttl());
    let Some((ttl, ended)) = ttl.zip(ended) else { return Ok(Action::await_change()) };
    let left = ended.0.as_second().saturating_add(ttl).saturating_sub(now.as_second());
    if left > 0 {
        return Ok(Action::requeue(Duration::from_secs(left.unsigned_abs()).min(LONGEST_WAIT)));
    }
    let api: Api<InferenceJob> = Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default());
    // Only this very job: another one may have taken its name.
    let preconditions = Preconditions { uid: job.uid(), resource_version: None };
    match api
        .delete(&job.name_any(), &DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() })
        .await
    {
        Ok(_) => Ok(Action::await_change()),
        Err(error) if is_not_found(&error) => Ok(Action::await_change()),
        Err(error) => Err(error.into()),
    }
}

async fn forget(job: &InferenceJob, context: &Context) -> Result<Action, Error> {
    let uid = job.uid().ok_or(Error::Incomplete("a uid"))?;
    context.sent.forget(&apply::control_key(&uid));
    context.pace.forget(&uid);
    let outcome = context.gateway.delete_job(&uid).await;
    finalizers::settle(job, outcome, FORGET_WITHIN, context).await
}
