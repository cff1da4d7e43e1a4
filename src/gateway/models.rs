//! Models: fetched once, kept in the blob store, told to the members that are to serve them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Gateway, GatewayError};
use crate::{
    api::ids::ModelDigest,
    protocol::internal::{ModelFormat, ModelReport, ModelSource, ModelState, NodeRole},
    store::{Fetching, LedgerError, ModelRecord},
};

/// Bytes of a model file per unit of cost, when its source names no cost: decoding reads every weight once per token.
const BYTES_PER_COST: u64 = 1_000_000;
/// As above for encoders, whose weights have four bytes where a decoder's have about one: a unit is the work of about a million
/// weights in either (`docs/adr/0008-…`).
const ENCODER_BYTES_PER_COST: u64 = 4 * BYTES_PER_COST;
/// As above for decoders as they are published, whose weights have two bytes; workers round them to one.
const HALF_PRECISION_BYTES_PER_COST: u64 = 2 * BYTES_PER_COST;

/// Fetches that are under way.
#[derive(Debug, Default)]
pub struct Fetches {
    running: Mutex<HashMap<ModelDigest, Fetching>>,
}

impl Fetches {
    /// `None` when it is being fetched already.
    fn begin(&self, digest: &ModelDigest) -> Option<Fetching> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.contains_key(digest) {
            return None;
        }
        let fetching = Fetching::default();
        running.insert(*digest, fetching.clone());
        Some(fetching)
    }

    fn end(&self, digest: &ModelDigest) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }

    fn bytes(&self, digest: &ModelDigest) -> u64 {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.get(digest).map_or(0, Fetching::bytes)
    }
}

impl Gateway {
    /// Keeps where a model comes from and starts fetching it. After a failure, asking again tries again.
    pub async fn put_model(self: &Arc<Self>, source: &ModelSource) -> Result<ModelReport, GatewayError> {
        check_source(source)?;
        self.ledger.put_model(source).await?;
        if let Some(model) = self.ledger.model(&source.digest).await? {
            self.spawn_fetch(model);
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
        })
    }

    /// Goes on with what a restart interrupted, and fetches again what the blob store lost.
    pub(super) async fn resume_models(self: &Arc<Self>) -> Result<(), LedgerError> {
        for model in self.ledger.models().await? {
            if model.state != ModelState::Failed {
                self.spawn_fetch(model);
            }
        }
        Ok(())
    }

    fn spawn_fetch(self: &Arc<Self>, model: ModelRecord) {
        let digest = model.source.digest;
        let Some(progress) = self.fetches.begin(&digest) else { return };
        let gateway = self.clone();
        self.spawn(async move {
            if let Err(error) = gateway.fetch_until_settled(model, &progress).await {
                gateway.ledger_failed("fetching a model", &error);
            }
            gateway.fetches.end(&digest);
        });
    }

    /// Fetches, and again if the model was given another source in between, and lets go of what was removed in between.
    async fn fetch_until_settled(
        self: &Arc<Self>,
        mut model: ModelRecord,
        progress: &Fetching,
    ) -> Result<(), LedgerError> {
        loop {
            self.fetch(&model, progress).await?;
            match self.ledger.model(&model.source.digest).await? {
                None => {
                    if let Err(error) = self.blobs.remove(&model.source.digest).await {
                        tracing::warn!(digest = %model.source.digest, "cannot remove a blob: {error}");
                    }
                    return Ok(());
                }
                Some(now) if now.source != model.source && now.state != ModelState::Ready => model = now,
                Some(_) => return Ok(()),
            }
        }
    }

    async fn fetch(self: &Arc<Self>, model: &ModelRecord, progress: &Fetching) -> Result<(), LedgerError> {
        let source = &model.source;
        let here = self.blobs.size(&source.digest).await.is_some();
        match self.blobs.fetch(&source.url, &source.digest, &self.settings.fetch, progress).await {
            Ok(bytes) => {
                let cost = cost_per_token(source, bytes);
                if model.state != ModelState::Ready || (model.bytes, model.cost_per_token) != (bytes, cost) {
                    self.ledger.model_ready(&source.digest, bytes, cost).await?;
                }
                if !here {
                    tracing::info!(model = source.name, digest = %source.digest, bytes, "model fetched and verified");
                }
                self.assign_everywhere(&source.digest);
            }
            Err(error) => {
                tracing::warn!(model = source.name, reason = error.reason(), "{error}");
                self.ledger.model_failed(&source.digest, error.reason(), &error.to_string()).await?;
            }
        }
        Ok(())
    }

    fn assign_everywhere(self: &Arc<Self>, digest: &ModelDigest) {
        for record in self.members.all() {
            if record.member.models.contains(digest) && self.peers.is_connected(&record.member.peer_id) {
                self.spawn_assign(record.member.peer_id);
            }
        }
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
    let invalid = |message: String| Err(GatewayError::Invalid { reason: "InvalidModel", message });
    if !source.url.starts_with("http://") && !source.url.starts_with("https://") {
        return invalid(format!("the url of model {} must begin with http:// or https://", source.name));
    }
    if source.url.len() > 2048 || source.name.is_empty() || source.name.len() > 253 {
        return invalid("a model has a name of 1 to 253 bytes and a url of at most 2048".into());
    }
    Ok(())
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
