//! Connections: a bound on how many there are, and on the time until a request's head is there. A slow client costs a place, for a while.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus::IntGauge;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

/// Pause after a failed accept: most failures are a lack of file descriptors, which passes.
const PAUSE: Duration = Duration::from_millis(100);
/// Headers of one request.
const MAX_HEADERS: usize = 64;

/// Bounds of all connections together.
pub(super) struct Bounds {
    pub most: usize,
    pub header_time: Duration,
}

/// Serves until `closing`, then lets each connection end its response, and returns when all are closed.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    open: IntGauge,
    closing: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(bounds.most));
    let connections = TaskTracker::new();
    loop {
        // More wait in the kernel's queue until one closes.
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = closing.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, router.clone(), bounds.header_time, closing.clone());
                let open = Counted::one_more(&open);
                connections.spawn(async move {
                    connection.await;
                    drop((place, open));
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection(stream: TcpStream, router: Router, header_time: Duration, closing: CancellationToken) {
    // Tokens are small and must not wait for each other.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "nodelay");
    }
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(header_time).max_headers(MAX_HEADERS);
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let outcome = tokio::select! {
        outcome = serving.as_mut() => outcome,
        () = closing.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = outcome {
        debug!(%error, "a connection ended");
    }
}

/// Counts as long as it lives.
struct Counted(IntGauge);

impl Counted {
    fn one_more(gauge: &IntGauge) -> Self {
        gauge.inc();
        Counted(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
