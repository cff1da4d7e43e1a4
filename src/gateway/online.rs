//! Requests whose client waits: the part of them that lives in memory. Their place in the ledger is like any other's.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;

use crate::{
    api::ids::RequestId,
    protocol::{logprobs::TokenLogprob, vector::Vector},
};

/// Events that wait for a slow client. Beyond that its worker is slowed down.
const WINDOW: usize = 64;

/// What a waiting client is told.
#[derive(Debug, Clone, PartialEq)]
pub enum OnlineEvent {
    /// A worker took it.
    Leased,
    Token {
        text: String,
        /// Where the request asked for it, but of control tokens.
        logprob: Option<TokenLogprob>,
    },
    Finished {
        finish_reason: String,
        prompt_tokens: u32,
        output_tokens: u32,
    },
    /// A vector of an embedding is there. It is not told: half of them are of no use.
    Progress,
    /// All vectors of an embedding.
    Embedded {
        vectors: Vec<Vector>,
        prompt_tokens: u32,
    },
    Failed {
        reason: String,
        message: String,
    },
}

/// What the client has already.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delivered {
    pub ids: Vec<u32>,
    pub text: String,
}

#[derive(Debug)]
struct Entry {
    events: mpsc::Sender<OnlineEvent>,
    delivered: Delivered,
}

/// All requests that a client waits for.
#[derive(Debug)]
pub struct Online {
    limit: usize,
    waiting: Mutex<HashMap<RequestId, Entry>>,
}

impl Online {
    pub(super) fn new(limit: usize) -> Self {
        Online { limit: limit.max(1), waiting: Mutex::default() }
    }

    /// Registers a request; `None` when as many as may be are under way.
    pub(super) fn add(&self, request: RequestId) -> Option<mpsc::Receiver<OnlineEvent>> {
        let mut waiting = self.lock();
        if waiting.len() >= self.limit {
            return None;
        }
        let (events, receiver) = mpsc::channel(WINDOW);
        waiting.insert(request, Entry { events, delivered: Delivered::default() });
        Some(receiver)
    }

    pub(super) fn remove(&self, request: &RequestId) {
        self.lock().remove(request);
    }

    /// What the client has; nothing for requests that nobody waits for.
    pub(super) fn delivered(&self, request: &RequestId) -> Delivered {
        self.lock().get(request).map(|entry| entry.delivered.clone()).unwrap_or_default()
    }

    /// Tells the client; waits while it is behind. `false` when it is gone; requests that nobody waits for are never told.
    pub(super) async fn tell(&self, request: &RequestId, event: OnlineEvent) -> bool {
        let Some(events) = self.lock().get(request).map(|entry| entry.events.clone()) else { return true };
        events.send(event).await.is_ok()
    }

    /// As `tell`, and remembers the token as delivered.
    pub(super) async fn deliver(
        &self,
        request: &RequestId,
        id: u32,
        text: String,
        logprob: Option<TokenLogprob>,
    ) -> bool {
        let events = {
            let mut waiting = self.lock();
            let Some(entry) = waiting.get_mut(request) else { return true };
            entry.delivered.ids.push(id);
            entry.delivered.text.push_str(&text);
            entry.events.clone()
        };
        // A token may end inside a character: then there is nothing to show yet.
        let is_nothing = text.is_empty() && logprob.is_none();
        is_nothing || events.send(OnlineEvent::Token { text, logprob }).await.is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RequestId, Entry>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
