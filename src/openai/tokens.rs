//! `/tokenize` and `/detokenize`, in the form of vLLM's.

use serde_json::Value;

use super::{
    Message, OpenAiError, Parsed, Prompt,
    fields::Fields,
    messages::{self, ToolUse},
};

/// Most token ids of one request.
const MAX_IDS: usize = 1 << 18;

/// What `/tokenize` is asked: the tokens of a text, or of a conversation under the model's template.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizeRequest {
    pub model: Option<String>,
    pub prompt: Prompt,
}

impl TokenizeRequest {
    pub fn parse(body: &[u8]) -> Parsed<Self> {
        let mut fields = Fields::of_body(body)?;
        let model = fields.string("model")?;
        let text = fields.string("prompt")?;
        let prompt = match text {
            Some(text) => Prompt::Text(text),
            None => Prompt::Chat(conversation(&mut fields)?),
        };
        fields.finish()?;
        Ok(TokenizeRequest { model, prompt })
    }
}

fn conversation(fields: &mut Fields) -> Parsed<Vec<Message>> {
    let found = messages::messages(fields, ToolUse::NotOffered);
    let neither = "either prompt or messages is needed";
    found.map_err(|error| match error.body.param.as_deref() {
        Some("messages") => OpenAiError::invalid("prompt", neither),
        _ => error,
    })
}

/// What `/detokenize` is asked: the text of token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetokenizeRequest {
    pub model: Option<String>,
    pub tokens: Vec<u32>,
}

impl DetokenizeRequest {
    pub fn parse(body: &[u8]) -> Parsed<Self> {
        let mut fields = Fields::of_body(body)?;
        let model = fields.string("model")?;
        let must = format!("a list of at most {MAX_IDS} token ids");
        let tokens = match fields.take("tokens") {
            Some(Value::Array(list)) if list.len() <= MAX_IDS => {
                let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
                list.iter().map(id).collect::<Option<_>>().ok_or_else(|| fields.invalid("tokens", &must))?
            }
            Some(_) => return Err(fields.invalid("tokens", must)),
            None => return Err(fields.missing("tokens")),
        };
        fields.finish()?;
        Ok(DetokenizeRequest { model, tokens })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_or_a_conversation_is_tokenized() {
        let read = |body: Value| TokenizeRequest::parse(body.to_string().as_bytes());
        assert_eq!(read(json!({"prompt": "x"})).unwrap().prompt, Prompt::Text("x".into()));
        let chat = read(json!({"model": "m", "messages": [{"role": "user", "content": "x"}]})).unwrap();
        assert!(matches!(chat.prompt, Prompt::Chat(messages) if messages.len() == 1));
        for (body, param) in [
            (json!({}), "prompt"),
            (json!({"prompt": 1}), "prompt"),
            (json!({"prompt": "x", "messages": []}), "messages"),
            (json!({"messages": [{"role": "x", "content": ""}]}), "messages[0].role"),
            (json!({"prompt": "x", "add_special_tokens": true}), "add_special_tokens"),
        ] {
            assert_eq!(read(body).unwrap_err().body.param.as_deref(), Some(param));
        }
    }

    #[test]
    fn ids_are_whole_numbers() {
        let read = |tokens: Value| DetokenizeRequest::parse(json!({ "tokens": tokens }).to_string().as_bytes());
        assert_eq!(read(json!([1, 2])).unwrap().tokens, [1, 2]);
        for bad in [json!(["1"]), json!([-1]), json!([1.5]), json!([u64::MAX]), json!("1")] {
            assert_eq!(read(bad).unwrap_err().body.param.as_deref(), Some("tokens"));
        }
    }
}
