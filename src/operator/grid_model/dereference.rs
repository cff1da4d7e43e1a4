//! IO: whether another GridModel names the same file.

use kube::{Api, ResourceExt, api::ListParams};

use crate::{
    api::grid_model::GridModel,
    operator::{context::Context, error::Error, runner::Guarded},
};

pub struct Refs {
    /// Another model has the same digest, so the gateway keeps the file.
    pub shared: bool,
}

pub async fn dereference(model: &GridModel, context: &Context) -> Result<Refs, Error> {
    // Only a model that goes needs to know.
    if model.metadata.deletion_timestamp.is_none() {
        return Ok(Refs { shared: false });
    }
    let models: Api<Guarded<GridModel>> = Api::all(context.client.clone());
    let models = models.list(&ListParams::default()).await?;
    let shared = models.items.iter().filter_map(|other| other.0.as_ref().ok()).any(|other| {
        other.uid() != model.uid()
            && other.metadata.deletion_timestamp.is_none()
            && other.spec.sha256 == model.spec.sha256
    });
    Ok(Refs { shared })
}
