//! A Safetensors model as one file: a plain tar of the files that a model folder of Hugging Face has (ADR 0008).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Files other than the weights are small; the largest tokenizer that is published has some 20 MB.
const MAX_TEXT: u64 = 64 << 20;
/// Files in a bundle, those that nobody reads included.
const MAX_FILES: usize = 256;

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const TOKENIZER: &str = "tokenizer.json";
/// What a decoder's tokenizer adds, and its chat template, unless that has a file of its own.
pub(crate) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(crate) const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// How sentence-transformers makes one vector of those of the tokens; mean of all where absent.
pub(crate) const POOLING: &str = "1_Pooling/config.json";
/// How many tokens the model was trained for as a sentence transformer.
pub(crate) const LIMITS: &str = "sentence_bert_config.json";
const TEXTS: [&str; 6] = [CONFIG, TOKENIZER, TOKENIZER_CONFIG, CHAT_TEMPLATE, POOLING, LIMITS];

/// Why a bundle cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("the file is no tar archive: {0}")]
    Unreadable(#[from] std::io::Error),
    #[error("the archive has no {0}; it needs config.json, tokenizer.json and model.safetensors at its top")]
    Missing(&'static str),
    #[error("the archive has {0} twice")]
    Twice(String),
    #[error("{name} has more than {limit} bytes")]
    TooLarge { name: String, limit: u64 },
    #[error("the archive has more than {MAX_FILES} files")]
    TooMany,
    #[error("{name} ends after the end of the archive; the download is probably incomplete")]
    Incomplete { name: String },
}

/// Where a file of weights lies in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

/// An open bundle. Its weights stay where they are.
#[derive(Debug)]
pub struct Bundle {
    pub(crate) file: File,
    /// Size of the archive.
    pub bytes: u64,
    contents: Contents,
}

#[derive(Debug, Default)]
struct Contents {
    texts: BTreeMap<&'static str, Vec<u8>>,
    weights: BTreeMap<String, Place>,
}

impl Bundle {
    /// Opens an archive and reads all but the weights. Files that a model does not need are skipped.
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let contents = Contents::read(&file, bytes)?;
        Ok(Self { file, bytes, contents })
    }

    /// One of the model's text files.
    pub(crate) fn text(&self, name: &'static str) -> Result<&[u8], BundleError> {
        self.optional(name).ok_or(BundleError::Missing(name))
    }

    pub(crate) fn optional(&self, name: &'static str) -> Option<&[u8]> {
        self.contents.texts.get(name).map(Vec::as_slice)
    }

    /// The files of weights, by their names: one, or the parts of one that is too large for a file. There is at least one.
    pub(crate) fn weights(&self) -> impl Iterator<Item = (&str, Place)> {
        self.contents.weights.iter().map(|(name, place)| (name.as_str(), *place))
    }

    /// All bytes of a place.
    pub(crate) fn read(&self, place: Place) -> Result<Vec<u8>, BundleError> {
        let mut bytes = vec![0; place.bytes as usize];
        self.file.read_exact_at(&mut bytes, place.offset)?;
        Ok(bytes)
    }
}

impl Contents {
    fn read(archive: impl Read + Seek, bytes: u64) -> Result<Self, BundleError> {
        let mut archive = tar::Archive::new(archive);
        let mut found = Self::default();
        for (count, entry) in archive.entries_with_seek()?.enumerate() {
            if count >= MAX_FILES {
                return Err(BundleError::TooMany);
            }
            let entry = entry?;
            // Links and sparse files could claim bytes that are not there.
            if entry.header().entry_type() != tar::EntryType::Regular {
                continue;
            }
            let path = entry.path_bytes();
            let Ok(name) = std::str::from_utf8(path.strip_prefix(b"./").unwrap_or(&path)).map(str::to_owned) else {
                continue;
            };
            drop(path);
            let twice = if let Some(name) = TEXTS.into_iter().find(|text| *text == name) {
                found.texts.insert(name, contents(entry, name)?).is_some()
            } else if is_weights(&name) {
                let place = Place { offset: entry.raw_file_position(), bytes: entry.size() };
                if place.offset.checked_add(place.bytes).is_none_or(|end| end > bytes) {
                    return Err(BundleError::Incomplete { name });
                }
                found.weights.insert(name.clone(), place).is_some()
            } else {
                false
            };
            if twice {
                return Err(BundleError::Twice(name));
            }
        }
        if found.weights.is_empty() {
            return Err(BundleError::Missing("model.safetensors"));
        }
        Ok(found)
    }
}

/// `model.safetensors`, or a part of it: `model-00001-of-00003.safetensors`.
fn is_weights(name: &str) -> bool {
    let part = name.strip_prefix("model").and_then(|rest| rest.strip_suffix(".safetensors"));
    part.is_some_and(|part| part.is_empty() || part.starts_with('-') && !part.contains('/'))
}

fn contents(entry: impl Read, name: &str) -> Result<Vec<u8>, BundleError> {
    let mut bytes = Vec::new();
    entry.take(MAX_TEXT + 1).read_to_end(&mut bytes)?;
    let too_large = bytes.len() as u64 > MAX_TEXT;
    if too_large { Err(BundleError::TooLarge { name: name.into(), limit: MAX_TEXT }) } else { Ok(bytes) }
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

    fn read(files: &[(&str, &[u8])]) -> Result<Contents, BundleError> {
        of(&archive(files))
    }

    fn of(bytes: &[u8]) -> Result<Contents, BundleError> {
        Contents::read(std::io::Cursor::new(bytes), bytes.len() as u64)
    }

    const WHOLE: [(&str, &[u8]); 3] = [("config.json", b"c"), ("tokenizer.json", b"t"), ("model.safetensors", b"w")];

    #[test]
    fn the_files_are_found_in_any_order_and_others_are_skipped() {
        let mut files = WHOLE.to_vec();
        files.reverse();
        files.extend([("README.md", b"hello".as_slice()), ("1_Pooling/config.json", b"p")]);
        files.push(("model-00001-of-00002.safetensors", b"more".as_slice()));
        let found = read(&files).unwrap();
        let texts: Vec<_> = found.texts.iter().map(|(name, text)| (*name, text.as_slice())).collect();
        assert_eq!(texts, [(POOLING, b"p".as_slice()), (CONFIG, b"c"), (TOKENIZER, b"t")]);
        let bytes = archive(&files);
        let weights = found.weights.values().map(|place| &bytes[place.offset as usize..][..place.bytes as usize]);
        assert!(weights.eq([b"more".as_slice(), b"w"]));
    }

    #[test]
    fn what_is_missing_or_there_twice_is_named() {
        assert!(read(&WHOLE[..2]).err().unwrap().to_string().contains("model.safetensors"));
        let twice = [WHOLE.as_slice(), &WHOLE[..1]].concat();
        assert!(matches!(read(&twice), Err(BundleError::Twice(name)) if name == "config.json"));
    }

    #[test]
    fn bytes_that_are_no_archive_are_an_error() {
        let noise: Vec<u8> = (0..5_000u32).map(|i| (i * 31 % 251) as u8).collect();
        assert!(of(&noise).is_err() && of(&[]).is_err());
        let whole = archive(&WHOLE);
        for length in (0..whole.len()).step_by(97) {
            // Whether it can be read or not, it must not panic.
            let _ = of(&whole[..length]);
        }
    }
}
