//! Credentials of a bucket, from a Secret in the job's own namespace. The operator may read it only where an admin bound the
//! chart's role to it; otherwise the job says with which command that is done.

use k8s_openapi::api::core::v1::Secret;
use kube::Api;

use super::BucketError;
use crate::{
    api::reasons::Reason,
    operator::{config::OperatorConfig, error::is_forbidden},
};

const ID: &str = "AWS_ACCESS_KEY_ID";
const KEY: &str = "AWS_SECRET_ACCESS_KEY";
const TOKEN: &str = "AWS_SESSION_TOKEN";

/// Never printed.
pub(super) struct Credentials {
    pub id: String,
    pub secret: String,
    pub token: Option<String>,
}

/// How an admin lets the operator read the Secrets of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    namespace: String,
    role: String,
    service_account: String,
}

impl Grant {
    pub fn of(config: &OperatorConfig, namespace: &str) -> Self {
        Grant {
            namespace: namespace.to_owned(),
            role: config.job_secrets_role.clone(),
            service_account: format!("{}:{}", config.namespace, config.service_account),
        }
    }

    /// For a shell.
    pub fn command(&self) -> String {
        let Grant { namespace, role, service_account } = self;
        format!(
            "kubectl -n {namespace} create rolebinding xdc-grid-job-secrets --clusterrole={role} --serviceaccount={service_account}"
        )
    }
}

pub(super) async fn read(secrets: &Api<Secret>, name: &str, grant: &Grant) -> Result<Credentials, BucketError> {
    let namespace = &grant.namespace;
    let refused = |reason, message| BucketError::Secret { reason, message };
    let found = secrets.get_opt(name).await.map_err(|error| {
        if !is_forbidden(&error) {
            return BucketError::Kube(Box::new(error));
        }
        let message = format!(
            "the operator may not read Secrets in namespace {namespace}; an admin grants it with: {}",
            grant.command()
        );
        refused(Reason::SecretForbidden, message)
    })?;
    let secret = found.ok_or_else(|| {
        refused(Reason::SecretNotFound, format!("there is no Secret {name:?} in namespace {namespace}"))
    })?;
    credentials(&secret).map_err(|missing| {
        let message = format!("Secret {name:?} in namespace {namespace} has no key {missing}, or it is no text");
        refused(Reason::SecretNotFound, message)
    })
}

fn credentials(secret: &Secret) -> Result<Credentials, &'static str> {
    let value = |key: &'static str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key)).ok_or(key)?;
        let text = std::str::from_utf8(&bytes.0).map_err(|_| key)?.trim();
        if text.is_empty() { Err(key) } else { Ok(text.to_owned()) }
    };
    Ok(Credentials { id: value(ID)?, secret: value(KEY)?, token: value(TOKEN).ok() })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(keys: &[(&str, &str)]) -> Secret {
        let data = keys.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
        Secret { data: Some(data.collect()), ..Secret::default() }
    }

    #[test]
    fn a_line_break_at_the_end_of_a_key_is_no_part_of_it() {
        let found = credentials(&secret(&[(ID, "id\n"), (KEY, "key\n")])).ok().unwrap();
        assert_eq!((found.id.as_str(), found.secret.as_str(), found.token), ("id", "key", None));
    }

    #[test]
    fn a_missing_key_is_named() {
        assert_eq!(credentials(&secret(&[(ID, "id")])).err(), Some(KEY));
        assert_eq!(credentials(&secret(&[(ID, " "), (KEY, "key")])).err(), Some(ID));
    }

    #[test]
    fn the_command_names_role_account_and_namespace() {
        let grant = Grant {
            namespace: "team-a".into(),
            role: "grid-job-secrets".into(),
            service_account: "xdc-grid:op".into(),
        };
        assert_eq!(
            grant.command(),
            "kubectl -n team-a create rolebinding xdc-grid-job-secrets --clusterrole=grid-job-secrets --serviceaccount=xdc-grid:op"
        );
    }
}
