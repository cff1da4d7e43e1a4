//! What a JSON Schema may be before any time is spent on compiling it. What the compiler bounds by itself (the size of the
//! grammar, the work for patterns) is not looked at here; these are the places where its work grows faster than its counts.

use serde_json::{Map, Value, json};

use super::FormError;
use xdc_grid_exact::sampler::TextForm;

/// JSON values inside one another.
const MAX_DEPTH: usize = 64;
/// Entries of all lists of alternatives together: alternatives are compared in pairs.
const MAX_OPTIONS: usize = 1_024;
/// Members of all `properties` together.
const MAX_PROPERTIES: usize = 1_024;
/// The same where `minProperties` or `maxProperties` occurs: each choice of them is spelled out.
const MAX_COUNTED_PROPERTIES: usize = 64;
/// Members of all `patternProperties` together: no two patterns may match the same name, which is costly to find out.
const MAX_NAME_PATTERNS: usize = 16;
/// `pattern`s together where some are joined (by `allOf`, or beside a `$ref`): a text that matches all of many has too many
/// states to find out whether there is one.
const MAX_JOINED_PATTERNS: usize = 16;
/// References: each may be followed from within another.
const MAX_REFERENCES: usize = 512;

/// The schema of a form.
pub(super) fn of(form: &TextForm) -> Result<Value, FormError> {
    let TextForm::JsonSchema(text) = form else { return Ok(json!({"type": "object"})) };
    let schema: Value = serde_json::from_str(text).map_err(|error| FormError::Schema(error.to_string()))?;
    if !schema.is_object() {
        return Err(FormError::Schema("it must be an object".into()));
    }
    let mut counts = Counts::default();
    counts.add(&schema, 1)?;
    counts.check()?;
    Ok(schema)
}

#[derive(Default)]
struct Counts {
    options: usize,
    properties: usize,
    name_patterns: usize,
    references: usize,
    patterns: usize,
    counts_properties: bool,
    joins_patterns: bool,
}

impl Counts {
    /// Counts in a value and all that is in it. Keywords are known by name wherever they stand, in a constant too.
    fn add(&mut self, value: &Value, depth: usize) -> Result<(), FormError> {
        if depth > MAX_DEPTH {
            return Err(FormError::Bounds { what: "levels", most: MAX_DEPTH });
        }
        match value {
            Value::Object(members) => {
                self.add_keywords(members);
                members.values().try_for_each(|value| self.add(value, depth + 1))
            }
            Value::Array(items) => items.iter().try_for_each(|value| self.add(value, depth + 1)),
            _ => Ok(()),
        }
    }

    fn add_keywords(&mut self, members: &Map<String, Value>) {
        self.joins_patterns |=
            members.contains_key("allOf") || (members.contains_key("$ref") && members.contains_key("pattern"));
        for (keyword, value) in members {
            match (keyword.as_str(), value) {
                ("enum" | "anyOf" | "oneOf" | "allOf" | "prefixItems" | "items" | "type", Value::Array(list)) => {
                    self.options += list.len();
                }
                ("properties", Value::Object(members)) => self.properties += members.len(),
                ("patternProperties", Value::Object(members)) => self.name_patterns += members.len(),
                ("$ref", _) => self.references += 1,
                ("pattern", Value::String(_)) => self.patterns += 1,
                ("minProperties" | "maxProperties", _) => self.counts_properties = true,
                _ => {}
            }
        }
    }

    fn check(&self) -> Result<(), FormError> {
        let (properties, most_properties) = match self.counts_properties {
            true => ("properties beside minProperties or maxProperties", MAX_COUNTED_PROPERTIES),
            false => ("properties", MAX_PROPERTIES),
        };
        let joined_patterns = if self.joins_patterns { self.patterns } else { 0 };
        let bounds = [
            (self.options, "alternatives (enum, anyOf and the like, all together)", MAX_OPTIONS),
            (self.properties, properties, most_properties),
            (self.name_patterns, "patternProperties", MAX_NAME_PATTERNS),
            (joined_patterns, "patterns beside allOf or $ref", MAX_JOINED_PATTERNS),
            (self.references, "references", MAX_REFERENCES),
        ];
        match bounds.into_iter().find(|(count, _, most)| count > most) {
            Some((_, what, most)) => Err(FormError::Bounds { what, most }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(schema: &Value) -> Result<Value, FormError> {
        of(&TextForm::JsonSchema(schema.to_string()))
    }

    fn nested(levels: usize) -> Value {
        (0..levels).fold(json!({}), |inner, _| json!({"items": inner}))
    }

    fn members(count: usize) -> Value {
        (0..count).map(|n| (format!("p{n}"), json!({}))).collect::<Map<_, _>>().into()
    }

    #[test]
    fn what_is_too_large_is_refused_and_says_what() {
        let many = |count: usize| (0..count).map(|n| json!(n)).collect::<Value>();
        let references: Vec<Value> = (0..513).map(|_| json!({"$ref": "#"})).collect();
        for (schema, what) in [
            (nested(64), "levels"),
            (json!({"enum": many(1_025)}), "alternatives"),
            (json!({"anyOf": [{"enum": many(600)}, {"enum": many(600)}]}), "alternatives"),
            (json!({"properties": members(1_025)}), "properties"),
            (json!({"properties": members(65), "maxProperties": 1}), "maxProperties"),
            (json!({"patternProperties": members(17)}), "patternProperties"),
            (json!({"prefixItems": references}), "references"),
            (json!({"allOf": vec![json!({"pattern": "a"}); 17]}), "patterns"),
        ] {
            let error = read(&schema).unwrap_err();
            assert!(matches!(error, FormError::Bounds { .. }) && error.to_string().contains(what), "{error}");
        }
        for schema in [nested(63), json!({"enum": many(1_024)}), json!({"properties": members(1_024)})] {
            assert_eq!(read(&schema), Ok(schema));
        }
    }

    #[test]
    fn a_schema_is_an_object_and_keeps_its_order() {
        for text in ["", "{", "true", "[]"] {
            assert!(matches!(of(&TextForm::JsonSchema(text.into())), Err(FormError::Schema(_))), "{text}");
        }
        let text = r#"{"properties":{"zebra":{},"ant":{},"mule":{}}}"#;
        assert_eq!(of(&TextForm::JsonSchema(text.into())).unwrap().to_string(), text);
        assert_eq!(of(&TextForm::JsonObject), Ok(json!({"type": "object"})));
    }
}
