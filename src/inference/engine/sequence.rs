//! One request on its way: known tokens, keys and values, trace, and what to do with the next row.

use tokio::sync::{mpsc, oneshot};

use super::row::{Question, Row};
use super::{FinishReason, GenerateEvent, GenerateRequest, ReplayOutcome, ReplayRequest, Ticket};
use crate::inference::kv::KvCache;
use crate::inference::text::{Detokenizer, StopStrings, Tokenizer};
use crate::verify::sampler::SamplerParams;
use crate::verify::trace::Trace;

/// What the sequence is for.
pub(super) enum Work {
    Generate(Box<Answer>),
    Replay(Box<Check>),
}

/// An answer in the making.
pub(super) struct Answer {
    max_tokens: usize,
    prompt_len: usize,
    /// Output tokens that are not told to the reader.
    prefix_len: usize,
    events: mpsc::Sender<GenerateEvent>,
    detokenizer: Detokenizer,
    stop: StopStrings,
    text: String,
}

/// A replay in the making.
pub(super) struct Check {
    answer: Option<oneshot::Sender<Result<ReplayOutcome, String>>>,
    first_mismatch: Option<u32>,
    max_margin: f32,
    sum_of_margins: f64,
}

/// A request with its state.
pub(super) struct Sequence {
    /// Prompt and output tokens that are known.
    tokens: Vec<u32>,
    prompt_len: usize,
    /// The most tokens that `tokens` may get.
    most: usize,
    sampling: SamplerParams,
    seed: [u8; 32],
    trace: Trace,
    work: Work,
    ticket: Ticket,
    /// Set when the sequence starts to run.
    pub kv: Option<KvCache>,
}

/// A request's own part, before it is given a place.
pub(super) struct Start {
    tokens: Vec<u32>,
    prompt_len: usize,
    most: usize,
    sampling: SamplerParams,
    seed: [u8; 32],
    work: Work,
}

impl Work {
    pub fn generate(request: GenerateRequest, events: mpsc::Sender<GenerateEvent>) -> Start {
        let GenerateRequest { prompt, prefix, max_tokens, sampling, seed, stop } = request;
        let (prompt_len, prefix_len, max_tokens) = (prompt.len(), prefix.len(), max_tokens as usize);
        let answer = Answer {
            max_tokens,
            prompt_len,
            prefix_len,
            events,
            detokenizer: Detokenizer::default(),
            stop: StopStrings::new(&stop),
            text: String::new(),
        };
        let tokens = [prompt, prefix].concat();
        Start {
            tokens,
            prompt_len,
            most: prompt_len + max_tokens,
            sampling,
            seed,
            work: Self::Generate(Box::new(answer)),
        }
    }

    pub fn replay(request: ReplayRequest, answer: oneshot::Sender<Result<ReplayOutcome, String>>) -> Start {
        let ReplayRequest { prompt, output, sampling, seed } = request;
        let check = Check { answer: Some(answer), first_mismatch: None, max_margin: 0.0, sum_of_margins: 0.0 };
        let (prompt_len, most) = (prompt.len(), prompt.len() + output.len());
        Start {
            tokens: [prompt, output].concat(),
            prompt_len,
            most,
            sampling,
            seed,
            work: Self::Replay(Box::new(check)),
        }
    }
}

impl Sequence {
    pub fn new(start: Start, ticket: Ticket) -> Self {
        let Start { tokens, prompt_len, most, sampling, seed, work } = start;
        Self { tokens, prompt_len, most, sampling, seed, trace: Trace::new(), work, ticket, kv: None }
    }

    /// Tokens that keys and values are needed for.
    pub fn most_tokens(&self) -> usize {
        self.most
    }

    /// Whether nobody waits for the outcome any more.
    pub fn is_cancelled(&self) -> bool {
        match &self.work {
            Work::Generate(answer) => answer.events.is_closed(),
            Work::Replay(check) => check.answer.as_ref().is_none_or(oneshot::Sender::is_closed),
        }
    }

    /// Whether the reader is so slow that more tokens would have no place. One place is kept for the end.
    pub fn is_paused(&self) -> bool {
        matches!(&self.work, Work::Generate(answer) if answer.events.capacity() < 2)
    }

    /// Known tokens that are not computed yet. The last token of a replay follows from the row before it.
    pub fn waiting_tokens(&self) -> usize {
        let known = match self.work {
            Work::Generate(_) => self.tokens.len(),
            Work::Replay(_) => self.tokens.len() - 1,
        };
        known - self.computed()
    }

    fn computed(&self) -> usize {
        self.kv.as_ref().map_or(0, KvCache::len)
    }

    /// `count` tokens from `start` on and the number of rows that are wanted: those that an output token follows from.
    pub fn tokens_from(&self, start: usize, count: usize) -> (&[u32], usize) {
        let end = start + count;
        let wanted = end.saturating_sub(start.max(self.prompt_len - 1));
        (&self.tokens[start..end], wanted)
    }

    /// The question that a wanted row answers; `from_end` counts wanted rows of the segment from its end.
    pub fn question<'a>(&self, logits: &'a [f32], hidden: &'a [f32], from_end: usize) -> Question<'a> {
        let position = self.computed() - from_end - self.prompt_len;
        Question {
            logits,
            hidden,
            sampling: self.sampling,
            seed: self.seed,
            position: position as u32,
            claimed: self.tokens.get(self.prompt_len + position).copied(),
        }
    }

    /// Notes computed tokens.
    pub fn progress(&mut self, count: usize) {
        self.ticket.progress(count as u64);
    }

    /// Takes the next row. Returns whether the sequence has ended.
    pub fn take(&mut self, row: &Row, tokenizer: &Tokenizer) -> bool {
        let index = self.trace.len();
        self.trace.push(row.leaf);
        match &mut self.work {
            Work::Replay(check) => {
                check.note(index, row);
                false
            }
            Work::Generate(answer) => {
                if index >= answer.prefix_len {
                    self.tokens.push(row.token);
                }
                let Some(finish) = answer.take(index, row.token, tokenizer) else { return false };
                self.tokens.truncate(self.prompt_len + index + 1);
                answer.done(finish, &self.tokens, self.trace.root());
                true
            }
        }
    }

    /// Whether all rows of a replay are taken; sends its outcome then.
    pub fn finish_replay(&mut self) -> bool {
        let output = self.tokens.len() - self.prompt_len;
        match &mut self.work {
            Work::Replay(check) if self.trace.len() == output => {
                check.finish(output, self.trace.root());
                true
            }
            _ => false,
        }
    }

    /// Ends the sequence with an error.
    pub fn fail(&mut self, message: &str) {
        match &mut self.work {
            // The reader may be gone or slow; the closed channel then tells it that there is no more.
            Work::Generate(answer) => drop(answer.events.try_send(GenerateEvent::Failed(message.to_owned()))),
            Work::Replay(check) => {
                if let Some(answer) = check.answer.take() {
                    // The asker may be gone.
                    let _ = answer.send(Err(message.to_owned()));
                }
            }
        }
    }
}

impl Answer {
    /// Takes an output token, tells the reader unless it is of the prefix, and says whether it is the last.
    fn take(&mut self, index: usize, token: u32, tokenizer: &Tokenizer) -> Option<FinishReason> {
        let (mut text, stopped) = self.stop.push(&self.detokenizer.push(tokenizer.bytes(token)));
        let finish = if stopped || tokenizer.is_end(token) {
            Some(FinishReason::Stop)
        } else {
            (index + 1 == self.max_tokens).then_some(FinishReason::Length)
        };
        if finish.is_some() && !stopped {
            let (more, stopped) = self.stop.push(&self.detokenizer.finish());
            text += &more;
            if !stopped {
                text += &self.stop.finish();
            }
        }
        self.text += &text;
        if index >= self.prefix_len {
            // Room was checked before the step; a reader that is gone is noticed at the next one.
            let _ = self.events.try_send(GenerateEvent::Token { index: index as u32, id: token, text });
        }
        finish
    }

    fn done(&mut self, finish: FinishReason, tokens: &[u32], trace_root: [u8; 32]) {
        let output_ids = tokens[self.prompt_len..].to_vec();
        let event = GenerateEvent::Done {
            finish,
            prompt_tokens: self.prompt_len as u32,
            output_tokens: output_ids.len() as u32,
            output_ids,
            text: std::mem::take(&mut self.text),
            trace_root,
        };
        // As above.
        let _ = self.events.try_send(event);
    }
}

impl Check {
    fn note(&mut self, index: usize, row: &Row) {
        if row.demanded != row.token && self.first_mismatch.is_none() {
            self.first_mismatch = Some(index as u32);
        }
        self.max_margin = self.max_margin.max(row.margin);
        self.sum_of_margins += f64::from(row.margin);
    }

    fn finish(&mut self, output: usize, trace_root: [u8; 32]) {
        let outcome = ReplayOutcome {
            trace_root,
            first_mismatch: self.first_mismatch,
            max_margin: self.max_margin,
            mean_margin: (self.sum_of_margins / output.max(1) as f64) as f32,
        };
        if let Some(answer) = self.answer.take() {
            // The asker may be gone.
            let _ = answer.send(Ok(outcome));
        }
    }
}
