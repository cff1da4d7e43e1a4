//! A test hook: `GRID_CRASH_AFTER=<Step>` ends the process right after that step of a report was written down, once. It shows that
//! no crash reports an epoch twice or skips one. Steps: Planned, Signed, Sent, Included, Finalized, Active.

use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};

use crate::{
    api::contribution_report::{ContributionReport, ReportState},
    operator::{context::Context, error::Error, runner::Guarded},
};

/// On the report after which the process ended: the step. That makes it happen once, over all restarts.
const CRASHED: &str = "xdcgrid.io/crashed-after";
/// Not the code of any real failure.
const EXIT_CODE: i32 = 86;

pub async fn after(state: ReportState, report: &ContributionReport, context: &Context) -> Result<(), Error> {
    let step = format!("{state:?}");
    if context.config.crash_after.as_deref() != Some(step.as_str()) {
        return Ok(());
    }
    let api: Api<Guarded<ContributionReport>> = Api::all(context.client.clone());
    let listed = api.list(&ListParams::default()).await?;
    let reports = listed.items.iter().filter_map(|known| known.0.as_ref().ok());
    if reports.into_iter().any(|known| known.annotations().get(CRASHED) == Some(&step)) {
        return Ok(());
    }
    let patch = serde_json::json!({"metadata": {"annotations": {CRASHED: step}}});
    api.patch(&report.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await?;
    tracing::warn!(step, report = report.name_any(), "GRID_CRASH_AFTER: ending the process");
    std::process::exit(EXIT_CODE);
}
