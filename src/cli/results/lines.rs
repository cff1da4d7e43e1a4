//! Lines of results.jsonl and errors.jsonl (OpenAI batch output), as far as a person wants to see them.

use serde_json::Value;

/// One answered or failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerLine {
    pub custom_id: String,
    /// The answer's text, or what went wrong.
    pub text: String,
    /// `stop` or `length` for an answer; the reason code for a failure.
    pub ending: String,
    /// Tokens of the answer; 0 for a failure.
    pub output_tokens: u64,
}

/// Reads JSON lines; an unreadable line is named by its number.
pub fn read_lines(jsonl: &str) -> Result<Vec<Value>, String> {
    let lines = jsonl.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            serde_json::from_str(line).map_err(|error| format!("line {} is no JSON: {error}", index + 1))
        })
        .collect()
}

/// An answer line: `response.body` is a chat completion, a completion or a list of embeddings.
pub fn answer(line: &Value) -> AnswerLine {
    let body = line.pointer("/response/body").unwrap_or(&Value::Null);
    if let Some(data) = body.get("data").and_then(Value::as_array) {
        return AnswerLine {
            custom_id: text(line.get("custom_id")),
            text: embeddings(data),
            ending: "stop".into(),
            output_tokens: 0,
        };
    }
    let choice = body.pointer("/choices/0").unwrap_or(&Value::Null);
    let content = choice.pointer("/message/content").or_else(|| choice.get("text"));
    AnswerLine {
        custom_id: text(line.get("custom_id")),
        text: text(content),
        ending: text(choice.get("finish_reason")),
        output_tokens: body.pointer("/usage/completion_tokens").and_then(Value::as_u64).unwrap_or_default(),
    }
}

/// Nobody reads hundreds of numbers: how many there are, and the first of them.
fn embeddings(data: &[Value]) -> String {
    let first = data.first().and_then(|first| first.get("embedding"));
    let shown = match first.and_then(Value::as_array) {
        Some(numbers) => {
            let few: Vec<String> = numbers.iter().take(4).map(Value::to_string).collect();
            format!("{} numbers: {}, …", numbers.len(), few.join(", "))
        }
        None => "base64".to_owned(),
    };
    match data.len() {
        1 => format!("embedding of {shown}"),
        n => format!("{n} embeddings, the first of {shown}"),
    }
}

/// A failure line: `error.code` and `error.message`.
pub fn failure(line: &Value) -> AnswerLine {
    AnswerLine {
        custom_id: text(line.get("custom_id")),
        text: text(line.pointer("/error/message")),
        ending: text(line.pointer("/error/code")),
        output_tokens: 0,
    }
}

fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn chat_and_completion_lines_are_read() {
        let chat = json!({"custom_id": "a", "response": {"status_code": 200, "body": {
            "choices": [{"message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
            "usage": {"completion_tokens": 3}}}, "error": null});
        let expected =
            AnswerLine { custom_id: "a".into(), text: "Paris.".into(), ending: "stop".into(), output_tokens: 3 };
        assert_eq!(answer(&chat), expected);
        let completion =
            json!({"custom_id": "b", "response": {"body": {"choices": [{"text": "x", "finish_reason": "length"}]}}});
        assert_eq!((answer(&completion).text.as_str(), answer(&completion).ending.as_str()), ("x", "length"));
    }

    #[test]
    fn embeddings_are_counted_and_not_printed() {
        let line = |data: Value| json!({"custom_id": "a", "response": {"body": {"object": "list", "data": data}}});
        let numbers = json!([{"embedding": [0.5, 1.5, 2.5, 3.5, 4.5]}]);
        assert_eq!(answer(&line(numbers)).text, "embedding of 5 numbers: 0.5, 1.5, 2.5, 3.5, …");
        let packed = json!([{"embedding": "AACAPw=="}, {"embedding": "AACAPw=="}]);
        assert_eq!(answer(&line(packed)).text, "2 embeddings, the first of base64");
    }

    #[test]
    fn a_failure_line_says_why() {
        let line = json!({"custom_id": "a", "response": null, "error": {"code": "InvalidLine", "message": "not JSON"}});
        assert_eq!((failure(&line).ending.as_str(), failure(&line).text.as_str()), ("InvalidLine", "not JSON"));
    }

    #[test]
    fn a_broken_line_is_named_by_its_number() {
        assert!(read_lines("{}\n\n{").unwrap_err().starts_with("line 3 "));
    }
}
