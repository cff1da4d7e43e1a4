//! IO: tells the gateway, once, and asks it how far it is.

use super::{
    unlock::unlock,
    validate::{Lock, ValidModel},
};
use crate::{
    api::{conditions::Finding, ids::ModelDigest},
    operator::{context::Context, error::Error, gateway::GatewayError},
    protocol::internal::{ModelOrder, ModelReport, ModelSource, ModelState, SourceAccess},
};

/// What became of it: a report, or why there is none.
pub type Told = Result<Result<ModelReport, GatewayError>, Finding>;

pub fn key(source: &ModelSource) -> String {
    format!("model/{}/{}", source.digest, source.name)
}

/// Telling the gateway again starts a failed fetch anew, so that happens only once in a while: when the cache has forgotten it.
pub async fn apply(model: &ValidModel, context: &Context) -> Result<Told, Error> {
    let ValidModel { source, lock } = model;
    let key = key(source);
    if context.sent.is_known(&key, source) {
        match context.gateway.model(&source.digest).await {
            Ok(None) => {}
            Ok(Some(report)) => return Ok(Ok(Ok(report))),
            Err(error) => return Ok(Ok(Err(error))),
        }
    }
    let access = match lock {
        None => None,
        Some(lock) => match opened(lock, &source.digest, context).await? {
            Ok(access) => access,
            Err(told) => return Ok(told),
        },
    };
    let order = ModelOrder { source: source.clone(), access };
    let outcome = context.gateway.put_model(&order).await;
    if outcome.is_ok() {
        context.sent.sent(&key, source);
    }
    Ok(Ok(outcome))
}

/// A gateway that has the file needs nothing more; a Secret that is gone by then does no harm.
async fn opened(
    lock: &Lock,
    digest: &ModelDigest,
    context: &Context,
) -> Result<Result<Option<SourceAccess>, Told>, Error> {
    match context.gateway.model(digest).await {
        Ok(Some(report)) if report.state == ModelState::Ready => return Ok(Ok(None)),
        Ok(_) => {}
        Err(error) => return Ok(Err(Ok(Err(error)))),
    }
    Ok(unlock(lock, context).await?.map(Some).map_err(Err))
}
