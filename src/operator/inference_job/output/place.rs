//! IO: the two places that take files: a bucket, and the gateway's store.

use bytes::Bytes;

use super::{
    FilePlace, Frame, MANIFEST,
    manifest::{Owner, owner},
};
use crate::{
    api::{conditions::Finding, reasons::Reason},
    operator::{
        bucket::{Access, Bucket, BucketError},
        context::Context,
        error::Error,
        gateway::{GatewayClient, GatewayError},
    },
};

/// Rejected lines of 50 000, and a manifest of every part, are far below this.
const MAX_SMALL: usize = 4 << 20;

/// Where files go.
pub enum Place {
    Bucket(Box<Bucket>),
    Store { gateway: GatewayClient, uid: String },
}

/// Why a place takes or gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error(transparent)]
    Bucket(#[from] BucketError),
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// Somebody else's output lies there.
    #[error("{0}")]
    Conflict(String),
}

impl PlaceError {
    /// As the condition OutputPublished says it; an API server that is away is an error of the reconcile.
    pub fn finding(self) -> Result<Finding, Error> {
        Ok(match self {
            PlaceError::Bucket(BucketError::Kube(error)) => return Err(Error::Kube(error)),
            PlaceError::Bucket(error) => match error.output_reason() {
                Reason::OutputUnreachable => Finding::unknown(Reason::OutputUnreachable, error.to_string()),
                reason => Finding::no(reason, error.to_string()),
            },
            PlaceError::Gateway(GatewayError::Refused { reason, message, .. }) if reason == "StoreFull" => {
                Finding::no(Reason::StoreFull, message)
            }
            PlaceError::Gateway(error) => error.finding(),
            PlaceError::Conflict(message) => Finding::no(Reason::OutputConflict, message),
        })
    }
}

impl Place {
    pub async fn open(place: &FilePlace, frame: &Frame, context: &Context) -> Result<Self, PlaceError> {
        match place {
            FilePlace::Bucket(location) => {
                let bucket = Access::of(context, &frame.namespace).open(location).await?;
                Ok(Place::Bucket(Box::new(bucket)))
            }
            FilePlace::Store => Ok(Place::Store { gateway: context.gateway.clone(), uid: frame.uid.clone() }),
        }
    }

    /// Fails when the manifest of another job lies here.
    pub async fn claim(&self, frame: &Frame) -> Result<(), PlaceError> {
        let Some(found) = self.read(MANIFEST).await? else { return Ok(()) };
        match owner(&found, frame) {
            Owner::Ours => Ok(()),
            Owner::Foreign(whose) => {
                let place = self.shown(MANIFEST);
                let message =
                    format!("{place} belongs to {whose}; move that output away, or name another folder in a new job");
                Err(PlaceError::Conflict(message))
            }
        }
    }

    /// Keeps the lines of the input that were no usable requests, until the output is published and beyond. Also shows, before
    /// anything is computed, that the place can be written.
    pub async fn keep_rejections(&self, frame: &Frame, lines: String) -> Result<(), PlaceError> {
        self.put(&rejections_name(frame), lines.into()).await.map(drop)
    }

    pub async fn kept_rejections(&self, frame: &Frame) -> Result<Option<String>, PlaceError> {
        let found = self.read(&rejections_name(frame)).await?;
        Ok(found.and_then(|bytes| String::from_utf8(bytes.into()).ok()))
    }

    /// Writes a part unless it is there: its name says what is in it.
    pub async fn put_part(&self, name: &str, bytes: Bytes) -> Result<(), PlaceError> {
        let there = match self {
            Place::Bucket(bucket) => bucket.size(name).await?,
            Place::Store { gateway, uid } => gateway.file_size(uid, name).await?,
        };
        if there == Some(bytes.len() as u64) {
            return Ok(());
        }
        self.put(name, bytes).await.map(drop)
    }

    /// Writes a file. The gateway's store answers with the key that opens it to a reader.
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<Option<String>, PlaceError> {
        match self {
            Place::Bucket(bucket) => {
                bucket.put(name, bytes).await?;
                Ok(None)
            }
            Place::Store { gateway, uid } => Ok(Some(gateway.put_file(uid, name, bytes).await?.read_key)),
        }
    }

    /// Where a file is, for people.
    pub fn shown(&self, name: &str) -> String {
        match self {
            Place::Bucket(bucket) => format!("{}{name}", bucket.location().uri),
            Place::Store { uid, .. } => format!("{name} of job {uid} in the gateway's store"),
        }
    }

    async fn read(&self, name: &str) -> Result<Option<Bytes>, PlaceError> {
        Ok(match self {
            Place::Bucket(bucket) => bucket.read(name, MAX_SMALL).await?,
            Place::Store { gateway, uid } => gateway.file(uid, name, MAX_SMALL).await?.map(Bytes::from),
        })
    }
}

fn rejections_name(frame: &Frame) -> String {
    format!("rejected-{}.jsonl", frame.uid)
}
