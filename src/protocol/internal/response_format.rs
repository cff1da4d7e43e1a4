//! The form that an answer must have, on its way to a worker.

use serde::{Deserialize, Serialize};

/// `response_format` of OpenAI's API. JSON has it as `"jsonObject"` or `{"jsonSchema": "…"}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ResponseFormat {
    /// Any text.
    #[default]
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that fits this JSON Schema. It is itself JSON text, at most 64 KiB: the order of its properties is that of the answer's, and
    /// receipts have its hash.
    JsonSchema(String),
}

impl ResponseFormat {
    pub fn is_text(&self) -> bool {
        *self == ResponseFormat::Text
    }

    /// `form` and `json_schema` of `wire::Sampling`.
    pub(super) fn to_wire(&self) -> (u32, String) {
        match self {
            ResponseFormat::Text => (0, String::new()),
            ResponseFormat::JsonObject => (1, String::new()),
            ResponseFormat::JsonSchema(schema) => (2, schema.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{
        fields::{RequestField, RequestFields},
        internal::InputLine,
    };

    fn line(format: ResponseFormat) -> InputLine {
        InputLine { response_format: format, ..InputLine::blank(0, "a".into()) }
    }

    #[test]
    fn a_form_survives_its_way_and_is_asked_of_those_who_know_it() {
        let schema = r#"{"type":"object","properties":{"b":{},"a":{}}}"#;
        for (format, form, json_schema) in
            [(ResponseFormat::JsonObject, 1, ""), (ResponseFormat::JsonSchema(schema.into()), 2, schema)]
        {
            let line = line(format);
            let written = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<InputLine>(&written).unwrap(), line);
            assert_eq!((line.sampling().form, line.sampling().json_schema.as_str()), (form, json_schema));
            assert_eq!(line.fields(), [RequestField::ResponseFormat].into_iter().collect());
        }
    }

    #[test]
    fn a_line_without_a_form_is_the_same_bytes_as_before_there_were_any() {
        let plain = line(ResponseFormat::Text);
        assert_eq!(serde_json::to_value(&plain).unwrap().get("responseFormat"), None);
        assert_eq!(plain.fields(), RequestFields::NONE);
        assert_eq!((plain.sampling().form, plain.sampling().json_schema.as_str()), (0, ""));
    }
}
