//! HTTP server: accepts connections, and limits their number, their headers and their time.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::Collection;
use super::routes::{PATIENCE, routes};
use super::stream::TimedStream;
use crate::error::{Error, Result};

/// Largest size of a request's header in bytes.
const MOST_HEAD_BYTES: usize = 1 << 14;
/// Largest number of concurrent connections; a browser uses six.
const MOST_CONNECTIONS: usize = 128;
/// Largest number of searches and look-ups that are computed at once. Others wait, and are left out if their client goes.
const MOST_AT_WORK: usize = 8;
/// Limit on sending what a client does not take at once.
const SENDING: Duration = Duration::from_secs(10);

/// A running server.
pub(super) struct Server {
    runtime: Runtime,
    address: SocketAddr,
}

impl Server {
    pub(super) fn start(listener: TcpListener, collection: Arc<Collection>) -> Result<Self> {
        let start = |listener: TcpListener| {
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .max_blocking_threads(MOST_AT_WORK)
                .thread_name("explore")
                .enable_all()
                .build()?;
            let guard = runtime.enter();
            let listener = tokio::net::TcpListener::from_std(listener)?;
            drop(guard);
            runtime.spawn(accept(listener, routes(collection)));
            Ok(Server { runtime, address })
        };
        start(listener).map_err(|error: std::io::Error| {
            Error::argument("--port", format!("cannot listen: {error}"), "choose another port")
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops without waiting for requests in flight.
    pub(super) fn stop(self) {
        self.runtime.shutdown_background();
    }
}

/// Serves connections. `axum::serve` has no limits of this kind.
async fn accept(listener: tokio::net::TcpListener, routes: Router) {
    let free = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => TimedStream::new(stream, SENDING),
            Err(error) => {
                // For example too many open files, which is temporary.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(routes.clone());
        tokio::spawn(async move {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_buf_size(MOST_HEAD_BYTES)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!("connection: {error}");
            }
            drop(permit);
        });
    }
}
