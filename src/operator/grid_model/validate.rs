//! Pure: a model's spec as the gateway wants it.

use kube::ResourceExt;

use super::dereference::Refs;
use crate::{
    api::{
        conditions::Finding,
        grid_model::{GridModel, ModelFormat},
        reasons::Reason,
    },
    protocol::internal::{self, ModelSource},
};

pub fn validate(model: &GridModel, _: Refs) -> Result<ModelSource, Finding> {
    let spec = &model.spec;
    let invalid = |message: String| Finding::no(Reason::InvalidObject, message);
    Ok(ModelSource {
        digest: spec.sha256.parse().map_err(|error| invalid(format!("spec.sha256: {error}")))?,
        name: model.name_any(),
        url: spec.source.url.clone().ok_or_else(|| invalid("spec.source names no place".into()))?,
        context_length: spec.context_length.map_or(0, i32::unsigned_abs),
        format: format(spec.format),
        cost_per_token: spec.cost_per_token.map_or(0, i64::unsigned_abs),
        replicas: spec.replicas.unsigned_abs(),
    })
}

/// What a model of a format is to the grid.
pub fn format(format: ModelFormat) -> internal::ModelFormat {
    match format {
        ModelFormat::Gguf => internal::ModelFormat::Gguf,
        ModelFormat::Safetensors => internal::ModelFormat::Safetensors,
        ModelFormat::SafetensorsDecoder => internal::ModelFormat::SafetensorsDecoder,
    }
}
