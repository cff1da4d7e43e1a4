//! The ConfigMap with a report's leaves. Its name holds their hash and its data never change, so whatever a report refers to
//! stays what it was.

use std::collections::BTreeMap;

use alloy::sol_types::SolCall;
use k8s_openapi::{
    ByteString,
    api::core::v1::ConfigMap,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

pub use super::cache::EarningsCache;
use super::{MANAGER, report::Report};
use crate::{
    api::{
        conditions::Finding,
        contribution_report::ContributionReport,
        grid_network::GridNetwork,
        ids::{NodeAddress, Wei},
        reasons::Reason,
    },
    chain::{ChainClient, OutboxRecord, bindings::GridComputingRewards::submitEpochCall},
    operator::{chains, context::Context, error::Error},
    reward::{RewardLeaf, checked_leaves, decompress_leaves},
};

/// Key of the compressed leaves in the ConfigMap's `binaryData`.
pub const KEY: &str = "leaves.zst";

fn api(context: &Context) -> Api<ConfigMap> {
    Api::namespaced(context.client.clone(), &context.config.namespace)
}

/// Writes leaves down under their name. Until the report exists they belong to the network. Made and never applied: whoever comes
/// late must not take them from the report that adopted them meanwhile.
pub async fn write(name: &str, leaves: Vec<u8>, network: &GridNetwork, context: &Context) -> Result<(), Error> {
    // Looked for first: somebody who dies after each write would write the same leaves for ever.
    if api(context).get_opt(name).await?.is_some() {
        return Ok(());
    }
    let owner = network.controller_owner_ref(&()).map(plain);
    let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    match api(context).create(&parameters, &config_map(name, leaves, owner)).await {
        Ok(_) => Ok(()),
        // The name is the hash: what is there is the same.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Makes the report the owner of its leaves, so that they go when it goes.
pub async fn adopt(report: &ContributionReport, context: &Context) -> Result<(), Error> {
    let name = &report.spec.leaves.config_map;
    let Some(found) = api(context).get_opt(name).await? else { return Ok(()) };
    if found.owner_references().iter().any(|owner| Some(&owner.uid) == report.uid().as_ref()) {
        return Ok(());
    }
    let owners: Vec<_> = report.owner_ref(&()).into_iter().collect();
    let patch = json!({"metadata": {"resourceVersion": found.resource_version(), "ownerReferences": owners}});
    let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    api(context).patch(name, &parameters, &Patch::Merge(&patch)).await?;
    Ok(())
}

/// An owner that does not block: leaves may outlive it for a moment.
fn plain(owner: OwnerReference) -> OwnerReference {
    OwnerReference { controller: None, block_owner_deletion: None, ..owner }
}

fn config_map(name: &str, leaves: Vec<u8>, owner: Option<OwnerReference>) -> ConfigMap {
    let labels = [("app.kubernetes.io/managed-by", "xdc-grid"), ("xdcgrid.io/leaves", "packed")];
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        binary_data: Some(BTreeMap::from([(KEY.to_owned(), ByteString(leaves))])),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

/// The leaves of `report`: from its ConfigMap, else from calldata with all leaves that any of `reports` was written down with. `None`
/// when both are gone.
pub async fn read(report: &Report, reports: &[Report], context: &Context) -> Result<Option<Vec<RewardLeaf>>, Error> {
    let found = api(context).get_opt(&report.object.spec.leaves.config_map).await?;
    Ok(stored(found.as_ref(), report).or_else(|| from_calldata(report, reports)))
}

/// The leaves of `report`; where they are gone here, those that the chain has for its root.
pub async fn read_or_rebuild(
    report: &Report,
    reports: &[Report],
    chain: &ChainClient,
    context: &Context,
) -> Result<Result<Vec<RewardLeaf>, Finding>, Error> {
    if let Some(found) = read(report, reports, context).await? {
        return Ok(Ok(found));
    }
    if report.is_dry_run() {
        return Ok(Err(missing(report)));
    }
    Ok(match chain.tree_of(report.root).await {
        Ok(tree) => {
            tracing::warn!(report = report.name(), "its ConfigMap is gone; its leaves are rebuilt from the chain");
            Ok(tree.leaves().collect())
        }
        Err(error) if error.is_transient() => Err(chains::finding(&error)),
        Err(error) => {
            let finding = missing(report);
            Err(Finding { message: format!("{}; the chain does not give them: {error}", finding.message), ..finding })
        }
    })
}

/// What there is to say when the leaves of a report are gone.
pub fn missing(report: &Report) -> Finding {
    let message =
        format!("ConfigMap {} with the leaves of {} is gone", report.object.spec.leaves.config_map, report.name());
    Finding::no(Reason::LeavesMissing, message)
}

/// What a node ever earned by reports that nodes can claim; `None` until the epoch loop has looked once. Asks nobody.
pub async fn earned(network: &GridNetwork, node: NodeAddress, context: &Context) -> Result<Option<Wei>, Error> {
    Ok(context.earnings.earned(&network.name_any(), node))
}

fn stored(found: Option<&ConfigMap>, report: &Report) -> Option<Vec<RewardLeaf>> {
    let data = found?.binary_data.as_ref()?.get(KEY)?;
    decompress_leaves(&data.0, report.data_hash)
        .inspect_err(|error| tracing::warn!(report = report.name(), %error, "the stored leaves are damaged"))
        .ok()
}

fn from_calldata(report: &Report, reports: &[Report]) -> Option<Vec<RewardLeaf>> {
    let records = reports.iter().chain([report]).filter_map(|report| report.submit.as_ref());
    let packed = records.filter_map(calldata_leaves);
    packed.into_iter().find_map(|packed| checked_leaves(&packed, report.data_hash).ok())
}

fn calldata_leaves(record: &OutboxRecord) -> Option<Vec<u8>> {
    Some(submitEpochCall::abi_decode(&record.intent.call.data).ok()?.leaves.to_vec())
}
