//! The engine thread's loop: admit, step, repeat.
//!
//! A step is one forward over the next token of every decoding sequence and one chunk of one prefilling sequence. Decoding
//! comes first, and prefills take turns chunk by chunk, so nobody waits for more than a chunk.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::row::{Question, Row};
use super::sequence::Sequence;
use super::{Benchmark, Shared, Ticket, benchmark};
use crate::inference::ForwardError;
use crate::inference::kv::KvCache;
use crate::inference::model::{Model, Output, Segment};
use crate::verify::sampler::SamplerError;

/// Tokens of a prefill that are computed in one step; some 0.2 s of one small model on one core.
const PREFILL_CHUNK: usize = 64;
/// How long to wait for a slow reader before looking again, when nothing else is to be done.
const PAUSE: Duration = Duration::from_millis(5);

/// A message to the engine thread.
// Nearly every message is the large one.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Command {
    Start(Box<Sequence>),
    Benchmark(Ticket, oneshot::Sender<Result<Benchmark, String>>),
}

/// The state of the engine thread.
pub(super) struct Scheduler {
    model: Model,
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    /// Which running sequence is offered the next prefill chunk first.
    turn: usize,
}

/// A sequence's part in a step.
struct Part {
    /// Place in `running`.
    index: usize,
    tokens: usize,
}

impl Scheduler {
    pub fn new(model: Model, shared: Arc<Shared>, commands: Receiver<Command>) -> Self {
        Self { model, shared, commands, waiting: VecDeque::new(), running: Vec::new(), turn: 0 }
    }

    /// Runs until the last handle is gone and all work is done.
    pub fn run(mut self) {
        while self.receive() {
            self.drop_cancelled();
            self.admit();
            self.publish();
            self.step();
            self.publish();
        }
    }

    /// Takes what has arrived; waits for it where there is nothing else to do. Returns whether to go on.
    fn receive(&mut self) -> bool {
        loop {
            let command = if self.running.is_empty() && self.waiting.is_empty() {
                match self.commands.recv() {
                    Ok(command) => command,
                    Err(_) => return false,
                }
            } else if self.running.iter().all(Sequence::is_paused) {
                match self.commands.recv_timeout(PAUSE) {
                    Ok(command) => command,
                    Err(RecvTimeoutError::Timeout) => return true,
                    // Handles are gone but readers may still read.
                    Err(RecvTimeoutError::Disconnected) => {
                        std::thread::sleep(PAUSE);
                        return true;
                    }
                }
            } else {
                match self.commands.try_recv() {
                    Ok(command) => command,
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => return true,
                }
            };
            match command {
                Command::Start(sequence) => self.waiting.push_back(*sequence),
                Command::Benchmark(ticket, answer) => {
                    let outcome = benchmark::run(&self.model, &self.shared.budget, self.shared.info.context_length);
                    drop(ticket);
                    // The asker may be gone.
                    let _ = answer.send(outcome);
                }
            }
        }
    }

    fn publish(&self) {
        self.shared.load.running.store(self.running.len(), Relaxed);
    }

    fn drop_cancelled(&mut self) {
        self.running.retain(|sequence| !sequence.is_cancelled());
        self.waiting.retain(|sequence| !sequence.is_cancelled());
    }

    /// Moves waiting sequences, in order, to free places while their keys and values fit.
    fn admit(&mut self) {
        while self.running.len() < self.shared.max_sequences {
            let Some(mut sequence) = self.waiting.pop_front() else { return };
            let layers = self.model.n_layers();
            sequence.kv = KvCache::reserve(&self.model.config, layers, sequence.most_tokens(), &self.shared.budget);
            if sequence.kv.is_none() {
                self.waiting.push_front(sequence);
                return;
            }
            self.running.push(sequence);
        }
    }

    fn step(&mut self) {
        let parts = self.plan();
        if parts.is_empty() {
            return;
        }
        let started = Instant::now();
        match self.compute(&parts) {
            Ok(rows) => self.distribute(&parts, rows),
            Err(error) => {
                let message = error.to_string();
                tracing::error!(%error, "a forward failed");
                parts.iter().for_each(|part| self.running[part.index].fail(&message));
                self.remove(parts.iter().map(|part| part.index).collect());
            }
        }
        let tokens: usize = parts.iter().map(|part| part.tokens).sum();
        self.note_speed(tokens, started.elapsed());
    }

    /// Every decoding sequence's next token and one chunk of a prefill.
    fn plan(&mut self) -> Vec<Part> {
        let count = self.running.len();
        let ready = |index: &usize| !self.running[*index].is_paused();
        let waiting = |index: usize| self.running[index].waiting_tokens();
        let mut parts: Vec<Part> =
            (0..count).filter(ready).filter(|i| waiting(*i) == 1).map(|index| Part { index, tokens: 1 }).collect();
        let turns = (0..count).map(|i| (self.turn + i) % count);
        if let Some(index) = turns.filter(ready).find(|i| waiting(*i) > 1) {
            parts.push(Part { index, tokens: waiting(index).min(PREFILL_CHUNK) });
            self.turn = index + 1;
        }
        parts.sort_by_key(|part| part.index);
        parts
    }

    /// Runs the forward and answers every wanted row. Rows come in the order of parts.
    fn compute(&mut self, parts: &[Part]) -> Result<Vec<Vec<Result<Row, SamplerError>>>, ForwardError> {
        let mut caches: Vec<KvCache> = parts.iter().filter_map(|part| self.running[part.index].kv.take()).collect();
        let starts: Vec<usize> = caches.iter().map(KvCache::len).collect();
        let mut wanted = Vec::new();
        let mut segments: Vec<Segment> = Vec::new();
        for ((part, kv), start) in parts.iter().zip(&mut caches).zip(starts) {
            let (tokens, rows) = self.running[part.index].tokens_from(start, part.tokens);
            wanted.push(rows);
            segments.push(Segment { kv, start, tokens, wanted: rows });
        }
        let output = self.model.forward(&mut segments);
        drop(segments);
        for (part, kv) in parts.iter().zip(caches) {
            self.running[part.index].kv = Some(kv);
            self.running[part.index].progress(part.tokens);
        }
        Ok(self.answer_rows(parts, &wanted, &output?))
    }

    fn answer_rows(&self, parts: &[Part], wanted: &[usize], output: &Output) -> Vec<Vec<Result<Row, SamplerError>>> {
        let mut questions: Vec<Question> = Vec::new();
        for (part, wanted) in parts.iter().zip(wanted) {
            for from_end in (0..*wanted).rev() {
                let row = questions.len();
                let sequence = &self.running[part.index];
                questions.push(sequence.question(output.logits(row), output.hidden(row), from_end));
            }
        }
        let compute = self.model.compute();
        let mut answers: Vec<Option<Result<Row, SamplerError>>> = (0..questions.len()).map(|_| None).collect();
        compute
            .pool
            .for_each_chunk(&mut answers, 1, |index, answer| answer[0] = Some(questions[index].answer(compute.simd)));
        let mut answers = answers.into_iter().flatten();
        wanted.iter().map(|count| answers.by_ref().take(*count).collect()).collect()
    }

    fn distribute(&mut self, parts: &[Part], rows: Vec<Vec<Result<Row, SamplerError>>>) {
        let mut ended = Vec::new();
        for (part, rows) in parts.iter().zip(rows) {
            let sequence = &mut self.running[part.index];
            let mut end = false;
            for row in rows {
                end = match row {
                    Ok(row) => sequence.take(&row, &self.shared.tokenizer),
                    Err(error) => {
                        sequence.fail(&error.to_string());
                        true
                    }
                };
                if end {
                    break;
                }
            }
            if end || sequence.finish_replay() {
                ended.push(part.index);
            }
        }
        self.remove(ended);
    }

    fn remove(&mut self, ended: Vec<usize>) {
        let mut index = 0;
        self.running.retain(|_| {
            index += 1;
            !ended.contains(&(index - 1))
        });
    }

    /// Keeps a running average of tokens a second, for the time that refused requests are told to wait.
    fn note_speed(&self, tokens: usize, elapsed: Duration) {
        let now = tokens as f64 / elapsed.as_secs_f64().max(1e-6);
        let speed = &self.shared.load.speed;
        let before = speed.load(Relaxed) as f64;
        let average = if before == 0.0 { now } else { before * 0.9 + now * 0.1 };
        speed.store(average.max(1.0) as u64, Relaxed);
    }
}
