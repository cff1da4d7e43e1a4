//! `/livez`, `/readyz` and `/metrics` (also as `/health` and `/ready`), on a port of their own.

use std::net::SocketAddr;

use axum::{Router, extract::State, http::StatusCode, http::header, response::IntoResponse, routing::get};
use prometheus::{Registry, TextEncoder};

use super::readiness::Readiness;

#[derive(Clone)]
struct Admin {
    registry: Registry,
    readiness: Readiness,
}

/// The routes, to be served alone or merged into another router.
pub fn router(registry: Registry, readiness: Readiness) -> Router {
    Router::new()
        .route("/livez", get(live))
        .route("/health", get(live))
        .route("/readyz", get(ready))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Admin { registry, readiness })
}

/// Serves the routes until the process ends.
pub async fn serve(address: SocketAddr, registry: Registry, readiness: Readiness) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, router(registry, readiness)).await
}

async fn live() -> &'static str {
    "ok\n"
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    match admin.readiness.missing() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing),
    }
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    match TextEncoder::new().encode_to_string(&admin.registry.gather()) {
        Ok(text) => (StatusCode::OK, [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], error.to_string())
        }
    }
}
