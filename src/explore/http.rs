//! HTTP server: checks hosts, paths, methods and bodies, and sends the responses.
//!
//! A foreign web page could make its own name point to this machine and thereby read the responses. A request
//! must therefore name the host by an IP address or as `localhost`, which no foreign page can claim. A search
//! must be declared as JSON, which a page of another origin cannot send without a preflight request.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use super::Collection;
use super::api::{self, Refusal};
use super::page::PAGE;
use crate::error::{Error, Result};

/// Largest size of a search in bytes, about ten times the largest query.
const MOST_BODY_BYTES: usize = 1 << 16;
/// Number of bytes of a body that are read. A slightly larger body gets an error response, which closing the
/// connection with unread bytes would prevent.
const MOST_READ_BYTES: usize = 1 << 20;
/// Largest size of a request's header in bytes.
const MOST_HEAD_BYTES: usize = 1 << 14;
/// Largest number of concurrent connections; a browser uses six.
const MOST_CONNECTIONS: usize = 128;
/// Timeout for receiving a header or a body.
const PATIENCE: Duration = Duration::from_secs(20);

/// Content security policy of the page: only resources of this server are allowed.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                                       img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

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
                .thread_name("explore")
                .enable_all()
                .build()?;
            let guard = runtime.enter();
            let listener = tokio::net::TcpListener::from_std(listener)?;
            drop(guard);
            runtime.spawn(accept(listener, collection));
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

async fn accept(listener: tokio::net::TcpListener, collection: Arc<Collection>) {
    let free = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // For example too many open files, which is temporary.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let collection = Arc::clone(&collection);
        tokio::spawn(async move {
            let service = service_fn(|request| respond(Arc::clone(&collection), request));
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

async fn respond(
    collection: Arc<Collection>,
    request: Request<Incoming>,
) -> std::result::Result<Response<Full<Bytes>>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_string());
    let answer = answer(collection, request).await;
    let mut response = match answer {
        Ok(Answer { media_type, content }) => {
            let mut response = Response::new(Full::new(content));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
            response
        }
        Err(refusal) => {
            let body = serde_json::to_vec(&refusal).expect("plain fields");
            let mut response = Response::new(Full::new(Bytes::from(body)));
            *response.status_mut() = refusal.status;
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
            if let Some(allow) = refusal.allow {
                response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            response
        }
    };
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    tracing::debug!("{method} {path}: {}", response.status());
    Ok(response)
}

const JSON: &str = "application/json";

struct Answer {
    media_type: &'static str,
    content: Bytes,
}

impl Answer {
    fn json(value: impl serde::Serialize) -> Self {
        let content = serde_json::to_vec(&value).expect("plain fields");
        Answer { media_type: JSON, content: Bytes::from(content) }
    }
}

async fn answer(
    collection: Arc<Collection>,
    request: Request<Incoming>,
) -> std::result::Result<Answer, Refusal> {
    check_host(&request)?;
    let path = request.uri().path().to_string();
    if path == "/api/search" {
        check_method(&request, "POST", &[Method::POST])?;
        let body = read_json(request).await?;
        return api::search(collection, &body).await.map(Answer::json);
    }
    let file = PAGE.iter().find(|file| file.path == path);
    let id = path.strip_prefix("/api/image/");
    if file.is_none() && id.is_none() && !["/api/vocabulary", "/api/images", "/api/random"].contains(&&*path)
    {
        let sentence = "there is nothing here; the page is at /";
        return Err(Refusal::new(StatusCode::NOT_FOUND, sentence));
    }
    check_method(&request, "GET, HEAD", &[Method::GET, Method::HEAD])?;
    if let Some(file) = file {
        return Ok(Answer {
            media_type: file.media_type,
            content: Bytes::from_static(file.content.as_bytes()),
        });
    }
    let options = request.uri().query().unwrap_or_default().to_string();
    let id = id.map(str::to_string);
    let look_up = move || match (&*path, id) {
        (_, Some(id)) => api::image(&collection, &id, &options).map(Answer::json),
        ("/api/vocabulary", _) => Ok(Answer::json(api::vocabulary(&collection))),
        ("/api/images", _) => api::images(&collection, &options).map(Answer::json),
        _ => Ok(Answer::json(api::random(&collection))),
    };
    api::beside(look_up).await?
}

/// Checks that the request names this machine in a way that no foreign page can.
fn check_host(request: &Request<Incoming>) -> std::result::Result<(), Refusal> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()),
        _ => None,
    };
    let own = |authority: &Authority| {
        let host = authority.host();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
    };
    match named.is_some_and(|host| own(&host)) && request.uri().authority().is_none_or(own) {
        true => Ok(()),
        false => Err(Refusal::new(
            StatusCode::MISDIRECTED_REQUEST,
            "the Host header must name this machine by its address or as localhost; open the address that \
             `scenerank explore` printed",
        )),
    }
}

fn check_method(
    request: &Request<Incoming>,
    allow: &'static str,
    methods: &[Method],
) -> std::result::Result<(), Refusal> {
    if methods.contains(request.method()) {
        return Ok(());
    }
    let sentence = format!("{} is not answered here; use {allow}", request.method());
    let mut refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, sentence);
    refusal.allow = Some(allow);
    Err(refusal)
}

/// Reads the body of a request that is declared as JSON.
async fn read_json(request: Request<Incoming>) -> std::result::Result<Bytes, Refusal> {
    let declared = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = declared.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case(JSON) {
        let sentence = "send the query as JSON, with the header Content-Type: application/json";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, sentence));
    }
    let too_large = || {
        let sentence = format!("a query has at most {MOST_BODY_BYTES} bytes; send a smaller graph");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, sentence)
    };
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if announced.is_some_and(|length| length.parse().is_ok_and(|length: u64| length > MOST_READ_BYTES as u64))
    {
        return Err(too_large());
    }
    let read = Limited::new(request.into_body(), MOST_READ_BYTES).collect();
    match tokio::time::timeout(PATIENCE, read).await {
        Ok(Ok(body)) => {
            Some(body.to_bytes()).filter(|body| body.len() <= MOST_BODY_BYTES).ok_or_else(too_large)
        }
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            Err(Refusal::new(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}")))
        }
        Err(_) => {
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time; send it again"))
        }
    }
}
