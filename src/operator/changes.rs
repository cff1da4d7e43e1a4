//! The gateway's change stream, fanned out to the controllers as reconcile triggers. One stream for everything; after every
//! break all objects are looked at once, so nothing that happened in between is missed.

use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

use super::{context::Context, gateway::GatewayError};
use crate::protocol::internal::{Change, ChangeKind};

/// A slow controller that misses more than this many changes looks at everything instead.
const BUFFER: usize = 4096;
const RECONNECT: Duration = Duration::from_secs(2);

/// What a controller is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// This key changed.
    Key(ChangeKind, String),
    /// Changes may have been missed.
    All,
}

/// Where controllers subscribe.
#[derive(Clone)]
pub struct Changes {
    sender: broadcast::Sender<Trigger>,
}

impl Default for Changes {
    fn default() -> Self {
        Changes { sender: broadcast::channel(BUFFER).0 }
    }
}

impl Changes {
    /// Keys of one kind; `None` means everything of that kind.
    pub fn subscribe(&self, kind: ChangeKind) -> impl Stream<Item = Option<String>> + Send + 'static {
        BroadcastStream::new(self.sender.subscribe()).filter_map(move |trigger| {
            std::future::ready(match trigger {
                Ok(Trigger::Key(of, key)) if of == kind => Some(Some(key)),
                Ok(Trigger::Key(..)) => None,
                Ok(Trigger::All) | Err(BroadcastStreamRecvError::Lagged(_)) => Some(None),
            })
        })
    }

    /// Follows the gateway until the process ends.
    pub async fn follow(&self, context: &Context) {
        loop {
            if let Err(error) = self.follow_once(context).await {
                tracing::info!(%error, "the gateway's change stream is closed");
            }
            let up = &context.metrics.gateway_up;
            let was_up = up.get() == 1;
            up.set(0);
            if was_up {
                // Conditions must say that nothing is known any more.
                self.send(Trigger::All);
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    async fn follow_once(&self, context: &Context) -> Result<(), GatewayError> {
        let revision = context.gateway.info().await?.revision;
        let mut stream = std::pin::pin!(context.gateway.changes(revision).await?);
        // It may be another gateway than before, or the same one with an older ledger.
        context.sent.clear();
        context.metrics.gateway_up.set(1);
        self.send(Trigger::All);
        while let Some(change) = stream.next().await {
            let Change { kind, key, .. } = change?;
            self.send(Trigger::Key(kind, key));
        }
        Ok(())
    }

    /// Nobody subscribed yet is no error: a controller that starts later lists everything anyway.
    fn send(&self, trigger: Trigger) {
        let _ = self.sender.send(trigger);
    }
}
