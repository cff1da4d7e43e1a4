//! Pure: outcomes as lines of OpenAI batch output files.

use serde::Serialize;
use serde_json::Value;

use crate::{
    api::ids::ModelDigest,
    openai::logprobs_of_answer,
    operator::inference_job::{embedding, input::parse::Rejection},
    protocol::{
        internal::{Endpoint, Outcome, ResultLine},
        logprobs::TokenLogprob,
    },
};

/// The files of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    Results,
    Errors,
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

impl Frame {
    /// One outcome, as a line with its line break, and the file that it belongs to.
    pub fn record(&self, line: ResultLine) -> (File, String) {
        let short = line.request_id.to_string().get(..24).unwrap_or_default().to_owned();
        match line.outcome {
            Outcome::Completed {
                text,
                finish_reason,
                logprobs,
                prompt_tokens,
                output_tokens,
                node_name,
                node_address,
                created,
            } => {
                let body = Body {
                    id: format!("{}-{short}", if self.is_chat() { "chatcmpl" } else { "cmpl" }),
                    object: if self.is_chat() { "chat.completion" } else { "text_completion" },
                    created,
                    model: &self.model,
                    choices: [choice(self.endpoint, text, finish_reason, logprobs.as_deref())],
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
                (File::Results, written(&record))
            }
            Outcome::Embedded { vectors, encoding, prompt_tokens, node_name, node_address, created: _ } => {
                let origin = Origin { node: node_name, address: node_address.to_string() };
                let body = embedding::body(&vectors, encoding, &self.model, prompt_tokens, origin);
                let body = AnyBody::Embedding(body);
                let response = Response { status_code: 200, request_id: line.request_id.to_string(), body };
                let record =
                    Record { id: batch_id(&short), custom_id: &line.custom_id, response: Some(response), error: None };
                (File::Results, written(&record))
            }
            Outcome::Failed { reason, message } => {
                let error = Some(RequestError { code: &reason, message: &message });
                let record = Record { id: batch_id(&short), custom_id: &line.custom_id, response: None, error };
                (File::Errors, written(&record))
            }
        }
    }

    fn is_chat(&self) -> bool {
        self.endpoint == Endpoint::ChatCompletions
    }
}

/// Rejected lines as lines of errors.jsonl.
pub fn rejection_lines(rejections: &[Rejection]) -> String {
    let line = |rejection: &Rejection| {
        let error = Some(RequestError { code: rejection.reason.as_str(), message: &rejection.message });
        let id = batch_id(&format!("line-{}", rejection.index + 1));
        written(&Record { id, custom_id: &rejection.custom_id, response: None, error })
    };
    rejections.iter().map(line).collect()
}

fn batch_id(id: &str) -> String {
    format!("batch_req_{id}")
}

fn choice(endpoint: Endpoint, text: String, finish_reason: String, logprobs: Option<&[TokenLogprob]>) -> Choice {
    let (message, text) = match endpoint {
        Endpoint::ChatCompletions => (Some(Answer { role: "assistant", content: text }), None),
        Endpoint::Completions | Endpoint::Embeddings => (None, Some(text)),
    };
    let logprobs = logprobs.map(|tokens| logprobs_of_answer(endpoint, tokens));
    Choice { index: 0, message, text, logprobs, finish_reason }
}

fn written(record: &Record<'_>) -> String {
    // Strings and integers always serialise.
    serde_json::to_string(record).map(|line| line + "\n").unwrap_or_default()
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
    /// Where the request asked for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<Value>,
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
pub(in crate::operator::inference_job) struct Origin {
    pub node: String,
    pub address: String,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        api::ids::{NodeAddress, RequestId},
        protocol::logprobs::TokenText,
    };

    pub fn frame() -> Frame {
        Frame {
            namespace: "ns".into(),
            name: "hello".into(),
            uid: "u1".into(),
            model: "m".into(),
            model_digest: ModelDigest([1; 32]),
            endpoint: Endpoint::ChatCompletions,
        }
    }

    pub fn completed(text: &str) -> ResultLine {
        ResultLine {
            index: 0,
            custom_id: "a".into(),
            request_id: RequestId([2; 32]),
            outcome: Outcome::Completed {
                text: text.into(),
                finish_reason: "stop".into(),
                logprobs: None,
                prompt_tokens: 3,
                output_tokens: 4,
                node_name: "n".into(),
                node_address: NodeAddress([3; 20]),
                created: 5,
            },
        }
    }

    pub fn json(line: &str) -> Value {
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn an_answer_is_a_result_and_a_failure_an_error_each_in_one_line() {
        let (file, text) = frame().record(completed("two\nlines"));
        assert_eq!((file, text.lines().count(), text.ends_with('\n')), (File::Results, 1, true));
        let outcome = Outcome::Failed { reason: "Cancelled".into(), message: "stopped".into() };
        let (file, text) = frame().record(ResultLine { outcome, ..completed("") });
        assert_eq!((file, json(&text)["error"]["code"].as_str()), (File::Errors, Some("Cancelled")));
    }

    #[test]
    fn log_probabilities_are_written_as_the_endpoint_has_them_and_only_when_asked_for() {
        let token = TokenText(b"x".to_vec());
        let told = TokenLogprob { token: token.clone(), logprob: -0.5, top: vec![(token, -0.5)] };
        let mut line = completed("x");
        let Outcome::Completed { logprobs, .. } = &mut line.outcome else { unreachable!() };
        *logprobs = Some(vec![told]);
        let choice =
            |frame: &Frame, line: ResultLine| json(&frame.record(line).1)["response"]["body"]["choices"][0].clone();
        assert_eq!(choice(&frame(), line.clone())["logprobs"]["content"][0]["top_logprobs"][0]["logprob"], -0.5);
        let completions = Frame { endpoint: Endpoint::Completions, ..frame() };
        assert_eq!(choice(&completions, line)["logprobs"]["token_logprobs"][0], -0.5);
        assert_eq!(choice(&frame(), completed("x")).get("logprobs"), None);
    }

    #[test]
    fn a_completion_is_no_chat() {
        let frame = Frame { endpoint: Endpoint::Completions, ..frame() };
        let (_, text) = frame.record(completed("x"));
        assert_eq!(json(&text)["response"]["body"]["choices"][0]["text"], "x");
        assert_eq!(json(&text)["response"]["body"]["object"], "text_completion");
    }
}
