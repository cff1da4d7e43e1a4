//! Calls of tools in what a model wrote, in the forms of the families that we run.
//!
//! - Qwen, SmolLM3 and the Hermes line: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, any number, text before them.
//! - Llama 3: the whole answer is `{"name": …, "parameters": {…}}`.
//! - Mistral: the whole answer is a list of `{"name": …, "arguments": {…}}` (its mark before the list is a control token, which has no text).
//!
//! Only tools that the request offered count: text that looks like a call of something else stays text.

use serde_json::Value;

use super::messages::{ToolCall, Tools};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
/// Calls of one answer.
const MAX_CALLS: usize = 64;

impl Tools {
    pub fn is_empty(&self) -> bool {
        self.definitions.is_empty()
    }

    /// Splits an answer into its text and the calls in it.
    pub fn calls_in(&self, answer: &str) -> (String, Vec<ToolCall>) {
        let found = if answer.contains(OPEN) { self.tagged(answer) } else { self.bare(answer) };
        found.unwrap_or_else(|| (answer.to_owned(), Vec::new()))
    }

    fn tagged(&self, answer: &str) -> Option<(String, Vec<ToolCall>)> {
        let (mut text, mut calls, mut rest) = (String::new(), Vec::new(), answer);
        while let Some((before, inside)) = rest.split_once(OPEN) {
            text.push_str(before);
            // A model that stops after the object leaves the mark open.
            let (body, after) = inside.split_once(CLOSE).unwrap_or((inside, ""));
            calls.push(self.call(&serde_json::from_str(body.trim()).ok()?)?);
            rest = after;
        }
        text.push_str(rest);
        (calls.len() <= MAX_CALLS).then(|| (text.trim().to_owned(), calls))
    }

    fn bare(&self, answer: &str) -> Option<(String, Vec<ToolCall>)> {
        let answer = answer.trim();
        if !answer.starts_with(['{', '[']) {
            return None;
        }
        let calls = match serde_json::from_str(answer).ok()? {
            Value::Array(list) if (1..=MAX_CALLS).contains(&list.len()) => {
                list.iter().map(|call| self.call(call)).collect::<Option<_>>()?
            }
            call @ Value::Object(_) => vec![self.call(&call)?],
            _ => return None,
        };
        Some((String::new(), calls))
    }

    fn call(&self, value: &Value) -> Option<ToolCall> {
        let name = value.get("name")?.as_str()?;
        let arguments = value.get("arguments").or_else(|| value.get("parameters"))?;
        let offered = self.names.iter().any(|offered| offered == name);
        (offered && arguments.is_object()).then(|| ToolCall { name: name.to_owned(), arguments: arguments.clone() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn tools() -> Tools {
        Tools { definitions: vec![json!({})], names: vec!["add".into(), "now".into()] }
    }

    fn call(name: &str, arguments: Value) -> ToolCall {
        ToolCall { name: name.into(), arguments }
    }

    #[test]
    fn calls_are_found_in_the_forms_of_the_families() {
        let add = call("add", json!({"a": 1}));
        for (answer, text, calls) in [
            ("<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>", "", vec![add.clone()]),
            (
                "Let me see.\n<tool_call>{\"name\":\"add\",\"arguments\":{\"a\":1}}</tool_call>\n<tool_call>{\"name\":\"now\",\"arguments\":{}}",
                "Let me see.",
                vec![add.clone(), call("now", json!({}))],
            ),
            ("{\"name\": \"add\", \"parameters\": {\"a\": 1}}", "", vec![add.clone()]),
            (" [{\"name\": \"add\", \"arguments\": {\"a\": 1}}]", "", vec![add]),
        ] {
            assert_eq!(tools().calls_in(answer), (text.to_owned(), calls), "{answer}");
        }
    }

    #[test]
    fn what_is_no_call_of_an_offered_tool_stays_text() {
        for answer in [
            "plain",
            "{\"name\": \"rm\", \"parameters\": {}}",
            "{\"name\": \"add\", \"parameters\": 3}",
            "<tool_call>{\"name\": \"add\"</tool_call>",
            "[]",
            "{}",
        ] {
            assert_eq!(tools().calls_in(answer), (answer.to_owned(), vec![]), "{answer}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_panics(answer in "(<tool_call>|</tool_call>|\\{|\\}|\\[|\"name\"|:|\"add\"|é|,| ){0,20}") {
            let _ = tools().calls_in(&answer);
        }
    }
}
