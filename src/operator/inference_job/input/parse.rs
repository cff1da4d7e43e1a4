//! One line of input to a request, or to the reason why it is none. Pure.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::lines::{Line, LineContent};
use crate::{
    api::{inference_job::InputFormat, reasons::Reason},
    openai::{Defaults, EmbeddingRequest, Offer, OpenAiError, TextRequest},
    protocol::internal::{Encoding, Endpoint, InputLine, Message},
};

const MAX_CUSTOM_ID: usize = 256;
const MAX_TOKENS: u32 = 32_768;

/// What a line is read against.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    pub format: InputFormat,
    pub endpoint: Endpoint,
    /// Name of the GridModel: a line may ask for no other.
    pub model: String,
    /// What holds for lines that say nothing.
    pub defaults: Defaults,
    /// Before every plain prompt of a chat.
    pub system_message: Option<String>,
}

/// A line that is no usable request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub index: u32,
    /// As far as it could be read; else `line-<number>`, from 1.
    pub custom_id: String,
    pub reason: Reason,
    pub message: String,
}

/// Reads lines one after the other and remembers which custom ids it has seen.
pub struct LineParser {
    rules: Rules,
    offer: Offer,
    /// BLAKE3 of each id: 16 bytes however long the ids are. A collision among 50 000 has a chance of 10⁻²⁹.
    seen: HashSet<[u8; 16]>,
}

/// Reason and message of a line that is turned down.
type Refusal = (Reason, String);

impl LineParser {
    pub fn new(rules: Rules) -> Self {
        let offer = Offer::of_the_grid(MAX_TOKENS, rules.defaults.clone());
        LineParser { rules, offer, seen: HashSet::new() }
    }

    pub fn parse(&mut self, line: Line) -> Result<InputLine, Rejection> {
        let index = line.index;
        let LineContent::Bytes(bytes) = line.content else {
            return Err(reject(index, None, (Reason::LineTooLong, "the line has more than 1 MiB".into())));
        };
        let request = match self.rules.format {
            InputFormat::Lines => plain(&self.rules, index, &bytes).map_err(|refusal| reject(index, None, refusal)),
            InputFormat::OpenAiBatch => {
                self.batch(index, &bytes).map_err(|refusal| reject(index, custom_id_of(&bytes), refusal))
            }
        }?;
        if !self.seen.insert(short_hash(&request.custom_id)) {
            let refusal = (Reason::DuplicateCustomId, "an earlier line has the same custom_id; that one runs".into());
            return Err(reject(index, Some(request.custom_id), refusal));
        }
        Ok(request)
    }

    fn batch(&self, index: u32, bytes: &[u8]) -> Result<InputLine, Refusal> {
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|error| (Reason::InvalidJson, format!("the line is not JSON: {error}")))?;
        let line: BatchLine = serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
        known_fields(&line.unknown)?;
        let custom_id = line.custom_id.unwrap_or_default();
        if custom_id.is_empty() || custom_id.len() > MAX_CUSTOM_ID {
            return Err((Reason::InvalidCustomId, format!("custom_id must have 1 to {MAX_CUSTOM_ID} bytes")));
        }
        let path = path_of(self.rules.endpoint);
        if line.method.as_deref().is_some_and(|method| method != "POST") {
            return Err(invalid("method must be POST"));
        }
        if line.url.as_deref().is_some_and(|url| url != path) {
            return Err((
                Reason::OtherEndpoint,
                format!("the job is for {path}, the line for {}", line.url.unwrap_or_default()),
            ));
        }
        let body = line.body.ok_or_else(|| invalid("body is missing"))?;
        match self.rules.endpoint {
            Endpoint::Embeddings => embedding(&self.rules, index, custom_id, body),
            Endpoint::ChatCompletions | Endpoint::Completions => self.text(index, custom_id, body),
        }
    }

    fn text(&self, index: u32, custom_id: String, body: Value) -> Result<InputLine, Refusal> {
        let request = TextRequest::of_batch(body, self.rules.endpoint, &self.offer).map_err(refused)?;
        known_model(&self.rules, &request.model)?;
        if request.stream {
            return Err(invalid("body.stream must be false in a batch"));
        }
        Ok(request.into_line(index, custom_id))
    }
}

fn reject(index: u32, custom_id: Option<String>, (reason, mut message): Refusal) -> Rejection {
    if message.len() > 300 {
        let end = (0..=300).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
        message.truncate(end);
    }
    let custom_id = custom_id.unwrap_or_else(|| numbered(index));
    Rejection { index, custom_id, reason, message: format!("line {}: {message}", index + 1) }
}

fn numbered(index: u32) -> String {
    format!("line-{}", index + 1)
}

fn short_hash(text: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(text.as_bytes()).as_bytes()[..16]);
    short
}

/// A prompt a line.
fn plain(rules: &Rules, index: u32, bytes: &[u8]) -> Result<InputLine, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|_| (Reason::InvalidText, "the line is not UTF-8".to_owned()))?;
    let prompt = text.trim_end_matches('\r').to_owned();
    let mut request = rules.defaults.line(index, numbered(index));
    match rules.endpoint {
        Endpoint::ChatCompletions => {
            let message = |role: &str, content| Message { role: role.into(), content };
            let system = rules.system_message.iter().map(|content| message("system", content.clone()));
            request.messages = system.chain([message("user", prompt)]).collect();
        }
        Endpoint::Completions => request.prompt = prompt,
        Endpoint::Embeddings => {
            return Ok(InputLine::embedding(index, numbered(index), vec![prompt], Encoding::Float));
        }
    }
    Ok(request)
}

/// A line of an OpenAI batch file.
#[derive(Deserialize)]
struct BatchLine {
    custom_id: Option<String>,
    method: Option<String>,
    url: Option<String>,
    body: Option<Value>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

fn embedding(rules: &Rules, index: u32, custom_id: String, body: Value) -> Result<InputLine, Refusal> {
    let EmbeddingRequest { model, inputs, encoding } = EmbeddingRequest::of_batch(body).map_err(refused)?;
    known_model(rules, &model)?;
    Ok(InputLine::embedding(index, custom_id, inputs, encoding))
}

/// What a client of the API would be told; the message names the field.
fn refused(error: OpenAiError) -> Refusal {
    let reason = if error.is_unsupported() { Reason::UnknownField } else { Reason::InvalidRequest };
    (reason, error.body.message)
}

fn known_model(rules: &Rules, model: &str) -> Result<(), Refusal> {
    match model == rules.model {
        true => Ok(()),
        false => Err((Reason::OtherModel, format!("the job is for model {:?}, the line for {model:?}", rules.model))),
    }
}

fn known_fields(unknown: &Map<String, Value>) -> Result<(), Refusal> {
    // A null says as much as nothing.
    match unknown.iter().find(|(_, value)| !value.is_null()) {
        Some((name, _)) => Err((Reason::UnknownField, format!("{name} is not served"))),
        None => Ok(()),
    }
}

fn invalid(message: impl Into<String>) -> Refusal {
    (Reason::InvalidRequest, message.into())
}

pub fn path_of(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::ChatCompletions => "/v1/chat/completions",
        Endpoint::Completions => "/v1/completions",
        Endpoint::Embeddings => "/v1/embeddings",
    }
}

/// The custom id of a line that could not be used, read even from broken JSON: the owner must find it again.
fn custom_id_of(bytes: &[u8]) -> Option<String> {
    const KEY: &[u8] = b"\"custom_id\"";
    let at = bytes.windows(KEY.len()).position(|window| window == KEY)?;
    let rest = bytes.get(at + KEY.len()..)?.trim_ascii_start().strip_prefix(b":")?;
    let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<String>();
    let id = values.next()?.ok()?;
    (!id.is_empty() && id.len() <= MAX_CUSTOM_ID).then_some(id)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        protocol::internal::ResponseFormat,
        verify::sampler::{SamplerParams, TextForm},
    };

    fn rules(format: InputFormat) -> Rules {
        Rules {
            format,
            endpoint: Endpoint::ChatCompletions,
            model: "m".into(),
            defaults: Defaults {
                max_tokens: Some(32),
                sampling: SamplerParams { min_p: 0.05, ..SamplerParams::GREEDY },
                seed: Some(7),
                stop: Vec::new(),
            },
            system_message: None,
        }
    }

    fn line(index: u32, text: &str) -> Line {
        Line { index, content: LineContent::Bytes(text.as_bytes().to_vec()) }
    }

    fn rejected(text: &str) -> (Reason, String) {
        let rejection = LineParser::new(rules(InputFormat::OpenAiBatch)).parse(line(3, text)).unwrap_err();
        (rejection.reason, rejection.custom_id)
    }

    fn ask(rest: &str) -> String {
        format!(
            r#"{{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{{"model":"m","messages":[{{"role":"user","content":"hi"}}]{rest}}}}}"#
        )
    }

    #[test]
    fn a_plain_line_becomes_a_user_message_with_the_defaults() {
        let mut parser = LineParser::new(rules(InputFormat::Lines));
        let request = parser.parse(line(1, "What is the capital of France?\r")).unwrap();
        assert_eq!(request.custom_id, "line-2");
        assert_eq!(request.messages[0].content, "What is the capital of France?");
        assert_eq!((request.max_tokens, request.seed, request.min_p), (32, 7, 0.05));
    }

    #[test]
    fn a_system_message_goes_before_every_plain_prompt() {
        let mut rules = rules(InputFormat::Lines);
        rules.system_message = Some("Be brief.".into());
        let request = LineParser::new(rules).parse(line(0, "Hello?")).unwrap();
        let said: Vec<_> =
            request.messages.iter().map(|message| (message.role.as_str(), message.content.as_str())).collect();
        assert_eq!(said, [("system", "Be brief."), ("user", "Hello?")]);
    }

    #[test]
    fn a_batch_line_overrides_the_defaults() {
        let mut parser = LineParser::new(rules(InputFormat::OpenAiBatch));
        let text = ask(r#","max_tokens":5,"temperature":0.5,"seed":-1,"stop":"x","user":"u","logprobs":null"#);
        let request = parser.parse(line(0, &text)).unwrap();
        assert_eq!((request.max_tokens, request.temperature, request.seed), (5, 0.5, u64::MAX));
        assert_eq!((request.stop, request.min_p), (vec!["x".to_owned()], 0.05));
    }

    #[test]
    fn a_batch_line_says_how_its_tokens_are_chosen_and_whether_their_likelihood_is_told() {
        let text = ask(
            r#","min_p":0.2,"repetition_penalty":1.2,"presence_penalty":1,"frequency_penalty":-1,"logit_bias":{"9":-100},"logprobs":true,"top_logprobs":3"#,
        );
        let request = LineParser::new(rules(InputFormat::OpenAiBatch)).parse(line(0, &text)).unwrap();
        assert_eq!((request.min_p, request.repetition_penalty, request.top_logprobs), (0.2, 1.2, Some(3)));
        assert_eq!((request.presence_penalty, request.frequency_penalty), (1.0, -1.0));
        assert_eq!(request.logit_bias, [(9, -100.0)].into());
    }

    #[test]
    fn lines_have_the_form_of_the_job_unless_they_say_another() {
        let schema = TextForm::JsonSchema(r#"{"type":"array"}"#.into());
        let parser = |format| {
            let mut rules = rules(format);
            rules.defaults.sampling.form = schema.clone();
            LineParser::new(rules)
        };
        let wanted = ResponseFormat::JsonSchema(r#"{"type":"array"}"#.into());
        assert_eq!(parser(InputFormat::Lines).parse(line(0, "Three colours?")).unwrap().response_format, wanted);
        for (rest, format) in [
            ("", wanted),
            (r#","response_format":{"type":"text"}"#, ResponseFormat::Text),
            (r#","response_format":{"type":"json_object"}"#, ResponseFormat::JsonObject),
            (
                r#","response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"enum":[1]}}}"#,
                ResponseFormat::JsonSchema(r#"{"enum":[1]}"#.into()),
            ),
        ] {
            let request = parser(InputFormat::OpenAiBatch).parse(line(0, &ask(rest))).unwrap();
            assert_eq!(request.response_format, format, "{rest}");
        }
    }

    #[test]
    fn a_schema_that_is_none_is_rejected_by_the_name_of_its_field() {
        let text = ask(r#","response_format":{"type":"json_schema","json_schema":{"name":"x","schema":"{}"}}"#);
        let rejection = LineParser::new(rules(InputFormat::OpenAiBatch)).parse(line(0, &text)).unwrap_err();
        assert_eq!(rejection.reason, Reason::InvalidRequest);
        assert!(rejection.message.contains("body.response_format.json_schema.schema must be"), "{}", rejection.message);
    }

    #[test]
    fn content_may_be_text_parts() {
        let text = r#"{"custom_id":"a","body":{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}}"#;
        let request = LineParser::new(rules(InputFormat::OpenAiBatch)).parse(line(0, text)).unwrap();
        assert_eq!(request.messages[0].content, "ab");
    }

    #[test]
    fn a_line_that_is_not_json_keeps_its_custom_id_when_that_can_be_read() {
        assert_eq!(rejected(r#"{"custom_id": "a-1", "body": {"mod"#), (Reason::InvalidJson, "a-1".into()));
        assert_eq!(rejected("hello"), (Reason::InvalidJson, "line-4".into()));
    }

    #[test]
    fn a_line_for_another_model_is_rejected() {
        let text = ask("").replace(r#""model":"m""#, r#""model":"other""#);
        assert_eq!(rejected(&text), (Reason::OtherModel, "a".into()));
    }

    #[test]
    fn a_field_that_is_not_served_is_rejected_and_not_ignored() {
        for rest in [r#","tools":[{}]"#, r#","best_of":2"#] {
            assert_eq!(rejected(&ask(rest)).0, Reason::UnknownField, "{rest}");
        }
        assert_eq!(rejected(&ask("").replacen('{', r#"{"priority":1,"#, 1)).0, Reason::UnknownField);
    }

    #[test]
    fn values_out_of_range_are_rejected() {
        for (field, value) in [
            ("temperature", "3"),
            ("max_tokens", "0"),
            ("n", "2"),
            ("stream", "true"),
            ("top_p", "-1"),
            ("min_p", "2"),
            ("frequency_penalty", "3"),
            ("logit_bias", r#"{"x": 1}"#),
            ("top_logprobs", "5"),
            ("response_format", "7"),
        ] {
            let text = ask(&format!(r#","{field}":{value}"#));
            let rejection = LineParser::new(rules(InputFormat::OpenAiBatch)).parse(line(3, &text)).unwrap_err();
            assert_eq!(rejection.reason, Reason::InvalidRequest, "{field}");
            assert!(rejection.message.starts_with(&format!("line 4: body.{field} ")), "{}", rejection.message);
        }
        assert_eq!(rejected(&ask("").replace("user", "robot")).0, Reason::InvalidRequest);
        assert_eq!(rejected(&ask("").replace("/v1/chat/completions", "/v1/embeddings")).0, Reason::OtherEndpoint);
        assert_eq!(rejected(&ask("").replace(r#""custom_id":"a","#, "")).0, Reason::InvalidCustomId);
    }

    #[test]
    fn of_two_lines_with_one_custom_id_the_first_runs() {
        let mut parser = LineParser::new(rules(InputFormat::OpenAiBatch));
        assert!(parser.parse(line(0, &ask(""))).is_ok());
        let rejection = parser.parse(line(1, &ask(""))).unwrap_err();
        assert_eq!((rejection.reason, rejection.custom_id.as_str()), (Reason::DuplicateCustomId, "a"));
    }

    #[test]
    fn an_overlong_line_is_rejected_by_number() {
        let mut parser = LineParser::new(rules(InputFormat::Lines));
        let rejection = parser.parse(Line { index: 0, content: LineContent::TooLong }).unwrap_err();
        assert_eq!((rejection.reason, rejection.custom_id.as_str()), (Reason::LineTooLong, "line-1"));
    }

    fn embed(format: InputFormat, text: &str) -> Result<InputLine, Rejection> {
        LineParser::new(Rules { endpoint: Endpoint::Embeddings, ..rules(format) }).parse(line(0, text))
    }

    fn embed_batch(body: Value) -> Result<InputLine, Rejection> {
        let line = json!({"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": body});
        embed(InputFormat::OpenAiBatch, &line.to_string())
    }

    #[test]
    fn a_plain_line_of_an_embedding_job_is_one_text_and_nothing_is_sampled() {
        let line = embed(InputFormat::Lines, "the quick brown fox\r").unwrap();
        assert_eq!(line, InputLine::embedding(0, "line-1".into(), vec!["the quick brown fox".into()], Encoding::Float));
        assert_eq!((line.max_tokens, line.temperature), (1, 0.0));
    }

    #[test]
    fn a_batch_line_of_an_embedding_job_has_one_text_or_many() {
        let one = embed_batch(json!({"model": "m", "input": "a", "encoding_format": "base64", "user": "u"})).unwrap();
        assert_eq!((one.inputs, one.encoding), (vec!["a".to_owned()], Encoding::Base64));
        assert_eq!(
            embed_batch(json!({"model": "m", "input": ["a", "b"], "dimensions": null})).unwrap().inputs.len(),
            2
        );
    }

    #[test]
    fn what_is_no_embedding_is_rejected_and_not_ignored() {
        for (body, reason) in [
            (json!({"model": "m"}), Reason::InvalidRequest),
            (json!({"model": "m", "input": []}), Reason::InvalidRequest),
            (json!({"model": "m", "input": ["a", ""]}), Reason::InvalidRequest),
            (json!({"model": "m", "input": [1, 2]}), Reason::InvalidRequest),
            (json!({"model": "m", "input": "a", "encoding_format": "hex"}), Reason::InvalidRequest),
            (json!({"model": "m", "input": "a", "dimensions": 8}), Reason::UnknownField),
            (json!({"model": "m", "input": "a", "max_tokens": 8}), Reason::UnknownField),
            (json!({"model": "x", "input": "a"}), Reason::OtherModel),
        ] {
            assert_eq!(embed_batch(body.clone()).unwrap_err().reason, reason, "{body}");
        }
    }
}
