//! What the operator and the pods of a Local job say to each other: the input of a shard and its results; a report on the pod's last
//! breath; and its exit code. A shard is a ConfigMap, with the input from the operator and the results from the pod. The one shard
//! of a brief job is not: its pod carries the input, and makes a ConfigMap of the results (`docs/adr/0017-brief-local-jobs.md`).

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::internal::{InputLine, Outcome, ResultLine};

/// NDJSON of [`InputLine`]: what is to be answered.
pub const INPUT: &str = "input.jsonl";
/// NDJSON of [`ResultLine`] in input order: what is answered so far.
pub const RESULTS: &str = "results.jsonl";
/// A [`Part`]: what is to be believed of the results.
pub const PART: &str = "part.json";

/// A ConfigMap holds 1 MiB in all. This much of it is for the input.
pub const MAX_INPUT_BYTES: usize = 256 << 10;
/// Answers beyond this become failures `OutputTooLarge`.
pub const MAX_RESULT_BYTES: usize = 512 << 10;
/// With the two bounds above and a failure of at most 400 bytes for each request, a shard fits its ConfigMap.
pub const MAX_REQUESTS: u32 = 500;

/// Why a request whose answer does not fit failed.
pub const TOO_LARGE: &str = "the answers of its shard take more than 512 KiB; lower maxTokens or shardSize";

/// Label with the job's uid on everything that belongs to a Local job.
pub const JOB_UID_LABEL: &str = "xdcgrid.io/job-uid";

/// Environment variable with the input that a pod carries: what [`INPUT`] would hold, in base64.
pub const CARRIED_INPUT: &str = "GRID_SHARD_INPUT";
/// Longest input that is carried: in base64 it is well below the 128 KiB that Linux takes for one variable.
pub const MAX_CARRIED_BYTES: usize = 64 << 10;
/// Most tokens that may be asked of a job whose pod carries its input. Such a pod keeps no interim copies, so this is what is
/// computed again when it is lost: a minute or two of one processor core.
pub const MAX_CARRIED_TOKENS: u64 = 4_096;
/// How many times answers of a carried input are kept that are not all of them.
pub const MAX_UNFINISHED: u32 = 3;

/// Name of the ConfigMap with what a pod answered before it was stopped, from 1. All answers are in one that is named `answers`.
pub fn unfinished_name(answers: &str, number: u32) -> String {
    format!("{answers}-unfinished-{number}")
}

/// Name of the ConfigMap of one shard.
pub fn config_map_name(prefix: &str, index: u32) -> String {
    format!("{prefix}-shard-{index}")
}

/// How far a shard is. Results without a part that fits them are worth nothing: they are of another input or half written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// sha256 of the input that the results answer, hexadecimal.
    pub input_sha256: String,
    /// sha256 of the results, hexadecimal.
    pub results_sha256: String,
    /// Every request of the input has a result.
    pub complete: bool,
    #[serde(flatten)]
    pub counts: Counts,
}

/// What the results of a shard amount to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    pub completed: u32,
    pub failed: u32,
    pub prompt_tokens: u64,
    pub output_tokens: u64,
}

impl Counts {
    pub fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Completed { prompt_tokens, output_tokens, .. } => {
                self.completed = self.completed.saturating_add(1);
                self.prompt_tokens = self.prompt_tokens.saturating_add(u64::from(*prompt_tokens));
                self.output_tokens = self.output_tokens.saturating_add(u64::from(*output_tokens));
            }
            Outcome::Embedded { prompt_tokens, .. } => {
                self.completed = self.completed.saturating_add(1);
                self.prompt_tokens = self.prompt_tokens.saturating_add(u64::from(*prompt_tokens));
            }
            Outcome::Failed { .. } => self.failed = self.failed.saturating_add(1),
        }
    }
}

/// The termination message of a pod: Kubernetes keeps it in the pod's status, at most 4096 bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Stable CamelCase code.
    pub reason: String,
    /// A sentence a person can act on.
    pub message: String,
    #[serde(flatten)]
    pub counts: Counts,
}

/// Classes of exit codes of `grid-worker batch`. The pod failure policy of the child Job acts on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The shard's part is complete.
    Done,
    /// Something unexpected; counts as a try of the shard.
    Failed,
    /// The shard cannot be read; no further try of it can help.
    BadShard,
    /// The model's source gives another file than the one that was promised; no shard can be answered.
    ModelDigestMismatch,
    /// The model cannot be used here: too large, or no model that the engine knows; no shard can be answered.
    ModelUnusable,
    /// The model's source does not answer; counts as a try.
    ModelUnreachable,
    /// The results could not be handed back; counts as a try.
    NotHandedBack,
    /// It was asked to stop (SIGTERM); what was finished is handed back.
    Stopped,
}

impl Exit {
    pub const fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::BadShard => 3,
            Exit::ModelDigestMismatch => 4,
            Exit::ModelUnusable => 5,
            Exit::ModelUnreachable => 6,
            Exit::NotHandedBack => 7,
            // What a shell says of a process that SIGTERM ended.
            Exit::Stopped => 143,
        }
    }

    pub fn of(code: i32) -> Option<Self> {
        const ALL: [Exit; 8] = [
            Exit::Done,
            Exit::Failed,
            Exit::BadShard,
            Exit::ModelDigestMismatch,
            Exit::ModelUnusable,
            Exit::ModelUnreachable,
            Exit::NotHandedBack,
            Exit::Stopped,
        ];
        ALL.into_iter().find(|exit| i32::from(exit.code()) == code)
    }
}

pub fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// Reads the lines of a shard. `Err` is a sentence that says what is wrong.
pub fn read_input(text: &str) -> Result<Vec<InputLine>, String> {
    let lines: Result<Vec<InputLine>, _> =
        text.lines().filter(|line| !line.trim().is_empty()).map(serde_json::from_str).collect();
    lines.map_err(|error| format!("{INPUT} cannot be read: {error}"))
}

/// The results that a shard holds for exactly this input; nothing when they are of another input or half written. Anything
/// that answers no line of the input is passed over.
pub fn read_results(input: &str, results: &str, part: &Part) -> Vec<ResultLine> {
    if part.input_sha256 != sha256(input) || part.results_sha256 != sha256(results) {
        return Vec::new();
    }
    results.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ids::RequestId;

    #[test]
    fn exit_codes_are_told_apart_and_read_back() {
        for code in 0..=255 {
            if let Some(exit) = Exit::of(code) {
                assert_eq!(i32::from(exit.code()), code);
            }
        }
        assert_eq!(Exit::of(4), Some(Exit::ModelDigestMismatch));
        assert_eq!((Exit::of(137), Exit::of(-1)), (None, None));
    }

    #[test]
    fn results_of_another_input_or_half_written_ones_are_worth_nothing() {
        let outcome = Outcome::Failed { reason: "X".into(), message: String::new() };
        let line = ResultLine { index: 0, custom_id: "a".into(), request_id: RequestId([1; 32]), outcome };
        let results = serde_json::to_string(&line).unwrap() + "\n";
        let part =
            Part { input_sha256: sha256("in"), results_sha256: sha256(&results), complete: true, ..Part::default() };
        assert_eq!(read_results("in", &results, &part), [line]);
        assert!(read_results("other", &results, &part).is_empty());
        assert!(read_results("in", "half", &part).is_empty());
    }

    #[test]
    fn a_shard_with_the_most_of_everything_fits_a_config_map() {
        let failure = ResultLine {
            index: u32::MAX,
            custom_id: "x".repeat(256),
            request_id: RequestId([1; 32]),
            outcome: Outcome::Failed { reason: "OutputTooLarge".into(), message: TOO_LARGE.into() },
        };
        let failures = (serde_json::to_string(&failure).unwrap().len() + 1) * MAX_REQUESTS as usize;
        assert!(MAX_INPUT_BYTES + MAX_RESULT_BYTES + failures + 4096 < 1 << 20);
    }
}
