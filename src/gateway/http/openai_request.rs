//! Reading OpenAI requests: what is supported is taken, what has no effect is let pass in its neutral form, and everything
//! else is refused by name, so that nobody gets an answer to another question than the one they asked.

use serde_json::{Map, Value};

use super::{input::check_sampling, openai_error::OpenAiError};
use crate::protocol::internal::{Encoding, Endpoint, InputLine, Message};

const MAX_MESSAGES: usize = 1024;

/// A request, parsed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OpenAiRequest {
    pub model: String,
    pub line: InputLine,
    pub stream: bool,
    pub include_usage: bool,
}

pub(super) type Parsed<T> = Result<T, OpenAiError>;

/// Parses the body of `endpoint`. `most_tokens`: the largest answer, and that of a request that names no limit.
pub(super) fn parse(body: &[u8], endpoint: Endpoint, most_tokens: u32) -> Parsed<OpenAiRequest> {
    let fields = &mut object(body)?;
    let model = take_string(fields, "model")?.ok_or_else(|| missing("model"))?;
    let (messages, prompt) = match endpoint {
        Endpoint::ChatCompletions => (messages(fields)?, String::new()),
        Endpoint::Completions => (Vec::new(), prompt(fields)?),
        // Theirs is another body: `openai_embeddings`.
        Endpoint::Embeddings => return Err(OpenAiError::not_found()),
    };
    let stream = take_flag(fields, "stream")?.unwrap_or(false);
    let line = InputLine {
        index: 0,
        custom_id: "online".into(),
        messages,
        prompt,
        max_tokens: max_tokens(fields, endpoint, most_tokens)?,
        temperature: take_number(fields, "temperature")?.unwrap_or(1.0),
        top_p: take_number(fields, "top_p")?.unwrap_or(1.0),
        top_k: take_integer(fields, "top_k")?
            .map_or(Ok(0), |top_k| u32::try_from(top_k).map_err(|_| range("top_k")))?,
        seed: take_integer(fields, "seed")?.map_or_else(rand::random, |seed| seed as u64),
        stop: stop(fields)?,
        inputs: Vec::new(),
        encoding: Encoding::default(),
    };
    let include_usage = stream_options(fields, stream)?;
    neutral(fields, endpoint)?;
    if let Some(field) = fields.keys().next() {
        return Err(unsupported(field));
    }
    check_line(&line)?;
    Ok(OpenAiRequest { model, line, stream, include_usage })
}

/// The fields of a body that are set: OpenAI's clients send null for what is not.
pub(super) fn object(body: &[u8]) -> Parsed<Map<String, Value>> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|error| OpenAiError::unreadable(format!("the body is not JSON: {error}")))?;
    let Value::Object(mut fields) = value else { return Err(OpenAiError::unreadable("the body is not a JSON object")) };
    fields.retain(|_, value| !value.is_null());
    Ok(fields)
}

fn check_line(line: &InputLine) -> Parsed<()> {
    let param = match () {
        () if !(0.0..=2.0).contains(&line.temperature) => "temperature",
        () if !(line.top_p > 0.0 && line.top_p <= 1.0) => "top_p",
        () => "stop",
    };
    check_sampling(line).map_err(|what| OpenAiError::invalid(param, what))
}

fn messages(fields: &mut Map<String, Value>) -> Parsed<Vec<Message>> {
    let list = match fields.remove("messages") {
        Some(Value::Array(list)) if !list.is_empty() && list.len() <= MAX_MESSAGES => list,
        Some(_) => {
            return Err(OpenAiError::invalid("messages", format!("messages must be a list of 1 to {MAX_MESSAGES}")));
        }
        None => return Err(missing("messages")),
    };
    list.into_iter().enumerate().map(|(index, value)| message(index, value)).collect()
}

fn message(index: usize, value: Value) -> Parsed<Message> {
    let param = |field: &str| format!("messages[{index}].{field}");
    let Value::Object(mut fields) = value else {
        return Err(OpenAiError::invalid("messages", format!("messages[{index}] is not an object")));
    };
    fields.retain(|_, value| !value.is_null());
    let role = match fields.remove("role") {
        Some(Value::String(role)) => role,
        _ => return Err(missing(&param("role"))),
    };
    let role = match role.as_str() {
        "system" | "developer" => "system",
        "user" => "user",
        "assistant" => "assistant",
        _ => return Err(OpenAiError::invalid(&param("role"), "role must be system, developer, user or assistant")),
    };
    let content = match fields.remove("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => text_of(parts, &param("content"))?,
        _ => return Err(OpenAiError::invalid(&param("content"), "content must be a string or a list of text parts")),
    };
    match fields.keys().next() {
        Some(field) => Err(unsupported(&param(field))),
        None => Ok(Message { role: role.to_owned(), content }),
    }
}

fn text_of(parts: Vec<Value>, param: &str) -> Parsed<String> {
    let text = |part: &Value| match (part.get("type").and_then(Value::as_str), part.get("text").and_then(Value::as_str))
    {
        (Some("text"), Some(text)) => Ok(text.to_owned()),
        _ => Err(OpenAiError::invalid(param, "only parts of type text are supported")),
    };
    parts.iter().map(text).collect()
}

fn prompt(fields: &mut Map<String, Value>) -> Parsed<String> {
    let one = "prompt must be a string that is not empty, or a list of one";
    let text = match fields.remove("prompt") {
        Some(Value::String(text)) => text,
        Some(Value::Array(mut list)) if list.len() == 1 => match list.pop() {
            Some(Value::String(text)) => text,
            _ => return Err(OpenAiError::invalid("prompt", one)),
        },
        Some(_) => return Err(OpenAiError::invalid("prompt", one)),
        None => return Err(missing("prompt")),
    };
    if text.is_empty() { Err(OpenAiError::invalid("prompt", one)) } else { Ok(text) }
}

fn max_tokens(fields: &mut Map<String, Value>, endpoint: Endpoint, most: u32) -> Parsed<u32> {
    let mut asked = take_integer(fields, "max_tokens")?.map(|tokens| ("max_tokens", tokens));
    if endpoint == Endpoint::ChatCompletions {
        // The newer name wins, as with OpenAI.
        asked =
            take_integer(fields, "max_completion_tokens")?.map(|tokens| ("max_completion_tokens", tokens)).or(asked);
    }
    let Some((field, tokens)) = asked else { return Ok(most) };
    match u32::try_from(tokens) {
        Ok(tokens) if (1..=most).contains(&tokens) => Ok(tokens),
        _ => Err(OpenAiError::invalid(field, format!("{field} must be 1 to {most} on this gateway"))),
    }
}

fn stop(fields: &mut Map<String, Value>) -> Parsed<Vec<String>> {
    let wrong = || OpenAiError::invalid("stop", "stop must be a string or a list of strings");
    match fields.remove("stop") {
        None => Ok(Vec::new()),
        Some(Value::String(stop)) => Ok(vec![stop]),
        Some(Value::Array(list)) => {
            list.into_iter().map(|stop| stop.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

fn stream_options(fields: &mut Map<String, Value>, stream: bool) -> Parsed<bool> {
    let wrong = |message: &str| OpenAiError::invalid("stream_options", message.to_owned());
    match fields.remove("stream_options") {
        None => Ok(false),
        Some(_) if !stream => Err(wrong("stream_options needs stream: true")),
        Some(Value::Object(mut options)) => {
            let usage = take_flag(&mut options, "include_usage")?.unwrap_or(false);
            match options.keys().next() {
                Some(field) => Err(unsupported(&format!("stream_options.{field}"))),
                None => Ok(usage),
            }
        }
        Some(_) => Err(wrong("stream_options must be an object")),
    }
}

/// Removes what asks for nothing that is not done anyway.
fn neutral(fields: &mut Map<String, Value>, endpoint: Endpoint) -> Parsed<()> {
    let empty =
        |value: &Value| value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
    let zero = |value: &Value| value.as_f64() == Some(0.0);
    let one = |value: &Value| value.as_u64() == Some(1);
    let no = |value: &Value| value.as_bool() == Some(false);
    type Harmless<'a> = &'a dyn Fn(&Value) -> bool;
    let known: [(&str, Harmless<'_>); 14] = [
        ("n", &one),
        ("best_of", &one),
        ("echo", &no),
        ("suffix", &|value| value.as_str() == Some("")),
        ("logprobs", &|value| endpoint == Endpoint::ChatCompletions && no(value)),
        ("top_logprobs", &zero),
        ("frequency_penalty", &zero),
        ("presence_penalty", &zero),
        ("logit_bias", &empty),
        ("store", &no),
        ("user", &Value::is_string),
        ("metadata", &empty),
        ("service_tier", &|value| matches!(value.as_str(), Some("auto" | "default"))),
        ("response_format", &|value| value.get("type").and_then(Value::as_str) == Some("text")),
    ];
    for (field, is_neutral) in known {
        match fields.remove(field) {
            Some(value) if !is_neutral(&value) => return Err(unsupported(field)),
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn take_string(fields: &mut Map<String, Value>, field: &str) -> Parsed<Option<String>> {
    match fields.remove(field) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(OpenAiError::invalid(field, format!("{field} must be a string"))),
    }
}

fn take_flag(fields: &mut Map<String, Value>, field: &str) -> Parsed<Option<bool>> {
    match fields.remove(field) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(flag)),
        Some(_) => Err(OpenAiError::invalid(field, format!("{field} must be true or false"))),
    }
}

fn take_number(fields: &mut Map<String, Value>, field: &str) -> Parsed<Option<f32>> {
    match fields.remove(field).map(|value| value.as_f64()) {
        None => Ok(None),
        Some(Some(number)) => Ok(Some(number as f32)),
        Some(None) => Err(OpenAiError::invalid(field, format!("{field} must be a number"))),
    }
}

fn take_integer(fields: &mut Map<String, Value>, field: &str) -> Parsed<Option<i64>> {
    match fields.remove(field).map(|value| value.as_i64()) {
        None => Ok(None),
        Some(Some(number)) => Ok(Some(number)),
        Some(None) => Err(OpenAiError::invalid(field, format!("{field} must be an integer"))),
    }
}

pub(super) fn missing(field: &str) -> OpenAiError {
    OpenAiError::invalid(field, format!("{field} is missing"))
}

fn range(field: &str) -> OpenAiError {
    OpenAiError::invalid(field, format!("{field} is out of range"))
}

pub(super) fn unsupported(field: &str) -> OpenAiError {
    let field: String = field.chars().take(100).collect();
    OpenAiError::invalid(&field, format!("{field} is not supported by this gateway, or not with that value"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chat(extra: Value) -> Parsed<OpenAiRequest> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        parse(body.to_string().as_bytes(), Endpoint::ChatCompletions, 100)
    }

    #[test]
    fn what_clients_send_by_default_is_understood() {
        let request = chat(json!({"n": 1, "stop": null, "user": "u", "frequency_penalty": 0, "seed": -1})).unwrap();
        assert_eq!((request.model.as_str(), request.line.max_tokens, request.stream), ("m", 100, false));
        assert_eq!(request.line.seed, u64::MAX);
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (field, value) in [
            ("n", json!(2)),
            ("tools", json!([{}])),
            ("logprobs", json!(true)),
            ("frequency_penalty", json!(0.5)),
            ("no_such_field", json!(1)),
            ("response_format", json!({"type": "json_object"})),
            ("temperature", json!(3)),
            ("top_p", json!(0)),
            ("max_tokens", json!(101)),
            ("max_tokens", json!("9")),
            ("stop", json!([1])),
            ("stop", json!("")),
            ("stream_options", json!({"include_usage": true})),
        ] {
            let error = chat(json!({ field: value })).unwrap_err();
            assert_eq!((error.status.as_u16(), error.body.param.as_deref()), (400, Some(field)), "{field}");
        }
    }

    #[test]
    fn messages_may_have_text_parts_and_nothing_else() {
        let parts =
            json!([{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]);
        let request = chat(json!({ "messages": parts })).unwrap();
        assert_eq!(request.line.messages, [Message { role: "system".into(), content: "ab".into() }]);
        let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]);
        assert_eq!(chat(json!({ "messages": image })).unwrap_err().body.param.as_deref(), Some("messages[0].content"));
        let tool = json!([{"role": "user", "content": "x", "tool_call_id": "1"}]);
        assert_eq!(
            chat(json!({ "messages": tool })).unwrap_err().body.param.as_deref(),
            Some("messages[0].tool_call_id")
        );
        assert_eq!(chat(json!({ "messages": [] })).unwrap_err().body.param.as_deref(), Some("messages"));
    }

    #[test]
    fn a_completion_has_one_prompt() {
        let completion = |prompt: Value| {
            parse(json!({"model": "m", "prompt": prompt}).to_string().as_bytes(), Endpoint::Completions, 9)
        };
        assert_eq!(completion(json!("once")).unwrap().line.prompt, "once");
        assert_eq!(completion(json!(["once"])).unwrap().line.prompt, "once");
        for bad in [json!(["a", "b"]), json!([1, 2]), json!("")] {
            assert_eq!(completion(bad).unwrap_err().body.param.as_deref(), Some("prompt"));
        }
    }
}
