//! Pure: who the pods of a job are, and the one thing that they may do: read and patch the ConfigMaps of their own shards.

use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
};

use super::{shards::metadata, validate::LocalJob};
use crate::{operator::inference_job::output::Frame, protocol::shard::config_map_name};

/// The identity of a job's pods.
pub struct Access {
    pub account: ServiceAccount,
    pub role: Role,
    pub binding: RoleBinding,
}

pub fn build(local: &LocalJob, frame: &Frame, shards: u32) -> Access {
    let name = &local.name;
    let names = (0..shards).map(|index| config_map_name(name, index)).collect();
    Access {
        account: ServiceAccount {
            metadata: metadata(local, frame, name.clone()),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        },
        role: Role {
            metadata: metadata(local, frame, name.clone()),
            rules: Some(vec![PolicyRule {
                api_groups: Some(vec![String::new()]),
                resources: Some(vec!["configmaps".into()]),
                resource_names: Some(names),
                verbs: vec!["get".into(), "patch".into()],
                ..PolicyRule::default()
            }]),
        },
        binding: RoleBinding {
            metadata: metadata(local, frame, name.clone()),
            role_ref: RoleRef {
                api_group: "rbac.authorization.k8s.io".into(),
                kind: "Role".into(),
                name: name.clone(),
            },
            subjects: Some(vec![Subject {
                kind: "ServiceAccount".into(),
                name: name.clone(),
                namespace: Some(frame.namespace.clone()),
                ..Subject::default()
            }]),
        },
    }
}

/// The ConfigMaps that a role lets its pods patch.
pub fn config_maps(role: &Role) -> Vec<String> {
    role.rules.iter().flatten().flat_map(|rule| rule.resource_names.iter().flatten().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::inference_job::local::{
        job::tests::frame,
        validate::tests::{job, model},
    };

    #[test]
    fn the_pods_may_touch_the_config_maps_of_their_shards_and_nothing_else() {
        let local = super::super::validate::validate(&job(""), Some(&model()), None).unwrap();
        let access = build(&local, &frame(), 2);
        let rules = access.role.rules.clone().unwrap();
        assert_eq!(rules.len(), 1);
        assert_eq!(rules[0].resources.as_deref(), Some(&["configmaps".to_owned()][..]));
        assert_eq!(rules[0].verbs, ["get", "patch"]);
        assert_eq!(config_maps(&access.role), [format!("{}-shard-0", local.name), format!("{}-shard-1", local.name)]);
        assert_eq!(access.account.automount_service_account_token, Some(false));
        assert_eq!(access.binding.subjects.unwrap()[0].name, local.name);
    }
}
