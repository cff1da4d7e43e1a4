//! Which pods work on a job.

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{Api, ResourceExt, api::ListParams};

use crate::{
    api::{
        grid_node::{GridNode, NodeModeSpec},
        inference_job::{InferenceJob, Target},
    },
    cli::{
        CliError, lookup,
        session::Session,
        why::{NODE_LABEL, is_owned_by},
    },
};

/// Pods in one namespace, and what is to be said about those that are not among them.
#[derive(Debug, Default)]
pub struct Workers {
    pub namespace: String,
    pub pods: Vec<Pod>,
    pub remarks: Vec<String>,
}

/// A Local job has pods of its own; a Grid job's answers come from the workers of the nodes in its status.
pub async fn find(session: &Session, job: &InferenceJob, system: &str) -> Result<Workers, CliError> {
    match job.spec.placement.target {
        Target::Local => local(session, job).await,
        Target::Grid => grid(session, job, system).await,
    }
}

async fn local(session: &Session, job: &InferenceJob) -> Result<Workers, CliError> {
    let namespace = &session.namespace;
    let jobs: Api<Job> = Api::namespaced(session.client.clone(), namespace);
    let children = jobs.list(&ListParams::default()).await;
    let children = children.map_err(|error| CliError::from_kube(error, "Job", "", Some(namespace)))?;
    let pods: Api<Pod> = Api::namespaced(session.client.clone(), namespace);
    let mut workers = Workers { namespace: namespace.clone(), ..Workers::default() };
    for child in children.items.iter().filter(|child| is_owned_by(child.owner_references(), job)) {
        let selector = format!("batch.kubernetes.io/job-name={}", child.name_any());
        let found = pods.list(&ListParams::default().labels(&selector)).await;
        workers.pods.extend(found.map_err(|error| CliError::from_kube(error, "Pod", "", Some(namespace)))?.items);
    }
    Ok(workers)
}

async fn grid(session: &Session, job: &InferenceJob, system: &str) -> Result<Workers, CliError> {
    let assigned = job.status.as_ref().map(|status| status.assignments.as_slice()).unwrap_or_default();
    let names: Vec<&str> = assigned.iter().map(|assignment| assignment.node_name.as_str()).collect();
    let mut workers = Workers { namespace: system.to_owned(), ..Workers::default() };
    if names.is_empty() {
        return Ok(workers);
    }
    let pods: Api<Pod> = Api::namespaced(session.client.clone(), system);
    let selector = format!("{NODE_LABEL} in ({})", names.join(","));
    match pods.list(&ListParams::default().labels(&selector)).await {
        Ok(found) => workers.pods = found.items,
        Err(error) => {
            let error = CliError::from_kube(error, "Pod", "", Some(system));
            workers.remarks.push(format!("nodes {} work on it; no logs: {error}", names.join(", ")));
            return Ok(workers);
        }
    }
    for name in names {
        if !workers.pods.iter().any(|pod| pod.labels().get(NODE_LABEL).is_some_and(|node| node == name)) {
            workers.remarks.push(format!("{name}: {}", where_else(session, name).await));
        }
    }
    Ok(workers)
}

/// Why a node that worked on the job has no pod here.
async fn where_else(session: &Session, name: &str) -> &'static str {
    let node: Option<GridNode> = lookup::nodes(session).get_opt(name).await.ok().flatten();
    match node.map(|node| node.spec.mode) {
        Some(NodeModeSpec::External) => "runs on its owner's machine, and its log is there",
        Some(NodeModeSpec::Managed) => "has no pod now",
        None => "is gone, or may not be looked at",
    }
}
