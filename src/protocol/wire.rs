//! Protobuf messages between gateway and worker. Unknown fields are skipped and unknown `oneof` arms decode to `None`, so a
//! new optional field is a compatible change.
//!
//! Byte fields named in comments have fixed lengths; whoever reads them checks. Every frame is length-prefixed (unsigned
//! varint) and no longer than the limit of its protocol (`limits`).

use prost::{Message, Oneof};

/// Largest frame of each protocol, in bytes.
pub mod limits {
    pub const AUTH: usize = 4 << 10;
    pub const ASSIGN: usize = 64 << 10;
    pub const JOB: usize = 16 << 10;
    /// One frame of an infer or audit stream; the first carries the prompt.
    pub const INFER: usize = 1 << 20;
    pub const CHALLENGE: usize = 1 << 20;
    pub const BLOB: usize = 300 << 10;
    /// Payload of one blob chunk.
    pub const BLOB_CHUNK: usize = 256 << 10;
    pub const INFO: usize = 16 << 10;
    pub const ADVERT: usize = 8 << 10;
}

// ---- auth ----------------------------------------------------------------------------------------------------------

#[derive(Clone, PartialEq, Message)]
pub struct AuthRequest {
    #[prost(oneof = "auth_request::Kind", tags = "1, 2")]
    pub kind: Option<auth_request::Kind>,
}

pub mod auth_request {
    use super::*;
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        #[prost(message, tag = "1")]
        Hello(Hello),
        #[prost(message, tag = "2")]
        Proof(Proof),
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// 32 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub nonce: Vec<u8>,
    /// `worker` or `gateway`.
    #[prost(string, tag = "2")]
    pub role: String,
    #[prost(uint32, tag = "3")]
    pub version: u32,
    /// For people: `grid-worker/0.1.0`.
    #[prost(string, tag = "4")]
    pub software: String,
}

/// 65-byte signature over `receipt::Auth`.
#[derive(Clone, PartialEq, Message)]
pub struct Proof {
    #[prost(bytes = "vec", tag = "1")]
    pub signature: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct AuthResponse {
    #[prost(oneof = "auth_response::Kind", tags = "1, 2, 3")]
    pub kind: Option<auth_response::Kind>,
}

pub mod auth_response {
    use super::*;
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        #[prost(message, tag = "1")]
        Challenge(AuthChallenge),
        #[prost(message, tag = "2")]
        Accepted(AuthAccepted),
        #[prost(message, tag = "3")]
        Refused(Refused),
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct AuthChallenge {
    /// 32 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub nonce: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
    #[prost(string, tag = "3")]
    pub role: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct AuthAccepted {}

/// Any refusal: a stable CamelCase reason and a sentence a person can act on.
#[derive(Clone, PartialEq, Message)]
pub struct Refused {
    #[prost(string, tag = "1")]
    pub reason: String,
    #[prost(string, tag = "2")]
    pub message: String,
    /// Milliseconds after which trying again makes sense; 0 means never.
    #[prost(uint64, tag = "3")]
    pub retry_after_ms: u64,
}

// ---- assign --------------------------------------------------------------------------------------------------------

#[derive(Clone, PartialEq, Message)]
pub struct Assign {
    #[prost(message, repeated, tag = "1")]
    pub models: Vec<AssignedModel>,
    /// `Compute`, `Verify`, `Storage`.
    #[prost(string, repeated, tag = "2")]
    pub roles: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct AssignedModel {
    /// sha256 of the file, 32 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub digest: Vec<u8>,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(uint64, tag = "3")]
    pub bytes: u64,
    /// Tokens; 0 = what the file says.
    #[prost(uint32, tag = "4")]
    pub context_length: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct AssignReply {
    /// Absent: taken.
    #[prost(message, optional, tag = "1")]
    pub refused: Option<Refused>,
}

// ---- job -----------------------------------------------------------------------------------------------------------

#[derive(Clone, PartialEq, Message)]
pub struct Offer {
    #[prost(bytes = "vec", tag = "1")]
    pub request_id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub model: Vec<u8>,
    /// Upper bound of the prompt in UTF-8 bytes.
    #[prost(uint32, tag = "4")]
    pub prompt_bytes: u32,
    #[prost(uint32, tag = "5")]
    pub max_tokens: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct OfferReply {
    #[prost(oneof = "offer_reply::Kind", tags = "1, 2")]
    pub kind: Option<offer_reply::Kind>,
}

pub mod offer_reply {
    use super::*;
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        #[prost(message, tag = "1")]
        Accept(Accept),
        #[prost(message, tag = "2")]
        Reject(Refused),
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct Accept {
    /// 16 bytes, chosen by the worker.
    #[prost(bytes = "vec", tag = "1")]
    pub lease_id: Vec<u8>,
    /// The slot is held this long for the stream to open.
    #[prost(uint64, tag = "2")]
    pub hold_ms: u64,
    /// Requests ahead in the worker's queue.
    #[prost(uint32, tag = "3")]
    pub queued: u32,
}

// ---- infer ---------------------------------------------------------------------------------------------------------

/// Gateway to worker on an infer stream: one `Start`, then possibly `Cancel`, at the end `Ack`.
#[derive(Clone, PartialEq, Message)]
pub struct InferCommand {
    #[prost(oneof = "infer_command::Kind", tags = "1, 2, 3")]
    pub kind: Option<infer_command::Kind>,
}

pub mod infer_command {
    use super::*;
    // One `Start` a stream: boxing it would save nothing.
    #[allow(clippy::large_enum_variant)]
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        #[prost(message, tag = "1")]
        Start(Start),
        #[prost(message, tag = "2")]
        Cancel(Cancel),
        #[prost(message, tag = "3")]
        Ack(Ack),
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct Start {
    #[prost(bytes = "vec", tag = "1")]
    pub lease_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub request_id: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pub attempt: u32,
    #[prost(bytes = "vec", tag = "4")]
    pub model: Vec<u8>,
    /// Chat: at least one message. Completion: none, and `prompt` is set. Embedding: neither, and `inputs` are set.
    #[prost(message, repeated, tag = "5")]
    pub messages: Vec<ChatMessage>,
    #[prost(string, tag = "6")]
    pub prompt: String,
    /// Token ids that the client has already: a re-dispatched stream goes on after them.
    #[prost(uint32, repeated, tag = "7")]
    pub prefix: Vec<u32>,
    #[prost(uint32, tag = "8")]
    pub max_tokens: u32,
    #[prost(message, optional, tag = "9")]
    pub sampling: Option<Sampling>,
    #[prost(string, repeated, tag = "10")]
    pub stop: Vec<String>,
    /// Seed inputs, 32 bytes each: nobody who runs the model chooses them.
    #[prost(bytes = "vec", tag = "11")]
    pub client_nonce: Vec<u8>,
    #[prost(bytes = "vec", tag = "12")]
    pub beacon: Vec<u8>,
    /// Embedding: 1 to 256 texts, none of them empty; `max_tokens` is 1 and means nothing.
    #[prost(string, repeated, tag = "13")]
    pub inputs: Vec<String>,
    /// 32 bytes, the same for requests that may share what was computed for the beginning of their prompts; empty: with none.
    #[prost(bytes = "vec", tag = "14")]
    pub prefix_group: Vec<u8>,
    /// Log-probabilities with every token: its own and so many alternatives, 0 to 20. Absent: none.
    #[prost(uint32, optional, tag = "15")]
    pub top_logprobs: Option<u32>,
    /// Chat: the Jinja template that makes the prompt, at most 16 KiB; empty: the model's own. A worker that takes it says that it knows
    /// `chat_template`.
    #[prost(string, tag = "16")]
    pub chat_template: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct ChatMessage {
    #[prost(string, tag = "1")]
    pub role: String,
    #[prost(string, tag = "2")]
    pub content: String,
}

/// What a peer leaves out is zero, and zero is "off" in every field but `top_p`.
#[derive(Clone, PartialEq, Message)]
pub struct Sampling {
    /// 0 = greedy.
    #[prost(float, tag = "1")]
    pub temperature: f32,
    /// 1 = off.
    #[prost(float, tag = "2")]
    pub top_p: f32,
    /// 0 = off.
    #[prost(uint32, tag = "3")]
    pub top_k: u32,
    /// 0 = off.
    #[prost(float, tag = "4")]
    pub min_p: f32,
    /// 0 or 1 = off.
    #[prost(float, tag = "5")]
    pub repetition_penalty: f32,
    #[prost(float, tag = "6")]
    pub presence_penalty: f32,
    #[prost(float, tag = "7")]
    pub frequency_penalty: f32,
    /// At most 1024, in the order of ids.
    #[prost(message, repeated, tag = "8")]
    pub logit_bias: Vec<LogitBias>,
    /// 0 = free text, 1 = a JSON object, 2 = JSON that fits `json_schema`. Any other is refused. A worker that takes it over the grid says
    /// that it knows `response_format`.
    #[prost(uint32, tag = "9")]
    pub form: u32,
    /// A JSON Schema as JSON text, at most 64 KiB.
    #[prost(string, tag = "10")]
    pub json_schema: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct LogitBias {
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// -100 to 100.
    #[prost(float, tag = "2")]
    pub bias: f32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Cancel {}

/// The gateway's signature over `receipt::Acceptance`: the worker's claim, should the gateway lie later.
#[derive(Clone, PartialEq, Message)]
pub struct Ack {
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
}

/// Worker to gateway on an infer stream.
#[derive(Clone, PartialEq, Message)]
pub struct InferEvent {
    #[prost(oneof = "infer_event::Kind", tags = "1, 2, 3, 4, 5")]
    pub kind: Option<infer_event::Kind>,
}

pub mod infer_event {
    use super::*;
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        #[prost(message, tag = "1")]
        Token(Token),
        /// At least one a second while nothing else is sent.
        #[prost(message, tag = "2")]
        Heartbeat(Heartbeat),
        #[prost(message, tag = "3")]
        Finished(Finished),
        #[prost(message, tag = "4")]
        Error(Refused),
        /// Embedding only, in place of tokens.
        #[prost(message, tag = "5")]
        Vector(Vector),
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct Vector {
    /// Which of the inputs; they come in order.
    #[prost(uint32, tag = "1")]
    pub index: u32,
    /// Single precision, little-endian: 4 to 32 768 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub values: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Token {
    /// Position in the answer, the prefix included.
    #[prost(uint32, tag = "1")]
    pub index: u32,
    #[prost(uint32, tag = "2")]
    pub id: u32,
    /// May be empty: a token can end inside a UTF-8 sequence.
    #[prost(string, tag = "3")]
    pub text: String,
    /// Where the request asked for them, with every token.
    #[prost(message, optional, tag = "4")]
    pub logprobs: Option<TokenLogprobs>,
}

/// How likely a token was by the model's own distribution: before temperature, penalties and bias.
#[derive(Clone, PartialEq, Message)]
pub struct TokenLogprobs {
    /// The bytes that the token stands for; none for a control token.
    #[prost(bytes = "vec", tag = "1")]
    pub bytes: Vec<u8>,
    /// Natural logarithm.
    #[prost(float, tag = "2")]
    pub logprob: f32,
    /// The most likely tokens, from high to low.
    #[prost(message, repeated, tag = "3")]
    pub top: Vec<TopLogprob>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TopLogprob {
    #[prost(bytes = "vec", tag = "1")]
    pub bytes: Vec<u8>,
    #[prost(float, tag = "2")]
    pub logprob: f32,
}

/// What was told of all tokens of an answer, in their order, without those of its prefix.
#[derive(Clone, PartialEq, Message)]
pub struct AnswerLogprobs {
    #[prost(message, repeated, tag = "1")]
    pub tokens: Vec<TokenLogprobs>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Heartbeat {
    /// Tokens made so far.
    #[prost(uint32, tag = "1")]
    pub tokens: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Finished {
    /// `stop` or `length`.
    #[prost(string, tag = "1")]
    pub finish_reason: String,
    #[prost(message, optional, tag = "2")]
    pub receipt: Option<Receipt>,
}

/// Wire form of `receipt::Receipt`; every hash 32 bytes.
#[derive(Clone, PartialEq, Message)]
pub struct Receipt {
    #[prost(bytes = "vec", tag = "1")]
    pub request_id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub model: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub prompt_hash: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub output_hash: Vec<u8>,
    #[prost(uint32, tag = "6")]
    pub prompt_tokens: u32,
    #[prost(uint32, tag = "7")]
    pub output_tokens: u32,
    #[prost(bytes = "vec", tag = "8")]
    pub sampler: Vec<u8>,
    #[prost(bytes = "vec", tag = "9")]
    pub seed: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    pub trace_root: Vec<u8>,
    #[prost(uint64, tag = "11")]
    pub started_at_ms: u64,
    #[prost(uint64, tag = "12")]
    pub finished_at_ms: u64,
    #[prost(bytes = "vec", tag = "13")]
    pub signature: Vec<u8>,
}

// ---- audit ---------------------------------------------------------------------------------------------------------

/// Gateway to a Verify node, the only frame in this direction.
#[derive(Clone, PartialEq, Message)]
pub struct AuditRequest {
    /// What the audited worker was asked; `lease_id` is empty.
    #[prost(message, optional, tag = "1")]
    pub start: Option<Start>,
    #[prost(uint32, repeated, tag = "2")]
    pub output: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct AuditEvent {
    #[prost(oneof = "audit_event::Kind", tags = "1, 2, 3")]
    pub kind: Option<audit_event::Kind>,
}

pub mod audit_event {
    use super::*;
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        #[prost(message, tag = "1")]
        Heartbeat(Heartbeat),
        #[prost(message, tag = "2")]
        Replay(Replay),
        #[prost(message, tag = "3")]
        Error(Refused),
    }
}

/// What the replay found. The gateway compares and decides; the verifier does not see the receipt.
#[derive(Clone, PartialEq, Message)]
pub struct Replay {
    #[prost(bytes = "vec", tag = "1")]
    pub prompt_hash: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub prompt_tokens: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub trace_root: Vec<u8>,
    /// Index + 1 of the first output token that the seeded sampler would not have chosen; 0 = none.
    #[prost(uint32, tag = "4")]
    pub first_mismatch: u32,
    #[prost(float, tag = "5")]
    pub max_margin: f32,
    #[prost(float, tag = "6")]
    pub mean_margin: f32,
    /// Kernel profile of the verifier; traces of equal profiles must be equal bit for bit.
    #[prost(string, tag = "7")]
    pub kernel_profile: String,
    #[prost(bytes = "vec", tag = "8")]
    pub sampler: Vec<u8>,
    #[prost(bytes = "vec", tag = "9")]
    pub seed: Vec<u8>,
    /// Where the request asked for log-probabilities: `verify::told::hash` over those that the verifier found, 32 bytes; else empty.
    #[prost(bytes = "vec", tag = "10")]
    pub logprobs_hash: Vec<u8>,
}

// ---- challenge -----------------------------------------------------------------------------------------------------

#[derive(Clone, PartialEq, Message)]
pub struct ChallengeRequest {
    /// 16 bytes, chosen by the gateway.
    #[prost(bytes = "vec", tag = "1")]
    pub challenge_id: Vec<u8>,
    #[prost(oneof = "challenge_request::Kind", tags = "2, 3, 4")]
    pub kind: Option<challenge_request::Kind>,
}

pub mod challenge_request {
    use super::*;
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        #[prost(message, tag = "2")]
        Gemm(GemmChallenge),
        #[prost(message, tag = "3")]
        GemmOpen(GemmOpen),
        #[prost(message, tag = "4")]
        Storage(StorageChallenge),
    }
}

/// Multiply A (m × k, from `seed_a`) by B (k × n, from `seed_b`), entries −7…7; answer with one Merkle root over row
/// tiles per round.
#[derive(Clone, PartialEq, Message)]
pub struct GemmChallenge {
    #[prost(bytes = "vec", tag = "1")]
    pub seed_a: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub seed_b: Vec<u8>,
    #[prost(uint32, tag = "3")]
    pub m: u32,
    #[prost(uint32, tag = "4")]
    pub n: u32,
    #[prost(uint32, tag = "5")]
    pub k: u32,
    #[prost(uint32, tag = "6")]
    pub rounds: u32,
}

/// Indices of the tiles to open, chosen after the commitment.
#[derive(Clone, PartialEq, Message)]
pub struct GemmOpen {
    #[prost(uint32, repeated, tag = "1")]
    pub tiles: Vec<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct StorageChallenge {
    #[prost(bytes = "vec", tag = "1")]
    pub blob: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub nonce: Vec<u8>,
    /// Indices of 4 KiB leaves.
    #[prost(uint64, repeated, tag = "3")]
    pub leaves: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ChallengeReply {
    #[prost(oneof = "challenge_reply::Kind", tags = "1, 2, 3, 4")]
    pub kind: Option<challenge_reply::Kind>,
}

pub mod challenge_reply {
    use super::*;
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        #[prost(message, tag = "1")]
        Commit(GemmCommit),
        #[prost(message, tag = "2")]
        Tiles(GemmTiles),
        #[prost(message, tag = "3")]
        Storage(StorageProof),
        #[prost(message, tag = "4")]
        Refused(Refused),
    }
}

/// One Merkle root per round, 32 bytes each, in order: the columns of A in round r > 0 are permuted by root r − 1, so whoever
/// checks an opened tile needs all of them.
#[derive(Clone, PartialEq, Message)]
pub struct GemmCommit {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub roots: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GemmTiles {
    #[prost(message, repeated, tag = "1")]
    pub tiles: Vec<GemmTile>,
}

#[derive(Clone, PartialEq, Message)]
pub struct GemmTile {
    #[prost(uint32, tag = "1")]
    pub index: u32,
    /// Exact integers.
    #[prost(sint32, repeated, tag = "2")]
    pub values: Vec<i32>,
    /// Sibling hashes from the leaf up, 32 bytes each.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub path: Vec<Vec<u8>>,
}

/// BLAKE3 keyed by the nonce over the leaves in the order asked.
#[derive(Clone, PartialEq, Message)]
pub struct StorageProof {
    #[prost(bytes = "vec", tag = "1")]
    pub tag: Vec<u8>,
}

// ---- blob ----------------------------------------------------------------------------------------------------------

#[derive(Clone, PartialEq, Message)]
pub struct BlobRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub digest: Vec<u8>,
    /// First byte wanted: a broken transfer goes on where it stopped.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct BlobEvent {
    #[prost(oneof = "blob_event::Kind", tags = "1, 2, 3")]
    pub kind: Option<blob_event::Kind>,
}

pub mod blob_event {
    use super::*;
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        /// First: the total size in bytes.
        #[prost(uint64, tag = "1")]
        Total(u64),
        #[prost(bytes, tag = "2")]
        Chunk(Vec<u8>),
        #[prost(message, tag = "3")]
        Refused(Refused),
    }
}

// ---- info and adverts ----------------------------------------------------------------------------------------------

#[derive(Clone, PartialEq, Message)]
pub struct InfoRequest {}

#[derive(Clone, PartialEq, Message)]
pub struct InfoReply {
    #[prost(oneof = "info_reply::Kind", tags = "1, 2")]
    pub kind: Option<info_reply::Kind>,
}

pub mod info_reply {
    use super::*;
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Kind {
        #[prost(message, tag = "1")]
        Info(NodeInfo),
        #[prost(message, tag = "2")]
        Refused(Refused),
    }
}

/// What a worker measured about itself. Sent on request, and signed and gossiped as an advert.
#[derive(Clone, PartialEq, Message)]
pub struct NodeInfo {
    /// Grows with every statement of this peer: unix milliseconds of its start in the upper bits is not needed, only order.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    #[prost(string, tag = "2")]
    pub software: String,
    #[prost(string, tag = "3")]
    pub processor: String,
    #[prost(uint32, tag = "4")]
    pub threads: u32,
    #[prost(uint64, tag = "5")]
    pub memory_bytes: u64,
    #[prost(string, repeated, tag = "6")]
    pub accelerators: Vec<String>,
    #[prost(message, repeated, tag = "7")]
    pub models: Vec<ServedModel>,
    /// Model blobs being fetched or that failed, for people.
    #[prost(message, repeated, tag = "8")]
    pub pending: Vec<PendingModel>,
    #[prost(uint64, tag = "9")]
    pub storage_bytes: u64,
    #[prost(uint32, tag = "10")]
    pub running: u32,
    #[prost(uint32, tag = "11")]
    pub queued: u32,
    #[prost(uint32, tag = "12")]
    pub slots: u32,
    #[prost(bool, tag = "13")]
    pub draining: bool,
    #[prost(string, tag = "14")]
    pub region: String,
    /// Unix milliseconds; an advert expires 30 s after it.
    #[prost(uint64, tag = "15")]
    pub issued_at_ms: u64,
    /// Names of the fields of a request, beyond those of the first version, that it knows (`protocol::fields`).
    #[prost(string, repeated, tag = "16")]
    pub request_fields: Vec<String>,
}

/// A model that passed the worker's self-test.
#[derive(Clone, PartialEq, Message)]
pub struct ServedModel {
    #[prost(bytes = "vec", tag = "1")]
    pub digest: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub context_length: u32,
    /// Milli-tokens per second, measured at start.
    #[prost(uint64, tag = "3")]
    pub prefill_rate_milli: u64,
    #[prost(uint64, tag = "4")]
    pub decode_rate_milli: u64,
    #[prost(string, tag = "5")]
    pub kernel_profile: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct PendingModel {
    #[prost(bytes = "vec", tag = "1")]
    pub digest: Vec<u8>,
    /// `Fetching`, `Loading`, `Measuring` or a failure reason.
    #[prost(string, tag = "2")]
    pub state: String,
    #[prost(string, tag = "3")]
    pub message: String,
    #[prost(uint64, tag = "4")]
    pub fetched_bytes: u64,
}
