//! The epoch loop: when the contract's next epoch is over, the gateway closes it, the budget is shared, and the report is written
//! down. Nothing is signed here. Whatever crash there is, the same epoch is planned again until its report exists, and never
//! after that: the report's name is its lock.

use std::time::Duration;

use alloy::primitives::B256;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt, api::{ListParams, ObjectMeta, PostParams}, runtime::controller::Action};

use super::{
    MANAGER, crash,
    build::{self, Planned},
    leaves,
};
use crate::{
    api::{
        contribution_report::{ContributionReport, ReportState},
        grid_network::GridNetwork,
        ids::{EpochNumber, Wei},
        reasons::Reason,
    },
    chain::{At, ContractParameters, rewards::EpochState},
    operator::{
        chains::Session,
        context::Context,
        error::Error,
        gateway::Close,
        runner::Guarded,
        write,
    },
    reward::{RewardLeaf, RewardTree},
};

/// The gateway waits for audits, the chain for blocks; neither tells us.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// While something is wrong that a person must see.
const LATER: Duration = Duration::from_secs(15);

/// Plans the next epoch's report, if it is time.
pub async fn plan_next(network: &GridNetwork, context: &Context) -> Result<Action, Error> {
    if network.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let Ok(session) = context.chains.session(network, &context.client, &context.config.namespace).await else {
        // The network's conditions say what is wrong with chain or key.
        return Ok(Action::requeue(LATER));
    };
    let (Ok(parameters), Ok(state)) = (session.chain.parameters().await, session.chain.epoch_state(At::Latest).await) else {
        return Ok(Action::requeue(LATER));
    };
    let reports = reports_of(network, context).await?;
    let Some(epoch) = due(network, &reports, &state) else { return Ok(Action::requeue(LOOK_AGAIN)) };
    let now = u64::try_from((context.clock)().as_second()).unwrap_or(0);
    let end = parameters.epoch_end(epoch);
    if now < end {
        return Ok(Action::requeue(Duration::from_secs(end - now).min(LATER)));
    }
    let totals = match context.gateway.close_epoch(epoch).await? {
        Close::Closed(totals) => totals,
        Close::NotYet(why) => {
            tracing::debug!(%epoch, why, "the epoch is not closed yet");
            return Ok(Action::requeue(LOOK_AGAIN));
        }
    };
    let Some(base) = base(&reports, &state, network, &session, context).await? else {
        let note = format!("epoch {epoch} cannot be reported: no ContributionReport has the leaves of root {}", last_root(network, &reports, &state));
        write::publish(context, network, &write::warning("Report", Reason::LeavesMissing.as_str(), note)).await;
        return Ok(Action::requeue(LATER));
    };
    let inputs = build::Inputs { network, epoch, totals: &totals, base, budget: budget(network, &parameters, &state), session: &session };
    match build::build(inputs) {
        Ok(planned) => write_down(planned, context).await,
        Err(error) => {
            let note = format!("epoch {epoch} cannot be reported: {error}");
            write::publish(context, network, &write::warning("Report", Reason::InvalidObject.as_str(), note)).await;
            Ok(Action::requeue(LATER))
        }
    }
}

async fn reports_of(network: &GridNetwork, context: &Context) -> Result<Vec<ContributionReport>, Error> {
    let api: Api<Guarded<ContributionReport>> = Api::all(context.client.clone());
    let listed = api.list(&ListParams::default()).await?.items.into_iter().filter_map(|report| report.0.ok());
    let name = network.name_any();
    Ok(listed.filter(|report| report.spec.network_ref.name == name).collect())
}

/// The epoch to plan: the one that the contract wants next, as soon as the one before is final. In a dry run the contract never
/// moves, so there the reports count.
fn due(network: &GridNetwork, reports: &[ContributionReport], state: &EpochState) -> Option<EpochNumber> {
    let newest = reports.iter().max_by_key(|report| report.spec.epoch);
    let next_written = newest.and_then(|report| u64::try_from(report.spec.epoch).ok()).map_or(0, |epoch| epoch + 1);
    if network.spec.rewards.dry_run {
        return Some(EpochNumber(state.next_epoch.0.max(next_written)));
    }
    let next = state.next_epoch;
    // Written already: its own controller takes it to the chain.
    if next.0 < next_written {
        return None;
    }
    let before = reports.iter().find(|report| u64::try_from(report.spec.epoch).ok() == next.0.checked_sub(1));
    let settled = before.is_none_or(|report| report.spec.dry_run || state_of(report) >= ReportState::Finalized);
    settled.then_some(next)
}

fn state_of(report: &ContributionReport) -> ReportState {
    report.status.as_ref().map(|status| status.state).unwrap_or_default()
}

/// The root that the next report continues.
fn last_root(network: &GridNetwork, reports: &[ContributionReport], state: &EpochState) -> B256 {
    let newest = reports.iter().max_by_key(|report| report.spec.epoch);
    match newest.filter(|_| network.spec.rewards.dry_run) {
        Some(report) => report.spec.root.parse().unwrap_or_default(),
        None => state.last_report().0,
    }
}

/// Everything that all nodes earned so far; `None` when the leaves of the last root are not to be found.
async fn base(
    reports: &[ContributionReport],
    state: &EpochState,
    network: &GridNetwork,
    session: &Session,
    context: &Context,
) -> Result<Option<Vec<RewardLeaf>>, Error> {
    let root = last_root(network, reports, state);
    if root == B256::ZERO {
        return Ok(Some(Vec::new()));
    }
    let text = root.to_string();
    let mut with_root: Vec<_> = reports.iter().filter(|report| report.spec.root == text).collect();
    with_root.sort_unstable_by_key(|report| std::cmp::Reverse(report.spec.epoch));
    for report in with_root {
        if let Some(tree) = leaves::tree_of(report, session.chain.tree_domain(), context).await? {
            return Ok(Some(RewardTree::leaves(&tree).collect()));
        }
    }
    Ok(None)
}

/// What the epoch may allocate: what the admin set, as far as the pool and the contract's bound go.
fn budget(network: &GridNetwork, parameters: &ContractParameters, state: &EpochState) -> Wei {
    let wanted: Wei = network.spec.rewards.budget_per_epoch_wei.parse().unwrap_or_default();
    wanted.min(state.reward_pool).min(parameters.max_epoch_increase)
}

/// Leaves first: a report without leaves would be of no use, leaves without a report are written over by the next try.
async fn write_down(planned: Planned, context: &Context) -> Result<Action, Error> {
    let Planned { name, spec, tree } = planned;
    let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.config.namespace);
    write::apply(&maps, MANAGER, leaves::config_map(&name, &tree)?).await?;
    let reports: Api<ContributionReport> = Api::all(context.client.clone());
    let report = ContributionReport { metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() }, spec, status: None };
    match reports.create(&PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() }, &report).await {
        Ok(_) => {
            tracing::info!(report = name, allocated = report.spec.allocated, "the report is written down");
            crash::after(ReportState::Planned, &report, context).await?;
        }
        // An earlier try got as far; what it wrote stands.
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Action::requeue(LOOK_AGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::contribution_report::ContributionReportStatus,
        operator::grid_network::validate::tests::{facts, network},
    };

    fn report(epoch: i64, state: ReportState) -> ContributionReport {
        let mut report: ContributionReport = serde_json::from_value(serde_json::json!({
            "apiVersion": "xdcgrid.io/v1alpha1", "kind": "ContributionReport", "metadata": {"name": format!("demo-{epoch}")},
            "spec": {"networkRef": {"name": "demo"}, "epoch": epoch, "root": format!("0x{}", "11".repeat(32)), "cumulativeWei": "1",
                "allocatedWei": "1", "allocated": "0", "leaves": {"configMap": "x", "dataHash": "0x"}, "reporter": "0x", "auditSecret": "",
                "totals": {"nodes": 0, "requests": 0, "promptTokens": 0, "outputTokens": 0, "units": "0"}},
        }))
        .unwrap();
        report.status = Some(ContributionReportStatus { state, ..ContributionReportStatus::default() });
        report
    }

    /// The contract of the fixture wants epoch 3 next.
    fn due_with(reports: &[ContributionReport]) -> Option<u64> {
        due(&network(), reports, &facts().epochs).map(|epoch| epoch.0)
    }

    #[test]
    fn the_contracts_next_epoch_is_planned_once_the_one_before_is_final() {
        assert_eq!(due_with(&[]), Some(3), "an operator that starts late begins where the contract is");
        assert_eq!(due_with(&[report(2, ReportState::Included)]), None);
        assert_eq!(due_with(&[report(2, ReportState::Finalized)]), Some(3));
        assert_eq!(due_with(&[report(2, ReportState::Active), report(3, ReportState::Planned)]), None, "it exists");
    }

    #[test]
    fn a_dry_run_counts_its_own_reports() {
        let mut network = network();
        network.spec.rewards.dry_run = true;
        assert_eq!(due(&network, &[report(7, ReportState::Planned)], &facts().epochs), Some(EpochNumber(8)));
    }

    #[test]
    fn the_budget_never_exceeds_the_pool() {
        let facts = facts();
        assert_eq!(budget(&network(), &facts.parameters, &facts.epochs), Wei(5), "10 are asked for, 5 are in the pool");
    }
}
