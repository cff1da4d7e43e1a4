//! The internal API, as `protocol::internal` describes it.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use serde::Deserialize;

use super::{
    auth, changes,
    error::{ApiFailure, Body},
    files, input, statement,
};
use crate::{
    api::ids::{EpochNumber, EscrowId, GridPeerId, ModelDigest, ParseIdError},
    gateway::Gateway,
    openai::Tokens,
    protocol::internal::{
        GatewayInfo, JobControl, JobPage, JobReport, JobSpec, MAX_PLACEMENT_ITEMS, MAX_PLACEMENT_TEXT, Member,
        ModelOrder, ModelReport, NetworkConfig, NodeReport, OpenPayment, SettledPayment,
    },
};

/// Largest JSON body. The input of a job is a stream with a limit of its own.
const MAX_BODY: usize = 1 << 20;

type Shared = State<Arc<Gateway>>;
type Answer<T> = Result<Json<T>, ApiFailure>;

/// The routes below `/internal/v1`, all behind the token.
pub fn router(gateway: Arc<Gateway>, tokens: Tokens) -> Router {
    let routes = Router::new()
        .route("/info", get(info))
        .route("/network", put(put_network))
        .route("/members/{peer}", put(put_member).delete(delete_member))
        .route("/nodes", get(nodes))
        .route("/nodes/{peer}", get(node))
        .route("/models/{digest}", put(put_model).get(model).delete(delete_model))
        .route("/jobs", get(jobs))
        .route("/jobs/{uid}", post(input::take_whole).put(put_job).patch(patch_job).get(job).delete(delete_job))
        .route("/jobs/{uid}/input", put(input::put).layer(DefaultBodyLimit::disable()))
        .route("/jobs/{uid}/results", get(changes::results))
        .route("/jobs/{uid}/files/{name}", files::route())
        .route("/changes", get(follow))
        .route("/payments", get(payments))
        .route("/payments/{escrow}", put(settle_payment))
        .route("/epochs/{epoch}/close", post(close_epoch))
        .route("/epochs/{epoch}/statement", get(statement::statement))
        .fallback(unknown_path)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(tokens, auth::internal))
        .with_state(gateway);
    Router::new().nest("/internal/v1", routes)
}

async fn unknown_path() -> ApiFailure {
    ApiFailure::new(StatusCode::NOT_FOUND, "NotFound", "the internal API has no such path")
}

async fn info(State(gateway): Shared) -> Answer<GatewayInfo> {
    Ok(Json(gateway.info().await))
}

async fn put_network(State(gateway): Shared, Body(config): Body<NetworkConfig>) -> Answer<GatewayInfo> {
    if config.epoch_seconds == 0 || config.sample_percent > 100 {
        let message = "epochSeconds must be at least 1, and samplePercent at most 100";
        return Err(ApiFailure::invalid("InvalidNetwork", message));
    }
    let weights = &config.namespace_weights;
    let sound = |(name, weight): (&String, &u32)| name.len() <= 63 && (1..=1000).contains(weight);
    if weights.len() > 256 || !weights.iter().all(sound) {
        let message =
            "namespaceWeights has at most 256 namespaces of at most 63 bytes, each with a weight of 1 to 1000";
        return Err(ApiFailure::invalid("InvalidNetwork", message));
    }
    gateway.put_network(config).await?;
    Ok(Json(gateway.info().await))
}

async fn put_member(
    State(gateway): Shared,
    Path(peer): Path<String>,
    Body(member): Body<Member>,
) -> Result<StatusCode, ApiFailure> {
    if member.peer_id != peer_id(&peer)? {
        return Err(ApiFailure::invalid("InvalidMember", "the peer id in the body is not the one in the path"));
    }
    if member.node_name.len() > 253 || member.models.len() > 64 {
        return Err(ApiFailure::invalid(
            "InvalidMember",
            "a member has a name of at most 253 bytes and at most 64 models",
        ));
    }
    let long = |(key, value): (&String, &String)| key.len().max(value.len()) > MAX_PLACEMENT_TEXT;
    if member.labels.len() > MAX_PLACEMENT_ITEMS || member.labels.iter().any(long) {
        let message =
            format!("a member has at most {MAX_PLACEMENT_ITEMS} labels of at most {MAX_PLACEMENT_TEXT} bytes");
        return Err(ApiFailure::invalid("InvalidMember", message));
    }
    gateway.put_member(member).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn delete_member(State(gateway): Shared, Path(peer): Path<String>) -> Result<StatusCode, ApiFailure> {
    gateway.remove_member(&peer_id(&peer)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn nodes(State(gateway): Shared) -> Answer<Vec<NodeReport>> {
    Ok(Json(gateway.node_reports().await?))
}

async fn node(State(gateway): Shared, Path(peer): Path<String>) -> Answer<NodeReport> {
    Ok(Json(gateway.node_report(&peer_id(&peer)?).await?))
}

async fn put_model(
    State(gateway): Shared,
    Path(path): Path<String>,
    Body(order): Body<ModelOrder>,
) -> Answer<ModelReport> {
    if order.source.digest != digest(&path)? {
        return Err(ApiFailure::invalid("InvalidModel", "the digest in the body is not the one in the path"));
    }
    Ok(Json(gateway.put_model(order).await?))
}

async fn model(State(gateway): Shared, Path(path): Path<String>) -> Answer<ModelReport> {
    Ok(Json(gateway.model_report(&digest(&path)?).await?))
}

async fn delete_model(State(gateway): Shared, Path(path): Path<String>) -> Result<StatusCode, ApiFailure> {
    gateway.remove_model(&digest(&path)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
struct AfterJob {
    #[serde(default)]
    after: String,
}

async fn jobs(State(gateway): Shared, Query(AfterJob { after }): Query<AfterJob>) -> Answer<JobPage> {
    Ok(Json(gateway.job_page(&after).await?))
}

async fn put_job(State(gateway): Shared, Path(uid): Path<String>, Body(spec): Body<JobSpec>) -> Answer<JobReport> {
    Ok(Json(gateway.put_job(&uid, &spec).await?))
}

async fn patch_job(
    State(gateway): Shared,
    Path(uid): Path<String>,
    Body(control): Body<JobControl>,
) -> Answer<JobReport> {
    Ok(Json(gateway.control_job(&uid, &control).await?))
}

async fn job(State(gateway): Shared, Path(uid): Path<String>) -> Answer<JobReport> {
    Ok(Json(gateway.job_report(&uid).await?))
}

async fn delete_job(State(gateway): Shared, Path(uid): Path<String>) -> Result<StatusCode, ApiFailure> {
    gateway.delete_job(&uid).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
struct After {
    #[serde(default)]
    after: u64,
}

async fn follow(State(gateway): Shared, Query(After { after }): Query<After>) -> Result<Response, ApiFailure> {
    changes::follow(gateway, after)
}

async fn payments(State(gateway): Shared) -> Answer<Vec<OpenPayment>> {
    Ok(Json(gateway.open_payments().await?))
}

async fn settle_payment(
    State(gateway): Shared,
    Path(escrow): Path<String>,
    Body(settled): Body<SettledPayment>,
) -> Result<StatusCode, ApiFailure> {
    let escrow: EscrowId =
        escrow.parse().map_err(|_| ApiFailure::invalid("InvalidEscrow", "an escrow id is 0x and 64 digits"))?;
    gateway.settle_payment(&escrow, &settled).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The bytes as they are kept: closing again gives the same ones.
async fn close_epoch(State(gateway): Shared, Path(epoch): Path<u64>) -> Result<Response, ApiFailure> {
    let totals = gateway.close_epoch(EpochNumber(epoch)).await?;
    Ok(([(header::CONTENT_TYPE, "application/json")], totals).into_response())
}

fn peer_id(text: &str) -> Result<GridPeerId, ApiFailure> {
    text.parse().map_err(|error: ParseIdError| ApiFailure::invalid("InvalidPeerId", error.to_string()))
}

fn digest(text: &str) -> Result<ModelDigest, ApiFailure> {
    text.parse().map_err(|error: ParseIdError| ApiFailure::invalid("InvalidDigest", error.to_string()))
}
