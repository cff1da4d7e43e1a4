//! Conversations that speak of tools, for the templates that know of them.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value as Shown};
use serde::Serialize;
use serde_json::{Map, Value, ser::Formatter};

use super::chat::{ChatTemplate, Conversation, check, guard, protect};
use super::{PromptError, Tokenizer};

impl ChatTemplate {
    /// As [`render`](Self::render): `messages` are objects with `role`, `content` and where it applies `tool_calls`; `tools` are OpenAI's
    /// definitions. Names of control tokens stay text wherever they stand.
    pub fn render_tools(
        &self,
        messages: &[Value],
        tools: &[Value],
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, PromptError> {
        let texts: Vec<String> = messages.iter().chain(tools).map(Value::to_string).collect();
        let roles = messages.iter().map(|message| message.get("role").and_then(Value::as_str).unwrap_or_default());
        check(roles, texts.iter().map(String::len).sum(), tokenizer)?;
        let guard = guard(|guard| texts.iter().any(|text| text.contains(guard)))?;
        let guarded = |values: &[Value]| {
            values.iter().map(|value| shown(value, &|text| protect(text, tokenizer, guard))).collect::<Shown>()
        };
        let conversation = Conversation {
            messages: guarded(messages),
            tools: if tools.is_empty() { Shown::UNDEFINED } else { guarded(tools) },
            items: texts.len(),
            guard,
        };
        self.run(conversation, tokenizer)
    }
}

/// A value as templates see it, with every text in it, names of fields too, as `text` makes it.
fn shown(value: &Value, text: &dyn Fn(&str) -> String) -> Shown {
    match value {
        Value::Null => Shown::from(()),
        Value::Bool(flag) => Shown::from(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => Shown::from(whole),
            None => Shown::from(number.as_f64().unwrap_or_default()),
        },
        Value::String(string) => Shown::from(text(string)),
        Value::Array(list) => list.iter().map(|value| shown(value, text)).collect(),
        Value::Object(map) => Shown::from_pairs(map.iter().map(|(name, value)| (text(name), shown(value, text)))),
    }
}

/// The way back, for what a template makes of it.
fn json_of(value: &Shown) -> Result<Value, Error> {
    Ok(match value.kind() {
        ValueKind::Undefined | ValueKind::None => Value::Null,
        ValueKind::Bool => value.is_true().into(),
        ValueKind::Number => match value.as_i64().filter(|_| value.is_integer()) {
            Some(whole) => whole.into(),
            None => f64::try_from(value.clone())?.into(),
        },
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter()?.map(|item| json_of(&item)).collect::<Result<Value, Error>>()?
        }
        ValueKind::Map => {
            let field = |name: Shown| Ok((name.to_string(), json_of(&value.get_item(&name)?)?));
            Value::Object(value.try_iter()?.map(field).collect::<Result<Map<_, _>, Error>>()?)
        }
        _ => value.to_string().into(),
    })
}

/// `tojson` as Hugging Face has it for templates: Python's spaces, and nothing escaped for HTML. minijinja's own does the latter.
pub(super) fn to_json(value: &Shown, options: Kwargs) -> Result<String, Error> {
    let failed = |error: serde_json::Error| Error::new(ErrorKind::BadSerialization, error.to_string());
    let indent: Option<usize> = options.get("indent")?;
    // Characters are never escaped here, and keys have the order that they have.
    let _: (Option<bool>, Option<bool>) = (options.get("ensure_ascii")?, options.get("sort_keys")?);
    options.assert_all_used()?;
    let value = json_of(value)?;
    let mut text = Vec::new();
    match indent {
        Some(width) => {
            let indent = vec![b' '; width.min(16)];
            let format = serde_json::ser::PrettyFormatter::with_indent(&indent);
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, format)).map_err(failed)?;
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, Spaced)).map_err(failed)?,
    }
    String::from_utf8(text).map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// `{"a": 1, "b": [2, 3]}`
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, writer: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, writer: &mut W) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use minijinja::{Environment, context};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_template_takes_tools_when_it_shows_them() {
        let takes = |template: &str| ChatTemplate::new(template).unwrap().takes_tools();
        assert!(takes("{% if tools %}{{ tools | tojson }}{% endif %}{{ messages[0].content }}"));
        assert!(takes("{% if not tools is defined %}{% set tools = none %}{% endif %}{{ tools }}"));
        assert!(!takes("{% for message in messages %}{{ message.content }}{% endfor %}"));
    }

    #[test]
    fn json_in_a_template_reads_as_python_writes_it() {
        let mut environment = Environment::new();
        environment.add_filter("tojson", to_json);
        let tool = json!({"name": "add", "parameters": {"a": [1, true, null, "<é>"]}});
        let tool = shown(&tool, &str::to_owned);
        let text = environment.render_str("{{ tool | tojson }}", context! { tool }).unwrap();
        assert_eq!(text, r#"{"name": "add", "parameters": {"a": [1, true, null, "<é>"]}}"#);
        let indented = environment.render_str("{{ [1] | tojson(indent=2) }}", context! {}).unwrap();
        assert_eq!(indented, "[\n  1\n]");
    }

    #[test]
    fn every_text_of_a_tool_can_be_guarded() {
        let tool = json!({"a<b": ["<", {"c": "d<"}], "n": 1.5});
        let guarded = shown(&tool, &|text| text.replace('<', "(<)"));
        assert_eq!(json_of(&guarded).unwrap(), json!({"a(<)b": ["(<)", {"c": "d(<)"}], "n": 1.5}));
    }
}
