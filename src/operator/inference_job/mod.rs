//! InferenceJob: reads the input, gives the job to the gateway (or, with target Local, to a Job of its own), mirrors its progress,
//! publishes its results. Talks to the API server and the gateway; keeps nothing.

pub mod apply;
pub mod build;
pub mod calm;
pub mod collect;
pub mod deadlines;
pub mod dereference;
mod embedding;
pub mod gone;
pub mod hand_over;
pub mod input;
pub mod known;
pub mod local;
pub mod output;
pub mod pace;
pub mod payment;
pub mod publication;
pub mod status;
pub mod summary;
pub mod validate;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions},
    runtime::{
        Controller, WatchStreamExt,
        controller::Action,
        reflector::{self, Store},
        watcher,
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    context::Context,
    error::{Error, is_not_found},
    finalizers,
    runner::{self, Guarded},
    watches,
};
use crate::{
    api::{
        conditions,
        contribution_report::{self, ContributionReport},
        inference_job::{InferenceJob, InferenceJobStatus, Target, condition},
    },
    protocol::internal::{ChangeKind, JobReport, JobState},
};
use apply::Applied;
use calm::Asked;
use dereference::Settlement;
use known::{KnownJob, Live, Room};
use validate::{Place, Stage, Validated, ValidatedJob};

/// Field manager of this controller.
pub const MANAGER: &str = "xdc-grid-inferencejob";
/// On jobs that an older operator took: it comes off when they go. What has the gateway forget a job today is `gone`.
const FINALIZER: &str = "xdcgrid.io/forget-text";
/// A gateway that is away longer than this does not hold up the deletion.
const FORGET_WITHIN: Duration = Duration::from_secs(120);
/// While something is waited for that nobody tells us about.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// A timer is not trusted for longer.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);
/// While the gateway tells of every change: the last net, as wide as that of the other kinds, because every job that waits costs
/// the API server and the gateway some questions each time.
const QUIET: Duration = Duration::from_secs(300);

pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let live = Live::default();
    let controller = controller(live.clone(), &context);
    let (by_model, by_report) = (controller.store(), controller.store());
    let changes = context
        .changes
        .subscribe(ChangeKind::Job)
        .flat_map(move |key| futures::stream::iter(live.find(key.as_deref())));
    let models = context.models.news().flat_map(move |name| {
        let hit = |job: &KnownJob| !job.is_over && name.as_ref().is_none_or(|name| job.model == *name);
        futures::stream::iter(runner::select(&by_model, hit))
    });
    let reports = Api::<Guarded<ContributionReport>>::all(context.client.clone());
    let controller = controller
        .watches_stream(watches::touched(reports, watcher::Config::default()), move |report| {
            let settles = report.0.as_ref().is_ok_and(is_active);
            runner::select(&by_report, |job: &KnownJob| settles && job.is_over && !job.is_settled)
        })
        .reconcile_on(models)
        .reconcile_on(changes);
    let controller = local::watch(controller, &context);
    let beside = beside(controller.store(), context.clone());
    tokio::select! {
        () = runner::run(controller, context, stop, reconcile) => {}
        () = beside => {}
    }
}

/// Looks at a job when somebody changed what is asked for, when it is over, and when another trigger says so; not when the
/// operator itself wrote its status.
fn controller(live: Live, context: &Arc<Context>) -> Controller<Guarded<KnownJob>> {
    let (reader, writer) = reflector::store();
    let jobs: Api<Guarded<KnownJob>> = Api::all(context.client.clone());
    let of_all = context.clone();
    let room = Room::default();
    let applied =
        watches::facts(jobs).map_ok(move |event| room.fit(event)).reflect(writer).try_filter_map(move |event| {
            let news = live.is_news(&event);
            if let watcher::Event::Delete(job) = &event {
                went(job, &of_all);
            }
            std::future::ready(Ok(match event {
                watcher::Event::Apply(job) | watcher::Event::InitApply(job) if news => Some(job),
                _ => None,
            }))
        });
    runner::framed(Controller::for_stream(applied, reader), context)
}

/// Whether the epoch of a report is paid. Nothing before that is news to a job, and a report has many changes before, each of which
/// would have every job that waits for it looked at.
fn is_active(report: &ContributionReport) -> bool {
    let status = report.status.as_ref();
    status.is_some_and(|status| conditions::is_true(&status.conditions, contribution_report::condition::ACTIVE))
}

/// What goes on beside the reconciles, as long as they do.
async fn beside(known: Store<Guarded<KnownJob>>, context: Arc<Context>) {
    let identities = local::identity::tidy_forever(known.clone(), context.clone());
    tokio::join!(gone::tell(context.clone()), gone::compare_forever(known, context), identities);
    // All three go on for ever; one that gave up must not end the reconciles.
    std::future::pending().await
}

/// A job is gone from the API server.
fn went(job: &Guarded<KnownJob>, context: &Context) {
    let at_gateway = job.0.as_ref().map_or(true, |job| job.is_ours && job.target == Target::Grid);
    if let Some(uid) = job.uid().filter(|_| at_gateway) {
        context.gone.note(&uid);
    }
}

pub async fn reconcile(known: Arc<KnownJob>, context: Arc<Context>) -> Result<Action, Error> {
    if !known.is_ours {
        return Ok(runner::at_rest());
    }
    if known.is_done() {
        let ttl = known.ttl.or(context.config.job_ttl());
        return match ttl.zip(known.ended.as_ref()) {
            Some((ttl, ended)) => expire(known.as_ref(), ttl, ended, &context).await,
            // Most jobs that there are. A look would only see again what is kept here.
            None => Ok(runner::at_rest()),
        };
    }
    let asked = match calm::ask(&known, &context).await {
        Asked::Nothing(left) => return Ok(Action::requeue(left)),
        Asked::News(report) => Some(*report),
        Asked::NotAsked => None,
    };
    let job = match &known.fresh {
        Some(fresh) => fresh.job.clone(),
        None => match newest(&known, &context).await? {
            Some(Guarded(Ok(job))) => Arc::new(job),
            Some(malformed) => return Ok(runner::left_alone(&malformed, &context).await),
            None => return Ok(Action::await_change()),
        },
    };
    // Between the watch and now another one may have taken its name.
    if !validate::is_ours(&job) {
        return Ok(Action::await_change());
    }
    match &job.metadata.deletion_timestamp {
        None => reconcile_live(&job, &known, asked, &context).await,
        // No gateway has its text, and what it made in the cluster goes with it.
        Some(_) if local::is_local(&job) => Ok(Action::await_change()),
        Some(_) => leave(&job, &context).await,
    }
}

async fn newest(known: &KnownJob, context: &Context) -> Result<Option<Guarded<InferenceJob>>, Error> {
    let jobs: Api<Guarded<InferenceJob>> =
        Api::namespaced(context.client.clone(), &known.namespace().unwrap_or_default());
    Ok(jobs.get_opt(&known.name_any()).await?)
}

async fn reconcile_live(
    job: &InferenceJob,
    known: &KnownJob,
    asked: Option<JobReport>,
    context: &Context,
) -> Result<Action, Error> {
    let refs = dereference::dereference(job, asked, context).await?;
    let now = (context.clock)();
    match validate::validate(job, refs, now) {
        Validated::Over(settlement) => after(job, &settlement, now, context).await,
        Validated::Refused(refusal) => {
            let status = status::refused(job, refusal, now);
            status::update(job, &status, context).await?;
            Ok(Action::requeue(next_look(job, &status, None, now).min(LOOK_AGAIN)))
        }
        Validated::Job(validated) => {
            let plan = build::build(&validated);
            let applied = apply::apply(plan, context).await?;
            if context.gone.has(&validated.uid) {
                // It went while it was handed over, and the gateway may have got it after it was told so.
                context.gone.note(&validated.uid);
                return Ok(Action::await_change());
            }
            let applied = with_settlement(job, &validated, applied, now, context).await?;
            let status = status::of(job, &validated, &applied, now);
            let wait = status::update(job, &status, context).await?;
            if is_done_already(&validated, &applied) {
                return Ok(Action::requeue(Duration::ZERO));
            }
            let look = next_look(job, &status, applied.report.as_ref(), now);
            match (wait, &applied.report) {
                (None, Some(report)) if look > LOOK_AGAIN => calm::note(known, report, look, context),
                _ => context.calm.forget(&validated.uid),
            }
            Ok(Action::requeue(wait.map_or(look, |wait| wait.min(look))))
        }
    }
}

/// The grid was done when it answered, so no later change of it will say so.
fn is_done_already(job: &ValidatedJob, applied: &Applied) -> bool {
    let going_on = matches!(job.stage, Stage::New | Stage::Active { .. }) && applied.ending.is_none();
    let done = |report: &JobReport| matches!(report.state, JobState::Finished | JobState::Cancelled);
    going_on && applied.report.as_ref().is_some_and(done)
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

/// What can be said about the pay of a job that ends now: said in the write that ends it, or it would cost another one.
async fn with_settlement(
    job: &InferenceJob,
    validated: &ValidatedJob,
    applied: Applied,
    now: Timestamp,
    context: &Context,
) -> Result<Applied, Error> {
    let settlement = match (&applied.ending, &validated.place) {
        (Some(_), Place::Grid) => Some(dereference::settlement(job, &Time(now), context).await?),
        _ => None,
    };
    Ok(Applied { settlement, ..applied })
}

/// A job that is over: what is known of its pay, what a Local one left behind, and its time to live.
async fn after(
    job: &InferenceJob,
    settlement: &Settlement,
    now: Timestamp,
    context: &Context,
) -> Result<Action, Error> {
    let wait = status::update(job, &status::over(job, settlement, now), context).await?;
    if local::is_local(job) {
        local::apply::clean(job, context).await?;
    }
    let ended = job.status.as_ref().and_then(|status| status.completion_time.as_ref());
    let ttl = job.spec.ttl_seconds_after_finished.or(context.config.job_ttl());
    match (wait, ttl.zip(ended)) {
        (Some(wait), _) => Ok(Action::requeue(wait)),
        (None, Some((ttl, ended))) => expire(job, ttl, ended, context).await,
        (None, None) if settlement.is_told() => Ok(runner::at_rest()),
        (None, None) => Ok(Action::await_change()),
    }
}

/// Deletes a job whose time to live, in seconds, is over.
async fn expire(
    job: &impl kube::Resource<DynamicType = ()>,
    ttl: i64,
    ended: &Time,
    context: &Context,
) -> Result<Action, Error> {
    let left = ended.0.as_second().saturating_add(ttl).saturating_sub((context.clock)().as_second());
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

/// A Grid job that a finalizer keeps while it goes: an older operator's, or somebody else's.
async fn leave(job: &InferenceJob, context: &Context) -> Result<Action, Error> {
    let forgotten = forget(job, context).await?;
    if finalizers::holds(&job.metadata, FINALIZER) {
        let api: Api<InferenceJob> = Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default());
        finalizers::release(&api, job, FINALIZER).await?;
    }
    Ok(forgotten)
}

async fn forget(job: &InferenceJob, context: &Context) -> Result<Action, Error> {
    let uid = job.uid().ok_or(Error::Incomplete("a uid"))?;
    let outcome = gone::forget(&uid, context).await;
    finalizers::settle(job, outcome, FORGET_WITHIN, context).await
}
