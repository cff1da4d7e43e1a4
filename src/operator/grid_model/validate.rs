//! Pure: a model's spec as the gateway wants it, and what opens its source.

use kube::ResourceExt;

use super::dereference::Refs;
use crate::{
    api::{
        conditions::Finding,
        grid_model::{GridModel, GridModelSpec, ModelFormat, ModelObject, ModelSourceSpec},
        reasons::Reason,
        refs::{BucketSecretRef, S3Ref},
    },
    operator::bucket::Location,
    protocol::{
        internal::{self, ModelSource},
        place::{ModelPlace, Repository},
    },
};

/// A model whose every value is known to be sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidModel {
    pub source: ModelSource,
    /// Absent where the source is open to everybody.
    pub lock: Option<Lock>,
}

/// What has to be opened with a Secret of the operator's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lock {
    Bucket(Location),
    Registry { repository: Repository, secret: String },
}

pub fn validate(model: &GridModel, _: Refs) -> Result<ValidModel, Finding> {
    let spec = &model.spec;
    let invalid = |message: String| Finding::no(Reason::InvalidObject, message);
    let (place, lock) = place(&spec.source).map_err(|message| invalid(format!("spec.source: {message}")))?;
    let source = ModelSource {
        digest: spec.sha256.parse().map_err(|error| invalid(format!("spec.sha256: {error}")))?,
        name: model.name_any(),
        url: place.to_string(),
        context_length: spec.context_length.map_or(0, i32::unsigned_abs),
        format: format(spec.format),
        cost_per_token: spec.cost_per_token.map_or(0, i64::unsigned_abs),
        replicas: spec.replicas.unsigned_abs(),
        chat_template: chat_template(spec),
    };
    Ok(ValidModel { source, lock })
}

/// Template of its chats; empty: the file's own.
pub fn chat_template(spec: &GridModelSpec) -> String {
    spec.tokenizer.as_ref().and_then(|tokenizer| tokenizer.chat_template.clone()).unwrap_or_default()
}

/// Where the file is, and what opens it.
pub fn place(source: &ModelSourceSpec) -> Result<(ModelPlace, Option<Lock>), String> {
    let ModelSourceSpec { url, s3, oci, pvc, blob } = source;
    let read = |text: String| text.parse::<ModelPlace>().map_err(|error| error.to_string());
    match (url, s3, oci, pvc, blob) {
        (Some(url), None, None, None, None) => Ok((read(url.clone())?, None)),
        (None, Some(object), None, None, None) => {
            let location = Location::object(&bucket(object))?;
            let place = read(location.url()?)?;
            Ok((place, location.secret.is_some().then_some(Lock::Bucket(location))))
        }
        (None, None, Some(oci), None, None) => {
            let repository = Repository::parse(&oci.repository, oci.plain_http).map_err(|error| error.to_string())?;
            let lock = oci
                .secret_ref
                .as_ref()
                .map(|secret| Lock::Registry { repository: repository.clone(), secret: secret.name.clone() });
            Ok((ModelPlace::Registry(repository), lock))
        }
        (None, None, None, Some(pvc), None) => Ok((read(format!("pvc://{}/{}", pvc.claim_name, pvc.path))?, None)),
        (None, None, None, None, Some(_)) => Ok((ModelPlace::Grid, None)),
        _ => Err("must name exactly one place: url, s3, oci, pvc or blob".into()),
    }
}

fn bucket(object: &ModelObject) -> S3Ref {
    S3Ref {
        uri: object.uri.clone(),
        endpoint: object.endpoint.clone(),
        region: object.region.clone(),
        secret_ref: object.secret_ref.as_ref().map(|secret| BucketSecretRef { name: secret.name.clone() }),
    }
}

/// What a model of a format is to the grid.
pub fn format(format: ModelFormat) -> internal::ModelFormat {
    match format {
        ModelFormat::Gguf => internal::ModelFormat::Gguf,
        ModelFormat::Safetensors => internal::ModelFormat::Safetensors,
        ModelFormat::SafetensorsDecoder => internal::ModelFormat::SafetensorsDecoder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(yaml: &str) -> Result<(String, Option<Lock>), String> {
        place(&serde_yaml::from_str(yaml).unwrap()).map(|(place, lock)| (place.to_string(), lock))
    }

    #[test]
    fn every_kind_of_source_is_a_place() {
        for (yaml, expected) in [
            ("{url: 'https://host/m.gguf?download=1'}", "https://host/m.gguf?download=1"),
            ("{s3: {uri: 's3://models/a/m.gguf', endpoint: 'http://s3:8333/'}}", "http://s3:8333/models/a/m.gguf"),
            (
                "{s3: {uri: 's3://models/m.gguf', region: eu-central-1}}",
                "https://s3.eu-central-1.amazonaws.com/models/m.gguf",
            ),
            ("{oci: {repository: ghcr.io/you/m}}", "oci://ghcr.io/you/m"),
            ("{oci: {repository: 'registry:5000/m', plainHTTP: true}}", "oci+http://registry:5000/m"),
            ("{pvc: {claimName: files, path: gguf/m.gguf}}", "pvc://files/gguf/m.gguf"),
            ("{blob: {}}", "grid:"),
        ] {
            assert_eq!(source(yaml), Ok((expected.to_owned(), None)), "{yaml}");
        }
    }

    #[test]
    fn a_secret_is_a_lock_and_no_part_of_the_place() {
        let (place, lock) =
            source("{s3: {uri: 's3://models/m.gguf', endpoint: 'http://s3', secretRef: {name: keys}}}").unwrap();
        assert_eq!(place, "http://s3/models/m.gguf");
        assert!(matches!(lock, Some(Lock::Bucket(location)) if location.secret.as_deref() == Some("keys")));
        let (place, lock) = source("{oci: {repository: ghcr.io/you/m, secretRef: {name: pull}}}").unwrap();
        assert_eq!(place, "oci://ghcr.io/you/m");
        assert!(matches!(lock, Some(Lock::Registry { secret, .. }) if secret == "pull"));
    }

    #[test]
    fn what_the_schema_would_refuse_is_refused_here_too() {
        for yaml in [
            "{}",
            "{url: 'https://a', blob: {}}",
            "{s3: {uri: 's3://models/'}}",
            "{s3: {uri: 's3://models/../x'}}",
            "{oci: {repository: 'ghcr.io/m:v1'}}",
            "{pvc: {claimName: files, path: ../x}}",
        ] {
            assert!(source(yaml).is_err(), "{yaml}");
        }
    }
}
