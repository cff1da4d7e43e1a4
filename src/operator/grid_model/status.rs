//! The status of a model: what the gateway reports, as conditions.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;

use super::MANAGER;
use crate::{
    api::{
        conditions::{self, Finding, Truth},
        grid_model::{GridModel, GridModelStatus, condition},
        reasons::Reason,
    },
    operator::{
        context::Context,
        error::Error,
        units::human_bytes,
        write::{self, Change},
    },
    protocol::internal::{ModelReport, ModelState},
};

/// `found` is what the gateway said, or why it said nothing.
pub fn of(model: &GridModel, found: Result<ModelReport, Finding>, now: Timestamp) -> GridModelStatus {
    let mut status = model.status.clone().unwrap_or_default();
    status.observed_generation = model.metadata.generation;
    let (resolved, replicated, ready) = match found {
        Err(refused) => (refused.clone(), refused.clone(), refused),
        Ok(report) => {
            counts(&mut status, &report, model.spec.replicas);
            let resolved = resolved(&report);
            let ready = ready(&resolved, &report);
            (resolved, replicated(&report, model.spec.replicas.unsigned_abs()), ready)
        }
    };
    let now = Time(now);
    for (type_, finding) in
        [(condition::RESOLVED, resolved), (condition::REPLICATED, replicated), (condition::READY, ready)]
    {
        conditions::set(&mut status.conditions, type_, finding, model.metadata.generation, &now);
    }
    status
}

fn counts(status: &mut GridModelStatus, report: &ModelReport, replicas: i32) {
    let known = report.state == ModelState::Ready;
    status.bytes = known.then(|| i64::try_from(report.bytes).unwrap_or(i64::MAX));
    status.size = known.then(|| human_bytes(report.bytes));
    status.serving = Some(report.serving.into());
    status.copies = Some(format!("{}/{replicas}", report.copies));
}

/// Whether the gateway has the file.
pub fn resolved(report: &ModelReport) -> Finding {
    match report.state {
        ModelState::Ready => {
            Finding::yes(Reason::DigestVerified, format!("{}, sha256 {}", human_bytes(report.bytes), report.digest))
        }
        // Without the number of bytes: a download would otherwise write a status for every chunk.
        ModelState::Fetching => Finding::no(Reason::ModelFetching, "the gateway is fetching the file"),
        ModelState::Failed => {
            Finding::with_code(Truth::False, &report.reason, Reason::ModelFailed, report.message.clone())
        }
    }
}

fn replicated(report: &ModelReport, replicas: u32) -> Finding {
    let message = format!("{} of {replicas} copies are proven", report.copies);
    if report.copies >= replicas {
        Finding::yes(Reason::EnoughCopies, message)
    } else {
        Finding::no(Reason::TooFewCopies, message)
    }
}

fn ready(resolved: &Finding, report: &ModelReport) -> Finding {
    match report.serving {
        _ if !resolved.is_true() => resolved.clone(),
        0 => Finding::no(Reason::NoWorkerForModel, "no worker can serve it; does a GridNode list it in spec.models?"),
        n => Finding::yes(Reason::ModelServed, format!("{n} workers can serve it")),
    }
}

pub async fn update(model: &GridModel, status: &GridModelStatus, context: &Context) -> Result<(), Error> {
    let api: Api<GridModel> = Api::all(context.client.clone());
    let old = model.status.as_ref();
    let change = Change {
        old,
        new: status,
        old_conditions: old.map(|status| status.conditions.as_slice()).unwrap_or_default(),
        new_conditions: &status.conditions,
        abnormal: &[],
        expected: &[],
    };
    write::status(&api, context, MANAGER, model, change).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::ids::ModelDigest, operator::gateway::GatewayError};

    fn model() -> GridModel {
        serde_yaml::from_str(
            "apiVersion: xdcgrid.io/v1alpha1\nkind: GridModel\nmetadata: {name: m, generation: 2}\nspec: {source: {url: 'http://x/y'}, sha256: ab, replicas: 2}",
        )
        .unwrap()
    }

    fn report(state: ModelState) -> ModelReport {
        ModelReport {
            digest: ModelDigest([1; 32]),
            state,
            reason: String::new(),
            message: String::new(),
            bytes: 144_703_488,
            fetched_bytes: 0,
            serving: 0,
            copies: 1,
            read_key: String::new(),
        }
    }

    fn reasons(found: Result<ModelReport, Finding>) -> Vec<(Truth, String)> {
        let status = of(&model(), found, Timestamp::UNIX_EPOCH);
        status.conditions.into_iter().map(|condition| (condition.status, condition.reason)).collect()
    }

    #[test]
    fn a_digest_mismatch_is_passed_on_word_by_word() {
        let failed = ModelReport {
            reason: "ModelDigestMismatch".into(),
            message: "sha256 is a, not b".into(),
            ..report(ModelState::Failed)
        };
        let status = of(&model(), Ok(failed), Timestamp::UNIX_EPOCH);
        let ready = conditions::find(&status.conditions, condition::READY).unwrap();
        assert_eq!((ready.reason.as_str(), ready.message.as_str()), ("ModelDigestMismatch", "sha256 is a, not b"));
    }

    #[test]
    fn resolved_is_not_yet_ready() {
        let found = reasons(Ok(report(ModelState::Ready)));
        assert_eq!(found[0], (Truth::True, "DigestVerified".into()));
        assert_eq!(found[1], (Truth::False, "TooFewCopies".into()));
        assert_eq!(found[2], (Truth::False, "NoWorkerForModel".into()));
    }

    #[test]
    fn an_absent_gateway_makes_everything_unknown() {
        let away = GatewayError::Unavailable("connection refused".into());
        assert!(
            reasons(Err(away.finding())).iter().all(|found| *found == (Truth::Unknown, "GatewayUnavailable".into()))
        );
    }
}
