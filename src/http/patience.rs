//! A stream whose other end must go on reading: bytes that are ready are not kept for ever for a client that does not take them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// Bytes a second that buy more time: a client on a slow line is not one that has stopped.
const LEAST_RATE: u32 = 1024;

/// Writes fail with `TimedOut` when ready bytes have waited for `patience`, and a second for each KiB that was taken meanwhile, but never
/// longer than `patience` from then on. The wait is over when everything is taken.
pub(super) struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Runs while something waits.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Patient { stream, patience, waiting: None }
    }

    fn taken(&mut self, bytes: usize) {
        let Some(waiting) = &mut self.waiting else { return };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let later = waiting.deadline() + Duration::from_secs(1) * bytes / LEAST_RATE;
        waiting.as_mut().reset(later.min(Instant::now() + self.patience));
    }

    /// For a write that cannot go on now.
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        ready!(waiting.as_mut().poll(context));
        let message = format!("the client did not read for {:?}", self.patience);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }

    fn written(&mut self, outcome: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match outcome {
            Poll::Pending => self.wait(context),
            Poll::Ready(Ok(bytes)) => {
                self.taken(bytes);
                Poll::Ready(Ok(bytes))
            }
            failed => failed,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(outcome, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(outcome, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Pending => self.wait(context),
            // hyper flushes when it has nothing left to write.
            outcome => {
                self.waiting = None;
                outcome
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(context) {
            Poll::Pending => self.wait(context),
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Writes 64 KiB while `client` does what it does; how long that took, or when it was given up.
    async fn write_to(
        client: impl Future<Output = ()> + Send + 'static,
        ours: DuplexStream,
    ) -> (Duration, io::Result<()>) {
        tokio::spawn(client);
        let began = Instant::now();
        let mut patient = Patient::new(ours, PATIENCE);
        let outcome = async {
            patient.write_all(&[7; 64 << 10]).await?;
            patient.flush().await
        };
        let outcome = outcome.await;
        (began.elapsed(), outcome)
    }

    async fn take(mut theirs: DuplexStream, bytes: usize) {
        let mut buffer = vec![0; bytes];
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if theirs.read_exact(&mut buffer).await.is_err() {
                return;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_reading_is_given_up() {
        let (ours, theirs) = duplex(1 << 10);
        let idle = async move {
            std::future::pending::<()>().await;
            drop(theirs);
        };
        let (took, outcome) = write_to(idle, ours).await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(took >= PATIENCE && took < PATIENCE * 2, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_a_few_bytes_now_and_then_is_given_up_too() {
        let (ours, theirs) = duplex(1 << 10);
        let (took, outcome) = write_to(take(theirs, 16), ours).await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(took < PATIENCE * 2, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_on_a_slow_line_gets_everything() {
        let (ours, theirs) = duplex(1 << 10);
        let (took, outcome) = write_to(take(theirs, 1 << 10), ours).await;
        outcome.unwrap();
        assert!(took > PATIENCE * 5, "{took:?}");
    }
}
