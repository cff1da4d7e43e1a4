//! HTTP: JSON-RPC at `/`, faults and blocks under `/devnet`.

use std::{io, sync::Arc};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, State, rejection::BytesRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tower::limit::GlobalConcurrencyLimitLayer;

use super::{
    node::{Node, Reply},
    rules::{
        faults::{FaultSpec, Reorg},
        jsonrpc::{self, RpcError},
    },
};

/// What go-ethereum's HTTP server reads at most.
const MAX_BODY: usize = 5 * 1024 * 1024;
const MAX_ADMIN_BODY: usize = 64 * 1024;
/// Requests at one time; more wait.
const MAX_REQUESTS: usize = 256;

const GREETING: &str =
    "xdc-devnet: POST JSON-RPC here. GET, POST, DELETE /devnet/faults; POST /devnet/mine, /devnet/reorg.\n";

type Shared = State<Arc<Node>>;

/// Everything that is served.
pub fn router(node: Arc<Node>) -> Router {
    let admin = Router::new()
        .route("/devnet/faults", get(list_faults).post(add_fault).delete(clear_faults))
        .route("/devnet/faults/{id}", delete(remove_fault))
        .route("/devnet/mine", post(mine))
        .route("/devnet/reorg", post(reorganise))
        .layer(DefaultBodyLimit::max(MAX_ADMIN_BODY));
    let rpc = Router::new()
        .route("/", get(|| async { GREETING }).post(call))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(GlobalConcurrencyLimitLayer::new(MAX_REQUESTS));
    // Outside the limit: a fault that fills it must be cleared somehow.
    rpc.merge(admin).with_state(node)
}

async fn call(State(node): Shared, body: Result<Bytes, BytesRejection>) -> Response {
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return unread(&rejection),
    };
    match node.serve(&body).await {
        Reply::Answer(answer) => Json(answer).into_response(),
        Reply::Nothing => StatusCode::OK.into_response(),
        Reply::TooManyRequests => {
            (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")], "too many requests\n").into_response()
        }
        Reply::Lost(silence) => {
            tokio::time::sleep(silence).await;
            broken_off()
        }
    }
}

fn unread(rejection: &BytesRejection) -> Response {
    let status = rejection.status();
    let message = match status {
        StatusCode::PAYLOAD_TOO_LARGE => format!("content length too large (>{MAX_BODY})"),
        _ => rejection.body_text(),
    };
    (status, Json(jsonrpc::answer(Value::Null, Err(RpcError::invalid_request(message))))).into_response()
}

/// An answer whose body never comes: the server closes the connection in the middle of it.
fn broken_off() -> Response {
    let nothing = futures::stream::once(async { Err::<Bytes, _>(io::Error::other("a fault that was asked for")) });
    Response::new(Body::from_stream(nothing))
}

// ------------------------------------------------------------ /devnet

/// A refusal of the admin endpoint.
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

impl From<RpcError> for Refused {
    fn from(error: RpcError) -> Self {
        // -32603: the node behind is the one to blame.
        let status = if error.code == -32603 { StatusCode::BAD_GATEWAY } else { StatusCode::BAD_REQUEST };
        Refused(status, error.message)
    }
}

/// Reads an admin body, whatever content type curl gave it; an empty one is `{}`.
fn read<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Refused> {
    let body = if body.trim_ascii().is_empty() { b"{}".as_slice() } else { body };
    serde_json::from_slice(body).map_err(|error| Refused(StatusCode::BAD_REQUEST, error.to_string()))
}

async fn list_faults(State(node): Shared) -> Json<Value> {
    Json(json!(node.faults().list()))
}

async fn add_fault(State(node): Shared, body: Bytes) -> Result<(StatusCode, Json<Value>), Refused> {
    let fault = node.add_fault(read::<FaultSpec>(&body)?).await?;
    tracing::info!(?fault, "fault");
    Ok((StatusCode::CREATED, Json(json!(fault))))
}

async fn clear_faults(State(node): Shared) -> Json<Value> {
    Json(json!({"cleared": node.faults().clear()}))
}

async fn remove_fault(State(node): Shared, Path(id): Path<u64>) -> Result<Json<Value>, Refused> {
    if node.faults().remove(id) {
        Ok(Json(json!({"cleared": 1})))
    } else {
        Err(Refused(StatusCode::NOT_FOUND, format!("there is no fault {id}")))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mine {
    #[serde(default = "one")]
    blocks: u64,
    /// Chain time between them.
    #[serde(default)]
    seconds: Option<u64>,
}

fn one() -> u64 {
    1
}

async fn mine(State(node): Shared, body: Bytes) -> Result<Json<Value>, Refused> {
    let Mine { blocks, seconds } = read(&body)?;
    Ok(Json(json!({"head": node.mine(blocks, seconds).await?})))
}

async fn reorganise(State(node): Shared, body: Bytes) -> Result<Json<Value>, Refused> {
    Ok(Json(json!({"head": node.reorganise(read::<Reorg>(&body)?).await?})))
}
