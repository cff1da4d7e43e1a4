//! One request of a shard to its outcome, with the reasons that the grid gives for the same failures.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{BatchOptions, Failure};
use crate::{
    api::ids::{ModelDigest, NodeAddress, RequestId},
    inference::{AdmissionError, ChatMessage, FinishReason, GenerateEvent, GenerateRequest, PromptError, Tenant},
    protocol::{
        internal::{InputLine, Outcome, ResultLine},
        logprobs::{TokenLogprob, shown},
        shard::Exit,
        vector::Vector,
    },
    verify::sampler::{self, SamplerError, SamplerParams},
    worker::{AnswerEngine, advert::now_ms, engine::FORM_REFUSED, logprobs::told},
};

/// Longest message of a failure, in characters.
const MAX_MESSAGE: usize = 100;

/// No node of a grid: nobody is paid for it.
const NOBODY: NodeAddress = NodeAddress([0; 20]);

/// What every answer needs.
pub(super) struct Answering {
    engine: Arc<dyn AnswerEngine>,
    job_uid: String,
    model: ModelDigest,
    node_name: String,
    max_attempts: u16,
    chat_template: Option<String>,
}

/// One try that gave no answer.
enum Missed {
    /// It lies in the request: no try can help.
    ForGood { reason: &'static str, message: String },
    /// The engine failed while it worked.
    Again(String),
    /// The engine is gone.
    Stopped,
}

impl From<PromptError> for Missed {
    fn from(error: PromptError) -> Self {
        Missed::ForGood { reason: "PromptRefused", message: error.to_string() }
    }
}

impl Answering {
    pub(super) fn new(options: &BatchOptions, engine: Arc<dyn AnswerEngine>) -> Self {
        Answering {
            engine,
            job_uid: options.job_uid.clone(),
            model: options.model_sha256,
            node_name: options.node_name.clone(),
            max_attempts: options.max_attempts,
            chat_template: options.chat_template.clone(),
        }
    }

    /// The outcome of one line; an error ends the process.
    pub(super) async fn answer(&self, line: InputLine) -> Result<ResultLine, Failure> {
        let outcome = self.tried(&line).await?;
        let request_id = RequestId::of_job_line(&self.job_uid, &line.custom_id);
        Ok(ResultLine { index: line.index, custom_id: line.custom_id, request_id, outcome })
    }

    async fn tried(&self, line: &InputLine) -> Result<Outcome, Failure> {
        let mut last = String::new();
        for _ in 0..self.max_attempts {
            let outcome = if line.inputs.is_empty() { self.generate(line).await } else { self.embed(line).await };
            match outcome {
                Ok(outcome) => return Ok(outcome),
                Err(Missed::ForGood { reason, message }) => return Ok(failed(reason, &message)),
                Err(Missed::Again(message)) => last = message,
                Err(Missed::Stopped) => {
                    return Err(Failure::new(Exit::Failed, "EngineFailed", "the engine has stopped"));
                }
            }
        }
        Ok(failed("WorkerFailed", &last))
    }

    async fn generate(&self, line: &InputLine) -> Result<Outcome, Missed> {
        let malformed =
            |error: SamplerError| Missed::ForGood { reason: "MalformedRequest", message: error.to_string() };
        let sampling = SamplerParams::try_from(&line.sampling()).map_err(malformed)?;
        let request = GenerateRequest {
            prompt: self.prompt(line)?,
            max_tokens: line.max_tokens,
            sampling,
            seed: self.seed(line),
            stop: line.stop.clone(),
            top_logprobs: line.top_logprobs,
            // A process answers for one job, whose prompts may share what they have in common.
            tenant: Some(Tenant::of(self.job_uid.as_bytes())),
            ..GenerateRequest::default()
        };
        let mut events = loop {
            match self.engine.generate(request.clone()).await {
                Ok(events) => break events,
                Err(AdmissionError::Busy { retry_after }) => {
                    tokio::time::sleep(retry_after.min(Duration::from_secs(1))).await;
                }
                Err(error) => return Err(not_admitted(&error)),
            }
        };
        self.read(&mut events, line.top_logprobs.map(|_| Vec::new())).await
    }

    /// As `generate`, for vectors.
    async fn embed(&self, line: &InputLine) -> Result<Outcome, Missed> {
        let texts = line.inputs.iter().map(|text| self.engine.tokenize(text)).collect::<Result<Vec<_>, _>>()?;
        let (wanted, tokens) = (texts.len(), texts.iter().map(Vec::len).sum::<usize>());
        let mut coming = loop {
            match self.engine.embed(texts.clone()) {
                Ok(coming) => break coming,
                Err(AdmissionError::Busy { retry_after }) => {
                    tokio::time::sleep(retry_after.min(Duration::from_secs(1))).await;
                }
                Err(error) => return Err(not_admitted(&error)),
            }
        };
        let mut vectors = Vec::with_capacity(wanted);
        while vectors.len() < wanted {
            let values =
                coming.recv().await.ok_or_else(|| Missed::Again("the engine ended without an answer".into()))?;
            let vector = values.map_err(Missed::Again)?;
            vectors.push(Vector::new(vector).ok_or_else(|| Missed::Again("the engine gave no sound vector".into()))?);
        }
        Ok(Outcome::Embedded {
            vectors,
            encoding: line.encoding,
            prompt_tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
            node_name: self.node_name.clone(),
            node_address: NOBODY,
            created: now_ms() / 1000,
        })
    }

    /// The answer is the text of its tokens, as the grid puts it together. `logprobs`: the list to be filled, where they are wanted.
    async fn read(
        &self,
        events: &mut mpsc::Receiver<GenerateEvent>,
        mut logprobs: Option<Vec<TokenLogprob>>,
    ) -> Result<Outcome, Missed> {
        let mut text = String::new();
        loop {
            match events.recv().await {
                Some(GenerateEvent::Token { id, text: piece, logprobs: found, .. }) => {
                    text.push_str(&piece);
                    if let (Some(logprobs), Some(found)) = (&mut logprobs, found) {
                        logprobs.extend(shown(&told(self.engine.as_ref(), id, &found)));
                    }
                }
                Some(GenerateEvent::Done { finish, prompt_tokens, output_ids, .. }) => {
                    let finish_reason = match finish {
                        FinishReason::Stop => "stop",
                        FinishReason::Length => "length",
                        FinishReason::Cancelled => return Err(Missed::Again("cancelled".into())),
                    };
                    return Ok(Outcome::Completed {
                        text,
                        finish_reason: finish_reason.into(),
                        logprobs,
                        prompt_tokens,
                        output_tokens: u32::try_from(output_ids.len()).unwrap_or(u32::MAX),
                        node_name: self.node_name.clone(),
                        node_address: NOBODY,
                        created: now_ms() / 1000,
                    });
                }
                Some(GenerateEvent::Failed(message)) => return Err(Missed::Again(message)),
                Some(GenerateEvent::Refused(error)) => {
                    return Err(Missed::ForGood { reason: FORM_REFUSED, message: error.to_string() });
                }
                Some(GenerateEvent::DeadlineExceeded) => {
                    return Err(Missed::Again("the answer took too long".into()));
                }
                None => return Err(Missed::Again("the engine ended without an answer".into())),
            }
        }
    }

    fn prompt(&self, line: &InputLine) -> Result<Vec<u32>, PromptError> {
        if line.messages.is_empty() {
            return self.engine.tokenize(&line.prompt);
        }
        let message = |message: &crate::protocol::internal::Message| ChatMessage {
            role: message.role.clone(),
            content: message.content.clone(),
        };
        let messages: Vec<_> = line.messages.iter().map(message).collect();
        match &self.chat_template {
            Some(template) => self.engine.render_chat_by(template, &messages),
            None => self.engine.render_chat(&messages),
        }
    }

    /// From the line alone: nobody is paid here, so nobody gains by choosing it, and a job that runs again gives the same
    /// answers.
    fn seed(&self, line: &InputLine) -> [u8; 32] {
        let mut nonce = [0; 32];
        nonce[..8].copy_from_slice(&line.seed.to_le_bytes());
        let request = RequestId::of_job_line("", &line.custom_id);
        sampler::seed(&request.0, &nonce, &[0; 32], &self.model.0)
    }
}

fn not_admitted(error: &AdmissionError) -> Missed {
    let reason = match error {
        AdmissionError::Context { .. } => "ContextExceeded",
        AdmissionError::Memory { .. } => "MemoryExceeded",
        AdmissionError::Invalid(_) => "PromptRefused",
        AdmissionError::Form(_) => FORM_REFUSED,
        AdmissionError::Busy { .. } => return Missed::Again(error.to_string()),
        AdmissionError::Stopped => return Missed::Stopped,
    };
    Missed::ForGood { reason, message: error.to_string() }
}

fn failed(reason: &str, message: &str) -> Outcome {
    Outcome::Failed { reason: reason.into(), message: message.chars().take(MAX_MESSAGE).collect() }
}
