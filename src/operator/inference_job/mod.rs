//! InferenceJob: reads the input, gives the job to the gateway, mirrors its progress, publishes its results. Talks to the API
//! server and the gateway; keeps nothing.

pub mod apply;
pub mod build;
pub mod dereference;
pub mod input;
pub mod output;
pub mod status;
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
        inference_job::{InferenceJob, condition},
    },
    protocol::internal::ChangeKind,
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
    runner::run(controller, context, stop, reconcile).await;
}

/// Ended with work that is not yet active on chain.
fn is_unsettled(job: &InferenceJob) -> bool {
    let conditions = job.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    validate::is_over(job) && !conditions::is_true(conditions, condition::SETTLED)
}

pub async fn reconcile(job: Arc<InferenceJob>, context: Arc<Context>) -> Result<Action, Error> {
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
            expire(job, context, now).await
        }
        Validated::Refused(refusal) => {
            status::update(job, &status::refused(job, refusal, now), context).await?;
            Ok(Action::requeue(LOOK_AGAIN))
        }
        Validated::Job(validated) => {
            let plan = build::build(&validated);
            let applied = apply::apply(plan, context).await?;
            let status = status::of(job, &validated, &applied, now);
            status::update(job, &status, context).await?;
            Ok(next_look(job, &status, now))
        }
    }
}

/// The deadline is the only thing that no event announces while the gateway's stream is open.
fn next_look(job: &InferenceJob, status: &crate::api::inference_job::InferenceJobStatus, now: Timestamp) -> Action {
    let admitted = conditions::is_true(&status.conditions, condition::ADMITTED);
    let deadline = job.spec.active_deadline_seconds.zip(status.start_time.as_ref()).map(|(deadline, started)| {
        let left = started.0.as_second().saturating_add(deadline).saturating_sub(now.as_second());
        Duration::from_secs(u64::try_from(left).unwrap_or(0)) + Duration::from_millis(100)
    });
    match deadline {
        _ if !admitted => Action::requeue(LOOK_AGAIN),
        Some(left) => Action::requeue(left.min(Duration::from_secs(60))),
        None => Action::requeue(Duration::from_secs(60)),
    }
}

/// Deletes a job whose time to live is over.
async fn expire(job: &InferenceJob, context: &Context, now: Timestamp) -> Result<Action, Error> {
    let ended = job.status.as_ref().and_then(|status| status.completion_time.as_ref());
    let Some((ttl, ended)) = job.spec.ttl_seconds_after_finished.zip(ended) else { return Ok(Action::await_change()) };
    let left = ended.0.as_second().saturating_add(ttl).saturating_sub(now.as_second());
    if left > 0 {
        return Ok(Action::requeue(Duration::from_secs(left.unsigned_abs()).min(Duration::from_secs(300))));
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
    let outcome = context.gateway.delete_job(&uid).await;
    finalizers::settle(job, outcome, FORGET_WITHIN, context).await
}
