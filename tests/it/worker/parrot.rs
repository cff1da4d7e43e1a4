//! An engine without a model: its tokens are bytes and its answer repeats the prompt.

use std::{path::Path, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::sync::{Semaphore, mpsc};
use xdc_grid::{
    inference::{
        AdmissionError, Benchmark, ChatMessage, FinishReason, GenerateEvent, GenerateRequest, ModelInfo, PromptError,
        ReplayOutcome, ReplayRequest, TokenLogprobs,
    },
    protocol::receipt::hash_tokens,
    worker::{AnswerEngine, EngineProvider, EngineSettings},
};

/// Loads parrots from any file.
#[derive(Clone, Copy, Default)]
pub struct Parrots {
    /// Pause before each token.
    pub pace: Duration,
    /// Each token takes a permit from here.
    pub brake: Option<&'static Semaphore>,
    /// Every token is one more than it should be; its own replay does not agree.
    pub inexact: bool,
}

impl Parrots {
    /// Parrots that say a token for each permit. The brake is leaked: an engine outlives its test.
    pub fn braked() -> (Self, &'static Semaphore) {
        let brake: &'static Semaphore = Box::leak(Box::new(Semaphore::new(0)));
        (Parrots { brake: Some(brake), ..Parrots::default() }, brake)
    }
}

impl EngineProvider for Parrots {
    fn load(&self, path: &Path, _: &EngineSettings) -> Result<Arc<dyn AnswerEngine>, String> {
        std::fs::metadata(path).map_err(|error| error.to_string())?;
        Ok(Arc::new(Parrot::new(*self)))
    }
}

pub struct Parrot {
    info: ModelInfo,
    how: Parrots,
}

impl Parrot {
    pub fn new(how: Parrots) -> Self {
        let info = ModelInfo {
            architecture: "parrot".into(),
            context_length: 1000,
            vocab_size: 256,
            n_layers: 0,
            n_params: 0,
            file_bytes: 0,
            kernel_profile: "parrot/1".into(),
            has_chat_template: true,
            self_test: [0; 32],
        };
        Parrot { info, how }
    }

    /// As sure of a token as it is small.
    fn logprobs(id: u32, top: u32) -> TokenLogprobs {
        let logprob = -(id as f32) / 64.0;
        TokenLogprobs { logprob, top: (0..top).map(|rank| (id, logprob - rank as f32)).collect() }
    }

    fn repeat(prompt: &[u32], max_tokens: usize) -> Vec<u32> {
        prompt.iter().copied().cycle().take(max_tokens).collect()
    }
}

impl AnswerEngine for Parrot {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn render_chat(&self, messages: &[ChatMessage]) -> Result<Vec<u32>, PromptError> {
        self.tokenize(&messages.iter().map(|message| message.content.as_str()).collect::<String>())
    }

    /// Says the template first.
    fn render_chat_by(&self, template: &str, messages: &[ChatMessage]) -> Result<Vec<u32>, PromptError> {
        let content = messages.iter().map(|message| message.content.as_str());
        self.tokenize(&std::iter::once(template).chain(content).collect::<String>())
    }

    fn tokenize(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        match text.is_empty() {
            true => Err(PromptError::NoMessages),
            false => Ok(text.bytes().map(u32::from).collect()),
        }
    }

    fn generate(
        &self,
        request: GenerateRequest,
    ) -> BoxFuture<'_, Result<mpsc::Receiver<GenerateEvent>, AdmissionError>> {
        let Parrots { pace, brake, inexact } = self.how;
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut output_ids = Parrot::repeat(&request.prompt, request.max_tokens as usize);
            output_ids.iter_mut().for_each(|id| *id += u32::from(inexact));
            let made = (0..).zip(output_ids.clone()).skip(request.prefix.len());
            for (index, id) in made {
                if !pace.is_zero() {
                    tokio::time::sleep(pace).await;
                }
                if let Some(brake) = brake {
                    tokio::select! {
                        permit = brake.acquire() => permit.unwrap().forget(),
                        () = sender.closed() => return,
                    }
                }
                let text = char::from(id as u8).to_string();
                let logprobs = request.top_logprobs.map(|top| Box::new(Parrot::logprobs(id, top)));
                if sender.send(GenerateEvent::Token { index, id, text, logprobs }).await.is_err() {
                    return;
                }
            }
            let done = GenerateEvent::Done {
                finish: FinishReason::Length,
                prompt_tokens: request.prompt.len() as u32,
                cached_tokens: 0,
                output_tokens: output_ids.len() as u32,
                text: String::new(),
                trace_root: hash_tokens(&output_ids),
                output_ids,
            };
            let _ = sender.send(done).await;
        });
        async { Ok(receiver) }.boxed()
    }

    fn replay(&self, request: ReplayRequest) -> BoxFuture<'_, Result<ReplayOutcome, AdmissionError>> {
        let expected = Parrot::repeat(&request.prompt, request.output.len());
        let mismatch = expected.iter().zip(&request.output).position(|(expected, given)| expected != given);
        let outcome = ReplayOutcome {
            trace_root: hash_tokens(&request.output),
            first_mismatch: mismatch.map(|index| index as u32),
            max_margin: 0.0,
            mean_margin: 0.0,
            logprobs: match request.top_logprobs {
                Some(top) => request.output.iter().map(|id| Parrot::logprobs(*id, top)).collect(),
                None => Vec::new(),
            },
        };
        async { Ok(outcome) }.boxed()
    }

    fn benchmark(&self) -> BoxFuture<'_, Result<Benchmark, AdmissionError>> {
        async { Ok(Benchmark { prefill_tokens_per_second: 100.0, decode_tokens_per_second: 10.5 }) }.boxed()
    }

    fn queued(&self) -> u32 {
        0
    }

    fn token_bytes(&self, token: u32) -> Vec<u8> {
        vec![token as u8]
    }
}
