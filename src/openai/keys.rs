//! Bearer tokens, compared in constant time by their hashes.

use std::{path::Path, sync::Arc};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::OpenAiError;

/// Tokens that are let in. Only their hashes are kept, and nothing prints them.
#[derive(Clone)]
pub struct Tokens(Arc<Vec<blake3::Hash>>);

impl Tokens {
    /// Reads a file with one token a line; empty lines do not count.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let tokens = Tokens::new(text.lines());
        if tokens.0.is_empty() {
            return Err(format!("{} holds no token", path.display()));
        }
        Ok(tokens)
    }

    pub fn new<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Self {
        let tokens = tokens.into_iter().map(str::trim).filter(|token| !token.is_empty());
        Tokens(Arc::new(tokens.map(|token| blake3::hash(token.as_bytes())).collect()))
    }

    /// Whether a request's `Authorization` header has one of them.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        let header = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some(token) = header.and_then(|value| value.strip_prefix("Bearer ")) else { return false };
        let given = blake3::hash(token.trim().as_bytes());
        // `blake3::Hash` compares in constant time; every token is compared.
        self.0.iter().fold(false, |found, known| (*known == given) | found)
    }
}

/// Middleware of the OpenAI API; without tokens everybody is let in.
pub async fn check_key(State(tokens): State<Option<Tokens>>, request: Request, next: Next) -> Response {
    if tokens.is_none_or(|tokens| tokens.admits(request.headers())) {
        return next.run(request).await;
    }
    OpenAiError::unauthorized().into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn only_a_whole_token_is_let_in() {
        let tokens = Tokens::new(["one", "  two ", ""]);
        assert!(tokens.admits(&headers("Bearer one")));
        assert!(tokens.admits(&headers("Bearer two")));
        for bad in ["Bearer on", "Bearer ", "one", "Basic one", "Bearer one two"] {
            assert!(!tokens.admits(&headers(bad)), "{bad}");
        }
        assert!(!tokens.admits(&HeaderMap::new()));
    }
}
