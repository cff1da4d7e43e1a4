//! GridNode: a node's key, its worker's pod, its membership and its registration; how its worker is replaced and how it leaves.
//! Talks to the API server, the gateway and the chain. Never ends a request that runs, unless a deadline of the node says so.

pub mod apply;
pub mod availability;
pub mod build;
pub mod dereference;
pub mod drain;
pub mod emptying;
pub mod fleet;
pub mod identity;
pub mod known;
pub mod payout;
pub mod registration;
pub mod slashing;
pub mod status;
pub mod update;
pub mod validate;
pub mod worker;

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    core::PartialObjectMeta,
    runtime::{
        Controller, WatchStreamExt,
        controller::Action,
        finalizer::{self, Event},
        reflector::{self, ObjectRef},
        watcher,
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    context::Context,
    error::Error,
    finalizers,
    runner::{self, Guarded},
    watches,
};
use crate::{
    api::{
        grid_network::GridNetwork,
        grid_node::{GridNode, GridNodeStatus},
        refs::TransactionState,
    },
    protocol::internal::ChangeKind,
};
use apply::Admission;
use availability::Openness;
use build::Intake;
use dereference::Refs;
use known::KnownNode;
use status::Observed;
use update::Step;
use validate::ValidatedNode;

/// Field manager of this controller.
pub const MANAGER: &str = "xdc-grid-gridnode";
/// A node leaves the grid and the contract before it goes.
const FINALIZER: &str = "xdcgrid.io/leave-grid";

pub async fn run(context: Arc<Context>, stop: CancellationToken) {
    let namespace = context.config.namespace.clone();
    let controller = controller(&context);
    let (by_peer, by_model, by_network) = (controller.store(), controller.store(), controller.store());
    context.fleet.count(controller.store());
    let changes = context.changes.subscribe(ChangeKind::Node).flat_map(move |peer| {
        let hit = |node: &KnownNode| peer.as_ref().is_none_or(|peer| node.peer_id.as_ref() == Some(peer));
        futures::stream::iter(runner::select(&by_peer, hit))
    });
    let models = context.models.news().flat_map(move |name| {
        let hit = |node: &KnownNode| name.as_ref().is_none_or(|name| node.models.contains(name));
        futures::stream::iter(runner::select(&by_model, hit))
    });
    let ours = watcher::Config::default().labels(build::NODE_LABEL);
    // Metadata only: what else they say is read when their node is looked at.
    let sets = Api::<PartialObjectMeta<StatefulSet>>::namespaced(context.client.clone(), &namespace);
    let pods = Api::<PartialObjectMeta<Pod>>::namespaced(context.client.clone(), &namespace);
    let networks = Api::<PartialObjectMeta<GridNetwork>>::all(context.client.clone());
    let controller = controller
        .watches_stream(watches::touched(sets, ours.clone()), |set| owner(set.labels()))
        .watches_stream(watches::touched(pods, ours), |pod| owner(pod.labels()))
        .watches_stream(watches::touched(networks, watcher::Config::default()), move |network| {
            let name = network.name_any();
            runner::select(&by_network, |node: &KnownNode| node.network == name)
        })
        .reconcile_on(models)
        .reconcile_on(changes);
    runner::run(controller, context, stop, reconcile).await;
}

fn controller(context: &Context) -> Controller<Guarded<KnownNode>> {
    let (reader, writer) = reflector::store();
    let nodes: Api<Guarded<KnownNode>> = Api::all(context.client.clone());
    runner::framed(Controller::for_stream(watches::facts(nodes).reflect(writer).applied_objects(), reader), context)
}

fn owner(labels: &std::collections::BTreeMap<String, String>) -> Option<ObjectRef<Guarded<KnownNode>>> {
    labels.get(build::NODE_LABEL).map(|name| ObjectRef::new(name))
}

pub async fn reconcile(known: Arc<KnownNode>, context: Arc<Context>) -> Result<Action, Error> {
    // What is signed hangs on the status, so it must be the newest one and not a cached one.
    let newest: Api<Guarded<GridNode>> = Api::all(context.client.clone());
    let node = match newest.get_opt(&known.name_any()).await? {
        Some(Guarded(Ok(node))) => node,
        Some(malformed) => return Ok(runner::left_alone(&malformed, &context).await),
        None => return Ok(Action::await_change()),
    };
    let api: Api<GridNode> = Api::all(context.client.clone());
    let outcome = finalizer::finalizer(&api, FINALIZER, Arc::new(node), |event| async {
        match event {
            Event::Apply(node) => reconcile_live(&node, &context).await,
            Event::Cleanup(node) => drain::drain(&node, &context).await,
        }
    });
    outcome.await.or_else(finalizers::unwrap)
}

async fn reconcile_live(node: &GridNode, context: &Context) -> Result<Action, Error> {
    let refs = dereference::dereference(node, context).await?;
    let now = (context.clock)();
    let validated = match validate::validate(node, &refs) {
        Ok(validated) => validated,
        Err(finding) => {
            status::update(node, &status::refused(node, finding, now), context).await?;
            return Ok(Action::requeue(context.fleet.look_again()));
        }
    };
    let openness = availability::at(&validated.windows, now);
    let step = step(node, &validated, &refs, context).await?;
    let wanted = build::build(&validated, intake(openness, &step), &context.config);
    let admission = if validated.approved { Admission::Approved } else { Admission::Refused };
    let applied = apply::apply(wanted, admission, refs.worker.stateful_set.as_ref(), context).await?;
    if applied.member.is_ok() {
        update::carry_out(&step, context).await?;
    }
    let next = registration::next_move(node, &validated, &refs);
    let moved = match &refs.network {
        Some(network) => registration::carry_out(next, &validated, network, context).await?,
        None => registration::Moved::default(),
    };
    let payout = payout::change(node, &validated, &refs, context).await?;
    let slash = slashing::pursue(node, validated.identity.address, &refs, context).await?;
    let (found, applied, moved, payout, slash, step) = (&validated, &applied, &moved, &payout, &slash, &step);
    let seen = Observed { node, found, refs: &refs, applied, moved, payout, slash, openness, step };
    let status = status::of(&seen, now);
    status::update(node, &status, context).await?;
    Ok(next_look(&status, &seen, now, context))
}

/// The other workers are looked at only when this one is to be replaced.
async fn step(node: &GridNode, found: &ValidatedNode, refs: &Refs, context: &Context) -> Result<Step, Error> {
    let Some(worker) = &found.worker else { return Ok(Step::Nothing) };
    let fleet = if update::is_outdated(&refs.worker) { update::fleet(context).await? } else { Vec::new() };
    let closed = update::is_closed(node);
    Ok(update::next(&found.name, worker.update_policy, &refs.worker, &fleet, &refs.report, closed))
}

fn intake(openness: Openness, step: &Step) -> Intake {
    match openness {
        Openness::Closed { .. } => Intake::Resting,
        _ if step.keeps_work_away() => Intake::Closed,
        _ => Intake::Open,
    }
}

/// While a transaction is on its way the chain is asked often, and while a worker is emptied the gateway; a window changes when
/// it says so.
fn next_look(status: &GridNodeStatus, seen: &Observed<'_>, now: Timestamp, context: &Context) -> Action {
    use TransactionState::{Failed, Finalized};
    let transactions = [&status.registration, &status.payout, &status.slash, &status.slash_execution];
    let moving = transactions.into_iter().flatten().any(|found| !matches!(found.state, Finalized | Failed));
    let regular =
        if moving || seen.step.is_update() { context.config.chain_poll() } else { context.fleet.look_again() };
    let window =
        seen.openness.until().map(|until| until.duration_since(now).unsigned_abs() + Duration::from_millis(10));
    Action::requeue(window.map_or(regular, |window| window.min(regular)))
}
