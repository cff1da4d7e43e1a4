//! Pure: what `s3 {uri, …}` of a job means.

use object_store::path::Path;

use crate::api::refs::S3Ref;

/// A place in a bucket: an object for an input, a folder for an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// As people write it; a folder ends with a slash.
    pub uri: String,
    pub bucket: String,
    pub key: Path,
    pub endpoint: Option<String>,
    pub region: String,
    /// Name of the Secret with the credentials, in the job's namespace.
    pub secret: Option<String>,
}

impl Location {
    /// One object.
    pub fn object(s3: &S3Ref) -> Result<Self, String> {
        let location = Self::parse(s3)?;
        if location.key.is_root() || s3.uri.ends_with('/') {
            return Err(format!("{} names no object in the bucket", s3.uri));
        }
        Ok(location)
    }

    /// A folder, which may be the bucket itself.
    pub fn folder(s3: &S3Ref) -> Result<Self, String> {
        let mut location = Self::parse(s3)?;
        if !location.uri.ends_with('/') {
            location.uri.push('/');
        }
        Ok(location)
    }

    /// Of the object, without a signature.
    pub fn url(&self) -> Result<String, String> {
        let amazon = || format!("https://s3.{}.amazonaws.com", self.region);
        let endpoint = self.endpoint.clone().unwrap_or_else(amazon);
        let mut url: reqwest::Url = endpoint.parse().map_err(|error| format!("{endpoint}: {error}"))?;
        let mut path = url.path_segments_mut().map_err(|()| format!("{endpoint} is no URL with a path"))?;
        path.pop_if_empty().push(&self.bucket).extend(self.key.parts().map(|part| part.as_ref().to_owned()));
        drop(path);
        Ok(url.into())
    }

    fn parse(s3: &S3Ref) -> Result<Self, String> {
        let uri = &s3.uri;
        let rest = uri.strip_prefix("s3://").ok_or_else(|| format!("{uri} does not start with s3://"))?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(format!("{uri} names no bucket"));
        }
        // Refuses `.`, `..` and empty segments.
        let key = Path::parse(key.trim_end_matches('/')).map_err(|error| format!("{uri}: {error}"))?;
        Ok(Location {
            uri: uri.clone(),
            bucket: bucket.to_owned(),
            key,
            endpoint: s3.endpoint.as_deref().map(|endpoint| endpoint.trim_end_matches('/').to_owned()),
            region: s3.region.clone(),
            secret: s3.secret_ref.as_ref().map(|secret| secret.name.clone()),
        })
    }
}

#[cfg(test)]
pub(in crate::operator) mod tests {
    use super::*;

    pub fn s3(uri: &str) -> S3Ref {
        S3Ref { uri: uri.into(), endpoint: Some("http://s3:8333/".into()), region: "eu-1".into(), secret_ref: None }
    }

    #[test]
    fn an_object_has_a_key_and_a_folder_may_be_the_whole_bucket() {
        let object = Location::object(&s3("s3://in/a b/c.jsonl")).unwrap();
        assert_eq!((object.bucket.as_str(), object.key.as_ref()), ("in", "a b/c.jsonl"));
        assert_eq!(object.endpoint.as_deref(), Some("http://s3:8333"));
        let folder = Location::folder(&s3("s3://out/today")).unwrap();
        assert_eq!((folder.uri.as_str(), folder.key.as_ref()), ("s3://out/today/", "today"));
        assert_eq!(Location::folder(&s3("s3://out")).unwrap().uri, "s3://out/");
        for bad in ["s3://in", "s3://in/", "s3://in/folder/", "http://in/x", "s3:///x"] {
            assert!(Location::object(&s3(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_object_has_a_url() {
        let object = Location::object(&s3("s3://in/a b/c?d.gguf")).unwrap();
        assert_eq!(object.url().unwrap(), "http://s3:8333/in/a%20b/c%3Fd.gguf");
        let amazon = Location { endpoint: None, ..Location::object(&s3("s3://in/m.gguf")).unwrap() };
        assert_eq!(amazon.url().unwrap(), "https://s3.eu-1.amazonaws.com/in/m.gguf");
    }

    #[test]
    fn no_key_leaves_its_folder() {
        for bad in ["s3://in/../other/x", "s3://in/a/./x", "s3://in/a//x"] {
            assert!(Location::object(&s3(bad)).is_err(), "{bad}");
            assert!(Location::folder(&s3(bad)).is_err(), "{bad}");
        }
    }
}
