//! Pure: the output ConfigMap — whose it is, and how its files are collected within its bound. All three files are written at
//! once, so an output is either whole or not there.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use super::{
    Counts, ERRORS, File, Frame, MANIFEST, RESULTS,
    manifest::{self, FileSummary},
};
use crate::protocol::internal::ResultLine;

/// The API server takes objects up to 1.5 MiB and ConfigMaps up to 1 MiB; the rest is for the manifest and metadata.
pub const MAX_BYTES: usize = 1_000_000;

const JOB_UID: &str = "xdcgrid.io/job-uid";
const JOB_NAME: &str = "xdcgrid.io/job-name";

/// Whose an existing ConfigMap is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// This job's.
    Ours,
    /// An earlier job's of the same name; its results are replaced.
    Stale,
    /// Somebody else's, in words; never touched.
    Foreign(String),
}

pub fn claim(found: &ConfigMap, uid: &str, name: &str) -> Claim {
    let annotations = found.annotations();
    match (annotations.get(JOB_UID), annotations.get(JOB_NAME)) {
        (Some(owner), _) if owner == uid => Claim::Ours,
        (Some(_), Some(owner)) if owner == name => Claim::Stale,
        (Some(_), Some(owner)) => Claim::Foreign(format!("job {owner:?}")),
        _ => Claim::Foreign("somebody else".into()),
    }
}

/// Rejected lines that were written when the job was submitted; `None` when they are not there.
pub fn kept_rejections(found: Option<&ConfigMap>, uid: &str, name: &str) -> Option<String> {
    let found = found.filter(|found| claim(found, uid, name) == Claim::Ours)?;
    let data = found.data.as_ref()?;
    // With a manifest errors.jsonl holds failures as well.
    if data.contains_key(MANIFEST) {
        return None;
    }
    data.get(ERRORS).cloned()
}

/// The ConfigMap with `files`.
pub fn config_map(output: &str, uid: &str, name: &str, files: BTreeMap<String, String>) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(output.to_owned()),
            labels: Some([("app.kubernetes.io/managed-by".to_owned(), "xdc-grid".to_owned())].into()),
            annotations: Some([(JOB_UID.to_owned(), uid.to_owned()), (JOB_NAME.to_owned(), name.to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some(files),
        ..ConfigMap::default()
    }
}

/// Collects the files of an output, up to their bound.
pub struct Files {
    frame: Frame,
    results: String,
    errors: String,
    counts: Counts,
}

/// The files would not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A finished output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    pub files: BTreeMap<String, String>,
    pub results_sha256: String,
    pub errors_sha256: String,
    pub manifest_sha256: String,
    pub bytes: usize,
    pub counts: Counts,
}

impl Files {
    /// Starts with the rejected lines, as [`super::rejection_lines`] wrote them.
    pub fn new(frame: Frame, rejected: String) -> Self {
        let counts = Counts::of_rejected(rejected.lines().count() as u64);
        Files { frame, results: String::new(), errors: rejected, counts }
    }

    pub fn push(&mut self, line: ResultLine) -> Result<(), Full> {
        let (file, text) = self.frame.record(line);
        self.counts.add(file);
        match file {
            File::Results => self.results.push_str(&text),
            File::Errors => self.errors.push_str(&text),
        }
        if self.results.len() + self.errors.len() > MAX_BYTES { Err(Full) } else { Ok(()) }
    }

    /// Adds the manifest.
    pub fn finish(self, receipts_root: &str) -> Result<Finished, serde_json::Error> {
        let Files { frame, results, errors, counts } = self;
        let bytes = results.len() + errors.len();
        let (of_results, of_errors) = (summary(&results), summary(&errors));
        let manifest = manifest::manifest(&frame, counts, &of_results, &of_errors, receipts_root)?;
        let manifest_sha256 = sha256(&manifest);
        let files = [(RESULTS, results), (ERRORS, errors), (MANIFEST, manifest)];
        let files = files.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
        Ok(Finished {
            files,
            results_sha256: of_results.sha256,
            errors_sha256: of_errors.sha256,
            manifest_sha256,
            bytes,
            counts,
        })
    }
}

fn summary(text: &str) -> FileSummary {
    FileSummary { sha256: sha256(text), bytes: text.len() as u64, parts: Vec::new() }
}

fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::{
        super::record::tests::{completed, frame, json},
        *,
    };
    use crate::{
        api::reasons::Reason,
        operator::inference_job::{input::parse::Rejection, output::rejection_lines},
        protocol::internal::Outcome,
    };
    use serde_json::Value;

    fn files(rejected: &[Rejection]) -> Files {
        Files::new(frame(), rejection_lines(rejected))
    }

    #[test]
    fn results_and_errors_are_openai_batch_output_lines() {
        let rejection =
            Rejection { index: 1, custom_id: "b".into(), reason: Reason::InvalidJson, message: "line 2: bad".into() };
        let mut files = files(&[rejection]);
        files.push(completed("Paris")).unwrap();
        let outcome = Outcome::Failed { reason: "NoWorkerForModel".into(), message: "none".into() };
        files.push(ResultLine { custom_id: "c".into(), outcome, ..completed("") }).unwrap();
        let finished = files.finish("0xroot").unwrap();
        let result = json(&finished.files[RESULTS]);
        assert_eq!(result["custom_id"], "a");
        assert_eq!(result["response"]["body"]["choices"][0]["message"]["content"], "Paris");
        assert_eq!(result["response"]["body"]["usage"]["total_tokens"], 7);
        assert_eq!(result["error"], Value::Null);
        let errors: Vec<_> = finished.files[ERRORS].lines().map(json).collect();
        assert_eq!(
            (errors[0]["custom_id"].as_str(), errors[0]["error"]["code"].as_str()),
            (Some("b"), Some("InvalidJson"))
        );
        assert_eq!((errors[1]["custom_id"].as_str(), errors[1]["response"].clone()), (Some("c"), Value::Null));
        let manifest = json(&finished.files[MANIFEST]);
        assert_eq!(manifest["sha256"][RESULTS], sha256(&finished.files[RESULTS]));
        assert_eq!(manifest["counts"], serde_json::json!({"total": 3, "completed": 1, "failed": 2, "rejected": 1}));
        assert_eq!(manifest["receiptsRoot"], "0xroot");
        assert_eq!(finished.manifest_sha256, sha256(&finished.files[MANIFEST]));
    }

    #[test]
    fn an_output_that_does_not_fit_is_full() {
        let mut files = files(&[]);
        assert_eq!(files.push(completed(&"x".repeat(MAX_BYTES))), Err(Full));
    }

    #[test]
    fn a_config_map_of_somebody_else_is_never_taken() {
        assert_eq!(claim(&ConfigMap::default(), "u1", "hello"), Claim::Foreign("somebody else".into()));
        let ours = config_map("out", "u1", "hello", BTreeMap::new());
        assert_eq!(claim(&ours, "u1", "hello"), Claim::Ours);
        assert_eq!(claim(&ours, "u2", "hello"), Claim::Stale);
        assert!(matches!(claim(&ours, "u3", "other"), Claim::Foreign(_)));
    }

    #[test]
    fn errors_of_a_published_output_are_not_taken_for_rejected_lines() {
        let files = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "x\n".to_owned())).collect();
        let early = config_map("out", "u1", "hello", files(&[ERRORS]));
        assert_eq!(kept_rejections(Some(&early), "u1", "hello").as_deref(), Some("x\n"));
        let published = config_map("out", "u1", "hello", files(&[ERRORS, RESULTS, MANIFEST]));
        assert_eq!(kept_rejections(Some(&published), "u1", "hello"), None);
    }
}
