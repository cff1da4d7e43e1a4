//! The engine thread's loop: admit, step, repeat.
//!
//! A step is one forward over the next token of every decoding sequence and chunks of prefilling ones ([`plan`]). Whoever
//! waits for a place is taken in fair order ([`FairQueue`]) as soon as all keys and values that the request may need fit,
//! so nothing that runs ever has to stop for want of memory. Cancelled and late requests are dropped between steps.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::pace::Pace;
use super::plan::{Part, plan};
use super::prefix::PrefixCache;
use super::queue::FairQueue;
use super::row::{Answer, Question, RowError, Rows};
use super::sequence::Sequence;
use super::{Benchmark, Shared, Ticket, benchmark};
use crate::ForwardError;
use crate::kv::{BLOCK_TOKENS, KvCache};
use crate::model::{Decoder, Segment};

/// How long to wait for a slow reader before looking again, when nothing else is to be done.
const PAUSE: Duration = Duration::from_millis(5);
/// After so long a slow reader's sequence leaves its place to one that waits; it goes on when the reader has caught up.
const PARK_AFTER: Duration = Duration::from_secs(1);
/// Memory for logits: a replay wants those of all its tokens, which for 256 of them and a large vocabulary would be 256 MiB.
const LOGITS_BYTES: usize = 32 << 20;

/// A message to the engine thread.
// Nearly every message is the large one.
#[allow(clippy::large_enum_variant)]
pub(crate) enum Command {
    Start(Box<Sequence>),
    Benchmark(Ticket, oneshot::Sender<Result<Benchmark, String>>),
}

/// The state of the engine thread.
pub(super) struct Scheduler {
    model: Box<dyn Decoder>,
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    waiting: FairQueue<Sequence>,
    running: Vec<Sequence>,
    /// Sequences that left their places to others because their readers are slow.
    parked: Vec<Sequence>,
    prefixes: PrefixCache,
    pace: Pace,
    /// Which running sequence is offered the next prefill chunk first.
    turn: usize,
    /// Of the last step; kept for its memory.
    parts: Vec<Part>,
    needs: Vec<usize>,
    /// Of so many rows as are answered together; kept because touching new memory takes as long as computing some of them.
    logits: Vec<f32>,
}

impl Scheduler {
    pub fn new(model: Box<dyn Decoder>, shared: Arc<Shared>, commands: Receiver<Command>) -> Self {
        Self {
            model,
            shared,
            commands,
            waiting: FairQueue::default(),
            running: Vec::new(),
            parked: Vec::new(),
            prefixes: PrefixCache::default(),
            pace: Pace::default(),
            turn: 0,
            parts: Vec::new(),
            needs: Vec::new(),
            logits: Vec::new(),
        }
    }

    /// Runs until the last handle is gone and all work is done.
    pub fn run(mut self) {
        while self.receive() {
            let now = Instant::now();
            self.drop_ended(now);
            self.park(now);
            self.admit();
            self.publish();
            self.step();
            self.publish();
        }
    }

    /// Takes what has arrived; waits for it where there is nothing else to do. Returns whether to go on.
    fn receive(&mut self) -> bool {
        loop {
            let nobody_runs = self.running.is_empty();
            let nobody_waits = self.waiting.is_empty();
            let command = if nobody_runs && nobody_waits && self.parked.is_empty() {
                match self.commands.recv() {
                    Ok(command) => command,
                    Err(_) => return false,
                }
            } else if (!nobody_runs || nobody_waits) && self.running.iter().all(Sequence::is_paused) {
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
                Command::Start(sequence) => {
                    self.waiting.push(sequence.tenant(), sequence.most_tokens() as u64, *sequence);
                }
                Command::Benchmark(ticket, answer) => {
                    // The asker may be gone.
                    let _ = answer.send(self.benchmark());
                    drop(ticket);
                }
            }
        }
    }

    fn benchmark(&mut self) -> Result<Benchmark, String> {
        let context = self.shared.info.context_length;
        let tokens = benchmark::TOKENS.min(context as usize);
        self.make_room(self.model.kv_shape().bytes(tokens));
        benchmark::run(self.model.as_ref(), &self.shared.budget, context)
    }

    fn publish(&self) {
        let load = &self.shared.load;
        load.running.store(self.running.len(), Relaxed);
        load.kv_reusable.store(self.prefixes.unused_bytes(), Relaxed);
        let active = self.running.iter().filter(|sequence| !sequence.is_paused());
        let room = self.pace.until_room(active.map(Sequence::rest));
        load.room_in_ms.store(room.map_or(0, |room| room.as_millis() as u64), Relaxed);
    }

    /// Drops what nobody waits for any more and what is too late.
    fn drop_ended(&mut self, now: Instant) {
        let Self { running, waiting, parked, prefixes, shared, .. } = self;
        let totals = &shared.load.totals;
        let mut keep = |sequence: &mut Sequence| {
            if sequence.is_cancelled() {
                totals.cancelled.fetch_add(1, Relaxed);
            } else if sequence.is_late(now) {
                totals.late.fetch_add(1, Relaxed);
                sequence.expire();
            } else {
                return true;
            }
            sequence.leave(prefixes);
            false
        };
        running.retain_mut(&mut keep);
        parked.retain_mut(&mut keep);
        waiting.retain(&mut keep);
    }

    /// Takes sequences of slow readers out while others wait, and lets those whose readers have caught up wait again.
    fn park(&mut self, now: Instant) {
        let wanted = !self.waiting.is_empty();
        for mut sequence in self.running.extract_if(.., |sequence| {
            let since = sequence.paused_since(now);
            wanted && since.is_some_and(|since| now.duration_since(since) >= PARK_AFTER)
        }) {
            self.shared.load.totals.parked.fetch_add(1, Relaxed);
            sequence.leave(&mut self.prefixes);
            self.parked.push(sequence);
        }
        for sequence in self.parked.extract_if(.., |sequence| !sequence.is_paused()) {
            self.waiting.put_back(sequence.tenant(), sequence);
        }
    }

    /// Moves waiting sequences, in their order, to free places while their keys and values fit.
    fn admit(&mut self) {
        while self.running.len() < self.shared.max_sequences {
            let Some(sequence) = self.waiting.head() else { return };
            let most = sequence.most_tokens();
            let keys = sequence.reusable();
            let prefix = self.prefixes.find(keys, keys.len());
            let rest = most.saturating_sub(prefix.len() * BLOCK_TOKENS);
            let shape = self.model.kv_shape();
            if !self.make_room(shape.bytes(rest)) {
                return;
            }
            let kv = KvCache::reserve_after(prefix, shape, most, &self.shared.budget);
            let (Some(kv), Some(mut sequence)) = (kv, self.waiting.take()) else { return };
            let totals = &self.shared.load.totals;
            totals.looked_up.fetch_add(sequence.shareable_tokens(), Relaxed);
            totals.found.fetch_add(sequence.run(kv) as u64, Relaxed);
            self.running.push(sequence);
        }
    }

    /// Gives up kept blocks until `bytes` are free, if there are enough. Returns whether they are free.
    fn make_room(&mut self, bytes: u64) -> bool {
        let budget = &self.shared.budget;
        let free = || budget.total().saturating_sub(budget.used());
        if free().saturating_add(self.prefixes.unused_bytes()) < bytes {
            return false;
        }
        while free() < bytes {
            if !self.prefixes.evict() {
                return false;
            }
        }
        true
    }

    fn step(&mut self) {
        let ready = |sequence: &Sequence| if sequence.is_paused() { 0 } else { sequence.waiting_tokens() };
        self.needs.clear();
        self.needs.extend(self.running.iter().map(ready));
        self.turn = plan(&self.needs, self.turn, self.shared.step_tokens, &mut self.parts);
        if self.parts.is_empty() {
            return;
        }
        let started = Instant::now();
        let parts = std::mem::take(&mut self.parts);
        match self.compute(&parts) {
            Ok(rows) => self.distribute(&parts, rows),
            Err(error) => {
                let message = error.to_string();
                tracing::error!(%error, "a forward failed");
                parts.iter().for_each(|part| self.running[part.index].fail(&message));
                self.remove(&parts.iter().map(|part| part.index).collect::<Vec<_>>());
            }
        }
        self.note(&parts, started.elapsed());
        self.parts = parts;
    }

    /// Runs the forward and answers every wanted row. Rows come in the order of parts.
    fn compute(&mut self, parts: &[Part]) -> Result<Vec<Vec<Answer>>, ForwardError> {
        let mut caches: Vec<KvCache> = parts.iter().filter_map(|part| self.running[part.index].kv.take()).collect();
        let starts: Vec<usize> = caches.iter().map(KvCache::len).collect();
        let mut wanted = Vec::with_capacity(parts.len());
        let mut segments: Vec<Segment> = Vec::with_capacity(parts.len());
        for ((part, kv), start) in parts.iter().zip(&mut caches).zip(starts) {
            let (tokens, rows) = self.running[part.index].tokens_from(start, part.tokens);
            wanted.push(rows);
            segments.push(Segment { kv, start, tokens, wanted: rows });
        }
        let states = self.model.states(&mut segments);
        drop(segments);
        for (part, kv) in parts.iter().zip(caches) {
            let sequence = &mut self.running[part.index];
            sequence.kv = Some(kv);
            sequence.progress(part.tokens);
        }
        let states = states?;
        parts.iter().for_each(|part| self.running[part.index].share(&mut self.prefixes));
        self.answer_rows(parts, &wanted, &states)
    }

    /// Computes the logits of all rows, as many at a time as there is memory for, and answers them.
    fn answer_rows(
        &mut self,
        parts: &[Part],
        wanted: &[usize],
        states: &[f32],
    ) -> Result<Vec<Vec<Answer>>, ForwardError> {
        let (width, vocab_size) = (self.model.config().n_embd, self.model.config().vocab_size);
        let most = rows_at_once(vocab_size);
        let mut answers: Vec<Option<Answer>> = (0..states.len() / width).map(|_| None).collect();
        let pieces = states.chunks(most * width).zip(answers.chunks_mut(most));
        for (piece, (hidden, answers)) in pieces.enumerate() {
            let count = answers.len();
            if self.logits.len() < count * vocab_size {
                self.logits.resize(count * vocab_size, 0.0);
            }
            let logits = &mut self.logits[..count * vocab_size];
            self.model.logits(hidden, logits)?;
            let rows = piece * most..piece * most + count;
            let mut questions = questions(&mut self.running, parts, wanted, rows, Rows { logits, hidden, answers });
            let compute = self.model.compute();
            compute.pool.for_each_chunk(&mut questions, 1, |_, questions| {
                questions.iter_mut().for_each(|question| question.answer(compute.simd));
            });
        }
        let mut answers = answers.into_iter().flatten();
        Ok(wanted.iter().map(|count| answers.by_ref().take(*count).collect()).collect())
    }

    fn distribute(&mut self, parts: &[Part], rows: Vec<Vec<Answer>>) {
        let mut ended = Vec::new();
        for (part, rows) in parts.iter().zip(rows) {
            let sequence = &mut self.running[part.index];
            let mut end = false;
            for row in rows {
                end = match row {
                    Ok(row) => sequence.take(row, &self.shared.tokenizer),
                    Err(error) => {
                        match error {
                            RowError::Form(error) => sequence.refuse(error),
                            RowError::Sampler(error) => sequence.fail(&error.to_string()),
                        }
                        true
                    }
                };
                if end {
                    break;
                }
            }
            if end && let Some((output, most)) = sequence.answered() {
                self.pace.note_answer(output, most);
            }
            if end || sequence.finish_replay() {
                ended.push(part.index);
            }
        }
        self.remove(&ended);
    }

    fn remove(&mut self, ended: &[usize]) {
        let mut index = 0;
        self.running.retain_mut(|sequence| {
            index += 1;
            let stays = !ended.contains(&(index - 1));
            if !stays {
                sequence.leave(&mut self.prefixes);
            }
            stays
        });
    }

    /// Keeps the averages, and the totals for metrics.
    fn note(&mut self, parts: &[Part], elapsed: Duration) {
        let decoded = parts.iter().filter(|part| part.tokens == 1).count();
        let tokens: usize = parts.iter().map(|part| part.tokens).sum();
        self.pace.note_step(decoded, tokens - decoded, elapsed);
        self.shared.load.totals.note_step(parts.len(), decoded, tokens - decoded);
        let now = tokens as f64 / elapsed.as_secs_f64().max(1e-6);
        let speed = &self.shared.load.speed;
        let before = speed.load(Relaxed) as f64;
        let average = if before == 0.0 { now } else { before * 0.9 + now * 0.1 };
        speed.store(average.max(1.0) as u64, Relaxed);
    }
}

/// Rows of logits that are computed together.
fn rows_at_once(vocab_size: usize) -> usize {
    (LOGITS_BYTES / size_of::<f32>() / vocab_size.max(1)).max(1)
}

/// What to ask about the rows numbered `range` of a step. `wanted` rows belong to each part, one part after the other.
fn questions<'a>(
    running: &'a mut [Sequence],
    parts: &[Part],
    wanted: &[usize],
    range: Range<usize>,
    mut rows: Rows<'a>,
) -> Vec<Question<'a>> {
    let mut questions = Vec::with_capacity(range.len());
    let mut sequences = running.iter_mut().enumerate();
    let mut first = 0;
    for (part, wanted) in parts.iter().zip(wanted) {
        let Some((_, sequence)) = sequences.find(|(index, _)| *index == part.index) else { break };
        let (start, end) = (range.start.max(first), range.end.min(first + wanted));
        if start < end {
            sequence.ask(start - first, rows.split_off(end - start), &mut questions);
        }
        first += wanted;
    }
    questions
}
