//! Pure: who the pods of a job are, and the one thing that they may do: read and patch the ConfigMaps of their own shards.

use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
};

use super::{
    shards::{belongings, metadata},
    validate::LocalJob,
};
use crate::{operator::inference_job::output::Frame, protocol::shard::config_map_name};

/// What the identity of a job's pods may do.
pub struct Access {
    pub role: Role,
    pub binding: RoleBinding,
}

/// The identity of a job's pods. Everything else that only they need is owned by it: when it goes, their tokens are void at once
/// and the rest follows, for one write.
pub fn account(local: &LocalJob, frame: &Frame) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(local, frame, local.name.clone()),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

pub fn build(local: &LocalJob, frame: &Frame, shards: u32, account: &ServiceAccount) -> Access {
    let name = &local.name;
    let names = (0..shards).map(|index| config_map_name(name, index)).collect();
    Access {
        role: Role {
            metadata: belongings(local, frame, name.clone(), account),
            rules: Some(vec![PolicyRule {
                api_groups: Some(vec![String::new()]),
                resources: Some(vec!["configmaps".into()]),
                resource_names: Some(names),
                verbs: vec!["get".into(), "patch".into()],
                ..PolicyRule::default()
            }]),
        },
        binding: RoleBinding {
            metadata: belongings(local, frame, name.clone(), account),
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
        let mut account = account(&local, &frame());
        account.metadata.uid = Some("a1".into());
        let access = build(&local, &frame(), 2, &account);
        let rules = access.role.rules.clone().unwrap();
        assert_eq!(rules.len(), 1);
        assert_eq!(rules[0].resources.as_deref(), Some(&["configmaps".to_owned()][..]));
        assert_eq!(rules[0].verbs, ["get", "patch"]);
        let names = [format!("{}-shard-0", local.name), format!("{}-shard-1", local.name)];
        assert_eq!(rules[0].resource_names.as_deref(), Some(&names[..]));
        assert_eq!(account.automount_service_account_token, Some(false));
        assert_eq!(access.binding.subjects.unwrap()[0].name, local.name);
        for metadata in [&access.role.metadata, &access.binding.metadata] {
            let owner = &metadata.owner_references.as_ref().unwrap()[0];
            assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("ServiceAccount", "a1"));
        }
    }
}
