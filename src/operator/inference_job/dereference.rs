//! IO: everything that a job points at.

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::Time};
use kube::{Api, ResourceExt};

use crate::{
    api::{
        conditions,
        contribution_report::ContributionReport,
        grid_model::GridModel,
        grid_network::GridNetwork,
        ids::EpochNumber,
        inference_job::{InferenceJob, condition},
    },
    operator::{context::Context, error::Error, gateway::GatewayError, write::api_beside},
    protocol::internal::{JobReport, JobState, Spend},
};

use super::{
    local::{self, observe::Observed},
    payment,
    validate::{is_over, is_unsent},
};

/// What was found.
pub struct Refs {
    pub model: Option<GridModel>,
    /// `Ok(None)`: the gateway does not know the job, or a Local job has no child.
    pub report: Result<Option<JobReport>, GatewayError>,
    /// The child of a Local job.
    pub child: Option<Observed>,
    /// The output ConfigMap, whoever made it.
    pub output: Option<ConfigMap>,
    pub settlement: Settlement,
    /// Of a paid job that the grid does not have yet.
    pub escrow: Option<payment::Found>,
}

/// How far the pay for a job's work is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The job is not over, or no network can tell.
    Unknown,
    /// The job's status says that its work is settled, which stays so.
    Told,
    DryRun,
    Pending(EpochNumber),
    Active(EpochNumber),
    /// A user pays, and this is how far it is.
    Paid(Spend),
}

impl Settlement {
    /// Whether all that can come after this has the job looked at: the report of its epoch, or the gateway's word about its escrow.
    pub fn is_told(&self) -> bool {
        match self {
            Settlement::Told | Settlement::Pending(_) | Settlement::Active(_) | Settlement::Paid(_) => true,
            Settlement::Unknown | Settlement::DryRun => false,
        }
    }
}

/// `asked`: what the gateway said a moment ago, when it was asked already.
pub async fn dereference(job: &InferenceJob, asked: Option<JobReport>, context: &Context) -> Result<Refs, Error> {
    if is_over(job) {
        // An ended job asks nothing of anybody but whether it is settled.
        let ended = job.status.as_ref().and_then(|status| status.completion_time.clone());
        let settlement = match ended {
            Some(ended) => settlement(job, &ended, context).await?,
            None => Settlement::Unknown,
        };
        return Ok(Refs { model: None, report: Ok(None), child: None, output: None, settlement, escrow: None });
    }
    let progress = async {
        match asked {
            Some(report) => Ok((Ok(Some(report)), None)),
            None => progress(job, context).await,
        }
    };
    let (model, (report, child)) = tokio::try_join!(model(job, context), progress)?;
    // While requests are being answered nothing is said or written about it.
    let output = if is_under_way(report.as_ref()) { None } else { output(job, context).await? };
    let unsent = report.as_ref().is_ok_and(|report| report.as_ref().is_none_or(is_unsent));
    let escrow = if unsent { payment::look(job, context).await? } else { None };
    Ok(Refs { model, report, child, output, settlement: Settlement::Unknown, escrow })
}

async fn model(job: &InferenceJob, context: &Context) -> Result<Option<GridModel>, Error> {
    let name = &job.spec.workload.model_ref.name;
    if let Some(known) = context.models.find(name) {
        return Ok(Some(known));
    }
    let models: Api<GridModel> = Api::all(context.client.clone());
    Ok(models.get_opt(name).await?)
}

fn is_under_way(report: Result<&Option<JobReport>, &GatewayError>) -> bool {
    let state = report.ok().and_then(|report| Some(report.as_ref()?.state));
    matches!(state, Some(JobState::Queued | JobState::Running | JobState::Suspended))
}

/// A job that nobody looked at before and that is to start: whoever would have taken it earlier says so when it is handed over.
fn is_untouched(job: &InferenceJob) -> bool {
    let spec = &job.spec;
    job.status.is_none() && !spec.suspend && !spec.cancel && spec.start_deadline_seconds.is_none()
}

/// How far it is, as the gateway or its child says.
async fn progress(job: &InferenceJob, context: &Context) -> Result<Progress, Error> {
    let uid = job.uid().ok_or(Error::Incomplete("a uid"))?;
    if is_untouched(job) {
        return Ok((Ok(None), None));
    }
    if !local::is_local(job) {
        return Ok((context.gateway.job(&uid).await, None));
    }
    let child = local::dereference::observed(job, context).await?;
    Ok((Ok(child.as_ref().map(|child| child.report.clone())), child))
}

type Progress = (Result<Option<JobReport>, GatewayError>, Option<Observed>);

async fn output(job: &InferenceJob, context: &Context) -> Result<Option<ConfigMap>, Error> {
    match &job.spec.workload.output.config_map {
        Some(output) => output_of(job, &output.name, context).await,
        None => Ok(None),
    }
}

async fn output_of(job: &InferenceJob, name: &str, context: &Context) -> Result<Option<ConfigMap>, Error> {
    let api: Api<ConfigMap> = api_beside(context, &job.namespace().unwrap_or_default());
    match api.get_opt(name).await {
        Ok(found) => Ok(found),
        // What we may not read we may not write either; that says so with a better sentence.
        Err(error) if crate::operator::error::is_forbidden(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A paid job is settled with its escrow, whatever its epoch: the gateway is told what the chain says about it.
async fn paid(job: &InferenceJob, context: &Context) -> Settlement {
    let report = context.gateway.job(&job.uid().unwrap_or_default()).await;
    report.ok().flatten().and_then(|report| report.spend).map_or(Settlement::Unknown, Settlement::Paid)
}

/// The epoch of an unpaid job is the one in which it ended: receipts are accepted before, and reports go in order.
pub async fn settlement(job: &InferenceJob, ended: &Time, context: &Context) -> Result<Settlement, Error> {
    if local::is_local(job) {
        return Ok(Settlement::Unknown);
    }
    let conditions = job.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    if conditions::is_true(conditions, condition::SETTLED) {
        return Ok(Settlement::Told);
    }
    if job.spec.payment.is_some() {
        return Ok(paid(job, context).await);
    }
    let networks: Api<GridNetwork> = Api::all(context.client.clone());
    let networks = networks.list(&kube::api::ListParams::default()).await?;
    let Some((network, epoch)) = networks.items.iter().find_map(|network| {
        let status = network.status.as_ref()?;
        let genesis = u64::try_from(status.genesis?).ok()?;
        let length = u64::try_from(status.epoch_seconds?).ok()?;
        let epoch = EpochNumber::at(u64::try_from(ended.0.as_second()).ok()?, genesis, length)?;
        (!status.gateways.is_empty()).then_some((network, epoch))
    }) else {
        return Ok(Settlement::Unknown);
    };
    if network.spec.rewards.dry_run {
        return Ok(Settlement::DryRun);
    }
    let reports: Api<ContributionReport> = Api::all(context.client.clone());
    let report = reports.get_opt(&format!("{}-{epoch}", network.name_any())).await?;
    let active = report.and_then(|report| report.status).is_some_and(|status| {
        crate::api::conditions::is_true(&status.conditions, crate::api::contribution_report::condition::ACTIVE)
    });
    Ok(if active { Settlement::Active(epoch) } else { Settlement::Pending(epoch) })
}
