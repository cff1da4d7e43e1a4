//! The model file that a person names: a file of this machine, or a URL with the sha256 of what it gives.

use std::path::{Path, PathBuf};

use super::fetch::{BlobFolder, FetchError, digest_of};
use crate::{api::ids::ModelDigest, download::Origin, protocol::place::ParsePlaceError, worker::options::Quantity};

/// Which model, as `serve` and `bench` take it.
#[derive(Debug, Clone, clap::Args)]
pub struct ModelOptions {
    /// The model: a GGUF file or a bundle of Safetensors on this machine, an http(s) URL of one, or the repository of an OCI registry that
    /// has it as a layer, as oci://ghcr.io/you/model.
    #[arg(env = "GRID_MODEL")]
    pub model: String,
    /// sha256 of the file, hexadecimal. A URL needs it: what is fetched is kept only with the right one.
    #[arg(long, env = "GRID_MODEL_SHA256")]
    pub sha256: Option<ModelDigest>,
    /// Folder for files that are fetched.
    #[arg(long, env = "GRID_DATA_DIR", default_value = "grid-data")]
    pub data_dir: PathBuf,
    /// Largest file that is fetched, in bytes or as 8Gi.
    #[arg(long, env = "GRID_MAX_MODEL_SIZE", default_value = "64Gi")]
    pub max_model_size: Quantity,
}

/// Why there is no model file.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("a model from a URL needs --sha256: without it nobody can tell whether the right file came")]
    NoDigest,
    #[error("{path} has sha256 {actual}, not {expected}")]
    Differs { path: String, expected: ModelDigest, actual: ModelDigest },
    #[error("cannot use {path}: {source}")]
    Disk { path: String, source: std::io::Error },
    #[error(transparent)]
    Place(#[from] ParsePlaceError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

impl ModelOptions {
    /// A name for people: the file's, without folder and ending.
    pub fn name(&self) -> String {
        let path = self.model.split(['?', '#']).next().unwrap_or_default();
        let stem = Path::new(path).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if stem.is_empty() { "model".to_owned() } else { stem.to_owned() }
    }

    /// The file, fetched where need be, with the digest that was named.
    pub async fn obtain(&self) -> Result<PathBuf, SourceError> {
        if self.model.contains("://") {
            return self.fetch(&Origin::parse(&self.model)?).await;
        }
        let path = PathBuf::from(&self.model);
        let disk = |source| SourceError::Disk { path: self.model.clone(), source };
        let Some(expected) = self.sha256 else {
            tokio::fs::metadata(&path).await.map_err(disk)?;
            return Ok(path);
        };
        let gone = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let actual = digest_of(&path).await.and_then(|digest| digest.ok_or_else(gone)).map_err(disk)?;
        match actual == expected {
            true => Ok(path),
            false => Err(SourceError::Differs { path: self.model.clone(), expected, actual }),
        }
    }

    async fn fetch(&self, origin: &Origin) -> Result<PathBuf, SourceError> {
        let digest = self.sha256.ok_or(SourceError::NoDigest)?;
        let disk = |source| SourceError::Disk { path: self.data_dir.display().to_string(), source };
        let folder = BlobFolder::create(&self.data_dir, self.max_model_size.0).map_err(disk)?;
        Ok(folder.download(origin, &digest).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(model: &str, sha256: Option<ModelDigest>) -> ModelOptions {
        ModelOptions { model: model.into(), sha256, data_dir: "unused".into(), max_model_size: Quantity(1 << 20) }
    }

    #[test]
    fn a_model_is_called_as_its_file() {
        for (model, name) in [
            ("/models/smollm2-135m.gguf", "smollm2-135m"),
            ("https://example.org/a/b.gguf?download=1", "b"),
            ("tiny", "tiny"),
            ("/", "model"),
        ] {
            assert_eq!(options(model, None).name(), name);
        }
    }

    #[tokio::test]
    async fn a_file_is_taken_only_with_the_digest_that_was_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        std::fs::write(&path, b"abc").unwrap();
        let path = path.to_str().unwrap();
        let right: ModelDigest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".parse().unwrap();
        assert!(options(path, Some(right)).obtain().await.is_ok());
        assert!(matches!(
            options(path, Some(ModelDigest([0; 32]))).obtain().await,
            Err(SourceError::Differs { actual, .. }) if actual == right
        ));
        assert!(matches!(options("/no/such/file", None).obtain().await, Err(SourceError::Disk { .. })));
        assert!(matches!(options("https://localhost/m", None).obtain().await, Err(SourceError::NoDigest)));
    }
}
