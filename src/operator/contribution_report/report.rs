//! Pure: a ContributionReport read once into numbers, with the records of its transactions.

use alloy::primitives::B256;
use kube::ResourceExt;

use crate::{
    api::{
        contribution_report::{ContributionReport, ContributionReportSpec, ContributionReportStatus, ReportState},
        ids::{EpochNumber, Wei},
        refs::TransactionStatus,
    },
    chain::{OutboxRecord, OutboxState},
    operator::chains::record_of,
    reward::{Recipe, RewardSplit},
};

/// A report as it is written down.
#[derive(Debug, Clone)]
pub struct Report {
    pub object: ContributionReport,
    pub epoch: EpochNumber,
    pub root: B256,
    /// Cumulative, this epoch included.
    pub total: Wei,
    /// What this epoch adds.
    pub allocated: Wei,
    /// keccak256 of all leaves, packed.
    pub data_hash: B256,
    /// What the leaves were made from; none in reports of older versions.
    pub recipe: Option<Recipe>,
    pub vote: Option<OutboxRecord>,
    pub submit: Option<OutboxRecord>,
    pub activate: Option<OutboxRecord>,
}

/// Why an object under a report's name is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("ContributionReport {name} cannot be used: {what}")]
pub struct ReportError {
    pub name: String,
    pub what: String,
}

impl Report {
    pub fn read(object: ContributionReport) -> Result<Self, ReportError> {
        let name = object.name_any();
        let bad = |what: &str| ReportError { name: name.clone(), what: what.to_owned() };
        let spec = &object.spec;
        let status = object.status.as_ref();
        let record = |of: Option<&TransactionStatus>| match of {
            Some(status) => record_of(status).map(Some).ok_or_else(|| bad("the record of its transaction is damaged")),
            None => Ok(None),
        };
        let vote = record(status.and_then(|status| status.vote.as_ref()))?;
        let submit = record(status.and_then(|status| status.submit.as_ref()))?;
        let activate = record(status.and_then(|status| status.activate.as_ref()))?;
        Ok(Report {
            epoch: EpochNumber(u64::try_from(spec.epoch).map_err(|_| bad("its epoch is negative"))?),
            root: spec.root.parse().map_err(|_| bad("its root is no hash"))?,
            total: spec.cumulative_wei.parse().map_err(|_| bad("its cumulativeWei is no amount"))?,
            allocated: spec.allocated_wei.parse().map_err(|_| bad("its allocatedWei is no amount"))?,
            data_hash: spec.leaves.data_hash.parse().map_err(|_| bad("its data hash is no hash"))?,
            recipe: recipe(spec),
            vote,
            submit,
            activate,
            object,
        })
    }

    pub fn name(&self) -> String {
        self.object.name_any()
    }

    pub fn is_dry_run(&self) -> bool {
        self.object.spec.dry_run
    }

    pub fn status(&self) -> ContributionReportStatus {
        self.object.status.clone().unwrap_or_default()
    }

    pub fn is_active(&self) -> bool {
        self.object.status.as_ref().is_some_and(|status| status.state == ReportState::Active)
    }

    /// Root and cumulative total.
    pub fn sum(&self) -> (B256, Wei) {
        (self.root, self.total)
    }

    /// Whether nothing of it was ever signed but a vote that is over, so that it can be thrown away: a vote alone does nothing.
    pub fn is_untouched(&self) -> bool {
        let planned = |record: &OutboxRecord| matches!(record.state, OutboxState::Planned);
        !is_under_way(self.vote.as_ref()) && [&self.submit, &self.activate].into_iter().flatten().all(planned)
    }
}

/// One that cannot be read is none: then the report carries all leaves, which say enough.
fn recipe(spec: &ContributionReportSpec) -> Option<Recipe> {
    let found = spec.recipe.as_ref()?;
    let (work, capacity) = (u16::try_from(found.work_bps).ok()?, u16::try_from(found.capacity_bps).ok()?);
    let storage = 10_000u16.checked_sub(work)?.checked_sub(capacity)?;
    Some(Recipe {
        statement: spec.statement.as_ref()?.parse().ok()?,
        block: u64::try_from(found.block).ok()?,
        split: RewardSplit::new(work, capacity, storage).ok()?,
        budget: found.budget_wei.parse().ok()?,
    })
}

/// Signed and not finished: whatever else is true, it must be followed to its end, or its nonce blocks the account.
pub fn is_under_way(record: Option<&OutboxRecord>) -> bool {
    record.is_some_and(OutboxRecord::is_under_way)
}

/// How far a report is by the record of its submission alone.
pub fn state_of(submit: Option<&OutboxRecord>) -> ReportState {
    match submit.map(|record| &record.state) {
        None | Some(OutboxState::Planned | OutboxState::Failed { .. }) => ReportState::Planned,
        Some(OutboxState::Signed { .. }) => ReportState::Signed,
        Some(OutboxState::Sent { .. }) => ReportState::Sent,
        Some(OutboxState::Included { .. }) => ReportState::Included,
        Some(OutboxState::Finalized { .. }) => ReportState::Finalized,
    }
}
