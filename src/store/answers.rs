//! What became of a job's requests, as its results tell it.

use prost::Message;
use sqlx::sqlite::SqliteRow;

use super::{
    Ledger, LedgerError,
    columns::{Columns, corrupt},
};
use crate::{
    api::ids::RequestId,
    protocol::{
        internal::{InputLine, Outcome, ResultLine},
        logprobs::{TokenLogprob, shown},
        vector::Vector,
        wire::AnswerLogprobs,
    },
};

/// One line of a job's results.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultRow(pub ResultLine);

impl Ledger {
    /// At most `limit` finished requests of a job after input line `after`, in input order.
    pub async fn results(&self, uid: &str, after: Option<u32>, limit: u32) -> Result<Vec<ResultRow>, LedgerError> {
        let rows = sqlx::query(
            // The request of an embedding says how many vectors there are and how they are to be written.
            "SELECT r.id, r.line, r.custom_id, r.state, r.reason, r.message, a.text, a.finish_reason, a.logprobs, c.prompt_tokens,
                    c.output_tokens, c.address, c.accepted_ms, m.node_name,
                    CASE r.endpoint WHEN '\"/v1/embeddings\"' THEN r.body END AS embedded,
                    CASE r.endpoint WHEN '\"/v1/embeddings\"' THEN a.output END AS vectors
             FROM requests r LEFT JOIN wins w ON w.request = r.id LEFT JOIN receipts c ON c.hash = w.receipt
             LEFT JOIN answers a ON a.receipt = w.receipt LEFT JOIN members m ON m.address = c.address
             WHERE r.job = ? AND r.line > ? AND r.state IN ('Done', 'Failed') ORDER BY r.line LIMIT ?",
        )
        .bind(uid)
        .bind(after.map_or(-1, i64::from))
        .bind(limit)
        .fetch_all(self.readers())
        .await?;
        rows.iter().map(result_row).collect()
    }
}

fn result_row(row: &SqliteRow) -> Result<ResultRow, LedgerError> {
    let done = row.text("state")? == "Done";
    let text: Option<String> = sqlx::Row::try_get(row, "text")?;
    let embedded: Option<String> = sqlx::Row::try_get(row, "embedded")?;
    let outcome = match text {
        Some(_) if done && embedded.is_some() => embedding(row)?,
        Some(text) if done => Outcome::Completed {
            text,
            finish_reason: row.text("finish_reason")?,
            logprobs: logprobs(&row.bytes("logprobs")?)?,
            prompt_tokens: row.count32("prompt_tokens")?,
            output_tokens: row.count32("output_tokens")?,
            node_name: row.text("node_name")?,
            node_address: row.parsed("address")?,
            created: row.count("accepted_ms")? / 1000,
        },
        None if done => return Err(corrupt("answers.text", "a request is done and its answer is gone")),
        _ => Outcome::Failed { reason: row.text("reason")?, message: row.text("message")? },
    };
    Ok(ResultRow(ResultLine {
        index: row.count32("line")?,
        custom_id: row.text("custom_id")?,
        request_id: RequestId(row.fixed("id")?),
        outcome,
    }))
}

/// Whoever asked for log-probabilities has those of at least one token.
fn logprobs(encoded: &[u8]) -> Result<Option<Vec<TokenLogprob>>, LedgerError> {
    let told = AnswerLogprobs::decode(encoded).map_err(|error| corrupt("answers.logprobs", error))?;
    Ok((!told.tokens.is_empty()).then(|| told.tokens.iter().filter_map(shown).collect()))
}

fn embedding(row: &SqliteRow) -> Result<Outcome, LedgerError> {
    let line: InputLine = row.json("embedded")?;
    let bits = row.tokens("vectors")?;
    let dimensions = bits.len() / line.inputs.len().max(1);
    let vectors = bits.chunks(dimensions.max(1)).map(|bits| {
        let vector = Vector::new(bits.iter().map(|bits| f32::from_bits(*bits)).collect());
        vector.ok_or_else(|| corrupt("answers.output", "these bits are no vectors"))
    });
    Ok(Outcome::Embedded {
        vectors: vectors.collect::<Result<_, _>>()?,
        encoding: line.encoding,
        prompt_tokens: row.count32("prompt_tokens")?,
        node_name: row.text("node_name")?,
        node_address: row.parsed("address")?,
        created: row.count("accepted_ms")? / 1000,
    })
}
