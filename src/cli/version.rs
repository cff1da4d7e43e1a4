//! `kubectl grid version`: of this program, and of what it talks to.

use std::{io::Write, time::Duration};

use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, ResourceExt, api::ListParams};
use serde::Serialize;
use tokio::time::timeout;

use super::{
    CliError, Exit,
    output::{self, Format, note},
    session::{ClusterOptions, GridNamespace, Session},
};
use crate::api::{GROUP, VERSION, grid_network::GridNetwork};

/// The cluster is not waited for longer than this.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  kubectl grid version
  # Without asking the cluster
  kubectl grid version --client
  kubectl grid version -o yaml

Exit codes: 0 done, 1 error. What the cluster does not tell is left out, with a remark on standard error.")]
pub struct VersionArgs {
    /// Only this program's version.
    #[arg(long)]
    client: bool,
    #[command(flatten)]
    system: GridNamespace,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What there is to say.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Versions {
    /// Of this program.
    version: &'static str,
    /// The API that this program speaks.
    api_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kubernetes: Option<String>,
    /// Versions of the group that the cluster serves; absent without CRDs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    served: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    operators: Vec<OperatorVersion>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    networks: Vec<NetworkVersion>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OperatorVersion {
    name: String,
    image: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NetworkVersion {
    name: String,
    #[serde(rename = "chainID")]
    chain_id: i64,
    contract: String,
    /// Versions of its gateways.
    gateways: Vec<String>,
}

pub async fn run(options: &ClusterOptions, args: &VersionArgs, out: &mut dyn Write) -> Result<Exit, CliError> {
    let mut versions = Versions {
        version: env!("CARGO_PKG_VERSION"),
        api_version: format!("{GROUP}/{VERSION}"),
        ..Versions::default()
    };
    if !args.client {
        match Session::open(options).await {
            Ok(session) => {
                if timeout(PATIENCE, ask(&session, &args.system.grid_namespace, &mut versions)).await.is_err() {
                    note(format_args!("the cluster did not answer within {} s", PATIENCE.as_secs()));
                }
            }
            Err(error) => note(format_args!("{error}")),
        }
    }
    output::print(out, args.output, &versions, || vec![versions.version.to_owned()], |out| print(&versions, out))?;
    Ok(Exit::Done)
}

/// Everything that answers; the rest is remarked on.
async fn ask(session: &Session, system: &str, versions: &mut Versions) {
    let client = &session.client;
    match client.apiserver_version().await {
        Ok(found) => versions.kubernetes = Some(found.git_version),
        Err(error) => return note(format_args!("{}", CliError::from_kube(error, "version", "", None))),
    }
    match client.list_api_groups().await {
        Ok(groups) => {
            let group = groups.groups.into_iter().find(|group| group.name == GROUP);
            let served = group.into_iter().flat_map(|group| group.versions);
            versions.served = served.map(|version| version.version).collect();
        }
        Err(error) => note(format_args!("{}", CliError::from_kube(error, "API group", "", None))),
    }
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), system);
    let ours = ListParams::default().labels("app.kubernetes.io/component=operator,app.kubernetes.io/part-of=xdc-grid");
    match deployments.list(&ours).await {
        Ok(found) => versions.operators = found.items.iter().filter_map(operator).collect(),
        Err(error) => note(format_args!("{}", CliError::from_kube(error, "Deployment", "", Some(system)))),
    }
    if versions.served.is_empty() {
        return note(format_args!("the cluster has no CRDs of {GROUP}: is the chart installed? (helm list -A)"));
    }
    match Api::<GridNetwork>::all(client.clone()).list(&ListParams::default()).await {
        Ok(found) => versions.networks = found.items.iter().map(network).collect(),
        Err(error) => note(format_args!("{}", CliError::from_kube(error, "GridNetwork", "", None))),
    }
}

fn operator(deployment: &Deployment) -> Option<OperatorVersion> {
    let containers = &deployment.spec.as_ref()?.template.spec.as_ref()?.containers;
    let image = containers.first()?.image.clone()?;
    let namespace = deployment.namespace().unwrap_or_default();
    Some(OperatorVersion { name: format!("{namespace}/{}", deployment.name_any()), image })
}

fn network(network: &GridNetwork) -> NetworkVersion {
    let gateways = network.status.iter().flat_map(|status| &status.gateways);
    NetworkVersion {
        name: network.name_any(),
        chain_id: network.spec.chain.chain_id,
        contract: network.spec.chain.contract.clone(),
        gateways: gateways.map(|gateway| gateway.version.clone()).collect(),
    }
}

fn print(versions: &Versions, out: &mut dyn Write) -> Result<(), CliError> {
    writeln!(out, "kubectl-grid  {} ({})", versions.version, versions.api_version)?;
    if let Some(kubernetes) = &versions.kubernetes {
        writeln!(out, "kubernetes    {kubernetes}")?;
    }
    if !versions.served.is_empty() {
        writeln!(out, "CRDs          {GROUP}: {}", versions.served.join(", "))?;
    }
    for operator in &versions.operators {
        writeln!(out, "operator      {} ({})", operator.image, operator.name)?;
    }
    for network in &versions.networks {
        let gateways = if network.gateways.is_empty() { "none".into() } else { network.gateways.join(", ") };
        let NetworkVersion { name, chain_id, contract, .. } = network;
        writeln!(out, "network       {name}: contract {contract} on chain {chain_id}, gateway {gateways}")?;
    }
    Ok(())
}
