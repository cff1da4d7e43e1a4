//! One line of input to a request, or to the reason why it is none. Pure.

use std::collections::HashSet;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{
    embedding,
    lines::{Line, LineContent},
};
use crate::{
    api::{inference_job::InputFormat, reasons::Reason},
    protocol::internal::{Encoding, Endpoint, InputLine, Message},
};

const MAX_CUSTOM_ID: usize = 256;
const MAX_MESSAGES: usize = 256;
const MAX_TOKENS: u32 = 32_768;
const MAX_STOP: usize = 4;

/// What a line is read against.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    pub format: InputFormat,
    pub endpoint: Endpoint,
    /// Name of the GridModel: a line may ask for no other.
    pub model: String,
    pub defaults: Defaults,
}

/// Sampling of lines that say nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    pub max_tokens: u32,
    pub temperature: f32,
    pub top_p: f32,
    pub top_k: u32,
    pub seed: u64,
    pub stop: Vec<String>,
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
    /// BLAKE3 of each id: 16 bytes however long the ids are. A collision among 50 000 has a chance of 10⁻²⁹.
    seen: HashSet<[u8; 16]>,
}

/// Reason and message of a line that is turned down.
pub(super) type Refusal = (Reason, String);

impl LineParser {
    pub fn new(rules: Rules) -> Self {
        LineParser { rules, seen: HashSet::new() }
    }

    pub fn parse(&mut self, line: Line) -> Result<InputLine, Rejection> {
        let index = line.index;
        let LineContent::Bytes(bytes) = line.content else {
            return Err(reject(index, None, (Reason::LineTooLong, "the line has more than 1 MiB".into())));
        };
        let request = match self.rules.format {
            InputFormat::Lines => plain(&self.rules, index, &bytes).map_err(|refusal| reject(index, None, refusal)),
            InputFormat::OpenAiBatch => {
                batch(&self.rules, index, &bytes).map_err(|refusal| reject(index, custom_id_of(&bytes), refusal))
            }
        }?;
        if !self.seen.insert(short_hash(&request.custom_id)) {
            let refusal = (Reason::DuplicateCustomId, "an earlier line has the same custom_id; that one runs".into());
            return Err(reject(index, Some(request.custom_id), refusal));
        }
        Ok(request)
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
    let mut request = defaults(rules, index, numbered(index));
    match rules.endpoint {
        Endpoint::ChatCompletions => {
            let message = |role: &str, content| Message { role: role.into(), content };
            let system = rules.defaults.system_message.iter().map(|content| message("system", content.clone()));
            request.messages = system.chain([message("user", prompt)]).collect();
        }
        Endpoint::Completions => request.prompt = prompt,
        Endpoint::Embeddings => {
            return Ok(InputLine::embedding(index, numbered(index), vec![prompt], Encoding::Float));
        }
    }
    Ok(request)
}

fn defaults(rules: &Rules, index: u32, custom_id: String) -> InputLine {
    let Defaults { max_tokens, temperature, top_p, top_k, seed, stop, system_message: _ } = rules.defaults.clone();
    InputLine {
        index,
        custom_id,
        messages: Vec::new(),
        prompt: String::new(),
        max_tokens,
        temperature,
        top_p,
        top_k,
        seed,
        stop,
        inputs: Vec::new(),
        encoding: Encoding::default(),
    }
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

/// The fields of chat completions and completions that are served.
#[derive(Deserialize)]
struct Body {
    model: Option<String>,
    messages: Option<Vec<ChatMessage>>,
    prompt: Option<String>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    seed: Option<i64>,
    #[serde(default, deserialize_with = "one_or_many")]
    stop: Option<Vec<String>>,
    n: Option<u32>,
    stream: Option<bool>,
    /// A label of the caller's that changes nothing.
    #[serde(rename = "user")]
    _user: Option<String>,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

#[derive(Deserialize)]
struct ChatMessage {
    role: String,
    content: Content,
    #[serde(flatten)]
    unknown: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stop {
        One(String),
        Many(Vec<String>),
    }
    Ok(Option::<Stop>::deserialize(deserializer)?.map(|stop| match stop {
        Stop::One(text) => vec![text],
        Stop::Many(texts) => texts,
    }))
}

fn batch(rules: &Rules, index: u32, bytes: &[u8]) -> Result<InputLine, Refusal> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| (Reason::InvalidJson, format!("the line is not JSON: {error}")))?;
    let line: BatchLine = serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
    known_fields(&line.unknown, "")?;
    let custom_id = line.custom_id.unwrap_or_default();
    if custom_id.is_empty() || custom_id.len() > MAX_CUSTOM_ID {
        return Err((Reason::InvalidCustomId, format!("custom_id must have 1 to {MAX_CUSTOM_ID} bytes")));
    }
    let path = path_of(rules.endpoint);
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
    if rules.endpoint == Endpoint::Embeddings {
        return embedding::request(rules, index, custom_id, body);
    }
    let body = serde_json::from_value(body).map_err(|error| invalid(error.to_string()))?;
    request(rules, index, custom_id, body)
}

fn request(rules: &Rules, index: u32, custom_id: String, body: Body) -> Result<InputLine, Refusal> {
    known_fields(&body.unknown, "body.")?;
    known_model(rules, body.model.as_deref())?;
    if body.n.is_some_and(|n| n != 1) {
        return Err(invalid("body.n must be 1"));
    }
    if body.stream == Some(true) {
        return Err(invalid("body.stream must be false in a batch"));
    }
    let mut request = defaults(rules, index, custom_id);
    sampling(&mut request, &body)?;
    match rules.endpoint {
        Endpoint::ChatCompletions => request.messages = messages(body.messages)?,
        Endpoint::Completions => {
            request.prompt =
                body.prompt.filter(|prompt| !prompt.is_empty()).ok_or_else(|| invalid("body.prompt is missing"))?;
        }
        // Theirs is another body: `embedding`.
        Endpoint::Embeddings => return Err(invalid("body has no input")),
    }
    Ok(request)
}

fn sampling(request: &mut InputLine, body: &Body) -> Result<(), Refusal> {
    let within = |name: &str, value: f32, min: f32, max: f32| {
        if value >= min && value <= max {
            Ok(value)
        } else {
            Err(invalid(format!("body.{name} must be from {min} to {max}")))
        }
    };
    if let Some(max_tokens) = body.max_completion_tokens.or(body.max_tokens) {
        if max_tokens == 0 || max_tokens > MAX_TOKENS {
            return Err(invalid(format!("body.max_tokens must be from 1 to {MAX_TOKENS}")));
        }
        request.max_tokens = max_tokens;
    }
    if let Some(temperature) = body.temperature {
        request.temperature = within("temperature", temperature, 0.0, 2.0)?;
    }
    if let Some(top_p) = body.top_p {
        request.top_p = within("top_p", top_p, 0.0, 1.0)?;
    }
    if let Some(top_k) = body.top_k {
        request.top_k = top_k;
    }
    if let Some(seed) = body.seed {
        // Any 64-bit number is a seed; a negative one keeps its bits.
        request.seed = seed.cast_unsigned();
    }
    if let Some(stop) = &body.stop {
        if stop.len() > MAX_STOP || stop.iter().any(|text| text.is_empty() || text.len() > 64) {
            return Err(invalid(format!("body.stop may have {MAX_STOP} texts of 1 to 64 bytes")));
        }
        request.stop.clone_from(stop);
    }
    Ok(())
}

fn messages(messages: Option<Vec<ChatMessage>>) -> Result<Vec<Message>, Refusal> {
    let messages = messages.unwrap_or_default();
    if messages.is_empty() || messages.len() > MAX_MESSAGES {
        return Err(invalid(format!("body.messages must have 1 to {MAX_MESSAGES} messages")));
    }
    messages.into_iter().map(message).collect()
}

fn message(message: ChatMessage) -> Result<Message, Refusal> {
    known_fields(&message.unknown, "body.messages[].")?;
    if !matches!(message.role.as_str(), "system" | "user" | "assistant") {
        return Err(invalid(format!("a message of role {:?} is not served", message.role)));
    }
    let content = match message.content {
        Content::Text(text) => text,
        Content::Parts(parts) => parts.into_iter().map(text_of).collect::<Result<Vec<_>, _>>()?.concat(),
    };
    Ok(Message { role: message.role, content })
}

fn text_of(part: Part) -> Result<String, Refusal> {
    match (part.kind.as_str(), part.text) {
        ("text", Some(text)) => Ok(text),
        (kind, _) => Err(invalid(format!("message content of type {kind:?} is not served"))),
    }
}

pub(super) fn known_model(rules: &Rules, model: Option<&str>) -> Result<(), Refusal> {
    match model {
        Some(model) if model == rules.model => Ok(()),
        Some(model) => {
            Err((Reason::OtherModel, format!("the job is for model {:?}, the line for {model:?}", rules.model)))
        }
        None => Err(invalid("body.model is missing")),
    }
}

pub(super) fn known_fields(unknown: &Map<String, Value>, prefix: &str) -> Result<(), Refusal> {
    // A null says as much as nothing.
    match unknown.iter().find(|(_, value)| !value.is_null()) {
        Some((name, _)) => Err((Reason::UnknownField, format!("{prefix}{name} is not served"))),
        None => Ok(()),
    }
}

pub(super) fn invalid(message: impl Into<String>) -> Refusal {
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
    use super::*;

    fn rules(format: InputFormat) -> Rules {
        Rules {
            format,
            endpoint: Endpoint::ChatCompletions,
            model: "m".into(),
            defaults: Defaults {
                max_tokens: 32,
                temperature: 0.0,
                top_p: 1.0,
                top_k: 0,
                seed: 7,
                stop: Vec::new(),
                system_message: None,
            },
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
        assert_eq!((request.max_tokens, request.seed), (32, 7));
    }

    #[test]
    fn a_system_message_goes_before_every_plain_prompt() {
        let mut rules = rules(InputFormat::Lines);
        rules.defaults.system_message = Some("Be brief.".into());
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
        assert_eq!(request.stop, ["x"]);
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
        assert_eq!(rejected(&ask(r#","logprobs":true"#)).0, Reason::UnknownField);
        assert_eq!(rejected(&ask("").replacen('{', r#"{"priority":1,"#, 1)).0, Reason::UnknownField);
    }

    #[test]
    fn values_out_of_range_are_rejected() {
        for rest in [r#","temperature":3"#, r#","max_tokens":0"#, r#","n":2"#, r#","stream":true"#, r#","top_p":-1"#] {
            assert_eq!(rejected(&ask(rest)).0, Reason::InvalidRequest, "{rest}");
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
}
