//! The gateway's change stream, fanned out to the controllers as reconcile triggers. One stream for everything; after every
//! break all objects are looked at once, so nothing that happened in between is missed.

use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

use super::{gateway::GatewayClient, metrics::Metrics};
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
    pub async fn follow(&self, gateway: &GatewayClient, metrics: &Metrics) {
        loop {
            if let Err(error) = self.follow_once(gateway, metrics).await {
                tracing::info!(%error, "the gateway's change stream is closed");
            }
            let was_up = metrics.gateway_up.get() == 1;
            metrics.gateway_up.set(0);
            if was_up {
                // Conditions must say that nothing is known any more.
                self.send(Trigger::All);
            }
            tokio::time::sleep(RECONNECT).await;
        }
    }

    async fn follow_once(
        &self,
        gateway: &GatewayClient,
        metrics: &Metrics,
    ) -> Result<(), super::gateway::GatewayError> {
        let revision = gateway.info().await?.revision;
        let mut stream = std::pin::pin!(gateway.changes(revision).await?);
        metrics.gateway_up.set(1);
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
