//! What is known about an object and its surroundings, as far as the person may read it. IO; what it means is decided elsewhere.

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        batch::v1::Job,
        core::v1::{Event, Pod},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, ObjectList},
};
use serde::de::DeserializeOwned;

use crate::{
    api::{
        grid_model::GridModel,
        grid_network::GridNetwork,
        grid_node::GridNode,
        grid_node_pool::GridNodePool,
        inference_job::{InferenceJob, Target},
        kueue::{self, LocalQueue, Workload},
    },
    cli::{CliError, session::Session},
};

/// On everything that belongs to a node.
pub const NODE_LABEL: &str = "xdcgrid.io/node";
/// On every node of a pool: the pool's name.
pub const POOL_LABEL: &str = "xdcgrid.io/pool";
/// More objects of a kind are not looked at: an answer about a thousand nodes is found in the first five hundred.
const PAGE: u32 = 500;

/// Everything that an explanation may draw on. What is not there was not asked for, does not exist, or may not be read.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub networks: Vec<GridNetwork>,
    pub models: Vec<GridModel>,
    pub nodes: Vec<GridNode>,
    /// Whether `nodes` was read at all: an empty list means something else then.
    pub nodes_seen: bool,
    pub models_seen: bool,
    /// Workers of nodes, of a Local job, and of the operator.
    pub pods: Vec<Pod>,
    /// Of a Local job.
    pub jobs: Vec<Job>,
    /// Kueue's, of those Jobs.
    pub workloads: Vec<Workload>,
    pub local_queues: Vec<LocalQueue>,
    /// The operator's own.
    pub deployments: Vec<Deployment>,
    pub events: Vec<Event>,
    /// What the person may not read, in words.
    pub not_seen: Vec<String>,
}

/// Reads facts one kind after the other.
struct Look<'a> {
    session: &'a Session,
    /// Namespace of the operator and the workers.
    system: &'a str,
    facts: Facts,
}

/// What a job depends on.
pub async fn of_job(session: &Session, system: &str, job: &InferenceJob) -> Result<Facts, CliError> {
    let mut look = Look { session, system, facts: Facts::default() };
    let namespace = job.namespace().unwrap_or_default();
    look.grid().await?;
    look.events_in(&namespace, &format!("involvedObject.uid={}", job.uid().unwrap_or_default())).await?;
    if job.spec.placement.target == Target::Local {
        look.local(job, &namespace).await?;
    } else {
        look.workers("app.kubernetes.io/component=worker").await?;
    }
    if job.status.as_ref().is_none_or(|status| status.conditions.is_empty()) {
        look.operator().await?;
    }
    Ok(look.facts)
}

/// What a node depends on.
pub async fn of_node(session: &Session, system: &str, node: &GridNode) -> Result<Facts, CliError> {
    let mut look = Look { session, system, facts: Facts::default() };
    look.grid().await?;
    look.workers(&format!("{NODE_LABEL}={}", node.name_any())).await?;
    if node.status.as_ref().is_none_or(|status| status.conditions.is_empty()) {
        look.operator().await?;
    }
    Ok(look.facts)
}

/// What a pool depends on: its nodes, and what those depend on.
pub async fn of_pool(session: &Session, system: &str, pool: &GridNodePool) -> Result<Facts, CliError> {
    let mut look = Look { session, system, facts: Facts::default() };
    look.grid().await?;
    look.workers(&format!("{POOL_LABEL}={}", pool.name_any())).await?;
    if pool.status.as_ref().is_none_or(|status| status.conditions.is_empty()) {
        look.operator().await?;
    }
    Ok(look.facts)
}

/// What a model or a network depends on.
pub async fn of_grid(session: &Session, system: &str) -> Result<Facts, CliError> {
    let mut look = Look { session, system, facts: Facts::default() };
    look.grid().await?;
    look.workers("app.kubernetes.io/component=worker").await?;
    Ok(look.facts)
}

impl Look<'_> {
    async fn grid(&mut self) -> Result<(), CliError> {
        let client = &self.session.client;
        let networks = list(Api::<GridNetwork>::all(client.clone()), "").await;
        let models = list(Api::<GridModel>::all(client.clone()), "").await;
        let nodes = list(Api::<GridNode>::all(client.clone()), "").await;
        self.facts.networks = self.seen(networks, "GridNetworks")?.unwrap_or_default();
        let models = self.seen(models, "GridModels")?;
        let nodes = self.seen(nodes, "GridNodes")?;
        (self.facts.models_seen, self.facts.nodes_seen) = (models.is_some(), nodes.is_some());
        self.facts.models = models.unwrap_or_default();
        self.facts.nodes = nodes.unwrap_or_default();
        Ok(())
    }

    /// Worker pods and what was said about them.
    async fn workers(&mut self, selector: &str) -> Result<(), CliError> {
        let pods = list(Api::<Pod>::namespaced(self.session.client.clone(), self.system), selector).await;
        let what = format!("pods in {}", self.system);
        if let Some(pods) = self.seen(pods, &what)? {
            self.facts.pods.extend(pods);
            let system = self.system;
            self.events_in(system, "type=Warning").await?;
        }
        Ok(())
    }

    async fn operator(&mut self) -> Result<(), CliError> {
        let selector = "app.kubernetes.io/component=operator";
        let client = &self.session.client;
        let deployments = list(Api::<Deployment>::namespaced(client.clone(), self.system), selector).await;
        let pods = list(Api::<Pod>::namespaced(client.clone(), self.system), selector).await;
        let what = format!("the operator in {}", self.system);
        self.facts.deployments = self.seen(deployments, &what)?.unwrap_or_default();
        let pods = self.seen(pods, &what)?.unwrap_or_default();
        self.facts.pods.extend(pods);
        Ok(())
    }

    /// The batch/v1 Job of a Local job, and its pods.
    async fn local(&mut self, job: &InferenceJob, namespace: &str) -> Result<(), CliError> {
        let client = &self.session.client;
        let jobs = list(Api::<Job>::namespaced(client.clone(), namespace), "").await;
        let jobs = self.seen(jobs, &format!("Jobs in {namespace}"))?.unwrap_or_default();
        self.facts.jobs = jobs.into_iter().filter(|child| is_owned_by(child.owner_references(), job)).collect();
        for child in self.facts.jobs.clone() {
            let selector = format!("batch.kubernetes.io/job-name={}", child.name_any());
            let pods = list(Api::<Pod>::namespaced(client.clone(), namespace), &selector).await;
            let pods = self.seen(pods, &format!("pods in {namespace}"))?.unwrap_or_default();
            self.facts.pods.extend(pods);
            if child.labels().contains_key(kueue::QUEUE_LABEL) {
                self.queue(&child, namespace).await?;
            }
        }
        self.events_in(namespace, "type=Warning").await
    }

    /// What Kueue says about a Job in one of its queues.
    async fn queue(&mut self, child: &Job, namespace: &str) -> Result<(), CliError> {
        let client = &self.session.client;
        let selector = format!("{}={}", kueue::JOB_UID_LABEL, child.uid().unwrap_or_default());
        let api: Api<Workload> = Api::namespaced_with(client.clone(), namespace, &kueue::workloads());
        let workloads = list(api, &selector).await;
        let queues: Api<LocalQueue> = Api::namespaced_with(client.clone(), namespace, &kueue::local_queues());
        let queues = list(queues, "").await;
        let workloads = self.seen(workloads, &format!("Kueue's Workloads in {namespace}"))?;
        let queues = self.seen(queues, &format!("Kueue's LocalQueues in {namespace}"))?;
        self.facts.workloads.extend(workloads.unwrap_or_default());
        self.facts.local_queues.extend(queues.unwrap_or_default());
        Ok(())
    }

    async fn events_in(&mut self, namespace: &str, fields: &str) -> Result<(), CliError> {
        let api = Api::<Event>::namespaced(self.session.client.clone(), namespace);
        let found = api.list(&ListParams::default().limit(PAGE).fields(fields)).await;
        let what = format!("events in {namespace}");
        let found = self.seen(found.map(|found| found.items), &what)?.unwrap_or_default();
        self.facts.events.extend(found);
        Ok(())
    }

    /// Without the right to read something the answer is poorer, but it is one.
    fn seen<T>(&mut self, found: Result<T, kube::Error>, what: &str) -> Result<Option<T>, CliError> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                let why = if status.code == 403 { "you may not read them" } else { "the cluster does not have them" };
                let line = format!("{what}: {why}");
                if !self.facts.not_seen.contains(&line) {
                    self.facts.not_seen.push(line);
                }
                Ok(None)
            }
            Err(error) => Err(CliError::from_kube(error, "object", "", None)),
        }
    }
}

async fn list<K>(api: Api<K>, selector: &str) -> Result<Vec<K>, kube::Error>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let found: ObjectList<K> = api.list(&ListParams::default().limit(PAGE).labels(selector)).await?;
    Ok(found.items)
}

pub fn is_owned_by(owners: &[OwnerReference], job: &InferenceJob) -> bool {
    owners.iter().any(|owner| Some(&owner.uid) == job.metadata.uid.as_ref())
}
