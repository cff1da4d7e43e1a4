//! The input of a job: where its bytes come from (`source`), how they become lines (`lines`), how a line becomes a request
//! or a rejection (`parse`) and what holds for one that says little (`defaults`). A bad line is a record in errors.jsonl; only an unusable input is a failure of the job.

pub mod defaults;
pub mod lines;
pub mod parse;
pub mod source;

/// OpenAI's bounds of a batch file.
pub const MAX_BYTES: u64 = 200 << 20;
pub const MAX_LINES: u32 = 50_000;
/// The longest single line: far above any context that is served.
pub const MAX_LINE: usize = 1 << 20;
