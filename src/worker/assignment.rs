//! What this worker is to serve, as a gateway said last. Parsed at the edge.

use std::{collections::BTreeMap, time::Duration};

use super::leases::rejected;
use crate::{
    api::ids::ModelDigest,
    protocol::{internal::NodeRole, wire},
};

/// Most models that one worker takes.
const MAX_MODELS: usize = 64;

/// One model to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub digest: ModelDigest,
    /// For people.
    pub name: String,
    /// Size in bytes; 0 when the gateway does not know it yet.
    pub bytes: u64,
    /// Tokens; `None` = what the file says.
    pub context_length: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Assignment {
    pub models: BTreeMap<ModelDigest, Wanted>,
    pub roles: Vec<NodeRole>,
}

impl Assignment {
    pub(super) fn read(assign: &wire::Assign) -> Result<Self, wire::Refused> {
        let malformed = |message: String| rejected("MalformedRequest", message, Duration::ZERO);
        if assign.models.len() > MAX_MODELS {
            return Err(malformed(format!("{} models are more than {MAX_MODELS}", assign.models.len())));
        }
        let mut models = BTreeMap::new();
        for model in &assign.models {
            let digest = model.digest.as_slice().try_into().map(ModelDigest);
            let digest = digest.map_err(|_| malformed("a model digest has 32 bytes".into()))?;
            let context_length = Some(model.context_length).filter(|length| *length > 0);
            let name = model.name.chars().take(128).collect();
            models.insert(digest, Wanted { digest, name, bytes: model.bytes, context_length });
        }
        // A role of a later version is none of ours.
        let roles = assign.roles.iter().filter_map(|role| match role.as_str() {
            "Compute" => Some(NodeRole::Compute),
            "Verify" => Some(NodeRole::Verify),
            "Storage" => Some(NodeRole::Storage),
            _ => None,
        });
        Ok(Assignment { models, roles: roles.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_read_and_unknown_roles_are_skipped() {
        let model = wire::AssignedModel { digest: vec![7; 32], name: "m".into(), bytes: 5, context_length: 0 };
        let assign = wire::Assign { models: vec![model], roles: vec!["Verify".into(), "Dance".into()] };
        let read = Assignment::read(&assign).unwrap();
        assert_eq!(read.roles, [NodeRole::Verify]);
        assert_eq!(read.models[&ModelDigest([7; 32])].context_length, None);
    }

    #[test]
    fn short_digests_and_long_lists_are_refused() {
        let short = wire::AssignedModel { digest: vec![7; 31], ..Default::default() };
        assert!(Assignment::read(&wire::Assign { models: vec![short], roles: vec![] }).is_err());
        let model = wire::AssignedModel { digest: vec![7; 32], ..Default::default() };
        assert!(Assignment::read(&wire::Assign { models: vec![model; 65], roles: vec![] }).is_err());
    }
}
