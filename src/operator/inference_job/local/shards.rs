//! Pure: an input in shards, each of which fits its ConfigMap together with its results.

use k8s_openapi::{
    api::core::v1::{ConfigMap, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::Resource;

use super::{NAME_ANNOTATION, labels, validate::LocalJob};
use crate::{
    operator::inference_job::output::Frame,
    protocol::{
        internal::InputLine,
        shard::{INPUT, MAX_INPUT_BYTES, MAX_REQUESTS, MAX_RESULT_BYTES, config_map_name},
    },
};

/// An index of a Job keeps a pod object; so many are still cheap.
pub const MAX_SHARDS: u32 = 2_000;
/// What a token of an answer takes at most, as a rule: most take four bytes, few more than six.
const TOKEN_BYTES: usize = 6;
/// What is written of a token, or of an alternative to it, when log-probabilities were asked for.
const LOGPROB_BYTES: usize = 48;
/// What a vector of 1024 dimensions takes, in base64; most models have fewer.
const VECTOR_BYTES: usize = 5_500;
/// What a result takes besides its text.
const RESULT_BYTES: usize = 512;

/// Why an input cannot be cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotCut {
    #[error(
        "line {0} has more than {MAX_INPUT_BYTES} bytes, the most that placement.target Local takes; shorten it or use Grid"
    )]
    LineTooLong(u32),
    #[error(
        "the input makes more than {MAX_SHARDS} shards; raise workload.shardSize, lower maxTokens or split the input into several jobs"
    )]
    TooManyShards,
}

/// One shard: its number, its requests, and their lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    pub index: u32,
    pub requests: u32,
    /// The most that its answers may have.
    pub tokens: u64,
    pub input: String,
}

/// Cuts a stream of requests; feed it every line, then call `finish`.
#[derive(Debug)]
pub struct Cutter {
    shard_size: u32,
    open: Shard,
    /// What the answers of the open shard may take.
    answers: usize,
}

impl Cutter {
    /// For this many requests; so many that they cannot fit are refused before anything is written.
    pub fn new(shard_size: u32, requests: u32) -> Result<Self, CannotCut> {
        let shard_size = shard_size.clamp(1, MAX_REQUESTS);
        if requests.div_ceil(shard_size) > MAX_SHARDS {
            return Err(CannotCut::TooManyShards);
        }
        let open = Shard { index: 0, requests: 0, tokens: 0, input: String::new() };
        Ok(Cutter { shard_size, open, answers: 0 })
    }

    /// Takes a request and its line of JSON without line break; gives the shard that it no longer fits into.
    pub fn push(&mut self, request: &InputLine, line: &str) -> Result<Option<Shard>, CannotCut> {
        if line.len() + 1 > MAX_INPUT_BYTES {
            return Err(CannotCut::LineTooLong(request.index + 1));
        }
        let answer = answer_bytes(request);
        let full = self.open.requests >= self.shard_size
            || self.open.input.len() + line.len() + 1 > MAX_INPUT_BYTES
            || self.answers.saturating_add(answer) > MAX_RESULT_BYTES;
        let closed = if full && self.open.requests > 0 { Some(self.close()?) } else { None };
        self.open.input.push_str(line);
        self.open.input.push('\n');
        self.open.requests += 1;
        self.open.tokens = self.open.tokens.saturating_add(request.max_tokens.into());
        self.answers = self.answers.saturating_add(answer);
        Ok(closed)
    }

    /// The last shard.
    pub fn finish(mut self) -> Result<Option<Shard>, CannotCut> {
        if self.open.requests > 0 { self.close().map(Some) } else { Ok(None) }
    }

    fn close(&mut self) -> Result<Shard, CannotCut> {
        if self.open.index >= MAX_SHARDS {
            return Err(CannotCut::TooManyShards);
        }
        self.answers = 0;
        let next = Shard { index: self.open.index + 1, requests: 0, tokens: 0, input: String::new() };
        Ok(std::mem::replace(&mut self.open, next))
    }
}

/// What the answer of a request may take.
fn answer_bytes(request: &InputLine) -> usize {
    let tokens = (request.max_tokens as usize).saturating_mul(TOKEN_BYTES);
    let vectors = request.inputs.len().saturating_mul(VECTOR_BYTES);
    let told = request.top_logprobs.map_or(0, |top| (top as usize + 1) * LOGPROB_BYTES);
    let told = (request.max_tokens as usize).saturating_mul(told);
    tokens.saturating_add(told).saturating_add(vectors).saturating_add(RESULT_BYTES)
}

/// The ConfigMap of a shard. The operator owns its input, the pod its results.
pub fn config_map(local: &LocalJob, frame: &Frame, shard: &Shard, account: &ServiceAccount) -> ConfigMap {
    ConfigMap {
        metadata: belongings(local, frame, config_map_name(&local.name, shard.index), account),
        data: Some([(INPUT.to_owned(), shard.input.clone())].into()),
        ..ConfigMap::default()
    }
}

/// Metadata of what belongs to a job.
pub fn metadata(local: &LocalJob, frame: &Frame, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(frame.namespace.clone()),
        labels: Some(labels(&frame.uid)),
        annotations: Some([(NAME_ANNOTATION.to_owned(), frame.name.clone())].into()),
        owner_references: local.owner.clone().map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// The same for what is of no use without the identity of the job's pods, and goes with it.
pub fn belongings(local: &LocalJob, frame: &Frame, name: String, account: &ServiceAccount) -> ObjectMeta {
    let owner = account.owner_ref(&()).map(|owner| vec![owner]);
    ObjectMeta { owner_references: owner, ..metadata(local, frame, name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(index: u32, max_tokens: u32) -> InputLine {
        InputLine { prompt: "x".into(), max_tokens, ..InputLine::blank(index, format!("line-{index}")) }
    }

    fn cut(shard_size: u32, n: u32, max_tokens: u32, line: &str) -> Result<Vec<Shard>, CannotCut> {
        let mut cutter = Cutter::new(shard_size, 0)?;
        let mut shards = Vec::new();
        for index in 0..n {
            shards.extend(cutter.push(&request(index, max_tokens), line)?);
        }
        shards.extend(cutter.finish()?);
        Ok(shards)
    }

    #[test]
    fn no_request_is_lost_and_shards_are_numbered_from_zero() {
        let shards = cut(3, 7, 8, "line").unwrap();
        assert_eq!(
            shards.iter().map(|shard| (shard.index, shard.requests)).collect::<Vec<_>>(),
            [(0, 3), (1, 3), (2, 1)]
        );
        assert_eq!(shards[2].input, "line\n");
        assert_eq!(shards.iter().map(|shard| shard.tokens).collect::<Vec<_>>(), [24, 24, 8]);
        assert_eq!(cut(3, 0, 8, "line").unwrap(), []);
    }

    #[test]
    fn a_shard_is_closed_before_its_input_or_its_answers_outgrow_a_config_map() {
        let line = "x".repeat(MAX_INPUT_BYTES / 2 - 1);
        assert_eq!(cut(500, 4, 8, &line).unwrap().len(), 2);
        let long_answers = cut(500, 8, 32_768, "line").unwrap();
        assert!(long_answers.iter().all(|shard| shard.requests == 2), "{long_answers:?}");
    }

    #[test]
    fn what_cannot_be_cut_says_what_to_do() {
        let error = cut(10, 1, 8, &"x".repeat(MAX_INPUT_BYTES)).unwrap_err();
        assert_eq!(error, CannotCut::LineTooLong(1));
        assert_eq!(cut(1, MAX_SHARDS, 8, "x").unwrap().len(), MAX_SHARDS as usize);
        assert!(cut(1, MAX_SHARDS + 1, 8, "x").unwrap_err().to_string().contains("raise workload.shardSize"));
        assert_eq!(Cutter::new(1, MAX_SHARDS + 1).unwrap_err(), CannotCut::TooManyShards, "before anything is written");
    }
}
