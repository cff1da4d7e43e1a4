//! `PUT …/jobs/{uid}/input`: spooled to disk while it is hashed, then parsed line by line. Nothing of a bad input is kept. A small one
//! comes with its job: `POST …/jobs/{uid}`.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Path, State},
    http::StatusCode,
};
use futures::StreamExt;
use tokio::io::{AsyncBufReadExt, AsyncSeekExt, AsyncWriteExt, BufReader};

use super::error::{ApiFailure, Body as Whole};
use crate::{
    gateway::{
        Gateway, GatewayError,
        jobs::{check_spec, input_in_progress},
    },
    protocol::{
        internal::{Endpoint, InputLine, JobReport, JobSpec, MAX_INPUTS, MAX_WHOLE_INPUT, WholeJob},
        logprobs::MAX_TOP_LOGPROBS,
    },
    store::NewJob,
    verify::sampler::SamplerParams,
};

/// Largest input of a job, in bytes.
pub const MAX_INPUT: u64 = 200 << 20;
/// Longest line, in bytes: an infer frame carries it.
const MAX_LINE: usize = 900 << 10;
const MAX_TOKENS: u32 = 1 << 17;

pub(super) async fn put(
    State(gateway): State<Arc<Gateway>>,
    Path(uid): Path<String>,
    body: Body,
) -> Result<Json<JobReport>, ApiFailure> {
    gateway.known_job(&uid).await?;
    let (spool, hash) = spool(&gateway, body).await?;
    // Two inputs of one job at once would mix.
    let Some(_turn) = gateway.turns.take(&uid) else { return Err(input_in_progress(&uid).into()) };
    // While it was on its way another spec may have come, or another input.
    let job = gateway.known_job(&uid).await?;
    match job.input_hash {
        Some(kept) if kept == hash => return Ok(Json(gateway.job_report(&uid).await?)),
        Some(_) => {
            let message = format!("job {uid} has another input already, which cannot change");
            return Err(ApiFailure::new(StatusCode::CONFLICT, "InputConflict", message));
        }
        None => {}
    }
    if let Err(failure) = gateway.take_input(&uid, &job.spec, spool, hash).await {
        gateway.ledger.discard_input(&uid).await?;
        return Err(failure);
    }
    Ok(Json(gateway.job_report(&uid).await?))
}

/// A small job with all of its input.
pub(super) async fn take_whole(
    State(gateway): State<Arc<Gateway>>,
    Path(uid): Path<String>,
    Whole(WholeJob { spec, control, input }): Whole<WholeJob>,
) -> Result<Json<JobReport>, ApiFailure> {
    check_spec(&uid, &spec)?;
    if input.len() > MAX_WHOLE_INPUT {
        let message = format!("an input of more than {MAX_WHOLE_INPUT} bytes follows its job");
        return Err(ApiFailure::new(StatusCode::PAYLOAD_TOO_LARGE, "InputTooLarge", message));
    }
    let mut lines = Vec::new();
    for (number, text) in (1..).zip(input.lines()).filter(|(_, text)| !text.trim().is_empty()) {
        let line = parse(text.as_bytes(), &spec).map_err(|what| bad_line(number, &what))?;
        lines.push((line, rand::random()));
    }
    match lines.len().cmp(&(spec.total_requests as usize)) {
        std::cmp::Ordering::Greater => return Err(wrong_count(&spec, "more")),
        std::cmp::Ordering::Less => return Err(wrong_count(&spec, "fewer")),
        std::cmp::Ordering::Equal => {}
    }
    // Two inputs of one job at once would mix.
    let Some(_turn) = gateway.turns.take(&uid) else { return Err(input_in_progress(&uid).into()) };
    let input_hash = *blake3::hash(input.as_bytes()).as_bytes();
    let now_ms = gateway.clock.now_ms();
    gateway.ledger.take_job(NewJob { uid: uid.clone(), spec, control, lines, input_hash, now_ms }).await?;
    if control.cancelled {
        gateway.finish_if_settled(&uid).await?;
    }
    gateway.dispatch.notify_one();
    Ok(Json(gateway.job_report(&uid).await?))
}

/// The body in a file without a name, and its BLAKE3.
async fn spool(gateway: &Gateway, body: Body) -> Result<(tokio::fs::File, [u8; 32]), ApiFailure> {
    let disk = |error: std::io::Error| GatewayError::Io { what: "keeping the input", source: error };
    let mut file = tokio::fs::File::from_std(gateway.blobs.scratch().map_err(disk)?);
    let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0u64);
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk =
            chunk.map_err(|error| ApiFailure::invalid("BodyUnreadable", format!("the input broke off: {error}")))?;
        bytes += chunk.len() as u64;
        if bytes > MAX_INPUT {
            let message = format!("the input is larger than {} MiB: split the job", MAX_INPUT >> 20);
            return Err(ApiFailure::new(StatusCode::PAYLOAD_TOO_LARGE, "InputTooLarge", message));
        }
        hasher.update(&chunk);
        file.write_all(&chunk).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)?;
    file.rewind().await.map_err(disk)?;
    Ok((file, *hasher.finalize().as_bytes()))
}

impl Gateway {
    async fn take_input(
        &self,
        uid: &str,
        spec: &JobSpec,
        spool: tokio::fs::File,
        hash: [u8; 32],
    ) -> Result<(), ApiFailure> {
        let mut writer = self.ledger.begin_input(uid, spec, self.clock.now_ms()).await?;
        let mut reader = BufReader::new(spool);
        let (mut buffer, mut number) = (Vec::new(), 0u64);
        loop {
            buffer.clear();
            let length = reader
                .read_until(b'\n', &mut buffer)
                .await
                .map_err(|error| GatewayError::Io { what: "reading the input back", source: error })?;
            if length == 0 {
                break;
            }
            number += 1;
            if buffer.trim_ascii().is_empty() {
                continue;
            }
            let line = parse(&buffer, spec).map_err(|what| bad_line(number, &what))?;
            if writer.lines() >= spec.total_requests {
                return Err(wrong_count(spec, "more"));
            }
            writer.add(line, rand::random()).await?;
        }
        if writer.lines() < spec.total_requests {
            return Err(wrong_count(spec, "fewer"));
        }
        writer.finish(hash).await?;
        self.finish_if_settled(uid).await?;
        self.dispatch.notify_one();
        Ok(())
    }
}

fn bad_line(number: u64, what: &str) -> ApiFailure {
    ApiFailure::invalid("InvalidInput", format!("line {number} of the input: {what}; nothing of it was kept"))
}

fn wrong_count(spec: &JobSpec, how: &str) -> ApiFailure {
    let message = format!("the input has {how} lines than the job's totalRequests, {}", spec.total_requests);
    ApiFailure::invalid("InputCountMismatch", message)
}

fn parse(bytes: &[u8], spec: &JobSpec) -> Result<InputLine, String> {
    if bytes.len() > MAX_LINE {
        return Err(format!("{} bytes are more than the {MAX_LINE} that a line may have", bytes.len()));
    }
    let line: InputLine = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    check(&line, spec)?;
    Ok(line)
}

fn check(line: &InputLine, spec: &JobSpec) -> Result<(), String> {
    if line.custom_id.is_empty() || line.custom_id.len() > 512 {
        return Err("customId must have 1 to 512 bytes".into());
    }
    if spec.endpoint == Endpoint::Embeddings {
        if !line.messages.is_empty() || !line.prompt.is_empty() {
            return Err("an embedding request has inputs, no messages and no prompt".into());
        }
        if line.inputs.len() > MAX_INPUTS || line.inputs.is_empty() || line.inputs.iter().any(String::is_empty) {
            return Err(format!("an embedding request needs 1 to {MAX_INPUTS} inputs, none of them empty"));
        }
        if line.max_tokens != 1 {
            return Err("maxTokens of an embedding request must be 1".into());
        }
        return check_sampling(line);
    }
    if !line.inputs.is_empty() {
        return Err("only an embedding request has inputs".into());
    }
    match (spec.endpoint, line.messages.is_empty(), line.prompt.is_empty()) {
        (Endpoint::ChatCompletions, true, _) => return Err("a chat request needs at least one message".into()),
        (Endpoint::ChatCompletions, _, false) => return Err("a chat request has messages, not a prompt".into()),
        (Endpoint::Completions, false, _) => return Err("a completion request has a prompt, not messages".into()),
        (Endpoint::Completions, true, true) => return Err("a completion request needs a prompt".into()),
        _ => {}
    }
    check_sampling(line)
}

fn check_sampling(line: &InputLine) -> Result<(), String> {
    if line.max_tokens == 0 || line.max_tokens > MAX_TOKENS {
        return Err(format!("maxTokens must be 1 to {MAX_TOKENS}"));
    }
    if !(0.0..=2.0).contains(&line.temperature) {
        return Err("temperature must be 0 to 2".into());
    }
    SamplerParams::try_from(&line.sampling()).map_err(|error| error.to_string())?;
    if line.top_logprobs.is_some_and(|top| top > MAX_TOP_LOGPROBS) {
        return Err(format!("topLogprobs must be 0 to {MAX_TOP_LOGPROBS}"));
    }
    if line.stop.len() > 16 || line.stop.iter().any(|stop| stop.is_empty() || stop.len() > 256) {
        return Err("at most 16 stop strings of 1 to 256 bytes".into());
    }
    Ok(())
}
