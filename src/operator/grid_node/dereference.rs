//! IO: everything that a node points at or that stands for it.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Event, Pod, Secret},
};
use kube::{Api, Resource, ResourceExt, api::ListParams};

use super::{build, identity::NodeIdentity, validate::pull_secrets, worker};
use crate::{
    api::{
        conditions::Finding,
        grid_model::GridModel,
        grid_network::GridNetwork,
        grid_node::{GridNode, NodeModeSpec},
        ids::{NodeAddress, Wei},
        reasons::Reason,
    },
    chain::{At, ChainError, registration::NodeRegistration},
    operator::{
        chains::ChainProblem, context::Context, contribution_report::leaves, error::Error, gateway::GatewayError,
    },
    protocol::internal::NodeReport,
};

/// What was found.
pub struct Refs {
    pub network: Option<GridNetwork>,
    /// sha256 by name, of the models that exist.
    pub models: BTreeMap<String, String>,
    pub identity: Result<NodeIdentity, Finding>,
    pub worker: Worker,
    pub report: Result<Option<NodeReport>, GatewayError>,
    pub chain: Result<ChainFacts, ChainProblem>,
    pub earned: Option<Wei>,
}

/// The worker as the cluster sees it; empty for an External node.
#[derive(Debug, Clone, Default)]
pub struct Worker {
    pub stateful_set: Option<StatefulSet>,
    pub pod: Option<Pod>,
    /// What Events say about a pod that cannot be made or does not start, newest first. Only read then.
    pub troubles: Vec<Trouble>,
    /// Pull secrets that do not exist. Only looked for while the pod is not ready.
    pub missing_secrets: Vec<String>,
}

/// One Warning Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    pub reason: String,
    pub message: String,
}

/// What the contract knows about a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChainFacts {
    pub registration: Option<NodeRegistration>,
    pub claimed: Wei,
}

pub async fn dereference(node: &GridNode, context: &Context) -> Result<Refs, Error> {
    let networks: Api<GridNetwork> = Api::all(context.client.clone());
    let network = networks.get_opt(&node.spec.network_ref.name).await?;
    let identity = identity(node, context).await?;
    let (report, chain, earned) = match (&identity, &network) {
        (Ok(identity), Some(network)) => (
            context.gateway.node(&identity.peer_id).await,
            facts(network, identity.address, context).await,
            leaves::earned(network, identity.address, context).await?,
        ),
        _ => (Ok(None), Err(no_network()), None),
    };
    Ok(Refs {
        models: models(node, context).await?,
        worker: worker(node, context).await?,
        network,
        identity,
        report,
        chain,
        earned,
    })
}

fn no_network() -> ChainProblem {
    ChainProblem { finding: Finding::unknown(Reason::NetworkNotFound, "the GridNetwork is not there") }
}

async fn identity(node: &GridNode, context: &Context) -> Result<Result<NodeIdentity, Finding>, Error> {
    match node.spec.mode {
        NodeModeSpec::External => Ok(NodeIdentity::of_peer(node.spec.peer_id.as_deref().unwrap_or_default())),
        NodeModeSpec::Managed => {
            let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &context.config.namespace);
            if node.meta().deletion_timestamp.is_some() {
                NodeIdentity::of_leaving(node, &secrets).await
            } else {
                NodeIdentity::ensure(node, &secrets).await
            }
        }
    }
}

async fn models(node: &GridNode, context: &Context) -> Result<BTreeMap<String, String>, Error> {
    let api: Api<GridModel> = Api::all(context.client.clone());
    let mut found = BTreeMap::new();
    for name in &node.spec.models {
        let model = match context.models.find(name) {
            Some(known) => Some(known),
            None => api.get_opt(name).await?,
        };
        if let Some(model) = model {
            found.insert(name.clone(), model.spec.sha256);
        }
    }
    Ok(found)
}

async fn worker(node: &GridNode, context: &Context) -> Result<Worker, Error> {
    if node.spec.mode == NodeModeSpec::External {
        return Ok(Worker::default());
    }
    let namespace = &context.config.namespace;
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let name = node.name_any();
    // By name: a list by label makes the API server look at every pod of the namespace for each node.
    let pod = pods.get_opt(&build::pod_name(&name)).await?;
    let pod = pod.filter(|pod| pod.labels().get(build::NODE_LABEL) == Some(&name));
    let stateful_set = sets.get_opt(&build::worker_name(&name)).await?;
    let mut found = Worker { stateful_set, pod, ..Worker::default() };
    if !worker::available(&found, None).is_true() {
        found.missing_secrets = missing_secrets(node, context).await?;
        found.troubles = match worker::silent(&found) {
            Some(object) => troubles(&object, context).await?,
            None => Vec::new(),
        };
    }
    Ok(found)
}

async fn missing_secrets(node: &GridNode, context: &Context) -> Result<Vec<String>, Error> {
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &context.config.namespace);
    let mut missing = Vec::new();
    for name in pull_secrets(&node.spec) {
        if secrets.get_metadata_opt(&name).await?.is_none() {
            missing.push(name);
        }
    }
    Ok(missing)
}

/// Warnings about one object. Some causes are told nowhere else.
async fn troubles(uid: &str, context: &Context) -> Result<Vec<Trouble>, Error> {
    let events: Api<Event> = Api::namespaced(context.client.clone(), &context.config.namespace);
    let about = ListParams::default().fields(&format!("involvedObject.uid={uid},type=Warning")).limit(50);
    let mut found = events.list(&about).await?.items;
    found.sort_by_key(|event| std::cmp::Reverse(last_seen(event)));
    let trouble = |event: k8s_openapi::api::core::v1::Event| Trouble {
        reason: event.reason.unwrap_or_default(),
        message: event.message.unwrap_or_default(),
    };
    Ok(found.into_iter().map(trouble).collect())
}

fn last_seen(event: &Event) -> Option<jiff::Timestamp> {
    let times = [
        event.last_timestamp.as_ref().map(|time| time.0),
        event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        event.metadata.creation_timestamp.as_ref().map(|time| time.0),
    ];
    times.into_iter().flatten().max()
}

async fn facts(network: &GridNetwork, node: NodeAddress, context: &Context) -> Result<ChainFacts, ChainProblem> {
    let client = context.chains.client(network).await?;
    let read = async {
        Ok::<_, ChainError>(ChainFacts {
            registration: client.node(node, At::Latest).await?,
            claimed: client.claimed(node, At::Latest).await?,
        })
    };
    read.await.map_err(|error| ChainProblem::from(&error))
}
