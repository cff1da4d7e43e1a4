//! Bodies of answers, whole or in pieces.

use serde_json::{Map, Value, json};

use super::logprobs::{of_chat, of_completion};
use crate::protocol::{internal::Endpoint, logprobs::TokenLogprob};

/// What stays the same in every object of one answer.
#[derive(Debug, Clone)]
pub struct Shape {
    endpoint: Endpoint,
    model: String,
    include_usage: bool,
    created: u64,
    id: String,
}

/// Tokens of one request, over all its choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    pub prompt_tokens: u32,
    pub completion_tokens: u32,
    /// Prompt tokens that had been computed for an earlier request; `None`: not known here.
    pub cached_tokens: Option<u32>,
}

/// A call of a tool in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub id: String,
    pub name: String,
    /// JSON text.
    pub arguments: String,
}

/// One whole answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Choice {
    pub index: u32,
    pub text: String,
    pub finish_reason: String,
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// Calls of tools, instead of or after the text.
    pub calls: Vec<Call>,
}

/// A piece of one answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Piece<'a> {
    pub index: u32,
    /// Whether it is the first of its answer.
    pub first: bool,
    pub text: Option<&'a str>,
    pub logprobs: Option<&'a [TokenLogprob]>,
    /// Characters of the answer before this piece.
    pub offset: usize,
    pub calls: &'a [Call],
    /// Set in the last piece.
    pub finish_reason: Option<&'a str>,
}

impl Shape {
    /// `created`: unix seconds. `id`: unique, without the prefix that tells what it is.
    pub fn new(endpoint: Endpoint, model: &str, id: &str, include_usage: bool, created: u64) -> Self {
        let prefix = if endpoint == Endpoint::ChatCompletions { "chatcmpl" } else { "cmpl" };
        Shape { endpoint, model: model.to_owned(), include_usage, created, id: format!("{prefix}-{id}") }
    }

    /// The whole answer.
    pub fn whole(&self, choices: &[Choice], usage: Usage) -> Value {
        let choices = choices.iter().map(|choice| match self.is_chat() {
            true => whole_chat(choice),
            false => json!({
                "index": choice.index,
                "text": choice.text,
                "logprobs": choice.logprobs.as_deref().map(|tokens| of_completion(tokens, 0)),
                "finish_reason": choice.finish_reason,
            }),
        });
        let mut object = self.object(false, choices.collect());
        object["usage"] = usage.body();
        object
    }

    /// A piece of one answer.
    pub fn piece(&self, piece: &Piece<'_>) -> Value {
        let choice = match self.is_chat() {
            true => piece_of_chat(piece),
            false => json!({
                "index": piece.index,
                "text": piece.text.unwrap_or_default(),
                "logprobs": piece.logprobs.map(|tokens| of_completion(tokens, piece.offset)),
                "finish_reason": piece.finish_reason,
            }),
        };
        let mut object = self.object(true, json!([choice]));
        if self.include_usage {
            object["usage"] = Value::Null;
        }
        object
    }

    /// The object after the last piece, where the request asked for it.
    pub fn usage_piece(&self, usage: Usage) -> Option<Value> {
        let mut object = self.object(true, json!([]));
        object["usage"] = usage.body();
        self.include_usage.then_some(object)
    }

    fn is_chat(&self) -> bool {
        self.endpoint == Endpoint::ChatCompletions
    }

    fn object(&self, chunk: bool, choices: Value) -> Value {
        let object = match (self.is_chat(), chunk) {
            (true, true) => "chat.completion.chunk",
            (true, false) => "chat.completion",
            (false, _) => "text_completion",
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }
}

fn whole_chat(choice: &Choice) -> Value {
    let content = if choice.calls.is_empty() || !choice.text.is_empty() { json!(choice.text) } else { Value::Null };
    let mut message = json!({"role": "assistant", "content": content, "refusal": null});
    if !choice.calls.is_empty() {
        message["tool_calls"] = choice.calls.iter().map(Call::body).collect();
    }
    json!({
        "index": choice.index,
        "message": message,
        "logprobs": choice.logprobs.as_deref().map(of_chat),
        "finish_reason": choice.finish_reason,
    })
}

fn piece_of_chat(piece: &Piece<'_>) -> Value {
    let mut delta = Map::new();
    if piece.first {
        delta.insert("role".into(), json!("assistant"));
    }
    if let Some(text) = piece.text {
        delta.insert("content".into(), json!(text));
    }
    if !piece.calls.is_empty() {
        let numbered = piece.calls.iter().enumerate().map(|(index, call)| {
            let mut body = call.body();
            body["index"] = json!(index);
            body
        });
        delta.insert("tool_calls".into(), numbered.collect());
    }
    json!({
        "index": piece.index,
        "delta": delta,
        "logprobs": piece.logprobs.map(of_chat),
        "finish_reason": piece.finish_reason,
    })
}

impl Call {
    fn body(&self) -> Value {
        json!({"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}})
    }
}

impl Usage {
    fn body(self) -> Value {
        let Usage { prompt_tokens, completion_tokens, cached_tokens } = self;
        let total = u64::from(prompt_tokens) + u64::from(completion_tokens);
        let mut body = json!({
            "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total,
        });
        if let Some(cached) = cached_tokens {
            body["prompt_tokens_details"] = json!({ "cached_tokens": cached });
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_only_calls_tools_has_no_content() {
        let shape = Shape::new(Endpoint::ChatCompletions, "m", "1", false, 7);
        let call = Call { id: "call_1".into(), name: "add".into(), arguments: "{}".into() };
        let choice = Choice { finish_reason: "tool_calls".into(), calls: vec![call], ..Choice::default() };
        let body = shape.whole(&[choice], Usage::default());
        assert_eq!((body["id"].as_str(), body["object"].as_str()), (Some("chatcmpl-1"), Some("chat.completion")));
        let message = &body["choices"][0]["message"];
        assert_eq!((&message["content"], &message["tool_calls"][0]["function"]["name"]), (&Value::Null, &json!("add")));
    }

    #[test]
    fn pieces_say_the_role_once_and_usage_where_it_was_asked_for() {
        let shape = Shape::new(Endpoint::ChatCompletions, "m", "1", true, 7);
        let first = shape.piece(&Piece { first: true, text: Some("a"), ..Piece::default() });
        assert_eq!(first["choices"][0]["delta"], json!({"role": "assistant", "content": "a"}));
        assert_eq!(first["usage"], Value::Null);
        let last = shape.piece(&Piece { index: 2, finish_reason: Some("stop"), ..Piece::default() });
        assert_eq!(last["choices"][0], json!({"index": 2, "delta": {}, "logprobs": null, "finish_reason": "stop"}));
        let usage = Usage { prompt_tokens: 2, completion_tokens: 3, cached_tokens: Some(1) };
        let wanted = json!({
            "prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1},
        });
        assert_eq!(shape.usage_piece(usage).unwrap()["usage"], wanted);
        assert_eq!(Shape::new(Endpoint::Completions, "m", "1", false, 7).usage_piece(usage), None);
    }
}
