//! HTTP servers that strangers reach: a bound on how many connections there are, on the time until a request's head is there, and on how
//! long a client leaves its answer unread. A slow client costs a place, for a while. Knows nothing of what is served.

mod patience;

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

use patience::Patient;

/// Pause after a failed accept: most failures are a lack of file descriptors, which passes.
const PAUSE: Duration = Duration::from_millis(100);
/// Headers of one request.
const MAX_HEADERS: usize = 64;

/// Bounds of all connections together, and of each.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at once; more wait until one closes.
    pub most: usize,
    /// That a connection gets for a request's head, and may be idle.
    pub header_time: Duration,
    /// That a client may leave its answer unread, and a second for each KiB that it takes meanwhile.
    pub write_time: Duration,
}

/// Serves `router` and counts connections in `open` until `closing`, then lets each connection end its response, and returns when all are closed.
pub async fn serve(listener: TcpListener, router: Router, bounds: Bounds, open: IntGauge, closing: CancellationToken) {
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
                let connection = connection(stream, router.clone(), bounds, closing.clone());
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

async fn connection(stream: TcpStream, router: Router, bounds: Bounds, closing: CancellationToken) {
    // Tokens are small and must not wait for each other.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "nodelay");
    }
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(bounds.header_time).max_headers(MAX_HEADERS);
    let stream = TokioIo::new(Patient::new(stream, bounds.write_time));
    let mut serving = pin!(builder.serve_connection(stream, TowerToHyperService::new(router)));
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

#[cfg(test)]
mod tests {
    use axum::{
        body::{Body, Bytes},
        routing::get,
    };
    use futures::stream;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;

    /// More than any buffer holds.
    async fn endless() -> Body {
        Body::from_stream(stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 1 << 16]))))
    }

    async fn asked(address: std::net::SocketAddr) -> TcpStream {
        let mut connection = TcpStream::connect(address).await.unwrap();
        connection.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        connection
    }

    async fn begins(connection: &mut TcpStream) {
        let mut head = [0; 12];
        timeout(Duration::from_secs(60), connection.read_exact(&mut head)).await.unwrap().unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
    }

    #[tokio::test]
    async fn a_client_that_stops_reading_its_answer_loses_its_place_to_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bounds = Bounds { most: 1, header_time: Duration::from_secs(60), write_time: Duration::from_millis(200) };
        let open = IntGauge::new("open", "Open.").unwrap();
        let closing = CancellationToken::new();
        let serving = serve(listener, Router::new().route("/", get(endless)), bounds, open, closing.clone());
        let serving = tokio::spawn(serving);
        let mut first = asked(address).await;
        begins(&mut first).await;
        let mut second = asked(address).await;
        begins(&mut second).await;
        drop((first, second));
        closing.cancel();
        timeout(Duration::from_secs(60), serving).await.unwrap().unwrap();
    }
}
