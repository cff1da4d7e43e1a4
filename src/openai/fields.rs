//! The fields of a JSON object, taken out one by one: what is left at the end was not understood and is refused by name, so that
//! nobody gets an answer to another question than the one they asked.

use serde_json::{Map, Value};

use super::{OpenAiError, Parsed};

/// Fields of an object that are set; OpenAI's clients send null for what is not.
pub(super) struct Fields {
    fields: Map<String, Value>,
    /// Put before a field's name in errors: `messages[0].`, say.
    path: String,
}

impl Fields {
    /// Reads a body, which must be an object.
    pub(super) fn of_body(body: &[u8]) -> Parsed<Self> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| OpenAiError::unreadable(format!("the body is not JSON: {error}")))?;
        match value {
            Value::Object(fields) => Ok(Self::new(fields, String::new())),
            _ => Err(OpenAiError::unreadable("the body is not a JSON object")),
        }
    }

    /// Reads an object inside of a body. `name`: how errors call it.
    pub(super) fn of(value: Value, name: &str) -> Parsed<Self> {
        match value {
            Value::Object(fields) => Ok(Self::new(fields, format!("{name}."))),
            _ => Err(OpenAiError::invalid(name, format!("{name} must be an object"))),
        }
    }

    fn new(mut fields: Map<String, Value>, path: String) -> Self {
        fields.retain(|_, value| !value.is_null());
        Fields { fields, path }
    }

    /// A field's name as errors write it.
    pub(super) fn name(&self, field: &str) -> String {
        format!("{}{field}", self.path)
    }

    pub(super) fn invalid(&self, field: &str, must: impl std::fmt::Display) -> OpenAiError {
        let name = self.name(field);
        OpenAiError::invalid(&name, format!("{name} must be {must}"))
    }

    pub(super) fn missing(&self, field: &str) -> OpenAiError {
        OpenAiError::missing(&self.name(field))
    }

    pub(super) fn take(&mut self, field: &str) -> Option<Value> {
        self.fields.remove(field)
    }

    pub(super) fn string(&mut self, field: &str) -> Parsed<Option<String>> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.invalid(field, "a string")),
        }
    }

    pub(super) fn flag(&mut self, field: &str) -> Parsed<Option<bool>> {
        match self.take(field) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(self.invalid(field, "true or false")),
        }
    }

    /// A number from `least` to `most`.
    pub(super) fn number(&mut self, field: &str, least: f64, most: f64) -> Parsed<Option<f32>> {
        let Some(value) = self.take(field) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number as f32)),
            _ => Err(self.invalid(field, format!("a number from {least} to {most}"))),
        }
    }

    /// A whole number from `least` to `most`.
    pub(super) fn integer(&mut self, field: &str, least: i64, most: i64) -> Parsed<Option<i64>> {
        let Some(value) = self.take(field) else { return Ok(None) };
        match whole(&value) {
            Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ if least == most => Err(self.invalid(field, least)),
            _ => Err(self.invalid(field, format!("a whole number from {least} to {most}"))),
        }
    }

    /// Takes a field that only its neutral form is taken of.
    pub(super) fn neutral(&mut self, field: &str, is_neutral: impl Fn(&Value) -> bool) -> Parsed<()> {
        match self.take(field) {
            Some(value) if !is_neutral(&value) => Err(OpenAiError::unsupported(&self.name(field))),
            _ => Ok(()),
        }
    }

    /// Nothing may be left.
    pub(super) fn finish(self) -> Parsed<()> {
        match self.fields.keys().next() {
            Some(field) => Err(OpenAiError::unsupported(&self.name(field))),
            None => Ok(()),
        }
    }
}

/// 3 and 3.0: JSON does not tell them apart.
fn whole(value: &Value) -> Option<i64> {
    let exact = |number: f64| (number.fract() == 0.0 && number.abs() < 9.0e15).then_some(number as i64);
    value.as_i64().or_else(|| value.as_f64().and_then(exact))
}
