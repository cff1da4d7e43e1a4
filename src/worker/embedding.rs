//! Embeddings: the vectors of a request as they come, and what its receipt says about all of them.

use std::time::Duration;

use super::{
    engine::{AnswerEngine, engine_failed, not_admitted},
    leases::rejected,
};
use crate::{
    inference::Vectors,
    protocol::{
        receipt::{hash_inputs, hash_vectors},
        vector::Vector,
        wire::Refused,
    },
    verify::embedding,
};

/// What was asked, in tokens.
pub(super) struct Inputs {
    pub hash: [u8; 32],
    pub tokens: u32,
    /// How many vectors there will be.
    pub count: usize,
}

/// What a receipt or a replay says about an embedding.
pub(super) struct Embedded {
    pub prompt_hash: [u8; 32],
    pub prompt_tokens: u32,
    pub output_hash: [u8; 32],
    pub trace_root: [u8; 32],
}

/// Starts computing the vectors of some texts.
pub(super) fn start(engine: &dyn AnswerEngine, texts: &[String]) -> Result<(Inputs, Vectors), Refused> {
    let ids = texts.iter().map(|text| engine.tokenize(text)).collect::<Result<Vec<_>, _>>();
    let ids = ids.map_err(|error| rejected("PromptRefused", error.to_string(), Duration::ZERO))?;
    let tokens = u32::try_from(ids.iter().map(Vec::len).sum::<usize>()).unwrap_or(u32::MAX);
    let inputs = Inputs { hash: hash_inputs(&ids), tokens, count: ids.len() };
    let vectors = engine.embed(ids).map_err(|error| not_admitted(&error))?;
    Ok((inputs, vectors))
}

/// The next vector.
pub(super) async fn next(vectors: &mut Vectors) -> Result<Vector, Refused> {
    match vectors.recv().await {
        Some(Ok(values)) => Vector::new(values).ok_or_else(|| engine_failed("the engine gave no sound vector")),
        Some(Err(message)) => Err(engine_failed(message)),
        None => Err(engine_failed("the engine ended without an answer")),
    }
}

impl Embedded {
    pub(super) fn of(inputs: &Inputs, vectors: &[Vector]) -> Self {
        Embedded {
            prompt_hash: inputs.hash,
            prompt_tokens: inputs.tokens,
            output_hash: hash_vectors(vectors),
            trace_root: embedding::root(vectors),
        }
    }
}

/// Computes all vectors, as an audit does.
pub(super) async fn embed(engine: &dyn AnswerEngine, texts: &[String]) -> Result<Embedded, Refused> {
    let (inputs, mut stream) = start(engine, texts)?;
    let mut vectors = Vec::with_capacity(inputs.count);
    while vectors.len() < inputs.count {
        vectors.push(next(&mut stream).await?);
    }
    Ok(Embedded::of(&inputs, &vectors))
}
