//! IO: takes a written report to the chain, one step per reconcile, each written down before the next.

use std::time::Duration;

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    runtime::controller::Action,
};

use super::{
    MANAGER,
    build::chain_report,
    crash,
    decide::{Readings, Step, decide, state_of},
    leaves,
};
use crate::{
    api::{
        conditions::{self, Finding, Truth},
        contribution_report::{ContributionReport, ContributionReportStatus, ReportState, condition},
        grid_network::GridNetwork,
        reasons::Reason,
    },
    chain::{
        At, ChainError, OutboxRecord,
        rewards::{EpochReport, PendingEpoch},
    },
    operator::{
        chains::{Session, finding, status_of},
        context::Context,
        error::{Error, is_not_found},
        runner::Guarded,
        write::{self, Change},
    },
};

const LATER: Duration = Duration::from_secs(10);

pub async fn advance(report: &ContributionReport, context: &Context) -> Result<Action, Error> {
    if is_active(report) {
        return Ok(Action::await_change());
    }
    own_leaves(report, context).await?;
    let networks: Api<GridNetwork> = Api::all(context.client.clone());
    let name = &report.spec.network_ref.name;
    let Some(network) = networks.get_opt(name).await? else {
        let gone = Finding::unknown(Reason::NetworkNotFound, format!("there is no GridNetwork {name:?}"));
        return show(report, Draft::of(report).not_final(gone), context).await;
    };
    let session = match context.chains.session(&network, &context.client, &context.config.namespace).await {
        Ok(session) => session,
        Err(problem) => return show(report, Draft::of(report).not_final(problem.finding), context).await,
    };
    match step(report, &session, context).await {
        Ok(draft) => show(report, draft, context).await,
        Err(StepError::Chain(error)) => show(report, Draft::of(report).not_final(finding(&error)), context).await,
        Err(StepError::Other(error)) => Err(error),
    }
}

fn is_active(report: &ContributionReport) -> bool {
    report.status.as_ref().is_some_and(|status| status.state == ReportState::Active)
}

enum StepError {
    Chain(ChainError),
    Other(Error),
}

impl From<ChainError> for StepError {
    fn from(error: ChainError) -> Self {
        StepError::Chain(error)
    }
}

impl From<Error> for StepError {
    fn from(error: Error) -> Self {
        StepError::Other(error)
    }
}

async fn step(report: &ContributionReport, session: &Session, context: &Context) -> Result<Draft, StepError> {
    let draft = Draft::of(report);
    let Some(on_chain) = chain_report(&report.spec) else {
        return Ok(draft.stalled(Finding::yes(Reason::InvalidObject, "the report's root or total cannot be read")));
    };
    let chain = &session.chain;
    let readings = Readings {
        latest: chain.epoch_state(At::Latest).await?,
        finalized: chain.epoch_state(At::Finalized).await?,
        head_time: chain.head().await?.timestamp,
    };
    let now = u64::try_from((context.clock)().as_second()).unwrap_or(0);
    match decide(report, &on_chain, &readings) {
        Step::Done => Ok(draft),
        Step::Wait(finding) => Ok(draft.waits(finding)),
        Step::Stalled(finding) => Ok(draft.stalled(finding)),
        Step::PlanSubmit => plan_submit(report, on_chain, draft, &readings, session, context).await,
        Step::PlanActivate(pending) => plan_activate(&pending, draft, session),
        Step::FollowSubmit(record) => Ok(draft.submitted(&session.step(&record, now).await?)?),
        Step::FollowActivate(record) => Ok(draft.activating(&session.step(&record, now).await?)?),
        Step::Conclude(state) => Ok(draft.concluded(state, &readings)),
    }
}

async fn plan_submit(
    report: &ContributionReport,
    on_chain: EpochReport,
    draft: Draft,
    readings: &Readings,
    session: &Session,
    context: &Context,
) -> Result<Draft, StepError> {
    let unchanged = (on_chain.root, on_chain.cumulative_total) == readings.latest.last_report();
    let whole = if unchanged {
        on_chain
    } else {
        match leaves::tree_of(report, session.chain.tree_domain(), context).await? {
            Some(tree) => EpochReport::new(on_chain.epoch, &tree, &readings.latest),
            None => {
                let message = format!("ConfigMap {} does not have the leaves of the report's root", report.spec.leaves.config_map);
                return Ok(draft.stalled(Finding::yes(Reason::LeavesMissing, message)));
            }
        }
    };
    let intent = session.chain.report_intent(&whole);
    let record = OutboxRecord::plan(intent, session.key.address(), session.chain.chain_id());
    Ok(draft.submitted(&record)?)
}

fn plan_activate(pending: &PendingEpoch, draft: Draft, session: &Session) -> Result<Draft, StepError> {
    let intent = session.chain.activate_intent(pending);
    Ok(draft.activating(&OutboxRecord::plan(intent, session.key.address(), session.chain.chain_id()))?)
}

/// A status in the making.
struct Draft {
    status: ContributionReportStatus,
    finalized: Option<Finding>,
    active: Option<Finding>,
    stalled: Option<Finding>,
}

impl Draft {
    fn of(report: &ContributionReport) -> Self {
        Draft { status: report.status.clone().unwrap_or_default(), finalized: None, active: None, stalled: None }
    }

    /// Why it is not final, or not active if it is final already.
    fn not_final(mut self, finding: Finding) -> Self {
        let finding = if finding.is_true() { Finding { truth: Truth::Unknown, ..finding } } else { finding };
        if self.status.state >= ReportState::Finalized {
            self.active = Some(finding);
        } else {
            self.finalized = Some(finding);
        }
        self
    }

    fn waits(self, finding: Finding) -> Self {
        self.not_final(finding)
    }

    fn stalled(self, finding: Finding) -> Self {
        let stalled = Some(finding.clone());
        Draft { stalled, ..self.not_final(Finding { truth: Truth::False, ..finding }) }
    }

    fn submitted(mut self, record: &OutboxRecord) -> Result<Self, Error> {
        let transaction = status_of(record)?;
        self.status.state = state_of(transaction.state);
        let finding = match self.status.state {
            ReportState::Finalized => Finding::yes(Reason::ReportFinal, "the report is in a final block"),
            state => Finding::no(Reason::ReportPending, format!("the transaction is {state:?}")),
        };
        self.finalized = Some(finding);
        self.status.submit = Some(transaction);
        Ok(self)
    }

    fn activating(mut self, record: &OutboxRecord) -> Result<Self, Error> {
        self.active = Some(Finding::no(Reason::WindowOpen, format!("distributeRewards is {}", record.state_name())));
        self.status.activate = Some(status_of(record)?);
        Ok(self)
    }

    fn concluded(mut self, state: ReportState, readings: &Readings) -> Self {
        self.status.state = state;
        self.finalized = Some(Finding::yes(Reason::ReportFinal, "the report is in a final block"));
        if state == ReportState::Active {
            self.active = Some(Finding::yes(Reason::RewardsActive, "nodes can claim"));
        } else {
            self.status.active_at = readings.latest.pending.and_then(|pending| i64::try_from(pending.active_at).ok());
        }
        self
    }
}

/// Writes the step down and says when to look again.
async fn show(report: &ContributionReport, draft: Draft, context: &Context) -> Result<Action, Error> {
    let Draft { mut status, finalized, active, stalled } = draft;
    let (generation, now) = (report.metadata.generation, Time((context.clock)()));
    for (type_, finding) in [(condition::FINALIZED, finalized), (condition::ACTIVE, active)] {
        if let Some(finding) = finding {
            conditions::set(&mut status.conditions, type_, finding, generation, &now);
        }
    }
    match &stalled {
        Some(finding) => conditions::set(&mut status.conditions, condition::STALLED, finding.clone(), generation, &now),
        None => conditions::clear(&mut status.conditions, condition::STALLED),
    }
    let before = report.status.as_ref().map(|status| status.state).unwrap_or_default();
    update(report, &status, context).await?;
    if status.state != before {
        tracing::info!(report = report.name_any(), state = ?status.state, "the report moved on");
        crash::after(status.state, report, context).await?;
    }
    if status.state == ReportState::Active {
        retire(report, context).await?;
        return Ok(Action::await_change());
    }
    Ok(Action::requeue(if stalled.is_some() { LATER } else { context.config.chain_poll() }))
}

async fn update(report: &ContributionReport, status: &ContributionReportStatus, context: &Context) -> Result<(), Error> {
    let api: Api<ContributionReport> = Api::all(context.client.clone());
    let old = report.status.as_ref();
    let change = Change {
        old,
        new: status,
        old_conditions: old.map(|status| status.conditions.as_slice()).unwrap_or_default(),
        new_conditions: &status.conditions,
        abnormal: &[condition::STALLED],
    };
    write::status(&api, context, MANAGER, report, change).await?;
    Ok(())
}

/// The leaves go when the report goes.
async fn own_leaves(report: &ContributionReport, context: &Context) -> Result<(), Error> {
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.config.namespace);
    let name = &report.spec.leaves.config_map;
    let Some(found) = api.get_opt(name).await? else { return Ok(()) };
    let Some(owner) = report.controller_owner_ref(&()) else { return Ok(()) };
    if found.owner_references().iter().any(|known| known.uid == owner.uid) {
        return Ok(());
    }
    let patch = serde_json::json!({"metadata": {"ownerReferences": [owner]}});
    api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
    Ok(())
}

/// Deletes reports that are active and old. The newest ones stay: the next report continues their leaves.
async fn retire(report: &ContributionReport, context: &Context) -> Result<(), Error> {
    let api: Api<Guarded<ContributionReport>> = Api::all(context.client.clone());
    let oldest = report.spec.epoch.saturating_sub(context.config.keep_reports.into());
    for old in api.list(&ListParams::default()).await?.items {
        let Ok(old) = old.0 else { continue };
        let same = old.spec.network_ref == report.spec.network_ref;
        if same && old.spec.epoch < oldest && is_active(&old) {
            match api.delete(&old.name_any(), &DeleteParams::background()).await {
                Ok(_) => {}
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
