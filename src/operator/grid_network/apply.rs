//! IO: tells the gateway which network it serves, and asks it where it is.

use super::validate::ValidatedNetwork;
use crate::{
    operator::{context::Context, gateway::GatewayError},
    protocol::internal::{GatewayInfo, NetworkConfig},
};

/// What came of it.
// One of these at a time, on the stack.
#[allow(clippy::large_enum_variant)]
pub enum Applied {
    /// The chain must be known first.
    NotAsked,
    Asked(Result<GatewayInfo, GatewayError>),
}

pub async fn apply(network: &ValidatedNetwork, context: &Context) -> Applied {
    match &network.gateway {
        None => Applied::NotAsked,
        Some(config) => Applied::Asked(configure(config, context).await),
    }
}

async fn configure(config: &NetworkConfig, context: &Context) -> Result<GatewayInfo, GatewayError> {
    let info = context.gateway.info().await?;
    if info.network.as_ref() == Some(config) {
        return Ok(info);
    }
    context.gateway.put_network(config).await
}
