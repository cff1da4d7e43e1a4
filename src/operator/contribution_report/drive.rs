//! IO: one transaction of a report, step by step, each written down before the next one is taken.

use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    MANAGER,
    report::{Report, state_of},
};
use crate::{
    api::contribution_report::{ContributionReport, ContributionReportStatus, ReportState},
    chain::{ChainError, Intent, OutboxRecord, OutboxState},
    operator::{
        chains::{Session, status_of},
        config::CrashAfter,
        context::Context,
        error::Error,
        outbox::{self, Keep},
    },
};

/// The transactions of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    Vote,
    Submit,
    Activate,
}

impl Slot {
    fn record(self, report: &Report) -> Option<&OutboxRecord> {
        match self {
            Slot::Vote => report.vote.as_ref(),
            Slot::Submit => report.submit.as_ref(),
            Slot::Activate => report.activate.as_ref(),
        }
    }
}

/// Plans the transaction if there is none that goes on, and takes every step that does not have to wait for the chain.
/// `Err(ChainError)` inside means that the chain or the contract did not let it go on; what was written down stands.
pub async fn advance(
    report: &mut Report,
    slot: Slot,
    intent: impl FnOnce() -> Intent,
    session: &Session,
    context: &Context,
) -> Result<Result<(), ChainError>, Error> {
    let record = match going_on(report, slot, session) {
        Some(record) => record,
        None => plan(report, slot, intent(), session, context).await?,
    };
    let mut keeper = Status { report, slot, context };
    let outcome = outbox::advance(record, &mut keeper, session, context).await?;
    Ok(outcome.map(drop))
}

/// Writes a transaction down that nobody signs yet.
pub async fn plan(
    report: &mut Report,
    slot: Slot,
    intent: Intent,
    session: &Session,
    context: &Context,
) -> Result<OutboxRecord, Error> {
    let planned = OutboxRecord::plan(intent, session.key.address(), session.chain.chain_id());
    if slot.record(report) != Some(&planned) {
        Status { report, slot, context }.write_down(&planned).await?;
    }
    Ok(planned)
}

/// A record to go on from. One that failed is over, and so is a vote that no longer stands; one that is only planned is planned
/// again when the key has changed.
fn going_on(report: &Report, slot: Slot, session: &Session) -> Option<OutboxRecord> {
    let record = slot.record(report)?;
    match record.state {
        OutboxState::Failed { .. } => None,
        OutboxState::Finalized { .. } if slot == Slot::Vote => None,
        OutboxState::Planned if record.from != session.key.address() => None,
        _ => Some(record.clone()),
    }
}

/// The status of a report, where its transactions are written down.
struct Status<'a> {
    report: &'a mut Report,
    slot: Slot,
    context: &'a Context,
}

impl Keep for Status<'_> {
    async fn write_down(&mut self, record: &OutboxRecord) -> Result<(), Error> {
        let Status { ref mut report, slot, context } = *self;
        let mut status = report.status();
        match slot {
            Slot::Vote => status.vote = Some(status_of(record)?),
            Slot::Submit => {
                status.submit = Some(status_of(record)?);
                status.state = state_of(Some(record));
            }
            Slot::Activate => status.activate = Some(status_of(record)?),
        }
        report.object = write_status(&report.object, &status, context).await?;
        let (name, state) = (report.name(), record.state_name());
        tracing::info!(report = name, ?slot, state, nonce = ?record.nonce(), "written down");
        match slot {
            Slot::Vote => report.vote = Some(record.clone()),
            Slot::Submit => {
                crash_if_asked(status.state, context);
                report.submit = Some(record.clone());
            }
            Slot::Activate => report.activate = Some(record.clone()),
        }
        Ok(())
    }
}

async fn write_status(
    report: &ContributionReport,
    status: &ContributionReportStatus,
    context: &Context,
) -> Result<ContributionReport, Error> {
    let api: Api<ContributionReport> = Api::all(context.client.clone());
    let body = json!({
        "apiVersion": ContributionReport::api_version(&()),
        "kind": ContributionReport::kind(&()),
        "metadata": {"name": report.name_any(), "resourceVersion": report.resource_version()},
        "status": status,
    });
    Ok(api.patch_status(&report.name_any(), &PatchParams::apply(MANAGER).force(), &Patch::Apply(&body)).await?)
}

/// See [`CrashAfter`]: what a power cut would do, at a chosen moment.
fn crash_if_asked(state: ReportState, context: &Context) {
    let wanted = match context.config.crash_after {
        Some(CrashAfter::Planned) => ReportState::Planned,
        Some(CrashAfter::Signed) => ReportState::Signed,
        Some(CrashAfter::Sent) => ReportState::Sent,
        Some(CrashAfter::Included) => ReportState::Included,
        Some(CrashAfter::Finalized) => ReportState::Finalized,
        None => return,
    };
    if wanted == state {
        tracing::error!(?state, "GRID_CRASH_AFTER: this process ends now");
        std::process::exit(70);
    }
}
