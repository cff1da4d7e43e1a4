//! Pure: the output ConfigMap — whose it is, and what its files look like.
//!
//! `results.jsonl` and `errors.jsonl` are OpenAI batch output lines; `manifest.json` is the commit point. All three are
//! written at once, so an output is either whole or not there.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::ResourceExt;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    embedding,
    input::{parse::Rejection, parse::path_of},
};
use crate::{
    api::ids::ModelDigest,
    protocol::internal::{Endpoint, Outcome, ResultLine},
};

pub const RESULTS: &str = "results.jsonl";
pub const ERRORS: &str = "errors.jsonl";
pub const MANIFEST: &str = "manifest.json";

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

/// What the lines of an output have in common.
#[derive(Debug, Clone)]
pub struct Frame {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub model: String,
    pub model_digest: ModelDigest,
    pub endpoint: Endpoint,
}

/// Collects the files of an output, up to their bound.
pub struct Files {
    frame: Frame,
    results: String,
    errors: String,
    counts: Counts,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub total: u64,
    pub completed: u64,
    pub failed: u64,
    /// Of the failed: lines that were never sent.
    pub rejected: u64,
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
    pub bytes: usize,
    pub counts: Counts,
}

impl Files {
    /// Starts with the rejected lines, as [`rejection_lines`] wrote them.
    pub fn new(frame: Frame, rejected: String) -> Self {
        let n = rejected.lines().count() as u64;
        let counts = Counts { total: n, failed: n, rejected: n, completed: 0 };
        Files { frame, results: String::new(), errors: rejected, counts }
    }

    pub fn push(&mut self, line: ResultLine) -> Result<(), Full> {
        self.counts.total += 1;
        let short = line.request_id.to_string().get(..24).unwrap_or_default().to_owned();
        match line.outcome {
            Outcome::Completed {
                text,
                finish_reason,
                prompt_tokens,
                output_tokens,
                node_name,
                node_address,
                created,
            } => {
                self.counts.completed += 1;
                let body = Body {
                    id: format!("{}-{short}", if self.is_chat() { "chatcmpl" } else { "cmpl" }),
                    object: if self.is_chat() { "chat.completion" } else { "text_completion" },
                    created,
                    model: &self.frame.model,
                    choices: [choice(self.frame.endpoint, text, finish_reason)],
                    usage: Usage {
                        prompt_tokens,
                        completion_tokens: output_tokens,
                        total_tokens: u64::from(prompt_tokens) + u64::from(output_tokens),
                    },
                    xdc_grid: Origin { node: node_name, address: node_address.to_string() },
                };
                let body = AnyBody::Answer(body);
                let response = Response { status_code: 200, request_id: line.request_id.to_string(), body };
                let record =
                    Record { id: batch_id(&short), custom_id: &line.custom_id, response: Some(response), error: None };
                append(&mut self.results, &record);
            }
            Outcome::Embedded { vectors, encoding, prompt_tokens, node_name, node_address, created: _ } => {
                self.counts.completed += 1;
                let origin = Origin { node: node_name, address: node_address.to_string() };
                let body = embedding::body(&vectors, encoding, &self.frame.model, prompt_tokens, origin);
                let body = AnyBody::Embedding(body);
                let response = Response { status_code: 200, request_id: line.request_id.to_string(), body };
                let record =
                    Record { id: batch_id(&short), custom_id: &line.custom_id, response: Some(response), error: None };
                append(&mut self.results, &record);
            }
            Outcome::Failed { reason, message } => {
                self.counts.failed += 1;
                let error = Some(RequestError { code: &reason, message: &message });
                append(
                    &mut self.errors,
                    &Record { id: batch_id(&short), custom_id: &line.custom_id, response: None, error },
                );
            }
        }
        if self.results.len() + self.errors.len() > MAX_BYTES { Err(Full) } else { Ok(()) }
    }

    /// Adds the manifest. Deterministic: the same outcomes give the same bytes.
    pub fn finish(self, receipts_root: &str) -> Result<Finished, serde_json::Error> {
        let Files { frame, results, errors, counts } = self;
        let (results_sha256, errors_sha256) = (sha256(&results), sha256(&errors));
        let bytes = results.len() + errors.len();
        let manifest = Manifest {
            version: 1,
            job: ManifestJob { namespace: &frame.namespace, name: &frame.name, uid: &frame.uid },
            model: ManifestModel { name: &frame.model, sha256: frame.model_digest.to_string() },
            endpoint: path_of(frame.endpoint),
            counts,
            sha256: [(RESULTS, results_sha256.as_str()), (ERRORS, errors_sha256.as_str())].into(),
            bytes: [(RESULTS, results.len()), (ERRORS, errors.len())].into(),
            receipts_root,
        };
        let manifest = serde_json::to_string_pretty(&manifest)? + "\n";
        let files = [(RESULTS, results), (ERRORS, errors), (MANIFEST, manifest)];
        let files = files.into_iter().map(|(name, text)| (name.to_owned(), text)).collect();
        Ok(Finished { files, results_sha256, errors_sha256, bytes, counts })
    }

    fn is_chat(&self) -> bool {
        self.frame.endpoint == Endpoint::ChatCompletions
    }
}

/// Rejected lines as lines of errors.jsonl.
pub fn rejection_lines(rejections: &[Rejection]) -> String {
    let mut lines = String::new();
    for rejection in rejections {
        let error = Some(RequestError { code: rejection.reason.as_str(), message: &rejection.message });
        let id = batch_id(&format!("line-{}", rejection.index + 1));
        append(&mut lines, &Record { id, custom_id: &rejection.custom_id, response: None, error });
    }
    lines
}

fn batch_id(id: &str) -> String {
    format!("batch_req_{id}")
}

fn choice(endpoint: Endpoint, text: String, finish_reason: String) -> Choice {
    let (message, text) = match endpoint {
        Endpoint::ChatCompletions => (Some(Answer { role: "assistant", content: text }), None),
        Endpoint::Completions | Endpoint::Embeddings => (None, Some(text)),
    };
    Choice { index: 0, message, text, finish_reason }
}

fn append(lines: &mut String, record: &Record<'_>) {
    // Strings and integers always serialise.
    if let Ok(line) = serde_json::to_string(record) {
        lines.push_str(&line);
        lines.push('\n');
    }
}

fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

#[derive(Serialize)]
struct Record<'a> {
    id: String,
    custom_id: &'a str,
    response: Option<Response<'a>>,
    error: Option<RequestError<'a>>,
}

#[derive(Serialize)]
struct Response<'a> {
    status_code: u16,
    request_id: String,
    body: AnyBody<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum AnyBody<'a> {
    Answer(Body<'a>),
    Embedding(embedding::Body<'a>),
}

#[derive(Serialize)]
struct RequestError<'a> {
    code: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct Body<'a> {
    id: String,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: [Choice; 1],
    usage: Usage,
    /// Who answered: nothing of OpenAI's, and clients ignore it.
    xdc_grid: Origin,
}

#[derive(Serialize)]
struct Choice {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Answer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    finish_reason: String,
}

#[derive(Serialize)]
struct Answer {
    role: &'static str,
    content: String,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u64,
}

#[derive(Serialize)]
pub(super) struct Origin {
    pub node: String,
    pub address: String,
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
    bytes: BTreeMap<&'static str, usize>,
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

    use super::*;
    use crate::api::{
        ids::{NodeAddress, RequestId},
        reasons::Reason,
    };

    fn files(rejected: &[Rejection]) -> Files {
        let frame = Frame {
            namespace: "ns".into(),
            name: "hello".into(),
            uid: "u1".into(),
            model: "m".into(),
            model_digest: ModelDigest([1; 32]),
            endpoint: Endpoint::ChatCompletions,
        };
        Files::new(frame, rejection_lines(rejected))
    }

    fn completed(text: &str) -> ResultLine {
        ResultLine {
            index: 0,
            custom_id: "a".into(),
            request_id: RequestId([2; 32]),
            outcome: Outcome::Completed {
                text: text.into(),
                finish_reason: "stop".into(),
                prompt_tokens: 3,
                output_tokens: 4,
                node_name: "n".into(),
                node_address: NodeAddress([3; 20]),
                created: 5,
            },
        }
    }

    fn json(line: &str) -> Value {
        serde_json::from_str(line).unwrap()
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
