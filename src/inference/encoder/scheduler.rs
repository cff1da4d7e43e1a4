//! The thread that owns the model: requests take turns, a group of texts at a time, so that a long one delays a short one by
//! one group.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::model::EncoderModel;
use crate::{ForwardError, LoadCounters, Ticket};

/// Texts are computed together up to so many tokens: enough to keep the threads busy, well below a second.
const GROUP_TOKENS: usize = 256;
/// A benchmark ends after this time and one forward.
const BENCHMARK: Duration = Duration::from_millis(800);

pub(super) enum Command {
    Embed { texts: Vec<Vec<u32>>, vectors: mpsc::Sender<Result<Vec<f32>, String>>, ticket: Ticket },
    Benchmark { answer: oneshot::Sender<Result<f64, String>>, ticket: Ticket },
}

/// A request under way.
struct Running {
    texts: Vec<Vec<u32>>,
    done: usize,
    vectors: mpsc::Sender<Result<Vec<f32>, String>>,
    ticket: Ticket,
}

pub(super) struct Scheduler {
    model: EncoderModel,
    load: Arc<LoadCounters>,
    commands: Receiver<Command>,
    running: VecDeque<Running>,
}

impl Scheduler {
    pub fn new(model: EncoderModel, load: Arc<LoadCounters>, commands: Receiver<Command>) -> Self {
        Self { model, load, commands, running: VecDeque::new() }
    }

    /// Works until the last handle is gone.
    pub fn run(mut self) {
        loop {
            if self.running.is_empty() {
                let Ok(command) = self.commands.recv() else { return };
                self.take(command);
            }
            while let Ok(command) = self.commands.try_recv() {
                self.take(command);
            }
            if let Some(request) = self.running.pop_front() {
                self.step(request);
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Embed { texts, vectors, ticket } => {
                self.running.push_back(Running { texts, done: 0, vectors, ticket });
            }
            Command::Benchmark { answer, ticket } => {
                let rate = benchmark(&self.model).map_err(|error| error.to_string());
                if let Ok(rate) = &rate {
                    self.load.speed.store(rate.max(1.0) as u64, Relaxed);
                }
                drop(ticket);
                // Whoever asked may be gone.
                let _ = answer.send(rate);
            }
        }
    }

    /// Computes the next group of a request and puts it back in line if there is more.
    fn step(&mut self, mut request: Running) {
        if request.vectors.is_closed() {
            return;
        }
        let rest = request.texts.get(request.done..).unwrap_or_default();
        let group: Vec<&[u32]> = rest.iter().take(group_len(rest)).map(Vec::as_slice).collect();
        let tokens = group.iter().map(|text| text.len()).sum::<usize>();
        match self.model.forward(&group) {
            Ok(vectors) => {
                for vector in vectors {
                    let vector = if vector.iter().all(|x| x.is_finite()) {
                        Ok(vector)
                    } else {
                        Err("the model gives a vector with a number that is not finite".to_owned())
                    };
                    // There is a place for each; an error means that nobody listens any more.
                    let _ = request.vectors.try_send(vector);
                }
            }
            Err(error) => {
                let _ = request.vectors.try_send(Err(error.to_string()));
                return;
            }
        }
        request.done += group.len();
        request.ticket.progress(tokens as u64);
        if request.done < request.texts.len() {
            self.running.push_back(request);
        }
    }
}

/// How many of the texts make the next group: at least one.
fn group_len(texts: &[Vec<u32>]) -> usize {
    let mut tokens = 0;
    let fits = texts.iter().take_while(|text| {
        tokens += text.len();
        tokens <= GROUP_TOKENS
    });
    fits.count().max(1)
}

/// Tokens a second over texts of 32 tokens, as many as a group holds.
fn benchmark(model: &EncoderModel) -> Result<f64, ForwardError> {
    let length = model.config.max_tokens.min(32);
    let text: Vec<u32> = (1..=length).map(|i| (i * 7919 % model.config.vocab_size) as u32).collect();
    let texts = vec![text.as_slice(); GROUP_TOKENS / length.max(1)];
    // The first forward pays for memory that is touched for the first time.
    model.forward(&texts[..1])?;
    let (started, mut tokens) = (Instant::now(), 0);
    while tokens == 0 || started.elapsed() < BENCHMARK {
        model.forward(&texts)?;
        tokens += texts.len() * length;
    }
    Ok(tokens as f64 / started.elapsed().as_secs_f64().max(1e-6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_filled_but_never_empty() {
        let texts = |lengths: &[usize]| lengths.iter().map(|length| vec![1; *length]).collect::<Vec<_>>();
        assert_eq!(group_len(&texts(&[100, 100, 56, 1])), 3);
        assert_eq!(group_len(&texts(&[512, 1])), 1);
        assert_eq!(group_len(&texts(&[3])), 1);
    }
}
