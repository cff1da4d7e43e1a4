//! IO: tells the gateway, once, and asks it how far it is.

use super::{
    unlock::unlock,
    validate::{Lock, ValidModel},
};
use crate::{
    api::{conditions::Finding, ids::ModelDigest, reasons::Reason},
    operator::{context::Context, error::Error, gateway::GatewayError},
    protocol::internal::{ModelOrder, ModelReport, ModelSource, ModelState, SourceAccess},
};

pub fn key(source: &ModelSource) -> String {
    format!("model/{}/{}", source.digest, source.name)
}

/// Telling the gateway again starts a failed fetch anew, so that happens only once in a while: when the cache has forgotten it.
/// A finding: why there is no report.
pub async fn apply(model: &ValidModel, context: &Context) -> Result<Result<ModelReport, Finding>, Error> {
    let ValidModel { source, lock } = model;
    let key = key(source);
    if context.sent.is_known(&key, source) {
        match context.gateway.model(&source.digest).await {
            Ok(None) => {}
            Ok(Some(report)) => return Ok(Ok(report)),
            Err(error) => return Ok(Err(refused(&error))),
        }
    }
    let access = match lock {
        None => None,
        Some(lock) => match opened(lock, &source.digest, context).await? {
            Ok(access) => access,
            Err(finding) => return Ok(Err(finding)),
        },
    };
    let order = ModelOrder { source: source.clone(), access };
    let outcome = context.gateway.put_model(&order).await;
    if outcome.is_ok() {
        context.sent.sent(&key, source);
    }
    Ok(outcome.map_err(|error| refused(&error)))
}

/// The gateway may see at once what it else finds when the file has come; either has the same reason.
fn refused(error: &GatewayError) -> Finding {
    let mismatch = Reason::ModelFormatMismatch;
    match error {
        GatewayError::Refused { reason, message, .. } if reason == mismatch.as_str() => {
            Finding::no(mismatch, message.clone())
        }
        _ => error.finding(),
    }
}

/// A gateway that has the file needs nothing more; a Secret that is gone by then does no harm.
async fn opened(
    lock: &Lock,
    digest: &ModelDigest,
    context: &Context,
) -> Result<Result<Option<SourceAccess>, Finding>, Error> {
    match context.gateway.model(digest).await {
        Ok(Some(report)) if report.state == ModelState::Ready => return Ok(Ok(None)),
        Ok(_) => {}
        Err(error) => return Ok(Err(refused(&error))),
    }
    Ok(unlock(lock, context).await?.map(Some))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::conditions::Truth;

    fn found(error: &GatewayError) -> (Truth, String) {
        let finding = refused(error);
        (finding.truth, finding.reason)
    }

    #[test]
    fn a_format_that_the_gateway_refuses_at_once_has_the_reason_that_it_has_later() {
        let of = |reason: &str| {
            found(&GatewayError::Refused { status: 400, reason: reason.into(), message: "a tar".into() })
        };
        assert_eq!(of("ModelFormatMismatch"), (Truth::False, "ModelFormatMismatch".into()));
        assert_eq!(of("InvalidModel"), (Truth::False, "GatewayRefused".into()));
    }

    #[test]
    fn of_an_absent_gateway_nothing_is_known() {
        let away = GatewayError::Unavailable("connection refused".into());
        assert_eq!(found(&away), (Truth::Unknown, "GatewayUnavailable".into()));
    }
}
