//! One request on its way: known tokens, keys and values, trace, and what to do with the next row.

use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::check::Check;
use super::chooser::Chooser;
use super::pace::Rest;
use super::prefix::{Chain, Key, PrefixCache};
use super::row::{Access, Question, Row, Rows};
use super::{
    AdmissionError, FinishReason, GenerateEvent, GenerateRequest, ReplayOutcome, ReplayRequest, Tenant, Ticket,
};
use crate::FormError;
use crate::form::FormState;
use crate::kv::{BLOCK_TOKENS, KvCache};
use crate::text::{Detokenizer, StopStrings, Tokenizer};
use xdc_grid_exact::trace::Trace;

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
    /// Prompt tokens that were not computed because their keys and values were there.
    cached_tokens: u32,
}

/// A request's own part, before it is given a place.
pub(super) struct Start {
    tokens: Vec<u32>,
    prompt_len: usize,
    most: usize,
    chooser: Chooser,
    top_logprobs: Option<u32>,
    tenant: Option<Tenant>,
    deadline: Option<Instant>,
    work: Work,
}

/// A request with its state.
pub(super) struct Sequence {
    start: Start,
    trace: Trace,
    /// Given back before the end is told: who hears of it finds the place free.
    ticket: Option<Ticket>,
    /// Names the blocks of its tokens; of a sequence that shares none there is none.
    chain: Option<Chain>,
    /// Since when its reader has been too slow.
    paused_since: Option<Instant>,
    /// Set when the sequence starts to run.
    pub kv: Option<KvCache>,
}

impl Start {
    /// `form` is the one that the request asks for, at its beginning.
    pub fn generate(request: GenerateRequest, form: Option<FormState>, events: mpsc::Sender<GenerateEvent>) -> Self {
        let GenerateRequest { prompt, prefix, max_tokens, sampling, seed, stop, top_logprobs, tenant, deadline } =
            request;
        let (prompt_len, prefix_len, max_tokens) = (prompt.len(), prefix.len(), max_tokens as usize);
        let answer = Answer {
            max_tokens,
            prompt_len,
            prefix_len,
            events,
            detokenizer: Detokenizer::default(),
            stop: StopStrings::new(&stop),
            text: String::new(),
            cached_tokens: 0,
        };
        Self {
            chooser: Chooser::new(sampling, seed, &prompt, form),
            tokens: [prompt, prefix].concat(),
            prompt_len,
            most: prompt_len + max_tokens,
            top_logprobs,
            tenant,
            deadline,
            work: Work::Generate(Box::new(answer)),
        }
    }

    /// A replay belongs to no tenant: what it says rests on nothing that was computed before.
    pub fn replay(
        request: ReplayRequest,
        form: Option<FormState>,
        answer: oneshot::Sender<Result<ReplayOutcome, AdmissionError>>,
    ) -> Self {
        let ReplayRequest { prompt, output, sampling, seed, top_logprobs } = request;
        let prompt_len = prompt.len();
        Self {
            chooser: Chooser::new(sampling, seed, &prompt, form),
            most: prompt_len + output.len(),
            tokens: [prompt, output].concat(),
            prompt_len,
            top_logprobs,
            tenant: None,
            deadline: None,
            work: Work::Replay(Box::new(Check::new(answer))),
        }
    }
}

impl Sequence {
    pub fn new(start: Start, ticket: Ticket) -> Self {
        let chain = start.tenant.map(Chain::new);
        Self { start, trace: Trace::new(), ticket: Some(ticket), chain, paused_since: None, kv: None }
    }

    /// Tokens that keys and values are needed for.
    pub fn most_tokens(&self) -> usize {
        self.start.most
    }

    pub fn tenant(&self) -> Option<Tenant> {
        self.start.tenant
    }

    /// Whether nobody waits for the outcome any more.
    pub fn is_cancelled(&self) -> bool {
        match &self.start.work {
            Work::Generate(answer) => answer.events.is_closed(),
            Work::Replay(check) => check.is_cancelled(),
        }
    }

    /// Whether its time is over.
    pub fn is_late(&self, now: Instant) -> bool {
        self.start.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// Whether the reader is so slow that more tokens would have no place. One place is kept for the end.
    pub fn is_paused(&self) -> bool {
        matches!(&self.start.work, Work::Generate(answer) if answer.events.capacity() < 2)
    }

    /// Since when it has been paused.
    pub fn paused_since(&mut self, now: Instant) -> Option<Instant> {
        self.paused_since = self.is_paused().then(|| self.paused_since.unwrap_or(now));
        self.paused_since
    }

    /// Known tokens that are not computed yet. The last token of a replay follows from the row before it.
    pub fn waiting_tokens(&self) -> usize {
        let known = match self.start.work {
            Work::Generate(_) => self.start.tokens.len(),
            Work::Replay(_) => self.start.tokens.len() - 1,
        };
        known - self.computed()
    }

    fn computed(&self) -> usize {
        self.kv.as_ref().map_or(0, KvCache::len)
    }

    /// What is left to do, at most.
    pub fn rest(&self) -> Rest {
        let waiting = self.waiting_tokens();
        let output = match self.start.work {
            Work::Generate(_) => self.start.most - self.start.tokens.len(),
            Work::Replay(_) => 0,
        };
        Rest { prefill: if waiting == 1 { 0 } else { waiting }, output }
    }

    /// The keys of the blocks that need not be computed where they are kept: those before the first row that is needed.
    pub fn reusable(&mut self) -> &[Key] {
        let Self { start, trace, chain: Some(chain), .. } = self else { return &[] };
        let computed_anew = start.prompt_len - 1 + trace.len();
        chain.extend(&start.tokens);
        let blocks = (computed_anew / BLOCK_TOKENS).min(chain.keys().len());
        &chain.keys()[..blocks]
    }

    /// Tokens that others may have computed already.
    pub fn shareable_tokens(&self) -> u64 {
        if self.chain.is_some() { (self.start.prompt_len - 1) as u64 } else { 0 }
    }

    /// Begins, or goes on, with what is stored in `kv`. Returns the tokens that were found there.
    pub fn run(&mut self, kv: KvCache) -> usize {
        let found = kv.len();
        self.progress(found);
        if let Work::Generate(answer) = &mut self.start.work
            && self.trace.is_empty()
        {
            answer.cached_tokens = found.min(answer.prompt_len) as u32;
        }
        self.kv = Some(kv);
        found
    }

    /// Shares the blocks that have become full, where the sequence shares any.
    pub fn share(&mut self, prefixes: &mut PrefixCache) {
        let (Some(chain), Some(kv)) = (&mut self.chain, &mut self.kv) else { return };
        while let Some(block) = kv.seal() {
            chain.extend(&self.start.tokens);
            let depth = kv.sealed_blocks() - 1;
            if let Some(key) = chain.keys().get(depth) {
                prefixes.keep(*key, depth, block);
            }
        }
    }

    /// Gives its place up, for good or until [`run`](Self::run); what it shares counts as used just now.
    pub fn leave(&mut self, prefixes: &mut PrefixCache) {
        let sealed = self.kv.take().map_or(0, |kv| kv.sealed_blocks());
        if let Some(chain) = &self.chain {
            prefixes.touch(chain.keys().get(..sealed).unwrap_or_default());
        }
    }

    /// `count` tokens from `start` on and the number of rows that are wanted: those that an output token follows from that
    /// was not drawn before.
    pub fn tokens_from(&self, start: usize, count: usize) -> (&[u32], usize) {
        let end = start + count;
        let first = self.start.prompt_len - 1 + self.trace.len();
        (&self.start.tokens[start..end], end.saturating_sub(start.max(first)))
    }

    /// Asks about wanted rows, from the one at `offset` on.
    pub fn ask<'a>(&'a mut self, offset: usize, mut rows: Rows<'a>, questions: &mut Vec<Question<'a>>) {
        let Start { tokens, prompt_len, chooser, top_logprobs, .. } = &mut self.start;
        let (position, top_logprobs) = (self.trace.len() + offset, *top_logprobs);
        let claimed = tokens.get(*prompt_len + position..).unwrap_or_default();
        if chooser.remembers() {
            let chooser = Access::Sole(chooser);
            questions.push(Question { rows, chooser, position: position as u32, claimed, top_logprobs });
            return;
        }
        let chooser = &*chooser;
        for index in 0..rows.answers.len() {
            questions.push(Question {
                rows: rows.split_off(1),
                chooser: Access::Shared(chooser),
                position: (position + index) as u32,
                claimed: claimed.get(index..).unwrap_or_default(),
                top_logprobs,
            });
        }
    }

    /// Notes computed tokens.
    pub fn progress(&mut self, count: usize) {
        if let Some(ticket) = &mut self.ticket {
            ticket.progress(count as u64);
        }
    }

    /// Takes the next row. Returns whether the sequence has ended.
    pub fn take(&mut self, row: Row, tokenizer: &Tokenizer) -> bool {
        let index = self.trace.len();
        self.trace.push(row.leaf);
        let Start { tokens, prompt_len, work, .. } = &mut self.start;
        match work {
            Work::Replay(check) => {
                check.note(index, row);
                false
            }
            Work::Generate(answer) => {
                if index >= answer.prefix_len {
                    tokens.push(row.token);
                }
                let Some(finish) = answer.take(index, row, tokenizer) else { return false };
                tokens.truncate(*prompt_len + index + 1);
                self.ticket = None;
                answer.done(finish, tokens, self.trace.root());
                true
            }
        }
    }

    /// Output tokens of an answer so far, and the most that it may have.
    pub fn answered(&self) -> Option<(usize, usize)> {
        match &self.start.work {
            Work::Generate(answer) => Some((self.trace.len(), answer.max_tokens)),
            Work::Replay(_) => None,
        }
    }

    /// Whether all rows of a replay are taken; sends its outcome then.
    pub fn finish_replay(&mut self) -> bool {
        let output = self.start.tokens.len() - self.start.prompt_len;
        match &mut self.start.work {
            Work::Replay(check) if self.trace.len() == output => {
                self.ticket = None;
                check.finish(output, self.trace.root());
                true
            }
            _ => false,
        }
    }

    /// Ends the sequence with an error of the engine.
    pub fn fail(&mut self, message: &str) {
        self.end(GenerateEvent::Failed(message.to_owned()), AdmissionError::Invalid(message.to_owned()));
    }

    /// Ends the sequence because its text cannot have the form that is asked for.
    pub fn refuse(&mut self, error: FormError) {
        self.end(GenerateEvent::Refused(error.clone()), AdmissionError::Form(error));
    }

    fn end(&mut self, event: GenerateEvent, error: AdmissionError) {
        self.ticket = None;
        match &mut self.start.work {
            // The reader may be gone or slow; the closed channel then tells it that there is no more.
            Work::Generate(answer) => drop(answer.events.try_send(event)),
            Work::Replay(check) => check.fail(error),
        }
    }

    /// Ends the sequence because its time is over.
    pub fn expire(&mut self) {
        self.ticket = None;
        if let Work::Generate(answer) = &mut self.start.work {
            // A place is kept for the end, and the reader may be gone.
            let _ = answer.events.try_send(GenerateEvent::DeadlineExceeded);
        }
    }
}

impl Answer {
    /// Takes an output token, tells the reader unless it is of the prefix, and says whether it is the last.
    fn take(&mut self, index: usize, row: Row, tokenizer: &Tokenizer) -> Option<FinishReason> {
        let Row { token, logprobs, completes_form, .. } = row;
        let (mut text, stopped) = self.stop.push(&self.detokenizer.push(tokenizer.bytes(token)));
        let finish = if stopped || completes_form || tokenizer.is_end(token) {
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
            let _ = self.events.try_send(GenerateEvent::Token { index: index as u32, id: token, text, logprobs });
        }
        finish
    }

    fn done(&mut self, finish: FinishReason, tokens: &[u32], trace_root: [u8; 32]) {
        let output_ids = tokens[self.prompt_len..].to_vec();
        let event = GenerateEvent::Done {
            finish,
            prompt_tokens: self.prompt_len as u32,
            cached_tokens: self.cached_tokens,
            output_tokens: output_ids.len() as u32,
            output_ids,
            text: std::mem::take(&mut self.text),
            trace_root,
        };
        // As above.
        let _ = self.events.try_send(event);
    }
}
