//! Tools: what reaches a model whose template knows of them, and how its call comes back. The engine is a stand-in that always calls.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use futures::{FutureExt, future::BoxFuture};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use xdc_grid::{
    inference::{
        AdmissionError, Benchmark, ChatMessage, FinishReason, GenerateEvent, GenerateRequest, ModelInfo, PromptError,
        ReplayOutcome, ReplayRequest,
    },
    openai::Message,
    worker::{AnswerEngine, EngineProvider, EngineSettings},
};

use super::{Serving, events};

const ANSWER: [&str; 4] =
    ["Let me see.\n", "<tool_", "call>{\"name\": \"add\", ", "\"arguments\": {\"a\": 1}}</tool_call>"];

type Seen = Arc<Mutex<Vec<(Vec<Message>, Vec<Value>)>>>;

#[derive(Clone)]
struct Caller {
    info: ModelInfo,
    seen: Seen,
}

impl EngineProvider for Caller {
    fn load(&self, _: &Path, _: &EngineSettings) -> Result<Arc<dyn AnswerEngine>, String> {
        Ok(Arc::new(self.clone()))
    }
}

impl AnswerEngine for Caller {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn render_chat(&self, _: &[ChatMessage]) -> Result<Vec<u32>, PromptError> {
        Ok(vec![1])
    }

    fn render_chat_by(&self, _: &str, _: &[ChatMessage]) -> Result<Vec<u32>, PromptError> {
        Ok(vec![1])
    }

    fn tokenize(&self, _: &str) -> Result<Vec<u32>, PromptError> {
        Ok(vec![1])
    }

    fn takes_tools(&self) -> bool {
        true
    }

    fn render_tools(&self, messages: &[Message], tools: &[Value]) -> Result<Vec<u32>, PromptError> {
        self.seen.lock().unwrap().push((messages.to_vec(), tools.to_vec()));
        Ok(vec![1, 2])
    }

    fn generate(
        &self,
        request: GenerateRequest,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<GenerateEvent>, AdmissionError>> {
        let (sender, receiver) = mpsc::channel(8);
        for (index, text) in (0..).zip(ANSWER) {
            sender.try_send(GenerateEvent::Token { index, id: index, text: text.into(), logprobs: None }).unwrap();
        }
        let done = GenerateEvent::Done {
            finish: FinishReason::Stop,
            prompt_tokens: request.prompt.len() as u32,
            cached_tokens: 0,
            output_tokens: 4,
            output_ids: vec![0, 1, 2, 3],
            text: ANSWER.concat(),
            trace_root: [0; 32],
        };
        sender.try_send(done).unwrap();
        async { Ok(receiver) }.boxed()
    }

    fn replay(&self, _: ReplayRequest) -> BoxFuture<'_, Result<ReplayOutcome, AdmissionError>> {
        let outcome = ReplayOutcome {
            trace_root: [0; 32],
            first_mismatch: None,
            max_margin: 0.0,
            mean_margin: 0.0,
            logprobs: vec![],
        };
        async move { Ok(outcome) }.boxed()
    }

    fn benchmark(&self) -> BoxFuture<'_, Result<Benchmark, AdmissionError>> {
        async { Ok(Benchmark { prefill_tokens_per_second: 1.0, decode_tokens_per_second: 1.0 }) }.boxed()
    }

    fn queued(&self) -> u32 {
        0
    }
}

fn caller() -> Caller {
    let info = ModelInfo {
        architecture: "caller".into(),
        context_length: 100,
        vocab_size: 10,
        n_layers: 0,
        n_params: 0,
        file_bytes: 0,
        kernel_profile: "caller/1".into(),
        has_chat_template: true,
        self_test: [0; 32],
    };
    Caller { info, seen: Arc::default() }
}

#[tokio::test]
async fn a_call_of_an_offered_tool_comes_back_as_one() {
    let engine = caller();
    let file = tempfile::NamedTempFile::new().unwrap();
    let s = Serving::start_with(file.path(), &["--model-name", "m"], Arc::new(engine.clone())).await.ready().await;
    let tool = json!({"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}});
    let made = json!({"id": "1", "type": "function", "function": {"name": "add", "arguments": "{\"a\":2}"}});
    let mut body = json!({"model": "m", "tools": [tool], "messages": [
        {"role": "user", "content": "1+2?"},
        {"role": "assistant", "tool_calls": [made]},
        {"role": "tool", "content": "3", "tool_call_id": "1"},
    ]});
    let whole = s.ask("/v1/chat/completions", &body).await;
    let choice = &whole["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &json!("Let me see."))
    );
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"], json!({"name": "add", "arguments": "{\"a\":1}"}));
    assert!(call["id"].as_str().unwrap().starts_with("call_"));
    let (messages, tools) = engine.seen.lock().unwrap().remove(0);
    assert_eq!((messages[1].tool_calls[0].arguments.clone(), messages[2].role.as_str()), (json!({"a": 2}), "tool"));
    assert_eq!(tools, [tool]);

    body["stream"] = json!(true);
    let (objects, done) = events(s.post("/v1/chat/completions", &body).await).await;
    let delta = &objects[0]["choices"][0]["delta"];
    assert!(done && objects.len() == 1, "{objects:?}");
    assert_eq!((&delta["role"], &delta["content"]), (&json!("assistant"), &json!("Let me see.")));
    assert_eq!(
        (&delta["tool_calls"][0]["index"], &delta["tool_calls"][0]["function"]["name"]),
        (&json!(0), &json!("add"))
    );
    assert_eq!(objects[0]["choices"][0]["finish_reason"], "tool_calls");

    // Without tools the same text is text.
    body["tools"] = json!([]);
    body["messages"] = json!([{"role": "user", "content": "1+2?"}]);
    body["stream"] = json!(false);
    let whole = s.ask("/v1/chat/completions", &body).await;
    assert_eq!(whole["choices"][0]["message"]["content"], ANSWER.concat());
}
