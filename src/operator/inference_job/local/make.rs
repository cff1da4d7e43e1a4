//! IO: makes the child and what it needs. Names follow from the job's uid, and the child is made last, so a child that is there has
//! all that it needs.

use std::fmt::Debug;

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
    resource::v1::ResourceClaimTemplate,
};
use kube::{Api, Resource, ResourceExt, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    UID_LABEL, access,
    carried::{Carried, Mail, fits_a_pod},
    identity, job,
    shards::{self, CannotCut, Cutter, Shard},
    validate::LocalJob,
};
use crate::{
    operator::{
        context::Context,
        error::Error,
        inference_job::{
            MANAGER,
            build::Submission,
            input::source::{self, InputError, Reader, Survey},
        },
        write::{self, api_beside},
    },
    protocol::internal::InputLine,
};

/// Why there is no child.
#[derive(Debug, thiserror::Error)]
pub enum Hindrance {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    CannotCut(#[from] CannotCut),
    #[error(transparent)]
    Other(#[from] Error),
    #[error("Job {0} belongs to somebody else; delete it")]
    NameTaken(String),
    #[error("ServiceAccount {} belongs to somebody else; delete it", access::SHARED)]
    AccountTaken,
}

impl From<kube::Error> for Hindrance {
    fn from(error: kube::Error) -> Self {
        Hindrance::Other(error.into())
    }
}

/// The child, made or found. A brief job takes one write; another one a write for each shard, and four.
pub async fn make(
    submission: &Submission,
    local: &LocalJob,
    survey: &Survey,
    reader: &Reader,
    url: &str,
    context: &Context,
) -> Result<Job, Hindrance> {
    let mut cutting = Cutting::begin(submission, local, survey, reader).await?;
    let begun = [cutting.next().await?, cutting.next().await?];
    let (sizes, mail) = match begun {
        [Some(only), None] if fits_a_pod(&only) => {
            if !identity::ensure(&local.namespace, context).await? {
                return Err(Hindrance::AccountTaken);
            }
            (vec![only.requests], Mail::Carried(Carried::new(&local.name, only.input, rand::random())))
        }
        begun => (in_shards(submission, local, begun, cutting, context).await?, Mail::Shards),
    };
    if let Some(template) = job::claim_template(local, &submission.frame) {
        put::<ResourceClaimTemplate>(&api_beside(context, &local.namespace), template).await?;
    }
    created_or_found(job::build(local, &submission.frame, &sizes, &mail, url, &context.config), local, context).await
}

async fn created_or_found(wanted: Job, local: &LocalJob, context: &Context) -> Result<Job, Hindrance> {
    let jobs: Api<Job> = api_beside(context, &local.namespace);
    match jobs.create(&created(), &wanted).await {
        Ok(child) => Ok(child),
        // Made by an earlier try whose answer was lost.
        Err(error) if is_conflict(&error) => {
            let found = jobs.get(&local.name).await?;
            let ours = found.labels().get(UID_LABEL) == wanted.labels().get(UID_LABEL);
            if ours { Ok(found) } else { Err(Hindrance::NameTaken(local.name.clone())) }
        }
        Err(error) => Err(error.into()),
    }
}

/// The input in ConfigMaps, one at a time, with an identity that may touch these only. How many requests each has.
async fn in_shards(
    submission: &Submission,
    local: &LocalJob,
    begun: [Option<Shard>; 2],
    mut rest: Cutting,
    context: &Context,
) -> Result<Vec<u32>, Hindrance> {
    let (frame, namespace) = (&submission.frame, &local.namespace);
    let account = put::<ServiceAccount>(&api_beside(context, namespace), access::account(local, frame)).await?;
    let maps: Api<ConfigMap> = api_beside(context, namespace);
    let (mut sizes, mut begun) = (Vec::new(), begun.into_iter().flatten());
    loop {
        let shard = match begun.next() {
            Some(shard) => shard,
            None => match rest.next().await? {
                Some(shard) => shard,
                None => break,
            },
        };
        put(&maps, shards::config_map(local, frame, &shard, &account)).await?;
        sizes.push(shard.requests);
    }
    let count = u32::try_from(sizes.len()).unwrap_or(u32::MAX);
    // Without `..`: whoever adds an object has to say here what becomes of it.
    let access::Access { role, binding } = access::build(local, frame, count, &account);
    put::<Role>(&api_beside(context, namespace), role).await?;
    put::<RoleBinding>(&api_beside(context, namespace), binding).await?;
    Ok(sizes)
}

/// An input that is being cut; a large one takes no memory of its size.
struct Cutting {
    lines: BoxStream<'static, Result<Bytes, InputError>>,
    /// Absent once the input is over.
    cutter: Option<Cutter>,
}

impl Cutting {
    async fn begin(
        submission: &Submission,
        local: &LocalJob,
        survey: &Survey,
        reader: &Reader,
    ) -> Result<Self, Hindrance> {
        let cutter = Some(Cutter::new(local.shard_size, survey.usable)?);
        let lines = source::replay(&submission.source, &submission.rules, reader, survey.sha256).await?.boxed();
        Ok(Cutting { lines, cutter })
    }

    /// The next shard.
    async fn next(&mut self) -> Result<Option<Shard>, Hindrance> {
        while let Some(cutter) = &mut self.cutter {
            let Some(line) = self.lines.next().await else { break };
            let line = line?;
            let request: InputLine = serde_json::from_slice(&line).map_err(Error::from)?;
            if let Some(shard) = cutter.push(&request, String::from_utf8_lossy(line.trim_ascii_end()).as_ref())? {
                return Ok(Some(shard));
            }
        }
        match self.cutter.take() {
            Some(cutter) => Ok(cutter.finish()?),
            None => Ok(None),
        }
    }
}

fn created() -> PostParams {
    PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() }
}

/// Creates; what is there already is made as wanted. Returns what is there then.
async fn put<K>(api: &Api<K>, wanted: K) -> Result<K, Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    match api.create(&created(), &wanted).await {
        Ok(made) => Ok(made),
        Err(error) if is_conflict(&error) => write::apply(api, MANAGER, wanted).await,
        Err(error) => Err(error.into()),
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
