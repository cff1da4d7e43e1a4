//! What answers look like.

use serde_json::{Value, json};

use super::{MODEL, Serving, capital, chat, events};

fn with(mut body: Value, extra: Value) -> Value {
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

fn content(choice: &Value) -> &str {
    choice["message"]["content"].as_str().unwrap()
}

#[tokio::test]
async fn an_answer_is_the_same_whole_and_in_pieces() {
    let s = Serving::start(&[]).await;
    let whole = s.ask("/v1/chat/completions", &capital()).await;
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(content(&whole["choices"][0]), "The capital of France is Paris.");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let streaming = with(capital(), json!({"stream": true, "stream_options": {"include_usage": true}}));
    let (objects, done) = events(s.post("/v1/chat/completions", &streaming).await).await;
    assert!(done);
    let text: String = objects.iter().filter_map(|o| o["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, content(&whole["choices"][0]));
    assert_eq!(objects[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(objects[1..].iter().all(|object| object["choices"][0]["delta"].get("role").is_none()));
    let tokens = |usage: &Value| (usage["prompt_tokens"].clone(), usage["completion_tokens"].clone());
    assert_eq!(tokens(&objects.last().unwrap()["usage"]), tokens(&whole["usage"]));
    let told = 2.0 * whole["usage"]["completion_tokens"].as_f64().unwrap();
    for (name, value) in [
        ("vllm:request_success_total", 2.0),
        ("vllm:generation_tokens_total", told),
        ("vllm:time_to_first_token_seconds_count", 2.0),
        ("vllm:e2e_request_latency_seconds_count", 2.0),
    ] {
        s.until(name, async || s.metric(name).await == value).await;
    }
}

#[tokio::test]
async fn a_stop_string_across_token_edges_ends_the_answer_and_is_not_shown() {
    let s = Serving::start(&[]).await;
    let body = with(capital(), json!({"stop": ["nowhere", "ce is P"]}));
    let whole = s.ask("/v1/chat/completions", &body).await;
    assert_eq!(content(&whole["choices"][0]), "The capital of Fran");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    let (objects, done) = events(s.post("/v1/chat/completions", &with(body, json!({"stream": true}))).await).await;
    let text: String = objects.iter().filter_map(|o| o["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!((text.as_str(), done), ("The capital of Fran", true));
}

#[tokio::test]
async fn a_seed_gives_the_same_answers_and_each_of_them_is_another() {
    let s = Serving::start(&[]).await;
    let body = |n: u32, seed: u32| chat("Invent a name.", json!({"n": n, "seed": seed, "max_tokens": 12}));
    let texts = async |n, seed| -> Vec<String> {
        let answer = s.ask("/v1/chat/completions", &body(n, seed)).await;
        let choices = answer["choices"].as_array().unwrap();
        assert!(choices.iter().enumerate().all(|(index, choice)| choice["index"] == json!(index)));
        choices.iter().map(|choice| content(choice).to_owned()).collect()
    };
    let first = texts(3, 5).await;
    assert_eq!(first.len(), 3);
    assert!(first[0] != first[1] && first[1] != first[2], "{first:?}");
    assert_eq!(texts(3, 5).await, first);
    assert_eq!(texts(1, 5).await, first[..1]);
    assert_ne!(texts(1, 6).await, first[..1]);
    let (objects, done) =
        events(s.post("/v1/chat/completions", &with(body(3, 5), json!({"stream": true}))).await).await;
    assert!(done);
    for (index, whole) in first.iter().enumerate() {
        let ours = objects.iter().map(|object| &object["choices"][0]).filter(|choice| choice["index"] == json!(index));
        let text: String = ours.filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(&text, whole);
    }
}

#[tokio::test]
async fn log_probabilities_come_with_the_tokens() {
    let s = Serving::start(&[]).await;
    let body = with(capital(), json!({"logprobs": true, "top_logprobs": 3}));
    let whole = s.ask("/v1/chat/completions", &body).await;
    let tokens = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let text: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(text, content(&whole["choices"][0]));
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!((top.len(), &top[0]["token"], &top[0]["logprob"]), (3, &token["token"], &token["logprob"]));
        assert!(token["logprob"].as_f64().unwrap() <= 0.0 && top[1]["logprob"].as_f64() >= top[2]["logprob"].as_f64());
    }
    let body = json!({"model": MODEL, "prompt": "1, 2, 3, 4,", "max_tokens": 4, "temperature": 0, "logprobs": 2});
    let whole = s.ask("/v1/completions", &body).await;
    let logprobs = &whole["choices"][0]["logprobs"];
    let tokens: Vec<&str> =
        logprobs["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(tokens.concat(), whole["choices"][0]["text"].as_str().unwrap());
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    let wanted: Vec<usize> = (0..tokens.len()).map(|end| tokens[..end].concat().chars().count()).collect();
    assert_eq!(logprobs["text_offset"], json!(wanted));
}

#[tokio::test]
async fn what_is_not_offered_is_refused_by_name() {
    let s = Serving::start(&["--max-tokens", "64"]).await;
    let tool = json!([{"type": "function", "function": {"name": "add", "parameters": {}}}]);
    for (field, value) in [
        ("no_such_field", json!(1)),
        ("tools", tool),
        ("max_completion_tokens", json!(65)),
        ("n", json!(17)),
        ("logit_bias", json!({"99999": 1})),
    ] {
        let (status, error) = s.refused("/v1/chat/completions", &with(capital(), json!({ field: value }))).await;
        assert_eq!((status, error["param"].as_str()), (400, Some(field)), "{error}");
    }
    let (status, error) = s.refused("/v1/chat/completions", &with(capital(), json!({"model": "other"}))).await;
    assert_eq!((status, error["code"].as_str()), (404, Some("model_not_found")));
    let (status, error) = s.refused("/v1/embeddings", &json!({"model": MODEL, "input": "x"})).await;
    assert_eq!((status, error["param"].as_str()), (400, Some("model")));
    let response = s.client.post(s.url("/v1/completions")).body("{").send().await.unwrap();
    assert_eq!(response.status(), 400);
    let response = s.get("/v1/completions").await;
    assert_eq!((response.status().as_u16(), response.headers()["allow"].to_str().unwrap()), (405, "POST"));
    assert_eq!(s.get("/v2/models").await.status(), 404);
    assert!(s.metric("grid_serve_rejected_total").await >= 7.0);
}

#[tokio::test]
async fn a_prompt_that_does_not_fit_is_refused_with_the_numbers() {
    let s = Serving::start(&["--context-length", "64"]).await;
    let (status, error) = s.refused("/v1/chat/completions", &chat(&"word ".repeat(80), json!({}))).await;
    assert_eq!((status, error["code"].as_str()), (400, Some("context_length_exceeded")));
    assert!(error["message"].as_str().unwrap().contains("64"), "{error}");
    // A request that names no limit gets what there is room for.
    let answer = s
        .ask("/v1/completions", &json!({"model": MODEL, "prompt": "1 2 3", "logit_bias": {"0": -100, "2": -100}}))
        .await;
    assert_eq!(answer["usage"]["total_tokens"], 64);
}

#[tokio::test]
async fn tokens_go_there_and_back() {
    let s = Serving::start(&[]).await;
    let text = "Zwei Bäume, 三 trees <|im_end|>";
    let tokens = s.ask("/tokenize", &json!({"prompt": text})).await;
    assert_eq!(tokens["count"], json!(tokens["tokens"].as_array().unwrap().len()));
    let back = s.ask("/detokenize", &json!({"model": MODEL, "tokens": tokens["tokens"]})).await;
    assert_eq!(back["prompt"], text);
    let chat = s.ask("/tokenize", &json!({"messages": [{"role": "user", "content": "hi"}]})).await;
    assert!(chat["count"].as_u64() > Some(10));
    assert_eq!(s.refused("/detokenize", &json!({"tokens": [4_000_000]})).await.1["param"], "tokens");
    let models: Value = s.get("/v1/models").await.json().await.unwrap();
    assert_eq!((&models["data"][0]["id"], &models["data"][0]["max_model_len"]), (&json!(MODEL), &json!(8192)));
    assert_eq!(s.get(&format!("/v1/models/{MODEL}")).await.status(), 200);
    assert_eq!(s.get("/v1/models/other").await.status(), 404);
}
