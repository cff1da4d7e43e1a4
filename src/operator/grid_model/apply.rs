//! IO: tells the gateway, once, and asks it how far it is.

use crate::{
    operator::{context::Context, gateway::GatewayError},
    protocol::internal::{ModelReport, ModelSource},
};

pub fn key(source: &ModelSource) -> String {
    format!("model/{}/{}", source.digest, source.name)
}

/// Telling the gateway again starts a failed fetch anew, so that happens only once in a while: when the cache has forgotten it.
pub async fn apply(source: &ModelSource, context: &Context) -> Result<ModelReport, GatewayError> {
    let key = key(source);
    if context.sent.is_known(&key, source)
        && let Some(report) = context.gateway.model(&source.digest).await?
    {
        return Ok(report);
    }
    let report = context.gateway.put_model(source).await?;
    context.sent.sent(&key, source);
    Ok(report)
}
