//! IO: writes what was built, and tells the gateway.

use k8s_openapi::api::{apps::v1::StatefulSet, resource::v1::ResourceClaimTemplate};
use kube::Api;

use super::{MANAGER, build::NodeResources};
use crate::{
    api::ids::GridPeerId,
    operator::{context::Context, error::Error, gateway::GatewayError, write},
    protocol::internal::Member,
};

/// What came of it.
pub struct Applied {
    pub stateful_set: Option<StatefulSet>,
    pub member: Result<(), GatewayError>,
}

/// A node that no admin approved is no member. `found`: the worker's set as it was read for this look.
pub async fn apply(
    wanted: NodeResources,
    admission: Admission,
    found: Option<&StatefulSet>,
    context: &Context,
) -> Result<Applied, Error> {
    // Without `..`: whoever adds a resource has to say here what becomes of it.
    let NodeResources { member, stateful_set, claim_template } = wanted;
    let namespace = &context.config.namespace;
    if let Some(template) = claim_template {
        let api: Api<ResourceClaimTemplate> = Api::namespaced(context.client.clone(), namespace);
        write::apply(&api, MANAGER, template).await?;
    }
    let told = tell(&member, admission, context).await;
    let sets: Api<StatefulSet> = Api::namespaced(context.client.clone(), namespace);
    // Last, so that the worker finds its key, its devices and its membership.
    let stateful_set = match stateful_set {
        Some(set) => Some(write::apply_over(&sets, MANAGER, set, found).await?),
        None => None,
    };
    Ok(Applied { stateful_set, member: told })
}

/// Whether a node may take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Approved,
    Refused,
}

pub fn member_key(peer: &GridPeerId) -> String {
    format!("member/{peer}")
}

pub async fn tell(member: &Member, admission: Admission, context: &Context) -> Result<(), GatewayError> {
    let key = member_key(&member.peer_id);
    // The mark of a removal can never equal a member.
    let removed = ();
    match admission {
        Admission::Refused if context.sent.is_known(&key, &removed) => Ok(()),
        Admission::Refused => {
            context.gateway.delete_member(&member.peer_id).await?;
            context.sent.sent(&key, &removed);
            Ok(())
        }
        Admission::Approved if context.sent.is_known(&key, member) => Ok(()),
        Admission::Approved => {
            context.gateway.put_member(member).await?;
            context.sent.sent(&key, member);
            Ok(())
        }
    }
}
