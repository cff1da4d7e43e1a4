//! Which path does what. `openapi.json` describes the same paths, and a test holds the two equal.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get, post},
};
use prometheus::TextEncoder;
use serde_json::Value;

use super::{openapi, service::Service, text, vectors, words};
use crate::openai::{OpenAiError, Tokens, check_key};

/// A method, a path, and what answers there.
pub(super) type Route = (&'static str, &'static str, MethodRouter<Arc<Service>>);

/// Routes that need a key where the server has keys.
pub(super) fn keyed() -> Vec<Route> {
    vec![
        ("post", "/v1/chat/completions", post(text::chat)),
        ("post", "/v1/completions", post(text::complete)),
        ("post", "/v1/embeddings", post(vectors::embed)),
        ("get", "/v1/models", get(words::models)),
        ("get", "/v1/models/{id}", get(words::model)),
        ("post", "/tokenize", post(words::tokenize)),
        ("post", "/detokenize", post(words::detokenize)),
    ]
}

/// Routes for whoever reaches them: probes, scrapers, readers of the description.
pub(super) fn open() -> Vec<Route> {
    vec![
        ("get", "/health", get(async || "ok\n")),
        ("get", "/ready", get(ready)),
        ("get", "/metrics", get(metrics)),
        ("get", "/openapi.json", get(description)),
    ]
}

/// All of them.
pub(super) fn router(service: Arc<Service>, keys: Option<Tokens>) -> Router {
    let add = |router: Router<Arc<Service>>, (_, path, methods): Route| router.route(path, methods);
    let keyed = keyed().into_iter().fold(Router::new(), add).layer(middleware::from_fn_with_state(keys, check_key));
    open()
        .into_iter()
        .fold(keyed, add)
        .fallback(async || OpenAiError::not_found())
        .method_not_allowed_fallback(async || OpenAiError::method_not_allowed())
        .layer(DefaultBodyLimit::max(service.limits.max_body))
        .layer(middleware::from_fn_with_state(service.clone(), count))
        .with_state(service)
}

/// Counts answers by path and status. A path that is none of ours has no label of its own: their number is not ours to bound.
async fn count(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let response = next.run(request).await;
    let status = response.status();
    let labels = [path.as_deref().unwrap_or("other"), status.as_str()];
    service.metrics.http_requests.with_label_values(&labels).inc();
    response
}

async fn ready(State(service): State<Arc<Service>>) -> Response {
    match service.readiness.missing() {
        None => "ok\n".into_response(),
        Some(missing) => (StatusCode::SERVICE_UNAVAILABLE, missing).into_response(),
    }
}

async fn metrics(State(service): State<Arc<Service>>) -> Response {
    service.measure();
    match TextEncoder::new().encode_to_string(&service.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn description(State(service): State<Arc<Service>>) -> Result<Json<Value>, OpenAiError> {
    openapi::document(&service).map(Json).ok_or_else(OpenAiError::internal)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_description_has_the_routes_and_no_others() {
        let ours: BTreeSet<(String, String)> =
            keyed().into_iter().chain(open()).map(|(method, path, _)| (path.into(), method.into())).collect();
        let document: Value = serde_json::from_str(openapi::DOCUMENT).unwrap();
        let described: BTreeSet<(String, String)> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| item.as_object().unwrap().keys().map(move |method| (path.clone(), method.clone())))
            .collect();
        assert_eq!(ours, described);
        let secured = |(_, path, _): &Route| document["paths"][path].to_string().contains("\"401\"");
        assert!(keyed().iter().all(secured) && !open().iter().any(secured));
    }
}
