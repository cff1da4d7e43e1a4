//! The runs: one prompt alone, one answer alone, that answer checked, and several requests together.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::mpsc::Receiver;

use super::progress::Progress;
use crate::{
    inference::{GenerateEvent, GenerateRequest, ReplayRequest},
    verify::sampler::SamplerParams,
    worker::AnswerEngine,
};

/// What a request of the runs looks like, and how many there are at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shape {
    pub prompt_tokens: u32,
    pub output_tokens: u32,
    pub sequences: u32,
}

/// Tokens a second, over several runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Rate {
    pub median: f64,
    pub least: f64,
    pub most: f64,
    pub n: usize,
}

/// Work that was done in a time.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Work {
    pub prompt_tokens: f64,
    pub output_tokens: f64,
    pub seconds: f64,
}

/// All that was measured.
pub(super) struct Measured {
    pub prefill: Rate,
    pub decode: Option<Rate>,
    pub decode_together: Option<Rate>,
    /// Tokens of answers that are checked as an audit does, over the whole time of the check.
    pub replay: Option<Rate>,
    /// Of the runs with several requests together.
    pub work: Work,
}

impl Rate {
    fn of(mut runs: Vec<f64>) -> Option<Self> {
        runs.sort_by(f64::total_cmp);
        let (least, most) = (*runs.first()?, *runs.last()?);
        Some(Rate { median: *runs.get(runs.len() / 2)?, least, most, n: runs.len() })
    }
}

/// Measures everything `runs` times, after a run that pays for memory touched for the first time.
pub(super) async fn all(
    engine: &dyn AnswerEngine,
    shape: &Shape,
    runs: usize,
    progress: &mut Progress<'_>,
) -> Result<Measured, String> {
    if engine.is_encoder() {
        return encoder(engine, runs, progress).await;
    }
    let Shape { prompt_tokens, output_tokens, sequences } = *shape;
    progress.step("warming up");
    let warm = Shape { prompt_tokens: shape.prompt_tokens.min(16), output_tokens: 2, sequences: 1 };
    together(engine, &warm, 0).await?;
    let (mut prefill, mut decode, mut decode_together, mut replay) = (vec![], vec![], vec![], vec![]);
    let mut work = Work::default();
    for run in 1..=runs {
        // One token is made with the last of the prompt, so the time to it is that of the prompt.
        progress.step(format_args!("run {run} of {runs}: reading a prompt of {prompt_tokens} tokens"));
        let only_prompt = Shape { output_tokens: 1, sequences: 1, ..*shape };
        let read = together(engine, &only_prompt, run).await?;
        prefill.push(f64::from(shape.prompt_tokens) / read.first_token.as_secs_f64().max(1e-9));
        progress.step(format_args!("run {run} of {runs}: writing {output_tokens} tokens, one answer"));
        let alone = together(engine, &Shape { sequences: 1, ..*shape }, run).await?;
        decode.extend(alone.rate());
        progress.step(format_args!("run {run} of {runs}: checking that answer"));
        let asked = request(shape, engine.info().vocab_size, run, 0);
        for output in alone.answers {
            replay.push(check(engine, &asked, output).await?);
        }
        progress
            .step(format_args!("run {run} of {runs}: writing {output_tokens} tokens, {sequences} answers at a time"));
        let several = together(engine, shape, run).await?;
        decode_together.extend(several.rate());
        work.prompt_tokens += f64::from(shape.prompt_tokens) * f64::from(shape.sequences);
        work.output_tokens += several.tokens as f64;
        work.seconds += several.whole.as_secs_f64();
    }
    let prefill = Rate::of(prefill).ok_or("no run was made")?;
    let [decode, decode_together, replay] = [decode, decode_together, replay].map(Rate::of);
    Ok(Measured { prefill, decode, decode_together, replay, work })
}

async fn encoder(engine: &dyn AnswerEngine, runs: usize, progress: &mut Progress<'_>) -> Result<Measured, String> {
    let mut rates = vec![];
    for run in 1..=runs {
        progress.step(format_args!("run {run} of {runs}: reading texts"));
        let rate = engine.benchmark().await.map_err(|error| error.to_string())?;
        rates.push(rate.prefill_tokens_per_second);
    }
    let prefill = Rate::of(rates).ok_or("no run was made")?;
    let work = Work { prompt_tokens: prefill.median, output_tokens: 0.0, seconds: 1.0 };
    Ok(Measured { prefill, decode: None, decode_together: None, replay: None, work })
}

/// One run of several requests at once.
struct Run {
    /// From the start to the first token of any.
    first_token: Duration,
    /// From the moment when every answer has a token to the end.
    decoding: Duration,
    /// Tokens made in that time.
    decoded: usize,
    whole: Duration,
    tokens: usize,
    /// The output tokens of every answer.
    answers: Vec<Vec<u32>>,
}

impl Run {
    fn rate(&self) -> Option<f64> {
        (self.decoded > 0 && !self.decoding.is_zero()).then(|| self.decoded as f64 / self.decoding.as_secs_f64())
    }
}

async fn together(engine: &dyn AnswerEngine, shape: &Shape, run: usize) -> Result<Run, String> {
    let started = Instant::now();
    let mut receivers = vec![];
    for sequence in 0..shape.sequences {
        let request = request(shape, engine.info().vocab_size, run, sequence);
        receivers.push(engine.generate(request).await.map_err(|error| error.to_string())?);
    }
    let heard = futures::future::try_join_all(receivers.into_iter().map(listen)).await?;
    let (times, answers): (Vec<_>, Vec<_>) = heard.into_iter().unzip();
    let first = times.iter().filter_map(|times| times.first()).min().ok_or("no token came")?;
    let all_begun = times.iter().filter_map(|times| times.first()).max().ok_or("no token came")?;
    let end = times.iter().flatten().max().ok_or("no token came")?;
    Ok(Run {
        first_token: *first - started,
        decoding: *end - *all_begun,
        decoded: times.iter().flatten().filter(|time| *time > all_begun).count(),
        whole: started.elapsed(),
        tokens: times.iter().map(Vec::len).sum(),
        answers,
    })
}

/// Tokens a second of an answer that is computed again as one prefill, every token compared.
async fn check(engine: &dyn AnswerEngine, asked: &GenerateRequest, output: Vec<u32>) -> Result<f64, String> {
    let GenerateRequest { prompt, sampling, seed, .. } = asked.clone();
    let tokens = output.len() as f64;
    let began = Instant::now();
    let replay = engine.replay(ReplayRequest { prompt, output, sampling, seed, top_logprobs: None });
    let outcome = replay.await.map_err(|error| error.to_string())?;
    match outcome.first_mismatch {
        None => Ok(tokens / began.elapsed().as_secs_f64().max(1e-9)),
        Some(at) => Err(format!(
            "token {at} of an answer is another when it is computed again on this machine; please report it"
        )),
    }
}

/// When each token of an answer came, and the output tokens.
async fn listen(mut events: Receiver<GenerateEvent>) -> Result<(Vec<Instant>, Vec<u32>), String> {
    let mut times = vec![];
    loop {
        match events.recv().await {
            Some(GenerateEvent::Token { .. }) => times.push(Instant::now()),
            Some(GenerateEvent::Done { output_ids, .. }) => return Ok((times, output_ids)),
            Some(GenerateEvent::Failed(message)) => return Err(message),
            Some(GenerateEvent::Refused(error)) => return Err(error.to_string()),
            Some(GenerateEvent::DeadlineExceeded) | None => return Err("the engine ended without an answer".into()),
        }
    }
}

/// Tokens without meaning, other ones in every request, so that nothing is there already.
fn request(shape: &Shape, vocab_size: u32, run: usize, sequence: u32) -> GenerateRequest {
    let start = run as u64 * 104_729 + u64::from(sequence) * 15_485_863;
    let token = |place: u32| ((start + u64::from(place + 1) * 7_919) % u64::from(vocab_size.max(1))) as u32;
    let mut seed = [0; 32];
    seed[..4].copy_from_slice(&sequence.to_le_bytes());
    GenerateRequest {
        prompt: (0..shape.prompt_tokens).map(token).collect(),
        max_tokens: shape.output_tokens,
        // An answer that takes the likeliest tokens soon goes in circles or ends.
        sampling: SamplerParams { temperature: 1.0, ..SamplerParams::GREEDY },
        seed,
        ..GenerateRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_counts_and_the_spread_is_told() {
        let rate = Rate::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((rate.median, rate.least, rate.most, rate.n), (2.0, 1.0, 3.0, 3));
        assert_eq!(Rate::of(vec![]), None);
    }

    #[test]
    fn no_two_requests_share_a_beginning() {
        let shape = Shape { prompt_tokens: 8, output_tokens: 2, sequences: 2 };
        let prompts: std::collections::BTreeSet<_> = (0..3)
            .flat_map(|run| (0..2).map(move |sequence| request(&shape, 50_000, run, sequence).prompt[0]))
            .collect();
        assert_eq!(prompts.len(), 6);
        assert!(request(&shape, 100, 1, 1).prompt.iter().all(|token| *token < 100));
    }
}
