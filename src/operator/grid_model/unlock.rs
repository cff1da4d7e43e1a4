//! IO: opens a source with a Secret of the operator's namespace. A bucket's credentials stay here: the gateway gets a URL that is signed for
//! one object and some hours.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde::Deserialize;

use super::validate::Lock;
use crate::{
    api::{conditions::Finding, reasons::Reason},
    operator::{
        bucket::{Access, BucketError, Location},
        context::Context,
        error::Error,
        write::api_beside,
    },
    protocol::{internal::SourceAccess, place::Repository},
};

/// Long enough for a large file over a slow line. The gateway is given a new one when a fetch failed.
const VALID: Duration = Duration::from_secs(12 * 3600);
/// Where a Secret of type `kubernetes.io/dockerconfigjson` has its logins.
const DOCKER_CONFIG: &str = ".dockerconfigjson";

pub async fn unlock(lock: &Lock, context: &Context) -> Result<Result<SourceAccess, Finding>, Error> {
    match lock {
        Lock::Bucket(location) => bucket(location, context).await,
        Lock::Registry { repository, secret } => registry(repository, secret, context).await,
    }
}

async fn bucket(location: &Location, context: &Context) -> Result<Result<SourceAccess, Finding>, Error> {
    let signed = match Access::of_admins(context).open(location).await {
        Ok(bucket) => bucket.signed_url(VALID).await,
        Err(error) => Err(error),
    };
    match signed {
        Ok(url) => Ok(Ok(SourceAccess::SignedUrl(url))),
        Err(BucketError::Kube(error)) => Err((*error).into()),
        Err(BucketError::Secret { message, .. }) => Ok(Err(Finding::no(Reason::MissingSecret, message))),
        Err(error) => Ok(Err(Finding::no(Reason::ModelUnreachable, error.to_string()))),
    }
}

async fn registry(
    repository: &Repository,
    name: &str,
    context: &Context,
) -> Result<Result<SourceAccess, Finding>, Error> {
    let namespace = &context.config.namespace;
    let missing = |what: String| {
        Ok(Err(Finding::no(Reason::MissingSecret, format!("Secret {name:?} in namespace {namespace} {what}"))))
    };
    let secrets: Api<Secret> = api_beside(context, namespace);
    let Some(secret) = secrets.get_opt(name).await? else { return missing("does not exist".into()) };
    let Some(config) = secret.data.as_ref().and_then(|data| data.get(DOCKER_CONFIG)) else {
        return missing(format!("has no key {DOCKER_CONFIG}; kubectl create secret docker-registry makes one"));
    };
    match login(&config.0, repository) {
        Ok(Some(access)) => Ok(Ok(access)),
        Ok(None) => missing(format!("has no login for {}", repository.registry)),
        Err(message) => missing(message),
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: std::collections::BTreeMap<String, DockerAuth>,
}

#[derive(Deserialize)]
struct DockerAuth {
    username: Option<String>,
    password: Option<String>,
    /// `username:password` in base64: what `docker login` writes.
    auth: Option<String>,
}

/// Pure: the login for a repository, the one with the longest path that fits where there are several.
fn login(config: &[u8], repository: &Repository) -> Result<Option<SourceAccess>, String> {
    let config: DockerConfig = serde_json::from_slice(config)
        .map_err(|_| format!("has under {DOCKER_CONFIG} what is no Docker configuration"))?;
    let fitting = config.auths.iter().filter_map(|(key, auth)| Some((fits(key, repository)?, auth)));
    let Some((_, auth)) = fitting.max_by_key(|(length, _)| *length) else { return Ok(None) };
    let split = |auth: &String| {
        let decoded = String::from_utf8(BASE64_STANDARD.decode(auth.trim()).ok()?).ok()?;
        decoded.split_once(':').map(|(username, password)| (username.to_owned(), password.to_owned()))
    };
    let named = auth.username.clone().zip(auth.password.clone());
    let (username, password) = named
        .or_else(|| auth.auth.as_ref().and_then(split))
        .ok_or_else(|| format!("has a login for {} without user and password", repository.registry))?;
    Ok(Some(SourceAccess::Login { username, password }))
}

/// How much of the path a key names; `None` when it is for another registry or path. Keys may be URLs, for Docker Hub even of its old API.
fn fits(key: &str, repository: &Repository) -> Option<usize> {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest).trim_end_matches('/');
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let hub = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    if hub(host) && hub(&repository.registry) {
        return Some(0);
    }
    let below = path.is_empty() || repository.name == path || repository.name.starts_with(&format!("{path}/"));
    (host == repository.registry && below).then_some(path.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(config: &str, repository: &str) -> Result<Option<(String, String)>, String> {
        let access = login(config.as_bytes(), &Repository::parse(repository, false).unwrap())?;
        Ok(access.map(|access| match access {
            SourceAccess::Login { username, password } => (username, password),
            SourceAccess::SignedUrl(url) => (url, String::new()),
        }))
    }

    fn user(name: &str) -> Result<Option<(String, String)>, String> {
        Ok(Some((name.to_owned(), "p:w".to_owned())))
    }

    #[test]
    fn logins_are_found_as_docker_and_kubectl_write_them() {
        // "u:p:w"
        let docker = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpwOnc="}}}"#;
        assert_eq!(found(docker, "docker.io/ai/m"), user("u"));
        assert_eq!(found(docker, "ghcr.io/ai/m"), Ok(None));
        let kubectl = r#"{"auths": {"ghcr.io": {"username": "u", "password": "p:w", "auth": "bm8="}}}"#;
        assert_eq!(found(kubectl, "ghcr.io/you/m"), user("u"));
        assert_eq!(found(kubectl, "ghcr.io.evil.org/you/m"), Ok(None));
    }

    #[test]
    fn the_login_with_the_longest_path_wins() {
        let login = |name: &str| format!(r#"{{"username": "{name}", "password": "p:w"}}"#);
        let config = format!(
            r#"{{"auths": {{"host:5000": {}, "host:5000/team": {}, "host:5000/team/b": {}}}}}"#,
            login("all"),
            login("team"),
            login("b")
        );
        assert_eq!(found(&config, "host:5000/other/m"), user("all"));
        assert_eq!(found(&config, "host:5000/team/a"), user("team"));
        assert_eq!(found(&config, "host:5000/team/b"), user("b"));
        assert_eq!(found(&config, "host:5000/teams/b"), user("all"));
    }

    #[test]
    fn what_is_no_login_is_told_and_not_repeated() {
        for config in ["secret", r#"{"auths": {"ghcr.io": {"auth": "secret"}}}"#, r#"{"auths": {"ghcr.io": {}}}"#] {
            let message = found(config, "ghcr.io/m").unwrap_err();
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
