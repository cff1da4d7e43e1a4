//! `--response-format`: the form of every answer, as `spec.workload.generation.responseFormat` says it. Pure.

use serde_json::{Value, json};

/// The word for any JSON object; everything else is the name of a file.
pub const ANY_OBJECT: &str = "json_object";
/// What an InferenceJob takes of a schema, in bytes.
const MAX_SCHEMA: usize = 16_384;

/// Any JSON object.
pub fn any_object() -> Value {
    json!({"jsonObject": {}})
}

/// JSON that fits a schema: without the spaces of its file, and with the properties in the order in which they stand there. The error says
/// what is wrong with the file.
pub fn of_schema(text: &str) -> Result<Value, String> {
    let schema: Value = serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?;
    if !schema.is_object() {
        return Err("must hold a JSON schema, which is an object".into());
    }
    let schema = schema.to_string();
    match schema.len() > MAX_SCHEMA {
        true => Err(format!("has {} bytes without its spaces, and a job takes {MAX_SCHEMA}: shorten it", schema.len())),
        false => Ok(json!({"jsonSchema": schema})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_keeps_the_order_of_its_properties_and_loses_its_spaces() {
        let made = of_schema("{\n  \"properties\": {\"zebra\": {}, \"ant\": {}}\n}\n").unwrap();
        assert_eq!(made, json!({"jsonSchema": r#"{"properties":{"zebra":{},"ant":{}}}"#}));
    }

    #[test]
    fn what_is_no_schema_is_refused_with_the_reason() {
        let large = json!({"description": "x".repeat(MAX_SCHEMA)}).to_string();
        for (text, says) in
            [("{", "not JSON"), ("", "not JSON"), ("[]", "an object"), ("\"text\"", "an object"), (&large, "16384")]
        {
            let refused = of_schema(text).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
    }
}
