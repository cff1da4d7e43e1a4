//! OCI registries: where a blob is (distribution specification 1.1), and what to show at the door. A registry that wants to know who
//! asks answers 401 with a challenge: `Basic` takes user and password, `Bearer` a token that another server gives for them, or to
//! anybody for what is public (the distribution project's token specification).

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::{
    Client, StatusCode, Url,
    header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};
use serde::Deserialize;

use super::{
    FetchError,
    web::{Broken, describe},
};
use crate::{api::ids::ModelDigest, protocol::place::Repository};

/// Largest answer of a token server.
const MAX_ANSWER: usize = 64 << 10;

/// User and password. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub username: String,
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

impl Login {
    fn header(&self) -> Option<HeaderValue> {
        let encoded = BASE64_STANDARD.encode(format!("{}:{}", self.username, self.password));
        secret(&format!("Basic {encoded}"))
    }
}

/// What a registry answers 401 with.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// A repository, and who wants to read it.
pub(super) struct Door<'a> {
    pub repository: &'a Repository,
    pub login: Option<&'a Login>,
}

impl Door<'_> {
    /// The file is a blob of its own digest, so no manifest has to be read.
    pub(super) fn blob_url(&self, digest: &ModelDigest) -> String {
        let Repository { registry, name, plain_http } = self.repository;
        let scheme = if *plain_http { "http" } else { "https" };
        // The name that people know is not where Docker Hub answers.
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        format!("{scheme}://{host}/v2/{name}/blobs/sha256:{digest}")
    }

    /// The header that opens the door.
    pub(super) async fn authorize(
        &self,
        client: &Client,
        headers: &HeaderMap,
        from: &str,
    ) -> Result<HeaderValue, Broken> {
        let forbidden =
            |message: &str| Broken::Final(FetchError::Forbidden { from: from.to_owned(), message: message.to_owned() });
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| challenge(value.to_str().ok()?));
        let Some(challenge) = challenges.max_by_key(|challenge| matches!(challenge, Challenge::Bearer { .. })) else {
            return Err(forbidden("the registry answers 401 and does not say what it wants (Basic or Bearer)"));
        };
        match challenge {
            Challenge::Basic => {
                let login = self.login.ok_or_else(|| forbidden("the registry wants user and password (secretRef)"))?;
                login.header().ok_or_else(|| forbidden("user and password cannot be sent"))
            }
            Challenge::Bearer { realm, service, scope } => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.repository.name));
                let url = self.token_url(&realm, service.as_deref(), &scope).map_err(forbidden)?;
                let token = self.token(client, url, from).await?;
                secret(&format!("Bearer {token}")).ok_or_else(|| forbidden("the token server gives no token"))
            }
        }
    }

    fn token_url(&self, realm: &str, service: Option<&str>, scope: &str) -> Result<Url, &'static str> {
        let mut url: Url = realm.parse().map_err(|_| "the registry's token server has no URL")?;
        match url.scheme() {
            "https" => {}
            // A password does not go in the clear because a registry says so; whoever wrote oci+http:// said it himself.
            "http" if self.repository.plain_http => {}
            _ => return Err("the registry's token server is not https"),
        }
        url.query_pairs_mut().extend_pairs(service.map(|service| ("service", service))).append_pair("scope", scope);
        Ok(url)
    }

    async fn token(&self, client: &Client, url: Url, from: &str) -> Result<String, Broken> {
        let mut request = client.get(url);
        if let Some(login) = self.login {
            request = request.basic_auth(&login.username, Some(&login.password));
        }
        let retry = |message: String| Broken::Retry(format!("the registry's token server: {message}"));
        let mut response = request.send().await.map_err(|error| retry(describe(error)))?;
        let status = response.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            let message = format!("the registry's token server refuses the credentials ({status})");
            return Err(FetchError::Forbidden { from: from.to_owned(), message }.into());
        }
        if !status.is_success() {
            return Err(retry(format!("it answers {status}")));
        }
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| retry(describe(error)))? {
            answer.extend_from_slice(&chunk);
            if answer.len() > MAX_ANSWER {
                return Err(retry(format!("it answers more than {MAX_ANSWER} bytes")));
            }
        }
        let answer: TokenAnswer = serde_json::from_slice(&answer).map_err(|_| retry("it answers no token".into()))?;
        answer.token.or(answer.access_token).ok_or_else(|| retry("it answers no token".into()))
    }
}

/// `token` is the older name; both are in use.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// One value of `WWW-Authenticate` (RFC 9110, 11.6.1), as registries write it: a scheme and parameters, tokens or quoted strings.
fn challenge(value: &str) -> Option<Challenge> {
    let (scheme, parameters) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service, mut scope) = (None, None, None);
    for (name, value) in Parameters(parameters) {
        match name.to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            "scope" => scope = Some(value),
            _ => {}
        }
    }
    Some(Challenge::Bearer { realm: realm?, service, scope })
}

/// `name=value` and `name="value"`, separated by commas. Ends at the first thing that is neither.
struct Parameters<'a>(&'a str);

impl<'a> Iterator for Parameters<'a> {
    type Item = (&'a str, String);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = self.0.trim_start_matches([',', ' ', '\t']).split_once('=')?;
        let Some(quoted) = rest.strip_prefix('"') else {
            let end = rest.find([',', ' ']).unwrap_or(rest.len());
            let (value, rest) = rest.split_at(end);
            self.0 = rest;
            return Some((name.trim(), value.to_owned()));
        };
        let (mut value, mut escaped) = (String::new(), false);
        for (at, c) in quoted.char_indices() {
            match c {
                _ if escaped => {
                    value.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                '"' => {
                    self.0 = quoted.get(at + 1..).unwrap_or_default();
                    return Some((name.trim(), value));
                }
                _ => value.push(c),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(repository: &Repository) -> Door<'_> {
        Door { repository, login: None }
    }

    #[test]
    fn a_blob_is_found_by_its_digest() {
        let digest = ModelDigest([0xab; 32]);
        for (text, plain_http, url) in [
            ("ghcr.io/you/m", false, "https://ghcr.io/v2/you/m/blobs/sha256:"),
            ("docker.io/ai/smollm2", false, "https://registry-1.docker.io/v2/ai/smollm2/blobs/sha256:"),
            ("registry:5000/m", true, "http://registry:5000/v2/m/blobs/sha256:"),
        ] {
            let repository = Repository::parse(text, plain_http).unwrap();
            assert_eq!(door(&repository).blob_url(&digest), format!("{url}{digest}"));
        }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.map(Into::into),
                scope: scope.map(Into::into),
            })
        };
        for (text, expected) in [
            (r#"Basic realm="x""#, Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
                bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:a/b:pull,push")),
            ),
            (r#"bearer service=s , realm="https://a/\"b\"""#, bearer(r#"https://a/"b""#, Some("s"), None)),
            (r#"Bearer service="s""#, None),
            (r#"Bearer realm="unfinished"#, None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(challenge(text), expected, "{text}");
        }
    }

    #[test]
    fn a_password_goes_to_a_token_server_in_the_clear_only_where_the_place_says_so() {
        let repository = |plain_http| Repository::parse("host/a", plain_http).unwrap();
        let scope = "repository:a:pull";
        let url = door(&repository(false)).token_url("https://auth/token?x=1", Some("s s"), scope).unwrap();
        assert_eq!(url.as_str(), "https://auth/token?x=1&service=s+s&scope=repository%3Aa%3Apull");
        assert!(door(&repository(false)).token_url("http://auth/token", None, scope).is_err());
        assert!(door(&repository(true)).token_url("http://auth/token", None, scope).is_ok());
        assert!(door(&repository(true)).token_url("file:///etc/passwd", None, scope).is_err());
        assert!(door(&repository(true)).token_url("token", None, scope).is_err());
    }

    #[test]
    fn no_challenge_makes_the_reader_fail() {
        // Every prefix of a good one, and every one with a byte changed.
        let good = r#"Bearer realm="https://a/t",service="s",scope="repository:a:pull", error="x\"y""#;
        for end in 0..=good.len() {
            challenge(&good[..end]);
        }
        for at in 0..good.len() {
            for with in ["\"", "\\", ",", "=", " ", "é"] {
                challenge(&format!("{}{with}{}", &good[..at], &good[at + 1..]));
            }
        }
    }

    #[test]
    fn a_login_is_never_printed() {
        let login = Login { username: "u".into(), password: "secret".into() };
        assert_eq!(format!("{login:?}"), "Login(…)");
    }
}
