//! GridModel: tells the gateway where a model comes from and mirrors how far it is. Talks to the API server and the gateway.

pub mod apply;
pub mod dereference;
pub mod known;
pub mod status;
pub mod unlock;
pub mod validate;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt};
use kube::{
    Api,
    runtime::{
        Controller, WatchStreamExt,
        controller::Action,
        finalizer::{self, Event},
        reflector, watcher,
    },
};
use tokio_util::sync::CancellationToken;

use validate::ValidModel;

use super::{
    context::Context,
    error::Error,
    finalizers,
    runner::{self, Guarded},
    watches,
};
use crate::{api::grid_model::GridModel, protocol::internal::ChangeKind};

/// Field manager of this controller.
pub const MANAGER: &str = "xdc-grid-gridmodel";
/// The gateway drops the file before the model goes.
const FINALIZER: &str = "xdcgrid.io/drop-model";
const DROP_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(30);

pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let controller = controller(&context);
    let store = controller.store();
    let changes = context.changes.subscribe(ChangeKind::Model).flat_map(move |digest| {
        let hit = |model: &GridModel| digest.as_ref().is_none_or(|digest| model.spec.sha256 == *digest);
        futures::stream::iter(runner::select(&store, hit))
    });
    runner::run(controller.reconcile_on(changes), context, stop, reconcile).await;
}

/// The one watch of models: whoever else goes by them is told by it.
fn controller(context: &Arc<Context>) -> Controller<Guarded<GridModel>> {
    let (reader, writer) = reflector::store();
    context.models.keep(reader.clone());
    let of_all = context.clone();
    let models: Api<Guarded<GridModel>> = Api::all(context.client.clone());
    let events = watches::events(models, watcher::Config::default()).reflect(writer);
    let applied = events.inspect_ok(move |event| of_all.models.tell(event)).applied_objects();
    runner::framed(Controller::for_stream(applied, reader), context)
}

pub async fn reconcile(model: Arc<GridModel>, context: Arc<Context>) -> Result<Action, Error> {
    let api: Api<GridModel> = Api::all(context.client.clone());
    let outcome = finalizer::finalizer(&api, FINALIZER, model, |event| async {
        match event {
            Event::Apply(model) => reconcile_live(&model, &context).await,
            Event::Cleanup(model) => drop_model(&model, &context).await,
        }
    });
    outcome.await.or_else(finalizers::unwrap)
}

async fn reconcile_live(model: &GridModel, context: &Context) -> Result<Action, Error> {
    let refs = dereference::dereference(model, context).await?;
    let found = match validate::validate(model, refs) {
        Ok(valid) => apply::apply(&valid, context).await?,
        Err(refused) => Err(refused),
    };
    let status = status::of(model, found, (context.clock)());
    status::update(model, &status, context).await?;
    Ok(Action::requeue(LOOK_AGAIN))
}

async fn drop_model(model: &GridModel, context: &Context) -> Result<Action, Error> {
    let refs = dereference::dereference(model, context).await?;
    if refs.shared {
        return Ok(Action::await_change());
    }
    let Ok(ValidModel { source, .. }) = validate::validate(model, refs) else { return Ok(Action::await_change()) };
    context.sent.forget(&apply::key(&source));
    let outcome = context.gateway.delete_model(&source.digest).await;
    finalizers::settle(model, outcome, DROP_WITHIN, context).await
}
