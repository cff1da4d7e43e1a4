//! Pure: who the pods of a job are, and the one thing that they may do: read and patch the ConfigMaps of their own shards. Pods that
//! carry their input share an identity in each namespace, which may make ConfigMaps and read none.

use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
};

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;

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

/// Name of the identity that the pods of brief jobs share in a namespace, and of its Role and RoleBinding.
pub const SHARED: &str = "xdc-grid-job-pods";
/// On the shared identities: where they are is asked by it.
pub const SHARED_COMPONENT: (&str, &str) = ("app.kubernetes.io/component", "job-pods");

/// The identity that the pods of brief jobs share in a namespace.
pub fn shared_account(namespace: &str) -> ServiceAccount {
    ServiceAccount {
        metadata: shared_metadata(namespace),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// What it may do. Who cannot read can neither learn a name nor change what it finds.
pub fn shared(namespace: &str, account: &ServiceAccount) -> Access {
    let owner = account.owner_ref(&()).map(|owner| vec![owner]);
    let metadata = ObjectMeta { owner_references: owner, ..shared_metadata(namespace) };
    Access {
        role: Role {
            metadata: metadata.clone(),
            rules: Some(vec![PolicyRule {
                api_groups: Some(vec![String::new()]),
                resources: Some(vec!["configmaps".into()]),
                verbs: vec!["create".into()],
                ..PolicyRule::default()
            }]),
        },
        binding: RoleBinding {
            metadata,
            role_ref: RoleRef {
                api_group: "rbac.authorization.k8s.io".into(),
                kind: "Role".into(),
                name: SHARED.into(),
            },
            subjects: Some(vec![Subject {
                kind: "ServiceAccount".into(),
                name: SHARED.into(),
                namespace: Some(namespace.to_owned()),
                ..Subject::default()
            }]),
        },
    }
}

/// Whether an account of that name is the operator's.
pub fn is_shared(account: &ServiceAccount) -> bool {
    let (key, value) = SHARED_COMPONENT;
    account.metadata.labels.as_ref().and_then(|labels| labels.get(key)).is_some_and(|found| found == value)
}

fn shared_metadata(namespace: &str) -> ObjectMeta {
    let labels: BTreeMap<_, _> = [
        ("app.kubernetes.io/name", "xdc-grid"),
        ("app.kubernetes.io/managed-by", "xdc-grid-operator"),
        SHARED_COMPONENT,
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    ObjectMeta {
        name: Some(SHARED.into()),
        namespace: Some(namespace.to_owned()),
        labels: Some(labels),
        ..ObjectMeta::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shared_identity_may_make_config_maps_and_read_nothing() {
        let mut account = shared_account("team-a");
        assert!(is_shared(&account) && !is_shared(&ServiceAccount::default()));
        account.metadata.uid = Some("a1".into());
        let access = shared("team-a", &account);
        let rules = access.role.rules.unwrap();
        assert_eq!(rules.len(), 1);
        assert_eq!(
            (rules[0].resources.as_deref(), rules[0].verbs.as_slice()),
            (Some(&["configmaps".to_owned()][..]), &["create".to_owned()][..])
        );
        assert_eq!(access.binding.subjects.unwrap()[0].name, SHARED);
        for metadata in [&access.role.metadata, &access.binding.metadata] {
            assert_eq!(metadata.owner_references.as_ref().unwrap()[0].uid, "a1");
        }
    }
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
