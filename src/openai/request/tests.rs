//! What requests are taken, what is refused, and by which name.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const GRID: Offer = Offer { most_tokens: 100, most_choices: 1, tools: ToolUse::NotOffered, defaults: Defaults::OPENAI };
const FULL: Offer = Offer { most_tokens: 100, most_choices: 4, tools: ToolUse::Offered, defaults: Defaults::OPENAI };

fn parse(offer: &Offer, endpoint: Endpoint, extra: &Value) -> Parsed<TextRequest> {
    let mut body = match endpoint {
        Endpoint::ChatCompletions => json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}),
        _ => json!({"model": "m", "prompt": "hi"}),
    };
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    TextRequest::parse(body.to_string().as_bytes(), endpoint, offer)
}

fn chat(offer: &Offer, extra: Value) -> Parsed<TextRequest> {
    parse(offer, Endpoint::ChatCompletions, &extra)
}

fn refused(outcome: Parsed<TextRequest>) -> (u16, Option<String>) {
    let error = outcome.unwrap_err();
    (error.status.as_u16(), error.body.param)
}

#[test]
fn what_clients_send_by_default_is_understood() {
    let extra = json!({"n": 1, "stop": null, "user": "u", "frequency_penalty": 0, "seed": -1, "tools": []});
    for offer in [GRID, FULL] {
        let request = chat(&offer, extra.clone()).unwrap();
        assert_eq!((request.model.as_str(), request.max_tokens, request.stream), ("m", None, false));
        assert_eq!((request.seed, request.choices, request.user.as_deref()), (Some(u64::MAX), 1, Some("u")));
        assert_eq!(request.sampling, SamplerParams { temperature: 1.0, ..SamplerParams::GREEDY });
    }
}

#[test]
fn what_the_grid_does_not_offer_is_refused_by_name() {
    for (field, value) in [("n", json!(2)), ("tools", json!([{}]))] {
        assert_eq!(refused(chat(&GRID, json!({ field: value }))), (400, Some(field.to_owned())));
    }
}

#[test]
fn a_form_is_for_chats_and_its_shape_and_size_are_looked_at() {
    let schema = |schema: Value| json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    let large = json!({"type": "object", "description": "x".repeat(MAX_SCHEMA_BYTES)});
    for (format, param) in [
        (json!("json_object"), "response_format"),
        (json!({}), "response_format.type"),
        (json!({"type": "yaml"}), "response_format.type"),
        (json!({"type": "json_object", "schema": {}}), "response_format.schema"),
        (json!({"type": "json_schema"}), "response_format.json_schema"),
        (json!({"type": "json_schema", "json_schema": {"name": "x"}}), "response_format.json_schema.schema"),
        (json!({"type": "json_schema", "json_schema": {"name": 1, "schema": {}}}), "response_format.json_schema.name"),
        (schema(json!(true)), "response_format.json_schema.schema"),
        (schema(large), "response_format.json_schema.schema"),
    ] {
        for offer in [&GRID, &FULL] {
            assert_eq!(refused(chat(offer, json!({"response_format": format.clone()}))), (400, Some(param.to_owned())));
        }
    }
    let form = |format: Value| chat(&GRID, json!({ "response_format": format })).unwrap().sampling.form;
    assert_eq!(form(json!({"type": "text"})), TextForm::Free);
    assert_eq!(form(json!({"type": "json_object"})), TextForm::JsonObject);
    let ordered = r#"{"properties":{"zebra":{},"ant":{}}}"#;
    assert_eq!(form(schema(serde_json::from_str(ordered).unwrap())), TextForm::JsonSchema(ordered.into()));
    let completion = parse(&GRID, Endpoint::Completions, &json!({"response_format": {"type": "json_object"}}));
    assert_eq!(refused(completion), (400, Some("response_format".to_owned())));
}

#[test]
fn a_request_may_ask_for_free_text_where_a_form_is_the_default() {
    let sampling = SamplerParams { form: TextForm::JsonObject, ..SamplerParams::GREEDY };
    let offer = Offer::of_the_grid(100, Defaults { sampling, ..Defaults::OPENAI });
    assert_eq!(chat(&offer, json!({})).unwrap().sampling.form, TextForm::JsonObject);
    let free = chat(&offer, json!({"response_format": {"type": "text"}})).unwrap();
    assert_eq!(free.sampling.form, TextForm::Free);
}

#[test]
fn what_a_request_does_not_say_holds_as_the_server_says() {
    let bias = vec![LogitBias { id: 7, bias: -100.0 }];
    let sampling = SamplerParams { min_p: 0.1, logit_bias: bias, ..SamplerParams::new(0.5, 0.9, 40) };
    let defaults = Defaults { max_tokens: Some(9), sampling: sampling.clone(), seed: Some(3), stop: vec!["x".into()] };
    let offer = Offer::of_the_grid(100, defaults);
    let request = chat(&offer, json!({})).unwrap();
    assert_eq!((request.max_tokens, request.seed, request.stop), (Some(9), Some(3), vec!["x".to_owned()]));
    assert_eq!(request.sampling, sampling);
    let request = chat(&offer, json!({"min_p": 0, "logit_bias": {}, "stop": [], "seed": 4})).unwrap();
    assert_eq!((request.seed, request.stop.len()), (Some(4), 0));
    assert_eq!(request.sampling, SamplerParams::new(0.5, 0.9, 40));
}

#[test]
fn a_line_of_a_batch_is_read_alike_and_names_where_a_field_is() {
    let line = |extra: Value| {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        TextRequest::of_batch(body, Endpoint::ChatCompletions, &GRID)
    };
    assert_eq!(line(json!({"min_p": 0.2, "logprobs": true})).unwrap().top_logprobs, Some(0));
    for (field, value, param) in [
        ("min_p", json!(2), "body.min_p"),
        ("logit_bias", json!({"x": 1}), "body.logit_bias"),
        ("top_logprobs", json!(2), "body.top_logprobs"),
        ("tools", json!([{}]), "body.tools"),
        ("messages", json!([{"role": "robot", "content": "x"}]), "body.messages[0].role"),
    ] {
        let error = line(json!({ field: value })).unwrap_err();
        assert_eq!((error.is_unsupported(), error.body.param.as_deref()), (field == "tools", Some(param)));
    }
}

#[test]
fn what_is_wrong_is_refused_by_name_whatever_is_offered() {
    for (field, value) in [
        ("no_such_field", json!(1)),
        ("temperature", json!(3)),
        ("min_p", json!(1.5)),
        ("repetition_penalty", json!(0)),
        ("presence_penalty", json!(-3)),
        ("frequency_penalty", json!("much")),
        ("logprobs", json!(3)),
        ("top_logprobs", json!(3)),
        ("top_logprobs", json!(21)),
        ("logit_bias", json!({"07": 1})),
        ("logit_bias", json!({"7": 101})),
        ("top_p", json!(0)),
        ("max_tokens", json!(101)),
        ("max_tokens", json!("9")),
        ("max_tokens", json!(1.5)),
        ("max_completion_tokens", json!(0)),
        ("seed", json!("x")),
        ("stop", json!([1])),
        ("stop", json!("")),
        ("stop", json!(vec!["a"; 17])),
        ("stream", json!("yes")),
        ("stream_options", json!({"include_usage": true})),
        ("n", json!(0)),
        ("best_of", json!(1)),
    ] {
        for offer in [GRID, FULL] {
            assert_eq!(refused(chat(&offer, json!({ field: value }))), (400, Some(field.to_owned())), "{field}");
        }
    }
    for (field, value, param) in
        [("tool_choice", json!("required"), "tool_choice"), ("tools", json!([{"type": "function"}]), "tools")]
    {
        assert_eq!(refused(chat(&FULL, json!({ field: value }))), (400, Some(param.to_owned())), "{field}");
    }
}

#[test]
fn everything_that_is_offered_is_taken() {
    let request = chat(
        &FULL,
        json!({
            "n": 3, "logprobs": true, "top_logprobs": 2, "temperature": 0.5, "top_p": 0.9, "top_k": -1, "min_p": 0.1,
            "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.1, "logit_bias": {"12": -100, "3": 5},
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": {"type": "object"}}},
            "max_tokens": 7, "max_completion_tokens": 9.0, "stop": "a", "stream": true, "stream_options": {"include_usage": true},
        }),
    )
    .unwrap();
    assert_eq!((request.choices, request.top_logprobs, request.max_tokens), (3, Some(2), Some(9)));
    assert!(request.stream && request.include_usage);
    let wanted = SamplerParams {
        temperature: 0.5,
        top_p: 0.9,
        top_k: 0,
        min_p: 0.1,
        repetition_penalty: 1.1,
        presence_penalty: 1.0,
        frequency_penalty: -1.0,
        logit_bias: vec![LogitBias { id: 3, bias: 5.0 }, LogitBias { id: 12, bias: -100.0 }],
        form: TextForm::JsonSchema(r#"{"type":"object"}"#.into()),
    };
    assert_eq!(request.sampling, wanted);
    let text = parse(&FULL, Endpoint::Completions, &json!({"logprobs": 0, "echo": false, "suffix": ""})).unwrap();
    assert_eq!(text.top_logprobs, Some(0));
    assert_eq!(
        chat(&FULL, json!({"response_format": {"type": "json_object"}})).unwrap().sampling.form,
        TextForm::JsonObject
    );
}

#[test]
fn messages_may_have_text_parts_and_nothing_else() {
    let parts =
        json!([{"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]);
    let request = chat(&GRID, json!({ "messages": parts })).unwrap();
    let system = Message { role: "system".into(), content: "ab".into(), tool_calls: Vec::new() };
    assert_eq!(request.prompt, Prompt::Chat(vec![system]));
    for (messages, param) in [
        (json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]), "messages[0].content[0].type"),
        (json!([{"role": "user", "content": [{"type": "text", "text": "x", "y": 1}]}]), "messages[0].content[0].y"),
        (json!([{"role": "user", "content": "x", "tool_call_id": "1"}]), "messages[0].tool_call_id"),
        (json!([{"role": "tool", "content": "x"}]), "messages[0].role"),
        (json!([{"role": "user", "content": "x"}, {"content": "x"}]), "messages[1].role"),
        (json!([3]), "messages[0]"),
        (json!([]), "messages"),
    ] {
        assert_eq!(refused(chat(&GRID, json!({ "messages": messages }))), (400, Some(param.to_owned())));
    }
}

#[test]
fn a_conversation_with_tools_is_read_where_tools_are_offered() {
    let call = json!({"id": "1", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 1}"}});
    let messages = json!([
        {"role": "user", "content": "1+1"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "1"},
    ]);
    let tool = json!({"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}});
    let body =
        json!({"messages": messages, "tools": [tool.clone()], "tool_choice": "auto", "parallel_tool_calls": true});
    let request = chat(&FULL, body.clone()).unwrap();
    assert_eq!(request.tools, Tools { definitions: vec![tool], names: vec!["add".into()] });
    let Prompt::Chat(messages) = request.prompt else { panic!("not a chat") };
    assert_eq!(messages[1].tool_calls[0].arguments, json!({"a": 1}));
    assert_eq!(messages[2].role, "tool");
    assert_eq!(refused(chat(&GRID, body)).0, 400);
    let broken = json!([{"role": "assistant", "tool_calls": [{"function": {"name": "add", "arguments": "no json"}}]}]);
    assert_eq!(refused(chat(&FULL, json!({ "messages": broken }))).1.as_deref(), Some("messages[0].tool_calls"));
}

#[test]
fn a_completion_has_one_prompt() {
    let completion = |prompt: Value| parse(&GRID, Endpoint::Completions, &json!({ "prompt": prompt }));
    assert_eq!(completion(json!("once")).unwrap().prompt, Prompt::Text("once".into()));
    assert_eq!(completion(json!(["once"])).unwrap().prompt, Prompt::Text("once".into()));
    for bad in [json!(["a", "b"]), json!([1, 2]), json!("")] {
        assert_eq!(refused(completion(bad)), (400, Some("prompt".to_owned())));
    }
}

/// Any JSON, a few levels deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~é🦀]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,8}", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

const FIELDS: [&str; 30] = [
    "model",
    "messages",
    "prompt",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "response_format",
    "logprobs",
    "top_logprobs",
    "stop",
    "seed",
    "n",
    "stream",
    "stream_options",
    "user",
    "store",
    "metadata",
    "service_tier",
    "best_of",
    "echo",
];

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for endpoint in [Endpoint::ChatCompletions, Endpoint::Completions] {
            let _ = TextRequest::parse(&bytes, endpoint, &FULL);
        }
    }

    /// A field with a wrong value is refused by its own name or by that of a part of it, never by another's.
    #[test]
    fn any_value_of_any_field_is_taken_or_refused_by_its_name(which in 0..FIELDS.len(), value in any_json()) {
        let field = FIELDS[which];
        for offer in [GRID, FULL] {
            for endpoint in [Endpoint::ChatCompletions, Endpoint::Completions] {
                if let Err(error) = parse(&offer, endpoint, &json!({ field: value.clone() })) {
                    prop_assert_eq!(error.status.as_u16(), 400);
                    let param = error.body.param.unwrap_or_default();
                    let ours = param == field || param.starts_with(&format!("{field}.")) || param.starts_with(&format!("{field}["));
                    prop_assert!(ours, "{} for {}", param, field);
                }
            }
        }
    }

    #[test]
    fn an_unknown_field_is_named(name in "[a-z]{3,10}_x", value in any_json()) {
        prop_assume!(!value.is_null());
        let error = chat(&FULL, json!({ name.as_str(): value })).unwrap_err();
        prop_assert_eq!(error.body.param, Some(name));
    }
}
