//! Pure: where a model file comes from, as one line of text. What a GridModel's `spec.source` becomes, between operator and gateway and
//! in the ledger; workers take the first two kinds on their command line.

use std::{fmt, str::FromStr};

/// Longest line that is taken.
pub const MAX_PLACE: usize = 2048;
/// Longest name of a repository; the distribution specification leaves it to registries, and all stop at this.
const MAX_REPOSITORY: usize = 255;
const MAX_PATH: usize = 1024;

/// A place that has model files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelPlace {
    /// `http://…` or `https://…`, whole.
    Web(String),
    /// `oci://REGISTRY/REPOSITORY`: the layer of an artifact whose digest is the model's.
    Registry(Repository),
    /// `pvc://CLAIM/PATH`: a file on a volume of the gateway.
    Volume { claim: String, path: String },
    /// `grid:`: the members that hold it.
    Grid,
}

/// A repository of an OCI registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// Host, and port where it has one.
    pub registry: String,
    /// Path below the registry, such as `models/smollm2`.
    pub name: String,
    /// `oci+http://`: the registry speaks no TLS.
    pub plain_http: bool,
}

/// Why a line is no place, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParsePlaceError(String);

impl ParsePlaceError {
    /// For places that only some programs take.
    pub fn of(message: String) -> Self {
        ParsePlaceError(message)
    }
}

impl FromStr for ModelPlace {
    type Err = ParsePlaceError;

    fn from_str(text: &str) -> Result<Self, ParsePlaceError> {
        let wrong = |message: String| Err(ParsePlaceError(message));
        if text.len() > MAX_PLACE || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return wrong(format!("a place has at most {MAX_PLACE} bytes and no white space"));
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            return wrong(format!(
                "{text:?} begins with none of https://, http://, oci://, oci+http://, pvc://, grid:"
            ));
        };
        match (scheme, rest.strip_prefix("//")) {
            ("http" | "https", Some(rest)) if !rest.is_empty() => Ok(ModelPlace::Web(text.to_owned())),
            ("oci", Some(rest)) => Repository::parse(rest, false).map(ModelPlace::Registry),
            ("oci+http", Some(rest)) => Repository::parse(rest, true).map(ModelPlace::Registry),
            ("pvc", Some(rest)) => volume(rest),
            ("grid", None) if rest.is_empty() => Ok(ModelPlace::Grid),
            _ => wrong(format!("{text:?} begins with none of https://, http://, oci://, oci+http://, pvc://, grid:")),
        }
    }
}

impl fmt::Display for ModelPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ModelPlace::Web(url) => f.write_str(url),
            ModelPlace::Registry(repository) => repository.fmt(f),
            ModelPlace::Volume { claim, path } => write!(f, "pvc://{claim}/{path}"),
            ModelPlace::Grid => f.write_str("grid:"),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.plain_http { "oci+http" } else { "oci" };
        write!(f, "{scheme}://{}/{}", self.registry, self.name)
    }
}

impl Repository {
    /// `text` is `REGISTRY/REPOSITORY`, without a tag: the file is known by its own digest.
    pub fn parse(text: &str, plain_http: bool) -> Result<Self, ParsePlaceError> {
        let wrong = |message: &str| ParsePlaceError(format!("{text:?} {message}"));
        let (registry, name) =
            text.split_once('/').ok_or_else(|| wrong("names no repository, as in ghcr.io/you/model"))?;
        if name.contains([':', '@']) {
            return Err(wrong("has a tag or digest; leave it out, the layer is found by the model's sha256"));
        }
        let host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
        if registry.is_empty() || registry.len() > 255 || !registry.bytes().all(host) {
            return Err(wrong("names no registry, as in ghcr.io/you/model"));
        }
        let part = |part: &str| {
            let inner =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'_' | b'-');
            let end = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
            part.bytes().all(inner) && end(part.bytes().next()) && end(part.bytes().last()) && !part.contains("..")
        };
        if name.len() > MAX_REPOSITORY || !name.split('/').all(part) {
            return Err(wrong("has a repository that is not lower-case letters, digits, '.', '_', '-' and '/'"));
        }
        Ok(Repository { registry: registry.to_owned(), name: name.to_owned(), plain_http })
    }
}

fn volume(rest: &str) -> Result<ModelPlace, ParsePlaceError> {
    let wrong = |message: &str| Err(ParsePlaceError(format!("pvc://{rest} {message}")));
    let (claim, path) = rest.split_once('/').unwrap_or((rest, ""));
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
    let sound = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    if claim.len() > 253 || !claim.bytes().all(inner) || !sound(claim.bytes().next()) || !sound(claim.bytes().last()) {
        return wrong("names no PersistentVolumeClaim");
    }
    if path.len() > MAX_PATH || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return wrong("names no file below the volume: a path such as models/m.gguf, without . and ..");
    }
    Ok(ModelPlace::Volume { claim: claim.to_owned(), path: path.to_owned() })
}

/// A URL without what may be a credential: user, password, query and fragment. For messages.
pub fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
    let host = host.rsplit('@').next().unwrap_or_default();
    path.map_or_else(|| format!("{scheme}://{host}"), |path| format!("{scheme}://{host}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_place_reads_as_it_is_written() {
        for text in [
            "https://example.org/a/b.gguf?download=1",
            "http://models/m.gguf",
            "oci://ghcr.io/you/models/smollm2",
            "oci+http://registry.registry.svc:5000/m",
            "oci://[::1]:5000/m",
            "pvc://model-files/gguf/m.gguf",
            "grid:",
        ] {
            let place: ModelPlace = text.parse().unwrap();
            assert_eq!(place.to_string(), text);
        }
        assert_eq!("grid:".parse(), Ok(ModelPlace::Grid));
    }

    #[test]
    fn what_is_no_place_is_refused_with_its_own_words() {
        for (text, says) in [
            ("", "begins with none of"),
            ("file:///etc/passwd", "begins with none of"),
            ("https://", "begins with none of"),
            ("grid://x", "begins with none of"),
            ("https://a b", "white space"),
            ("oci://ghcr.io", "names no repository"),
            ("oci://ghcr.io/", "has a repository"),
            ("oci://ghcr.io/a/b:v1", "has a tag"),
            ("oci://ghcr.io/a@sha256:00", "has a tag"),
            ("oci://ghcr.io/A", "has a repository"),
            ("oci://ghcr.io/a/../b", "has a repository"),
            ("oci://ghcr.io/a//b", "has a repository"),
            ("oci:///a", "names no registry"),
            ("oci://user@host/a", "names no registry"),
            ("pvc://", "names no PersistentVolumeClaim"),
            ("pvc://Claim/x", "names no PersistentVolumeClaim"),
            ("pvc://../x", "names no PersistentVolumeClaim"),
            ("pvc://claim", "names no file"),
            ("pvc://claim/", "names no file"),
            ("pvc://claim/a/../../b", "names no file"),
            ("pvc://claim//etc/passwd", "names no file"),
        ] {
            let error = text.parse::<ModelPlace>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert!(format!("https://{}", "x".repeat(MAX_PLACE)).parse::<ModelPlace>().is_err());
    }

    #[test]
    fn what_may_be_a_credential_is_not_shown() {
        for (url, safe) in [
            ("https://user:secret@host:8443/a/b?X-Amz-Signature=1#x", "https://host:8443/a/b"),
            ("https://host", "https://host"),
            ("https://host?key=1", "https://host"),
            ("https://host/a@b", "https://host/a@b"),
            ("grid:", "grid:"),
        ] {
            assert_eq!(shown(url), safe);
        }
    }
}
