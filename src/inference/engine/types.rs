//! What goes into and comes out of the engine.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::FormError;
use crate::KvType;
use crate::accelerator::Processor;
use xdc_grid_exact::profile::is_exact;
use xdc_grid_exact::sampler::SamplerParams;

/// How an engine is set up.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// What decoders are computed on.
    pub processor: Processor,
    /// Compute threads of the CPU; see [`threads_from_cgroup`](crate::threads_from_cgroup).
    pub threads: usize,
    /// Limits the context below what the model was trained for.
    pub context_length: Option<u32>,
    /// Memory for keys and values of all sequences.
    pub kv_budget_bytes: u64,
    /// How they are stored.
    pub kv_type: KvType,
    /// Sequences that are computed at the same time, in turns.
    pub max_sequences: usize,
    /// Requests that wait for a turn before more are refused.
    pub max_queue: usize,
    /// Most tokens of one step, decoded and prefilled together: what bounds how long a step lasts.
    pub step_tokens: usize,
    /// Runs only the first layers. For tests of verification: this is what a cheating worker would do.
    pub layers: Option<usize>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            processor: Processor::Cpu,
            threads: crate::threads_from_cgroup(),
            context_length: None,
            kv_budget_bytes: 1 << 30,
            kv_type: KvType::default(),
            max_sequences: 4,
            max_queue: 16,
            step_tokens: 256,
            layers: None,
        }
    }
}

/// What is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    pub architecture: String,
    /// Tokens of prompt and answer together.
    pub context_length: u32,
    pub vocab_size: u32,
    pub n_layers: u32,
    pub n_params: u64,
    pub file_bytes: u64,
    /// Names the arithmetic and, behind a plus sign where the engine writes text, how forms are kept to: engines with the same profile and
    /// model file give the same bits.
    pub kernel_profile: String,
    pub has_chat_template: bool,
    /// Hash of the logits of a fixed prompt, computed at load in two ways that must agree. Equal for all honest workers
    /// with the same model file and kernel profile, where that is exact.
    pub self_test: [u8; 32],
}

impl ModelInfo {
    /// Whether the same bits come out whenever and wherever something is computed with this profile.
    pub fn is_exact(&self) -> bool {
        is_exact(&self.kernel_profile)
    }
}

/// Who asks, as a hash: requests of one tenant share computed prompts and a turn in the queue, those of different ones never
/// share anything whose time could be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant([u8; 32]);

impl Tenant {
    /// The tenant of a name: a namespace, an account, an API key.
    pub fn of(name: &[u8]) -> Self {
        Self(blake3::derive_key("xdc-grid 2026-11 engine tenant v1", name))
    }

    /// Its hash, for salts.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Most alternatives that are told with a token.
pub const MAX_TOP_LOGPROBS: u32 = 20;

/// A request for an answer. The default has no prompt and is refused: set at least `prompt` and `max_tokens`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerateRequest {
    pub prompt: Vec<u32>,
    /// Output tokens that a former worker has delivered already. They are taken as they are and count as output.
    pub prefix: Vec<u32>,
    /// Most output tokens, the prefix included.
    pub max_tokens: u32,
    /// Temperature, penalties, bias, the form that the text must have: everything that decides which token follows.
    pub sampling: SamplerParams,
    pub seed: [u8; 32],
    /// Texts that end the answer and are not part of it.
    pub stop: Vec<String>,
    /// Says log-probabilities with every token: of the token itself and of so many alternatives, 0 to [`MAX_TOP_LOGPROBS`].
    pub top_logprobs: Option<u32>,
    /// Whose request it is. `None` shares computed prompts with nobody, and a turn with all others that have no tenant.
    pub tenant: Option<Tenant>,
    /// When the request ends with [`GenerateEvent::DeadlineExceeded`], whether it has begun or not.
    pub deadline: Option<Instant>,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FinishReason {
    /// The model or a stop string ended it, or it has the form that was asked for and nothing can follow.
    Stop,
    /// It has as many tokens as were asked for.
    Length,
    /// Nobody reads it any more.
    Cancelled,
}

/// How likely a token was, by the model's own distribution: before temperature, penalties, bias and form.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Natural logarithm.
    pub logprob: f32,
    /// The most likely tokens with theirs, from high to low, as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

/// What a request yields, in this order: tokens, then one `Done`, `Failed`, `Refused` or `DeadlineExceeded`.
#[derive(Debug, Clone, PartialEq)]
pub enum GenerateEvent {
    Token {
        /// Counts output tokens from 0, the prefix included.
        index: u32,
        id: u32,
        /// Text that became complete with this token; empty for control tokens and while a character or a possible stop
        /// string is unfinished.
        text: String,
        /// Where the request asked for them.
        logprobs: Option<Box<TokenLogprobs>>,
    },
    Done {
        finish: FinishReason,
        prompt_tokens: u32,
        /// Prompt tokens whose keys and values were there already.
        cached_tokens: u32,
        output_tokens: u32,
        /// All output tokens: the prefix, what followed, and the token that ended the answer, if one did.
        output_ids: Vec<u32>,
        /// The text of all output tokens, up to a stop string.
        text: String,
        /// Root over the trace of all output tokens, see [`xdc_grid_exact::trace`].
        trace_root: [u8; 32],
    },
    Failed(String),
    /// The answer cannot go on in the form that the request asks for; nobody else could either. The tokens so far are told.
    Refused(FormError),
    /// The request's deadline has passed; the tokens so far are told.
    DeadlineExceeded,
}

/// A request to check an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayRequest {
    pub prompt: Vec<u32>,
    pub output: Vec<u32>,
    pub sampling: SamplerParams,
    pub seed: [u8; 32],
    /// As in [`GenerateRequest`]: finds the log-probabilities that an honest worker told.
    pub top_logprobs: Option<u32>,
}

/// What a replay found.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayOutcome {
    /// The root that an honest worker with the same kernel profile has for these tokens.
    pub trace_root: [u8; 32],
    /// The first output index whose token is not the one that the seed demands.
    pub first_mismatch: Option<u32>,
    /// How far, in logits, the worst token is behind the demanded one (at most 5).
    pub max_margin: f32,
    pub mean_margin: f32,
    /// Of every output token, where they were asked for; else none.
    pub logprobs: Vec<TokenLogprobs>,
}

/// Measured speed with an empty context, one sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Benchmark {
    pub prefill_tokens_per_second: f64,
    pub decode_tokens_per_second: f64,
}

/// How busy an engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EngineLoad {
    /// Sequences in computation.
    pub running: usize,
    /// Requests that wait.
    pub queued: usize,
    /// Bytes of keys and values that are reserved or kept for reuse.
    pub kv_used_bytes: u64,
    /// The part of them that nobody computes with: it is given up when a request needs the room.
    pub kv_reusable_bytes: u64,
    pub kv_budget_bytes: u64,
}

/// Why a request was not taken.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AdmissionError {
    #[error("all places are taken; try again in {} s", retry_after.as_secs())]
    Busy { retry_after: Duration },
    #[error("{prompt} prompt tokens and {output} output tokens do not fit into the context of {context} tokens")]
    Context { prompt: usize, output: usize, context: u32 },
    #[error("the request needs {needed} bytes of key-value memory, more than the {budget} there are")]
    Memory { needed: u64, budget: u64 },
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Form(#[from] FormError),
    #[error("the engine has stopped")]
    Stopped,
}
