//! HTTP: the internal API for the operator, the OpenAI API for clients. Parses, authorises, translates errors; everything
//! else is done by the gateway behind it.

mod auth;
mod changes;
mod error;
mod files;
mod input;
mod internal;
mod openai;
mod openai_embeddings;
mod openai_stream;
mod statement;

pub use crate::openai::Tokens;
pub use internal::router as internal_router;
pub use openai::router as openai_router;
