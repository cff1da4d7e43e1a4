//! The output of a job: a ConfigMap (`config_map`), or files in a bucket or in the gateway's store (`place`, `publish`).
//!
//! `results.jsonl` and `errors.jsonl` are OpenAI batch output lines (`record`); `manifest.json` is the commit point (`manifest`).
//! A ConfigMap gets all three at once. Elsewhere both files are cut into parts (`parts`) that are named by their content, and
//! the manifest comes last: who finds it finds everything. The same outcomes give the same bytes, so publishing is repeated
//! until it succeeds, and nothing is computed again.

pub mod config_map;
pub mod manifest;
pub mod parts;
pub mod place;
pub mod publish;
pub mod record;

pub use config_map::{Claim, Files, Finished, Full, MAX_BYTES, claim, config_map, kept_rejections};
pub use manifest::Counts;
pub(super) use record::Origin;
pub use record::{File, Frame, rejection_lines};

use crate::operator::bucket::Location;

pub const RESULTS: &str = "results.jsonl";
pub const ERRORS: &str = "errors.jsonl";
pub const MANIFEST: &str = "manifest.json";

/// Where an output goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Name of the ConfigMap.
    ConfigMap(String),
    Files(FilePlace),
}

/// Places that take files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilePlace {
    /// A folder in a bucket.
    Bucket(Location),
    /// The gateway's store.
    Store,
}

impl Destination {
    /// In one word, for people.
    pub fn shown(&self) -> String {
        match self {
            Destination::ConfigMap(name) => format!("configmap/{name}"),
            Destination::Files(FilePlace::Bucket(location)) => location.uri.clone(),
            Destination::Files(FilePlace::Store) => "store".to_owned(),
        }
    }
}
