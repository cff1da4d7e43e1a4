//! Pure: `manifest.json`, which says what an output consists of and whose it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ERRORS, File, Frame, RESULTS, parts::Part};
use crate::operator::inference_job::input::parse::path_of;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub total: u64,
    pub completed: u64,
    pub failed: u64,
    /// Of the failed: lines that were never sent.
    pub rejected: u64,
}

impl Counts {
    /// Before the first outcome.
    pub fn of_rejected(rejected: u64) -> Self {
        Counts { total: rejected, failed: rejected, rejected, completed: 0 }
    }

    /// One more line for `file`.
    pub fn add(&mut self, file: File) {
        self.total += 1;
        match file {
            File::Results => self.completed += 1,
            File::Errors => self.failed += 1,
        }
    }
}

/// One of the two files, whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileSummary {
    pub sha256: String,
    pub bytes: u64,
    /// In order; empty where the file is in one piece.
    pub parts: Vec<Part>,
}

/// The text of a manifest. Deterministic: the same outcomes give the same bytes.
pub fn manifest(
    frame: &Frame,
    counts: Counts,
    results: &FileSummary,
    errors: &FileSummary,
    receipts_root: &str,
) -> Result<String, serde_json::Error> {
    let files = [(RESULTS, results), (ERRORS, errors)];
    let in_parts = files.iter().any(|(_, file)| !file.parts.is_empty());
    let manifest = Manifest {
        version: 1,
        job: ManifestJob { namespace: &frame.namespace, name: &frame.name, uid: &frame.uid },
        model: ManifestModel { name: &frame.model, sha256: frame.model_digest.to_string() },
        endpoint: path_of(frame.endpoint),
        counts,
        sha256: files.iter().map(|(name, file)| (*name, file.sha256.as_str())).collect(),
        bytes: files.iter().map(|(name, file)| (*name, file.bytes)).collect(),
        parts: in_parts.then(|| files.iter().map(|(name, file)| (*name, file.parts.as_slice())).collect()),
        receipts_root,
    };
    Ok(serde_json::to_string_pretty(&manifest)? + "\n")
}

/// Whose a manifest that lies at the place already is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// This job's, or an earlier one's of the same name: it is replaced.
    Ours,
    /// Somebody else's, in words; never touched.
    Foreign(String),
}

pub fn owner(manifest: &[u8], frame: &Frame) -> Owner {
    #[derive(Deserialize)]
    struct Signed {
        job: Job,
    }
    #[derive(Deserialize)]
    struct Job {
        namespace: String,
        name: String,
    }
    match serde_json::from_slice::<Signed>(manifest) {
        Ok(Signed { job }) if job.namespace == frame.namespace && job.name == frame.name => Owner::Ours,
        Ok(Signed { job }) => {
            let short = |text: &str| text.chars().take(253).collect::<String>();
            Owner::Foreign(format!("job {:?} of namespace {:?}", short(&job.name), short(&job.namespace)))
        }
        Err(_) => Owner::Foreign("somebody else".into()),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    version: u32,
    job: ManifestJob<'a>,
    model: ManifestModel<'a>,
    endpoint: &'a str,
    counts: Counts,
    /// By file.
    sha256: BTreeMap<&'static str, &'a str>,
    bytes: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parts: Option<BTreeMap<&'static str, &'a [Part]>>,
    receipts_root: &'a str,
}

#[derive(Serialize)]
struct ManifestJob<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
}

#[derive(Serialize)]
struct ManifestModel<'a> {
    name: &'a str,
    sha256: String,
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{super::record::tests::frame, *};

    #[test]
    fn a_manifest_belongs_to_the_job_of_its_name() {
        let text = manifest(&frame(), Counts::default(), &FileSummary::default(), &FileSummary::default(), "").unwrap();
        assert_eq!(owner(text.as_bytes(), &Frame { uid: "u2".into(), ..frame() }), Owner::Ours);
        let other = Frame { namespace: "other".into(), ..frame() };
        assert_eq!(owner(text.as_bytes(), &other), Owner::Foreign("job \"hello\" of namespace \"ns\"".into()));
        assert_eq!(owner(b"not a manifest", &frame()), Owner::Foreign("somebody else".into()));
    }

    #[test]
    fn parts_are_named_only_where_there_are_some() {
        let whole = FileSummary { sha256: "aa".into(), bytes: 3, parts: Vec::new() };
        let json = |results: &FileSummary| -> Value {
            serde_json::from_str(&manifest(&frame(), Counts::default(), results, &whole, "root").unwrap()).unwrap()
        };
        assert_eq!(json(&whole).get("parts"), None);
        let part = Part { name: "results-00000-aa.jsonl".into(), bytes: 3, lines: 1, sha256: "aa".into() };
        let found = json(&FileSummary { parts: vec![part], ..whole.clone() });
        assert_eq!(found["parts"]["results.jsonl"][0]["name"], "results-00000-aa.jsonl");
        assert_eq!((found["bytes"]["results.jsonl"].as_u64(), found["receiptsRoot"].as_str()), (Some(3), Some("root")));
    }
}
