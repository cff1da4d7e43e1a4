//! A Safetensors model as one file: a plain tar of the files that a model folder of Hugging Face has (ADR 0008).

use std::io::Read;
use std::path::Path;

/// Files other than the weights are small; the largest tokenizer that is published has some 20 MB.
const MAX_TEXT: u64 = 64 << 20;
/// Files in a bundle, those that nobody reads included.
const MAX_FILES: usize = 256;

const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
const POOLING: &str = "1_Pooling/config.json";
const LIMITS: &str = "sentence_bert_config.json";

/// Why a bundle cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("the file is no tar archive: {0}")]
    Unreadable(#[from] std::io::Error),
    #[error("the archive has no {0}; it needs config.json, tokenizer.json and model.safetensors at its top")]
    Missing(&'static str),
    #[error("the archive has {0} twice")]
    Twice(&'static str),
    #[error("{name} has more than {limit} bytes")]
    TooLarge { name: &'static str, limit: u64 },
    #[error("the archive has more than {MAX_FILES} files")]
    TooMany,
}

/// The files of a model.
pub struct Bundle {
    pub weights: Vec<u8>,
    pub config: Vec<u8>,
    pub tokenizer: Vec<u8>,
    /// How sentence-transformers makes one vector of those of the tokens; mean of all where absent.
    pub pooling: Option<Vec<u8>>,
    /// How many tokens the model was trained for as a sentence transformer.
    pub limits: Option<Vec<u8>>,
    /// Size of the archive.
    pub bytes: u64,
}

impl Bundle {
    /// Reads an archive. Files that a model does not need are skipped.
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        let file = std::fs::File::open(path)?;
        let bytes = file.metadata()?.len();
        Self::read(file, bytes)
    }

    fn read(archive: impl Read, bytes: u64) -> Result<Self, BundleError> {
        let mut archive = tar::Archive::new(archive);
        let [mut weights, mut config, mut tokenizer, mut pooling, mut limits] = [const { None::<Vec<u8>> }; 5];
        for (count, entry) in archive.entries()?.enumerate() {
            if count >= MAX_FILES {
                return Err(BundleError::TooMany);
            }
            let entry = entry?;
            // Links and sparse files could claim bytes that are not there.
            if entry.header().entry_type() != tar::EntryType::Regular {
                continue;
            }
            let (name, place, limit) = {
                let path = entry.path_bytes();
                let path = path.strip_prefix(b"./").unwrap_or(&path);
                match path {
                    path if path == WEIGHTS.as_bytes() => (WEIGHTS, &mut weights, bytes),
                    path if path == CONFIG.as_bytes() => (CONFIG, &mut config, MAX_TEXT),
                    path if path == TOKENIZER.as_bytes() => (TOKENIZER, &mut tokenizer, MAX_TEXT),
                    path if path == POOLING.as_bytes() => (POOLING, &mut pooling, MAX_TEXT),
                    path if path == LIMITS.as_bytes() => (LIMITS, &mut limits, MAX_TEXT),
                    _ => continue,
                }
            };
            if place.is_some() {
                return Err(BundleError::Twice(name));
            }
            *place = Some(contents(entry, name, limit)?);
        }
        Ok(Self {
            weights: weights.ok_or(BundleError::Missing(WEIGHTS))?,
            config: config.ok_or(BundleError::Missing(CONFIG))?,
            tokenizer: tokenizer.ok_or(BundleError::Missing(TOKENIZER))?,
            pooling,
            limits,
            bytes,
        })
    }
}

fn contents(entry: impl Read, name: &'static str, limit: u64) -> Result<Vec<u8>, BundleError> {
    let mut bytes = Vec::new();
    entry.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(BundleError::TooLarge { name, limit }) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn read(files: &[(&str, &[u8])]) -> Result<Bundle, BundleError> {
        let bytes = archive(files);
        Bundle::read(bytes.as_slice(), bytes.len() as u64)
    }

    const WHOLE: [(&str, &[u8]); 3] = [("config.json", b"c"), ("tokenizer.json", b"t"), ("model.safetensors", b"w")];

    #[test]
    fn the_files_are_found_in_any_order_and_others_are_skipped() {
        let mut files = WHOLE.to_vec();
        files.reverse();
        files.extend([("README.md", b"hello".as_slice()), ("1_Pooling/config.json", b"p")]);
        let bundle = read(&files).unwrap();
        assert_eq!((bundle.config, bundle.tokenizer, bundle.weights), (b"c".to_vec(), b"t".to_vec(), b"w".to_vec()));
        assert_eq!((bundle.pooling, bundle.limits), (Some(b"p".to_vec()), None));
    }

    #[test]
    fn what_is_missing_or_there_twice_is_named() {
        assert!(read(&WHOLE[..2]).err().unwrap().to_string().contains("model.safetensors"));
        let twice = [WHOLE.as_slice(), &WHOLE[..1]].concat();
        assert!(matches!(read(&twice), Err(BundleError::Twice("config.json"))));
    }

    #[test]
    fn bytes_that_are_no_archive_are_an_error() {
        let noise: Vec<u8> = (0..5_000u32).map(|i| (i * 31 % 251) as u8).collect();
        assert!(Bundle::read(noise.as_slice(), 5_000).is_err());
        assert!(Bundle::read([].as_slice(), 0).is_err());
        let whole = archive(&WHOLE);
        for length in (0..whole.len()).step_by(97) {
            // Whether it can be read or not, it must not panic.
            let _ = Bundle::read(&whole[..length], length as u64);
        }
    }
}
