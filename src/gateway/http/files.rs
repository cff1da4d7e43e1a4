//! Files of jobs whose output is `store`. The operator writes them through the internal API; whoever has a job's read key
//! reads them on the public port, where nobody needs to be known for it. So are model files, for the pods of Local jobs.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use serde::Deserialize;
use tower::ServiceExt;
use tower_http::services::ServeFile;

use super::error::ApiFailure;
use crate::{
    api::ids::{ModelDigest, ParseIdError},
    gateway::{Gateway, GatewayError},
    protocol::internal::{FileKept, MAX_FILE, READ_KEY_HEADER},
    store::ResultFile,
};

type Shared = State<Arc<Gateway>>;
type JobFile = Path<(String, String)>;

/// For the internal API, behind its token.
pub(super) fn route() -> MethodRouter<Arc<Gateway>> {
    get(read).put(keep).layer(DefaultBodyLimit::max(MAX_FILE))
}

/// For the public API.
pub(super) fn public(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/grid/v1/jobs/{uid}/files/{name}", get(read_with_key))
        .route("/grid/v1/models/{digest}/file", get(model_with_key))
        .with_state(gateway)
}

async fn keep(State(gateway): Shared, Path((uid, name)): JobFile, bytes: Bytes) -> Result<Json<FileKept>, ApiFailure> {
    gateway.results.put(&uid, &name, bytes).await.map_err(GatewayError::from)?;
    Ok(Json(FileKept { read_key: gateway.read_key(&uid).to_hex().to_string() }))
}

async fn read(State(gateway): Shared, Path((uid, name)): JobFile) -> Result<Response, ApiFailure> {
    let found = gateway.results.get(&uid, &name).await.map_err(GatewayError::from)?;
    found.map(answer).ok_or_else(|| missing(&name))
}

async fn read_with_key(
    State(gateway): Shared,
    Path((uid, name)): JobFile,
    headers: HeaderMap,
) -> Result<Response, ApiFailure> {
    let given = headers.get(READ_KEY_HEADER).and_then(|key| blake3::Hash::from_hex(key.as_bytes()).ok());
    // `blake3::Hash` compares in constant time.
    if given != Some(gateway.read_key(&uid)) {
        let message = format!("the header {READ_KEY_HEADER} must have the key that the job's status names");
        return Err(ApiFailure::new(StatusCode::UNAUTHORIZED, "Unauthorized", message));
    }
    read(State(gateway), Path((uid, name))).await
}

#[derive(Deserialize)]
struct Key {
    #[serde(default)]
    key: String,
}

/// Whole or from an offset, as `protocol::internal::model_file_path` says.
async fn model_with_key(
    State(gateway): Shared,
    Path(digest): Path<String>,
    Query(Key { key }): Query<Key>,
    request: Request,
) -> Result<Response, ApiFailure> {
    let digest: ModelDigest = digest
        .parse()
        .map_err(|error: ParseIdError| ApiFailure::invalid("InvalidModel", format!("the model's sha256: {error}")))?;
    if blake3::Hash::from_hex(key.as_bytes()).ok() != Some(gateway.model_key(&digest)) {
        let message = "the parameter `key` must be the key of this model";
        return Err(ApiFailure::new(StatusCode::UNAUTHORIZED, "Unauthorized", message));
    }
    if gateway.blobs.size(&digest).await.is_none() {
        let message = "the gateway does not have that model yet";
        return Err(ApiFailure::new(StatusCode::NOT_FOUND, "BlobNotHere", message));
    }
    let served = ServeFile::new(gateway.blobs.path(&digest)).oneshot(request).await;
    served.map(IntoResponse::into_response).map_err(|never| match never {})
}

fn answer(file: ResultFile) -> Response {
    let headers = [
        (header::CONTENT_LENGTH, file.bytes.to_string()),
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        // Prompts and answers are nobody's business but the reader's.
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    (headers, Body::from_stream(file.into_stream())).into_response()
}

fn missing(name: &str) -> ApiFailure {
    ApiFailure::new(StatusCode::NOT_FOUND, "FileUnknown", format!("the job has no file {name:?} in the store"))
}

impl Gateway {
    /// Opens the files of one job and of no other. Derived, so that nothing has to be kept and every restart has the same.
    pub(super) fn read_key(&self, uid: &str) -> blake3::Hash {
        let key =
            blake3::derive_key("xdc-grid 2026-11-27 key that opens the results of a job", &self.key.secret_bytes());
        blake3::keyed_hash(&key, uid.as_bytes())
    }

    /// Opens the file of one model and of no other.
    pub(in crate::gateway) fn model_key(&self, digest: &ModelDigest) -> blake3::Hash {
        let key =
            blake3::derive_key("xdc-grid 2026-11-28 key that opens the file of a model", &self.key.secret_bytes());
        blake3::keyed_hash(&key, &digest.0)
    }
}
