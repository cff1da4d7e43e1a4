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
    },
};

/// The two transactions of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    Submit,
    Activate,
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
    let mut record = match going_on(report, slot, session) {
        Some(record) => record,
        None => {
            let planned = OutboxRecord::plan(intent(), session.key.address(), session.chain.chain_id());
            persist(report, slot, planned.clone(), context).await?;
            planned
        }
    };
    while !record.is_finished() {
        let now = u64::try_from((context.clock)().as_second()).unwrap_or(0);
        let next = match session.step(&record, now).await {
            Ok(next) => next,
            Err(error) => return Ok(Err(error)),
        };
        if next == record {
            break;
        }
        // Back to the plan: its nonce went to another transaction. Decide anew before anything else is signed.
        let start_over = matches!(next.state, OutboxState::Planned);
        persist(report, slot, next.clone(), context).await?;
        record = next;
        if start_over || record.waits_for_the_chain() {
            break;
        }
    }
    Ok(Ok(()))
}

/// A record to go on from. One that failed is over; one that is only planned is planned again when the key has changed.
fn going_on(report: &Report, slot: Slot, session: &Session) -> Option<OutboxRecord> {
    let record = match slot {
        Slot::Submit => report.submit.as_ref(),
        Slot::Activate => report.activate.as_ref(),
    }?;
    match record.state {
        OutboxState::Failed { .. } => None,
        OutboxState::Planned if record.from != session.key.address() => None,
        _ => Some(record.clone()),
    }
}

/// Writes a record down. Fails when somebody else wrote in between: then everything is read and decided again.
async fn persist(report: &mut Report, slot: Slot, record: OutboxRecord, context: &Context) -> Result<(), Error> {
    let mut status = report.status();
    match slot {
        Slot::Submit => {
            status.submit = Some(status_of(&record)?);
            status.state = state_of(Some(&record));
        }
        Slot::Activate => status.activate = Some(status_of(&record)?),
    }
    report.object = write_status(&report.object, &status, context).await?;
    tracing::info!(report = report.name(), ?slot, state = record.state_name(), nonce = ?record.nonce(), "written down");
    match slot {
        Slot::Submit => {
            crash_if_asked(status.state, context);
            report.submit = Some(record);
        }
        Slot::Activate => report.activate = Some(record),
    }
    Ok(())
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
