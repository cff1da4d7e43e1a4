//! S3 buckets of jobs and models: where in a bucket (`location`, pure), with which credentials (`credentials`), and what can go wrong, in
//! terms of whoever named it. Credentials come from the job's own namespace, a model's from the operator's, or not at all: never the
//! operator's environment, never the machine's metadata service.

mod credentials;
mod error;
mod location;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use object_store::{
    BackoffConfig, GetResult, ObjectStoreExt, PutPayload, RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path,
    signer::Signer,
};

pub use credentials::Grant;
pub use error::BucketError;
pub use location::Location;

use crate::operator::{context::Context, dial::Denied, write::api_beside};

/// A reconcile that waits for a bucket holds up others, so it gives up soon and comes back.
const RETRY_FOR: Duration = Duration::from_secs(20);
const RETRIES: usize = 2;

/// What it takes to open the buckets of one job, or of a model.
pub struct Access {
    secrets: Api<Secret>,
    grant: Grant,
    denied: Denied,
}

impl Access {
    pub fn of(context: &Context, namespace: &str) -> Self {
        Access {
            secrets: api_beside(context, namespace),
            grant: Grant::of(&context.config, namespace),
            denied: context.config.job_denied_networks.clone(),
        }
    }

    /// For what admins name themselves: no address is denied to them.
    pub fn of_admins(context: &Context) -> Self {
        Access { denied: Denied::default(), ..Access::of(context, &context.config.namespace) }
    }

    pub fn denied(&self) -> &Denied {
        &self.denied
    }

    /// Reads the credentials. The bucket itself is not asked anything yet.
    pub async fn open(&self, location: &Location) -> Result<Bucket, BucketError> {
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&location.bucket)
            .with_region(&location.region)
            .with_allow_http(true)
            .with_retry(RetryConfig {
                backoff: BackoffConfig::default(),
                max_retries: RETRIES,
                retry_timeout: RETRY_FOR,
            })
            .with_http_connector(self.denied.clone());
        if let Some(endpoint) = &location.endpoint {
            let url = endpoint.parse().map_err(|_| BucketError::address(format!("{endpoint:?} is no URL")))?;
            self.denied.check_url(&url).map_err(|refused| BucketError::address(refused.to_string()))?;
            builder = builder.with_endpoint(endpoint);
        }
        builder = match &location.secret {
            Some(name) => {
                let credentials = credentials::read(&self.secrets, name, &self.grant).await?;
                let builder = builder.with_access_key_id(credentials.id).with_secret_access_key(credentials.secret);
                credentials.token.into_iter().fold(builder, AmazonS3Builder::with_token)
            }
            None => builder.with_skip_signature(true),
        };
        let store = builder.build().map_err(|error| BucketError::of(error, location))?;
        Ok(Bucket { store, location: location.clone() })
    }
}

/// An open bucket, at a location.
#[derive(Debug)]
pub struct Bucket {
    store: AmazonS3,
    location: Location,
}

pub type Chunks = BoxStream<'static, Result<Bytes, BucketError>>;

impl Bucket {
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The bytes of the object at the location itself.
    pub async fn stream(&self) -> Result<Chunks, BucketError> {
        let location = self.location.clone();
        let found = self.store.get(&self.location.key).await.map_err(|error| self.failed(error))?;
        Ok(found.into_stream().map_err(move |error| BucketError::of(error, &location)).boxed())
    }

    /// A URL that gives the object at the location to anybody, for a while. Asks the bucket nothing.
    pub async fn signed_url(&self, valid: Duration) -> Result<String, BucketError> {
        let signed = self.store.signed_url(reqwest::Method::GET, &self.location.key, valid).await;
        signed.map(String::from).map_err(|error| self.failed(error))
    }

    /// Bytes that the object `name` in the folder has; `None` when it is not there, or not to be seen.
    pub async fn size(&self, name: &str) -> Result<Option<u64>, BucketError> {
        self.found(self.store.head(&self.path(name)).await).map(|found| found.map(|meta| meta.size))
    }

    /// A small object in the folder; `None` when it is not there, or not to be seen. More than `max` bytes are an error.
    pub async fn read(&self, name: &str, max: usize) -> Result<Option<Bytes>, BucketError> {
        let Some(found) = self.found::<GetResult>(self.store.get(&self.path(name)).await)? else { return Ok(None) };
        let mut bytes = BytesMut::new();
        let mut chunks = found.into_stream();
        while let Some(chunk) = chunks.try_next().await.map_err(|error| self.failed(error))? {
            if bytes.len() + chunk.len() > max {
                return Err(BucketError::Foreign(format!("{}{name} has more than {max} bytes", self.location.uri)));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes.freeze()))
    }

    /// Writes an object in the folder, whole or not at all.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), BucketError> {
        let payload = PutPayload::from_bytes(bytes);
        self.store.put(&self.path(name), payload).await.map(drop).map_err(|error| self.failed(error))
    }

    fn path(&self, name: &str) -> Path {
        self.location.key.clone().join(name)
    }

    fn failed(&self, error: object_store::Error) -> BucketError {
        BucketError::of(error, &self.location)
    }

    /// Credentials that may only write are answered 403 whatever is there, and so, by Amazon, are those that may not list.
    /// Whether they do is seen when something is written.
    fn found<T>(&self, outcome: object_store::Result<T>) -> Result<Option<T>, BucketError> {
        use object_store::Error::{NotFound, PermissionDenied};
        match outcome {
            Ok(found) => Ok(Some(found)),
            Err(NotFound { .. } | PermissionDenied { .. }) => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }
}
