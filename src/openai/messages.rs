//! The conversation of a chat request, and the tools that its answer may call.

use serde_json::Value;

use super::{OpenAiError, Parsed, fields::Fields};

const MAX_MESSAGES: usize = 1024;
const MAX_TOOLS: usize = 128;
/// Calls of one assistant message.
const MAX_CALLS: usize = 64;
/// Bytes of a tool's name, as with OpenAI.
const MAX_NAME: usize = 64;

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// system, user, assistant or tool.
    pub role: String,
    pub content: String,
    /// What the assistant called.
    pub tool_calls: Vec<ToolCall>,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    pub name: String,
    /// An object.
    pub arguments: Value,
}

/// Tools that a request offers, as they were sent; their form is checked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tools {
    pub definitions: Vec<Value>,
    pub names: Vec<String>,
}

/// Whether messages and requests may speak of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolUse {
    Offered,
    NotOffered,
}

pub(super) fn messages(fields: &mut Fields, tools: ToolUse) -> Parsed<Vec<Message>> {
    match fields.take("messages") {
        Some(Value::Array(list)) if (1..=MAX_MESSAGES).contains(&list.len()) => {
            let name = fields.name("messages");
            let numbered = list.into_iter().enumerate();
            numbered.map(|(index, value)| message(&format!("{name}[{index}]"), value, tools)).collect()
        }
        Some(_) => Err(fields.invalid("messages", format!("a list of 1 to {MAX_MESSAGES}"))),
        None => Err(fields.missing("messages")),
    }
}

fn message(name: &str, value: Value, tools: ToolUse) -> Parsed<Message> {
    let mut fields = Fields::of(value, name)?;
    let role = match (fields.string("role")?.ok_or_else(|| fields.missing("role"))?.as_str(), tools) {
        ("system" | "developer", _) => "system",
        ("user", _) => "user",
        ("assistant", _) => "assistant",
        ("tool", ToolUse::Offered) => "tool",
        (_, ToolUse::Offered) => return Err(fields.invalid("role", "system, developer, user, assistant or tool")),
        (_, ToolUse::NotOffered) => return Err(fields.invalid("role", "system, developer, user or assistant")),
    };
    let tool_calls = match (role, tools) {
        ("assistant", ToolUse::Offered) => tool_calls(&mut fields)?,
        _ => Vec::new(),
    };
    if role == "tool" {
        // Templates go by the order of messages; the id says nothing that they show.
        fields.string("tool_call_id")?.ok_or_else(|| fields.missing("tool_call_id"))?;
    }
    let content = match fields.take("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => text_of(parts, &fields.name("content"))?,
        None if !tool_calls.is_empty() => String::new(),
        _ => return Err(fields.invalid("content", "a string or a list of text parts")),
    };
    fields.finish()?;
    Ok(Message { role: role.to_owned(), content, tool_calls })
}

fn text_of(parts: Vec<Value>, name: &str) -> Parsed<String> {
    let text = |(index, part): (usize, Value)| {
        let mut part = Fields::of(part, &format!("{name}[{index}]"))?;
        match part.string("type")?.as_deref() {
            Some("text") => {}
            _ => return Err(part.invalid("type", "text: this server reads nothing else")),
        }
        let text = part.string("text")?.ok_or_else(|| part.missing("text"))?;
        part.finish()?;
        Ok(text)
    };
    parts.into_iter().enumerate().map(text).collect()
}

fn tool_calls(fields: &mut Fields) -> Parsed<Vec<ToolCall>> {
    let wrong = |fields: &Fields| fields.invalid("tool_calls", format!("a list of at most {MAX_CALLS} function calls"));
    match fields.take("tool_calls") {
        None => Ok(Vec::new()),
        Some(Value::Array(calls)) if calls.len() <= MAX_CALLS => {
            calls.iter().map(|call| tool_call(call).ok_or_else(|| wrong(fields))).collect()
        }
        Some(_) => Err(wrong(fields)),
    }
}

fn tool_call(call: &Value) -> Option<ToolCall> {
    let function = call.get("function")?;
    let arguments: Value = serde_json::from_str(function.get("arguments")?.as_str()?).ok()?;
    let name = function.get("name")?.as_str()?;
    arguments.is_object().then(|| ToolCall { name: name.to_owned(), arguments })
}

/// `tools`, `tool_choice` and `parallel_tool_calls`.
pub(super) fn tools(fields: &mut Fields, offered: ToolUse) -> Parsed<Tools> {
    let wrong = |fields: &Fields| {
        let what =
            format!("a list of at most {MAX_TOOLS} tools of type function, each with a name of a-z, A-Z, 0-9, _ and -");
        fields.invalid("tools", what)
    };
    let list = match fields.take("tools") {
        None => Vec::new(),
        Some(Value::Array(list)) if list.is_empty() => list,
        Some(_) if offered == ToolUse::NotOffered => return Err(OpenAiError::unsupported(&fields.name("tools"))),
        Some(Value::Array(list)) if list.len() <= MAX_TOOLS => list,
        Some(_) => return Err(wrong(fields)),
    };
    let names: Vec<String> = list.iter().map(tool_name).collect::<Option<_>>().ok_or_else(|| wrong(fields))?;
    fields.neutral("parallel_tool_calls", Value::is_boolean)?;
    match fields.string("tool_choice")?.as_deref() {
        None | Some("auto") => Ok(Tools { definitions: list, names }),
        Some("none") => Ok(Tools::default()),
        Some(_) => Err(fields.invalid("tool_choice", "auto or none: this server forces no call")),
    }
}

fn tool_name(tool: &Value) -> Option<String> {
    let name = tool.get("function")?.get("name")?.as_str()?;
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let sound = tool.get("type")?.as_str()? == "function" && (1..=MAX_NAME).contains(&name.len()) && plain;
    sound.then(|| name.to_owned())
}
