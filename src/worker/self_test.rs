//! Whether a loaded model answers its own audits.

use super::engine::AnswerEngine;
use crate::{
    inference::{GenerateEvent, GenerateRequest, ReplayRequest},
    verify::sampler::SamplerParams,
};

/// What the self-test asks, and for how many tokens.
const SELF_TEST: (&str, u32) = ("The capital of France is", 8);
/// How far, in logits, a token of its own answer may be behind the one of the replay, where the arithmetic is not exact.
const SELF_TEST_MARGIN: f32 = 1.0;

/// Generates a little and replays it: an engine whose replay differs from its own answer would fail every audit.
pub(super) async fn self_test(engine: &dyn AnswerEngine) -> Result<(), String> {
    if engine.is_encoder() {
        return self_test_encoder(engine).await;
    }
    let (text, max_tokens) = SELF_TEST;
    let (sampling, seed) = (SamplerParams::GREEDY, [0; 32]);
    let prompt = engine.tokenize(text).map_err(|error| error.to_string())?;
    let request = GenerateRequest {
        prompt: prompt.clone(),
        max_tokens,
        sampling: sampling.clone(),
        seed,
        ..GenerateRequest::default()
    };
    let mut events = engine.generate(request).await.map_err(|error| error.to_string())?;
    let (output, trace_root) = loop {
        match events.recv().await {
            Some(GenerateEvent::Token { .. }) => {}
            Some(GenerateEvent::Done { output_ids, trace_root, .. }) => break (output_ids, trace_root),
            Some(GenerateEvent::Failed(message)) => return Err(message),
            Some(GenerateEvent::DeadlineExceeded) => return Err("the answer took too long".into()),
            Some(GenerateEvent::Refused(_)) | None => return Err("the engine ended without an answer".into()),
        }
    };
    let replay = engine.replay(ReplayRequest { top_logprobs: None, prompt, output, sampling, seed }).await;
    let replay = replay.map_err(|error| error.to_string())?;
    if !engine.info().is_exact() {
        return near(replay.max_margin);
    }
    if replay.first_mismatch.is_some() || replay.trace_root != trace_root {
        return Err("replaying its own answer gave another trace: this machine cannot compute exactly".into());
    }
    Ok(())
}

fn near(margin: f32) -> Result<(), String> {
    // Written so that a NaN fails.
    if margin <= SELF_TEST_MARGIN {
        return Ok(());
    }
    Err(format!("replaying its own answer gave tokens that are {margin:.2} logits away: this device computes wrongly"))
}

/// As [`self_test`]: a text beside another must give the same bits as alone.
async fn self_test_encoder(engine: &dyn AnswerEngine) -> Result<(), String> {
    let text = engine.tokenize(SELF_TEST.0).map_err(|error| error.to_string())?;
    let longer = [text.as_slice(), &text].concat();
    let alone = first_vector(engine, vec![text.clone()]).await?;
    let beside = first_vector(engine, vec![text, longer]).await?;
    if alone.iter().map(|x| x.to_bits()).ne(beside.iter().map(|x| x.to_bits())) {
        return Err("computing its own vector again gave another one: this machine cannot compute exactly".into());
    }
    Ok(())
}

async fn first_vector(engine: &dyn AnswerEngine, texts: Vec<Vec<u32>>) -> Result<Vec<f32>, String> {
    let mut vectors = engine.embed(texts).map_err(|error| error.to_string())?;
    vectors.recv().await.ok_or("the engine ended without a vector")?
}
