//! A connection with a time limit on sending.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Fails if the other side does not take what is sent. The clock starts when the system takes no more bytes. It stops when
/// everything written has been taken, not at each byte: a side that reads a byte now and then gains no time.
pub(super) struct TimedStream<S> {
    stream: S,
    limit: Duration,
    /// End of the limit, while bytes wait.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> TimedStream<S> {
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        TimedStream { stream, limit, deadline: None }
    }

    /// Starts the clock if it is not running; an error once it has run out.
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let limit = self.limit;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(limit)));
        let expired = deadline.as_mut().poll(context);
        expired.map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Pending => self.wait(context),
            done => done,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_flush(context) {
            Poll::Pending => self.wait(context),
            done => {
                self.deadline = None;
                done
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_shutdown(context) {
            Poll::Pending => self.wait(context),
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(200);

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
    }

    #[test]
    fn a_reader_that_takes_nothing_or_a_byte_at_a_time_ends_the_connection() {
        for reads in [false, true] {
            run(async move {
                let (near, mut far) = duplex(64);
                let mut near = TimedStream::new(near, LIMIT);
                let began = std::time::Instant::now();
                let reading = tokio::spawn(async move {
                    while reads && far.read_u8().await.is_ok() {
                        sleep(LIMIT / 8).await;
                    }
                    std::future::pending::<()>().await;
                });
                let error = near.write_all(&[1; 4096]).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                assert!(began.elapsed() < 3 * LIMIT, "{:?}", began.elapsed());
                reading.abort();
            });
        }
    }

    #[test]
    fn a_reader_that_takes_every_answer_may_stay() {
        run(async {
            let (near, mut far) = duplex(64);
            let mut near = TimedStream::new(near, LIMIT);
            let reading = tokio::spawn(async move {
                for _ in 0..8 {
                    sleep(LIMIT / 2).await;
                    far.read_exact(&mut [0; 200]).await.unwrap();
                }
            });
            for _ in 0..8 {
                near.write_all(&[1; 200]).await.unwrap();
                near.flush().await.unwrap();
            }
            reading.await.unwrap();
        });
    }
}
