//! A replay in the making: how far each token is from the one that the seed demands.

use tokio::sync::oneshot;

use super::row::Row;
use super::{AdmissionError, ReplayOutcome, TokenLogprobs};

pub(super) struct Check {
    answer: Option<oneshot::Sender<Result<ReplayOutcome, AdmissionError>>>,
    first_mismatch: Option<u32>,
    max_margin: f32,
    sum_of_margins: f64,
    logprobs: Vec<TokenLogprobs>,
}

impl Check {
    pub fn new(answer: oneshot::Sender<Result<ReplayOutcome, AdmissionError>>) -> Self {
        Self { answer: Some(answer), first_mismatch: None, max_margin: 0.0, sum_of_margins: 0.0, logprobs: Vec::new() }
    }

    /// Whether nobody waits for the outcome any more.
    pub fn is_cancelled(&self) -> bool {
        self.answer.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Takes the row of an output token.
    pub fn note(&mut self, index: usize, row: Row) {
        if row.demanded != row.token && self.first_mismatch.is_none() {
            self.first_mismatch = Some(index as u32);
        }
        self.max_margin = self.max_margin.max(row.margin);
        self.sum_of_margins += f64::from(row.margin);
        self.logprobs.extend(row.logprobs.map(|logprobs| *logprobs));
    }

    /// Sends the outcome after all `output` tokens.
    pub fn finish(&mut self, output: usize, trace_root: [u8; 32]) {
        let outcome = ReplayOutcome {
            trace_root,
            first_mismatch: self.first_mismatch,
            max_margin: self.max_margin,
            mean_margin: (self.sum_of_margins / output.max(1) as f64) as f32,
            logprobs: std::mem::take(&mut self.logprobs),
        };
        self.send(Ok(outcome));
    }

    /// Says why there is no outcome.
    pub fn fail(&mut self, error: AdmissionError) {
        self.send(Err(error));
    }

    fn send(&mut self, outcome: Result<ReplayOutcome, AdmissionError>) {
        if let Some(answer) = self.answer.take() {
            // The asker may be gone.
            let _ = answer.send(outcome);
        }
    }
}
