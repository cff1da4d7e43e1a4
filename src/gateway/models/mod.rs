//! Models: fetched once, kept in the blob store, told to the members that are to serve them.

mod fetching;
mod format;
mod holders;

use std::sync::Arc;

pub use fetching::Fetches;

use super::{Gateway, GatewayError};
use crate::{
    api::ids::ModelDigest,
    protocol::{
        internal::{MAX_CHAT_TEMPLATE, ModelFormat, ModelOrder, ModelReport, ModelSource, ModelState, NodeRole},
        place::ModelPlace,
    },
};

/// Bytes of a model file per unit of cost, when its source names no cost: decoding reads every weight once per token.
const BYTES_PER_COST: u64 = 1_000_000;
/// As above for encoders, whose weights have four bytes where a decoder's have about one: a unit is the work of about a million
/// weights in either (`docs/adr/0008-…`).
const ENCODER_BYTES_PER_COST: u64 = 4 * BYTES_PER_COST;
/// As above for decoders as they are published, whose weights have two bytes; workers round them to one.
const HALF_PRECISION_BYTES_PER_COST: u64 = 2 * BYTES_PER_COST;

impl Gateway {
    /// Keeps where a model comes from and starts fetching it. After a failure, asking again tries again.
    pub async fn put_model(self: &Arc<Self>, order: ModelOrder) -> Result<ModelReport, GatewayError> {
        let ModelOrder { source, access } = order;
        check_source(&source)?;
        if self.blobs.size(&source.digest).await.is_some() {
            let looked = self.contradiction(&source).await;
            let found = looked.map_err(|source| GatewayError::Io { what: "looking at the blob", source })?;
            if let Some(message) = found {
                // Nothing of it is kept: another GridModel may serve this file, rightly named.
                return Err(GatewayError::Invalid { reason: "ModelFormatMismatch", message });
            }
        }
        self.ledger.put_model(&source).await?;
        if let Some(model) = self.ledger.model(&source.digest).await? {
            self.spawn_fetch(model, access);
        }
        self.model_report(&source.digest).await
    }

    /// Forgets a model and its bytes. Unknown is as good as removed.
    pub async fn remove_model(&self, digest: &ModelDigest) -> Result<(), GatewayError> {
        if self.ledger.remove_model(digest).await? {
            self.blobs.remove(digest).await.map_err(|source| GatewayError::Io { what: "removing the blob", source })?;
        }
        Ok(())
    }

    pub async fn model_report(&self, digest: &ModelDigest) -> Result<ModelReport, GatewayError> {
        let model = self.ledger.model(digest).await?.ok_or_else(|| GatewayError::NotFound {
            reason: "ModelUnknown",
            message: format!("model {digest} is not known to this gateway"),
        })?;
        let holds =
            self.members.all().into_iter().filter(|record| {
                record.member.roles.contains(&NodeRole::Storage) && record.member.models.contains(digest)
            });
        let mut copies = 0;
        for record in holds {
            copies += u32::from(self.standings.get(&record.member.peer_id).capability.storage_verified);
        }
        let fetched = if model.state == ModelState::Ready { model.bytes } else { self.fetches.bytes(digest) };
        Ok(ModelReport {
            digest: *digest,
            state: model.state,
            reason: model.reason,
            message: model.message,
            bytes: model.bytes,
            fetched_bytes: fetched,
            serving: u32::try_from(self.servers(digest).len()).unwrap_or(u32::MAX),
            copies,
            read_key: self.model_key(digest).to_hex().to_string(),
        })
    }
}

fn cost_per_token(source: &ModelSource, bytes: u64) -> u64 {
    let bytes_per_cost = match source.format {
        ModelFormat::Gguf => BYTES_PER_COST,
        ModelFormat::Safetensors => ENCODER_BYTES_PER_COST,
        ModelFormat::SafetensorsDecoder => HALF_PRECISION_BYTES_PER_COST,
    };
    if source.cost_per_token > 0 { source.cost_per_token } else { bytes.div_ceil(bytes_per_cost).max(1) }
}

fn check_source(source: &ModelSource) -> Result<(), GatewayError> {
    let invalid = |message: String| GatewayError::Invalid { reason: "InvalidModel", message };
    if source.name.is_empty() || source.name.len() > 253 {
        return Err(invalid("a model has a name of 1 to 253 bytes".into()));
    }
    if source.chat_template.len() > MAX_CHAT_TEMPLATE {
        return Err(invalid(format!("a chat template has at most {MAX_CHAT_TEMPLATE} bytes")));
    }
    let place = source.url.parse::<ModelPlace>();
    place.map(drop).map_err(|error| invalid(format!("the source of model {}: {error}", source.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::internal::Endpoint;

    #[test]
    fn a_unit_of_cost_is_the_work_of_a_million_weights_in_every_format() {
        let source = |format, cost_per_token| ModelSource {
            digest: ModelDigest([1; 32]),
            name: "m".into(),
            url: "https://example.com/m".into(),
            context_length: 0,
            format,
            cost_per_token,
            replicas: 0,
            chat_template: String::new(),
        };
        let cost = |format, bytes| cost_per_token(&source(format, 0), bytes);
        // SmolLM2 in four and a half bits a weight, MiniLM in single precision, SmolLM2 in half precision.
        assert_eq!(cost(ModelFormat::Gguf, 98_362_432), 99);
        assert_eq!(cost(ModelFormat::Safetensors, 90_868_376), 23);
        assert_eq!(cost(ModelFormat::SafetensorsDecoder, 269_060_552), 135);
        assert_eq!(cost(ModelFormat::SafetensorsDecoder, 0), 1);
        assert_eq!(cost_per_token(&source(ModelFormat::SafetensorsDecoder, 7), 269_060_552), 7);
    }

    #[test]
    fn decoders_of_both_formats_write_text_and_encoders_make_vectors() {
        for format in [ModelFormat::Gguf, ModelFormat::SafetensorsDecoder] {
            assert!(format.serves(Endpoint::ChatCompletions) && format.serves(Endpoint::Completions));
            assert!(!format.serves(Endpoint::Embeddings));
        }
        assert!(ModelFormat::Safetensors.serves(Endpoint::Embeddings));
        assert!(!ModelFormat::Safetensors.serves(Endpoint::ChatCompletions));
    }
}
