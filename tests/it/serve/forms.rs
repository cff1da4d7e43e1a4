//! Answers in a form.

use serde_json::{Value, json};

use super::{Serving, chat, events};

fn person(more: Value) -> Value {
    let schema = json!({
        "type": "object",
        "properties": {"name": {"enum": ["Ada", "Émile", "木"]}, "age": {"type": "integer", "minimum": 1, "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": false,
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "person", "strict": true, "schema": schema}});
    let mut body = chat("Make up a person.", json!({"response_format": format, "seed": 4, "max_tokens": 80}));
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test]
async fn every_answer_has_the_form_whole_and_in_pieces() {
    let s = Serving::start(&[]).await;
    let whole = s.ask("/v1/chat/completions", &person(json!({"n": 3, "logprobs": true}))).await;
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    for choice in choices {
        let value: Value = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
        assert!(["Ada", "Émile", "木"].contains(&value["name"].as_str().unwrap()), "{value}");
        assert!(value["age"].as_i64().is_some_and(|age| (1..=99).contains(&age)), "{value}");
        let fields: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!((fields, &choice["finish_reason"]), (vec!["name", "age"], &json!("stop")));
    }
    let (objects, done) = events(s.post("/v1/chat/completions", &person(json!({"stream": true}))).await).await;
    let text: String = objects.iter().filter_map(|o| o["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!((text.as_str(), done), (choices[0]["message"]["content"].as_str().unwrap(), true));
    let cut = s.ask("/v1/chat/completions", &person(json!({"max_tokens": 2}))).await;
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn what_is_no_form_is_refused_by_name() {
    let s = Serving::start(&[]).await;
    let schema = |schema: Value| json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    for (format, param, says) in [
        (schema(json!({"not": {}})), "response_format", "Unimplemented"),
        (schema(json!({"enum": vec![0; 2_000]})), "response_format", "1024"),
        (schema(json!({"type": "string", "pattern": "(?=a)b"})), "response_format", "compiled"),
        (json!({"type": "json_object", "schema": {}}), "response_format.schema", "schema"),
        (
            json!({"type": "json_schema", "json_schema": {"schema": {}, "more": 1}}),
            "response_format.json_schema.more",
            "more",
        ),
        (json!({"type": "grammar"}), "response_format.type", "json_schema"),
    ] {
        let (status, error) = s.refused("/v1/chat/completions", &chat("x", json!({"response_format": format}))).await;
        assert_eq!((status, error["param"].as_str()), (400, Some(param)), "{error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    s.until("nothing runs", async || s.metric("vllm:num_requests_running").await == 0.0).await;
}
