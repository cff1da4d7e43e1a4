//! The OpenAPI 3.1 description: `openapi.json` beside this file, with what this server knows of itself filled in.

use serde_json::{Value, json};

use super::service::Service;
use crate::openai::ToolUse;

/// As it is written, for any server.
pub(super) const DOCUMENT: &str = include_str!("openapi.json");

/// As this server is: the name of its model, its largest answer, what it offers. `None` never happens; a test reads the file.
pub(super) fn document(service: &Service) -> Option<Value> {
    let mut document: Value = serde_json::from_str(DOCUMENT).ok()?;
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    document["components"]["schemas"]["Model"]["enum"] = json!([service.model]);
    if let Some(engine) = service.engine() {
        let offer = service.offer(engine.as_ref());
        document["components"]["schemas"]["AnswerLength"]["maximum"] = json!(offer.most_tokens);
        document["components"]["schemas"]["Answers"]["maximum"] = json!(offer.most_choices);
        if offer.tools == ToolUse::NotOffered {
            without_tools(&mut document["components"]["schemas"]);
        }
        document["components"]["schemas"]["TokenId"]["maximum"] = json!(engine.info().vocab_size.saturating_sub(1));
    }
    Some(document)
}

fn without_tools(schemas: &mut Value) {
    schemas["ChatRequest"]["properties"]["messages"]["items"] = json!({"$ref": "#/components/schemas/PlainMessage"});
    if let Some(fields) = schemas["ChatRequest"]["properties"].as_object_mut() {
        fields.retain(|name, _| !matches!(name.as_str(), "tools" | "tool_choice" | "parallel_tool_calls"));
    }
    if let Some(schemas) = schemas.as_object_mut() {
        schemas.remove("Message");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_is_there() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        for schema in ["Model", "AnswerLength", "Answers", "TokenId"] {
            assert!(document["components"]["schemas"][schema].is_object(), "{schema}");
        }
    }
}
